//! A protocol that exists only here: what a new protocol has to bring, and what it gets without doing anything.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use limits::{Limits, Overrides};
use log_bus::{FetchLimits, LogBus, MemoryLog};
use model::{Labels, Offset, PartitionId, SystemClock};
use runtime::Processors;
use tower::ServiceExt;

use super::*;
use crate::intake::PushedLabels;
use crate::protocol::{BodyFormat, Decoding};
use crate::unpack::Packing;
use crate::{Components, Config};

/// One entry a line, all of one stream.
struct Lines;

impl Protocol for Lines {
    fn format(&self) -> &'static str {
        "lines"
    }

    fn path(&self) -> &'static str {
        "/lines"
    }

    fn body_format(&self, _: &str, content_encoding: &str) -> Result<BodyFormat, Refusal> {
        match content_encoding {
            "" => Ok(BodyFormat { content_type: "text/plain", content_encoding: "", packing: Packing::Plain, decode }),
            other => Err(Refusal::malformed(format_args!("lines are not packed: {other}"))),
        }
    }

    fn success(&self) -> Answer {
        Answer { status: 200, content_type: Some("text/plain"), body: "stored".into() }
    }
}

fn decode(body: Bytes, decoding: &mut Decoding<'_>) -> Result<(), Refusal> {
    decoding.admit_text(&body)?;
    let now = decoding.intake.now();
    decoding.intake.begin(PushedLabels::Read(Labels::from_pairs([("job", "lines")])), Vec::new());
    for line in body.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        decoding.intake.entry(now, line);
    }
    decoding.intake.end();
    Ok(())
}

#[tokio::test]
async fn a_new_protocol_is_one_type_in_the_list() {
    let log = Arc::new(MemoryLog::new(1));
    let limits = Limits { max_line_size: limits::ByteSize::from_bytes(10), ..Limits::default() };
    let components = Components {
        log: log.clone(),
        overrides: Arc::new(Overrides::new(limits)),
        clock: Arc::new(SystemClock),
        control: None,
        processors: Processors::default(),
        metrics: prometheus::Registry::new(),
    };
    let gateway =
        Gateway::new(Config { offload_bytes_min: limits::ByteSize::from_bytes(8), ..Config::default() }, components);
    let router = router(&gateway.unwrap(), &[&Lines]);
    let push = async |body: &'static str, encoding: &str| {
        let request = Request::post("/lines").header("Content-Encoding", encoding).body(Body::from(body)).unwrap();
        let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let has_token = parts.headers.contains_key(TOKEN_HEADER);
        (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap(), has_token)
    };
    assert_eq!(push("one\n", "").await, (200, "stored".into(), true), "decoded where it arrives");
    assert_eq!(push("two\nthree\n", "").await, (200, "stored".into(), true), "decoded on the processors");
    let (status, text, has_token) = push("four\na line that is too long\n", "").await;
    assert!(status == 400 && text.starts_with("max entry size '10' bytes exceeded") && has_token, "{status} {text}");
    assert_eq!(push("five", "gzip").await, (400, "lines are not packed: gzip\n".into(), false));

    let limits = FetchLimits { bytes_max: usize::MAX, wait_max: Duration::ZERO };
    let fetched = log.fetch(PartitionId::new(0), Offset::ZERO, limits).await.unwrap();
    let mut lines = Vec::new();
    for record in &fetched.records {
        let record = schemas::Record::decode(record.payload.clone()).unwrap();
        for slice in record.streams() {
            assert_eq!(slice.labels().get("job"), Some("lines"));
            lines.extend(slice.rows().map(|row| String::from_utf8(row.line.to_vec()).unwrap()));
        }
    }
    assert_eq!(lines, ["one", "two", "three", "four"]);
}
