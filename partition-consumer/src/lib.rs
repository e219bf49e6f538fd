//! The owner of partitions: consumes them once, answers for what is recent, and cuts what becomes blocks.
//!
//! ```text
//!            assignment                        ┌────────────▶ readers (trait Owner): scan, streams, tail
//! log ─▶ one task a partition: fetch ─▶ decode ─▶ segment ──cut──▶ CutSink (builder) ─▶ block ─▶ head
//!                                 ▲                 │
//!                                 └─ memory budget ─┘
//! ```
//!
//! A task takes the lead of its partition (epoch + 1 in the head), begins at the head's flushed-to offset F, and
//! fills one segment after the other. A record's own bytes stay in memory (ADR 0001); nothing is copied per line.
//! A segment is cut by size, by age, when memory is short, when somebody asks, and at the end; while it is
//! published the next one fills. It stays for readers until the head lists it and a grace period has passed.
//!
//! Invariants:
//! - the segments of a partition follow one another from F (or below, published and kept) to W without gap; a record
//!   is visible as a whole or not at all;
//! - nothing is evicted that a head did not list before;
//! - nothing is dropped: at the memory cap fetching stops, and the log is the buffer;
//! - a record that cannot be decoded is kept as it is, with its offset; it never stops or skips a partition;
//! - a partition is served only once all is consumed that the log held when its lead was taken: no short answers
//!   after a restart.
//!
//! On failure: the store away – cuts wait, memory fills, fetching stops, recent reads go on; fenced – the memory is
//! dropped, and taken anew after a pause if the partition is still assigned; retention faster than this consumer –
//! what was consumed is published, the hole is recorded as lost, consuming goes on behind it; a crash at any moment –
//! the next start reads again from F.
//!
//! Not here: making blocks, the object store, queries (only their scans), and dropping repeated batches by id: a
//! batch may span several records with one id, and what a restart forgets would come back.

#![forbid(unsafe_code)]

mod budget;
mod config;
mod consumer;
mod error;
mod intake;
mod memory;
mod metrics;
mod publisher;
mod scan;
mod tails;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use consumer::{Components, Consumer};
pub use error::Error;

/// Consumes until `shutdown` is cancelled or something fails for good. [`Consumer::run`] for those who also read.
///
/// # Errors
/// As [`Consumer::new`] and [`Consumer::run`].
pub async fn run(config: Config, components: Components, shutdown: CancellationToken) -> Result<(), Error> {
    let consumer: Arc<Consumer> = Consumer::new(config, components)?;
    consumer.run(shutdown).await
}
