//! The payload of one message in the log: the entries of one push request that go to one partition.
//!
//! ```text
//! RecordBuilder ── entries of a request, stream by stream ──▶ Bytes ──▶ the log
//! the log ──▶ Bytes ── Record::decode: checksum, every bound, once ──▶ StreamSlice, borrowed from the message
//! ```
//!
//! `schemas/README.md` describes the layout. The lines of a stream lie end to end, so a slice becomes a
//! [`model::Batch`] without copying them: memory keeps the message itself. Decoding checks everything, so reading a
//! decoded record cannot fail.

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

/// The version that this code writes and reads. Later versions also read their predecessor.
const VERSION: u8 = 1;

/// Bytes of the fixed header.
const HEADER_BYTES: usize = 52;

/// Where the checksum lies, and where the bytes that it covers begin.
const CHECKSUM_AT: usize = 8;
const CHECKED_FROM: usize = 12;

/// Marks a row without the key in a dictionary column.
const ABSENT: u8 = u8::MAX;

/// How the values of one metadata key are laid out.
mod encoding {
    /// One byte per row of the slice: the number of one of at most 254 distinct values, or 255 for no value.
    pub(super) const DICTIONARY: u8 = 0;
    /// One value per row, end to end.
    pub(super) const DENSE: u8 = 1;
    /// The numbers of the rows that have a value, then the values.
    pub(super) const SPARSE: u8 = 2;
}
