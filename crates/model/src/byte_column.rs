//! Byte strings of many rows in one buffer.

use bytes::Bytes;

/// Byte strings of many rows, end to end. Row `i` is `data[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Debug, Default)]
pub struct ByteColumn {
    offsets: Vec<u32>,
    data: Bytes,
}

impl ByteColumn {
    /// Creates a column over `data`. `offsets` has one item more than there are rows; it may be empty if there are no
    /// rows.
    ///
    /// # Panics
    /// If the offsets decrease, or point past the end of the data.
    pub fn new(offsets: Vec<u32>, data: Bytes) -> Self {
        assert!(offsets.is_sorted(), "offsets of a byte column must not fall");
        assert!(
            offsets.last().is_none_or(|end| *end as usize <= data.len()),
            "offsets of a byte column must lie in its data"
        );
        Self { offsets, data }
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Returns true if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
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
