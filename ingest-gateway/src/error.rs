//! Why the gateway cannot start.

use thiserror::Error;

/// Why the gateway cannot start. What a request may get wrong is answered to the client instead.
#[derive(Debug, Error)]
pub enum Error {
    /// Settings that make no sense: all problems, one a line.
    #[error("the gateway's settings are wrong:\n  {}", .0.join("\n  "))]
    Config(Vec<String>),
    /// A metric's name is taken.
    #[error("the gateway's metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}
