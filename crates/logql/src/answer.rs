//! Answers of queries, ordered as in Loki.

use model::{Labels, TimestampNs};

/// The answer of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The answer of a log query: streams ordered by the text form of their labels.
    Streams(Vec<ResultStream>),
    /// The answer of a metric query over a range: series ordered by their label pairs.
    Matrix(Vec<Series>),
    /// The answer of a metric query at an instant: samples ordered by their label pairs, or by value if the query
    /// sorts.
    Vector(Vec<Sample>),
    /// The answer of a literal at an instant.
    Scalar {
        /// Milliseconds since the epoch.
        t_ms: i64,
        /// The literal.
        v: f64,
    },
}

/// Entries with one label set.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultStream {
    /// All labels of the entries: stream, metadata and parsed.
    pub labels: Labels,
    /// The subset of [`ResultStream::labels`] that the pipeline left unchanged from the stored stream. Two result
    /// streams may have the same. Two may also differ only in this, if the pipeline set a label to the value that it
    /// has in another stream.
    pub stream: Labels,
    /// The entries, in query direction. Entries with equal times are ordered by stream hash, stream labels, offset and
    /// row; the order is reversed if the newest come first.
    pub entries: Vec<ResultEntry>,
}

/// One entry. `metadata`, `parsed` and the `stream` of its [`ResultStream`] have no name in common. Together they are
/// [`ResultStream::labels`].
#[derive(Clone, Debug, PartialEq)]
pub struct ResultEntry {
    /// Its time.
    pub ts: TimestampNs,
    /// Its line after the pipeline. It may not be UTF-8.
    pub line: Vec<u8>,
    /// Structured metadata under its visible names (with `_extracted` if a stream label has the name), sorted by name.
    pub metadata: Vec<(String, String)>,
    /// Labels that the pipeline set, including `__error__` and `__error_details__`, sorted by name.
    pub parsed: Vec<(String, String)>,
}

/// One series of a range query.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: Labels,
    /// Milliseconds since the epoch and the value; steps without a value are left out.
    pub points: Vec<(i64, f64)>,
}

/// One sample of an instant query.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: Labels,
    /// Milliseconds since the epoch.
    pub t_ms: i64,
    /// The value.
    pub value: f64,
}

/// Formats a sample's value like Prometheus: the shortest digits that read back as the same number, with an exponent
/// below 1e-6 and from 1e21; `NaN`, `+Inf`, `-Inf`.
pub fn format_value(v: f64) -> String {
    if v.is_nan() {
        return "NaN".to_owned();
    }
    if v.is_infinite() {
        return if v > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let magnitude = v.abs();
    if magnitude == 0.0 || (1e-6..1e21).contains(&magnitude) {
        return format!("{v}");
    }
    // Rust writes `1e21`, Go `1e+21`, with at least two digits.
    let text = format!("{v:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let check = |v: f64, expected: &str| assert_eq!(format_value(v), expected);
        check(0.0, "0");
        check(-0.0, "-0");
        check(1.0, "1");
        check(0.1 + 0.2, "0.30000000000000004");
        check(1e20, "100000000000000000000");
        check(1e21, "1e+21");
        check(0.000001, "0.000001");
        check(0.000_000_12, "1.2e-07");
        check(1.5e-100, "1.5e-100");
        check(f64::NAN, "NaN");
        check(f64::INFINITY, "+Inf");
        check(f64::NEG_INFINITY, "-Inf");
        check(f64::MAX, "1.7976931348623157e+308");
    }
}
