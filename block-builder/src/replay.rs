//! Replay: reads a window of the log again, to compare it with blocks, to rebuild blocks, or to send it on.
//!
//! ```text
//! Job ─▶ plan: offsets of the window, from the log's time index ─▶ State (saved to a file: stop and resume anywhere)
//!                                                                  │ partitions in parallel
//!            ┌───────────────── Verify ────────────────┬───────────┴ Rebuild ────────────┬──── Send ────┐
//!            log rows ≟ block rows, block by block     log ─▶ blocks ─▶ one CAS a head   batches ─▶ Target
//! ```
//!
//! [`plan`] fixes the offsets of the window once; later records do not belong to it. [`run`] works from a [`State`] and saves
//! it after each step: a block compared, a block rebuilt, or a batch acknowledged. Its token can stop it at any moment. A
//! later [`run`] with the saved state resumes there.
//!
//! Invariants:
//! - queries stay correct while a replay runs. Verifying and sending only read. Rebuilt blocks are uploaded and compared
//!   with the log before one compare-and-swap lists them in place of the old ones, whose objects stay;
//! - entries of one stream and partition are sent in log order, and each batch only after the previous one is
//!   acknowledged. A batch is named after its first position, so that a repeat has the same name and content;
//! - a crash between an acknowledgement and the save of the state repeats at most one batch per partition.
//!
//! Not here: the command line, and targets that use HTTP or files. Callers implement [`Target`].

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
