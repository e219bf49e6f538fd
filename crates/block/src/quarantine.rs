//! Section `quarantine`: the records of the log that could not be decoded.

use bytes::Bytes;
use model::Offset;

use crate::{
    BlockError, BlockIndex,
    table::{compress, decompress},
    wire::{Reader, put_bytes, put_varint, put_zigzag},
};

/// Version of the section.
pub(crate) const QUARANTINE_VERSION: u32 = 1;

/// A record that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedRecord {
    /// Its offset.
    pub offset: Offset,
    /// Why it could not be decoded.
    pub reason: String,
    /// Its bytes.
    pub raw: Bytes,
}

/// The records of a block that could not be decoded, from the whole file.
///
/// # Errors
/// When the section is damaged or of a newer version.
pub fn quarantined(index: &BlockIndex, file: &Bytes) -> Result<Vec<QuarantinedRecord>, BlockError> {
    let Some(section) = index.quarantine(QUARANTINE_VERSION)? else {
        return Ok(Vec::new());
    };
    let bytes = Bytes::from(decompress(section.slice(file, 0)?)?);
    let mut reader = Reader::new(&bytes);
    let mut records = Vec::new();
    for _ in 0..reader.count()? {
        let offset = Offset::new(reader.zigzag()?);
        let reason = reader.text()?.to_owned();
        records.push(QuarantinedRecord { offset, reason, raw: bytes.slice_ref(reader.bytes()?) });
    }
    reader.finish()?;
    Ok(records)
}

/// Encodes the quarantine section.
pub(crate) fn encode_quarantine(records: &[(Offset, String, Vec<u8>)], zstd_level: i32) -> Result<Vec<u8>, BlockError> {
    let mut out = Vec::new();
    put_varint(&mut out, records.len() as u64);
    for (offset, reason, raw) in records {
        put_zigzag(&mut out, offset.value());
        put_bytes(&mut out, reason.as_bytes());
        put_bytes(&mut out, raw);
    }
    compress(&out, zstd_level)
}
