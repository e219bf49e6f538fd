//! Sends each metadata pair of a row to the column of its key, or else to the packed column.

use std::sync::Arc;

use super::{
    column::{ColumnWriter, NewRow, RowWriter},
    keys::KeyWriter,
    packed::PackedWriter,
};
use crate::{BlockError, BlockOptions};

pub(super) struct MetadataWriter {
    /// The keys with columns of their own, ascending.
    names: Vec<Arc<str>>,
    keys: Vec<KeyWriter>,
    packed: PackedWriter,
    /// Where each pair of the last row went, since rows tend to have the same keys in the same order.
    hints: Vec<Option<usize>>,
}

impl RowWriter for MetadataWriter {
    fn new(_: &BlockOptions, keys: &[Arc<str>]) -> Result<Self, BlockError> {
        Ok(Self {
            names: keys.to_vec(),
            keys: (0..keys.len()).map(KeyWriter::new).collect(),
            packed: PackedWriter::new(),
            hints: Vec::new(),
        })
    }

    #[inline]
    fn push(&mut self, row: &NewRow<'_>) -> Result<usize, BlockError> {
        let bytes = if row.metadata.is_empty() { 0 } else { self.push_pairs(row.metadata) };
        self.packed.end_row();
        Ok(bytes)
    }

    fn column_writers(&mut self) -> Vec<&mut dyn ColumnWriter> {
        let mut writers: Vec<&mut dyn ColumnWriter> = Vec::with_capacity(self.keys.len() + 1);
        writers.extend(self.keys.iter_mut().map(|key| key as &mut dyn ColumnWriter));
        writers.push(&mut self.packed);
        writers
    }
}

impl MetadataWriter {
    /// Of equal keys the last one counts.
    fn push_pairs(&mut self, pairs: &[(&str, &str)]) -> usize {
        let row = self.packed.rows();
        let mut bytes = 0;
        for (i, (key, value)) in pairs.iter().enumerate() {
            if self.hints.len() <= i {
                self.hints.push(None);
            }
            let hint = self.hints[i].filter(|hint| *self.names[*hint] == **key);
            match hint.or_else(|| self.names.binary_search_by(|name| (**name).cmp(key)).ok()) {
                Some(column) => {
                    self.hints[i] = Some(column);
                    self.keys[column].set(row, value);
                    bytes += value.len();
                }
                None if pairs[i + 1..].iter().any(|later| later.0 == *key) => {}
                None => {
                    self.packed.push_pair(key, value);
                    bytes += key.len() + value.len();
                }
            }
        }
        bytes
    }
}
