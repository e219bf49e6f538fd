//! Why a replay ended early.

use block::BlockError;
use catalogue::CatalogueError;
use log_bus::LogError;
use model::{Offset, PartitionId};
use object_store::StoreError;
use thiserror::Error;

/// Why a replay ended early. Its state holds the progress: run it again from there.
#[derive(Debug, Error)]
pub enum Error {
    /// The job is not possible.
    #[error("{0}")]
    Job(String),
    /// The state belongs to another log than the one that is open.
    #[error("the state belongs to the log {expected}, but this is the log {found}")]
    OtherLog {
        /// The log that the state names.
        expected: String,
        /// The log that is open.
        found: String,
    },
    /// The log failed, or retention passed the reader.
    #[error("partition {partition}, at offset {at}: {source}")]
    Log {
        /// The partition.
        partition: PartitionId,
        /// The next offset to read.
        at: Offset,
        /// The error of the log.
        source: LogError,
    },
    /// The log has more records, but returns none.
    #[error("partition {partition} returns no records from offset {at} on, though its end should be {end}")]
    Stalled {
        /// The partition.
        partition: PartitionId,
        /// The next offset to read.
        at: Offset,
        /// The end of the range.
        end: Offset,
    },
    /// A head could not be read or changed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The object store failed.
    #[error("{key}: {source}")]
    Store {
        /// The object.
        key: String,
        /// The error of the store.
        source: StoreError,
    },
    /// No block can be made of the records.
    #[error("partition {partition}: no block can be made: {source}")]
    Encode {
        /// The partition.
        partition: PartitionId,
        /// The reason.
        source: BlockError,
    },
    /// A rebuilt block differs from the log, which is a defect of this program. Nothing was listed.
    #[error("a rebuilt block differs from the log and was not listed; this is a defect, please report it: {0}")]
    Defect(String),
    /// The target refused a batch, or was unreachable for too long.
    #[error("partition {partition}, batch {batch}: {reason}")]
    Target {
        /// The partition.
        partition: PartitionId,
        /// The batch's name.
        batch: String,
        /// The reason.
        reason: String,
    },
    /// The state file could not be written or read.
    #[error("the state in {file}: {reason}")]
    State {
        /// The file.
        file: String,
        /// The reason.
        reason: String,
    },
    /// A task died.
    #[error("a task of the replay was lost: {0}")]
    Lost(String),
    /// The replay was stopped. [`run`](super::run) returns an unfinished outcome instead of this.
    #[error("stopped")]
    Stopped,
}
