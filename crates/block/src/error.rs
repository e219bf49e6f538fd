//! What can go wrong with a block.

use thiserror::Error;

/// Why a block could not be written or read.
#[derive(Debug, Error)]
pub enum BlockError {
    /// The tail was too short to open the file. Fetch this many of the file's last bytes and try again.
    #[error("the last {bytes} bytes of the block are needed to open it")]
    NeedsMore {
        /// How many bytes of the end of the file are needed; more than were given.
        bytes: u64,
    },
    /// The bytes are not those of a block, or were changed. Reading again from another copy may help; retrying does not.
    #[error("block is damaged: {0}")]
    Damaged(String),
    /// The file is a block of a format this version cannot read.
    #[error("block has {what} version {found}, this reader knows up to {known}")]
    Version {
        /// The format as a whole, or the section concerned.
        what: String,
        /// The version in the file.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The Parquet library refused. When reading: as [`BlockError::Damaged`].
    #[error("parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Arrays could not be made of the rows; a mistake in this crate.
    #[error("arrow: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// The writer was called with something a block cannot hold.
    #[error("block cannot hold this: {0}")]
    Refused(String),
    /// The caller of a scan supplied something that was not asked for.
    #[error("supplied data does not fit the ranges asked for: {0}")]
    Supply(String),
}

impl BlockError {
    /// A damaged file, said in words.
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }
}

impl From<std::io::Error> for BlockError {
    fn from(error: std::io::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}
