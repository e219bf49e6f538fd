//! One record in a segment file: a header of 48 bytes, the key, the payload.
//!
//! All numbers are little-endian.
//!
//! | at | bytes | content |
//! |---|---|---|
//! | 0 | 4 | CRC32C of bytes 4..48, seeded with the segment's salt |
//! | 4 | 2 | the mark `ML` |
//! | 6 | 2 | length of the key |
//! | 8 | 4 | length of the payload |
//! | 12 | 4 | CRC32C of key and payload |
//! | 16 | 4 | partition |
//! | 20 | 4 | zero |
//! | 24 | 8 | offset |
//! | 32 | 8 | append time, nanoseconds since the epoch |
//! | 40 | 8 | position in this file at which the frame's commit batch began |
//!
//! The header has a checksum of its own, so a reader can trust the length and the partition of a frame without reading
//! its body. Each segment has a random salt, so a tenant cannot send bytes that look like a frame.

use model::{Offset, TimestampNs};

/// The length of a frame without key and payload.
pub(super) const HEADER_BYTES: usize = 48;

/// Bytes 4 and 5 of every frame.
pub(super) const MARK: [u8; 2] = *b"ML";

/// Everything about a record except its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) key_bytes: u16,
    pub(super) payload_bytes: u32,
    pub(super) body_crc: u32,
    pub(super) partition: u32,
    pub(super) offset: Offset,
    pub(super) append_time: TimestampNs,
    /// All of the file before this position was synced before this frame was written.
    pub(super) batch_start: u64,
}

/// The checksum over key and payload.
pub(super) fn body_crc(key: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), payload)
}

impl FrameHeader {
    /// The header's bytes.
    pub(super) fn encode(&self, salt: u32) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[4..6].copy_from_slice(&MARK);
        out[6..8].copy_from_slice(&self.key_bytes.to_le_bytes());
        out[8..12].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        out[16..20].copy_from_slice(&self.partition.to_le_bytes());
        out[24..32].copy_from_slice(&self.offset.value().to_le_bytes());
        out[32..40].copy_from_slice(&self.append_time.nanos().to_le_bytes());
        out[40..48].copy_from_slice(&self.batch_start.to_le_bytes());
        let crc = crc32c::crc32c_append(salt, &out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header from the first 48 bytes. Returns `None` if they are not a valid header.
    pub(super) fn decode(bytes: &[u8], salt: u32) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        if bytes[4..6] != MARK || bytes[20..24] != [0; 4] {
            return None;
        }
        if u32::from_le_bytes(part(bytes, 0)) != crc32c::crc32c_append(salt, &bytes[4..]) {
            return None;
        }
        Some(Self {
            key_bytes: u16::from_le_bytes(part(bytes, 6)),
            payload_bytes: u32::from_le_bytes(part(bytes, 8)),
            body_crc: u32::from_le_bytes(part(bytes, 12)),
            partition: u32::from_le_bytes(part(bytes, 16)),
            offset: Offset::new(i64::from_le_bytes(part(bytes, 24))),
            append_time: TimestampNs::from_nanos(i64::from_le_bytes(part(bytes, 32))),
            batch_start: u64::from_le_bytes(part(bytes, 40)),
        })
    }

    /// The length of key and payload.
    pub(super) fn body_bytes(&self) -> usize {
        usize::from(self.key_bytes) + self.payload_bytes as usize
    }

    /// The length of the whole frame.
    pub(super) fn frame_bytes(&self) -> u64 {
        (HEADER_BYTES + self.body_bytes()) as u64
    }
}

/// `N` bytes of a header, beginning at `at`.
fn part<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = FrameHeader> {
        (any::<u16>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<i64>(), any::<i64>(), any::<u64>()).prop_map(
            |(key_bytes, payload_bytes, body_crc, partition, offset, time, batch_start)| FrameHeader {
                key_bytes,
                payload_bytes,
                body_crc,
                partition,
                offset: Offset::new(offset),
                append_time: TimestampNs::from_nanos(time),
                batch_start,
            },
        )
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(header in header(), salt in any::<u32>()) {
            prop_assert_eq!(FrameHeader::decode(&header.encode(salt), salt), Some(header));
            prop_assert_eq!(FrameHeader::decode(&header.encode(salt), !salt), None);
        }

        #[test]
        fn any_flipped_bit_is_seen(header in header(), salt in any::<u32>(), bit in 0..HEADER_BYTES * 8) {
            let mut bytes = header.encode(salt);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(FrameHeader::decode(&bytes, salt), None);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), salt in any::<u32>()) {
            let _ = FrameHeader::decode(&bytes, salt);
        }
    }
}
