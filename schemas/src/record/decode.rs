//! Decodes records. All checks of untrusted bytes are here.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use model::{Labels, TenantId, TimeRange, TimestampNs};
use thiserror::Error;

use super::slice::{Column, SliceInner, StreamSlice, Values};
use super::{ABSENT, CHECKED_FROM, CHECKSUM_AT, HEADER_BYTES, MAGIC, VERSION, encoding};
use crate::wire::{Reader, Reason, i64_at, i64s, u32_at, u32s};

/// Why bytes are not a record. A retry gives the same error, so callers quarantine the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The bytes do not begin with the magic of a record.
    #[error("not a record: it does not begin with the magic bytes")]
    NotARecord,
    /// This code does not read the record's version.
    #[error("record version {found} is not supported: this program reads version {VERSION}")]
    Version {
        /// The value in the record.
        found: u8,
    },
    /// The length in the header is not the length of the bytes.
    #[error("record of {found} bytes should have {expected}")]
    Length {
        /// The value in the record.
        expected: u64,
        /// The actual length.
        found: usize,
    },
    /// The checksum does not match: the bytes were changed after they were written.
    #[error("record checksum is {found:08x}, should be {expected:08x}")]
    Checksum {
        /// The value in the record.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
    /// The checksum matches, but the content is inconsistent: a faulty program wrote it.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
}

impl From<Reason> for RecordError {
    fn from(reason: Reason) -> Self {
        Self::Malformed(reason)
    }
}

/// A decoded record. It shares the bytes of the message, and clones are cheap.
#[derive(Clone, Debug)]
pub struct Record {
    tenant: TenantId,
    received: TimestampNs,
    batch_id: Option<Arc<str>>,
    time: TimeRange,
    entries: usize,
    line_bytes: u64,
    payload_bytes: usize,
    slices: Arc<[StreamSlice]>,
}

impl Record {
    /// Decodes a record. The checksum and every bound are checked here, once.
    ///
    /// # Errors
    /// When the bytes are not a record. No bytes make this panic.
    pub fn decode(payload: Bytes) -> Result<Self, RecordError> {
        let header = Header::read(&payload)?;
        let mut reader = Reader::new(&payload, HEADER_BYTES);
        let tenant = TenantId::new(reader.text()?).map_err(|_| "the tenant's name is not allowed")?;
        let batch_id = Some(reader.text()?).filter(|id| !id.is_empty()).map(Arc::from);
        let key_count = reader.count(1)?;
        let mut keys = Vec::<Arc<str>>::with_capacity(key_count);
        for _ in 0..key_count {
            keys.push(reader.text()?.into());
        }
        // A slice has at least its hash, three counts and one entry.
        if header.slices as usize > payload.len() / 23 {
            return Err(RecordError::Malformed("a count is larger than what follows"));
        }
        let mut slices = Vec::with_capacity(header.slices as usize);
        for _ in 0..header.slices {
            slices.push(StreamSlice::new(read_slice(&payload, &mut reader, &keys)?));
        }
        if !reader.is_at_end() {
            return Err(RecordError::Malformed("bytes follow the last stream"));
        }
        let entries: usize = slices.iter().map(StreamSlice::len).sum();
        let min = slices.iter().map(|s| s.time_bounds().0).min().unwrap_or(0);
        let max = slices.iter().map(|s| s.time_bounds().1).max().unwrap_or(-1);
        if (entries, min, max) != (header.entries as usize, header.min, header.max) {
            return Err(RecordError::Malformed("the header's counts or times are not those of the entries"));
        }
        Ok(Self {
            tenant,
            received: TimestampNs::from_nanos(header.received),
            batch_id,
            time: TimeRange::closed(TimestampNs::from_nanos(min), TimestampNs::from_nanos(max)),
            entries,
            line_bytes: slices.iter().map(StreamSlice::line_bytes).sum(),
            payload_bytes: payload.len(),
            slices: slices.into(),
        })
    }

    /// The tenant of the entries.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// When the gateway received the request.
    pub fn received(&self) -> TimestampNs {
        self.received
    }

    /// The id that the client gave the request, if any.
    pub fn batch_id(&self) -> Option<&str> {
        self.batch_id.as_deref()
    }

    /// The range of the entries' times. Empty without entries.
    pub fn time_range(&self) -> TimeRange {
        self.time
    }

    /// Number of entries.
    pub fn entry_count(&self) -> usize {
        self.entries
    }

    /// The bytes of all lines.
    pub fn line_bytes(&self) -> u64 {
        self.line_bytes
    }

    /// Size in bytes of the message, which the record keeps in memory.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Number of slices. A stream has several slices if its entries differ in their common metadata.
    pub fn stream_count(&self) -> usize {
        self.slices.len()
    }

    /// One slice.
    ///
    /// # Panics
    /// When there is no such slice.
    pub fn stream(&self, i: usize) -> StreamSlice {
        self.slices[i].clone()
    }

    /// All slices, in the order of the request.
    pub fn streams(&self) -> impl ExactSizeIterator<Item = StreamSlice> + '_ {
        self.slices.iter().cloned()
    }
}

struct Header {
    received: i64,
    min: i64,
    max: i64,
    entries: u32,
    slices: u32,
}

impl Header {
    fn read(payload: &[u8]) -> Result<Self, RecordError> {
        if payload.len() < 5 || payload[..4] != MAGIC {
            return Err(RecordError::NotARecord);
        }
        if payload[4] != VERSION {
            return Err(RecordError::Version { found: payload[4] });
        }
        if payload.len() < HEADER_BYTES {
            return Err(RecordError::Length { expected: HEADER_BYTES as u64, found: payload.len() });
        }
        let expected = u32_at(&payload[CHECKED_FROM..], 0);
        if expected as usize != payload.len() {
            return Err(RecordError::Length { expected: u64::from(expected), found: payload.len() });
        }
        let expected = u32_at(&payload[CHECKSUM_AT..], 0);
        let found = crc32c::crc32c(&payload[CHECKED_FROM..]);
        if expected != found {
            return Err(RecordError::Checksum { expected, found });
        }
        let (times, counts) = (&payload[16..40], &payload[40..HEADER_BYTES]);
        Ok(Self {
            received: i64_at(times, 0),
            min: i64_at(times, 1),
            max: i64_at(times, 2),
            entries: u32_at(counts, 0),
            slices: u32_at(counts, 1),
        })
    }
}

fn read_slice(payload: &Bytes, reader: &mut Reader<'_>, keys: &[Arc<str>]) -> Result<SliceInner, Reason> {
    let key = |id: u64| usize::try_from(id).ok().and_then(|id| keys.get(id)).ok_or("a key is not in the dictionary");
    let hash = reader.u64()?;
    let label_count = reader.count(2)?;
    let mut pairs = Vec::with_capacity(label_count);
    for _ in 0..label_count {
        pairs.push((reader.text()?, reader.text()?));
    }
    let labels = Labels::with_empty_values(pairs);
    if labels.stream_hash().0 != hash {
        return Err("a stream's hash is not that of its labels");
    }
    let common_count = reader.count(2)?;
    let mut common = Vec::with_capacity(common_count);
    for _ in 0..common_count {
        common.push((key(reader.varint()?)?.clone(), Arc::from(reader.text()?)));
    }
    let rows = reader.count(12)?;
    if rows == 0 {
        return Err("a stream without entries");
    }
    let timestamps = reader.items(rows, 8)?;
    let line_ends = reader.items(rows, 4)?;
    let lines = reader.take(check_ends(&payload[line_ends.clone()])?)?;
    let column_count = reader.count(2)?;
    let mut columns = Vec::with_capacity(column_count);
    for _ in 0..column_count {
        let name = key(reader.varint()?)?.clone();
        columns.push(Column { name, values: read_values(payload, reader, rows)? });
    }
    let times = || i64s(&payload[timestamps.clone()]);
    let time = (times().min().unwrap_or(i64::MAX), times().max().unwrap_or(i64::MIN));
    Ok(SliceInner::new(labels, common, time, payload.clone(), timestamps, line_ends, lines, columns))
}

fn read_values(payload: &Bytes, reader: &mut Reader<'_>, rows: usize) -> Result<Values, Reason> {
    let encoding = reader.u8()?;
    match encoding {
        encoding::DICTIONARY => {
            let distinct = reader.count(4)?;
            if distinct >= usize::from(ABSENT) {
                return Err("a dictionary has too many values");
            }
            let (ends, data) = read_texts(payload, reader, distinct)?;
            let ids = reader.take(rows)?;
            if payload[ids.clone()].iter().any(|id| *id != ABSENT && usize::from(*id) >= distinct) {
                return Err("a value is not in its dictionary");
            }
            Ok(Values::Dictionary { ends, data, ids })
        }
        encoding::DENSE => {
            let (ends, data) = read_texts(payload, reader, rows)?;
            Ok(Values::Dense { ends, data })
        }
        encoding::SPARSE => {
            let count = reader.count(8)?;
            let having = reader.items(count, 4)?;
            let mut next = 0;
            for row in u32s(&payload[having.clone()]) {
                if row < next || row as usize >= rows {
                    return Err("the rows of a column do not rise");
                }
                next = row + 1;
            }
            let (ends, data) = read_texts(payload, reader, count)?;
            Ok(Values::Sparse { rows: having, ends, data })
        }
        _ => Err("an unknown encoding of metadata"),
    }
}

/// Reads the ends and the bytes of `count` texts and checks that each is UTF-8.
fn read_texts(payload: &Bytes, reader: &mut Reader<'_>, count: usize) -> Result<(Range<usize>, Range<usize>), Reason> {
    let ends = reader.items(count, 4)?;
    let data = reader.take(check_ends(&payload[ends.clone()])?)?;
    let text = std::str::from_utf8(&payload[data.clone()]).map_err(|_| "metadata is not UTF-8")?;
    if !u32s(&payload[ends.clone()]).all(|end| text.is_char_boundary(end as usize)) {
        return Err("metadata is not UTF-8");
    }
    Ok((ends, data))
}

/// Checks that ends never fall, and returns the last one.
fn check_ends(ends: &[u8]) -> Result<usize, Reason> {
    let mut last = 0;
    let mut is_rising = true;
    for end in u32s(ends) {
        is_rising &= end >= last;
        last = end;
    }
    if is_rising { Ok(last as usize) } else { Err("ends fall") }
}
