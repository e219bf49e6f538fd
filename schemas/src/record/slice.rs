//! One stream of a record, read in place.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use model::{
    Batch, ByteColumn, Labels, LineNeed, Lines, MetadataColumn, MetadataValues, Needs, Offset, TimeRange, TimestampNs,
};

use super::ABSENT;
use crate::wire::{i64_at, i64s, u32_at, u32s};

/// One stream of a record: its labels, the metadata that its entries have in common, and the entries in the order in
/// which they were pushed. Clones share the record's bytes.
#[derive(Clone, Debug)]
pub struct StreamSlice(Arc<SliceInner>);

/// The decoder has checked everything: ranges lie in the payload, ends never fall, texts are UTF-8.
#[derive(Debug)]
pub(super) struct SliceInner {
    labels: Labels,
    common: Vec<(Arc<str>, Arc<str>)>,
    /// The earliest and the latest time, both inclusive.
    time: (i64, i64),
    timestamps: Bytes,
    line_ends: Bytes,
    lines: Bytes,
    columns: Vec<Column>,
    payload: Bytes,
}

/// One metadata key.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: Arc<str>,
    pub(super) values: Values,
}

/// Where the values of one key lie in the payload.
#[derive(Debug)]
pub(super) enum Values {
    /// One byte per row, the number of a value.
    Dictionary { ends: Range<usize>, data: Range<usize>, ids: Range<usize> },
    /// One value per row.
    Dense { ends: Range<usize>, data: Range<usize> },
    /// Values of some rows.
    Sparse { rows: Range<usize>, ends: Range<usize>, data: Range<usize> },
}

/// One entry, borrowed from the record.
#[derive(Clone, Copy)]
pub struct RowRef<'a> {
    /// The entry's time.
    pub ts: TimestampNs,
    /// The line; any bytes.
    pub line: &'a [u8],
    slice: &'a SliceInner,
    row: usize,
}

impl<'a> RowRef<'a> {
    /// The entry's own pairs, without the common pairs of its slice ([`StreamSlice::common_metadata`]). A pair here
    /// overrides a common pair of the same name.
    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let (slice, row) = (self.slice, self.row);
        slice.columns.iter().filter_map(move |c| Some((&*c.name, c.values.get(&slice.payload, row)?)))
    }
}

impl std::fmt::Debug for RowRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let metadata: Vec<_> = self.metadata().collect();
        let line = String::from_utf8_lossy(self.line);
        f.debug_struct("RowRef").field("ts", &self.ts).field("line", &line).field("metadata", &metadata).finish()
    }
}

impl SliceInner {
    #[expect(clippy::too_many_arguments, reason = "the parts of a slice, named alike on both sides")]
    pub(super) fn new(
        labels: Labels,
        common: Vec<(Arc<str>, Arc<str>)>,
        time: (i64, i64),
        payload: Bytes,
        timestamps: Range<usize>,
        line_ends: Range<usize>,
        lines: Range<usize>,
        columns: Vec<Column>,
    ) -> Self {
        let (timestamps, line_ends) = (payload.slice(timestamps), payload.slice(line_ends));
        Self { labels, common, time, timestamps, line_ends, lines: payload.slice(lines), columns, payload }
    }

    fn line(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { u32_at(&self.line_ends, i - 1) as usize };
        &self.lines[start..u32_at(&self.line_ends, i) as usize]
    }
}

impl StreamSlice {
    pub(super) fn new(inner: SliceInner) -> Self {
        Self(Arc::new(inner))
    }

    pub(super) fn time_bounds(&self) -> (i64, i64) {
        self.0.time
    }

    /// The stream's labels.
    pub fn labels(&self) -> &Labels {
        &self.0.labels
    }

    /// Number of entries; never 0.
    pub fn len(&self) -> usize {
        self.0.timestamps.len() / 8
    }

    /// Always false: a slice has at least one entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of all lines.
    pub fn line_bytes(&self) -> u64 {
        self.0.lines.len() as u64
    }

    /// The times of the entries.
    pub fn time_range(&self) -> TimeRange {
        let (min, max) = self.0.time;
        TimeRange::closed(TimestampNs::from_nanos(min), TimestampNs::from_nanos(max))
    }

    /// Nanoseconds since the epoch, one per entry.
    pub fn timestamps(&self) -> Vec<i64> {
        i64s(&self.0.timestamps).collect()
    }

    /// The time of entry `i`.
    ///
    /// # Panics
    /// When there is no such entry.
    pub fn timestamp(&self, i: usize) -> TimestampNs {
        TimestampNs::from_nanos(i64_at(&self.0.timestamps, i))
    }

    /// The line of entry `i`; any bytes.
    ///
    /// # Panics
    /// When there is no such entry.
    pub fn line(&self, i: usize) -> &[u8] {
        self.0.line(i)
    }

    /// The lines as a column over the record's bytes.
    pub fn lines(&self) -> ByteColumn {
        ByteColumn::new(offsets(&self.0.line_ends), self.0.lines.clone())
    }

    /// Pairs of every entry that has no own pair of the same name.
    pub fn common_metadata(&self) -> &[(Arc<str>, Arc<str>)] {
        &self.0.common
    }

    /// The names of all common pairs and of all pairs of entries. A name may occur twice.
    pub fn metadata_keys(&self) -> impl Iterator<Item = &str> {
        let own = self.0.columns.iter().map(|c| &*c.name);
        self.0.common.iter().map(|(name, _)| &**name).chain(own)
    }

    /// True when some entry has pairs of its own.
    pub fn has_row_metadata(&self) -> bool {
        !self.0.columns.is_empty()
    }

    /// The entry at `i`.
    ///
    /// # Panics
    /// When there is no such entry.
    pub fn row(&self, i: usize) -> RowRef<'_> {
        RowRef { ts: self.timestamp(i), line: self.line(i), slice: &self.0, row: i }
    }

    /// The entries in the order in which they were pushed.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = RowRef<'_>> {
        (0..self.len()).map(|i| self.row(i))
    }

    /// The entries as columns. `offset` is the offset of the record. Lines are not copied.
    pub fn batch(&self, offset: Offset, needs: &Needs) -> Batch {
        let metadata = &needs.metadata;
        let own = self.0.columns.iter().filter(|c| metadata.includes(&c.name));
        let mut columns: Vec<MetadataColumn> = own.map(|c| self.column(c)).collect();
        for (name, value) in self.0.common.iter().filter(|(name, _)| metadata.includes(name)) {
            if !columns.iter().any(|c| c.name == *name) {
                columns.push(MetadataColumn { name: name.clone(), values: MetadataValues::Constant(value.clone()) });
            }
        }
        Batch {
            labels: self.0.labels.clone(),
            timestamps: self.timestamps(),
            lines: if needs.lines == LineNeed::None { Lines::Absent } else { self.lines().into() },
            metadata: columns,
            offsets: if needs.offsets { vec![offset.value(); self.len()] } else { Vec::new() },
        }
    }

    fn column(&self, column: &Column) -> MetadataColumn {
        let payload = &self.0.payload;
        let name = column.name.clone();
        let common = self.0.common.iter().find(|(n, _)| *n == name).map(|(_, value)| value);
        if let Some(common) = common {
            let value = |row| column.values.get(payload, row).unwrap_or(common);
            let texts: Vec<&str> = (0..self.len()).map(value).collect();
            return MetadataColumn { name, values: successive(&texts) };
        }
        let (ends, data, ids) = match &column.values {
            Values::Dictionary { ends, data, ids } => {
                let id = |id: &u8| if *id == ABSENT { MetadataValues::ABSENT } else { u32::from(*id) };
                (ends, data, payload[ids.clone()].iter().map(id).collect())
            }
            Values::Dense { ends, data } => (ends, data, (0..self.len() as u32).collect()),
            Values::Sparse { rows, ends, data } => {
                let mut ids = vec![MetadataValues::ABSENT; self.len()];
                for (id, row) in u32s(&payload[rows.clone()]).enumerate() {
                    ids[row as usize] = id as u32;
                }
                (ends, data, ids)
            }
        };
        let dictionary = ByteColumn::new(offsets(&payload[ends.clone()]), payload.slice(data.clone()));
        MetadataColumn { name, values: MetadataValues::Dictionary { dictionary, ids } }
    }
}

/// Turns ends into the offsets of a column, which begin with 0.
fn offsets(ends: &[u8]) -> Vec<u32> {
    let mut offsets = Vec::with_capacity(ends.len() / 4 + 1);
    offsets.push(0);
    offsets.extend(u32s(ends));
    offsets
}

/// A column with one value per row.
fn successive(texts: &[&str]) -> MetadataValues {
    let (mut data, mut offsets) = (Vec::new(), vec![0]);
    for text in texts {
        data.extend_from_slice(text.as_bytes());
        offsets.push(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }
    let dictionary = ByteColumn::new(offsets, Bytes::from(data));
    MetadataValues::Dictionary { dictionary, ids: (0..texts.len() as u32).collect() }
}

impl Values {
    fn get<'a>(&self, payload: &'a [u8], row: usize) -> Option<&'a str> {
        let (ends, data, i) = match self {
            Self::Dictionary { ends, data, ids } => {
                let id = payload[ids.clone()][row];
                (ends, data, (id != ABSENT).then_some(usize::from(id))?)
            }
            Self::Dense { ends, data } => (ends, data, row),
            Self::Sparse { rows, ends, data } => {
                let rows = &payload[rows.clone()];
                let (mut low, mut high) = (0, rows.len() / 4);
                while low < high {
                    let middle = low + (high - low) / 2;
                    if (u32_at(rows, middle) as usize) < row { low = middle + 1 } else { high = middle }
                }
                let is_found = low < rows.len() / 4 && u32_at(rows, low) as usize == row;
                (ends, data, is_found.then_some(low)?)
            }
        };
        let ends = &payload[ends.clone()];
        let start = if i == 0 { 0 } else { u32_at(ends, i - 1) as usize };
        std::str::from_utf8(&payload[data.clone()][start..u32_at(ends, i) as usize]).ok()
    }
}
