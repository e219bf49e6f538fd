//! Writes a block file.
//!
//! Each row goes to the writers of all [columns](crate::columns): its line into the page that is filling, the rest into plain
//! vectors. Every few megabytes the vectors become Arrow arrays, without another copy, and go through Parquet's encoders. So
//! memory holds the packed file so far and a few megabytes of rows. [`BlockWriter::finish`] adds our sections, the footer
//! and the seal.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use model::{Labels, Offset, TenantId, TimeRange, TimestampNs};
use parquet::{
    arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves},
    column::writer::ColumnCloseResult,
    file::{metadata::KeyValue, writer::SerializedFileWriter},
};

use crate::{
    BlockError, BlockOptions, BlockSummary, EncodedBlock, METADATA_KEYS_MAX, Provenance, TenantSummary,
    columns::{Columns, NewRow, RowWriters},
    quarantine::{QUARANTINE_VERSION, encode_quarantine},
    section::{
        CHECKSUMS, CHECKSUMS_VERSION, FORMAT_VERSION, KEY_FORMAT, KEY_PROVENANCE, KEY_SEAL, KEY_SECTIONS, QUARANTINE,
        SEAL_BLANK, STREAMS, Section, seal,
    },
    table::{self, GroupRows, STREAMS_VERSION, StreamRows, TenantRows},
};

/// Rows go to the encoders when this many bytes of lines and metadata, or rows, wait.
const BUFFER_BYTES: usize = 4 << 20;
const BUFFER_ROWS: usize = 1 << 16;

/// No line or metadata text may be longer.
const TEXT_BYTES_MAX: usize = 256 << 20;

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Its time.
    pub ts: TimestampNs,
    /// The offset of its record.
    pub offset: Offset,
    /// Its line.
    pub line: &'a [u8],
    /// Its structured metadata. If a key occurs several times, the last value wins.
    pub metadata: &'a [(&'a str, &'a str)],
}

/// Writes one block file into memory.
///
/// Call [`BlockWriter::begin_tenant`], then for each of its streams [`BlockWriter::begin_stream`] and
/// [`BlockWriter::append`]. Tenants without streams and streams without rows are left out.
pub struct BlockWriter {
    options: BlockOptions,
    provenance: Provenance,
    keys: Vec<Arc<str>>,
    columns: Columns,
    file: SerializedFileWriter<Vec<u8>>,
    encoders: ArrowRowGroupWriterFactory,
    rows: RowWriters,
    /// Rows that wait in the columns' writers, and the bytes of their texts.
    waiting_rows: usize,
    waiting_bytes: usize,
    group: Option<OpenGroup>,
    tenants: Vec<TenantRows>,
    /// The stream that rows are added to.
    stream: Option<OpenStream>,
    /// Streams that were begun for the current tenant.
    seen: HashSet<Labels>,
    /// Number of streams with rows so far, of all tenants.
    streams: u32,
    checksums: Vec<u8>,
    quarantine: Vec<(Offset, String, Vec<u8>)>,
}

struct OpenGroup {
    encoders: Vec<ArrowColumnWriter>,
    counts: GroupRows,
    text_bytes: usize,
}

struct OpenStream {
    rows: StreamRows,
    last_offset: Offset,
}

impl BlockWriter {
    /// A writer of an empty block. Each of the `metadata_keys` gets a column of its own, so choose frequent keys.
    ///
    /// # Errors
    /// When the options are out of bounds, when there are more than [`METADATA_KEYS_MAX`] keys, or when a key occurs twice.
    pub fn new(options: BlockOptions, provenance: Provenance, metadata_keys: &[String]) -> Result<Self, BlockError> {
        options.validate()?;
        let mut keys: Vec<Arc<str>> = metadata_keys.iter().map(|key| key.as_str().into()).collect();
        keys.sort_unstable();
        if keys.len() > METADATA_KEYS_MAX {
            return Err(BlockError::Refused(format!("{} metadata columns, at most {METADATA_KEYS_MAX}", keys.len())));
        }
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(BlockError::Refused(format!("metadata key {:?} is given twice", pair[0])));
        }
        let columns = Columns::new(&keys);
        let root = columns.parquet_schema()?.root_schema_ptr();
        let file = SerializedFileWriter::new(Vec::new(), root, columns.writer_properties(&options)?.into())?;
        Ok(Self {
            encoders: ArrowRowGroupWriterFactory::new(&file, columns.arrow_schema().clone()),
            rows: RowWriters::new(&options, &keys)?,
            waiting_rows: 0,
            waiting_bytes: 0,
            options,
            provenance,
            keys,
            columns,
            file,
            group: None,
            tenants: Vec::new(),
            stream: None,
            seen: HashSet::new(),
            streams: 0,
            checksums: Vec::new(),
            quarantine: Vec::new(),
        })
    }

    /// Begins the rows of a tenant.
    ///
    /// # Panics
    /// When the tenant does not come after the one before it.
    ///
    /// # Errors
    /// When rows of the tenant before cannot be encoded.
    pub fn begin_tenant(&mut self, tenant: &TenantId) -> Result<(), BlockError> {
        self.end_tenant()?;
        let ascends = self.tenants.last().is_none_or(|last| last.tenant < *tenant);
        assert!(ascends, "tenants of a block must ascend");
        self.seen.clear();
        self.tenants.push(TenantRows { tenant: tenant.clone(), groups: Vec::new(), streams: Vec::new() });
        Ok(())
    }

    /// Begins the rows of a stream of the tenant. Streams may come in any order. Lines pack better if streams with similar
    /// lines are neighbours ([`crate::packing_order`]).
    ///
    /// # Panics
    /// When there is no tenant yet, or the tenant already had the stream.
    ///
    /// # Errors
    /// None today. The signature leaves room for encoders that can fail here.
    pub fn begin_stream(&mut self, labels: &Labels) -> Result<(), BlockError> {
        self.end_stream();
        assert!(!self.tenants.is_empty(), "a stream of a block needs a tenant");
        let is_new = self.seen.insert(labels.clone());
        assert!(is_new, "a stream of a tenant must come only once");
        let rows = StreamRows { labels: labels.clone(), rows: 0, line_bytes: 0, min: i64::MAX, max: i64::MIN };
        self.stream = Some(OpenStream { rows, last_offset: Offset::new(i64::MIN) });
        Ok(())
    }

    /// Adds a row to the stream.
    ///
    /// # Panics
    /// When there is no stream yet, when (time, offset) falls, or the offset is outside of the block's range.
    ///
    /// # Errors
    /// When a text is longer than a block can hold, or rows cannot be encoded.
    pub fn append(&mut self, row: Row<'_>) -> Result<(), BlockError> {
        let ts = row.ts.nanos();
        let stream = self.stream.as_mut().expect("a row of a block needs a stream");
        let ascends = stream.rows.rows == 0 || (stream.rows.max, stream.last_offset) <= (ts, row.offset);
        assert!(ascends, "rows of a stream must ascend by time and offset");
        assert!(self.provenance.range.contains(row.offset), "a row must come from the records of its block");
        if row.line.len() > TEXT_BYTES_MAX {
            return Err(BlockError::Refused(format!("a line of {} bytes", row.line.len())));
        }
        if let Some((key, value)) = row.metadata.iter().find(|(key, value)| key.len().max(value.len()) > TEXT_BYTES_MAX)
        {
            return Err(BlockError::Refused(format!("metadata of {} bytes", key.len().max(value.len()))));
        }
        if stream.rows.rows == 0 {
            stream.rows.min = ts;
            self.streams = self
                .streams
                .checked_add(1)
                .filter(|count| *count <= i32::MAX as u32)
                .ok_or_else(|| BlockError::Refused("more streams than a block can hold".to_owned()))?;
        }
        stream.rows.max = ts;
        stream.rows.rows += 1;
        stream.rows.line_bytes += row.line.len() as u64;
        stream.last_offset = row.offset;

        let row = NewRow {
            ts,
            stream: (self.streams - 1) as i32,
            offset: row.offset.value(),
            line: row.line,
            metadata: row.metadata,
        };
        self.waiting_bytes += self.rows.push(&row)?;
        self.waiting_rows += 1;
        if self.waiting_bytes >= BUFFER_BYTES || self.waiting_rows >= BUFFER_ROWS {
            self.encode_rows()?;
        }
        Ok(())
    }

    /// Adds a record that could not be decoded, with the reason.
    pub fn quarantine(&mut self, offset: Offset, raw: &[u8], reason: &str) {
        self.quarantine.push((offset, reason.to_owned(), raw.to_vec()));
    }

    /// Bytes of the file so far and of pages in progress. Rows that wait for the encoders are not counted.
    pub fn memory_bytes(&self) -> usize {
        let open: usize = self.group.iter().flat_map(|group| &group.encoders).map(ArrowColumnWriter::memory_size).sum();
        self.file.bytes_written() + self.rows.memory_bytes() + open
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When rows or sections cannot be encoded.
    pub fn finish(mut self) -> Result<EncodedBlock, BlockError> {
        self.end_tenant()?;
        let mut sections = Vec::new();
        if !self.quarantine.is_empty() {
            // This section comes before the tail, which must stay small.
            let quarantine = encode_quarantine(&self.quarantine, self.options.zstd_level)?;
            self.write_section(&mut sections, QUARANTINE, QUARANTINE_VERSION, &quarantine)?;
        }
        let tail_start = self.file.bytes_written();
        let streams = table::encode(&self.keys, &self.tenants, self.options.zstd_level)?;
        self.write_section(&mut sections, STREAMS, STREAMS_VERSION, &streams)?;
        let checksums = std::mem::take(&mut self.checksums);
        self.write_section(&mut sections, CHECKSUMS, CHECKSUMS_VERSION, &checksums)?;

        let json = |text: serde_json::Result<String>| text.map_err(|e| BlockError::Refused(e.to_string()));
        let pairs = [
            (KEY_FORMAT, FORMAT_VERSION.to_string()),
            (KEY_PROVENANCE, json(serde_json::to_string(&self.provenance))?),
            (KEY_SECTIONS, json(serde_json::to_string(&sections))?),
            (KEY_SEAL, SEAL_BLANK.to_owned()),
        ];
        for (key, value) in pairs {
            self.file.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        let mut bytes = self.file.into_inner()?;
        seal(&mut bytes, tail_start)?;
        bytes.shrink_to_fit();

        let tail_bytes = (bytes.len() - tail_start) as u64;
        let quarantined = self.quarantine.len() as u64;
        let offsets = self.provenance.range;
        let summary = summarise(&self.tenants, bytes.len() as u64, tail_bytes, offsets, quarantined);
        Ok(EncodedBlock { bytes: Bytes::from(bytes), summary })
    }

    fn write_section(
        &mut self,
        sections: &mut Vec<Section>,
        name: &str,
        version: u32,
        bytes: &[u8],
    ) -> Result<(), BlockError> {
        let (offset, length) = (self.file.bytes_written() as u64, bytes.len() as u64);
        self.file.write_all(bytes)?;
        sections.push(Section { name: name.to_owned(), version, offset, length, crc32c: crc32c::crc32c(bytes) });
        Ok(())
    }

    fn end_stream(&mut self) {
        if let Some(stream) = self.stream.take().filter(|stream| stream.rows.rows > 0) {
            self.tenants.last_mut().expect("a stream has a tenant").streams.push(stream.rows);
        }
    }

    fn end_tenant(&mut self) -> Result<(), BlockError> {
        self.end_stream();
        self.encode_rows()?;
        self.end_group()?;
        if self.tenants.last().is_some_and(|tenant| tenant.streams.is_empty()) {
            self.tenants.pop();
        }
        Ok(())
    }

    /// Hands the rows that wait to the encoders of the open row group, and ends the group when it is large enough.
    fn encode_rows(&mut self) -> Result<(), BlockError> {
        let (rows, bytes) = (std::mem::take(&mut self.waiting_rows), std::mem::take(&mut self.waiting_bytes));
        if rows == 0 {
            return Ok(());
        }
        let group = match &mut self.group {
            Some(group) => group,
            none => {
                let encoders = self.encoders.create_column_writers(self.file.flushed_row_groups().len())?;
                let counts = GroupRows { present: vec![0; self.keys.len()], ..GroupRows::default() };
                none.insert(OpenGroup { encoders, counts, text_bytes: 0 })
            }
        };
        let fields = self.columns.arrow_schema().fields();
        for ((placed, field), writer) in self.columns.iter().zip(fields).zip(self.rows.column_writers()) {
            let Some(array) = writer.take_rows(rows, &mut group.counts)? else {
                continue;
            };
            let leaves = compute_leaves(field, &array)?;
            assert_eq!(leaves.len(), placed.leaves.len(), "a column names each of its leaves");
            for (encoder, leaf) in group.encoders[placed.leaves.clone()].iter_mut().zip(&leaves) {
                encoder.write(leaf)?;
            }
        }
        group.counts.rows += rows as u64;
        group.text_bytes += bytes;
        let full = group.text_bytes >= self.options.row_group_bytes_max
            || group.counts.rows >= self.options.row_group_rows_max as u64;
        if full { self.end_group() } else { Ok(()) }
    }

    fn end_group(&mut self) -> Result<(), BlockError> {
        let Some(group) = self.group.take() else {
            return Ok(());
        };
        let leaves = self.file.schema_descr().columns().to_vec();
        let mut row_group = self.file.next_row_group()?;
        let mut page_sizes = Vec::new();
        let mut encoders = group.encoders.into_iter();
        for (placed, writer) in self.columns.iter().zip(self.rows.column_writers()) {
            let own_encoders = encoders.by_ref().take(placed.leaves.len());
            match writer.take_chunks(&leaves[placed.leaves.clone()])? {
                Some(chunks) => {
                    own_encoders.for_each(drop);
                    for chunk in chunks {
                        page_sizes.push(sizes_of_pages(&chunk.close)?);
                        row_group.append_column(&chunk.bytes, chunk.close)?;
                    }
                }
                None => {
                    for encoder in own_encoders {
                        let chunk = encoder.close()?;
                        page_sizes.push(sizes_of_pages(chunk.close())?);
                        chunk.append_to_row_group(&mut row_group)?;
                    }
                }
            }
        }
        let metadata = row_group.close()?;
        self.file.flush()?;
        let file = self.file.inner();
        for (column, sizes) in metadata.columns().iter().zip(page_sizes) {
            let (start, length) = column.byte_range();
            let chunk = &file[start as usize..(start + length) as usize];
            checksum_pages(chunk, &sizes, &mut self.checksums);
        }
        self.tenants.last_mut().expect("rows have a tenant").groups.push(group.counts);
        Ok(())
    }
}

fn sizes_of_pages(chunk: &ColumnCloseResult) -> Result<Vec<usize>, BlockError> {
    let index = chunk.offset_index.as_ref();
    let index = index.ok_or_else(|| BlockError::Refused("a column was written without page index".to_owned()))?;
    Ok(index.page_locations().iter().map(|page| page.compressed_page_size as usize).collect())
}

/// Appends the checksums of a column chunk: that of its dictionary page, if it has one, and that of each data page.
fn checksum_pages(chunk: &[u8], sizes: &[usize], out: &mut Vec<u8>) {
    let (dictionary, mut rest) = chunk.split_at(chunk.len() - sizes.iter().sum::<usize>());
    let mut put = |page: &[u8]| out.extend_from_slice(&crc32c::crc32c(page).to_le_bytes());
    if !dictionary.is_empty() {
        put(dictionary);
    }
    for size in sizes {
        let (page, behind) = rest.split_at(*size);
        put(page);
        rest = behind;
    }
}

fn summarise(
    tenants: &[TenantRows],
    bytes: u64,
    tail_bytes: u64,
    offsets: model::OffsetRange,
    quarantined: u64,
) -> BlockSummary {
    let mut next_group = 0;
    let tenants: Vec<TenantSummary> = tenants
        .iter()
        .map(|tenant| {
            let first_group = next_group;
            next_group += tenant.groups.len();
            let bound = |pick: fn(&StreamRows) -> i64| tenant.streams.iter().map(pick);
            let min = bound(|s| s.min).min().expect("a tenant has streams");
            let max = bound(|s| s.max).max().expect("a tenant has streams");
            TenantSummary {
                tenant: tenant.tenant.clone(),
                row_groups: first_group..next_group,
                rows: tenant.streams.iter().map(|s| s.rows).sum(),
                line_bytes: tenant.streams.iter().map(|s| s.line_bytes).sum(),
                streams: tenant.streams.len() as u32,
                time: TimeRange::closed(TimestampNs::from_nanos(min), TimestampNs::from_nanos(max)),
            }
        })
        .collect();
    let start = tenants.iter().map(|t| t.time.start).min();
    let end = tenants.iter().map(|t| t.time.end).max();
    BlockSummary {
        bytes,
        tail_bytes,
        rows: tenants.iter().map(|t| t.rows).sum(),
        line_bytes: tenants.iter().map(|t| t.line_bytes).sum(),
        time: start.zip(end).map(|(start, end)| TimeRange::new(start, end)),
        offsets,
        tenants,
        quarantined,
    }
}
