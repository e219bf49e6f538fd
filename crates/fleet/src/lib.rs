//! Owners in other processes: asks the holder of a partition over the query RPC. Readers use the trait [`owner::Owner`]
//! and do not see where an answer comes from.
//!
//! ```text
//! reader ─▶ Fleet ─▶ candidates: processes that lead, drain or follow (control::View)
//!             │         ├─ this process ─▶ dyn Owner
//!             │         └─ others ─gRPC─▶ OwnerServer ─▶ dyn Owner
//!             └──────▶ if none answers ─▶ owner::LogTail: the missing tail, from the log itself
//! ```
//!
//! - `ask` sends one request to the candidates of a partition, and to the next one when one fails or is silent;
//! - `members` knows the processes;
//! - `tail` merges the live rows of all processes that serve partitions, each row once;
//! - `client` and `server` are the two ends of the RPC, `wire` has its messages (`schemas/proto/query.proto`), and `body`
//!   the large values in them.
//!
//! Invariants: every answer reaches the offset that was asked for ([`owner::Where::at_least`]), whichever process gave it;
//! the log is read only when no holder answers; an error that another try cannot cure ends the request at once.
//!
//! The view is a hint that may be seconds old. Asking a process that is gone fails at once. A paused process delays one
//! request by [`Config::hedge_after`] and [`Config::probe_timeout`], and is asked last for a while. Nothing here outlives a
//! restart.

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

/// Why a fleet cannot start.
#[derive(Debug, Error)]
pub enum Error {
    /// The settings cannot work; the text names every problem.
    #[error("fleet: {0}")]
    Config(String),
    /// The metrics are registered already.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}
