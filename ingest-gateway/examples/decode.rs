//! How much CPU decoding, validating, routing and encoding take: the bodies of a corpus through the gateway's router
//! into a log that forgets.
//!
//! ```text
//! cargo run --release -p millrace-ingest-gateway --example decode -- FOLDER [repeats] [as-is|protobuf|scan]
//! ```
//!
//! `protobuf` turns JSON bodies into snappy-packed protobuf first; `scan` takes the level from the lines.
//! FOLDER is what `corpus.py` wrote: `batch-*.json`, `.json.gz` or `.pb` and `manifest.json`. The time is that of all
//! threads of this process, user and system; reading the files is not in it.

#![allow(clippy::print_stdout, reason = "it prints its measurements")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::http::Request;
use limits::{Limits, Overrides};
use log_bus::{Assignment, FetchLimits, Fetched, LogBus, LogError, LogId, Watermarks};
use millrace_ingest_gateway::{Components, Config, Gateway};
use model::{ManualClock, Offset, PartitionId, TenantId, TimestampNs};
use tower::ServiceExt;

/// Takes records and forgets them.
#[derive(Default)]
struct Sink {
    id: Option<LogId>,
    records: AtomicI64,
    bytes: AtomicU64,
}

const NOTHING: LogError = LogError::NoPartition { partition: PartitionId::new(0), count: 0 };

#[async_trait::async_trait]
impl LogBus for Sink {
    fn log_id(&self) -> &LogId {
        self.id.as_ref().expect("set in main")
    }

    fn partition_count(&self) -> u32 {
        4
    }

    async fn append(&self, _: PartitionId, _: &TenantId, payload: bytes::Bytes) -> Result<Offset, LogError> {
        self.bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
        Ok(Offset::new(self.records.fetch_add(1, Ordering::Relaxed)))
    }

    async fn fetch(&self, _: PartitionId, _: Offset, _: FetchLimits) -> Result<Fetched, LogError> {
        Err(NOTHING)
    }

    async fn watermarks(&self, _: PartitionId) -> Result<Watermarks, LogError> {
        Err(NOTHING)
    }

    async fn offset_at(&self, _: PartitionId, _: TimestampNs) -> Result<Option<Offset>, LogError> {
        Err(NOTHING)
    }

    async fn assignment(&self) -> Result<Assignment, LogError> {
        Err(NOTHING)
    }

    async fn commit(&self, _: PartitionId, _: Offset) -> Result<(), LogError> {
        Err(NOTHING)
    }

    async fn committed(&self, _: PartitionId) -> Result<Option<Offset>, LogError> {
        Err(NOTHING)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("usage: decode FOLDER [repeats]")?;
    let repeats: u32 = args.next().map_or(Ok(3), |n| n.parse())?;
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(format!("{folder}/manifest.json"))?)?;
    let raw_bytes = manifest["counts"]["raw_bytes"].as_f64().ok_or("the manifest tells no raw_bytes")?;
    let mut encoding = manifest["encoding"].as_str().ok_or("the manifest tells no encoding")?;
    let mode = args.next().unwrap_or_else(|| "as-is".to_owned());
    let mut bodies = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("batch-")) {
            bodies.push(bytes::Bytes::from(std::fs::read(path)?));
        }
    }
    if mode == "protobuf" && encoding == "json" {
        encoding = "pb";
        bodies = bodies.iter().map(|body| to_protobuf(body)).collect::<Result<_, _>>()?;
    }
    let sink = Arc::new(Sink { id: Some(LogId("sink".into())), ..Sink::default() });
    // All times of the corpus count as young; the limits are out of the way.
    let fields = Limits::default().log_level_fields;
    let limits = Limits {
        // Without names to look for, neither labels nor keys tell a level: every line is read.
        log_level_fields: if mode == "scan" { Vec::new() } else { fields },
        reject_old_samples: false,
        ingestion_rate_mb: 0.0,
        per_stream_rate_limit: limits::ByteSize::from_bytes(0),
        ..Limits::default()
    };
    let components = Components {
        log: sink.clone(),
        overrides: Arc::new(Overrides::new(limits)),
        clock: Arc::new(ManualClock::new(TimestampNs::from_secs(1_795_204_800))),
        control: None,
        processors: runtime::Processors::default(),
        metrics: prometheus::Registry::new(),
    };
    let router = Gateway::new(Config::default(), components)?.router();
    let content_type = if encoding == "pb" { "application/x-protobuf" } else { "application/json" };
    for _ in 0..repeats {
        let (started, cpu) = (Instant::now(), cpu_seconds()?);
        for body in &bodies {
            let mut request = Request::post("/loki/api/v1/push").header("Content-Type", content_type);
            if encoding == "json.gz" {
                request = request.header("Content-Encoding", "gzip");
            }
            let response = router.clone().oneshot(request.body(Body::from(body.clone()))?).await?;
            if response.status() != 204 {
                return Err(format!("a push was answered {}", response.status()).into());
            }
        }
        let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        println!(
            "{encoding}: {} bodies, {:.1} MB raw: {wall:.3} s wall, {cpu:.3} s CPU, {:.2} CPU-s per raw GB; records {:.1} MB",
            bodies.len(),
            raw_bytes / 1e6,
            cpu / raw_bytes * 1e9,
            sink.bytes.swap(0, Ordering::Relaxed) as f64 / 1e6,
        );
    }
    Ok(())
}

/// A JSON body as snappy-packed protobuf.
fn to_protobuf(body: &[u8]) -> Result<bytes::Bytes, Box<dyn std::error::Error>> {
    fn varint(mut number: u64, out: &mut Vec<u8>) {
        while number > 127 {
            out.push(number as u8 | 128);
            number >>= 7;
        }
        out.push(number as u8);
    }
    fn field(number: u64, data: &[u8], out: &mut Vec<u8>) {
        varint(number << 3 | 2, out);
        varint(data.len() as u64, out);
        out.extend_from_slice(data);
    }
    let body: serde_json::Value = serde_json::from_slice(body)?;
    let mut request = Vec::new();
    for stream in body["streams"].as_array().ok_or("no streams")? {
        let labels = stream["stream"].as_object().ok_or("no labels")?;
        let labels = model::Labels::from_pairs(labels.iter().map(|(n, v)| (n.as_str(), v.as_str().unwrap_or(""))));
        let mut message = Vec::new();
        field(1, labels.to_string().as_bytes(), &mut message);
        for value in stream["values"].as_array().ok_or("no values")? {
            let nanos: u64 = value[0].as_str().ok_or("no time")?.parse()?;
            let (mut time, mut entry) = (vec![8], Vec::new());
            varint(nanos / 1_000_000_000, &mut time);
            time.push(16);
            varint(nanos % 1_000_000_000, &mut time);
            field(1, &time, &mut entry);
            field(2, value[1].as_str().ok_or("no line")?.as_bytes(), &mut entry);
            field(2, &entry, &mut message);
        }
        field(1, &message, &mut request);
    }
    Ok(snap::raw::Encoder::new().compress_vec(&request)?.into())
}

/// User and system time of this process, from /proc.
fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/schedstat")?;
    let threads = std::fs::read_dir("/proc/self/task")?;
    let mut nanos = 0u64;
    for thread in threads {
        let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        nanos += text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(if nanos > 0 { nanos as f64 / 1e9 } else { stat.split_whitespace().next().unwrap_or("0").parse::<f64>()? / 1e9 })
}
