//! The errors of this crate.

use thiserror::Error;

/// Why a block could not be written or read.
#[derive(Debug, Error)]
pub enum BlockError {
    /// The tail was too short to open the file. Fetch this many of the file's last bytes and try again.
    #[error("the last {bytes} bytes of the block are needed to open it")]
    NeedsMore {
        /// Number of bytes needed from the end of the file; more than were given.
        bytes: u64,
    },
    /// The bytes are not a block, or they were changed. A retry does not help; another copy may.
    #[error("block is damaged: {0}")]
    Damaged(String),
    /// This code cannot read the version of the block's format.
    #[error("block has {what} version {found}, this reader knows up to {known}")]
    Version {
        /// The format as a whole, or the section concerned.
        what: String,
        /// The version in the file.
        found: u32,
        /// The newest version that this code reads.
        known: u32,
    },
    /// The Parquet library returned an error. When reading, treat it as [`BlockError::Damaged`].
    #[error("parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Rows could not be turned into arrays, which is a mistake in this crate.
    #[error("arrow: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// The caller of the writer gave it something that a block cannot hold.
    #[error("block cannot hold this: {0}")]
    Refused(String),
    /// The caller of a scan supplied data that do not match the ranges.
    #[error("supplied data does not fit the ranges asked for: {0}")]
    Supply(String),
}

impl BlockError {
    /// A [`BlockError::Damaged`] with this text.
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }
}

impl From<std::io::Error> for BlockError {
    fn from(error: std::io::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}
