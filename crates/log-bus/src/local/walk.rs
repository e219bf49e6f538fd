//! Reads the frames of a segment file one after the other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::frame::{self, FrameHeader, HEADER_BYTES};
use crate::LogError;

/// Number of bytes to read at once. Most frames are far smaller.
const READ_BYTES: usize = 512 << 10;

/// Why a walk stopped before the end of the file.
#[derive(Debug)]
pub(super) enum WalkError {
    /// The file cannot be read.
    Io(io::Error),
    /// There is no complete frame at `position`.
    Damage { position: u64, what: &'static str },
    /// The record at `position` is complete, but its partition or offset does not continue those before it. A torn write
    /// cannot cause this.
    Order { position: u64 },
}

impl WalkError {
    /// The error to report for a file whose content was durable.
    pub(super) fn into_log_error(self, path: &Path) -> LogError {
        let (position, what) = match self {
            Self::Io(error) => return LogError::Unavailable(format!("cannot read {}: {error}", path.display())),
            Self::Damage { position, what } => (position, what),
            Self::Order { position } => (position, "a record does not continue those before it"),
        };
        LogError::Damaged {
            file: path.display().to_string(),
            position,
            reason: format!(
                "{what}; this data was durable, so the disk or another program changed it. Restore the log's folder \
                 from a copy, or move it aside to begin a new log (records that are not in blocks yet are lost then)"
            ),
        }
    }
}

/// A position in a segment file that moves from frame to frame.
pub(super) struct Walker<'a> {
    file: &'a File,
    salt: u32,
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    buffer_start: u64,
}

impl<'a> Walker<'a> {
    /// A walker over `[position, end)`. A frame must begin at `position`.
    pub(super) fn new(file: &'a File, salt: u32, position: u64, end: u64) -> Self {
        Self { file, salt, position, end, buffer: Vec::new(), buffer_start: 0 }
    }

    /// The next frame's position and header, or `None` at the end. Does not check the body.
    pub(super) fn next(&mut self) -> Result<Option<(u64, FrameHeader)>, WalkError> {
        let position = self.position;
        if position >= self.end {
            return Ok(None);
        }
        if self.end - position < HEADER_BYTES as u64 {
            return Err(WalkError::Damage { position, what: "the file ends inside a record's header" });
        }
        let salt = self.salt;
        let Some(header) = FrameHeader::decode(self.bytes(position, HEADER_BYTES)?, salt) else {
            return Err(WalkError::Damage { position, what: "a record's header is missing or broken" });
        };
        if self.end - position < header.frame_bytes() {
            return Err(WalkError::Damage { position, what: "the file ends inside a record" });
        }
        self.position = position + header.frame_bytes();
        Ok(Some((position, header)))
    }

    /// The key and payload of a frame that [`Walker::next`] returned.
    pub(super) fn body(&mut self, position: u64, header: &FrameHeader) -> Result<(&[u8], &[u8]), WalkError> {
        let body = self.bytes(position + HEADER_BYTES as u64, header.body_bytes())?;
        let (key, payload) = body.split_at(usize::from(header.key_bytes));
        if frame::body_crc(key, payload) != header.body_crc {
            return Err(WalkError::Damage { position, what: "a record does not match its checksum" });
        }
        Ok((key, payload))
    }

    fn bytes(&mut self, at: u64, length: usize) -> Result<&[u8], WalkError> {
        let held = self.buffer_start..self.buffer_start + self.buffer.len() as u64;
        if at < held.start || at + length as u64 > held.end {
            let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
            self.buffer.clear();
            self.buffer.resize(left.min(READ_BYTES).max(length), 0);
            self.buffer_start = at;
            self.file.read_exact_at(&mut self.buffer, at).map_err(WalkError::Io)?;
        }
        let from = usize::try_from(at - self.buffer_start).unwrap_or(usize::MAX);
        Ok(&self.buffer[from..from + length])
    }
}

/// Searches after a broken frame at `broken` for the header of a later commit batch, and returns its position. If there
/// is one, the broken frame was synced before that batch was written, so it is not the torn end of the last write.
pub(super) fn later_batch(file: &File, salt: u32, broken: u64, end: u64) -> io::Result<Option<u64>> {
    let mut start = broken + 1;
    let mut buffer = Vec::new();
    while start + HEADER_BYTES as u64 <= end {
        let length = usize::try_from(end - start).unwrap_or(usize::MAX).min(READ_BYTES);
        buffer.resize(length, 0);
        file.read_exact_at(&mut buffer, start)?;
        let found = buffer.windows(HEADER_BYTES).position(|window| {
            window[4..6] == frame::MARK
                && FrameHeader::decode(window, salt).is_some_and(|header| header.batch_start > broken)
        });
        if let Some(at) = found {
            return Ok(Some(start + at as u64));
        }
        // Overlaps the next round, so that no header is split between two reads.
        start += (length - HEADER_BYTES + 1) as u64;
    }
    Ok(None)
}
