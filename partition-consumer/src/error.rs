//! Why the consumer stops for good.

use cut::CutError;
use log_bus::LogError;
use model::PartitionId;
use thiserror::Error;

/// Why the consumer cannot be made, or stops for good. What can be tried again is tried again and never gets here.
#[derive(Debug, Error)]
pub enum Error {
    /// Settings that cannot work.
    #[error("consumer: {0}")]
    Config(String),
    /// The metrics could not be registered.
    #[error("consumer: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The log is of no use any more, or not the one that was flushed.
    #[error("consumer of partition {partition}: {source}")]
    Log {
        /// The partition.
        partition: PartitionId,
        /// What the log said.
        source: LogError,
    },
    /// What partitions to own cannot be learnt.
    #[error("consumer: {0}")]
    Assignment(LogError),
    /// A cut cannot be made into a block, or a head is of no use. Nothing is lost: the log holds the range.
    #[error("consumer: {0}")]
    Cut(#[from] CutError),
    /// A task ended in a panic.
    #[error("consumer: a task panicked: {0}")]
    Panicked(String),
}
