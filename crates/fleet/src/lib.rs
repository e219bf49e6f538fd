//! Owners of other processes: whoever holds a partition is asked over the query RPC, and behind the trait of
//! [`owner::Owner`] a reader does not see where the answer came from.
//!
//! ```text
//! reader ─▶ Fleet ─▶ candidates: who leads, drains, follows (control::View)
//!             │         ├─ this process ─▶ dyn Owner
//!             │         └─ others ─gRPC─▶ OwnerServer ─▶ dyn Owner
//!             └──────▶ nobody can ─▶ owner::LogTail: the missing tail, from the log itself
//! ```
//!
//! - `ask` runs one question against the candidates of a partition: the next one is asked when one fails or is silent;
//! - `tail` merges the live rows of all who serve something, each row once;
//! - `client` and `server` are the two ends of the RPC, `wire` what goes between them (`schemas/proto/query.proto`),
//!   `body` the large values in it.
//!
//! Invariants: an answer passed on reaches what was asked for ([`owner::Where::at_least`]), whoever gave it; the log is read
//! only when no holder answers; an error that asking again cannot change ends the question at once.
//!
//! The view is a hint and seconds old. What it costs: a process that is gone is asked in vain (an error, at once), one
//! that is paused costs [`Config::hedge_after`] and [`Config::probe_timeout`] once, and is asked last for a while.
//! Nothing here is kept over a restart.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own what they start"))]

mod ask;
mod body;
mod client;
mod config;
mod fleet;
mod members;
mod metrics;
mod proto;
mod server;
mod tail;
#[cfg(test)]
mod tests;
mod wire;

use thiserror::Error;

pub use config::Config;
pub use fleet::{Components, Fleet};
pub use server::OwnerServer;

/// Why there is no fleet.
#[derive(Debug, Error)]
pub enum Error {
    /// The settings cannot work; the text names every problem.
    #[error("fleet: {0}")]
    Config(String),
    /// The metrics are registered already.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}
