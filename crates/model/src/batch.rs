//! Rows of one stream as columns: what memory and blocks hand to the evaluation of a query.

use std::sync::Arc;

use bytes::Bytes;

use crate::Labels;

/// Byte strings of many rows, end to end. Row `i` is `data[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Debug, Default)]
pub struct ByteColumn {
    offsets: Vec<u32>,
    data: Bytes,
}

impl ByteColumn {
    /// A column over `data`. `offsets` has one item more than there are rows (or none, for no rows).
    ///
    /// # Panics
    /// When the offsets fall, or point behind the data.
    pub fn new(offsets: Vec<u32>, data: Bytes) -> Self {
        assert!(offsets.is_sorted(), "offsets of a byte column must not fall");
        assert!(
            offsets.last().is_none_or(|end| *end as usize <= data.len()),
            "offsets of a byte column must lie in its data"
        );
        Self { offsets, data }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of row `i`.
    ///
    /// # Panics
    /// When there is no such row.
    #[inline]
    pub fn get(&self, i: usize) -> &[u8] {
        &self.data[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }

    /// The length of row `i` in bytes; reads no data.
    #[inline]
    pub fn bytes_of(&self, i: usize) -> usize {
        (self.offsets[i + 1] - self.offsets[i]) as usize
    }

    /// The bytes of all rows, end to end; row bounds are in [`ByteColumn::offsets`].
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Where each row begins in [`ByteColumn::data`], and where the last one ends.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }
}

/// One structured-metadata key of a batch.
#[derive(Clone, Debug)]
pub struct MetadataColumn {
    /// The key.
    pub name: Arc<str>,
    /// A value for each row, or none.
    pub values: MetadataValues,
}

/// The values of one key.
#[derive(Clone, Debug)]
pub enum MetadataValues {
    /// Every row has this value.
    Constant(Arc<str>),
    /// Row `i` has `dictionary[ids[i]]`, or no such key where `ids[i]` is [`MetadataValues::ABSENT`].
    /// The bytes are UTF-8.
    Dictionary {
        /// The distinct (or simply successive) values.
        dictionary: ByteColumn,
        /// One for each row.
        ids: Vec<u32>,
    },
}

impl MetadataValues {
    /// The id that says that a row lacks the key.
    pub const ABSENT: u32 = u32::MAX;

    /// The value of row `i`, if it has one.
    pub fn get(&self, i: usize) -> Option<&str> {
        match self {
            Self::Constant(value) => Some(value),
            Self::Dictionary { dictionary, ids } => {
                let id = ids[i];
                (id != Self::ABSENT).then(|| std::str::from_utf8(dictionary.get(id as usize)).unwrap_or(""))
            }
        }
    }
}

/// Rows of one stream, in any order of time (a scan says which it needs).
///
/// `lines` is empty when the scan said that it needs no lines; `metadata` then holds only the keys it named.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The stream's labels.
    pub labels: Labels,
    /// Nanoseconds since the epoch, one for each row.
    pub timestamps: Vec<i64>,
    /// The lines, or no rows at all when they were not asked for.
    pub lines: ByteColumn,
    /// Structured metadata by key, names distinct.
    pub metadata: Vec<MetadataColumn>,
    /// Offsets of the records the rows came from: ties of time are ordered by them. Empty when not asked for.
    pub offsets: Vec<i64>,
}

impl Batch {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }
}
