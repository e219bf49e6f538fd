//! Rows of one stream as columns: what memory and blocks hand to the evaluation of a query.

use std::sync::Arc;

use crate::{ByteColumn, Labels, Lines};

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
/// [`Needs`](crate::Needs) say how much a batch must hold of lines, metadata and offsets.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The stream's labels.
    pub labels: Labels,
    /// Nanoseconds since the epoch, one for each row.
    pub timestamps: Vec<i64>,
    /// As much of the lines as the scan asked for; [`Lines::Absent`] when it asked for none.
    pub lines: Lines,
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
