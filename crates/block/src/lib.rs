//! The block file format: one Parquet file that any Parquet reader opens, with our own sections near its end.
//!
//! [`BlockWriter`] takes rows by tenant, stream, timestamp and offset, and returns the bytes of a file. A reader
//! fetches the last bytes of the file once ([`BlockIndex::open`]), selects streams ([`BlockIndex::streams`]) and scans
//! them ([`BlockScan`]). The scan does no I/O: it says which byte ranges it needs, and the caller supplies them from a
//! file, an object store or a cache. Everything about one column of the file is in one file of `columns`.
//!
//! ```text
//! BlockWriter ──► bytes ──► object store
//!                              │ last `tail_bytes`          any ranges
//!                              ▼                                ▼
//!                         BlockIndex ──► streams ──► BlockScan ──► model::Batch
//! ```
//!
//! Invariants, asserted by the writer and checked by [`verify`]:
//! - a row group holds rows of one tenant; tenants ascend; a stream's rows are contiguous and ascend;
//! - a checksum covers every byte of the file (each page, each section, and the tail as a whole), and no byte is used
//!   before its checksum was checked;
//! - every row's offset lies in the range of the file's [`Provenance`].
//!
//! `FORMAT.md` describes the format. This crate knows nothing of logs, catalogues or stores. It has no skip filters, split
//! lines or compaction yet; the list of sections leaves room for them.

#![forbid(unsafe_code)]

mod columns;
mod delta;
mod error;
mod index;
mod inspect;
mod options;
mod order;
mod page;
mod quarantine;
mod rle;
mod scan;
mod section;
mod summary;
mod table;
mod thrift;
mod verify;
mod wire;
mod writer;

pub use error::BlockError;
pub use index::{BlockIndex, StreamRef, TenantRef};
pub use inspect::{ColumnBytes, Inspection, SectionBytes, inspect};
pub use options::{BlockOptions, METADATA_KEYS_MAX};
pub use order::{StreamSketch, packing_order};
pub use quarantine::{QuarantinedRecord, quarantined};
pub use scan::{BlockScan, ScanStats, Step};
pub use summary::{BlockSummary, EncodedBlock, Provenance, TenantSummary};
pub use verify::{VerifyReport, verify};
pub use writer::{BlockWriter, Row};
