//! Heads, their compare-and-swap protocol, and the rules of the exact read.
//!
//! ```text
//! builder: Heads::acquire ─▶ Leadership::publish ─▶ meta/<log id>/p/<n>/head   (compare-and-swap)
//! replay:  Heads::swap_blocks ─▶ the same head, other blocks of the same ranges
//! query:   driver::ReadDriver ─▶ heads ─▶ catalogue ─▶ read::plan ─▶ memory + blocks, each row once
//! ```
//!
//! A [`Head`] says of one partition of one log up to where it is flushed (F), and which blocks hold it. It is the
//! truth: committed offsets follow it, memory is evicted below it, readers join blocks and memory at it.
//!
//! Invariants, checked whenever a head is written or read:
//! - blocks, lost ranges and empty ranges cover `[trimmed_to, F)` exactly: no gap, no overlap;
//! - F and the epoch never fall; a cut is published only by the leader of the current epoch, and only from F on;
//! - a change whose reply got lost is recognised by its nonce; it is never made twice.
//!
//! Not here: the format of blocks, compaction (its catalogue will live here: [`read`] has its place in the rules), and
//! garbage collection beyond naming orphans.
//!
//! The module `simulation` (tests) runs this code under random interleavings of owners, readers, crashes and faults,
//! and checks that each rule is needed.

#![forbid(unsafe_code)]

mod codec;
pub mod driver;
mod error;
mod head;
mod heads;
mod keys;
mod leadership;
pub mod read;
mod rules;
#[cfg(test)]
mod simulation;
mod swap;

pub use codec::FORMAT;
pub use error::CatalogueError;
pub use head::{BlockEntry, Head, Lost, TenantEntry};
pub use heads::{Heads, LogBounds, log_ids};
pub use keys::{block_key, head_key};
pub use leadership::Leadership;
