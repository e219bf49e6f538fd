//! Why the consumer stops for good.

use cut::CutError;
use log_bus::LogError;
use model::PartitionId;
use thiserror::Error;

/// Why the consumer cannot start, or stops for good. Errors that another try may cure are retried and never get here.
#[derive(Debug, Error)]
pub enum Error {
    /// Some settings cannot work.
    #[error("consumer: {0}")]
    Config(String),
    /// The metrics could not be registered.
    #[error("consumer: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The log cannot be used any more, or is not the one that the head was made from.
    #[error("consumer of partition {partition}: {source}")]
    Log {
        /// The partition.
        partition: PartitionId,
        /// The error of the log.
        source: LogError,
    },
    /// The assigned partitions are unknown.
    #[error("consumer: {0}")]
    Assignment(LogError),
    /// No block can be made of a cut, or a head cannot be used. Nothing is lost: the log holds the range.
    #[error("consumer: {0}")]
    Cut(#[from] CutError),
    /// A task ended in a panic.
    #[error("consumer: a task panicked: {0}")]
    Panicked(String),
}
