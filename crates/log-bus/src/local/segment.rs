//! A segment file is a header followed by frames. Its index says where to start looking for an offset or a time.
//!
//! The header is written and synced under a temporary name before the file gets its final name. So every file with a
//! segment's name has a complete header. The header says at which offset each partition continues. This reveals missing
//! files, and keeps the offsets when retention has removed all earlier segments.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Offset, Random, TimestampNs};

use super::folder;
use super::frame::FrameHeader;
use super::walk::{WalkError, Walker, later_batch};
use crate::LogError;

const MAGIC: &[u8; 8] = b"MILLRLOG";
const VERSION: u32 = 1;
/// The least distance in the file between two marks of one partition.
const MARK_SPACING: u64 = 256 << 10;
/// An upper bound of a header's length: 4096 partitions and a name.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// The header of a segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) log_id: String,
    /// The segment's number. The segments of a log are numbered from 1 without gaps.
    pub(super) sequence: u64,
    /// Seeds the checksums of the frames' headers.
    pub(super) salt: u32,
    /// The offset at which each partition continues in this segment.
    pub(super) base: Vec<Offset>,
    /// No record of this segment was appended before this time.
    pub(super) start_time: TimestampNs,
}

impl SegmentHeader {
    /// The header's bytes: magic, version, length, CRC32C of the rest, sequence, salt, time, id, offsets.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut rest = Vec::new();
        rest.extend_from_slice(&self.sequence.to_le_bytes());
        rest.extend_from_slice(&self.salt.to_le_bytes());
        rest.extend_from_slice(&self.start_time.nanos().to_le_bytes());
        rest.extend_from_slice(&(self.log_id.len() as u32).to_le_bytes());
        rest.extend_from_slice(self.log_id.as_bytes());
        rest.extend_from_slice(&(self.base.len() as u32).to_le_bytes());
        for base in &self.base {
            rest.extend_from_slice(&base.value().to_le_bytes());
        }
        enclose(MAGIC, &rest)
    }

    /// Reads a header. Returns it and its length.
    fn decode(bytes: &[u8]) -> Result<(Self, usize), &'static str> {
        let (rest, length) = disclose(MAGIC, bytes)?;
        let mut rest = Fields(rest);
        let short = "its header is cut";
        let sequence = rest.u64().ok_or(short)?;
        let salt = rest.u32().ok_or(short)?;
        let start_time = TimestampNs::from_nanos(rest.i64().ok_or(short)?);
        let id_bytes = rest.u32().ok_or(short)? as usize;
        let log_id = rest.take(id_bytes).ok_or(short)?;
        let log_id = std::str::from_utf8(log_id).map_err(|_| "its log id is not UTF-8")?.to_owned();
        let count = rest.u32().ok_or(short)?;
        let base = (0..count).map(|_| rest.i64().map(Offset::new)).collect::<Option<Vec<_>>>().ok_or(short)?;
        Ok((Self { log_id, sequence, salt, base, start_time }, length))
    }

    /// The offset at which the partition of this number continues in this segment.
    pub(super) fn base(&self, index: usize) -> Offset {
        self.base.get(index).copied().unwrap_or(Offset::ZERO)
    }
}

/// The position of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) offset: Offset,
    pub(super) time: TimestampNs,
    pub(super) position: u64,
}

/// The index of one partition in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartitionIndex {
    /// The first record and some of the later ones, in order.
    pub(super) marks: Vec<Mark>,
    /// The offset after the last record, or the base if the segment has no record of the partition.
    pub(super) next: Offset,
}

/// The index of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentIndex {
    pub(super) partitions: Vec<PartitionIndex>,
    /// The file's durable length.
    pub(super) bytes: u64,
    /// The append times of the first and the last record.
    pub(super) times: Option<(TimestampNs, TimestampNs)>,
}

impl SegmentIndex {
    /// The index of a segment without records.
    pub(super) fn empty(header: &SegmentHeader, partitions: u32, bytes: u64) -> Self {
        let index = |p: u32| PartitionIndex { marks: Vec::new(), next: header.base(p as usize) };
        Self { partitions: (0..partitions).map(index).collect(), bytes, times: None }
    }

    /// Adds the frame at `position`. Frames must be added in order.
    pub(super) fn note(&mut self, frame: &FrameHeader, position: u64) {
        self.bytes = position + frame.frame_bytes();
        let first = self.times.map_or(frame.append_time, |(first, _)| first);
        self.times = Some((first, frame.append_time));
        let Some(partition) = self.partitions.get_mut(frame.partition as usize) else { return };
        partition.next = frame.offset.next();
        if partition.marks.last().is_none_or(|last| position - last.position >= MARK_SPACING) {
            partition.marks.push(Mark { offset: frame.offset, time: frame.append_time, position });
        }
    }

    /// The bytes of an index file. With it, a start need not read the whole segment.
    fn encode(&self, salt: u32) -> Vec<u8> {
        let mut rest = Vec::new();
        rest.extend_from_slice(&salt.to_le_bytes());
        rest.extend_from_slice(&self.bytes.to_le_bytes());
        let (first, last) = self.times.unwrap_or((TimestampNs::MAX, TimestampNs::MIN));
        rest.extend_from_slice(&first.nanos().to_le_bytes());
        rest.extend_from_slice(&last.nanos().to_le_bytes());
        rest.extend_from_slice(&(self.partitions.len() as u32).to_le_bytes());
        for partition in &self.partitions {
            rest.extend_from_slice(&partition.next.value().to_le_bytes());
            rest.extend_from_slice(&(partition.marks.len() as u32).to_le_bytes());
            for mark in &partition.marks {
                rest.extend_from_slice(&mark.offset.value().to_le_bytes());
                rest.extend_from_slice(&mark.time.nanos().to_le_bytes());
                rest.extend_from_slice(&mark.position.to_le_bytes());
            }
        }
        enclose(INDEX_MAGIC, &rest)
    }

    /// Reads an index file. Returns `None` if it does not belong to this segment.
    fn decode(bytes: &[u8], header: &SegmentHeader, partitions: u32) -> Option<Self> {
        let (rest, _) = disclose(INDEX_MAGIC, bytes).ok()?;
        let mut rest = Fields(rest);
        if rest.u32()? != header.salt {
            return None;
        }
        let mut index = Self::empty(header, partitions, rest.u64()?);
        let (first, last) = (rest.i64()?, rest.i64()?);
        index.times = (first <= last).then_some((TimestampNs::from_nanos(first), TimestampNs::from_nanos(last)));
        let count = rest.u32()?;
        for p in 0..count as usize {
            let partition = index.partitions.get_mut(p)?;
            partition.next = Offset::new(rest.i64()?);
            for _ in 0..rest.u32()? {
                partition.marks.push(Mark {
                    offset: Offset::new(rest.i64()?),
                    time: TimestampNs::from_nanos(rest.i64()?),
                    position: rest.u64()?,
                });
            }
        }
        Some(index)
    }
}

const INDEX_MAGIC: &[u8; 8] = b"MILLRIDX";

/// An open segment.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) header_bytes: u64,
    pub(super) index: SegmentIndex,
    pub(super) file: Arc<File>,
    pub(super) path: Arc<Path>,
}

/// A segment that was read at a start.
pub(super) struct LoadedSegment {
    pub(super) segment: Segment,
    /// Bytes of an unfinished write, which were cut off.
    pub(super) torn_bytes: u64,
}

/// The path of a segment.
pub(super) fn segment_path(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("{sequence:020}.seg"))
}

/// A salt that tenants cannot guess.
pub(super) fn random_salt(random: &dyn Random) -> u32 {
    (random.next_u64() >> 32) as u32
}

/// Removes a segment and its index, durably.
pub(super) fn remove(folder: &Path, segment: &Path) -> io::Result<()> {
    match fs::remove_file(segment.with_extension("idx")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_file(segment)?;
    folder::sync_folder(folder)
}

impl Segment {
    /// Creates a new segment file durably.
    pub(super) fn create(folder: &Path, header: SegmentHeader, partitions: u32) -> io::Result<Self> {
        let path = segment_path(folder, header.sequence);
        let bytes = header.encode();
        let file = folder::write_durably(&path, &bytes)?;
        let header_bytes = bytes.len() as u64;
        let index = SegmentIndex::empty(&header, partitions, header_bytes);
        Ok(Self { header, header_bytes, index, file: Arc::new(file), path: path.into() })
    }

    /// Opens a segment. If it is `active`, reads all of it, cuts off a torn end and syncs the rest. Otherwise a torn end
    /// is an error, and an index file is trusted.
    pub(super) fn load(folder: &Path, sequence: u64, partitions: u32, active: bool) -> Result<LoadedSegment, LogError> {
        let path = segment_path(folder, sequence);
        let io = |error: io::Error| WalkError::Io(error).into_log_error(&path);
        let file = File::options().read(true).write(true).open(&path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let (header, header_bytes) = read_header(&file, &path, sequence)?;
        let known = if active { None } else { read_index(&path, &header, partitions, length) };
        let mut torn_bytes = 0;
        let index = match known {
            Some(index) => index,
            None => {
                let (index, broken) = scan(&file, &header, header_bytes, partitions, length);
                match broken {
                    Some(WalkError::Damage { position, what }) if active => {
                        let later = later_batch(&file, header.salt, position, length).map_err(io)?;
                        if later.is_some() {
                            return Err(WalkError::Damage { position, what }.into_log_error(&path));
                        }
                        torn_bytes = length - position;
                        file.set_len(position).map_err(io)?;
                    }
                    Some(other) => return Err(other.into_log_error(&path)),
                    None => {}
                }
                if active {
                    // Writes of a killed process may only be in the system's memory. Make them durable before anything
                    // reads them.
                    file.sync_all().map_err(io)?;
                }
                index
            }
        };
        let segment = Self { header, header_bytes, index, file: Arc::new(file), path: path.into() };
        if !active {
            segment.write_index(folder);
        }
        Ok(LoadedSegment { segment, torn_bytes })
    }

    /// Opens a segment that another process may be writing, without changing it. Only frames of the newest segment that
    /// are complete now are made durable and become visible. Returns `None` if the file does not exist.
    pub(super) fn view(
        folder: &Path,
        sequence: u64,
        partitions: u32,
        is_newest: bool,
    ) -> Result<Option<Self>, LogError> {
        let path = segment_path(folder, sequence);
        let io = |error: io::Error| WalkError::Io(error).into_log_error(&path);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io)?,
        };
        // All bytes below this length are written. The writer only appends after them.
        let length = file.metadata().map_err(io)?.len();
        let (header, header_bytes) = read_header(&file, &path, sequence)?;
        let known = if is_newest { None } else { known_index(&path, &header, partitions, length) };
        let index = match known {
            Some(index) => index,
            None => {
                let (index, broken) = scan(&file, &header, header_bytes, partitions, length);
                if let Some(WalkError::Damage { position, what }) = broken {
                    if !is_newest || later_batch(&file, header.salt, position, length).map_err(io)?.is_some() {
                        return Err(WalkError::Damage { position, what }.into_log_error(&path));
                    }
                } else if let Some(other) = broken {
                    return Err(other.into_log_error(&path));
                }
                index
            }
        };
        if is_newest {
            file.sync_all().map_err(io)?;
        }
        Ok(Some(Self { header, header_bytes, index, file: Arc::new(file), path: path.into() }))
    }

    /// Writes the index file if it does not exist. It only saves time, so a failure is not an error.
    pub(super) fn write_index(&self, folder: &Path) {
        let path = self.path.with_extension("idx");
        if path.exists() {
            return;
        }
        if let Err(error) = folder::write_hint(folder, &path, &self.index.encode(self.header.salt)) {
            tracing::warn!(path = %path.display(), %error, "cannot write the index of a log segment");
        }
    }

    /// Moves the file's position to the end of the durable part, where the writer continues.
    pub(super) fn seek_to_end(&self) -> io::Result<()> {
        (&*self.file).seek(SeekFrom::Start(self.index.bytes)).map(drop)
    }

    /// True if the segment holds no record.
    pub(super) fn is_empty(&self) -> bool {
        self.index.bytes == self.header_bytes
    }
}

/// Reads a segment's header. Returns it and its length.
fn read_header(file: &File, path: &Path, sequence: u64) -> Result<(SegmentHeader, u64), LogError> {
    let mut start = Vec::new();
    file.take(HEADER_BYTES_MAX as u64)
        .read_to_end(&mut start)
        .map_err(|error| WalkError::Io(error).into_log_error(path))?;
    let damage = |what| WalkError::Damage { position: 0, what }.into_log_error(path);
    let (header, header_bytes) = SegmentHeader::decode(&start).map_err(damage)?;
    if header.sequence != sequence {
        return Err(damage("its header belongs to another segment"));
    }
    Ok((header, header_bytes as u64))
}

/// Reads the index file. Returns `None` if it does not fit the segment.
fn known_index(segment: &Path, header: &SegmentHeader, partitions: u32, length: u64) -> Option<SegmentIndex> {
    let bytes = fs::read(segment.with_extension("idx")).ok()?;
    SegmentIndex::decode(&bytes, header, partitions).filter(|index| index.bytes == length)
}

/// Like [`known_index`], but removes an index file that does not fit.
fn read_index(segment: &Path, header: &SegmentHeader, partitions: u32, length: u64) -> Option<SegmentIndex> {
    let path = segment.with_extension("idx");
    let index = known_index(segment, header, partitions, length);
    if index.is_none() && path.exists() {
        tracing::warn!(path = %path.display(), "replacing the index of a log segment that does not fit it");
        let _ = fs::remove_file(&path);
    }
    index
}

/// Reads every frame. Returns the index of all frames before the first problem, and that problem.
fn scan(
    file: &File,
    header: &SegmentHeader,
    header_bytes: u64,
    partitions: u32,
    length: u64,
) -> (SegmentIndex, Option<WalkError>) {
    let mut index = SegmentIndex::empty(header, partitions, header_bytes);
    let mut walker = Walker::new(file, header.salt, header_bytes, length);
    loop {
        let (position, frame) = match walker.next() {
            Ok(Some(found)) => found,
            Ok(None) => return (index, None),
            Err(error) => return (index, Some(error)),
        };
        if let Err(error) = walker.body(position, &frame) {
            return (index, Some(error));
        }
        let in_order = index.partitions.get(frame.partition as usize).is_some_and(|p| frame.offset >= p.next);
        if !in_order {
            return (index, Some(WalkError::Order { position }));
        }
        index.note(&frame, position);
    }
}

/// `magic, version, length of all, CRC32C of rest, rest`.
fn enclose(magic: &[u8; 8], rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + rest.len());
    out.extend_from_slice(magic);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&((20 + rest.len()) as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(rest).to_le_bytes());
    out.extend_from_slice(rest);
    out
}

/// The inverse of [`enclose`]. Returns `rest` and the length of all. Other bytes may follow.
fn disclose<'a>(magic: &[u8; 8], bytes: &'a [u8]) -> Result<(&'a [u8], usize), &'static str> {
    let mut fields = Fields(bytes);
    if fields.take(8) != Some(magic) {
        return Err("it is not a file of a Millrace log");
    }
    match fields.u32() {
        Some(VERSION) => {}
        Some(_) => return Err("it was written by another version of Millrace"),
        None => return Err("its header is cut"),
    }
    let length = fields.u32().ok_or("its header is cut")? as usize;
    let crc = fields.u32().ok_or("its header is cut")?;
    let rest = bytes.get(20..length).ok_or("its header is cut")?;
    if crc32c::crc32c(rest) != crc {
        return Err("its header does not match its checksum");
    }
    Ok((rest, length))
}

/// Reads little-endian numbers from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(front)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take(8)?.try_into().ok().map(i64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            log_id: "abc".to_owned(),
            sequence: 7,
            salt: 99,
            base: vec![Offset::new(5), Offset::new(0)],
            start_time: TimestampNs::from_secs(1),
        }
    }

    #[test]
    fn header_and_index_come_back() {
        let bytes = header().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok((header(), bytes.len())));
        let mut index = SegmentIndex::empty(&header(), 3, 100);
        let frame = FrameHeader {
            key_bytes: 1,
            payload_bytes: 2,
            body_crc: 0,
            partition: 1,
            offset: Offset::new(8),
            append_time: TimestampNs::from_secs(2),
            batch_start: 100,
        };
        index.note(&frame, 100);
        assert_eq!(index.partitions[1].next, Offset::new(9));
        assert_eq!(SegmentIndex::decode(&index.encode(99), &header(), 3), Some(index.clone()));
        assert_eq!(SegmentIndex::decode(&index.encode(98), &header(), 3), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), lie in any::<u32>()) {
            let _ = SegmentHeader::decode(&bytes);
            let _ = SegmentIndex::decode(&bytes, &header(), 2);
            // The same bytes with a correct checksum.
            let mut lying = header().encode();
            lying.truncate(20);
            lying.extend_from_slice(&bytes);
            let all = enclose(MAGIC, &lying[20..]);
            let _ = SegmentHeader::decode(&all);
            let mut rest = 99_u32.to_le_bytes().to_vec();
            rest.extend_from_slice(&bytes);
            rest.extend_from_slice(&lie.to_le_bytes());
            let _ = SegmentIndex::decode(&enclose(INDEX_MAGIC, &rest), &header(), 2);
        }
    }
}
