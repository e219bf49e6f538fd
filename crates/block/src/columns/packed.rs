//! Column `metadata`: the pairs of all metadata keys without a column of their own.

use std::{collections::HashMap, ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, MapArray, StringArray, StructArray},
    buffer::{OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, Field, Fields},
};
use bytes::Bytes;
use model::{Batch, ByteColumn, MetadataColumn, MetadataNeed, Needs};
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

const NAME: &str = "metadata";

/// Its leaf columns.
const KEYS: usize = 0;
const VALUES: usize = 1;

fn pair_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, false)])
}

/// One pair of a row.
fn pair_field() -> Arc<Field> {
    Arc::new(Field::new("key_value", DataType::Struct(pair_fields()), false))
}

#[derive(Debug)]
pub(crate) struct PackedColumn {
    /// The keys that are not here, since they have columns of their own.
    other_keys: Vec<Arc<str>>,
}

impl PackedColumn {
    pub(super) fn new(other_keys: &[Arc<str>]) -> Self {
        Self { other_keys: other_keys.to_vec() }
    }

    fn may_hold(&self, key: &str) -> bool {
        self.other_keys.iter().all(|other| **other != *key)
    }
}

impl Column for PackedColumn {
    fn field(&self) -> Field {
        Field::new(NAME, DataType::Map(pair_field(), false), false)
    }

    fn leaf_names(&self) -> Vec<String> {
        vec!["metadata.key".to_owned(), "metadata.value".to_owned()]
    }

    fn properties(
        &self,
        _: &BlockOptions,
        builder: WriterPropertiesBuilder,
    ) -> Result<WriterPropertiesBuilder, BlockError> {
        let path = |leaf: &str| ColumnPath::new([NAME, "key_value", leaf].map(str::to_owned).to_vec());
        Ok(text_properties(text_properties(builder, path("key")), path("value")))
    }

    fn reader(&self, needs: &Needs, group: &Group) -> Option<Box<dyn ColumnReader>> {
        let need = match &needs.metadata {
            MetadataNeed::Names(names) => {
                MetadataNeed::Names(names.iter().filter(|name| self.may_hold(name)).cloned().collect())
            }
            need => need.clone(),
        };
        let is_needed = match &need {
            MetadataNeed::None => false,
            MetadataNeed::Names(names) => !names.is_empty(),
            MetadataNeed::All => true,
        };
        (is_needed && group.packed_pairs > 0)
            .then(|| Box::new(PackedReader { need, leaves: Default::default() }) as Box<dyn ColumnReader>)
    }

    fn check(&self, array: &ArrayRef, scanned: &ScannedRows<'_>, _: &mut StoredRows) -> Result<(), BlockError> {
        let array = array.as_map_opt().ok_or_else(|| wrong_type(NAME))?;
        let columns: Vec<&MetadataColumn> =
            scanned.batch.metadata.iter().filter(|column| self.may_hold(&column.name)).collect();
        for (i, row) in scanned.rows.clone().enumerate() {
            let pairs = array.value(i);
            let texts = |leaf: usize| pairs.column(leaf).as_string_opt::<i32>().ok_or_else(|| wrong_type(NAME));
            let (keys, values) = (texts(KEYS)?, texts(VALUES)?);
            let mut stored: Vec<(&str, &str)> = (0..pairs.len()).map(|i| (keys.value(i), values.value(i))).collect();
            stored.sort_unstable();
            let mut scanned: Vec<(&str, &str)> =
                columns.iter().filter_map(|column| Some((&*column.name, column.values.get(row)?))).collect();
            scanned.sort_unstable();
            check_equal(NAME, stored == scanned)?;
        }
        Ok(())
    }
}

/// Pairs that wait to be encoded.
#[derive(Debug)]
pub(super) struct PackedWriter {
    /// For each row, the number of pairs up to its end; a 0 in front.
    ends: Vec<i32>,
    keys: Strings,
    values: Strings,
}

impl PackedWriter {
    pub(super) fn new() -> Self {
        Self { ends: vec![0], keys: Strings::default(), values: Strings::default() }
    }

    /// Rows that wait.
    pub(super) fn rows(&self) -> usize {
        self.ends.len() - 1
    }

    /// Adds a pair to the row that [`PackedWriter::end_row`] ends.
    pub(super) fn push_pair(&mut self, key: &str, value: &str) {
        self.keys.push(key.as_bytes());
        self.values.push(value.as_bytes());
    }

    #[inline]
    pub(super) fn end_row(&mut self) {
        self.ends.push(self.keys.len() as i32);
    }
}

impl ColumnWriter for PackedWriter {
    fn take_rows(&mut self, _: usize, counts: &mut GroupRows) -> Result<Option<ArrayRef>, BlockError> {
        counts.packed_pairs += self.keys.len() as u64;
        let keys: StringArray = self.keys.take(None)?;
        let values: StringArray = self.values.take(None)?;
        let pairs = StructArray::try_new(pair_fields(), vec![Arc::new(keys), Arc::new(values)], None)?;
        let ends = std::mem::replace(&mut self.ends, vec![0]);
        let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
        Ok(Some(Arc::new(MapArray::try_new(pair_field(), ends, pairs, None, false)?)))
    }
}

#[derive(Debug)]
struct PackedReader {
    need: MetadataNeed,
    leaves: [DecodedLeaf<TextLists, Arc<ByteColumn>>; 2],
}

impl ColumnReader for PackedReader {
    fn holds(&self, leaf: usize, page: usize) -> bool {
        self.leaves[leaf].holds(page)
    }

    fn holds_dictionary(&self, leaf: usize) -> bool {
        self.leaves[leaf].holds_dictionary()
    }

    fn read(&mut self, source: &mut PageSource<'_>, batch: &mut Batch) -> Result<(), BlockError> {
        let [keys, values] = &mut self.leaves;
        let keys = keys.load(source, KEYS, read_dictionary, read_page)?;
        let values = values.load(source, VALUES, read_dictionary, read_page)?;
        unpack_pairs(keys, values, |key| self.need.includes(key), &mut batch.metadata)
    }
}

/// Lists of texts of many rows. Row `i` has those from `starts[i]` to `starts[i + 1]`.
#[derive(Clone, Debug)]
struct TextLists {
    starts: Vec<u32>,
    texts: Texts,
}

/// Decodes a page of keys or values: any number of texts per row.
fn read_page(
    decoder: &mut PageReader,
    page: &Page<'_>,
    dictionary: Option<&Arc<ByteColumn>>,
) -> Result<TextLists, BlockError> {
    let (header, body) = decoder.decompress(page.place, &page.bytes, PageKind::Data)?;
    let body = Bytes::from(body);
    let (repetition, rest) = read_levels(&body, header.values)?;
    let (definition, values) = read_levels(rest, header.values)?;
    let present = definition.iter().filter(|level| **level == 1).count();
    let mut starts = Vec::new();
    let mut seen = 0u32;
    for (repeated, defined) in repetition.iter().zip(&definition) {
        if *repeated == 0 {
            starts.push(seen);
        }
        seen += *defined;
    }
    check_rows(page.place, starts.len())?;
    if repetition.first().is_some_and(|first| *first != 0) {
        return Err(BlockError::damaged("a page of lists does not begin with a row"));
    }
    starts.push(seen);
    let (dictionary, ids) = read_texts(&header, &body.slice_ref(values), present, dictionary)?;
    Ok(TextLists { starts, texts: Texts { dictionary, ids } })
}

/// Turns the pairs of some rows into one column per key.
fn unpack_pairs(
    (keys, key_rows): (&TextLists, Range<usize>),
    (values, value_rows): (&TextLists, Range<usize>),
    is_needed: impl Fn(&str) -> bool,
    out: &mut Vec<MetadataColumn>,
) -> Result<(), BlockError> {
    let rows = key_rows.len();
    let mut by_key: Vec<(&str, Values)> = Vec::new();
    let mut columns: HashMap<&str, usize> = HashMap::new();
    for (row, (key_row, value_row)) in key_rows.zip(value_rows).enumerate() {
        let key_places = keys.starts[key_row] as usize..keys.starts[key_row + 1] as usize;
        let value_places = values.starts[value_row] as usize..values.starts[value_row + 1] as usize;
        if key_places.len() != value_places.len() {
            return Err(BlockError::damaged("packed metadata has different numbers of keys and values"));
        }
        for (key_place, value_place) in key_places.zip(value_places) {
            let key = text(keys.texts.dictionary.get(keys.texts.ids[key_place] as usize))?;
            if !is_needed(key) {
                continue;
            }
            let column = *columns.entry(key).or_insert_with(|| {
                by_key.push((key, Values::default()));
                by_key.len() - 1
            });
            let column = &mut by_key[column].1;
            column.push(values.texts.dictionary.get(values.texts.ids[value_place] as usize));
            column.set(row);
        }
    }
    by_key.sort_unstable_by_key(|(key, _)| *key);
    for (key, values) in by_key {
        out.push(MetadataColumn { name: key.into(), values: values.finish(rows) });
    }
    Ok(())
}
