//! The contract suite over the local log and the log in memory, with and without gaps in the offsets.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millrace_log_bus::contract::{LogFactory, check};
use millrace_log_bus::{LocalLog, LocalLogConfig, LogBus, MemoryLog};
use model::{Offset, PartitionId};
use parking_lot::Mutex;
use tempfile::TempDir;

struct LocalLogs {
    /// Adjusts the settings of each log.
    settings: fn(&mut LocalLogConfig),
    /// Every log that was created, with its settings and its folder.
    made: Mutex<Vec<(Arc<LocalLog>, LocalLogConfig, TempDir)>>,
}

impl LocalLogs {
    fn new(settings: fn(&mut LocalLogConfig)) -> Self {
        Self { settings, made: Mutex::default() }
    }

    fn find(&self, log: &Arc<dyn LogBus>) -> (Arc<LocalLog>, LocalLogConfig) {
        let made = self.made.lock();
        let (log, config, _) = made.iter().find(|(made, ..)| made.log_id() == log.log_id()).unwrap();
        (Arc::clone(log), config.clone())
    }
}

#[async_trait]
impl LogFactory for LocalLogs {
    async fn fresh(&self, partitions: u32) -> Arc<dyn LogBus> {
        let folder = tempfile::tempdir().unwrap();
        let mut config = LocalLogConfig::new(folder.path().join("log"));
        config.partitions = partitions;
        config.record_bytes_max = 1 << 20;
        (self.settings)(&mut config);
        let log = Arc::new(LocalLog::open(config.clone()).unwrap());
        self.made.lock().push((Arc::clone(&log), config, folder));
        log
    }

    async fn reopen(&self, log: Arc<dyn LogBus>) -> Option<Arc<dyn LogBus>> {
        let (old, config) = self.find(&log);
        old.close().await;
        Some(Arc::new(LocalLog::open(config).unwrap()))
    }

    async fn trim(&self, log: &Arc<dyn LogBus>, partition: PartitionId) {
        let (log, config) = self.find(log);
        let end = log.watermarks(partition).await.unwrap().end;
        // The segments are small, so there are several. Only committed ones are removed.
        assert!(config.segment_bytes < 100_000);
        assert_eq!(log.enforce_retention().await.unwrap(), 0);
        log.commit(partition, Offset::new(end.value() / 2)).await.unwrap();
        assert!(log.enforce_retention().await.unwrap() > 0);
    }

    fn record_bytes_max(&self) -> usize {
        1 << 20
    }
}

fn small_segments(config: &mut LocalLogConfig) {
    config.segment_bytes = 20_000;
    config.retention_age = Duration::ZERO;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_log_reads_from_memory() {
    check(&LocalLogs::new(small_segments)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_log_reads_from_files() {
    check(&LocalLogs::new(|config| {
        small_segments(config);
        config.cache_bytes = 0;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_log_with_gaps_and_a_small_cache() {
    check(&LocalLogs::new(|config| {
        small_segments(config);
        config.cache_bytes = 10_000;
        config.gap_every = Some(3);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_log_with_a_narrow_queue() {
    check(&LocalLogs::new(|config| {
        small_segments(config);
        config.queue_bytes_max = 1 << 20;
        config.batch_bytes_max = 1;
    }))
    .await;
}

struct MemoryLogs {
    gap_every: Option<u64>,
    made: Mutex<Vec<Arc<MemoryLog>>>,
}

#[async_trait]
impl LogFactory for MemoryLogs {
    async fn fresh(&self, partitions: u32) -> Arc<dyn LogBus> {
        let log = Arc::new(MemoryLog::new(partitions));
        log.inject(|faults| faults.gap_every = self.gap_every);
        self.made.lock().push(Arc::clone(&log));
        log
    }

    async fn reopen(&self, _: Arc<dyn LogBus>) -> Option<Arc<dyn LogBus>> {
        None
    }

    async fn trim(&self, log: &Arc<dyn LogBus>, partition: PartitionId) {
        let made = self.made.lock();
        let log = made.iter().find(|made| made.log_id() == log.log_id()).unwrap();
        log.trim(partition, Offset::new(77));
    }

    fn record_bytes_max(&self) -> usize {
        4 << 20
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_log() {
    check(&MemoryLogs { gap_every: None, made: Mutex::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_log_with_gaps() {
    check(&MemoryLogs { gap_every: Some(4), made: Mutex::default() }).await;
}
