//! Replay: what the log holds of a window of time is read again, and compared with blocks, made into blocks, or sent on.
//!
//! ```text
//! Job ─▶ plan: offsets of the window, from the log's time index ─▶ State (kept in a file: stop and resume anywhere)
//!                                                                  │ partitions in parallel
//!            ┌───────────────── Verify ────────────────┬───────────┴ Rebuild ────────────┬──── Send ────┐
//!            log rows ≟ block rows, block by block     log ─▶ blocks ─▶ one CAS a head   batches ─▶ Target
//! ```
//!
//! [`plan`] fixes the window's offsets once; what is appended later does not belong to it. [`run`] works from a [`State`],
//! saves it after each step (a block compared, a block made, a batch acknowledged), and ends at any moment when its
//! token is cancelled; a later [`run`] with the saved state goes on where it ended.
//!
//! Invariants:
//! - nothing here makes an answer wrong while it runs: verifying and sending only read; rebuilt blocks are in the
//!   store, and were compared with the log, before one compare-and-swap lists them in place of the old ones, whose objects stay;
//! - entries of one stream and partition are sent in the order of the log, each batch only after the one before it was
//!   acknowledged; a batch's name is made from where it begins, so that a repeat has the same name and content;
//! - a crash between an acknowledgement and the save of the state repeats at most that one batch of a partition.
//!
//! Not here: targets that speak HTTP or write files ([`Target`] is implemented by the caller), the command line.

mod blocks;
mod contents;
mod context;
mod error;
mod job;
mod plan;
mod progress;
mod rebuild;
mod records;
mod retries;
mod run;
mod send;
mod state;
mod target;
mod verify;

#[cfg(test)]
mod tests;

pub use context::{Components, Options};
pub use error::Error;
pub use job::{By, Job, Mode, Selection, Tenants, Window};
pub use plan::{Estimate, PartitionPlan, plan};
pub use progress::Progress;
pub use run::{Outcome, run};
pub use state::{
    Amount, Difference, Keep, NotCompared, OldBlock, PartitionState, Position, Rebuilt, SkippedBlock, State, StateFile,
};
pub use target::{Batch, BatchStream, Entry, SendError, Target};
