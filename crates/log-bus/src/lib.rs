//! The log: append to a partition, fetch from an offset.
//!
//! [`LogBus`] is the trait; [`KafkaLog`] is Apache Kafka, [`LocalLog`] the journal of one machine, [`MemoryLog`] its twin
//! for tests. All pass [`contract`], one suite.
//!
//! What every implementation promises: an append is answered only when the record is durable; offsets of a partition
//! strictly rise and may have gaps (never compute the next one by adding: resume at [`Fetched::next`]); a reader that
//! asks for what retention has removed gets [`LogError::OutOfRange`]. Commits are advice for lag tools: the head in
//! the object store is the truth.

#![forbid(unsafe_code)]

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

/// Names one incarnation of a log. A log that was made anew has another id; heads of the old one do not apply to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogId(pub String);

/// One record as it was appended.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// Where it lies.
    pub offset: Offset,
    /// When the log took it. Retention and look-ups by time go by this.
    pub append_time: TimestampNs,
    /// The record's key: the tenant's name.
    pub key: Bytes,
    /// What was appended. Shares memory with the log's cache; keep it as long as you like.
    pub payload: Bytes,
}

/// How much to fetch, and how long to wait for it.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Stop after this many bytes of payload; at least one record is returned when there is one.
    pub bytes_max: usize,
    /// Wait this long for the first record when there is none yet.
    pub wait_max: Duration,
}

/// What a fetch found; no records when there were none in time.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// In offset order.
    pub records: Vec<LogRecord>,
    /// Where to resume. It passes gaps: it may be larger than the last record's next offset.
    pub next: Offset,
}

/// The bounds of what a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// The first offset that is still held (or, of an empty partition, the end).
    pub first: Offset,
    /// The offset that the next append will get at the earliest. All that was acknowledged lies below it.
    pub end: Offset,
}

/// What partitions this process should own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// These came to this process.
    Assigned(Vec<PartitionId>),
    /// These go away from this process.
    Revoked(Vec<PartitionId>),
}

/// What a log may answer instead.
#[derive(Debug, Error)]
pub enum LogError {
    /// The offset is below what retention left, or above the end (then the log was cut or made anew).
    #[error("partition {partition} holds [{}, {}), asked for {asked}", held.first, held.end)]
    OutOfRange {
        /// The partition.
        partition: PartitionId,
        /// What was asked for.
        asked: Offset,
        /// What there is.
        held: Watermarks,
    },
    /// There is no such partition.
    #[error("the log has {count} partitions, asked for partition {partition}")]
    NoPartition {
        /// What was asked for.
        partition: PartitionId,
        /// How many there are.
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
    /// The log cannot take or give records now. The append may or may not be durable. Try again later.
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// The log stopped for good: a sync failed, or it was closed. Restart the process.
    #[error("the log has stopped: {0}")]
    Stopped(String),
    /// What was durable is damaged: bytes on the disk are not those that were written. Nothing is skipped over.
    #[error("{file} is damaged at byte {position}: {reason}")]
    Damaged {
        /// The file.
        file: String,
        /// Where in it.
        position: u64,
        /// What is wrong there, and what to do.
        reason: String,
    },
    /// What lies in the log's folder cannot be used.
    #[error("the log in {folder} cannot be opened: {reason}")]
    Open {
        /// The folder.
        folder: String,
        /// Why, and what to do.
        reason: String,
    },
}

/// The log. See the crate's documentation for what is promised.
#[async_trait]
pub trait LogBus: Send + Sync + 'static {
    /// Which log this is.
    fn log_id(&self) -> &LogId;

    /// How many partitions there are, numbered from 0, as far as is known here. It may grow while the process runs,
    /// and never falls.
    fn partition_count(&self) -> u32;

    /// Appends a record; answers its offset once it is durable. Cancelling the wait does not undo the append.
    async fn append(&self, partition: PartitionId, key: &TenantId, payload: Bytes) -> Result<Offset, LogError>;

    /// Records from `from` on.
    async fn fetch(&self, partition: PartitionId, from: Offset, limits: FetchLimits) -> Result<Fetched, LogError>;

    /// The bounds of a partition now.
    async fn watermarks(&self, partition: PartitionId) -> Result<Watermarks, LogError>;

    /// The end of every partition, in their order, asked now: whatever was acknowledged before the call lies below
    /// them. Its length is the number of partitions now; [`LogBus::partition_count`] is brought up to date by it.
    async fn ends(&self) -> Result<Vec<Offset>, LogError> {
        let mut ends = Vec::new();
        for partition in (0..self.partition_count()).map(PartitionId::new) {
            ends.push(self.watermarks(partition).await?.end);
        }
        Ok(ends)
    }

    /// The first offset whose append time is `time` or later; `None` when all is earlier.
    async fn offset_at(&self, partition: PartitionId, time: TimestampNs) -> Result<Option<Offset>, LogError>;

    /// Waits until the log has stopped for good in this process, and says why; for ever where it does not stop by itself.
    async fn failed(&self) -> LogError {
        std::future::pending().await
    }

    /// The next change of what this process should own; waits until there is one. The first call of a process tells
    /// what it starts with. Cancel-safe.
    async fn assignment(&self) -> Result<Assignment, LogError>;

    /// Leaves the group of those who share the partitions, at once: what this process should own goes to others, and
    /// [`LogBus::assignment`] has no more news. Reading, appending and committing go on. On a log that belongs to one
    /// process it does nothing.
    async fn leave(&self) -> Result<(), LogError> {
        Ok(())
    }

    /// Says that everything below `offset` is in blocks. Advice only.
    async fn commit(&self, partition: PartitionId, offset: Offset) -> Result<(), LogError>;

    /// What was last said with [`LogBus::commit`].
    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError>;
}
