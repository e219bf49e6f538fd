//! What an owner may say instead of an answer.

use model::{Offset, OffsetRange, PartitionId};
use thiserror::Error;

/// What an owner may say instead of an answer. Each variant says what the reader should do.
#[derive(Debug, Error)]
pub enum OwnerError {
    /// The rows asked for are no longer in memory. A head lists them by now: read it and plan again.
    #[error("memory of partition {partition} holds {held} only")]
    NotHeld {
        /// The partition.
        partition: PartitionId,
        /// What is held now.
        held: OffsetRange,
    },
    /// The log's retention removed records that are not known to lie in blocks; nobody has them in memory. Read the head
    /// again: a newer one lists blocks of them, or says that they are lost. When none ever does, because nobody leads the
    /// partition, ask for rows from the range's end on, and say in the answer what it lacks.
    #[error("records {range} of partition {partition} were removed by the log's retention")]
    Removed {
        /// The partition.
        partition: PartitionId,
        /// From the offset asked for to the first one that the log still holds.
        range: OffsetRange,
    },
    /// This process does not serve the partition (yet, or any more). Ask another, or wait.
    #[error("partition {partition} is not served here")]
    NotLeading {
        /// The partition.
        partition: PartitionId,
    },
    /// The query itself failed. Asking again gives the same answer.
    #[error(transparent)]
    Query(#[from] logql::QueryError),
    /// The partition was not consumed far enough in time.
    #[error("partition {partition} is consumed up to {consumed}, not up to {wanted} in time")]
    Deadline {
        /// The partition.
        partition: PartitionId,
        /// How far it came.
        consumed: Offset,
        /// How far it should have come.
        wanted: Offset,
    },
    /// The log or the store could not be asked. Try again.
    #[error("owner is unavailable: {0}")]
    Unavailable(String),
    /// The owner is shutting down. Ask another.
    #[error("owner has stopped: {0}")]
    Stopped(String),
}
