//! Builds records.

use std::collections::HashMap;

use bytes::Bytes;
use model::{Labels, TenantId, TimestampNs};

use super::{ABSENT, CHECKED_FROM, CHECKSUM_AT, HEADER_BYTES, MAGIC, VERSION, encoding};
use crate::wire::{put_i64s, put_text, put_u32s, put_varint};

/// A column with more distinct values than this becomes plain.
const DISTINCT_MAX: usize = 32;

/// Collects the entries of one record, stream by stream.
///
/// The caller limits entries and the size of the record, with the help of [`RecordBuilder::encoded_bytes`] and
/// [`RecordBuilder::key_count`].
#[derive(Debug)]
pub struct RecordBuilder {
    tenant: TenantId,
    received: TimestampNs,
    slices: Vec<Slice>,
    /// Slices by the hash of their labels; slices of one stream differ in their common metadata.
    by_hash: HashMap<u64, Vec<usize>>,
    current: usize,
    keys: Keys,
    bytes: usize,
    entries: usize,
    line_bytes: u64,
    time: Option<(i64, i64)>,
}

#[derive(Debug, Default)]
struct Keys {
    names: Vec<Box<str>>,
    ids: HashMap<Box<str>, u32>,
}

impl Keys {
    fn id(&mut self, name: &str) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.names.len() as u32;
        self.names.push(name.into());
        self.ids.insert(name.into(), id);
        id
    }
}

#[derive(Debug)]
struct Slice {
    labels: Labels,
    common: Vec<(Box<str>, Box<str>)>,
    timestamps: Vec<i64>,
    line_ends: Vec<u32>,
    lines: Vec<u8>,
    columns: Vec<Column>,
    column_of_key: HashMap<u32, usize>,
}

/// The values of one metadata key in one slice.
#[derive(Debug)]
struct Column {
    key: u32,
    /// The rows that have a value, ascending.
    rows: Vec<u32>,
    /// The value number of each of `rows`. Empty in a plain column.
    ids: Vec<u8>,
    is_plain: bool,
    /// The values end to end: the distinct ones, or in a plain column one per item of `rows`.
    data: Vec<u8>,
    ends: Vec<u32>,
}

impl RecordBuilder {
    /// An empty record of `tenant`, received at the given time.
    pub fn new(tenant: &TenantId, received: TimestampNs) -> Self {
        Self {
            tenant: tenant.clone(),
            received,
            slices: Vec::new(),
            by_hash: HashMap::new(),
            current: usize::MAX,
            keys: Keys::default(),
            bytes: HEADER_BYTES + tenant.as_str().len() + 16,
            entries: 0,
            line_bytes: 0,
            time: None,
        }
    }

    /// Begins or continues the slice of a stream. Subsequent entries belong to it. `common_metadata` applies to every
    /// entry of the slice; the same labels with other common metadata are another slice.
    pub fn stream(&mut self, labels: &Labels, common_metadata: &[(&str, &str)]) {
        if self.slices.get(self.current).is_some_and(|s| s.is(labels, common_metadata)) {
            return;
        }
        let candidates = self.by_hash.entry(labels.stream_hash().0).or_default();
        if let Some(found) = candidates.iter().find(|i| self.slices[**i].is(labels, common_metadata)) {
            self.current = *found;
            return;
        }
        self.current = self.slices.len();
        candidates.push(self.current);
        let label_bytes: usize = labels.iter().map(|(n, v)| n.len() + v.len() + 8).sum();
        let common_bytes: usize = common_metadata.iter().map(|(n, v)| n.len() + v.len() + 12).sum();
        self.bytes += 32 + label_bytes + common_bytes;
        self.slices.push(Slice::new(labels, common_metadata));
    }

    /// Adds an entry to the current slice. If several pairs have the same name, the last one wins. It overrides a common
    /// pair of that name.
    ///
    /// # Panics
    /// When there is no current slice, or when a slice exceeds 4 GiB. Callers split records long before that.
    pub fn entry<'a>(&mut self, ts: TimestampNs, line: &[u8], metadata: impl Iterator<Item = (&'a str, &'a str)>) {
        let slice = self.slices.get_mut(self.current).expect("`stream` is called before `entry`");
        let row = u32::try_from(slice.timestamps.len()).expect("a slice has less than 2^32 entries");
        slice.timestamps.push(ts.nanos());
        slice.lines.extend_from_slice(line);
        slice.line_ends.push(u32::try_from(slice.lines.len()).expect("a slice has less than 4 GiB of lines"));
        self.bytes += 12 + line.len();
        for (hint, (name, value)) in metadata.enumerate() {
            self.bytes += slice.set(&mut self.keys, hint, name, row, value);
        }
        self.entries += 1;
        self.line_bytes += line.len() as u64;
        let (min, max) = self.time.unwrap_or((i64::MAX, i64::MIN));
        self.time = Some((min.min(ts.nanos()), max.max(ts.nanos())));
    }

    /// An upper bound of the size of the finished record in bytes, slightly above the real size.
    pub fn encoded_bytes(&self) -> usize {
        self.bytes
    }

    /// Number of distinct metadata keys of the entries. Each becomes a column for readers.
    pub fn key_count(&self) -> usize {
        self.keys.names.len()
    }

    /// Number of entries.
    pub fn entry_count(&self) -> usize {
        self.entries
    }

    /// The bytes of all lines.
    pub fn line_bytes(&self) -> u64 {
        self.line_bytes
    }

    /// True when there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Encodes the record. Slices without entries are left out.
    ///
    /// # Panics
    /// When the record exceeds 4 GiB.
    pub fn finish(mut self, batch_id: Option<&str>) -> Bytes {
        self.slices.retain(|slice| !slice.timestamps.is_empty());
        let common: Vec<Vec<(u32, Box<str>)>> = self
            .slices
            .iter_mut()
            .map(|slice| std::mem::take(&mut slice.common).into_iter().map(|(n, v)| (self.keys.id(&n), v)).collect())
            .collect();
        let mut out = Vec::with_capacity(self.bytes + batch_id.map_or(0, str::len));
        let (min, max) = self.time.unwrap_or((0, -1));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        out.extend_from_slice(&[0; 8]); // Checksum and length, known at the end.
        put_i64s(&mut out, &[self.received.nanos(), min, max]);
        let entries = u32::try_from(self.entries).expect("a record has less than 2^32 entries");
        put_u32s(&mut out, &[entries, self.slices.len() as u32, 0]);
        debug_assert_eq!(out.len(), HEADER_BYTES);
        put_text(&mut out, self.tenant.as_str());
        put_text(&mut out, batch_id.unwrap_or_default());
        put_varint(&mut out, self.keys.names.len() as u64);
        for name in &self.keys.names {
            put_text(&mut out, name);
        }
        for (slice, common) in self.slices.iter().zip(&common) {
            slice.encode(common, &mut out);
        }
        let bytes = u32::try_from(out.len()).expect("a record has less than 4 GiB");
        out[CHECKED_FROM..CHECKED_FROM + 4].copy_from_slice(&bytes.to_le_bytes());
        let checksum = crc32c::crc32c(&out[CHECKED_FROM..]);
        out[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        Bytes::from(out)
    }
}

impl Slice {
    fn new(labels: &Labels, common: &[(&str, &str)]) -> Self {
        Self {
            labels: labels.clone(),
            common: common.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            timestamps: Vec::new(),
            line_ends: Vec::new(),
            lines: Vec::new(),
            columns: Vec::new(),
            column_of_key: HashMap::new(),
        }
    }

    fn is(&self, labels: &Labels, common: &[(&str, &str)]) -> bool {
        self.labels == *labels && self.common.iter().map(|(n, v)| (&**n, &**v)).eq(common.iter().copied())
    }

    /// Gives `row` a value. `hint` is the column that probably has the key. Returns an upper bound of the added bytes.
    fn set(&mut self, keys: &mut Keys, hint: usize, name: &str, row: u32, value: &str) -> usize {
        let is_hit = self.columns.get(hint).is_some_and(|c| *keys.names[c.key as usize] == *name);
        let mut bytes = value.len() + 9;
        let index = if is_hit {
            hint
        } else {
            let known_keys = keys.names.len();
            let key = keys.id(name);
            if keys.names.len() > known_keys {
                bytes += name.len() + 5;
            }
            *self.column_of_key.entry(key).or_insert_with(|| {
                bytes += 16;
                self.columns.push(Column::new(key));
                self.columns.len() - 1
            })
        };
        self.columns[index].set(row, value);
        bytes
    }

    fn encode(&self, common: &[(u32, Box<str>)], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.labels.stream_hash().0.to_le_bytes());
        put_varint(out, self.labels.len() as u64);
        for (name, value) in self.labels.iter() {
            put_text(out, name);
            put_text(out, value);
        }
        put_varint(out, common.len() as u64);
        for (key, value) in common {
            put_varint(out, u64::from(*key));
            put_text(out, value);
        }
        put_varint(out, self.timestamps.len() as u64);
        put_i64s(out, &self.timestamps);
        put_u32s(out, &self.line_ends);
        out.extend_from_slice(&self.lines);
        put_varint(out, self.columns.len() as u64);
        for column in &self.columns {
            column.encode(self.timestamps.len(), out);
        }
    }
}

impl Column {
    fn new(key: u32) -> Self {
        Self { key, rows: Vec::new(), ids: Vec::new(), is_plain: false, data: Vec::new(), ends: Vec::new() }
    }

    fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.ends[i - 1] as usize }
    }

    fn value(&self, i: usize) -> &[u8] {
        &self.data[self.start(i)..self.ends[i] as usize]
    }

    fn push_value(&mut self, value: &str) {
        self.data.extend_from_slice(value.as_bytes());
        self.ends.push(u32::try_from(self.data.len()).expect("a slice has less than 4 GiB of metadata"));
    }

    fn set(&mut self, row: u32, value: &str) {
        if self.rows.last() == Some(&row) {
            self.take_back();
        }
        self.rows.push(row);
        if !self.is_plain {
            let last = self.ids.last().map(|id| usize::from(*id));
            let is_value = |i: &usize| self.value(*i) == value.as_bytes();
            let known = last.filter(is_value).or_else(|| (0..self.ends.len()).find(is_value));
            if let Some(id) = known {
                self.ids.push(id as u8);
                return;
            }
            if self.ends.len() < DISTINCT_MAX {
                self.ids.push(self.ends.len() as u8);
                self.push_value(value);
                return;
            }
            self.make_plain();
        }
        self.push_value(value);
    }

    /// Removes the value of the last row.
    fn take_back(&mut self) {
        self.rows.pop();
        if self.is_plain {
            self.ends.pop();
            self.data.truncate(self.ends.last().map_or(0, |end| *end as usize));
        } else {
            self.ids.pop();
        }
    }

    fn make_plain(&mut self) {
        let plain = self.as_plain();
        (self.data, self.ends, self.is_plain) = (plain.0, plain.1, true);
        self.ids = Vec::new();
    }

    /// The values, one per item of `rows`.
    fn as_plain(&self) -> (Vec<u8>, Vec<u32>) {
        let (mut data, mut ends) = (Vec::new(), Vec::with_capacity(self.ids.len()));
        for id in &self.ids {
            data.extend_from_slice(self.value(usize::from(*id)));
            ends.push(data.len() as u32);
        }
        (data, ends)
    }

    fn encode(&self, row_count: usize, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.key));
        // One byte per row of the slice is smaller only if enough rows have a value.
        if !self.is_plain && self.rows.len() * 8 >= row_count {
            out.push(encoding::DICTIONARY);
            put_varint(out, self.ends.len() as u64);
            put_u32s(out, &self.ends);
            out.extend_from_slice(&self.data);
            let at = out.len();
            out.resize(at + row_count, ABSENT);
            for (row, id) in self.rows.iter().zip(&self.ids) {
                out[at + *row as usize] = *id;
            }
            return;
        }
        if self.rows.len() == row_count {
            out.push(encoding::DENSE);
        } else {
            out.push(encoding::SPARSE);
            put_varint(out, self.rows.len() as u64);
            put_u32s(out, &self.rows);
        }
        let made_plain = (!self.is_plain).then(|| self.as_plain());
        let (data, ends) = made_plain.as_ref().map_or((&self.data, &self.ends), |(data, ends)| (data, ends));
        put_u32s(out, ends);
        out.extend_from_slice(data);
    }
}
