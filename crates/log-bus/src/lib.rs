//! The log: append to a partition, fetch from an offset.
//!
//! [`LogBus`] is the trait. [`KafkaLog`] is the log on Apache Kafka, [`LocalLog`] is a journal on one machine, and
//! [`MemoryLog`] is their in-memory twin for tests. All of them pass the same suite, [`contract`].
//!
//! Every implementation promises:
//! - An append is acknowledged only when the record is durable.
//! - The offsets of a partition strictly increase and may have gaps. Never compute the next offset by adding; resume at
//!   [`Fetched::next`].
//! - A read of records that retention has removed fails with [`LogError::OutOfRange`].
//!
//! Commits are hints for tools that show the lag. The head in the object store is the truth.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own what they start"))]
#![cfg_attr(test, allow(clippy::print_stderr, reason = "tests print what they measure"))]

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Offset, PartitionId, TenantId, TimestampNs};
use thiserror::Error;

pub mod contract;
mod control;
mod kafka;
mod local;
mod memory;

pub use control::{ControlBus, ControlRecord, MemoryControl};
pub use kafka::{Compression, GroupProtocol, KafkaConfig, KafkaControl, KafkaLog};
pub use local::{LocalLog, LocalLogConfig, LocalLogStats, LocalLogView, Synced};
pub use memory::{Faults, MemoryLog};

/// Names one incarnation of a log. A log that was deleted and recreated has another id, and the heads of the old log do
/// not apply to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogId(pub String);

/// One record as it was appended.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// The record's offset in its partition.
    pub offset: Offset,
    /// The time at which the log took the record. Retention and look-ups by time use it.
    pub append_time: TimestampNs,
    /// The record's key: the tenant's name.
    pub key: Bytes,
    /// The appended bytes. May share memory with the log's cache; you may keep it for any time.
    pub payload: Bytes,
}

/// How much to fetch, and how long to wait for it.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// The most bytes of payload. A fetch still returns at least one record if there is one.
    pub bytes_max: usize,
    /// The longest wait for the first record.
    pub wait_max: Duration,
}

/// The result of a fetch. It has no records if none arrived in time.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The records, in offset order.
    pub records: Vec<LogRecord>,
    /// The offset at which to resume. It may be larger than the last record's next offset, since it passes gaps.
    pub next: Offset,
}

/// The bounds of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// The first offset that retention has kept. In an empty partition this is the end.
    pub first: Offset,
    /// The lowest offset that the next append may get. Every acknowledged record is below it.
    pub end: Offset,
}

/// A change of the partitions that this process should own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// This process gets these partitions.
    Assigned(Vec<PartitionId>),
    /// This process loses these partitions.
    Revoked(Vec<PartitionId>),
}

/// Why an operation of a log failed.
#[derive(Debug, Error)]
pub enum LogError {
    /// Retention has removed the offset, or it is above the end. In the latter case the log was truncated or recreated.
    #[error("partition {partition} holds [{}, {}), asked for {asked}", held.first, held.end)]
    OutOfRange {
        /// The partition.
        partition: PartitionId,
        /// The requested offset.
        asked: Offset,
        /// The partition's bounds.
        held: Watermarks,
    },
    /// The partition does not exist.
    #[error("the log has {count} partitions, asked for partition {partition}")]
    NoPartition {
        /// The requested partition.
        partition: PartitionId,
        /// The number of partitions.
        count: u32,
    },
    /// The record is larger than the log takes. Reject it.
    #[error("a record of {bytes} bytes is larger than the log takes ({bytes_max})")]
    TooLarge {
        /// The record's size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The log cannot take or return records now. A failed append may still be durable. Try again later.
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// The log stopped for good, because a sync failed or the log was closed. Restart the process.
    #[error("the log has stopped: {0}")]
    Stopped(String),
    /// Durable data is damaged: the bytes on the disk are not those that were written. Nothing is skipped.
    #[error("{file} is damaged at byte {position}: {reason}")]
    Damaged {
        /// The file.
        file: String,
        /// The position in the file.
        position: u64,
        /// What is wrong there, and what to do.
        reason: String,
    },
    /// The log's folder or topic cannot be used.
    #[error("the log in {folder} cannot be opened: {reason}")]
    Open {
        /// The folder, or the topic.
        folder: String,
        /// Why, and what to do.
        reason: String,
    },
}

/// The log. The crate's documentation lists its promises.
#[async_trait]
pub trait LogBus: Send + Sync + 'static {
    /// The id of this log.
    fn log_id(&self) -> &LogId;

    /// The number of partitions, as far as this process knows. They are numbered from 0. The number may grow while the
    /// process runs, but never shrinks.
    fn partition_count(&self) -> u32;

    /// Appends a record and returns its offset once it is durable. Cancelling the wait does not undo the append.
    async fn append(&self, partition: PartitionId, key: &TenantId, payload: Bytes) -> Result<Offset, LogError>;

    /// Fetches records from `from` on.
    async fn fetch(&self, partition: PartitionId, from: Offset, limits: FetchLimits) -> Result<Fetched, LogError>;

    /// The current bounds of a partition.
    async fn watermarks(&self, partition: PartitionId) -> Result<Watermarks, LogError>;

    /// The current end of every partition, by partition number. Every record that was acknowledged before the call is
    /// below them. The call also updates [`LogBus::partition_count`] to the number of ends.
    async fn ends(&self) -> Result<Vec<Offset>, LogError> {
        let mut ends = Vec::new();
        for partition in (0..self.partition_count()).map(PartitionId::new) {
            ends.push(self.watermarks(partition).await?.end);
        }
        Ok(ends)
    }

    /// The first offset whose append time is `time` or later. `None` if all records are earlier.
    async fn offset_at(&self, partition: PartitionId, time: TimestampNs) -> Result<Option<Offset>, LogError>;

    /// Waits until the log has failed for good in this process, and returns the reason. Never returns for a log that
    /// cannot fail by itself.
    async fn failed(&self) -> LogError {
        std::future::pending().await
    }

    /// Waits for the next change of the partitions that this process should own. The first call returns the partitions
    /// that it starts with. Cancel-safe.
    async fn assignment(&self) -> Result<Assignment, LogError>;

    /// Leaves the group of processes that share the partitions. Others get this process's partitions at once, and
    /// [`LogBus::assignment`] reports no further change. Reads, appends and commits still work. Does nothing for a log
    /// that belongs to one process.
    async fn leave(&self) -> Result<(), LogError> {
        Ok(())
    }

    /// Records that everything below `offset` is in blocks. This is only a hint.
    async fn commit(&self, partition: PartitionId, offset: Offset) -> Result<(), LogError>;

    /// The offset of the last [`LogBus::commit`].
    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError>;
}
