//! One (push request, partition) slice with many streams: what one message of the log holds.
//!
//! ```text
//! RecordBuilder ── entries of a request, stream by stream ──▶ Bytes ──▶ the log
//! the log ──▶ Bytes ── Record::decode: checksum, every bound, once ──▶ StreamSlice, borrowed from the message
//! ```
//!
//! The layout is in `schemas/README.md`. A stream's lines lie end to end, so that a slice becomes a
//! [`model::Batch`] without copying one of them: memory keeps the message itself. Everything in a decoded record
//! was checked; what reads it afterwards cannot fail.

mod build;
mod decode;
mod slice;

#[cfg(test)]
mod tests;

pub use build::RecordBuilder;
pub use decode::{Record, RecordError};
pub use slice::{RowRef, StreamSlice};

/// The first bytes of every record.
const MAGIC: [u8; 4] = *b"MRec";

/// The version this code writes. It reads this one and the one before (there is none before the first).
const VERSION: u8 = 1;

/// Bytes of the fixed header.
const HEADER_BYTES: usize = 52;

/// Where the checksum lies, and where what it covers begins.
const CHECKSUM_AT: usize = 8;
const CHECKED_FROM: usize = 12;

/// Marks a row without the key in a dictionary column.
const ABSENT: u8 = u8::MAX;

/// How the values of one metadata key are laid out.
mod encoding {
    /// One byte for each row of the slice: which of at most 254 distinct values, or none.
    pub(super) const DICTIONARY: u8 = 0;
    /// Every row has a value; they follow one another.
    pub(super) const DENSE: u8 = 1;
    /// Some rows have a value: their numbers, then their values.
    pub(super) const SPARSE: u8 = 2;
}
