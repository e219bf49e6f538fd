//! Who is there, and who holds what: every process tells the others about itself on the control topic, and keeps a view
//! of what they told.
//!
//! ```text
//! update() ─▶ own state ─beat, or change─▶ control topic ─▶ every process ─▶ Peers ─▶ View ─▶ who asks, who waits
//! ```
//!
//! A process publishes a [`ProcessState`] about every two seconds, and at once when something other than its held
//! ranges and rates changed. The [`View`] of a process holds the last state of each process that is alive, and its own
//! state as it is now, without the way through the topic.
//!
//! *Alive* goes by the times at which the topic took messages: a process is dropped when others went on for longer than
//! [`Config::expiry`] after its last word. A topic that is silent (its broker is down, somebody deleted it) makes nobody
//! old: the last view stays. Clocks of processes play no part.
//!
//! All of this is a hint and no more. Safety is in the heads and their epochs; a view that is seconds old costs a
//! question that is answered with "not here", never a wrong answer.
//!
//! Failures never end [`Control::run`]: what cannot be published or read is counted, told once per outage, and tried
//! again. A restarted process has another id ([`fresh_id`]), so that what its predecessor said cannot be taken for its own.
//! There is no agreement on anything here, and no state that must be kept.

#![forbid(unsafe_code)]

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
pub use process::{Control, fresh_id};
pub use state::{PartitionRole, PartitionState, ProcessState, Role};
pub use view::{Holder, Leader, View};

/// Why a process cannot take part.
#[derive(Debug, Error)]
pub enum Error {
    /// The settings, or the initial state, cannot work; the text names every problem.
    #[error("control: {0}")]
    Config(String),
    /// The metrics are registered already.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}
