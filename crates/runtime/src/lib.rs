//! How a process works: tasks that have owners, one pool of processors for heavy work, and pauses between tries.
//!
//! - [`Tasks`]: a named set of background tasks. Its owner waits for them; nothing runs on after it.
//! - [`Processors`]: the one pool of the process for work that would block an async thread. Each kind of work has a
//!   [`Share`] of it, so that no kind can starve another.
//! - [`Abandoned`]: tells running work that nobody waits for its result any more.
//! - [`Backoff`]: how often, and after which pauses, something is tried again.
//!
//! Not here: async runtimes themselves, shutdown by signals and HTTP servers, which are in `telemetry`.

#![forbid(unsafe_code)]

mod abandoned;
mod backoff;
mod processors;
mod tasks;

pub use abandoned::{AbandonOnDrop, Abandoned};
pub use backoff::Backoff;
pub use processors::{Processors, Share, Turn, WorkLost};
pub use tasks::{Task, Tasks};
