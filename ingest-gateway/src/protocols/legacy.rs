//! Loki's old push, `/api/prom/push`. Its JSON is `{"streams":[{"labels":"{…}","entries":[{"ts":"RFC 3339","line":"…"}]}]}`.
//!
//! Kept for old agents; plain rather than fast.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use model::TimestampNs;
use serde::Deserialize;

use super::loki;
use crate::protocol::{BodyFormat, Decoding, Protocol};
use crate::refusal::Refusal;
use crate::times::parse_rfc3339;

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(default, borrow)]
    streams: Vec<Stream<'a>>,
}

#[derive(Deserialize)]
struct Stream<'a> {
    #[serde(default, borrow)]
    labels: Cow<'a, str>,
    #[serde(default, borrow)]
    entries: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, alias = "timestamp")]
    ts: Cow<'a, str>,
    #[serde(default, borrow)]
    line: Cow<'a, str>,
    #[serde(default, rename = "structuredMetadata")]
    metadata: BTreeMap<String, String>,
}

pub(crate) struct LegacyLoki;

impl Protocol for LegacyLoki {
    fn format(&self) -> &'static str {
        "loki"
    }

    fn path(&self) -> &'static str {
        "/api/prom/push"
    }

    fn body_format(&self, media_type: &str, content_encoding: &str) -> Result<BodyFormat, Refusal> {
        loki::body_format(media_type, content_encoding, decode)
    }
}

fn decode(body: Bytes, decoding: &mut Decoding<'_>) -> Result<(), Refusal> {
    decoding.admit_text(&body)?;
    let mut deserializer = serde_json::Deserializer::from_slice(&body);
    let push = Push::deserialize(&mut deserializer).map_err(Refusal::malformed)?;
    for stream in push.streams {
        let labels = decoding.labels(&stream.labels);
        let intake = &mut *decoding.intake;
        intake.begin(labels, Vec::new());
        for entry in stream.entries {
            let wrong = || Refusal::malformed(format_args!("timestamp {:?} is not RFC 3339", entry.ts));
            let ts = parse_rfc3339(&entry.ts).ok_or_else(wrong)?;
            for (name, value) in &entry.metadata {
                let pushed = intake.metadata.push(name.as_bytes(), value.as_bytes());
                pushed.map_err(Refusal::malformed)?;
            }
            intake.entry(TimestampNs::from_nanos(ts), entry.line.as_bytes());
        }
        intake.end();
    }
    Ok(())
}
