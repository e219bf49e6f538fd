//! A block opened from its tail: what is in it, and where the pages lie.

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
    page::PageRef,
    schema::{LINE, Layout, METADATA_PREFIX, TS, parquet_schema},
    section::{
        self, CHECKSUMS, FORMAT_VERSION, KEY_FORMAT, KEY_PROVENANCE, KEY_SECTIONS, QUARANTINE, STREAMS, Section,
        check_seal,
    },
    table::{STREAMS_VERSION, StreamTable, Tenant},
    writer::CHECKSUMS_VERSION,
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
    groups: Vec<GroupPages>,
    sections: Vec<Section>,
    memory_bytes: usize,
}

/// The pages of a row group, by leaf column.
#[derive(Debug)]
pub(crate) struct GroupPages {
    pub(crate) columns: Vec<ColumnPages>,
    /// Earliest and latest timestamp of each page of the time column.
    pub(crate) times: Vec<(i64, i64)>,
    /// Bytes of lines of each page of the line column, when the index says so.
    pub(crate) line_bytes: Vec<u32>,
}

/// The pages of a column of a row group.
#[derive(Debug)]
pub(crate) struct ColumnPages {
    pub(crate) dictionary: Option<PageRef>,
    pub(crate) pages: Vec<PageRef>,
}

impl ColumnPages {
    /// The pages that hold rows of the range.
    pub(crate) fn of_rows(&self, rows: &Range<u32>) -> Range<usize> {
        let first = self.pages.partition_point(|page| page.rows.end <= rows.start);
        let last = self.pages.partition_point(|page| page.rows.start < rows.end);
        first..last.max(first)
    }
}

/// What a block holds of one tenant.
#[derive(Clone, Debug)]
pub struct TenantRef<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// Its row groups.
    pub row_groups: Range<usize>,
    /// Ordinals of its streams.
    pub streams: Range<u32>,
    /// Its rows.
    pub rows: u64,
    /// Bytes of its lines.
    pub line_bytes: u64,
    /// From its earliest to just behind its latest row.
    pub time: TimeRange,
}

/// What a block holds of one stream. All of it is exact, so that whole streams are counted without reading rows.
#[derive(Clone, Debug)]
pub struct StreamRef<'a> {
    /// The stream's number in the block; ordinals of a tenant follow one another.
    pub ordinal: u32,
    /// Its labels.
    pub labels: &'a Labels,
    /// Its rows.
    pub rows: u64,
    /// Bytes of its lines.
    pub line_bytes: u64,
    /// From its earliest to just behind its latest row.
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
        // From here on the bytes are what was written, so errors are mistakes of a writer.
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        reader.try_parse_sized(&tail, file_bytes)?;
        let metadata = reader.finish()?;

        let version = value(&metadata, KEY_FORMAT)?;
        let version: u32 = version.parse().map_err(|_| BlockError::damaged("the format version is no number"))?;
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

        check_schema(&metadata, &table)?;
        let groups = read_groups(&metadata, &table, checksums, tail_start)?;
        let tail_bytes = tail.len() as u64;
        let memory_bytes = table.memory_bytes() + groups.iter().map(GroupPages::memory_bytes).sum::<usize>();
        Ok(Self(Arc::new(Inner { file_bytes, tail_bytes, provenance, table, groups, sections, memory_bytes })))
    }

    /// Roughly what the opened index keeps in memory.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Inner>() + self.0.memory_bytes
    }

    /// Length of the file.
    pub fn file_bytes(&self) -> u64 {
        self.0.file_bytes
    }

    /// Length of the tail that was needed to open the file.
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

    pub(crate) fn groups(&self) -> &[GroupPages] {
        &self.0.groups
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::new(self.0.table.keys.len())
    }

    pub(crate) fn sections(&self) -> &[Section] {
        &self.0.sections
    }

    /// The section of records that could not be decoded, if there are any.
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

/// The columns must be those this version writes: names, types and nesting.
fn check_schema(metadata: &ParquetMetaData, table: &StreamTable) -> Result<(), BlockError> {
    let found = metadata.file_metadata().schema_descr();
    let expected = parquet_schema(&table.keys)?;
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
    table: &StreamTable,
    checksums: &[u8],
    data_end: u64,
) -> Result<Vec<GroupPages>, BlockError> {
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
) -> Result<GroupPages, BlockError> {
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
        columns.push(ColumnPages { dictionary, pages });
    }
    let times = match index.column_index(TS) {
        Some(ColumnIndexMetaData::INT64(index)) => {
            let bounds = index.min_values_iter().zip(index.max_values_iter());
            bounds.map(|(min, max)| (min.copied().unwrap_or(i64::MIN), max.copied().unwrap_or(i64::MAX))).collect()
        }
        _ => vec![(i64::MIN, i64::MAX); columns[TS].pages.len()],
    };
    if times.len() != columns[TS].pages.len() {
        return Err(BlockError::damaged("the page index has not one time range for each page"));
    }
    let line_bytes = index.offset_index(LINE).and_then(|index| index.unencoded_byte_array_data_bytes());
    let line_bytes = line_bytes.map(|all| all.iter().map(|bytes| u32::try_from(*bytes).unwrap_or(0)).collect());
    Ok(GroupPages { columns, times, line_bytes: line_bytes.unwrap_or_default() })
}

impl GroupPages {
    fn memory_bytes(&self) -> usize {
        let column = |column: &ColumnPages| size_of::<ColumnPages>() + size_of_val(&*column.pages);
        size_of::<Self>()
            + size_of_val(&*self.times)
            + size_of_val(&*self.line_bytes)
            + self.columns.iter().map(column).sum::<usize>()
    }
}
