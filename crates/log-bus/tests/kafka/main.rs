//! The log on a real Apache Kafka. Most tests share one broker, and each uses topics of its own.
//!
//! If Kafka's jars are missing, the tests fail with a text that says how to get them.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]
#![allow(clippy::disallowed_methods, reason = "tests own what they start")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests print what they measure")]

mod contract;
mod control;
mod durability;
mod group;
mod mock;
mod readers;
mod speed;
mod topics;

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use limits::PromDuration;
use millrace_log_bus::{FetchLimits, KafkaConfig, KafkaLog, LogBus, LogRecord};
use model::{Offset, PartitionId, TenantId};
use testbed::kafka::{KafkaCluster, KafkaOptions};

const FIRST: PartitionId = PartitionId::new(0);

/// Name and password for the listener that requires them.
const SASL: (&str, &str) = ("millrace", "a password");

/// The shared broker. It starts with the first test that uses it and ends with the last.
fn broker() -> Arc<KafkaCluster> {
    static SHARED: Mutex<Weak<KafkaCluster>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(cluster) = shared.upgrade() {
        return cluster;
    }
    let secure = Some((SASL.0.to_owned(), SASL.1.to_owned()));
    let cluster = match KafkaCluster::start(KafkaOptions { secure, ..KafkaOptions::default() }) {
        Ok(cluster) => Arc::new(cluster),
        Err(error) => panic!("{error:#}"),
    };
    *shared = Arc::downgrade(&cluster);
    cluster
}

/// Settings of a new log on one broker.
fn config(brokers: &str, partitions: u32) -> KafkaConfig {
    let name = format!("t-{:08x}", fastrand::u32(..));
    KafkaConfig {
        brokers: brokers.to_owned(),
        group: format!("{name}-group"),
        topic: name,
        partitions,
        replication_factor: 1,
        min_insync_replicas: 1,
        session_timeout: PromDuration::from_secs(6),
        metadata_refresh: PromDuration::from_millis(500),
        request_timeout: PromDuration::from_secs(20),
        delivery_timeout: PromDuration::from_secs(30),
        ..KafkaConfig::default()
    }
}

async fn connect(config: &KafkaConfig) -> Arc<KafkaLog> {
    match KafkaLog::connect(config.clone(), None).await {
        Ok(log) => log,
        Err(error) => panic!("{error}"),
    }
}

fn tenant() -> TenantId {
    TenantId::new("tenant-a").unwrap()
}

/// Appends a small record.
async fn append(log: &KafkaLog, partition: PartitionId, text: &str) -> Offset {
    log.append(partition, &tenant(), bytes::Bytes::copy_from_slice(text.as_bytes())).await.unwrap()
}

/// All records of a partition below its end.
async fn read_all(log: &KafkaLog, partition: PartitionId, end: Offset) -> Vec<LogRecord> {
    let limits = FetchLimits { bytes_max: 1 << 20, wait_max: Duration::from_secs(5) };
    let (mut next, mut records) = (Offset::ZERO, Vec::new());
    while next < end {
        let fetched = log.fetch(partition, next, limits).await.unwrap();
        records.extend(fetched.records.into_iter().filter(|record| record.offset < end));
        next = fetched.next;
    }
    records
}

/// Waits until `reached` returns true.
async fn until<F: Future<Output = bool>>(what: &str, reached: impl Fn() -> F) {
    let began = std::time::Instant::now();
    while !reached().await {
        assert!(began.elapsed() < Duration::from_secs(60), "waited for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
