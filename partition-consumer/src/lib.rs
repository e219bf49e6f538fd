//! The owner of partitions: consumes them once, answers reads of recent rows, and cuts what becomes blocks.
//!
//! ```text
//!            assignment                        ┌────────────▶ readers (trait Owner): scan, streams, tail
//! log ─▶ one task per partition: fetch ─▶ decode ─▶ segment ──cut──▶ CutSink (builder) ─▶ block ─▶ head
//!                                 ▲                    │                                            │
//!                                 └── memory budget ───┴────────── segments below F are evicted ◀───┘
//!
//! assigned ─▶ Warming ── epoch + 1 ──▶ Leading ── another process's epoch + 1 ──▶ Draining ──▶ dropped
//! assigned, mode `follow` ─▶ Following
//! ```
//!
//! The task of a partition starts at the head's flushed-to offset F and fills one segment after the other. What else it
//! does depends on its phase (`phase`). A leader cuts its segments by size, by age, when memory is short, when somebody
//! asks for a flush, and at the end; the next segment fills while one is published. In the other phases another process
//! cuts, and this one reads F from the head. Records stay in memory as they came (ADR 0001); no line is copied. A segment
//! stays for readers until a head lists it and a grace period has passed.
//!
//! If there may be other processes (there is a control topic), partitions are handed over warm: the new owner reads the
//! partition and takes the lead when it has caught up; the old one answers until the new one holds as much. A lead ends
//! only this way or with the process. What other processes report is a hint: it decides when to wait. The head decides
//! who leads.
//!
//! Invariants:
//! - the segments of a partition follow one another from F (or below) to W without a gap; a record is visible as a whole
//!   or not at all;
//! - only rows that a head lists are evicted; this process wrote or read that head;
//! - cuts begin at the flushed-to offset of the own lead's head, which may lie anywhere in a segment;
//! - nothing is dropped: at the memory cap fetching stops, and the log is the buffer. A process that only reads along
//!   stops earlier, so that there is room for partitions whose cuts free memory;
//! - a record that cannot be decoded is kept as it is, with its offset; it never stops or skips a partition;
//! - a partition is served only after everything is consumed that the log held at the start, so that answers are complete
//!   after a restart.
//!
//! On failure:
//! - the store is unavailable: cuts wait, memory fills, fetching stops, recent reads go on;
//! - fenced: the partition is held for readers until the new leader answers, and taken back after a pause if it is still
//!   assigned and the other process is gone. A process that is alone on its log drops the memory instead;
//! - retention overtakes this consumer: everything consumed is published, the gap is recorded as lost, and consuming goes
//!   on after it;
//! - a crash at any moment: the next start reads again from F;
//! - nobody takes a partition that was revoked: this process goes on leading it.
//!
//! Not here: making blocks, the object store, queries (only their scans), and dropping repeated batches by id: a batch may
//! span several records with one id, and after a restart the ids seen so far would be unknown.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own what they start"))]

mod assignments;
mod budget;
mod components;
mod config;
mod consumer;
mod error;
mod head_watch;
mod intake;
mod memory;
mod metrics;
mod order;
mod peers;
mod phase;
mod publisher;
mod scan;
mod state;
mod tails;
#[cfg(test)]
mod tests;

pub use components::Components;
pub use config::{Config, Mode};
pub use consumer::Consumer;
pub use error::Error;
