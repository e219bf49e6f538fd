//! The trait between those who make cuts and those who turn them into blocks.

use std::sync::Arc;

use async_trait::async_trait;
use model::{Offset, OffsetRange, PartitionId, TimestampNs};
use thiserror::Error;

use crate::Segment;

/// One offset range of one partition with all its rows, no longer written to.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The partition.
    pub partition: PartitionId,
    /// What the cut covers, gaps included. Never empty. It may begin inside the segment: a leader that read ahead
    /// while another led cuts from where the other one stopped. What the segment holds outside the range is in other
    /// blocks, and does not belong to the cut.
    pub range: OffsetRange,
    /// The rows; may have none when the range holds only gaps.
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
    /// Somebody asked (`POST /flush`).
    Forced,
    /// The partition goes away from this process, or the process stops.
    NotOwned,
}

impl CutReason {
    /// The word in metrics and logs; Loki's where it has one.
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

/// What a head says, to those who do not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Everything below is in blocks, or recorded as lost.
    pub flushed_to: Offset,
    /// Which lead it is the head of; grows with each change of leadership.
    pub epoch: u64,
}

/// What became of a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// What the head says now: the end of the cut's range.
    pub flushed_to: Offset,
    /// The block's size; 0 when the range held nothing and no block was made.
    pub block_bytes: u64,
}

/// Why a cut was not published.
#[derive(Debug, Error)]
pub enum CutError {
    /// Another process leads the partition now. Stop serving it; what was not published, the other one reads again.
    #[error("partition {partition} is led by another process now: {reason}")]
    Fenced {
        /// The partition.
        partition: PartitionId,
        /// What the head said.
        reason: String,
    },
    /// The store cannot be reached. The same cut may be published again, and must be before the next one.
    #[error("cannot publish {range} of partition {partition}: {reason}")]
    Unavailable {
        /// The partition.
        partition: PartitionId,
        /// The cut's range (empty for taking leadership).
        range: OffsetRange,
        /// What failed.
        reason: String,
    },
    /// The log ends below what is flushed. `log` may have been read too early; when it is so the second time, the log
    /// was truncated or made anew: stop, and let a person look.
    #[error("{reason}")]
    LogBehind {
        /// The partition.
        partition: PartitionId,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The rows could not be encoded, or what the store holds cannot be understood. Trying again gives the same
    /// result: a person must look. Nothing is lost, the log holds the range.
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
    /// Takes the lead of a partition, fencing whoever had it. `log` is what the caller can read of it, from the log or
    /// from memory that it has already: when it begins above what is flushed, the missing range is recorded as lost and
    /// skipped.
    ///
    /// # Errors
    /// [`CutError::Unavailable`]: try again later. [`CutError::LogBehind`]: ask the log again and call again.
    async fn acquire(&self, partition: PartitionId, log: OffsetRange) -> Result<Box<dyn Lead>, CutError>;

    /// What the head of a partition says now, without taking its lead; none when nobody ever led it. Neither of its
    /// numbers ever falls. Cancel-safe.
    ///
    /// # Errors
    /// [`CutError::Unavailable`]: try again later.
    async fn flushed_to(&self, partition: PartitionId) -> Result<Option<Flushed>, CutError>;
}

/// The lead of one partition: only its holder can publish. Dropping it gives nothing back; the next
/// [`CutSink::acquire`] fences it.
#[async_trait]
pub trait Lead: Send + Sync {
    /// Everything below is in blocks, or recorded as lost. Consuming begins here, and so does the next cut.
    fn flushed_to(&self) -> Offset;

    /// Grows with each change of leadership.
    fn epoch(&self) -> u64;

    /// Makes a block of the cut and lists it in the head. Durable and visible once answered.
    ///
    /// After [`CutError::Unavailable`] the same cut must be published again; it may have gone through meanwhile,
    /// which is noticed. Not cancel-safe: give the lead up when the future was dropped.
    ///
    /// # Panics
    /// When the cut does not start at [`Lead::flushed_to`].
    async fn publish(&mut self, cut: &Cut) -> Result<Published, CutError>;
}
