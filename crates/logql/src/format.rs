//! The pretty printer: a part that fits on one line stays on it, and longer parts are split.

use model::Quoted;

use crate::{
    ast::{BinaryExpr, Expr, LogExpr, MetricExpr, RangeAggregation},
    error::ParseError,
    parse::parse,
    print::{Number, Operator, Selector, VectorHead, Window, leg_needs_parentheses},
};

/// Maximum number of characters on a line.
const WIDTH: usize = 100;
const INDENT: &str = "  ";

/// Formats a query for reading. It stays on one line if that has at most 100 characters. Otherwise each level is
/// indented by two blanks and each pipeline stage gets its own line. Comments are lost.
///
/// # Errors
/// If the query does not parse.
pub fn format_query(text: &str) -> Result<String, ParseError> {
    let mut out = String::new();
    match parse(text)? {
        Expr::Log(log) => write_log(&mut out, 0, &log, &[]),
        Expr::Metric(metric) => write_metric(&mut out, 0, &metric),
    }
    Ok(out)
}

fn indent(out: &mut String, level: usize) {
    for _ in 0..level {
        out.push_str(INDENT);
    }
}

/// Writes `text` at this level if it fits on the line. Returns whether it did.
fn fits(out: &mut String, level: usize, text: &str) -> bool {
    let fits = text.chars().count() + level * INDENT.len() <= WIDTH;
    if fits {
        indent(out, level);
        out.push_str(text);
    }
    fits
}

/// Writes a selector, its stages and `further`, one per line.
fn write_log(out: &mut String, level: usize, log: &LogExpr, further: &[String]) {
    let mut line = log.to_string();
    for part in further {
        line.push(' ');
        line.push_str(part);
    }
    if fits(out, level, &line) {
        return;
    }
    indent(out, level);
    out.push_str(&Selector(log).to_string());
    for part in log.stages.iter().map(ToString::to_string).chain(further.iter().cloned()) {
        out.push('\n');
        indent(out, level + 1);
        out.push_str(&part);
    }
}

fn write_metric(out: &mut String, level: usize, metric: &MetricExpr) {
    if fits(out, level, &metric.to_string()) {
        return;
    }
    match metric {
        MetricExpr::Range(range) => write_range(out, level, range),
        MetricExpr::Vector(vector) => {
            indent(out, level);
            out.push_str(&format!("{}(\n", VectorHead(vector)));
            if let Some(parameter) = vector.parameter {
                indent(out, level + 1);
                out.push_str(&format!("{parameter},\n"));
            }
            write_metric(out, level + 1, &vector.inner);
            close(out, level);
        }
        MetricExpr::Binary(binary) => write_operation(out, level, binary),
        MetricExpr::LabelReplace { inner, target, replacement, source, regex } => {
            indent(out, level);
            out.push_str("label_replace(\n");
            write_metric(out, level + 1, inner);
            for text in [target, replacement, source, regex] {
                out.push_str(",\n");
                indent(out, level + 1);
                out.push_str(&Quoted(text).to_string());
            }
            close(out, level);
        }
        MetricExpr::Literal(_) | MetricExpr::VectorFn(_) => {
            indent(out, level);
            out.push_str(&metric.to_string());
        }
    }
}

fn close(out: &mut String, level: usize) {
    out.push('\n');
    indent(out, level);
    out.push(')');
}

/// Writes an operator on its own line between its legs. All operators of a chain have the same indent.
fn write_operation(out: &mut String, level: usize, binary: &BinaryExpr) {
    let mut leg = |leg: &MetricExpr, is_left: bool| {
        let parentheses = leg_needs_parentheses(binary.op, leg, is_left);
        match leg {
            MetricExpr::Binary(inner) if !parentheses && inner.op.binds() == binary.op.binds() => {
                write_operation(out, level, inner);
            }
            leg => write_leg(out, level, leg, parentheses),
        }
        if is_left {
            out.push('\n');
            indent(out, level);
            out.push_str(&format!("{}\n", Operator(binary)));
        }
    };
    leg(&binary.left, true);
    leg(&binary.right, false);
}

fn write_leg(out: &mut String, level: usize, leg: &MetricExpr, parentheses: bool) {
    if !parentheses {
        return write_metric(out, level + 1, leg);
    }
    if fits(out, level + 1, &format!("({leg})")) {
        return;
    }
    indent(out, level + 1);
    out.push_str("(\n");
    write_metric(out, level + 2, leg);
    close(out, level + 1);
}

fn write_range(out: &mut String, level: usize, range: &RangeAggregation) {
    indent(out, level);
    out.push_str(&format!("{}(\n", range.op.as_str()));
    if let Some(parameter) = range.parameter {
        indent(out, level + 1);
        out.push_str(&format!("{},\n", Number(parameter)));
    }
    let mut further = Vec::new();
    if let Some(unwrap) = &range.unwrap {
        let label = match unwrap.conversion.function() {
            Some(function) => format!("{function}({})", unwrap.label),
            None => unwrap.label.clone(),
        };
        further.push(format!("| unwrap {label}"));
        further.extend(unwrap.filters.iter().map(|f| format!("| {f}")));
    }
    // The window goes on the line of the last part before it.
    let window = Window(range).to_string();
    match further.last_mut() {
        Some(last) => {
            last.push(' ');
            last.push_str(&window);
        }
        None => further.push(window),
    }
    write_log(out, level + 1, &range.log, &further);
    close(out, level);
    if let Some(grouping) = &range.grouping {
        out.push_str(&format!(" {grouping}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let check = |text: &str, expected: &str| {
            let found = format_query(text).expect(text);
            assert_eq!(found, expected, "{text}");
            assert_eq!(format_query(&found).as_deref(), Ok(expected), "formatting again: {text}");
            assert_eq!(parse(&found), parse(text), "{text}");
        };
        check("{ a = `b` }|=\"x\"|json # note", "{a=\"b\"} |= \"x\" | json");
        check("sum(rate({a=\"b\"}[5m]))by(c)", "sum by (c) (rate({a=\"b\"}[5m]))");
        check(
            "{namespace=\"production\", app=\"checkout\"} |= \"error\" or \"fatal\" != \"timeout\" | json | status >= 500 and method = \"GET\"",
            "\
{namespace=\"production\", app=\"checkout\"}
  |= \"error\" or \"fatal\"
  != \"timeout\"
  | json
  | status>=500 and method=\"GET\"",
        );
        check(
            "topk(5, sum by (path) (rate({namespace=\"production\", app=\"checkout\"} |= \"error\" | json | status >= 500 [5m] offset 1h)))",
            "\
topk(
  5,
  sum by (path) (
    rate({namespace=\"production\", app=\"checkout\"} |= \"error\" | json | status>=500 [5m] offset 1h)
  )
)",
        );
        check(
            "quantile_over_time(0.99, {namespace=\"production\", app=\"checkout\"} | json | __error__=\"\" | unwrap duration(took) | __error__=\"\" | took > 1s [10m]) by (path, method)",
            "\
quantile_over_time(
  0.99,
  {namespace=\"production\", app=\"checkout\"}
    | json
    | __error__=\"\"
    | unwrap duration(took)
    | __error__=\"\"
    | took>1s [10m]
) by (path, method)",
        );
        check(
            "sum(rate({namespace=\"production\", app=\"checkout\"} |= \"error\" [5m])) / on (a) group_left (b) sum(rate({namespace=\"production\"}[5m])) * (100 + sum(rate({namespace=\"production\"}[5m])))",
            "\x20 sum(rate({namespace=\"production\", app=\"checkout\"} |= \"error\" [5m]))
/ on (a) group_left (b)
  sum(rate({namespace=\"production\"}[5m]))
*
  (100 + sum(rate({namespace=\"production\"}[5m])))",
        );
        check(
            "label_replace(sum by (namespace, application, path) (rate({namespace=\"production\"}[5m])), \"target\", \"$1\", \"source\", \"(.*)\")",
            "\
label_replace(
  sum by (namespace, application, path) (rate({namespace=\"production\"}[5m])),
  \"target\",
  \"$1\",
  \"source\",
  \"(.*)\"
)",
        );
        assert!(format_query("{").is_err());
    }
}
