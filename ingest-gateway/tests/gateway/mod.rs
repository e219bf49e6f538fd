//! A gateway over a log in memory, and what tests ask of it.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a helper of tests")]

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use ingest::{Components, Config, Gateway};
use limits::{Limits, Overrides};
use log_bus::{FetchLimits, LogBus, MemoryLog};
use millrace_ingest_gateway as ingest;
use model::{ManualClock, Offset, PartitionId, TimestampNs};
use schemas::Record;
use tower::ServiceExt;

/// 2026-11-20T12:00:00Z
pub(crate) const NOW_S: i64 = 1_795_176_000;

pub(crate) struct Setup {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) registry: prometheus::Registry,
    pub(crate) router: Router,
}

/// What a push answers.
pub(crate) type Answer = (u16, String);

pub(crate) fn ok() -> Answer {
    (204, String::new())
}

pub(crate) fn refused(status: u16, text: &str) -> Answer {
    (status, format!("{text}\n"))
}

impl Setup {
    /// A gateway whose default limits are changed so.
    pub(crate) fn new(limits_yaml: &str) -> Self {
        Self::with(|_| {}, limits_yaml)
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config), limits_yaml: &str) -> Self {
        let yaml = if limits_yaml.is_empty() { "{}" } else { limits_yaml };
        let limits = Limits::default().changed(&serde_yaml_ng::from_str(yaml).unwrap()).unwrap();
        let mut config = Config::default();
        change(&mut config);
        let clock = Arc::new(ManualClock::new(TimestampNs::from_secs(NOW_S)));
        let log = Arc::new(MemoryLog::with_clock(3, clock.clone()));
        let registry = prometheus::Registry::new();
        let components = Components {
            log: log.clone(),
            overrides: Arc::new(Overrides::new(limits)),
            clock: clock.clone(),
            control: None,
            processors: runtime::Processors::default(),
            metrics: registry.clone(),
        };
        let router = Gateway::new(config, components).unwrap().router();
        Self { log, clock, registry, router }
    }

    pub(crate) async fn push(&self, content_type: &str, encoding: &str, body: Vec<u8>) -> Answer {
        let headers = [("Content-Encoding", encoding)];
        let headers = if encoding.is_empty() { &headers[..0] } else { &headers[..] };
        let (status, text, _) = self.request("/loki/api/v1/push", content_type, headers, body).await;
        (status, text)
    }

    pub(crate) async fn request(
        &self,
        path: &str,
        content_type: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (u16, String, HeaderMap) {
        let mut request = Request::post(path);
        if !content_type.is_empty() {
            request = request.header("Content-Type", content_type);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let (status, text, _) = self.send(Request::get(path).body(Body::empty()).unwrap()).await;
        (status, text)
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> (u16, String, HeaderMap) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), String::from_utf8_lossy(&text).into_owned(), parts.headers)
    }

    /// All records of all partitions.
    pub(crate) async fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for partition in 0..self.log.partition_count() {
            let mut from = Offset::ZERO;
            loop {
                let limits = FetchLimits { bytes_max: 1 << 20, wait_max: Duration::ZERO };
                let fetched = self.log.fetch(PartitionId::new(partition), from, limits).await.unwrap();
                if fetched.records.is_empty() {
                    break;
                }
                from = fetched.next;
                records.extend(fetched.records.into_iter().map(|r| Record::decode(r.payload).unwrap()));
            }
        }
        records
    }

    /// All entries as `{labels} nanoseconds-after-NOW_S line metadata…`.
    pub(crate) async fn rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for record in self.records().await {
            for slice in record.streams() {
                for row in slice.rows() {
                    let common = slice.common_metadata().iter().map(|(n, v)| (n.to_string(), v.to_string()));
                    let own = row.metadata().map(|(n, v)| (n.to_owned(), v.to_owned()));
                    let pairs: std::collections::BTreeMap<String, String> = common.chain(own).collect();
                    let pairs: String = pairs.iter().map(|(n, v)| format!(" {n}={v}")).collect();
                    let ts = row.ts.nanos() - NOW_S * 1_000_000_000;
                    rows.push(format!("{} {ts} {}{pairs}", slice.labels(), String::from_utf8_lossy(row.line)));
                }
            }
        }
        rows
    }

    /// All lines.
    pub(crate) async fn lines(&self) -> Vec<Vec<u8>> {
        let records = self.records().await;
        let slices = records.iter().flat_map(|r| r.streams().collect::<Vec<_>>());
        slices.flat_map(|s| s.rows().map(|r| r.line.to_vec()).collect::<Vec<_>>()).collect()
    }

    /// The sum of a metric's series with these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().filter(|f| f.name() == name);
        let has = |m: &&prometheus::proto::Metric| {
            labels.iter().all(|(n, v)| m.get_label().iter().any(|l| l.name() == *n && l.value() == *v))
        };
        let value = |m: &prometheus::proto::Metric| m.get_counter().get_value() + m.get_gauge().get_value();
        family.flat_map(|f| f.get_metric()).filter(has).map(value).sum()
    }

    pub(crate) fn discarded(&self, reason: &str) -> f64 {
        self.metric("loki_discarded_samples_total", &[("reason", reason)])
    }

    pub(crate) fn inflight(&self) -> f64 {
        self.metric("millrace_gateway_inflight_bytes", &[])
    }
}

pub(crate) fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number > 127 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn field(number: u64, data: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(data.len() as u64, out);
    out.extend_from_slice(data);
}

type ProtoEntry<'a> = (i64, &'a str, &'a [(&'a str, &'a str)]);

/// A push request with one stream.
pub(crate) fn proto(labels: &str, entries: &[ProtoEntry<'_>]) -> Vec<u8> {
    let mut stream = Vec::new();
    field(1, labels.as_bytes(), &mut stream);
    for (ts, line, metadata) in entries {
        let (mut time, mut entry) = (vec![8], Vec::new());
        varint((ts / 1_000_000_000) as u64, &mut time);
        time.push(16);
        varint((ts % 1_000_000_000) as u64, &mut time);
        field(1, &time, &mut entry);
        field(2, line.as_bytes(), &mut entry);
        for (name, value) in *metadata {
            let mut pair = Vec::new();
            field(1, name.as_bytes(), &mut pair);
            field(2, value.as_bytes(), &mut pair);
            field(3, &pair, &mut entry);
        }
        field(2, &entry, &mut stream);
    }
    // A field nobody knows, and the hash, which is ignored.
    stream.extend_from_slice(&[3 << 3, 5, 9 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8, 10 << 3 | 5, 1, 2, 3, 4]);
    let mut out = Vec::new();
    field(1, &stream, &mut out);
    out
}

pub(crate) fn pack(packing: &str, body: &[u8]) -> Vec<u8> {
    match packing {
        "snappy" => snap::raw::Encoder::new().compress_vec(body).unwrap(),
        "zstd" => zstd::bulk::compress(body, 3).unwrap(),
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "lz4" => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        _ => body.to_vec(),
    }
}
