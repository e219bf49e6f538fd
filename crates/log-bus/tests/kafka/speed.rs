//! A measurement, not a test: `cargo test -p millrace-log-bus --test kafka -- --ignored speed --nocapture`.
//!
//! Appends and fetches records of about 800 KB of text that looks like logs. Prints the speed and this process's CPU time.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use limits::ByteSize;
use millrace_log_bus::{Compression, FetchLimits, KafkaConfig, KafkaLog, LogBus};
use model::{Offset, PartitionId};

use super::{broker, config, connect, tenant};

const PARTITIONS: u32 = 4;
const RECORDS: u32 = 400;

fn text(rng: &mut fastrand::Rng) -> Bytes {
    let mut text = String::with_capacity(810 << 10);
    while text.len() < 800 << 10 {
        let (ip, size, ms) = (rng.u32(..), rng.u32(..100_000), rng.u32(..3000));
        let path = ["/api/v1/orders", "/api/v1/items", "/static/app.js", "/health"][rng.usize(..4)];
        let _ =
            writeln!(text, "10.{}.{}.7 - - \"GET {path}?id={ip:08x} HTTP/1.1\" 200 {size} {ms}ms", ip % 256, ip % 13);
    }
    Bytes::from(text)
}

/// CPU seconds of this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn read_all(log: &Arc<KafkaLog>) -> usize {
    let ends = log.ends().await.unwrap();
    let readers = ends.into_iter().enumerate().map(|(p, end)| {
        let log = log.clone();
        tokio::spawn(async move {
            let limits = FetchLimits { bytes_max: 2 << 20, wait_max: Duration::from_secs(5) };
            let (mut next, mut bytes) = (Offset::ZERO, 0);
            while next < end {
                let fetched = log.fetch(PartitionId::new(p as u32), next, limits).await.unwrap();
                bytes += fetched.records.iter().map(|record| record.payload.len()).sum::<usize>();
                next = fetched.next;
            }
            bytes
        })
    });
    let mut bytes = 0;
    for reader in readers.collect::<Vec<_>>() {
        bytes += reader.await.unwrap();
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed() {
    let broker = broker();
    let mut rng = fastrand::Rng::with_seed(1);
    let records: Vec<Bytes> = (0..RECORDS).map(|_| text(&mut rng)).collect();
    let bytes: usize = records.iter().map(Bytes::len).sum();
    let report = |what: &str, began: Instant, cpu_before: f64| {
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu() - cpu_before);
        let gb = bytes as f64 / 1e9;
        eprintln!("{what}: {:.0} MB/s, {:.2} CPU-s per GB", gb * 1000.0 / seconds, cpu / gb);
    };
    for compression in [Compression::Lz4, Compression::Zstd, Compression::None] {
        let config = KafkaConfig { compression, ..config(&broker.bootstrap(), PARTITIONS) };
        let log = connect(&config).await;
        let (began, before) = (Instant::now(), cpu());
        let appends = records.iter().enumerate().map(|(i, record)| {
            let (log, record) = (log.clone(), record.clone());
            let partition = PartitionId::new(i as u32 % PARTITIONS);
            async move { while log.append(partition, &tenant(), record.clone()).await.is_err() {} }
        });
        // As many appends at once as in a gateway.
        use futures_util::StreamExt as _;
        futures_util::stream::iter(appends).buffer_unordered(32).count().await;
        report(&format!("append, {compression:?}"), began, before);
        for fetch_bytes_max in [ByteSize::from_kb(512), ByteSize::from_mb(2), ByteSize::from_mb(8)] {
            let log = connect(&KafkaConfig { fetch_bytes_max, ..config.clone() }).await;
            let (began, before) = (Instant::now(), cpu());
            assert_eq!(read_all(&log).await, bytes);
            report(&format!("fetch, {compression:?}, {fetch_bytes_max} ahead"), began, before);
        }
    }
}
