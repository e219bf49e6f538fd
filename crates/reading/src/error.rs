//! Why a read fails.

use std::time::Duration;

use block::BlockError;
use catalogue::CatalogueError;
use logql::QueryError;
use model::{Offset, PartitionId, TokenError};
use object_store::StoreError;
use owner::OwnerError;
use runtime::WorkLost;
use thiserror::Error as ThisError;

use crate::byte_limit::TooManyBytes;

/// Why a read fails. [`Error::remedy`] says what the caller can do.
#[derive(Debug, ThisError)]
pub enum Error {
    /// Too many requests of this tenant run or wait already.
    #[error("too many outstanding requests")]
    TooManyOutstanding,
    /// The query would read more than it may.
    #[error(transparent)]
    TooManyBytes(#[from] TooManyBytes),
    /// The read tokens of a request cannot be joined.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A read token belongs to another log.
    #[error(
        "the read token is of another log: the log was replaced since the push, or the push went to another installation"
    )]
    TokenOfOtherLog,
    /// A read token names a partition that the log does not have.
    #[error("the read token names partition {partition}, but the log has {partitions} partitions")]
    TokenBeyondLog {
        /// The last partition that the token names.
        partition: u32,
        /// Number of partitions of the log.
        partitions: usize,
    },
    /// The query itself fails.
    #[error(transparent)]
    Query(QueryError),
    /// Nobody waits for the answer any more.
    #[error("the request was cancelled by the client")]
    Abandoned,
    /// No owner answers for a partition, so recent entries would be missing.
    #[error("partition {partition} cannot be read: {source}")]
    Owner {
        /// The partition.
        partition: PartitionId,
        /// The last answer about it.
        source: OwnerError,
    },
    /// A partition was not consumed as far as the request asks for.
    #[error(
        "partition {partition} is consumed up to offset {consumed}, and this query asks for offset {wanted}, which was not \
         reached within {waited:.1?}; try again, or ask for eventual consistency without a read token"
    )]
    NotReached {
        /// The partition.
        partition: PartitionId,
        /// The offset up to which it is consumed.
        consumed: Offset,
        /// The offset that the request asks for.
        wanted: Offset,
        /// How long the read waited.
        waited: Duration,
    },
    /// The store is unavailable, and the head of a partition has never been read.
    #[error("the head of partition {partition} cannot be read: {reason}")]
    NoHead {
        /// The partition.
        partition: PartitionId,
        /// What the store answered.
        reason: String,
    },
    /// The log cannot be asked for its ends, so the answer could lack acknowledged rows.
    #[error("the end of the log cannot be asked: {0}")]
    LogEnds(#[source] OwnerError),
    /// Owners and heads changed faster than the read could plan.
    #[error("data kept moving while it was read ({reason}); try again")]
    Unsettled {
        /// Why the last plan failed.
        reason: String,
    },
    /// A head cannot be read.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A block cannot be fetched.
    #[error("block {key:?} cannot be read: {source}")]
    Fetch {
        /// The block.
        key: String,
        /// What the store answered.
        source: StoreError,
    },
    /// The bytes of a block are damaged.
    #[error("block {key:?} cannot be decoded: {source}")]
    Block {
        /// The block.
        key: String,
        /// What is wrong with it.
        source: BlockError,
    },
    /// A piece of work panicked, or the process is shutting down.
    #[error("internal error: {0}")]
    WorkLost(#[from] WorkLost),
    /// Something is missing or wrong that this program promises. A defect.
    #[error("internal error: {0}")]
    Internal(String),
}

/// What the caller of a failed read can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Change the request.
    ChangeRequest,
    /// Send fewer requests at a time.
    SlowDown,
    /// Nothing: the caller is gone.
    Gone,
    /// Use a feature that exists.
    NotImplemented,
    /// Allow more time, or ask for less.
    MoreTime,
    /// Try again later: something is unavailable.
    TryAgain,
    /// Tell an operator: data is damaged, or this program has a defect.
    Report,
}

impl Error {
    /// True if a block no longer exists: it was rewritten or removed.
    pub fn is_block_gone(&self) -> bool {
        matches!(self, Self::Fetch { source: StoreError::NotFound(_), .. })
    }

    /// True if the bytes of a block are not those that were written, or fewer.
    pub fn is_block_damaged(&self) -> bool {
        matches!(self, Self::Block { .. } | Self::Fetch { source: StoreError::Range { .. }, .. })
    }

    /// What the caller can do.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::TooManyBytes(_) | Self::Token(_) | Self::TokenOfOtherLog | Self::TokenBeyondLog { .. } => {
                Remedy::ChangeRequest
            }
            Self::TooManyOutstanding => Remedy::SlowDown,
            Self::Query(error) => match error {
                QueryError::NotEvaluated(_) => Remedy::NotImplemented,
                QueryError::Parse(_) | QueryError::Pipeline { .. } | QueryError::SeriesLimit(_) => {
                    Remedy::ChangeRequest
                }
                _ => Remedy::Report,
            },
            Self::Abandoned => Remedy::Gone,
            Self::NotReached { .. } => Remedy::MoreTime,
            Self::Owner { .. } | Self::NoHead { .. } | Self::LogEnds(_) | Self::Unsettled { .. } => Remedy::TryAgain,
            Self::Fetch { source: StoreError::Unavailable { .. }, .. } => Remedy::TryAgain,
            Self::Catalogue(error) if error.is_unavailable() => Remedy::TryAgain,
            Self::Catalogue(_) | Self::Fetch { .. } | Self::Block { .. } | Self::WorkLost(_) | Self::Internal(_) => {
                Remedy::Report
            }
        }
    }
}

impl From<QueryError> for Error {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}
