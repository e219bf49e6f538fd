//! Column `offset`: the offset of the log record that each row came in.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Int64Array},
    datatypes::{DataType, Field, Int64Type},
};
use model::{Batch, Needs};
use parquet::file::properties::WriterPropertiesBuilder;

use super::{
    column::{Column, ColumnReader, ColumnWriter, NewRow, RowWriter, ScannedRows, StoredRows, check_equal, wrong_type},
    integers::{dictionary_properties, read_dictionary, read_page, renew},
    pages::{DecodedLeaf, PageSource},
};
use crate::{
    BlockError, BlockOptions,
    table::{Group, GroupRows},
};

const NAME: &str = "offset";

#[derive(Debug)]
pub(crate) struct OffsetColumn;

impl Column for OffsetColumn {
    fn field(&self) -> Field {
        Field::new(NAME, DataType::Int64, false)
    }

    fn leaf_names(&self) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    fn properties(
        &self,
        _: &BlockOptions,
        builder: WriterPropertiesBuilder,
    ) -> Result<WriterPropertiesBuilder, BlockError> {
        Ok(dictionary_properties(builder, NAME))
    }

    fn reader(&self, needs: &Needs, _: &Group) -> Option<Box<dyn ColumnReader>> {
        needs.offsets.then(|| Box::new(OffsetReader::default()) as Box<dyn ColumnReader>)
    }

    fn check(&self, array: &ArrayRef, scanned: &ScannedRows<'_>, stored: &mut StoredRows) -> Result<(), BlockError> {
        let array = array.as_primitive_opt::<Int64Type>().ok_or_else(|| wrong_type(NAME))?;
        stored.offsets.extend_from_slice(array.values());
        check_equal(NAME, **array.values() == scanned.batch.offsets[scanned.rows.clone()])
    }
}

/// Offsets that wait to be encoded.
#[derive(Debug)]
pub(crate) struct OffsetWriter(Vec<i64>);

impl RowWriter for OffsetWriter {
    fn new(_: &BlockOptions, _: &[Arc<str>]) -> Result<Self, BlockError> {
        Ok(Self(Vec::new()))
    }

    #[inline]
    fn push(&mut self, row: &NewRow<'_>) -> Result<usize, BlockError> {
        self.0.push(row.offset);
        Ok(0)
    }

    fn column_writers(&mut self) -> Vec<&mut dyn ColumnWriter> {
        vec![self]
    }
}

impl ColumnWriter for OffsetWriter {
    fn take_rows(&mut self, _: usize, _: &mut GroupRows) -> Result<Option<ArrayRef>, BlockError> {
        Ok(Some(Arc::new(Int64Array::from(renew(&mut self.0)))))
    }
}

#[derive(Debug, Default)]
struct OffsetReader(DecodedLeaf<Vec<i64>, Vec<i64>>);

impl ColumnReader for OffsetReader {
    fn holds(&self, _: usize, page: usize) -> bool {
        self.0.holds(page)
    }

    fn holds_dictionary(&self, _: usize) -> bool {
        self.0.holds_dictionary()
    }

    fn read(&mut self, source: &mut PageSource<'_>, batch: &mut Batch) -> Result<(), BlockError> {
        let (values, rows) = self.0.load(source, 0, read_dictionary, read_page)?;
        batch.offsets = values[rows].to_vec();
        Ok(())
    }
}
