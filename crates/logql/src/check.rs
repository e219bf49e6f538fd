//! The static checks: rules for queries that the grammar does not enforce.

use std::collections::HashSet;

use model::{Matcher, RegexMode, compile_regex};

use crate::{
    ast::{
        BinaryExpr, Expr, Extraction, Grouping, LabelFormat, LabelFormatSource, LineOp, LineOperand, MetricExpr,
        RangeOp, Stage, VectorOp,
    },
    error::ParseError,
    ip::IpPattern,
    jsonpath::JsonPath,
    linepattern::{CapturePattern, LinePattern},
    template,
};

type Result<T, E = ParseError> = std::result::Result<T, E>;

fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(ParseError::tree(message))
}

/// Rejects a selector in which every matcher matches the empty text. It would also select streams that have none of the
/// named labels.
///
/// # Errors
/// If there is no matcher that excludes the empty text.
pub fn reject_empty_compatible(matchers: &[Matcher]) -> Result<(), ParseError> {
    if matchers.iter().all(Matcher::matches_empty) {
        return Err(ParseError::tree(
            "queries require at least one regexp or equality matcher that does not have an empty-compatible value. \
             For instance, app=~\".*\" does not meet this requirement, but app=~\".+\" will",
        ));
    }
    Ok(())
}

/// Checks that every selector has a matcher that excludes the empty text.
pub(crate) fn selectors(expr: &Expr) -> Result<()> {
    match expr {
        Expr::Log(log) => reject_empty_compatible(&log.matchers),
        Expr::Metric(metric) => metric_selectors(metric),
    }
}

fn metric_selectors(expr: &MetricExpr) -> Result<()> {
    match expr {
        MetricExpr::Range(range) => reject_empty_compatible(&range.log.matchers),
        MetricExpr::Vector(vector) => metric_selectors(&vector.inner),
        MetricExpr::Binary(binary) => {
            let BinaryExpr { left, right, .. } = &**binary;
            metric_selectors(left)?;
            metric_selectors(right)
        }
        MetricExpr::LabelReplace { inner, .. } => metric_selectors(inner),
        MetricExpr::Literal(_) | MetricExpr::VectorFn(_) => Ok(()),
    }
}

pub(crate) fn line_filter(op: LineOp, operands: &[LineOperand]) -> Result<()> {
    for operand in operands {
        match (op, operand) {
            (LineOp::Contains | LineOp::NotContains, LineOperand::Ip(pattern)) => ip(pattern)?,
            (_, LineOperand::Ip(_)) => return fail("ip: invalid operation"),
            (LineOp::Contains | LineOp::NotContains, LineOperand::Text(_)) => {}
            (LineOp::Regex | LineOp::NotRegex, LineOperand::Text(regex)) => {
                compile_regex(regex, RegexMode::Search).map_err(|e| ParseError::tree(e.to_string()))?;
            }
            (LineOp::Pattern | LineOp::NotPattern, LineOperand::Text(pattern)) => {
                LinePattern::parse(pattern).map_err(|e| ParseError::tree(e.to_string()))?;
            }
        }
    }
    Ok(())
}

pub(crate) fn ip(pattern: &str) -> Result<()> {
    IpPattern::parse(pattern).map(|_| ()).map_err(|e| ParseError::tree(e.to_string()))
}

pub(crate) fn json(extractions: &[Extraction]) -> Result<()> {
    for extraction in extractions {
        JsonPath::parse(&extraction.source).map_err(|e| ParseError::tree(e.to_string()))?;
    }
    Ok(())
}

pub(crate) fn pattern(pattern: &str) -> Result<()> {
    let parsed = CapturePattern::parse(pattern);
    parsed.map(|_| ()).map_err(|e| ParseError::tree(format!("invalid pattern parser: {e}")))
}

pub(crate) fn regexp(regex: &str) -> Result<()> {
    let names = group_names(regex);
    // Check names before compiling the regex: the regex compiler rejects some of them with a different message.
    let mut seen = HashSet::new();
    for name in &names {
        if !is_label_name(name) {
            return fail(format!("invalid regexp parser: invalid extracted label name '{name}'"));
        }
        if !seen.insert(name) {
            return fail(format!("invalid regexp parser: duplicate extracted label name '{name}'"));
        }
    }
    compile_regex(regex, RegexMode::Search).map_err(|e| ParseError::tree(e.to_string()))?;
    if names.is_empty() {
        return fail("invalid regexp parser: at least one named capture must be supplied");
    }
    Ok(())
}

fn is_label_name(name: &str) -> bool {
    let begins = |b: u8| b == b'_' || b.is_ascii_alphabetic();
    name.bytes().next().is_some_and(begins) && name.bytes().all(|b| begins(b) || b.is_ascii_digit())
}

/// Returns the names of `(?P<name>…)` and `(?<name>…)` groups in a regex, in order.
fn group_names(regex: &str) -> Vec<&str> {
    let bytes = regex.as_bytes();
    let mut names = Vec::new();
    let (mut at, mut in_class, mut class_start) = (0, false, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if bytes.get(at + 1) == Some(&b'Q') && !in_class => {
                at += regex[at..].find("\\E").map_or(bytes.len() - at, |end| end + 2);
                continue;
            }
            b'\\' => at += 1,
            b'[' if !in_class => {
                in_class = true;
                // A `]` in first position, or directly after `^`, is a member of the class.
                class_start = at + 1 + usize::from(bytes.get(at + 1) == Some(&b'^'));
            }
            b']' if in_class && at > class_start => in_class = false,
            b'(' if !in_class => {
                let rest = &regex[at + 1..];
                let name = rest.strip_prefix("?P<").or_else(|| rest.strip_prefix("?<"));
                names.extend(name.and_then(|n| n.split_once('>')).map(|(name, _)| name));
            }
            _ => {}
        }
        at += 1;
    }
    names
}

pub(crate) fn line_format(text: &str) -> Result<()> {
    template::Template::parse("line", text).map(|_| ()).or_else(|e| {
        let stage = Stage::LineFormat(text.to_owned());
        fail(format!("stage '{stage}' : invalid line template: {e}"))
    })
}

pub(crate) fn label_format(items: &[LabelFormat]) -> Result<()> {
    let mut targets = HashSet::new();
    for item in items {
        let target = &item.target;
        if target == "__error__" {
            return fail("__error__ cannot be formatted");
        }
        if !targets.insert(target) {
            return fail(format!("multiple label name '{target}' not allowed in a single format operation"));
        }
    }
    for item in items {
        let LabelFormatSource::Template(text) = &item.source else { continue };
        if let Err(e) = template::Template::parse("label", text) {
            let stage = Stage::LabelFormat(items.to_vec());
            return fail(format!("stage '{stage}' : invalid template for label '{}': {e}", item.target));
        }
    }
    Ok(())
}

pub(crate) fn label_replace(regex: &str) -> Result<()> {
    let compiled = compile_regex(regex, RegexMode::WholeDotAll);
    compiled.map(|_| ()).or_else(|e| fail(format!("invalid regex in label_replace: {e}")))
}

/// Checks a vector aggregation and parses its parameter.
pub(crate) fn vector_aggregation(
    op: VectorOp,
    parameter: Option<&str>,
    grouping: Option<&Grouping>,
) -> Result<Option<u64>> {
    let name = op.as_str();
    match op {
        VectorOp::Topk | VectorOp::Bottomk | VectorOp::ApproxTopk => {
            let Some(text) = parameter else { return fail(format!("parameter required for operation {name}")) };
            let count: Option<u64> = if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None };
            match count {
                None => fail(format!("invalid parameter {name}({text},")),
                Some(0) => fail(format!("invalid parameter (must be greater than 0) {name}({text}")),
                Some(_) if op == VectorOp::ApproxTopk && grouping.is_some() => {
                    fail("grouping not allowed for approx_topk aggregation")
                }
                Some(_) => Ok(count),
            }
        }
        _ if parameter.is_some() => {
            fail(format!("unsupported parameter for operation {name}({},", parameter.unwrap_or("")))
        }
        VectorOp::Sort | VectorOp::SortDesc if grouping.is_some() => {
            fail("sort and sort_desc doesn't allow grouping by ")
        }
        _ => Ok(None),
    }
}

pub(crate) fn range_aggregation(op: RangeOp, parameter: Option<&str>, unwraps: bool, grouped: bool) -> Result<()> {
    let name = op.as_str();
    match (op, parameter) {
        (RangeOp::QuantileOverTime, None) => return fail(format!("parameter required for operation {name}")),
        (RangeOp::QuantileOverTime, Some(_)) | (_, None) => {}
        (_, Some(text)) => return fail(format!("parameter {text} not supported for operation {name}")),
    }
    let grouping_allowed = matches!(
        op,
        RangeOp::AvgOverTime
            | RangeOp::MinOverTime
            | RangeOp::MaxOverTime
            | RangeOp::StddevOverTime
            | RangeOp::StdvarOverTime
            | RangeOp::QuantileOverTime
            | RangeOp::FirstOverTime
            | RangeOp::LastOverTime
    );
    if grouped && !grouping_allowed {
        return fail(format!("grouping not allowed for {name} aggregation"));
    }
    match op {
        RangeOp::CountOverTime | RangeOp::BytesOverTime | RangeOp::BytesRate if unwraps => {
            fail(format!("invalid aggregation {name} with unwrap"))
        }
        RangeOp::CountOverTime
        | RangeOp::BytesOverTime
        | RangeOp::BytesRate
        | RangeOp::Rate
        | RangeOp::AbsentOverTime => Ok(()),
        _ if !unwraps => fail(format!("invalid aggregation {name} without unwrap")),
        _ => Ok(()),
    }
}
