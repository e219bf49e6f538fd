//! The JSON body of `/api/prom/push`: `{"streams":[{"labels":"{…}","entries":[{"ts":"RFC 3339","line":"…"}]}]}`.
//!
//! Kept for old agents; plain rather than fast.

use std::borrow::Cow;
use std::collections::BTreeMap;

use model::{LabelsError, TimestampNs, parse_labels};
use serde::Deserialize;

use crate::intake::{Intake, PushedLabels, Refusal};
use crate::json::empty_name;
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

/// Reads a body into `intake`.
pub(crate) fn decode(body: &[u8], intake: &mut Intake) -> Result<(), Refusal> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let push = Push::deserialize(&mut deserializer).map_err(|e| Refusal::new(400, e.to_string()))?;
    for stream in push.streams {
        let text = stream.labels.into_owned();
        intake.begin(
            match parse_labels(&text) {
                Ok(labels) => PushedLabels::Read(labels),
                Err(LabelsError::Duplicate(name)) => PushedLabels::Duplicate { text, name },
                Err(error) => PushedLabels::Unread { text, error },
            },
            Vec::new(),
        );
        for entry in stream.entries {
            let wrong = || Refusal::new(400, format!("timestamp {:?} is not RFC 3339", entry.ts));
            let ts = parse_rfc3339(&entry.ts).ok_or_else(wrong)?;
            for (name, value) in &entry.metadata {
                let pushed = intake.metadata.push(name.as_bytes(), value.as_bytes());
                pushed.map_err(|e| Refusal::new(400, empty_name(&e)))?;
            }
            intake.entry(TimestampNs::from_nanos(ts), entry.line.as_bytes());
        }
        intake.end();
    }
    Ok(())
}
