//! Formats that leave a process: today the [`record`], the payload of one message in the log.
//!
//! The `README.md` of this crate describes each format. A format carries a version and has golden files in `golden/`
//! that the next version must still read. Decoders accept any bytes: they return an error and never panic.

#![forbid(unsafe_code)]

pub mod record;
mod wire;

pub use record::{Record, RecordBuilder, RecordError, RowRef, StreamSlice};
