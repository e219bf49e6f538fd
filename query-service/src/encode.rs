//! Encodes answers as JSON, directly into one buffer, without a tree of values.

use logql::{Answer, Direction, ResultEntry, ResultStream, Sample, Series, format_value};
use model::{Labels, TimestampNs};

use crate::stats::AnswerStats;

/// The flags of `X-Loki-Response-Encoding-Flags`: additions to the answer that the client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EncodingFlags(Vec<String>);

impl EncodingFlags {
    /// Reads the header: flags separated by commas, without blanks.
    pub(crate) fn parse(text: &str) -> Self {
        Self(text.split(',').filter(|flag| !flag.is_empty()).map(str::to_owned).collect())
    }

    /// True if the answer must show the source of each label.
    pub(crate) fn categorize_labels(&self) -> bool {
        self.0.iter().any(|flag| flag == "categorize-labels")
    }

    /// Writes the flags as another member of an object that has members.
    pub(crate) fn write_after(&self, out: &mut Vec<u8>) {
        if !self.0.is_empty() {
            out.extend_from_slice(b",\"encodingFlags\":");
            list(out, &self.0, |out, flag| string(out, flag));
        }
    }
}

/// Everything in the answer to a query.
pub(crate) struct QueryAnswer<'a> {
    /// The result.
    pub(crate) answer: &'a Answer,
    /// The order of entries.
    pub(crate) direction: Direction,
    /// How the answer shows labels.
    pub(crate) flags: &'a EncodingFlags,
    /// Texts for a person.
    pub(crate) warnings: &'a [String],
    /// What it cost.
    pub(crate) stats: AnswerStats,
}

impl QueryAnswer<'_> {
    /// The whole body, with its final newline.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(estimate(self.answer));
        out.extend_from_slice(b"{\"status\":\"success\",");
        warnings(&mut out, self.warnings);
        out.extend_from_slice(b"\"data\":{\"resultType\":");
        string(&mut out, result_type(self.answer));
        if matches!(self.answer, Answer::Streams(_)) {
            self.flags.write_after(&mut out);
        }
        out.extend_from_slice(b",\"result\":");
        self.result(&mut out);
        out.extend_from_slice(b",\"stats\":");
        out.extend_from_slice(self.stats.to_json().to_string().as_bytes());
        out.extend_from_slice(b"}}\n");
        out
    }

    fn result(&self, out: &mut Vec<u8>) {
        match self.answer {
            Answer::Streams(found) if self.flags.categorize_labels() => {
                list(out, &categorised(found, self.direction), categorised_stream);
            }
            Answer::Streams(found) => list(out, found, plain_stream),
            Answer::Matrix(found) => list(out, found, series),
            Answer::Vector(found) => list(out, found, sample),
            // The time of a scalar is in milliseconds. This is a defect of Loki that clients rely on.
            Answer::Scalar { t_ms, v } => {
                out.push(b'[');
                integer(out, *t_ms);
                out.push(b',');
                string(out, &format_value(*v));
                out.push(b']');
            }
        }
    }
}

/// Number of entries or samples in an answer.
pub(crate) fn count(answer: &Answer) -> u64 {
    match answer {
        Answer::Streams(found) => found.iter().map(|s| s.entries.len() as u64).sum(),
        Answer::Matrix(found) => found.iter().map(|s| s.points.len() as u64).sum(),
        Answer::Vector(found) => found.len() as u64,
        Answer::Scalar { .. } => 1,
    }
}

fn result_type(answer: &Answer) -> &'static str {
    match answer {
        Answer::Streams(_) => "streams",
        Answer::Matrix(_) => "matrix",
        Answer::Vector(_) => "vector",
        Answer::Scalar { .. } => "scalar",
    }
}

/// A size that is a little more than most answers need, so that the buffer rarely grows.
fn estimate(answer: &Answer) -> usize {
    let of_entries =
        |s: &ResultStream| s.entries.iter().map(|e| e.line.len() + e.line.len() / 8 + 40).sum::<usize>() + 256;
    let body = match answer {
        Answer::Streams(found) => found.iter().map(of_entries).sum(),
        Answer::Matrix(found) => found.iter().map(|s| s.points.len() * 24 + 128).sum(),
        Answer::Vector(found) => found.len() * 128,
        Answer::Scalar { .. } => 32,
    };
    body + 4096
}

/// One object of a categorised answer: all entries of one set of stream labels, in query direction.
pub(crate) struct CategorisedStream<'a> {
    labels: &'a Labels,
    entries: Vec<&'a ResultEntry>,
}

/// Merges the entries of equal stream labels, whatever their other labels are.
fn categorised(found: &[ResultStream], direction: Direction) -> Vec<CategorisedStream<'_>> {
    let mut groups: Vec<(String, CategorisedStream<'_>)> = Vec::new();
    let mut positions = std::collections::HashMap::new();
    for stream in found {
        let at = *positions.entry(&stream.stream).or_insert_with(|| {
            groups.push((stream.stream.to_string(), CategorisedStream { labels: &stream.stream, entries: Vec::new() }));
            groups.len() - 1
        });
        groups[at].1.entries.extend(&stream.entries);
    }
    // Streams are in the order of their text, which differs from the order of their pairs.
    groups.sort_by(|a, b| a.0.cmp(&b.0));
    let mut groups: Vec<_> = groups.into_iter().map(|(_, group)| group).collect();
    for group in &mut groups {
        match direction {
            Direction::Forward => group.entries.sort_by_key(|e| e.ts),
            Direction::Backward => group.entries.sort_by_key(|e| std::cmp::Reverse(e.ts)),
        }
    }
    groups
}

fn categorised_stream(out: &mut Vec<u8>, stream: &CategorisedStream<'_>) {
    out.extend_from_slice(b"{\"stream\":");
    labels(out, stream.labels);
    out.extend_from_slice(b",\"values\":");
    list(out, &stream.entries, |out, e| entry(out, e.ts, &e.line, Some((&e.metadata, &e.parsed))));
    out.push(b'}');
}

fn plain_stream(out: &mut Vec<u8>, stream: &ResultStream) {
    out.extend_from_slice(b"{\"stream\":");
    labels(out, &stream.labels);
    out.extend_from_slice(b",\"values\":");
    list(out, &stream.entries, |out, e| entry(out, e.ts, &e.line, None));
    out.push(b'}');
}

fn series(out: &mut Vec<u8>, series: &Series) {
    out.extend_from_slice(b"{\"metric\":");
    labels(out, &series.labels);
    out.extend_from_slice(b",\"values\":");
    list(out, &series.points, |out, (t_ms, value)| point(out, *t_ms, *value));
    out.push(b'}');
}

fn sample(out: &mut Vec<u8>, sample: &Sample) {
    out.extend_from_slice(b"{\"metric\":");
    labels(out, &sample.labels);
    out.extend_from_slice(b",\"value\":");
    point(out, sample.t_ms, sample.value);
    out.push(b'}');
}

/// `[seconds,"value"]`, seconds with at most three decimals.
fn point(out: &mut Vec<u8>, t_ms: i64, value: f64) {
    out.push(b'[');
    let (seconds, millis) = (t_ms.unsigned_abs() / 1000, t_ms.unsigned_abs() % 1000);
    if t_ms < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(seconds.to_string().as_bytes());
    if millis > 0 {
        out.extend_from_slice(format!(".{millis:03}").trim_end_matches('0').as_bytes());
    }
    out.push(b',');
    string(out, &format_value(value));
    out.push(b']');
}

/// The structured metadata of an entry, and the labels parsed from its line.
pub(crate) type Categories<'a> = (&'a [(String, String)], &'a [(String, String)]);

/// `["ns","line"]`, with a third element when labels are categorised.
pub(crate) fn entry(out: &mut Vec<u8>, ts: TimestampNs, line: &[u8], categories: Option<Categories<'_>>) {
    out.extend_from_slice(b"[\"");
    integer(out, ts.nanos());
    out.extend_from_slice(b"\",");
    string(out, &String::from_utf8_lossy(line));
    if let Some((metadata, parsed)) = categories {
        out.extend_from_slice(b",{");
        for (name, found) in [("structuredMetadata", metadata), ("parsed", parsed)] {
            if found.is_empty() {
                continue;
            }
            if out.last() != Some(&b'{') {
                out.push(b',');
            }
            string(out, name);
            out.push(b':');
            pairs(out, found.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        }
        out.push(b'}');
    }
    out.push(b']');
}

/// A label set as an object.
pub(crate) fn labels(out: &mut Vec<u8>, set: &Labels) {
    pairs(out, set.iter());
}

fn pairs<'a>(out: &mut Vec<u8>, found: impl Iterator<Item = (&'a str, &'a str)>) {
    out.push(b'{');
    for (i, (name, value)) in found.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        string(out, name);
        out.push(b':');
        string(out, value);
    }
    out.push(b'}');
}

/// An array.
pub(crate) fn list<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// A string with its quotes and escapes.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing to a vector and encoding a string cannot fail");
}

fn integer(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(number.to_string().as_bytes());
}

/// Writes warnings as a field followed by a comma, or nothing if there are none.
fn warnings(out: &mut Vec<u8>, warnings: &[String]) {
    if !warnings.is_empty() {
        out.extend_from_slice(b"\"warnings\":");
        list(out, warnings, |out, warning| string(out, warning));
        out.push(b',');
    }
}

/// `{"status":"success","data":[…]}` with texts, and with warnings if there are any.
pub(crate) fn text_list(items: &[impl AsRef<str>], warnings: &[String]) -> Vec<u8> {
    data_list(items, warnings, |out, text| string(out, text.as_ref()))
}

/// As [`text_list`], with label sets.
pub(crate) fn labels_list(items: &[Labels], warnings: &[String]) -> Vec<u8> {
    data_list(items, warnings, labels)
}

fn data_list<T>(items: &[T], texts: &[String], item: impl Fn(&mut Vec<u8>, &T)) -> Vec<u8> {
    let mut out = b"{\"status\":\"success\",".to_vec();
    warnings(&mut out, texts);
    out.extend_from_slice(b"\"data\":");
    list(&mut out, items, item);
    out.extend_from_slice(b"}\n");
    out
}

#[cfg(test)]
mod tests;
