//! Measures the cost of memory: held bytes per byte of lines, CPU to consume, and time to select streams and to scan.
//!
//! `cargo run --release -p millrace-partition-consumer --example measure [megabytes] [streams] [rows per slice]`
#![allow(clippy::disallowed_methods, reason = "an example owns what it starts")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints its measurements")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cut::{Cut, CutError, CutSink, Flushed, Lead, Published};
use log_bus::{LogBus, MemoryLog};
use logql::{Direction, Params, Query};
use millrace_partition_consumer::{Components, Config, Consumer};
use model::{
    Labels, MatchOp, Matcher, Offset, OffsetRange, PartitionId, SystemClock, SystemRandom, TenantId, TimeRange,
    TimestampNs,
};
use owner::{Owner, ScanRequest, StreamsRequest, Where};
use runtime::Processors;
use schemas::record::RecordBuilder;
use tokio_util::sync::CancellationToken;

/// A sink that grants leads and publishes nothing.
struct NoBlocks;

struct NoLead(Offset);

#[async_trait]
impl CutSink for NoBlocks {
    async fn acquire(&self, _: PartitionId, _: OffsetRange) -> Result<Box<dyn Lead>, CutError> {
        Ok(Box::new(NoLead(Offset::ZERO)))
    }

    async fn flushed_to(&self, _: PartitionId) -> Result<Option<Flushed>, CutError> {
        Ok(None)
    }
}

#[async_trait]
impl Lead for NoLead {
    fn flushed_to(&self) -> Offset {
        self.0
    }

    fn epoch(&self) -> u64 {
        1
    }

    async fn publish(&mut self, cut: &Cut) -> Result<Published, CutError> {
        self.0 = cut.range.end;
        Ok(Published { flushed_to: cut.range.end, block_bytes: 0 })
    }
}

/// The resident bytes and the CPU time of this process.
fn process() -> (u64, Duration) {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = status.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    (pages * 4096, Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |i: usize, default: usize| std::env::args().nth(i).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (megabytes, streams, slice_rows) = (argument(1, 64), argument(2, 500), argument(3, 20));
    let log = Arc::new(MemoryLog::new(1));
    let (tenant, partition) = (TenantId::new("t")?, PartitionId::new(0));
    let labels: Vec<Labels> = (0..streams)
        .map(|i| {
            let (app, pod) = (format!("app-{}", i % 50), format!("pod-{i:05}-7c9d8b6f4-x2x9z"));
            Labels::from_pairs([("app", app), ("cluster", "eu-1".to_owned()), ("env", "prod".to_owned()), ("pod", pod)])
        })
        .collect();
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut line_bytes, mut rows, mut payload_bytes, mut ts) = (0, 0, 0, 1_700_000_000_000_000_000);
    while line_bytes < megabytes << 20 {
        let mut builder = RecordBuilder::new(&tenant, TimestampNs::from_nanos(ts));
        while builder.encoded_bytes() < 800_000 {
            builder.stream(&labels[rng.usize(..streams)], &[]);
            for _ in 0..slice_rows {
                ts += 1_000;
                let line = format!(
                    "level=info msg=\"request served\" path=/api/v1/items/{} id={:032x} took={}ms",
                    rng.u32(..100_000),
                    rng.u128(..),
                    rng.u16(..900)
                );
                line_bytes += line.len();
                rows += 1;
                builder.entry(TimestampNs::from_nanos(ts), line.as_bytes(), std::iter::empty());
            }
        }
        let payload = builder.finish(None);
        payload_bytes += payload.len();
        log.append(partition, &tenant, payload).await?;
    }
    let bytes_max = limits::ByteSize::from_mb(4096);
    let config = Config { cut_bytes: bytes_max, memory_bytes: bytes_max, ..Config::default() };
    let components = Components {
        log: log.clone(),
        blocks: Arc::new(NoBlocks),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        processors: Processors::default(),
        metrics: prometheus::Registry::new(),
        control: None,
    };
    let (resident, cpu) = process();
    let consumer = Consumer::new(config, components)?;
    let (running, token) = (consumer.clone(), CancellationToken::new());
    let shutdown = token.clone();
    let task = tokio::spawn(async move { running.run(shutdown).await });
    while !consumer.is_ready() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (resident_after, cpu_after) = process();
    let line_mb = line_bytes as f64 / 1e6;
    println!(
        "{rows} rows of {line_mb:.1} MB lines, {:.1} MB records, {streams} streams, {slice_rows} rows a slice",
        payload_bytes as f64 / 1e6
    );
    println!(
        "estimated memory      {:>8.1} MB ({:.2} of the lines)",
        consumer.memory_bytes() as f64 / 1e6,
        consumer.memory_bytes() as f64 / line_bytes as f64
    );
    println!(
        "added beside payloads {:>8.1} MB (the log of this program holds the payloads)",
        (resident_after as f64 - resident as f64) / 1e6
    );
    let used = cpu_after.saturating_sub(cpu).as_secs_f64();
    println!("consuming             {used:>8.2} CPU-s ({:.2} CPU-s per GB of lines)", used / line_mb * 1e3);

    for (name, op, value) in [("app", MatchOp::Equal, "app-7"), ("pod", MatchOp::Regex, ".*-00..7-.*")] {
        let matchers: Arc<[Matcher]> = Arc::from([Matcher::new(name, op, value)?]);
        let started = Instant::now();
        let request = StreamsRequest {
            at: Where {
                at_least: None,
                deadline: tokio::time::Instant::now(),
                partition,
                tenant: tenant.clone(),
                from: Offset::ZERO,
            },
            matchers,
            time: TimeRange::ALL,
        };
        let found = consumer.streams(request).await?.streams.len();
        println!(
            "select {name}{}{value:<14} {:>8.2} ms, {found} streams",
            op.as_str(),
            started.elapsed().as_secs_f64() * 1e3
        );
    }
    let end = TimestampNs::from_nanos(ts + 1);
    let params = Params {
        start: TimestampNs::from_nanos(0),
        end,
        step: Duration::ZERO,
        interval: Duration::ZERO,
        direction: Direction::Backward,
        limit: 100,
        series_max: 0,
    };
    let instant = Params { start: end, ..params.clone() };
    let queries = [
        ("{env=\"prod\"}", params.clone()),
        ("{env=\"prod\"} |= \"00000000deadbeef\"", params),
        ("sum(count_over_time({env=\"prod\"}[1h]))", instant.clone()),
        ("sum by (app)(count_over_time({env=\"prod\"} |= \"7ms\" [1h]))", instant),
    ];
    for (text, params) in queries {
        let query = Arc::new(Query::prepare(text, params)?);
        let started = Instant::now();
        let request = ScanRequest {
            at: Where {
                at_least: None,
                deadline: tokio::time::Instant::now(),
                partition,
                tenant: tenant.clone(),
                from: Offset::ZERO,
            },
            query,
        };
        consumer.scan(request).await?;
        println!("{text:<60} {:>8.2} ms", started.elapsed().as_secs_f64() * 1e3);
    }
    token.cancel();
    Ok(task.await??)
}
