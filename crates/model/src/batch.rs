//! Rows of one stream as columns: what memory and blocks hand to the evaluation of a query.

use std::sync::Arc;

use crate::{ByteColumn, Labels, Lines};

/// One structured-metadata key of a batch.
#[derive(Clone, Debug)]
pub struct MetadataColumn {
    /// The key.
    pub name: Arc<str>,
    /// The value of each row. Rows may lack the key.
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
    /// The id of rows that lack the key.
    pub const ABSENT: u32 = u32::MAX;

    /// Returns the value of row `i`, or `None` if the row lacks the key.
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

/// Rows of one stream, in any time order. A scan states the order it needs.
///
/// [`Needs`](crate::Needs) determine which lines, metadata and offsets a batch must hold.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The stream's labels.
    pub labels: Labels,
    /// The time of each row in nanoseconds since the epoch.
    pub timestamps: Vec<i64>,
    /// The lines, as far as the scan needs them; [`Lines::Absent`] if it needs none.
    pub lines: Lines,
    /// Structured metadata by key, names distinct.
    pub metadata: Vec<MetadataColumn>,
    /// The offset of each row's record, which breaks ties in time. Empty if the scan does not need offsets.
    pub offsets: Vec<i64>,
}

impl Batch {
    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    /// Returns true if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }
}
