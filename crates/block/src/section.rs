//! Sections (the parts of the file that other Parquet readers do not know), their list, and the seal of the file's tail.

use serde::{Deserialize, Serialize};

use crate::BlockError;

/// Version of the format as a whole: the layout of row groups and of the list of sections.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Keys of the Parquet footer's key-value metadata.
pub(crate) const KEY_FORMAT: &str = "millrace.format";
pub(crate) const KEY_PROVENANCE: &str = "millrace.provenance";
pub(crate) const KEY_SECTIONS: &str = "millrace.sections";
pub(crate) const KEY_SEAL: &str = "millrace.seal";

/// Names of the sections that this code knows.
pub(crate) const STREAMS: &str = "streams";
pub(crate) const CHECKSUMS: &str = "checksums";
pub(crate) const QUARANTINE: &str = "quarantine";

/// Version of the section of page checksums.
pub(crate) const CHECKSUMS_VERSION: u32 = 1;

/// Length of the end of a Parquet file: the length of the footer, and the magic.
const END_BYTES: usize = 8;
pub(crate) const MAGIC: &[u8; 4] = b"PAR1";

/// One section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) crc32c: u32,
}

impl Section {
    /// Returns the section's bytes from `bytes`, which begin at `start` in the file, after checking their checksum.
    pub(crate) fn slice<'a>(&self, bytes: &'a [u8], start: u64) -> Result<&'a [u8], BlockError> {
        let outside = || BlockError::damaged(format!("section {} lies outside of the bytes that were read", self.name));
        let from = self.offset.checked_sub(start).and_then(|v| usize::try_from(v).ok()).ok_or_else(outside)?;
        let to = usize::try_from(self.length).ok().and_then(|v| v.checked_add(from)).ok_or_else(outside)?;
        let bytes = bytes.get(from..to).ok_or_else(outside)?;
        if crc32c::crc32c(bytes) != self.crc32c {
            return Err(BlockError::damaged(format!("checksum of section {} differs", self.name)));
        }
        Ok(bytes)
    }
}

/// The section of this name, if there is one. Fails if its version is newer than `known`.
pub(crate) fn find<'a>(sections: &'a [Section], name: &str, known: u32) -> Result<Option<&'a Section>, BlockError> {
    let Some(section) = sections.iter().find(|section| section.name == name) else {
        return Ok(None);
    };
    if section.version > known {
        return Err(BlockError::Version { what: format!("section {name}"), found: section.version, known });
    }
    Ok(Some(section))
}

/// The seal is the last key-value pair of the footer: the length of the tail in 16 hex digits, a colon, and the CRC32C
/// of the tail in 8 hex digits, computed while all 25 characters are `0`. Its fixed length lets the writer fill it in last,
/// and lets the reader find it before it parses unchecked bytes.
pub(crate) const SEAL_BLANK: &str = "0000000000000000000000000";

/// The key of the pair in thrift's encoding, followed by the type and the length of the value.
fn seal_pattern() -> Vec<u8> {
    let mut pattern = KEY_SEAL.as_bytes().to_vec();
    pattern.extend_from_slice(&[0x18, SEAL_BLANK.len() as u8]);
    pattern
}

/// Where the seal's text lies in `bytes`, the end of a file whose footer is `footer_bytes` long.
fn find_seal(bytes: &[u8], footer_bytes: usize) -> Option<usize> {
    let pattern = seal_pattern();
    let footer = &bytes[bytes.len() - END_BYTES - footer_bytes..bytes.len() - END_BYTES];
    let found = footer.windows(pattern.len()).rposition(|window| window == pattern)?;
    let at = bytes.len() - END_BYTES - footer_bytes + found + pattern.len();
    (at + SEAL_BLANK.len() <= bytes.len() - END_BYTES).then_some(at)
}

/// The length of the footer, from the end of a file.
fn footer_bytes(tail: &[u8]) -> Result<usize, BlockError> {
    let end = tail.last_chunk::<END_BYTES>().ok_or(BlockError::NeedsMore { bytes: END_BYTES as u64 })?;
    if &end[4..] != MAGIC {
        return Err(BlockError::damaged("the file does not end like a Parquet file"));
    }
    Ok(u32::from_le_bytes([end[0], end[1], end[2], end[3]]) as usize)
}

/// CRC32C of `tail` with a blank seal at `seal_at`.
fn crc_of_sealed(tail: &[u8], seal_at: usize) -> u32 {
    let crc = crc32c::crc32c(&tail[..seal_at]);
    let crc = crc32c::crc32c_append(crc, SEAL_BLANK.as_bytes());
    crc32c::crc32c_append(crc, &tail[seal_at + SEAL_BLANK.len()..])
}

/// Writes the seal of a finished file whose tail begins at `tail_start`.
pub(crate) fn seal(file: &mut [u8], tail_start: usize) -> Result<(), BlockError> {
    let footer = footer_bytes(file)?;
    let missing = || BlockError::damaged("the seal was not written");
    let seal_at = find_seal(file, footer).and_then(|at| at.checked_sub(tail_start)).ok_or_else(missing)?;
    let tail = &mut file[tail_start..];
    let text = seal_text(tail.len() as u64, crc_of_sealed(tail, seal_at));
    tail[seal_at..seal_at + text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}

/// Checks the seal of a file of `file_bytes`, given its last bytes. Returns the part of `bytes` that the seal covers.
pub(crate) fn check_seal(file_bytes: u64, bytes: &bytes::Bytes) -> Result<bytes::Bytes, BlockError> {
    let whole = bytes.len() as u64 >= file_bytes;
    if bytes.len() as u64 > file_bytes {
        return Err(BlockError::damaged("more bytes were given than the file has"));
    }
    let needs = |needed: u64| match whole {
        true => BlockError::damaged("the file is shorter than the lengths at its end require"),
        false if needed > file_bytes => BlockError::damaged("the file is shorter than the lengths at its end require"),
        false => BlockError::NeedsMore { bytes: needed },
    };
    if bytes.len() < END_BYTES {
        return Err(needs(END_BYTES as u64));
    }
    let footer = footer_bytes(bytes)?;
    if footer.saturating_add(END_BYTES) > bytes.len() {
        return Err(needs(footer as u64 + END_BYTES as u64));
    }
    let seal_at =
        find_seal(bytes, footer).ok_or_else(|| BlockError::damaged("the file is not a block: it has no seal"))?;
    let (length, crc) = parse_seal(&bytes[seal_at..seal_at + SEAL_BLANK.len()])?;
    if length > bytes.len() as u64 {
        return Err(needs(length));
    }
    let tail = bytes.slice(bytes.len() - length as usize..);
    let seal_at = seal_at
        .checked_sub(bytes.len() - tail.len())
        .ok_or_else(|| BlockError::damaged("the seal lies outside of the tail that it covers"))?;
    if crc_of_sealed(&tail, seal_at) != crc {
        return Err(BlockError::damaged("checksum of the tail differs"));
    }
    Ok(tail)
}

fn seal_text(length: u64, crc: u32) -> String {
    format!("{length:016x}:{crc:08x}")
}

/// Parses the length and the checksum of a seal. The checksum does not cover its own text, so only the canonical spelling is
/// accepted.
fn parse_seal(text: &[u8]) -> Result<(u64, u32), BlockError> {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| {
        let (length, crc) = text.split_once(':')?;
        let (length, crc) = (u64::from_str_radix(length, 16).ok()?, u32::from_str_radix(crc, 16).ok()?);
        (seal_text(length, crc) == text).then_some((length, crc))
    });
    parsed.ok_or_else(|| BlockError::damaged("the text of the seal is malformed"))
}
