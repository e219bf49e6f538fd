//! A segment: the rows of one offset range of one partition, while the range grows and afterwards.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use model::{Labels, Offset, OffsetRange, TenantId};
use parking_lot::RwLock;
use schemas::record::Record;

use crate::stream::{Slice, StreamRows};

/// Memory per slice in addition to its record's bytes and its labels: the entry in the stream's list and the decoded
/// structures. Measured by the consumer's `examples/measure.rs`.
const SLICE_OVERHEAD_BYTES: usize = size_of::<Slice>() + 400;
/// Memory per stream in addition to its labels: two map entries, the list and the lock.
const STREAM_OVERHEAD_BYTES: usize = 384;
/// Memory per record in addition to its bytes.
const RECORD_OVERHEAD_BYTES: usize = 256;

/// A record that could not be decoded.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// Its offset.
    pub offset: Offset,
    /// Its bytes.
    pub raw: Bytes,
    /// Why it could not be decoded.
    pub reason: String,
}

/// Rows by tenant and stream. Readers may read at any time, and take only rows below the offset that their answer covers.
#[derive(Debug, Default)]
pub struct Segment {
    tenants: RwLock<BTreeMap<TenantId, Arc<TenantRows>>>,
    quarantine: RwLock<Vec<Quarantined>>,
}

/// The streams of one tenant.
#[derive(Debug, Default)]
pub struct TenantRows {
    streams: RwLock<Vec<Arc<StreamRows>>>,
}

impl Segment {
    /// The tenants with rows, ascending.
    pub fn tenants(&self) -> Vec<(TenantId, Arc<TenantRows>)> {
        self.tenants.read().iter().map(|(tenant, rows)| (tenant.clone(), rows.clone())).collect()
    }

    /// The rows of one tenant, if it has any.
    pub fn tenant(&self, tenant: &TenantId) -> Option<Arc<TenantRows>> {
        self.tenants.read().get(tenant).cloned()
    }

    /// Records that could not be decoded, in offset order.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        self.quarantine.read().clone()
    }

    /// True when there are neither rows nor quarantined records.
    pub fn is_empty(&self) -> bool {
        self.tenants.read().is_empty() && self.quarantine.read().is_empty()
    }

    /// True when there are neither rows nor quarantined records with offsets in `range`.
    pub fn is_empty_in(&self, range: OffsetRange) -> bool {
        // Starts at the back, since most ranges reach to the end.
        let has_rows =
            |stream: &Arc<StreamRows>| stream.slices().iter().rev().any(|slice| range.contains(slice.offset));
        !self.quarantine.read().iter().any(|record| range.contains(record.offset))
            && !self.tenants().iter().any(|(_, rows)| rows.streams().iter().any(has_rows))
    }
}

impl TenantRows {
    /// The streams, in order of their first rows.
    pub fn streams(&self) -> Vec<Arc<StreamRows>> {
        self.streams.read().clone()
    }
}

/// The only writer of a segment.
#[derive(Debug)]
pub struct SegmentWriter {
    segment: Arc<Segment>,
    index: HashMap<TenantId, TenantIndex>,
    last: Option<Offset>,
    bytes: usize,
    rows: u64,
    streams: usize,
}

#[derive(Debug)]
struct TenantIndex {
    rows: Arc<TenantRows>,
    streams: HashMap<Labels, Arc<StreamRows>>,
}

/// The effect of an append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Estimated memory of the record in bytes.
    pub bytes: usize,
    /// Number of streams that are new in the segment.
    pub streams_new: usize,
}

impl Default for SegmentWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl SegmentWriter {
    /// A writer of a new, empty segment.
    pub fn new() -> Self {
        let (index, segment) = (HashMap::new(), Arc::new(Segment::default()));
        Self { segment, index, last: None, bytes: 0, rows: 0, streams: 0 }
    }

    /// The segment, for readers.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Adds all rows of a record.
    ///
    /// # Panics
    /// When offsets do not rise.
    pub fn append(&mut self, offset: Offset, record: &Record) -> Appended {
        self.advance(offset);
        let mut appended = Appended { bytes: record.payload_bytes() + RECORD_OVERHEAD_BYTES, streams_new: 0 };
        if record.stream_count() > 0 {
            let tenant = match self.index.get_mut(record.tenant()) {
                Some(known) => known,
                None => self.open_tenant(record.tenant()),
            };
            for rows in record.streams().filter(|rows| !rows.is_empty()) {
                let label_bytes = label_bytes(rows.labels());
                appended.bytes += SLICE_OVERHEAD_BYTES + label_bytes;
                let stream = match tenant.streams.get(rows.labels()) {
                    Some(known) => known,
                    None => {
                        let labels = rows.labels().clone();
                        appended.bytes += STREAM_OVERHEAD_BYTES;
                        appended.streams_new += 1;
                        let stream = Arc::new(StreamRows::new(labels.clone()));
                        tenant.rows.streams.write().push(stream.clone());
                        tenant.streams.entry(labels).or_insert(stream)
                    }
                };
                stream.push(Slice { offset, rows });
            }
        }
        self.rows += record.entry_count() as u64;
        self.streams += appended.streams_new;
        self.bytes += appended.bytes;
        appended
    }

    /// Keeps a record that could not be decoded.
    ///
    /// # Panics
    /// When offsets do not rise.
    pub fn quarantine(&mut self, offset: Offset, raw: Bytes, reason: String) -> Appended {
        self.advance(offset);
        let bytes = raw.len() + reason.len() + RECORD_OVERHEAD_BYTES;
        self.segment.quarantine.write().push(Quarantined { offset, raw, reason });
        self.bytes += bytes;
        Appended { bytes, streams_new: 0 }
    }

    /// Estimated memory of the segment in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Number of streams of all tenants.
    pub fn stream_count(&self) -> usize {
        self.streams
    }

    /// Number of streams per tenant.
    pub fn streams_by_tenant(&self) -> impl Iterator<Item = (&TenantId, usize)> {
        self.index.iter().map(|(tenant, index)| (tenant, index.streams.len()))
    }

    /// True when the segment holds neither rows nor quarantined records.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Ends writing and returns the segment.
    pub fn freeze(self) -> Arc<Segment> {
        self.segment
    }

    fn advance(&mut self, offset: Offset) {
        assert!(self.last.is_none_or(|last| last < offset), "offsets of a segment rise, {offset} does not");
        self.last = Some(offset);
    }

    fn open_tenant(&mut self, tenant: &TenantId) -> &mut TenantIndex {
        let rows = Arc::new(TenantRows::default());
        self.segment.tenants.write().insert(tenant.clone(), rows.clone());
        self.index.entry(tenant.clone()).or_insert(TenantIndex { rows, streams: HashMap::new() })
    }
}

fn label_bytes(labels: &Labels) -> usize {
    // Each text is a separate allocation: two words for the pointer, and about one word that the allocator adds.
    labels.iter().map(|(name, value)| name.len() + value.len() + 6 * size_of::<usize>()).sum()
}
