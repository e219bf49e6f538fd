//! What stops a plan, and why a read fails, in terms of the driver and of this crate's [`Error`].

use catalogue::driver::{Obstacle, ReadError};
use model::PartitionId;
use object_store::StoreError;
use owner::OwnerError;

use crate::error::Error;

/// What an owner's refusal means for the plan.
pub(crate) fn of_owner(partition: PartitionId, error: OwnerError) -> Obstacle<Error> {
    match error {
        OwnerError::NotHeld { held, .. } => Obstacle::NotHeld { partition, held },
        OwnerError::Removed { range, .. } => Obstacle::Removed { partition, range },
        OwnerError::Query(error) => Obstacle::Failed(error.into()),
        OwnerError::Deadline { consumed, wanted, .. } => Obstacle::Behind { partition, consumed, wanted },
        source => Obstacle::NotAnswered {
            partition,
            is_not_leading: matches!(source, OwnerError::NotLeading { .. }),
            source: Error::Owner { partition, source },
        },
    }
}

/// What an error while reading blocks means for the plan.
pub(crate) fn of_blocks(error: Error) -> Obstacle<Error> {
    match error {
        Error::Fetch { source: StoreError::NotFound(key), .. } => Obstacle::BlockGone { key },
        other => Obstacle::Failed(other),
    }
}

/// The error of a read that the driver gave up.
pub(crate) fn read_error(error: ReadError<Error>) -> Error {
    match error {
        ReadError::Failed(error) | ReadError::NotAnswered { source: error, .. } => error,
        ReadError::NotReached { partition, consumed, wanted, waited } => {
            Error::NotReached { partition, consumed, wanted, waited }
        }
        ReadError::Removed { partition, range } => {
            Error::Owner { partition, source: OwnerError::Removed { partition, range } }
        }
        ReadError::Unsettled { reason, .. } => Error::Unsettled { reason },
        ReadError::Broken(text) => Error::Internal(text),
    }
}
