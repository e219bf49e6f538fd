//! What can go wrong with heads.

use model::{Offset, OffsetRange, PartitionId};
use object_store::StoreError;
use thiserror::Error;

/// Why a head could not be read or changed.
#[derive(Debug, Error)]
pub enum CatalogueError {
    /// The object store failed. After [`StoreError::Unavailable`] a change may have happened: make the same one again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another process leads the partition now. Stop cutting; a block that was just written may be listed all the
    /// same, so do not delete it.
    #[error("epoch {epoch} of partition {partition} is over: {owner:?} leads it with epoch {now}")]
    Fenced {
        /// The partition.
        partition: PartitionId,
        /// The epoch that is over.
        epoch: u64,
        /// The epoch that is now.
        now: u64,
        /// Who leads now.
        owner: String,
    },
    /// A cut must start where the head ends.
    #[error("a cut {range} of partition {partition} must start at {flushed_to}, where the head ends")]
    NotFlushedTo {
        /// The partition.
        partition: PartitionId,
        /// The cut.
        range: OffsetRange,
        /// Where the head ends.
        flushed_to: Offset,
    },
    /// The head ends behind the end of the log: records that were flushed are not in the log any more. The log was
    /// truncated, or made anew under its old id.
    #[error(
        "partition {partition} of log {log_id:?} ends at {end}, but was flushed up to {flushed_to}: the log was \
         truncated or made anew under its old id. New records would get offsets that are taken; restore the log, or give \
         it a new id"
    )]
    LogBehindHead {
        /// The log.
        log_id: String,
        /// The partition.
        partition: PartitionId,
        /// The end of the log.
        end: Offset,
        /// Where the head ends.
        flushed_to: Offset,
    },
    /// The object holds the head of another log or partition.
    #[error("{key} must be the head of {expected}, but is the head of {found}: was the store copied or renamed?")]
    OtherHead {
        /// The object.
        key: String,
        /// What it should be the head of.
        expected: String,
        /// What it says.
        found: String,
    },
    /// The object is no head.
    #[error("{key} is no readable head: {reason}")]
    Corrupt {
        /// The object.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The head was written by a newer Millrace.
    #[error("{key} has format {format}; this program reads up to {known}: upgrade it before it takes part")]
    NewerFormat {
        /// The object.
        key: String,
        /// Its format.
        format: u32,
        /// The newest format that this program reads.
        known: u32,
    },
    /// A head that was there is gone.
    #[error("{0} is gone: somebody deleted it while its partition was led")]
    Gone(String),
    /// The change would break an invariant. Nothing was written.
    #[error("refused to write the head of partition {partition}: {reason}")]
    Invalid {
        /// The partition.
        partition: PartitionId,
        /// What is wrong.
        reason: String,
    },
    /// Blocks that should be swapped are not listed any more. Nothing was changed.
    #[error(
        "the head of partition {partition} no longer lists {}: compacted, trimmed or replaced by somebody else meanwhile",
        keys.join(", ")
    )]
    Unlisted {
        /// The partition.
        partition: PartitionId,
        /// The keys that are not listed.
        keys: Vec<String>,
    },
    /// The text cannot be a log's id, since it cannot be a part of an object key.
    #[error("{0:?} cannot be the id of a log: use letters, digits and !-_.*'()=")]
    LogId(String),
}

impl CatalogueError {
    /// True when trying again later may help.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Store(StoreError::Unavailable { .. }))
    }
}
