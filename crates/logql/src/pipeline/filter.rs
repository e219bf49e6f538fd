//! Label filters, `drop` and `keep`.

use model::{MatchOp, Matcher, Quoted};

use super::labels::{ERROR, ERROR_DETAILS, RowError, RowLabels};
use crate::{
    ast::{CompareOp, FilterValue, LabelFilter, NameOrMatcher},
    duration,
    error::QueryError,
    fold,
    ip::IpPattern,
    number, size,
};

/// A compiled label filter.
#[derive(Debug)]
pub(crate) enum LabelTest {
    Matcher(Matcher),
    Ip { name: String, negated: bool, pattern: IpPattern },
    Compare { name: String, op: CompareOp, value: FilterValue },
    And(Box<LabelTest>, Box<LabelTest>),
    Or(Box<LabelTest>, Box<LabelTest>),
}

impl LabelTest {
    pub(crate) fn new(filter: &LabelFilter) -> Result<Self, QueryError> {
        Ok(match filter {
            LabelFilter::Matcher(matcher) => Self::Matcher(matcher.clone()),
            LabelFilter::Ip { name, negated, pattern } => Self::Ip {
                name: name.clone(),
                negated: *negated,
                pattern: IpPattern::parse(pattern).map_err(|e| QueryError::Evaluation(e.to_string()))?,
            },
            LabelFilter::Compare { name, op, value } => Self::Compare { name: name.clone(), op: *op, value: *value },
            LabelFilter::And(a, b) => Self::And(Box::new(Self::new(a)?), Box::new(Self::new(b)?)),
            LabelFilter::Or(a, b) => Self::Or(Box::new(Self::new(a)?), Box::new(Self::new(b)?)),
        })
    }

    /// Calls `found` with the name of each label the filter reads.
    pub(crate) fn names<'s>(&'s self, found: &mut impl FnMut(&'s str)) {
        match self {
            Self::Matcher(matcher) => found(matcher.name()),
            // A value that cannot be compared sets an error unless the row already has one.
            Self::Ip { name, .. } | Self::Compare { name, .. } => found(name),
            Self::And(a, b) | Self::Or(a, b) => {
                a.names(found);
                b.names(found);
            }
        }
    }

    /// Whether the row passes. May set an error on the row.
    pub(crate) fn passes(&self, labels: &mut RowLabels<'_>) -> bool {
        match self {
            Self::Matcher(matcher) => matches(matcher, labels.get(matcher.name()).unwrap_or("")),
            Self::Ip { name, negated, pattern } => {
                labels.has_error()
                    || labels.get(name).is_some_and(|value| pattern.found_in(value.as_bytes()) != *negated)
            }
            Self::Compare { name, .. } if name == ERROR || name == ERROR_DETAILS => false,
            Self::Compare { name, op, value } => {
                let Some(text) = labels.get(name) else { return false };
                match compares(text, *op, *value) {
                    Ok(holds) => holds,
                    Err(details) => {
                        if !labels.has_error() {
                            labels.set_error(RowError::LabelFilter, Some(&details));
                        }
                        true
                    }
                }
            }
            // No short circuit: either side may set an error.
            Self::And(a, b) => a.passes(labels) & b.passes(labels),
            Self::Or(a, b) => a.passes(labels) || b.passes(labels),
        }
    }
}

/// As in Loki, an empty regex matches every value, although the anchored regex would match only the empty text.
fn matches(matcher: &Matcher, value: &str) -> bool {
    match matcher.op() {
        MatchOp::Regex if matcher.value().is_empty() => true,
        MatchOp::NotRegex if matcher.value().is_empty() => false,
        _ => matcher.matches_value(value),
    }
}

fn compares(text: &str, op: CompareOp, value: FilterValue) -> Result<bool, String> {
    Ok(match value {
        FilterValue::Number(number) => fold::compare(op, number::parse_float(text)?, number),
        FilterValue::DurationNs(ns) => fold::compare(op, duration::parse_go(text)?, ns),
        FilterValue::Bytes(bytes) => fold::compare(op, parse_bytes(text)?, bytes),
    })
}

/// Parses a human-readable size: `10KB`, `1.5 MiB`, `1,024`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let plain: String = text.chars().filter(|c| !c.is_whitespace() && *c != ',').collect();
    if let Some(bytes) = size::parse(&plain) {
        return Ok(bytes);
    }
    let end = plain.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(plain.len());
    let (digits, unit) = plain.split_at(end);
    match digits.parse::<f64>() {
        Ok(_) => Err(format!("unhandled size name: {}", unit.to_lowercase())),
        Err(_) => Err(format!("strconv.ParseFloat: parsing {}: invalid syntax", Quoted(digits))),
    }
}

/// The items of `drop` or `keep`.
#[derive(Debug)]
pub(crate) struct NameTest(Vec<NameOrMatcher>);

impl NameTest {
    pub(crate) fn new(items: &[NameOrMatcher]) -> Self {
        Self(items.to_vec())
    }

    /// Calls `found` with the name of each label whose value the stage reads.
    pub(crate) fn names<'s>(&'s self, found: &mut impl FnMut(&'s str)) {
        for item in &self.0 {
            if let NameOrMatcher::Matcher(matcher) = item {
                found(matcher.name());
            }
        }
    }

    /// Removes the listed labels.
    pub(crate) fn drop(&self, labels: &mut RowLabels<'_>) {
        for item in &self.0 {
            match item {
                NameOrMatcher::Name(name) => labels.remove(name),
                NameOrMatcher::Matcher(matcher) => {
                    if labels.get(matcher.name()).is_some_and(|value| matches(matcher, value)) {
                        labels.remove(matcher.name());
                    }
                }
            }
        }
    }

    /// Removes all but the listed labels and the errors.
    pub(crate) fn keep(&self, labels: &mut RowLabels<'_>) {
        let kept = |name: &str, value: &str| {
            name == ERROR
                || name == ERROR_DETAILS
                || self.0.iter().any(|item| match item {
                    NameOrMatcher::Name(kept) => kept == name,
                    NameOrMatcher::Matcher(matcher) => matcher.name() == name && matches(matcher, value),
                })
        };
        let mut gone = Vec::new();
        labels.for_each(|_, name, value| {
            if !kept(name, value) {
                gone.push(name.to_owned());
            }
        });
        gone.iter().for_each(|name| labels.remove(name));
    }
}

#[cfg(test)]
mod tests {
    use model::Labels;

    use super::*;
    use crate::ast::{Expr, Stage};

    /// Returns the labels after a stage, or `-` if it drops the row.
    fn run(pairs: &[(&str, &str)], stage: &str) -> String {
        let Ok(Expr::Log(log)) = crate::parse(&format!("{{a=\"b\"}} | {stage}")) else { panic!("{stage}") };
        let stream = Labels::with_empty_values(pairs.iter().copied());
        let mut labels = RowLabels::new(&stream, &[]);
        labels.begin(0);
        let passes = match &log.stages[0] {
            Stage::LabelFilter(filter) => LabelTest::new(filter).expect("compiles").passes(&mut labels),
            Stage::Drop(items) => {
                NameTest::new(items).drop(&mut labels);
                true
            }
            Stage::Keep(items) => {
                NameTest::new(items).keep(&mut labels);
                true
            }
            other => panic!("{other:?}"),
        };
        if passes { labels.to_labels().to_string() } else { "-".to_owned() }
    }

    #[test]
    fn filters() {
        let passes = |value: &str, filter: &str| {
            assert_eq!(run(&[("v", value)], filter), format!("{{v={}}}", Quoted(value)), "{filter}")
        };
        let drops = |value: &str, filter: &str| assert_eq!(run(&[("v", value)], filter), "-", "{filter}");
        let fails = |value: &str, filter: &str, details: &str| {
            let expected = format!(
                r#"{{__error__="LabelFilterErr", __error_details__={}, v={}}}"#,
                Quoted(details),
                Quoted(value)
            );
            assert_eq!(run(&[("v", value)], filter), expected, "{filter}");
        };
        passes("x", r#"v="x""#);
        drops("x", r#"v!="x""#);
        passes("x", r#"w="""#);
        passes("abc", r#"v=~"a.*""#);
        drops("xabc", r#"v=~"a.*""#);
        passes("abc", r#"v=~"""#);
        drops("abc", r#"v!~"""#);
        passes("5", "v > 4.5");
        passes("5_0", "v == 50");
        drops("5", "v > 5");
        drops("5", "w > 5");
        fails("x", "v > 5", "strconv.ParseFloat: parsing \"x\": invalid syntax");
        passes("1m30s", "v >= 90s");
        drops("1m30s", "v != 90s");
        fails("oops", "v > 1s", "time: invalid duration \"oops\"");
        fails("5", "v > 1s", "time: missing unit in duration \"5\"");
        passes("10kb", "v = 10KB");
        passes("1.5 MiB", "v > 1MiB");
        passes("1,024", "v > 1000B");
        fails("x", "v > 1KB", "strconv.ParseFloat: parsing \"\": invalid syntax");
        passes("from 10.0.0.1,", r#"v = ip("10.0.0.0/8")"#);
        drops("10.0.0.1", r#"v != ip("10.0.0.0/8")"#);
        drops("10.0.0.1", r#"w = ip("10.0.0.0/8")"#);
        passes("none", r#"v != ip("10.0.0.0/8")"#);
        passes("5", r#"v="4" or v > 4 and v < 6"#);
        drops("5", r#"v="4" or v > 4 and v < 5"#);
        passes("x", r#"v="x" or v > 5"#);
        assert_eq!(run(&[("__error__", "e")], "__error__ > 1"), "-");
    }

    #[test]
    fn drop_and_keep() {
        let pairs = &[("a", "1"), ("b", "2"), ("c", "3"), ("__error__", "e")];
        let check = |stage: &str, expected: &str| assert_eq!(run(pairs, stage), expected, "{stage}");
        check("drop a, b=\"x\", c=~\"3|4\"", r#"{__error__="e", b="2"}"#);
        check("keep a, b=\"x\", c=~\"3|4\"", r#"{__error__="e", a="1", c="3"}"#);
        check("drop __error__", r#"{a="1", b="2", c="3"}"#);
    }
}
