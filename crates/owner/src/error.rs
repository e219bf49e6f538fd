//! Errors of owners.

use model::{Offset, OffsetRange, PartitionId};
use thiserror::Error;

/// Why an owner does not answer. Each variant says what the reader should do.
#[derive(Debug, Error)]
pub enum OwnerError {
    /// The rows were evicted from memory. A newer head lists them: read it and plan again.
    #[error("memory of partition {partition} holds only {held}")]
    NotHeld {
        /// The partition.
        partition: PartitionId,
        /// The offsets that are held.
        held: OffsetRange,
    },
    /// Retention removed records of the log that may not be in blocks, and no process has them in memory. Read the head
    /// again: a newer one lists their blocks, or records them as lost. If nobody leads the partition, no newer head comes:
    /// then ask for rows from the range's end on, and say in the answer what is missing.
    #[error("records {range} of partition {partition} were removed by the log's retention")]
    Removed {
        /// The partition.
        partition: PartitionId,
        /// From the offset asked for to the first one that the log still holds.
        range: OffsetRange,
    },
    /// This process does not serve the partition (yet, or any more). Ask another process, or wait.
    #[error("partition {partition} is not served here")]
    NotLeading {
        /// The partition.
        partition: PartitionId,
    },
    /// The query itself failed. Another try gives the same error.
    #[error(transparent)]
    Query(#[from] logql::QueryError),
    /// The partition was not consumed far enough in time.
    #[error("partition {partition} was consumed up to {consumed}, but not up to {wanted} in time")]
    Deadline {
        /// The partition.
        partition: PartitionId,
        /// The consumed offset.
        consumed: Offset,
        /// The offset that was asked for.
        wanted: Offset,
    },
    /// The log or the store is unavailable. Try again.
    #[error("owner is unavailable: {0}")]
    Unavailable(String),
    /// The owner is shutting down. Ask another process.
    #[error("owner has stopped: {0}")]
    Stopped(String),
}
