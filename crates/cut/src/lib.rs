//! Where the consumer and the builder meet: a [`Cut`] is one half-open offset range of one partition with all its
//! rows, and a [`CutSink`] turns cuts into blocks that a head lists.
//!
//! ```text
//! consumer: records ─▶ SegmentWriter ─▶ Arc<Segment> ──freeze──▶ Cut ─▶ Lead::publish (builder) ─▶ head
//!                                           └─▶ readers, at any time
//! ```
//!
//! A [`Segment`] keeps the bytes of the records themselves (ADR 0001): tenant → stream → slices of records, in
//! offset order. No line is copied. One writer appends. Readers may read at any moment and hold no lock while they
//! scan. They take only slices below the offset that their answer covers, so they see each record whole or not at all.
//!
//! Invariants: the offsets of a stream's slices never fall (one record may add two slices). Successive cuts of a
//! partition leave no gap and do not overlap. A cut's range may begin inside its segment; the rows below it belong to
//! an earlier block.

#![forbid(unsafe_code)]

mod segment;
mod sink;
mod stream;

pub use segment::{Appended, Quarantined, Segment, SegmentWriter, TenantRows};
pub use sink::{Cut, CutError, CutReason, CutSink, Flushed, Lead, Published};
pub use stream::{Slice, Slices, StreamRows, StreamStats};
