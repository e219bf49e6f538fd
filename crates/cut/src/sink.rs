//! The traits through which consumers hand cuts to the builder.

use std::sync::Arc;

use async_trait::async_trait;
use model::{Offset, OffsetRange, PartitionId, TimestampNs};
use thiserror::Error;

use crate::Segment;

/// One offset range of one partition with all its rows. Nothing is added to it any more.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The partition.
    pub partition: PartitionId,
    /// The offsets that the cut covers, including gaps. Never empty. The range may begin inside the segment: a process
    /// that read ahead while another one led starts its first cut where the other one stopped. Rows of the segment
    /// outside the range are in other blocks and do not belong to the cut.
    pub range: OffsetRange,
    /// The rows. There are none if the range holds only gaps.
    pub segment: Arc<Segment>,
    /// Why it was cut.
    pub reason: CutReason,
    /// When its first record was consumed.
    pub opened: TimestampNs,
}

impl Cut {
    /// True when the range holds neither rows nor quarantined records.
    pub fn is_empty(&self) -> bool {
        self.segment.is_empty_in(self.range)
    }
}

/// Why a segment was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CutReason {
    /// It reached its size.
    Full,
    /// Its oldest entry reached its age.
    MaxAge,
    /// Memory is short.
    Pressure,
    /// A client asked for it (`POST /flush`).
    Forced,
    /// The partition moves to another process, or this process stops.
    NotOwned,
}

impl CutReason {
    /// The name in metrics and logs. Loki's name if it has one.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::MaxAge => "max_age",
            Self::Pressure => "pressure",
            Self::Forced => "forced",
            Self::NotOwned => "not_owned",
        }
    }
}

/// The part of a head that processes other than the leader use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// All rows below this offset are in blocks or recorded as lost.
    pub flushed_to: Offset,
    /// The epoch of the leader that wrote the head. It grows with each change of leadership.
    pub epoch: u64,
}

/// The result of publishing a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The head's new flushed-to offset: the end of the cut's range.
    pub flushed_to: Offset,
    /// The block's size in bytes; 0 if the range held no records and no block was made.
    pub block_bytes: u64,
}

/// Why a cut was not published.
#[derive(Debug, Error)]
pub enum CutError {
    /// Another process leads the partition now. Stop serving the partition. The new leader reads unpublished rows from the log.
    #[error("partition {partition} is led by another process now: {reason}")]
    Fenced {
        /// The partition.
        partition: PartitionId,
        /// The conflicting content of the head.
        reason: String,
    },
    /// The store cannot be reached. Publish the same cut again before the next one.
    #[error("cannot publish {range} of partition {partition}: {reason}")]
    Unavailable {
        /// The partition.
        partition: PartitionId,
        /// The cut's range (empty for taking leadership).
        range: OffsetRange,
        /// What failed.
        reason: String,
    },
    /// The log ends below the flushed-to offset. `log` may have been read too early, so read it again. If the log still
    /// ends too early, it was truncated or created anew: stop, since an operator must act.
    #[error("{reason}")]
    LogBehind {
        /// The partition.
        partition: PartitionId,
        /// The problem, and what to do about it.
        reason: String,
    },
    /// The rows could not be encoded, or an object in the store could not be decoded. A retry gives the same result, so
    /// an operator must act. No rows are lost: the log still holds the range.
    #[error("cannot make a block of {range} of partition {partition}: {reason}")]
    Failed {
        /// The partition.
        partition: PartitionId,
        /// The cut's range.
        range: OffsetRange,
        /// What failed.
        reason: String,
    },
}

/// Takes leadership of partitions. Implemented by the block builder.
#[async_trait]
pub trait CutSink: Send + Sync + 'static {
    /// Takes the lead of a partition and fences the previous leader. `log` is the range that the caller can read, from
    /// the log or from its own memory. If it begins above the flushed-to offset, the missing range is recorded as lost
    /// and skipped.
    ///
    /// # Errors
    /// [`CutError::Unavailable`]: try again later. [`CutError::LogBehind`]: read the log's range again and retry.
    async fn acquire(&self, partition: PartitionId, log: OffsetRange) -> Result<Box<dyn Lead>, CutError>;

    /// Reads the head of a partition without taking the lead. Returns `None` if the partition never had a leader. Both
    /// numbers of a head only grow. Cancel-safe.
    ///
    /// # Errors
    /// [`CutError::Unavailable`]: try again later.
    async fn flushed_to(&self, partition: PartitionId) -> Result<Option<Flushed>, CutError>;
}

/// The lead of one partition: only its holder can publish. Dropping it does not release the lead; the next
/// [`CutSink::acquire`] fences it.
#[async_trait]
pub trait Lead: Send + Sync {
    /// All rows below this offset are in blocks or recorded as lost. Consumption starts here, and so does the next cut.
    fn flushed_to(&self) -> Offset;

    /// Grows with each change of leadership.
    fn epoch(&self) -> u64;

    /// Makes a block of the cut and lists it in the head. The block is durable and visible once this returns.
    ///
    /// After [`CutError::Unavailable`], publish the same cut again. If the first attempt did succeed, the second one
    /// notices it. Not cancel-safe: give up the lead if the future was dropped.
    ///
    /// # Panics
    /// When the cut does not start at [`Lead::flushed_to`].
    async fn publish(&mut self, cut: &Cut) -> Result<Published, CutError>;
}
