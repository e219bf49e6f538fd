//! A block opened from its tail: its content, and the places of its pages.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use model::{Labels, Matcher, TenantId, TimeRange};
use parquet::{
    basic::Type,
    file::{
        metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
        page_index::column_index::ColumnIndexMetaData,
    },
};

use crate::{
    BlockError, Provenance,
    columns::{Columns, LeafPages, METADATA_PREFIX, PageFacts},
    page::PageRef,
    section::{
        self, CHECKSUMS, CHECKSUMS_VERSION, FORMAT_VERSION, KEY_FORMAT, KEY_PROVENANCE, KEY_SECTIONS, QUARANTINE,
        STREAMS, Section, check_seal,
    },
    table::{STREAMS_VERSION, StreamTable, Tenant},
};

/// A block opened from its tail. Cheap to clone and to share.
#[derive(Clone, Debug)]
pub struct BlockIndex(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file_bytes: u64,
    tail_bytes: u64,
    provenance: Provenance,
    table: StreamTable,
    columns: Columns,
    /// The leaf columns of each row group.
    groups: Vec<Vec<LeafPages>>,
    sections: Vec<Section>,
    memory_bytes: usize,
}

/// The rows of one tenant in a block.
#[derive(Clone, Debug)]
pub struct TenantRef<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// Its row groups.
    pub row_groups: Range<usize>,
    /// Ordinals of its streams.
    pub streams: Range<u32>,
    /// Number of its rows.
    pub rows: u64,
    /// Bytes of its lines.
    pub line_bytes: u64,
    /// From its earliest row to just after its latest one.
    pub time: TimeRange,
}

/// The rows of one stream in a block. All numbers are exact, so whole streams can be counted without reading rows.
#[derive(Clone, Debug)]
pub struct StreamRef<'a> {
    /// The stream's number in the block. The ordinals of a tenant are contiguous.
    pub ordinal: u32,
    /// Its labels.
    pub labels: &'a Labels,
    /// Number of its rows.
    pub rows: u64,
    /// Bytes of its lines.
    pub line_bytes: u64,
    /// From its earliest row to just after its latest one.
    pub time: TimeRange,
}

impl BlockIndex {
    /// Opens a block of `file_bytes` from its last bytes (or from all of them).
    ///
    /// # Errors
    /// [`BlockError::NeedsMore`] when `tail` is too short, [`BlockError::Version`] when the block was written by a newer
    /// version, and others when the bytes are not those of a block.
    pub fn open(file_bytes: u64, tail: Bytes) -> Result<Self, BlockError> {
        let tail = check_seal(file_bytes, &tail)?;
        let tail_start = file_bytes - tail.len() as u64;
        // The seal is right, so the bytes are those that were written, and further errors are mistakes of the writer.
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        reader.try_parse_sized(&tail, file_bytes)?;
        let metadata = reader.finish()?;

        let version = value(&metadata, KEY_FORMAT)?;
        let version: u32 = version.parse().map_err(|_| BlockError::damaged("the format version is not a number"))?;
        if version > FORMAT_VERSION {
            return Err(BlockError::Version { what: "format".to_owned(), found: version, known: FORMAT_VERSION });
        }
        let json = |e: serde_json::Error| BlockError::damaged(format!("footer: {e}"));
        let provenance: Provenance = serde_json::from_str(value(&metadata, KEY_PROVENANCE)?).map_err(json)?;
        let sections: Vec<Section> = serde_json::from_str(value(&metadata, KEY_SECTIONS)?).map_err(json)?;
        let required = |name, known| {
            let missing = || BlockError::damaged(format!("section {name} is missing"));
            section::find(&sections, name, known)?.ok_or_else(missing)?.slice(&tail, tail_start)
        };
        let table = StreamTable::decode(required(STREAMS, STREAMS_VERSION)?)?;
        let checksums = required(CHECKSUMS, CHECKSUMS_VERSION)?;

        let columns = Columns::new(&table.keys);
        check_schema(&metadata, &columns, &table)?;
        let groups = read_groups(&metadata, &columns, &table, checksums, tail_start)?;
        let tail_bytes = tail.len() as u64;
        let memory_bytes = table.memory_bytes() + groups.iter().flatten().map(LeafPages::memory_bytes).sum::<usize>();
        Ok(Self(Arc::new(Inner { file_bytes, tail_bytes, provenance, table, columns, groups, sections, memory_bytes })))
    }

    /// Approximate memory of the opened index in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Inner>() + self.0.memory_bytes
    }

    /// Length of the file.
    pub fn file_bytes(&self) -> u64 {
        self.0.file_bytes
    }

    /// Length of the tail, which is enough to open the file.
    pub fn tail_bytes(&self) -> u64 {
        self.0.tail_bytes
    }

    /// Where the rows come from.
    pub fn provenance(&self) -> &Provenance {
        &self.0.provenance
    }

    /// Metadata keys with a column of their own.
    pub fn metadata_keys(&self) -> &[Arc<str>] {
        &self.0.table.keys
    }

    /// The tenants in ascending order.
    pub fn tenants(&self) -> impl ExactSizeIterator<Item = TenantRef<'_>> {
        self.0.table.tenants.iter().map(tenant_ref)
    }

    /// One tenant, if the block has rows of it.
    pub fn tenant(&self, tenant: &TenantId) -> Option<TenantRef<'_>> {
        self.find(tenant).map(tenant_ref)
    }

    fn find(&self, tenant: &TenantId) -> Option<&Tenant> {
        let tenants = &self.0.table.tenants;
        tenants.binary_search_by(|t| t.tenant.cmp(tenant)).ok().map(|i| &tenants[i])
    }

    /// The tenant's streams that pass all matchers and may have rows in `time`, in order of their rows.
    pub fn streams(&self, tenant: &TenantId, matchers: &[Matcher], time: TimeRange) -> Vec<StreamRef<'_>> {
        let Some(tenant) = self.find(tenant) else {
            return Vec::new();
        };
        self.0.table.select(tenant, matchers, &time).into_iter().filter_map(|ordinal| self.stream(ordinal)).collect()
    }

    /// One stream by its ordinal.
    pub fn stream(&self, ordinal: u32) -> Option<StreamRef<'_>> {
        let table = &self.0.table;
        let stream = table.streams.get(ordinal as usize)?;
        Some(StreamRef {
            ordinal,
            labels: table.labels_ref(stream),
            rows: stream.rows.end - stream.rows.start,
            line_bytes: stream.line_bytes,
            time: stream.time(),
        })
    }

    pub(crate) fn table(&self) -> &StreamTable {
        &self.0.table
    }

    /// The leaf columns of each row group.
    pub(crate) fn groups(&self) -> &[Vec<LeafPages>] {
        &self.0.groups
    }

    pub(crate) fn columns(&self) -> &Columns {
        &self.0.columns
    }

    pub(crate) fn sections(&self) -> &[Section] {
        &self.0.sections
    }

    /// The quarantine section, if there is one.
    pub(crate) fn quarantine(&self, known: u32) -> Result<Option<&Section>, BlockError> {
        section::find(&self.0.sections, QUARANTINE, known)
    }
}

fn tenant_ref(tenant: &Tenant) -> TenantRef<'_> {
    TenantRef {
        tenant: &tenant.tenant,
        row_groups: tenant.groups.clone(),
        streams: tenant.streams.clone(),
        rows: tenant.rows,
        line_bytes: tenant.line_bytes,
        time: tenant.time,
    }
}

/// A value of the footer's key-value metadata.
fn value<'a>(metadata: &'a ParquetMetaData, key: &str) -> Result<&'a str, BlockError> {
    let pairs = metadata.file_metadata().key_value_metadata();
    let pair = pairs.and_then(|pairs| pairs.iter().rfind(|pair| pair.key == key));
    let missing = || BlockError::damaged(format!("the footer lacks {key}"));
    pair.and_then(|pair| pair.value.as_deref()).ok_or_else(missing)
}

/// Checks that the names, types and nesting of the columns are those that this version writes.
fn check_schema(metadata: &ParquetMetaData, columns: &Columns, table: &StreamTable) -> Result<(), BlockError> {
    let found = metadata.file_metadata().schema_descr();
    let expected = columns.parquet_schema()?;
    let shape = |schema: &parquet::schema::types::SchemaDescriptor| -> Vec<(String, Type, i16, i16)> {
        let column = |c: &parquet::schema::types::ColumnDescPtr| {
            (c.path().string(), c.physical_type(), c.max_def_level(), c.max_rep_level())
        };
        schema.columns().iter().map(column).collect()
    };
    if shape(found) != shape(&expected) {
        return Err(BlockError::damaged(format!(
            "the columns are not those of a block with {} columns named {METADATA_PREFIX}*",
            table.keys.len()
        )));
    }
    Ok(())
}

fn read_groups(
    metadata: &ParquetMetaData,
    columns: &Columns,
    table: &StreamTable,
    checksums: &[u8],
    data_end: u64,
) -> Result<Vec<Vec<LeafPages>>, BlockError> {
    if metadata.num_row_groups() != table.groups.len() {
        return Err(BlockError::damaged("the stream table and the footer differ in their row groups"));
    }
    let (checksums, left_over) = checksums.as_chunks::<4>();
    let mut checksums = checksums.iter().map(|word| u32::from_le_bytes(*word));
    let mut groups = Vec::new();
    for (i, (group, counts)) in metadata.row_groups().iter().zip(&table.groups).enumerate() {
        let rows = counts.rows.end - counts.rows.start;
        let rows = u32::try_from(rows).ok().filter(|rows| i64::from(*rows) == group.num_rows());
        let rows = rows.ok_or_else(|| BlockError::damaged("the stream table and a row group differ in their rows"))?;
        groups.push(read_group(metadata, i, group, rows, &mut checksums, data_end)?);
        let leaves = groups.last_mut().expect("a row group was just added");
        read_page_facts(metadata, i, columns, leaves)?;
    }
    if checksums.next().is_some() || !left_over.is_empty() {
        return Err(BlockError::damaged("there are more checksums than pages"));
    }
    Ok(groups)
}

fn read_group(
    metadata: &ParquetMetaData,
    group_index: usize,
    group: &RowGroupMetaData,
    rows: u32,
    checksums: &mut impl Iterator<Item = u32>,
    data_end: u64,
) -> Result<Vec<LeafPages>, BlockError> {
    let index = metadata.page_index_for_row_group(group_index);
    let outside = || BlockError::damaged("a page lies outside of the file's rows");
    let mut columns = Vec::with_capacity(group.num_columns());
    for (i, column) in group.columns().iter().enumerate() {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let start = u64::try_from(start).map_err(|_| outside())?;
        let length = u64::try_from(column.compressed_size()).map_err(|_| outside())?;
        let end = start.checked_add(length).filter(|end| *end <= data_end).ok_or_else(outside)?;
        let locations = index.page_locations(i).ok_or_else(|| BlockError::damaged("the page index is missing"))?;
        let mut at = start;
        let mut crc = || checksums.next().ok_or_else(|| BlockError::damaged("there are fewer checksums than pages"));
        let first = locations.first().and_then(|page| u64::try_from(page.offset).ok()).ok_or_else(outside)?;
        let dictionary = if first > start {
            let bytes = u32::try_from(first - start).map_err(|_| outside())?;
            at = first;
            Some(PageRef { start, bytes, crc: crc()?, rows: 0..0 })
        } else {
            None
        };
        let mut pages = Vec::with_capacity(locations.len());
        for (p, location) in locations.iter().enumerate() {
            let row = |i: i64| u32::try_from(i).ok().filter(|row| *row <= rows).ok_or_else(outside);
            let first_row = row(location.first_row_index)?;
            let end_row = locations.get(p + 1).map_or(Ok(rows), |next| row(next.first_row_index))?;
            let bytes = u32::try_from(location.compressed_page_size).map_err(|_| outside())?;
            if u64::try_from(location.offset).ok() != Some(at) || first_row > end_row || (p == 0 && first_row != 0) {
                return Err(outside());
            }
            pages.push(PageRef { start: at, bytes, crc: crc()?, rows: first_row..end_row });
            at += u64::from(bytes);
        }
        if at != end {
            return Err(outside());
        }
        columns.push(LeafPages { dictionary, pages, bounds: Vec::new(), value_bytes: Vec::new() });
    }
    Ok(columns)
}

/// Adds the page facts that columns ask for.
fn read_page_facts(
    metadata: &ParquetMetaData,
    group_index: usize,
    columns: &Columns,
    leaves: &mut [LeafPages],
) -> Result<(), BlockError> {
    let index = metadata.page_index_for_row_group(group_index);
    for placed in columns.iter() {
        let leaf = placed.leaves.start;
        let pages = &mut leaves[leaf];
        match placed.column.page_facts() {
            PageFacts::None => {}
            PageFacts::Bounds => {
                pages.bounds = match index.column_index(leaf) {
                    Some(ColumnIndexMetaData::INT64(index)) => {
                        let bounds = index.min_values_iter().zip(index.max_values_iter());
                        let or_all = |(min, max): (Option<&i64>, Option<&i64>)| {
                            (min.copied().unwrap_or(i64::MIN), max.copied().unwrap_or(i64::MAX))
                        };
                        bounds.map(or_all).collect()
                    }
                    _ => vec![(i64::MIN, i64::MAX); pages.pages.len()],
                };
                if pages.bounds.len() != pages.pages.len() {
                    return Err(BlockError::damaged("the page index does not have one pair of bounds per page"));
                }
            }
            PageFacts::ValueBytes => {
                let bytes = index.offset_index(leaf).and_then(|index| index.unencoded_byte_array_data_bytes());
                let bytes = bytes.map(|all| all.iter().map(|bytes| u32::try_from(*bytes).unwrap_or(0)).collect());
                pages.value_bytes = bytes.unwrap_or_default();
            }
        }
    }
    Ok(())
}
