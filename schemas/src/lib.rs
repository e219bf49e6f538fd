//! Formats that leave a process: today the [`record`], the payload of one message in the log.
//!
//! Each format is written down in this crate's `README.md`, carries a version, and has golden files in `golden/`
//! that every later version must still read. Decoders take any bytes: they answer an error, they never panic.

#![forbid(unsafe_code)]

pub mod record;
mod wire;

pub use record::{Record, RecordBuilder, RecordError, RowRef, StreamSlice};
