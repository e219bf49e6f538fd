//! Numbered lines that can be accounted for one by one: how they are made, pushed, and queried.
//!
//! A line begins with its number in the ledger of its writer. Timestamps include duplicates, disorder, and times years
//! ago.

use std::{collections::BTreeMap, io::Write as _};

use anyhow::Context as _;
use model::{Clock, SystemClock};
use serde_json::Value;

use crate::{
    http::{Client, Headers},
    ledger::{Ledger, StreamNumber},
};

/// A source of numbered lines.
pub(crate) struct Writer {
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) ledger: Ledger,
}

/// Lines of one stream with their timestamps in nanoseconds.
pub(crate) type StreamLines = (StreamNumber, Vec<(i64, String)>);

impl Writer {
    pub(crate) fn new(tenant: usize, writer: usize) -> Self {
        Self { tenant: format!("tenant-{tenant}"), name: format!("w{writer}"), ledger: Ledger::default() }
    }

    /// Returns a selector that matches one stream.
    pub(crate) fn selector(&self, stream: StreamNumber) -> String {
        format!(r#"{{app="verify", writer="{}", stream="{stream}"}}"#, self.name)
    }

    /// Returns a selector that matches all streams of this writer.
    pub(crate) fn selector_of_all(&self) -> String {
        format!(r#"{{app="verify", writer="{}"}}"#, self.name)
    }

    /// Makes a line for each of `streams`, numbered from `first`, with up to `padding_max` letters after the number.
    pub(crate) fn lines(
        random: &mut fastrand::Rng,
        first: usize,
        streams: &[StreamNumber],
        padding_max: usize,
        last_nanos: &mut i64,
    ) -> Vec<StreamLines> {
        let mut lines: Vec<StreamLines> = Vec::new();
        for (i, stream) in streams.iter().enumerate() {
            *last_nanos = next_time(random, *last_nanos);
            let padding: String = (0..random.usize(0..padding_max.max(1))).map(|_| random.alphanumeric()).collect();
            let line = (*last_nanos, format!("{} {padding}", first + i));
            match lines.iter_mut().find(|(s, _)| s == stream) {
                Some((_, lines)) => lines.push(line),
                None => lines.push((*stream, vec![line])),
            }
        }
        lines
    }

    /// Encodes a push of these lines in one of the ways that agents use.
    pub(crate) fn encode(
        &self,
        random: &mut fastrand::Rng,
        lines: &[StreamLines],
    ) -> anyhow::Result<(Headers, Vec<u8>)> {
        let stream = |(stream, lines): &StreamLines| {
            let values: Vec<Value> = lines.iter().map(|(t, line)| serde_json::json!([t.to_string(), line])).collect();
            let labels = serde_json::json!({"app": "verify", "writer": self.name, "stream": stream.to_string()});
            serde_json::json!({"stream": labels, "values": values})
        };
        let streams: Vec<Value> = lines.iter().map(stream).collect();
        let body = serde_json::to_vec(&serde_json::json!({ "streams": streams }))?;
        let mut headers = vec![("Content-Type", "application/json".to_owned())];
        if random.bool() {
            return Ok((headers, body));
        }
        headers.push(("Content-Encoding", "gzip".to_owned()));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&body)?;
        Ok((headers, gzip.finish()?))
    }
}

/// Picks a timestamp: now, the last one again, somewhat earlier, or years ago.
fn next_time(random: &mut fastrand::Rng, last: i64) -> i64 {
    const SECOND: i64 = 1_000_000_000;
    let now = SystemClock.now().nanos();
    match random.u8(..10) {
        0..6 => now,
        6 | 7 => last,
        8 => now - random.i64(0..3600 * SECOND),
        _ => now - random.i64(0..8 * 365 * 86400 * SECOND),
    }
}

/// How lines are queried: from which server, as which tenant, with which headers.
pub(crate) struct Reading<'a> {
    pub(crate) client: &'a Client,
    pub(crate) tenant: &'a str,
    pub(crate) headers: &'a [(&'a str, String)],
}

/// Line numbers by stream, in the order of the answer.
pub(crate) type LinesByStream = BTreeMap<StreamNumber, Vec<usize>>;

/// The answer of a query for lines.
pub(crate) struct Found {
    /// Line numbers, in the order of the answer.
    pub(crate) numbers: Vec<usize>,
    pub(crate) warnings: Vec<String>,
}

impl Reading<'_> {
    /// Queries all lines that a selector matches, at any time.
    pub(crate) fn lines(&self, selector: &str) -> anyhow::Result<Found> {
        let (streams, warnings) = self.streams(selector)?;
        Ok(Found { numbers: streams.into_values().flatten().collect(), warnings })
    }

    /// Queries all lines that a selector matches, at any time. Returns their numbers by stream, and the answer's
    /// warnings.
    pub(crate) fn streams(&self, selector: &str) -> anyhow::Result<(LinesByStream, Vec<String>)> {
        let parameters = [
            ("query", selector.to_owned()),
            ("start", "1".to_owned()),
            ("end", in_an_hour()),
            ("limit", "100000000".to_owned()),
            ("direction", "forward".to_owned()),
        ];
        let answer = self.get("/loki/api/v1/query_range", &parameters)?;
        let mut streams = BTreeMap::<StreamNumber, Vec<usize>>::new();
        for result in answer["data"]["result"].as_array().into_iter().flatten() {
            let numbers = streams.entry(stream_of(&result["stream"])?).or_default();
            for value in result["values"].as_array().into_iter().flatten() {
                let line = value[1].as_str().context("a line is a text")?;
                let number = line.split(' ').next().unwrap_or_default();
                numbers.push(number.parse().context("a line begins with its number")?);
            }
        }
        let warnings = answer["warnings"].as_array().into_iter().flatten();
        Ok((streams, warnings.map(|w| w.as_str().unwrap_or_default().to_owned()).collect()))
    }

    /// Counts the lines of each stream that a selector matches, at any time.
    pub(crate) fn counts(&self, selector: &str) -> anyhow::Result<BTreeMap<StreamNumber, u64>> {
        let query = format!("sum by (stream) (count_over_time({selector}[20y]))");
        let answer = self.get("/loki/api/v1/query", &[("query", query), ("time", in_an_hour())])?;
        let mut counts = BTreeMap::new();
        for result in answer["data"]["result"].as_array().into_iter().flatten() {
            let count = result["value"][1].as_str().and_then(|v| v.parse().ok()).context("a value is a number")?;
            counts.insert(stream_of(&result["metric"])?, count);
        }
        Ok(counts)
    }

    /// Counts the lines that a selector matches, at any time.
    pub(crate) fn count(&self, selector: &str) -> anyhow::Result<u64> {
        let query = format!("sum(count_over_time({selector}[20y]))");
        let answer = self.get("/loki/api/v1/query", &[("query", query), ("time", in_an_hour())])?;
        let text = answer["data"]["result"][0]["value"][1].as_str().unwrap_or("0");
        text.parse().with_context(|| format!("{text:?} is no count"))
    }

    fn get(&self, path: &str, parameters: &[(&str, String)]) -> anyhow::Result<Value> {
        self.client.get_with(path, self.tenant, parameters, self.headers)?.json()
    }
}

fn stream_of(labels: &Value) -> anyhow::Result<StreamNumber> {
    labels["stream"].as_str().and_then(|s| s.parse().ok()).context("a stream has its number as a label")
}

/// A time, in nanoseconds, later than all lines.
fn in_an_hour() -> String {
    (SystemClock.now().nanos() + 3_600_000_000_000).to_string()
}
