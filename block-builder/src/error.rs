//! Why a builder cannot be made. What goes wrong with a cut is a [`cut::CutError`].

use thiserror::Error;

/// Why a builder cannot be made.
#[derive(Debug, Error)]
pub enum Error {
    /// Settings that cannot work.
    #[error("block builder: {0}")]
    Config(String),
    /// The metrics could not be registered.
    #[error("block builder: {0}")]
    Metrics(#[from] prometheus::Error),
}
