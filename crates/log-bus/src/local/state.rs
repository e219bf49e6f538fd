//! The durable state of the log that readers see: partition bounds, the newest records, the segments.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{Offset, PartitionId, TimestampNs};

use super::segment::Segment;
use super::walk::{WalkError, Walker};
use crate::{FetchLimits, Fetched, LogError, LogRecord, Watermarks};

/// What a record in the cache counts in addition to its payload.
const RECORD_OVERHEAD: usize = 128;

/// One partition as readers see it.
struct Partition {
    held: Watermarks,
    /// All records from `cached_from` on.
    cache: VecDeque<LogRecord>,
    cached_from: Offset,
}

/// The state of all partitions. Only durable records are in it.
pub(super) struct DurableState {
    partitions: Vec<Partition>,
    /// The last one is the active segment.
    pub(super) segments: VecDeque<Segment>,
    pub(super) committed: Vec<Option<Offset>>,
    /// The partition of each cached record, oldest record first.
    cache_order: VecDeque<u32>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    /// Why the log has stopped.
    pub(super) stopped: Option<String>,
    pub(super) syncs: u64,
    pub(super) appended_records: u64,
    pub(super) writer_cpu: Duration,
    pub(super) appended_bytes: u64,
}

/// Where a fetch gets its records from.
pub(super) enum RecordSource {
    /// From memory: these are the records.
    Cache(Fetched),
    /// From a segment file, which must still be read.
    File(FileRead),
    /// There are no records yet.
    Nothing,
}

/// A part of a segment to read records of one partition from.
pub(super) struct FileRead {
    file: Arc<File>,
    path: Arc<Path>,
    salt: u32,
    position: u64,
    end: u64,
    partition: u32,
}

impl DurableState {
    /// The state after a start. There must be at least one segment.
    pub(super) fn new(segments: VecDeque<Segment>, committed: Vec<Option<Offset>>, cache_bytes_max: usize) -> Self {
        let held = |p: usize| Watermarks {
            first: segments.front().map_or(Offset::ZERO, |segment| segment.header.base(p)),
            end: segments.back().map_or(Offset::ZERO, |segment| segment.index.partitions[p].next),
        };
        let partitions = (0..committed.len())
            .map(|p| Partition { held: held(p), cache: VecDeque::new(), cached_from: held(p).end })
            .collect();
        Self {
            partitions,
            segments,
            committed,
            cache_order: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            stopped: None,
            syncs: 0,
            appended_records: 0,
            writer_cpu: Duration::ZERO,
            appended_bytes: 0,
        }
    }

    pub(super) fn held(&self, partition: PartitionId) -> Result<Watermarks, LogError> {
        let found = self.partitions.get(partition.index() as usize);
        found.map(|p| p.held).ok_or(LogError::NoPartition { partition, count: self.partitions.len() as u32 })
    }

    /// Makes a record visible. The active segment's index already has it.
    pub(super) fn publish(&mut self, partition: u32, record: LogRecord) {
        let Some(p) = self.partitions.get_mut(partition as usize) else { return };
        p.held.end = record.offset.next();
        self.appended_records += 1;
        self.appended_bytes += record.payload.len() as u64;
        self.cache_bytes += record.payload.len() + RECORD_OVERHEAD;
        p.cache.push_back(record);
        self.cache_order.push_back(partition);
    }

    /// Evicts the oldest records until the cache is within its limit.
    pub(super) fn trim_cache(&mut self) {
        while self.cache_bytes > self.cache_bytes_max
            && let Some(partition) = self.cache_order.pop_front()
        {
            let p = &mut self.partitions[partition as usize];
            if let Some(record) = p.cache.pop_front() {
                self.cache_bytes -= record.payload.len() + RECORD_OVERHEAD;
                p.cached_from = record.offset.next();
            }
        }
    }

    pub(super) fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// Forgets the oldest segment, but never the active one.
    pub(super) fn forget_oldest_segment(&mut self) {
        if self.segments.len() < 2 {
            return;
        }
        self.segments.pop_front();
        let Some(oldest) = self.segments.front() else { return };
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            partition.held.first = oldest.header.base(index);
        }
    }

    pub(super) fn find(
        &self,
        partition: PartitionId,
        from: Offset,
        limits: FetchLimits,
    ) -> Result<RecordSource, LogError> {
        let held = self.held(partition)?;
        if from < held.first || from > held.end {
            return Err(LogError::OutOfRange { partition, asked: from, held });
        }
        if from == held.end {
            return Ok(RecordSource::Nothing);
        }
        let p = &self.partitions[partition.index() as usize];
        if from < p.cached_from {
            return Ok(self.find_in_files(partition, from).map_or(RecordSource::Nothing, RecordSource::File));
        }
        let mut records = Vec::new();
        let mut bytes = 0;
        for record in p.cache.range(p.cache.partition_point(|r| r.offset < from)..) {
            bytes += record.payload.len();
            if !records.is_empty() && bytes > limits.bytes_max {
                break;
            }
            records.push(record.clone());
        }
        Ok(match records.last().map(|r| r.offset.next()) {
            Some(next) => RecordSource::Cache(Fetched { records, next }),
            None => RecordSource::Nothing,
        })
    }

    /// The segment that holds the first record from `from` on, and the position at which to start reading.
    fn find_in_files(&self, partition: PartitionId, from: Offset) -> Option<FileRead> {
        let p = partition.index() as usize;
        let at = self.segments.partition_point(|segment| segment.index.partitions[p].next <= from);
        let segment = self.segments.get(at)?;
        let marks = &segment.index.partitions[p].marks;
        let mark = marks.get(marks.partition_point(|mark| mark.offset <= from).saturating_sub(1))?;
        Some(FileRead::new(segment, mark.position, partition.index()))
    }

    /// The places to search, in order, for the first record that was appended at `time` or later.
    pub(super) fn find_time(&self, partition: PartitionId, time: TimestampNs) -> Vec<FileRead> {
        let p = partition.index() as usize;
        let late = |segment: &&Segment| segment.index.times.is_some_and(|(_, last)| last >= time);
        // The first such segment may only hold earlier records of this partition. Then the record is in the next segment
        // that has records of the partition.
        let mut reads = Vec::new();
        for segment in self.segments.iter().filter(late) {
            let marks = &segment.index.partitions[p].marks;
            let before = marks.partition_point(|mark| mark.time < time);
            if let Some(mark) = marks.get(before.saturating_sub(1)) {
                reads.push(FileRead::new(segment, mark.position, partition.index()));
                if before == 0 {
                    break;
                }
            }
        }
        reads
    }
}

impl FileRead {
    fn new(segment: &Segment, position: u64, partition: u32) -> Self {
        Self {
            file: Arc::clone(&segment.file),
            path: Arc::clone(&segment.path),
            salt: segment.header.salt,
            position,
            end: segment.index.bytes,
            partition,
        }
    }

    /// Reads records from `from` on. Each record is copied, so that keeping it does not keep its neighbours in memory.
    pub(super) fn fetch(&self, from: Offset, limits: FetchLimits) -> Result<Fetched, LogError> {
        let mut fetched = Fetched { records: Vec::new(), next: from };
        let mut bytes = 0;
        self.walk(|walker, position, header| {
            if header.offset < from {
                return Ok(true);
            }
            bytes += header.payload_bytes as usize;
            if !fetched.records.is_empty() && bytes > limits.bytes_max {
                return Ok(false);
            }
            let (key, payload) = walker.body(position, header)?;
            fetched.records.push(LogRecord {
                offset: header.offset,
                append_time: header.append_time,
                key: Bytes::copy_from_slice(key),
                payload: Bytes::copy_from_slice(payload),
            });
            fetched.next = header.offset.next();
            Ok(true)
        })?;
        Ok(fetched)
    }

    /// The first offset in any of `reads` that was appended at `time` or later.
    pub(super) fn first_offset_at(reads: &[Self], time: TimestampNs) -> Result<Option<Offset>, LogError> {
        for read in reads {
            if let Some(offset) = read.offset_at(time)? {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }

    fn offset_at(&self, time: TimestampNs) -> Result<Option<Offset>, LogError> {
        let mut found = None;
        self.walk(|_, _, header| {
            if header.append_time >= time {
                found = Some(header.offset);
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    }

    /// Calls `visit` for the partition's frames, in order, until it returns false.
    fn walk<V>(&self, mut visit: V) -> Result<(), LogError>
    where
        V: FnMut(&mut Walker<'_>, u64, &super::frame::FrameHeader) -> Result<bool, WalkError>,
    {
        let mut walker = Walker::new(&self.file, self.salt, self.position, self.end);
        let mut step = || -> Result<bool, WalkError> {
            let Some((position, header)) = walker.next()? else { return Ok(false) };
            if header.partition != self.partition { Ok(true) } else { visit(&mut walker, position, &header) }
        };
        loop {
            match step() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return Err(error.into_log_error(&self.path)),
            }
        }
    }
}
