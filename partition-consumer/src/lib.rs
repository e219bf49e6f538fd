//! The owner of partitions: consumes them once, answers for what is recent, and cuts what becomes blocks.
//!
//! ```text
//!            assignment                        ┌────────────▶ readers (trait Owner): scan, streams, tail
//! log ─▶ one task a partition: fetch ─▶ decode ─▶ segment ──cut──▶ CutSink (builder) ─▶ block ─▶ head
//!                                 ▲                 │                                            │
//!                                 └─ memory budget ─┴──────────── what is in blocks goes ◀───────┘
//!
//! assigned ─▶ Warming ── epoch + 1 ──▶ Leading ── another one's epoch + 1 ──▶ Draining ──▶ let go
//! assigned, mode `follow` ─▶ Following
//! ```
//!
//! A task begins at the head's flushed-to offset F and fills one segment after the other, whatever the process is to the
//! partition; what that is goes through phases (`phase`). Leading, its segments are cut by size, by age, when memory is
//! short, when somebody asks, and at the end; while one is published the next one fills. Otherwise another process
//! cuts, and this one reads from the head how far it got. A record's own bytes stay in memory (ADR 0001); nothing is
//! copied per line. A segment stays for readers until a head lists it and a grace period has passed.
//!
//! Where other processes may be (there is a control topic), a partition changes hands warm: the new one reads it, takes
//! the lead when it is caught up, and the old one answers on until the new one holds as much. A lead ends only by
//! that, or with the process. What others say of themselves is a hint, and decides when to wait; the head decides who
//! leads.
//!
//! Invariants:
//! - the segments of a partition follow one another from F (or below, kept) to W without gap; a record is visible as a
//!   whole or not at all;
//! - nothing is let go that a head did not list before: one that this process wrote, or read;
//! - cuts begin where the head of the own epoch ends, wherever in a segment that is;
//! - nothing is dropped: at the memory cap fetching stops, and the log is the buffer; who only reads along stops
//!   before, so that there is room for those whose cuts make room;
//! - a record that cannot be decoded is kept as it is, with its offset; it never stops or skips a partition;
//! - a partition is served only once all is consumed that the log held in the beginning: no short answers after a
//!   restart.
//!
//! On failure: the store away – cuts wait, memory fills, fetching stops, recent reads go on; fenced – the partition is
//! held on as a reader until the other one answers (alone on its log: the memory is dropped), and taken back after
//! a pause if it is still assigned and the other one is gone; retention faster than this consumer – what was consumed is
//! published, the hole is recorded as lost, consuming goes on behind it; a crash at any moment – the next start reads
//! again from F; nobody takes a partition that was given away – it is led on.
//!
//! Not here: making blocks, the object store, queries (only their scans), and dropping repeated batches by id: a
//! batch may span several records with one id, and what a restart forgets would come back.

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
