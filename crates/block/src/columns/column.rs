//! What a column of a block is: how it is declared, written, read and verified.

use std::{fmt::Debug, ops::Range, sync::Arc};

use arrow::{array::ArrayRef, datatypes::Field};
use bytes::Bytes;
use model::{Batch, Needs, TimeRange};
use parquet::{
    column::writer::ColumnCloseResult, file::properties::WriterPropertiesBuilder, schema::types::ColumnDescPtr,
};

use super::pages::{LeafPages, Page, PageSource};
use crate::{
    BlockError, BlockOptions,
    page::PageReader,
    table::{Group, GroupRows},
};

/// A column of a block: one Arrow field, which is one or several leaf columns of the Parquet file.
pub(crate) trait Column: Debug + Send + Sync {
    /// Its name, type and nesting.
    fn field(&self) -> Field;

    /// The names of its leaf columns as [`inspect`](crate::inspect()) prints them, in the order of the file.
    fn leaf_names(&self) -> Vec<String>;

    /// Says how Parquet packs it.
    fn properties(
        &self,
        options: &BlockOptions,
        builder: WriterPropertiesBuilder,
    ) -> Result<WriterPropertiesBuilder, BlockError>;

    /// What an opened index keeps of each of its pages besides their place.
    fn page_facts(&self) -> PageFacts {
        PageFacts::None
    }

    /// A reader for one row group. `None` if the scan does not need the column or the group has no values in it.
    fn reader(&self, needs: &Needs, group: &Group) -> Option<Box<dyn ColumnReader>>;

    /// Compares rows as the Parquet library reads them with the same rows as a scan reads them, and adds to `stored`
    /// what [`verify`](crate::verify()) compares with the stream table.
    fn check(&self, array: &ArrayRef, scanned: &ScannedRows<'_>, stored: &mut StoredRows) -> Result<(), BlockError>;
}

/// What an opened index keeps of each page of a column's first leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageFacts {
    /// Nothing.
    None,
    /// The least and the greatest of its integers.
    Bounds,
    /// The bytes of its values before encoding.
    ValueBytes,
}

/// A row on its way into the columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewRow<'a> {
    pub(crate) ts: i64,
    /// Ordinal of its stream.
    pub(crate) stream: i32,
    pub(crate) offset: i64,
    pub(crate) line: &'a [u8],
    pub(crate) metadata: &'a [(&'a str, &'a str)],
}

/// Takes rows for one column, or for several that share the work. Called statically, since it sees every row.
pub(crate) trait RowWriter: Sized {
    /// A writer of a block in which `keys` have columns of their own.
    fn new(options: &BlockOptions, keys: &[Arc<str>]) -> Result<Self, BlockError>;

    /// Adds a row. Returns the bytes of its texts.
    fn push(&mut self, row: &NewRow<'_>) -> Result<usize, BlockError>;

    /// The writers of its columns, in the order of the file.
    fn column_writers(&mut self) -> Vec<&mut dyn ColumnWriter>;

    /// Bytes held of pages that a column packs itself.
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// Empties one column into the open row group.
pub(crate) trait ColumnWriter {
    /// The `rows` rows that wait, as an array for Parquet's encoders. `None` from a column that packs its own pages. Adds to
    /// `counts` what the stream table says of the column.
    fn take_rows(&mut self, rows: usize, counts: &mut GroupRows) -> Result<Option<ArrayRef>, BlockError>;

    /// The finished chunk of each leaf column of the row group, from a column that packs its own pages.
    fn take_chunks(&mut self, _leaves: &[ColumnDescPtr]) -> Result<Option<Vec<PackedChunk>>, BlockError> {
        Ok(None)
    }
}

/// A column chunk that was packed without Parquet's encoders.
pub(crate) struct PackedChunk {
    pub(crate) bytes: Bytes,
    pub(crate) close: ColumnCloseResult,
}

/// Reads one column of one row group. Keeps the pages it decoded last, since the next rows are mostly in them.
pub(crate) trait ColumnReader: Debug + Send {
    /// Whether it keeps this page of its leaf column `leaf` decoded.
    fn holds(&self, leaf: usize, page: usize) -> bool;

    /// Whether it keeps the dictionary of its leaf column `leaf` decoded.
    fn holds_dictionary(&self, leaf: usize) -> bool;

    /// Decodes the rows of `source` into their part of `batch`.
    fn read(&mut self, source: &mut PageSource<'_>, batch: &mut Batch) -> Result<(), BlockError>;

    /// The pages of the first leaf column that tell which of `rows` lie in `time`. None from columns that do not know the time.
    fn pages_to_cut(&self, _pages: &LeafPages, _rows: &Range<u32>, _time: &TimeRange) -> Vec<usize> {
        Vec::new()
    }

    /// Decodes a page named by [`ColumnReader::pages_to_cut`].
    fn load_to_cut(&mut self, _page: &Page<'_>, _decoder: &mut PageReader) -> Result<(), BlockError> {
        Ok(())
    }

    /// The rows among `rows` that lie in `time`, once the pages were decoded. All of them if the column does not know the time.
    fn cut(&self, _pages: &LeafPages, rows: Range<u32>, _time: &TimeRange) -> Range<u32> {
        rows
    }
}

/// Some rows of one stream as a scan reads them.
#[derive(Debug)]
pub(crate) struct ScannedRows<'a> {
    pub(crate) batch: &'a Batch,
    /// Ordinal of the stream.
    pub(crate) stream: u32,
    /// Which rows of the batch.
    pub(crate) rows: Range<usize>,
}

/// What the stream table tells of rows, as the Parquet library reads it.
#[derive(Debug, Default)]
pub(crate) struct StoredRows {
    pub(crate) timestamps: Vec<i64>,
    pub(crate) streams: Vec<u32>,
    pub(crate) offsets: Vec<i64>,
    pub(crate) line_bytes: Vec<usize>,
}

/// The error of a column whose array is of another type than its field says.
pub(crate) fn wrong_type(column: &str) -> BlockError {
    BlockError::damaged(format!("column {column} has the wrong type"))
}

/// Fails unless both readers see the same.
pub(crate) fn check_equal(column: &str, are_equal: bool) -> Result<(), BlockError> {
    if are_equal { Ok(()) } else { Err(BlockError::damaged(format!("a scan reads column {column} differently"))) }
}
