//! Column `stream`: the ordinal of each row's stream, for other readers. A scan takes it from the stream table instead.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Int32Array},
    datatypes::{DataType, Field, Int32Type},
};
use model::Needs;
use parquet::file::properties::WriterPropertiesBuilder;

use super::{
    column::{Column, ColumnReader, ColumnWriter, NewRow, RowWriter, ScannedRows, StoredRows, check_equal, wrong_type},
    integers::{dictionary_properties, renew},
};
use crate::{
    BlockError, BlockOptions,
    table::{Group, GroupRows},
};

const NAME: &str = "stream";

#[derive(Debug)]
pub(crate) struct StreamColumn;

impl Column for StreamColumn {
    fn field(&self) -> Field {
        Field::new(NAME, DataType::Int32, false)
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

    fn reader(&self, _: &Needs, _: &Group) -> Option<Box<dyn ColumnReader>> {
        None
    }

    fn check(&self, array: &ArrayRef, scanned: &ScannedRows<'_>, stored: &mut StoredRows) -> Result<(), BlockError> {
        let array = array.as_primitive_opt::<Int32Type>().ok_or_else(|| wrong_type(NAME))?;
        for ordinal in array.values() {
            let ordinal =
                u32::try_from(*ordinal).map_err(|_| BlockError::damaged("the ordinal of a stream is negative"))?;
            stored.streams.push(ordinal);
            check_equal(NAME, ordinal == scanned.stream)?;
        }
        Ok(())
    }
}

/// Ordinals that wait to be encoded.
#[derive(Debug)]
pub(crate) struct StreamWriter(Vec<i32>);

impl RowWriter for StreamWriter {
    fn new(_: &BlockOptions, _: &[Arc<str>]) -> Result<Self, BlockError> {
        Ok(Self(Vec::new()))
    }

    #[inline]
    fn push(&mut self, row: &NewRow<'_>) -> Result<usize, BlockError> {
        self.0.push(row.stream);
        Ok(0)
    }

    fn column_writers(&mut self) -> Vec<&mut dyn ColumnWriter> {
        vec![self]
    }
}

impl ColumnWriter for StreamWriter {
    fn take_rows(&mut self, _: usize, _: &mut GroupRows) -> Result<Option<ArrayRef>, BlockError> {
        Ok(Some(Arc::new(Int32Array::from(renew(&mut self.0)))))
    }
}
