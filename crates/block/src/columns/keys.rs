//! Columns `meta.<key>`: the values of one frequent metadata key.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    buffer::{BooleanBuffer, NullBuffer},
    datatypes::{DataType, Field},
};
use bytes::Bytes;
use model::{Batch, ByteColumn, MetadataColumn, MetadataValues, Needs};
use parquet::{file::properties::WriterPropertiesBuilder, schema::types::ColumnPath};

use super::{
    column::{Column, ColumnReader, ColumnWriter, ScannedRows, StoredRows, check_equal, wrong_type},
    pages::{DecodedLeaf, Page, PageSource},
    strings::Strings,
    texts::{Texts, Values, read_dictionary, read_texts, text, text_properties},
};
use crate::{
    BlockError, BlockOptions,
    page::{PageReader, check_rows, read_levels},
    table::{Group, GroupRows},
    thrift::PageKind,
};

/// Prefix of the names of these columns.
pub(crate) const METADATA_PREFIX: &str = "meta.";

#[derive(Debug)]
pub(crate) struct KeyColumn {
    /// Its place among the keys with a column of their own.
    key: usize,
    name: Arc<str>,
}

impl KeyColumn {
    pub(super) fn new(key: usize, name: Arc<str>) -> Self {
        Self { key, name }
    }

    fn column_name(&self) -> String {
        format!("{METADATA_PREFIX}{}", self.name)
    }
}

impl Column for KeyColumn {
    fn field(&self) -> Field {
        Field::new(self.column_name(), DataType::Utf8, true)
    }

    fn leaf_names(&self) -> Vec<String> {
        vec![self.column_name()]
    }

    fn properties(
        &self,
        _: &BlockOptions,
        builder: WriterPropertiesBuilder,
    ) -> Result<WriterPropertiesBuilder, BlockError> {
        // One part: a key may contain dots.
        Ok(text_properties(builder, ColumnPath::new(vec![self.column_name()])))
    }

    fn reader(&self, needs: &Needs, group: &Group) -> Option<Box<dyn ColumnReader>> {
        let has_values = group.present.get(self.key).is_some_and(|present| *present > 0);
        (has_values && needs.metadata.includes(&self.name)).then(|| {
            Box::new(KeyReader { name: self.name.clone(), leaf: DecodedLeaf::default() }) as Box<dyn ColumnReader>
        })
    }

    fn check(&self, array: &ArrayRef, scanned: &ScannedRows<'_>, _: &mut StoredRows) -> Result<(), BlockError> {
        let name = self.column_name();
        let array = array.as_string_opt::<i32>().ok_or_else(|| wrong_type(&name))?;
        let column = scanned.batch.metadata.iter().find(|column| column.name == self.name);
        for (i, row) in scanned.rows.clone().enumerate() {
            let stored = array.is_valid(i).then(|| array.value(i));
            check_equal(&name, stored == column.and_then(|column| column.values.get(row)))?;
        }
        Ok(())
    }
}

/// Values that wait to be encoded. Rows without the key are added late, all at once.
#[derive(Debug)]
pub(super) struct KeyWriter {
    /// Its place among the keys with a column of their own.
    key: usize,
    values: Strings,
    present: Vec<bool>,
    count: u64,
}

impl KeyWriter {
    pub(super) fn new(key: usize) -> Self {
        Self { key, values: Strings::default(), present: Vec::new(), count: 0 }
    }

    fn pad(&mut self, rows: usize) {
        if self.present.len() < rows {
            self.present.resize(rows, false);
            let end = self.values.data.len() as i32;
            self.values.offsets.resize(rows + 1, end);
        }
    }

    /// Sets the value of the row after `row` others. A second value of one row replaces the first.
    pub(super) fn set(&mut self, row: usize, value: &str) {
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

impl ColumnWriter for KeyWriter {
    fn take_rows(&mut self, rows: usize, counts: &mut GroupRows) -> Result<Option<ArrayRef>, BlockError> {
        self.pad(rows);
        counts.present[self.key] += std::mem::take(&mut self.count);
        let bits = BooleanBuffer::from(std::mem::take(&mut self.present));
        let array: StringArray = self.values.take(Some(NullBuffer::new(bits)))?;
        Ok(Some(Arc::new(array)))
    }
}

#[derive(Debug)]
struct KeyReader {
    name: Arc<str>,
    leaf: DecodedLeaf<Texts, Arc<ByteColumn>>,
}

impl ColumnReader for KeyReader {
    fn holds(&self, _: usize, page: usize) -> bool {
        self.leaf.holds(page)
    }

    fn holds_dictionary(&self, _: usize) -> bool {
        self.leaf.holds_dictionary()
    }

    fn read(&mut self, source: &mut PageSource<'_>, batch: &mut Batch) -> Result<(), BlockError> {
        let (texts, rows) = self.leaf.load(source, 0, read_dictionary, read_page)?;
        if let Some(values) = metadata_values(texts, rows)? {
            batch.metadata.push(MetadataColumn { name: self.name.clone(), values });
        }
        Ok(())
    }
}

/// Decodes a page of optional texts.
fn read_page(
    decoder: &mut PageReader,
    page: &Page<'_>,
    dictionary: Option<&Arc<ByteColumn>>,
) -> Result<Texts, BlockError> {
    let (header, body) = decoder.decompress(page.place, &page.bytes, PageKind::Data)?;
    check_rows(page.place, header.values)?;
    let body = Bytes::from(body);
    let (levels, values) = read_levels(&body, header.values)?;
    let present = levels.iter().filter(|level| **level == 1).count();
    let (dictionary, mut ids) = read_texts(&header, &body.slice_ref(values), present, dictionary)?;
    if present < header.values {
        let mut next = ids.into_iter();
        let id = |level: &u32| if *level == 1 { next.next() } else { None };
        ids = levels.iter().map(id).map(|id| id.unwrap_or(MetadataValues::ABSENT)).collect();
    }
    Ok(Texts { dictionary, ids })
}

/// The values of some rows. `None` if no row has the key.
fn metadata_values(texts: &Texts, rows: Range<usize>) -> Result<Option<MetadataValues>, BlockError> {
    let ids = &texts.ids[rows];
    let Some(first) = ids.iter().find(|id| **id != MetadataValues::ABSENT) else {
        return Ok(None);
    };
    let dictionary = &texts.dictionary;
    if ids.iter().all(|id| id == first) {
        return Ok(Some(MetadataValues::Constant(text(dictionary.get(*first as usize))?.into())));
    }
    if dictionary.len() <= 2 * ids.len() {
        let dictionary = ByteColumn::clone(dictionary);
        return Ok(Some(MetadataValues::Dictionary { dictionary, ids: ids.to_vec() }));
    }
    let mut values = Values::default();
    let mut last = None;
    for (row, id) in ids.iter().enumerate().filter(|(_, id)| **id != MetadataValues::ABSENT) {
        if last != Some(*id) {
            values.push(dictionary.get(*id as usize));
            last = Some(*id);
        }
        values.set(row);
    }
    Ok(Some(values.finish(ids.len())))
}
