//! Why a builder cannot start. Errors of single cuts are [`cut::CutError`]s.

use thiserror::Error;

/// Why a builder cannot start.
#[derive(Debug, Error)]
pub enum Error {
    /// Some settings cannot work.
    #[error("block builder: {0}")]
    Config(String),
    /// The metrics could not be registered.
    #[error("block builder: {0}")]
    Metrics(#[from] prometheus::Error),
}
