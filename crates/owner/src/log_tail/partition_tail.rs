//! The part of one partition's tail that is kept in memory: chunks that follow one another. The last one still grows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use cut::{Segment, SegmentWriter};
use log_bus::Fetched;
use model::{Offset, OffsetRange};
use prometheus::{IntCounter, IntGauge};
use schemas::record::Record;
use tokio::time::Instant;

/// After decoding this many bytes of records, the task yields to others on its thread.
const YIELD_BYTES: usize = 256 << 10;

/// The rows of a partition in `[start, next)`.
#[derive(Debug)]
pub(crate) struct PartitionTail {
    /// Ascending; each ends where the next one begins.
    chunks: VecDeque<Arc<Chunk>>,
    /// Writes to the last chunk. `None` when there is no chunk.
    writer: Option<SegmentWriter>,
    start: Offset,
    next: Offset,
    /// Where the last read began. Only readers with an older head want rows below it.
    wanted_from: Offset,
    last_used: Instant,
    /// A chunk of this size takes no more records. Memory is freed chunk by chunk.
    chunk_bytes: usize,
    total: IntGauge,
}

#[derive(Debug)]
struct Chunk {
    segment: Arc<Segment>,
    start: Offset,
    charge: Charge,
}

/// The bytes of a chunk. They count as kept until the last reader drops the chunk.
#[derive(Debug)]
struct Charge {
    bytes: AtomicI64,
    total: IntGauge,
}

impl Charge {
    fn add(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.total.add(bytes);
    }

    fn bytes(&self) -> u64 {
        u64::try_from(self.bytes.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.total.sub(*self.bytes.get_mut());
    }
}

/// The chunks that one read uses.
#[derive(Debug)]
pub(crate) struct TailView {
    chunks: Vec<Arc<Chunk>>,
    /// The offsets that the answer covers.
    pub(crate) range: OffsetRange,
    /// The offsets that were kept when the view was taken.
    pub(crate) held: OffsetRange,
}

impl TailView {
    /// The segments that hold the rows of `range`, in offset order.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.chunks.iter().map(|chunk| &*chunk.segment)
    }
}

impl PartitionTail {
    /// A tail without rows, which counts its bytes in `total`.
    pub(crate) fn empty(chunk_bytes: usize, total: &IntGauge) -> Self {
        Self {
            chunks: VecDeque::new(),
            writer: None,
            start: Offset::ZERO,
            next: Offset::ZERO,
            wanted_from: Offset::ZERO,
            last_used: Instant::now(),
            chunk_bytes,
            total: total.clone(),
        }
    }

    /// The first offset that is kept.
    pub(crate) fn start(&self) -> Offset {
        self.start
    }

    /// The first offset that is not kept yet.
    pub(crate) fn next(&self) -> Offset {
        self.next
    }

    /// Estimated memory in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.charge.bytes()).sum()
    }

    /// When it was last read.
    pub(crate) fn last_used(&self) -> Instant {
        self.last_used
    }

    /// Notes a read that begins at `from`.
    pub(crate) fn used(&mut self, from: Offset, now: Instant) {
        self.wanted_from = from;
        self.last_used = now;
    }

    /// True when a read from `from` needs nothing below the kept rows, and no row is missing between.
    pub(crate) fn reaches(&self, from: Offset) -> bool {
        self.writer.is_some() && self.start <= from && from <= self.next
    }

    /// Drops all rows and begins again at `from`.
    pub(crate) fn restart(&mut self, from: Offset) {
        self.clear();
        (self.start, self.next) = (from, from);
        self.open_chunk();
    }

    /// Drops all rows.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.writer = None;
        self.start = self.next;
    }

    /// Drops chunks that lie below the beginning of the last read.
    pub(crate) fn trim(&mut self) {
        while let Some(second) = self.chunks.get(1) {
            if second.start > self.wanted_from {
                break;
            }
            self.start = second.start;
            self.chunks.pop_front();
        }
    }

    /// All rows from `from` on, as of now.
    pub(crate) fn view(&self, from: Offset) -> TailView {
        let after = self.chunks.partition_point(|chunk| chunk.start <= from);
        TailView {
            chunks: self.chunks.iter().skip(after.saturating_sub(1)).cloned().collect(),
            range: OffsetRange::new(from, self.next),
            held: OffsetRange::new(self.start, self.next),
        }
    }

    /// Adds records that were fetched at [`PartitionTail::next`]. Stops when `fits` refuses the bytes taken so far: small
    /// records take much more memory than their payload. If the future is dropped, all records below `next` are complete.
    pub(crate) async fn take(&mut self, fetched: Fetched, fits: impl Fn(u64) -> bool, bytes_total: &IntCounter) {
        let mut since_yield = 0;
        for record in fetched.records {
            if record.offset < self.next {
                continue;
            }
            if !fits(self.bytes()) {
                return;
            }
            if self.writer.as_ref().is_none_or(|writer| writer.bytes() >= self.chunk_bytes) {
                self.open_chunk();
            }
            let (Some(writer), Some(chunk)) = (&mut self.writer, self.chunks.back()) else { return };
            let payload_bytes = record.payload.len();
            let appended = match Record::decode(record.payload.clone()) {
                Ok(decoded) => writer.append(record.offset, &decoded),
                // It has no rows. The consumer keeps such records and logs them; here they are only counted as memory.
                Err(error) => writer.quarantine(record.offset, record.payload, error.to_string()),
            };
            chunk.charge.add(appended.bytes);
            bytes_total.inc_by(payload_bytes as u64);
            self.next = record.offset.next();
            since_yield += payload_bytes;
            if since_yield >= YIELD_BYTES {
                since_yield = 0;
                tokio::task::yield_now().await;
            }
        }
        // There may be a gap after the last record.
        self.next = self.next.max(fetched.next);
    }

    fn open_chunk(&mut self) {
        let writer = SegmentWriter::new();
        let charge = Charge { bytes: AtomicI64::new(0), total: self.total.clone() };
        self.chunks.push_back(Arc::new(Chunk { segment: writer.segment().clone(), start: self.next, charge }));
        self.writer = Some(writer);
    }
}
