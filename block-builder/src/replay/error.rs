//! Why a replay ended early.

use block::BlockError;
use catalogue::CatalogueError;
use log_bus::LogError;
use model::{Offset, PartitionId};
use object_store::StoreError;
use thiserror::Error;

/// Why a replay ended early. What was done is in its state: run it again from there.
#[derive(Debug, Error)]
pub enum Error {
    /// The job cannot work as it is put.
    #[error("{0}")]
    Job(String),
    /// The state is of another log than the one that is open.
    #[error("the state is of the log {expected}, but this is the log {found}")]
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
        /// Where reading stood.
        at: Offset,
        /// What the log said.
        source: LogError,
    },
    /// The log says that there is more, but brings nothing.
    #[error("partition {partition} brings nothing from offset {at} on, though it should reach up to {end}")]
    Stalled {
        /// The partition.
        partition: PartitionId,
        /// Where reading stood.
        at: Offset,
        /// Where it should have come to.
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
        /// What the store said.
        source: StoreError,
    },
    /// Records could not be made into a block.
    #[error("partition {partition}: no block can be made: {source}")]
    Encode {
        /// The partition.
        partition: PartitionId,
        /// What is wrong.
        source: BlockError,
    },
    /// What was made is not what the log holds: a defect of this program. Nothing was listed.
    #[error("a rebuilt block differs from the log, so that it was not listed; this is a defect, please report it: {0}")]
    Defect(String),
    /// The target refused a batch, or could not be reached for too long.
    #[error("partition {partition}, batch {batch}: {reason}")]
    Target {
        /// The partition.
        partition: PartitionId,
        /// The batch's name.
        batch: String,
        /// What the target said.
        reason: String,
    },
    /// The state could not be kept or read.
    #[error("the state in {file}: {reason}")]
    State {
        /// Where it is.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A task died.
    #[error("a task of the replay was lost: {0}")]
    Lost(String),
    /// Somebody asked to stop. [`run`](super::run) answers with an unfinished outcome instead.
    #[error("stopped")]
    Stopped,
}
