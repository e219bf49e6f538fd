//! Rows on their way into a row group, but for their lines: plain vectors that become Arrow arrays without being copied.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, GenericByteArray, Int32Array, Int64Array, MapArray, StringArray, StructArray,
        TimestampNanosecondArray, types::ByteArrayType,
    },
    buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer},
};

use crate::{
    BlockError,
    schema::{pair_field, pair_fields},
};

/// Byte strings end to end.
#[derive(Debug)]
struct Strings {
    data: Vec<u8>,
    offsets: Vec<i32>,
}

impl Default for Strings {
    fn default() -> Self {
        Self { data: Vec::new(), offsets: vec![0] }
    }
}

impl Strings {
    fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.end();
    }

    /// Ends a value where the data ends now. The caller keeps the data well below 2 GiB.
    fn end(&mut self) {
        self.offsets.push(self.data.len() as i32);
    }

    fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The values as an array; the buffers are new ones of like size.
    fn take<T: ByteArrayType<Offset = i32>>(
        &mut self,
        nulls: Option<NullBuffer>,
    ) -> Result<GenericByteArray<T>, BlockError> {
        let fresh = Self { data: Vec::with_capacity(self.data.len()), offsets: Vec::with_capacity(self.offsets.len()) };
        let full = std::mem::replace(self, fresh);
        self.offsets.push(0);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(full.offsets));
        Ok(GenericByteArray::try_new(offsets, Buffer::from_vec(full.data), nulls)?)
    }
}

/// One frequent metadata key. Rows without it are added late, all at once.
#[derive(Debug, Default)]
struct KeyBuffer {
    values: Strings,
    present: Vec<bool>,
    count: u64,
}

impl KeyBuffer {
    fn pad(&mut self, rows: usize) {
        if self.present.len() < rows {
            self.present.resize(rows, false);
            let end = self.values.data.len() as i32;
            self.values.offsets.resize(rows + 1, end);
        }
    }

    /// Sets the value of the row after `row` others. A second value of one row replaces the first.
    fn set(&mut self, row: usize, value: &str) {
        if self.present.len() > row {
            self.present.truncate(row);
            self.values.offsets.truncate(row + 1);
            self.values.data.truncate(*self.values.offsets.last().expect("a first offset is always there") as usize);
            self.count -= 1;
        }
        self.pad(row);
        self.values.push(value.as_bytes());
        self.present.push(true);
        self.count += 1;
    }
}

/// Rows of one tenant that were appended and not yet encoded.
#[derive(Debug)]
pub(crate) struct RowBuffers {
    timestamps: Vec<i64>,
    streams: Vec<i32>,
    offsets: Vec<i64>,
    keys: Vec<KeyBuffer>,
    packed_ends: Vec<i32>,
    packed_keys: Strings,
    packed_values: Strings,
    bytes: usize,
}

/// What was taken out of the buffers.
pub(crate) struct TakenRows {
    pub(crate) rows: usize,
    /// In the order of the schema's fields, without the lines.
    pub(crate) arrays: Vec<ArrayRef>,
    pub(crate) packed_pairs: u64,
    pub(crate) present: Vec<u64>,
}

impl RowBuffers {
    pub(crate) fn new(keys: usize) -> Self {
        Self {
            timestamps: Vec::new(),
            streams: Vec::new(),
            offsets: Vec::new(),
            keys: (0..keys).map(|_| KeyBuffer::default()).collect(),
            packed_ends: vec![0],
            packed_keys: Strings::default(),
            packed_values: Strings::default(),
            bytes: 0,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.timestamps.len()
    }

    /// Bytes of the rows' lines and of the metadata held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a row whose metadata follows through [`RowBuffers::set_key`] and [`RowBuffers::push_pair`], ended by
    /// [`RowBuffers::end_row`].
    #[inline]
    pub(crate) fn begin_row(&mut self, ts: i64, stream: i32, offset: i64, line_bytes: usize) {
        self.timestamps.push(ts);
        self.streams.push(stream);
        self.offsets.push(offset);
        self.bytes += line_bytes;
    }

    pub(crate) fn set_key(&mut self, key: usize, value: &str) {
        self.keys[key].set(self.timestamps.len() - 1, value);
        self.bytes += value.len();
    }

    pub(crate) fn push_pair(&mut self, key: &str, value: &str) {
        self.packed_keys.push(key.as_bytes());
        self.packed_values.push(value.as_bytes());
        self.bytes += key.len() + value.len();
    }

    #[inline]
    pub(crate) fn end_row(&mut self) {
        self.packed_ends.push(self.packed_keys.len() as i32);
    }

    /// Empties the buffers into arrays.
    pub(crate) fn take(&mut self) -> Result<TakenRows, BlockError> {
        let rows = self.rows();
        self.bytes = 0;
        let renew = |values: &mut Vec<i64>| std::mem::replace(values, Vec::with_capacity(rows));
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(TimestampNanosecondArray::from(renew(&mut self.timestamps)).with_timezone("UTC")),
            Arc::new(Int32Array::from(std::mem::replace(&mut self.streams, Vec::with_capacity(rows)))),
        ];
        let mut present = Vec::new();
        for key in &mut self.keys {
            key.pad(rows);
            present.push(std::mem::take(&mut key.count));
            let bits = BooleanBuffer::from(std::mem::take(&mut key.present));
            let array: StringArray = key.values.take(Some(NullBuffer::new(bits)))?;
            arrays.push(Arc::new(array));
        }
        let packed_pairs = self.packed_keys.len() as u64;
        let keys: StringArray = self.packed_keys.take(None)?;
        let values: StringArray = self.packed_values.take(None)?;
        let pairs = StructArray::try_new(pair_fields(), vec![Arc::new(keys), Arc::new(values)], None)?;
        let ends = std::mem::replace(&mut self.packed_ends, vec![0]);
        let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
        arrays.push(Arc::new(MapArray::try_new(pair_field(), ends, pairs, None, false)?));
        arrays.push(Arc::new(Int64Array::from(renew(&mut self.offsets))));
        Ok(TakenRows { rows, arrays, packed_pairs, present })
    }
}
