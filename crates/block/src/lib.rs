//! The block file format: one Parquet file that any Parquet reader opens, with our own sections near its end.
//!
//! In go rows by tenant, stream, timestamp and offset; out comes a file as bytes ([`BlockWriter`]). A reader
//! fetches the last bytes of the file once ([`BlockIndex::open`]), asks which streams match ([`BlockIndex::streams`]),
//! and scans them ([`BlockScan`]) without doing I/O itself: the scan says which byte ranges it needs, and the caller
//! supplies them from a file, an object store or a cache.
//!
//! ```text
//! BlockWriter ──► bytes ──► object store
//!                              │ last `tail_bytes`          any ranges
//!                              ▼                                ▼
//!                         BlockIndex ──► streams ──► BlockScan ──► model::Batch
//! ```
//!
//! Invariants, asserted by the writer and checked by [`verify`]:
//! - a row group holds rows of one tenant; tenants ascend, a stream's rows follow one another and ascend;
//! - every byte of the file is covered by a checksum (pages one by one, sections, and the tail as a whole), and no
//!   byte is used before its checksum was checked;
//! - every row's offset lies in the range of the file's [`Provenance`].
//!
//! The format is written down in `FORMAT.md`. This crate knows nothing of logs, catalogues or stores. Skip filters,
//! split lines and compaction are not here yet; the section list leaves room for them.

#![forbid(unsafe_code)]

mod buffers;
mod delta;
mod error;
mod index;
mod inspect;
mod lines;
mod options;
mod order;
mod page;
mod rle;
mod scan;
mod schema;
mod section;
mod summary;
mod table;
mod thrift;
mod verify;
mod wire;
mod writer;

pub use error::BlockError;
pub use index::{BlockIndex, StreamRef, TenantRef};
pub use inspect::{ColumnBytes, Inspection, QuarantinedRecord, SectionBytes, inspect, quarantined};
pub use options::{BlockOptions, METADATA_KEYS_MAX};
pub use order::{StreamSketch, packing_order};
pub use scan::{BlockScan, ScanStats, Step};
pub use summary::{BlockSummary, EncodedBlock, Provenance, TenantSummary};
pub use verify::{VerifyReport, verify};
pub use writer::{BlockWriter, Row};
