//! The list of processes and the partitions they hold. Each process publishes its state on the control topic and keeps a
//! view of the states of all others.
//!
//! ```text
//! update() ─▶ own state ─beat, or change─▶ control topic ─▶ every process ─▶ Peers ─▶ View ─▶ callers, watchers
//! ```
//!
//! A process publishes its [`ProcessState`] about every two seconds. It also publishes at once when anything other than
//! its held ranges and rates has changed. The [`View`] of a process holds the last state of each process that is alive.
//! Its own state in the view is always current, since it does not pass through the topic.
//!
//! Whether a process is alive depends on the times at which the topic took messages: a process is dropped when others
//! have published for longer than [`Config::expiry`] after its last message. If the whole topic is silent (its broker is
//! down, or somebody deleted it), no process expires and the last view stays. The clocks of the processes do not matter.
//!
//! All of this is only a hint. The heads and their epochs guarantee safety. An outdated view costs a request that is
//! answered with "not here", but never causes a wrong answer.
//!
//! [`Control::run`] does not end when something fails. It counts failures to publish or read, logs them once per outage,
//! and tries again. A restarted process has a new id ([`fresh_id`]), so the messages of its predecessor are not mistaken
//! for its own. Nothing here needs agreement between processes, and no state must survive a restart.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own what they start"))]

mod config;
mod message;
mod metrics;
mod peers;
mod process;
mod state;
mod view;

use thiserror::Error;

pub use config::Config;
pub use message::{MESSAGE_VERSION, MessageError, decode, encode};
pub use process::{Control, fresh_id, fresh_id_with};
pub use state::{PartitionRole, PartitionState, ProcessState, Role};
pub use view::{Holder, Leader, View};

/// Why a process cannot use the control topic.
#[derive(Debug, Error)]
pub enum Error {
    /// The settings or the initial state are invalid. The text names every problem.
    #[error("control: {0}")]
    Config(String),
    /// The metrics are registered already.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}
