//! Checks everything that is said of a block against its bytes.

use std::{collections::HashSet, ops::Range};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampNanosecondType};
use bytes::Bytes;
use model::{Needs, Offset};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;

use crate::{
    BlockError, BlockIndex, BlockScan, BlockSummary, Step,
    inspect::{quarantined, summary},
    section::MAGIC,
};

/// What was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// What the block holds.
    pub summary: BlockSummary,
    /// Pages whose checksums were compared.
    pub pages: usize,
    /// Rows that were read, twice: by the Parquet library and by [`BlockScan`].
    pub rows: u64,
    /// Everything that is wrong; empty for a sound block.
    pub problems: Vec<String>,
}

/// Checks a whole file: every byte is covered by a checksum that fits; rows, as the Parquet library reads them, are in order
/// and lie in their streams' row ranges, times and offsets; the stream table's counts fit; and a scan yields the same rows.
///
/// # Errors
/// When the file cannot be opened at all. What is found behind that is listed in [`VerifyReport::problems`].
pub fn verify(bytes: Bytes) -> Result<VerifyReport, BlockError> {
    let index = BlockIndex::open(bytes.len() as u64, bytes.clone())?;
    let mut problems = Vec::new();
    let pages = check_bytes(&index, &bytes, &mut problems);
    let mut quarantined_count = 0;
    match quarantined(&index, &bytes) {
        Ok(records) => {
            quarantined_count = records.len() as u64;
            let range = index.provenance().range;
            let outside = records.iter().filter(|record| !range.contains(record.offset));
            problems.extend(outside.map(|r| format!("quarantined record {} is not of the block's range", r.offset)));
        }
        Err(error) => problems.push(format!("quarantine: {error}")),
    }
    check_table(&index, &mut problems);
    let mut rows = 0;
    // Damaged bytes are not handed to decoders that do not expect them.
    if problems.is_empty() {
        match check_rows(&index, &bytes) {
            Ok(count) => rows = count,
            Err(error) => problems.push(error.to_string()),
        }
    }
    Ok(VerifyReport { summary: summary(&index, quarantined_count), pages, rows, problems })
}

/// Every byte lies in the magic, a page, a section or the tail, and its checksum fits.
fn check_bytes(index: &BlockIndex, bytes: &Bytes, problems: &mut Vec<String>) -> usize {
    let tail = index.file_bytes() - index.tail_bytes()..index.file_bytes();
    let mut covered: Vec<Range<u64>> = std::iter::once(tail).collect();
    if bytes.get(..4) == Some(&MAGIC[..]) {
        covered.push(0..4);
    }
    let mut pages = 0;
    for column in index.groups().iter().flat_map(|group| &group.columns) {
        for page in column.dictionary.iter().chain(&column.pages) {
            let range = page.range();
            let found = bytes.get(range.start as usize..range.end as usize).map(crc32c::crc32c);
            if found != Some(page.crc) {
                problems.push(format!("checksum of the page at {} differs", range.start));
            }
            pages += 1;
            covered.push(range);
        }
    }
    for section in index.sections() {
        if let Err(error) = section.slice(bytes, 0) {
            problems.push(error.to_string());
        }
        covered.push(section.offset..section.offset.saturating_add(section.length));
    }
    covered.sort_unstable_by_key(|range| range.start);
    let mut end = 0;
    for range in covered {
        if range.start > end {
            problems.push(format!("bytes {end} to {} belong to nothing", range.start));
        }
        end = end.max(range.end);
    }
    if end != index.file_bytes() {
        problems.push("a section ends behind the file".to_owned());
    }
    pages
}

/// No stream of a tenant comes twice. Counts were compared when the table was decoded.
fn check_table(index: &BlockIndex, problems: &mut Vec<String>) {
    for tenant in index.tenants() {
        let mut seen = HashSet::new();
        for stream in tenant.streams.filter_map(|ordinal| index.stream(ordinal)) {
            if !seen.insert(stream.labels) {
                problems.push(format!("stream {} of tenant {} comes twice", stream.ordinal, tenant.tenant));
            }
        }
    }
}

/// A row as both readers see it.
#[derive(Debug, PartialEq, Eq)]
struct FlatRow {
    stream: u32,
    ts: i64,
    offset: i64,
    line: Vec<u8>,
    metadata: Vec<(String, String)>,
}

/// Reads all rows with both readers and compares.
fn check_rows(index: &BlockIndex, bytes: &Bytes) -> Result<u64, BlockError> {
    let mut ours = ScannedRows::new(index, bytes);
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())?;
    let mut checker = RowChecker { index, stream: None, rows: 0, last: None, line_bytes: 0, min: 0, max: 0 };
    let mut rows = 0;
    for batch in builder.with_batch_size(4096).build()? {
        for row in flat_rows(index, &batch?)? {
            checker.check(&row)?;
            if ours.next_row()?.as_ref() != Some(&row) {
                return Err(BlockError::damaged(format!("row {rows} reads differently by scan")));
            }
            rows += 1;
        }
    }
    checker.end_stream()?;
    if ours.next_row()?.is_some() {
        return Err(BlockError::damaged("a scan finds more rows than there are"));
    }
    let expected: u64 = index.tenants().map(|tenant| tenant.rows).sum();
    if rows != expected {
        return Err(BlockError::damaged(format!("{expected} rows expected, {rows} found")));
    }
    Ok(rows)
}

/// Compares rows with the stream table.
struct RowChecker<'a> {
    index: &'a BlockIndex,
    stream: Option<u32>,
    rows: u64,
    line_bytes: u64,
    min: i64,
    max: i64,
    last: Option<(i64, i64)>,
}

impl RowChecker<'_> {
    fn check(&mut self, row: &FlatRow) -> Result<(), BlockError> {
        let wrong = |what: &str| Err(BlockError::damaged(format!("stream {}: {what}", row.stream)));
        if self.stream != Some(row.stream) {
            let expected = self.stream.map_or(0, |stream| stream + 1);
            self.end_stream()?;
            if row.stream != expected {
                return wrong("its rows are not where its ordinal says");
            }
            (self.stream, self.last, self.min) = (Some(row.stream), None, row.ts);
        }
        if self.last > Some((row.ts, row.offset)) {
            return wrong("its rows are not in order");
        }
        if !self.index.provenance().range.contains(Offset::new(row.offset)) {
            return wrong("an offset is not of the block's range");
        }
        (self.last, self.max) = (Some((row.ts, row.offset)), row.ts);
        self.rows += 1;
        self.line_bytes += row.line.len() as u64;
        Ok(())
    }

    fn end_stream(&mut self) -> Result<(), BlockError> {
        let Some(ordinal) = self.stream else {
            return Ok(());
        };
        let stream = self.index.table().streams.get(ordinal as usize);
        let fits = stream.is_some_and(|stream| {
            (stream.rows.end - stream.rows.start, stream.line_bytes, stream.min, stream.max)
                == (self.rows, self.line_bytes, self.min, self.max)
        });
        (self.rows, self.line_bytes) = (0, 0);
        if fits { Ok(()) } else { Err(BlockError::damaged(format!("stream {ordinal}: the table says otherwise"))) }
    }
}

/// Rows as the Parquet library reads them.
fn flat_rows(index: &BlockIndex, batch: &arrow::array::RecordBatch) -> Result<Vec<FlatRow>, BlockError> {
    let layout = index.layout();
    let column = |i: usize| batch.column(i);
    let ts = column(0).as_primitive_opt::<TimestampNanosecondType>();
    let stream = column(1).as_primitive_opt::<Int32Type>();
    let line = column(2).as_binary_opt::<i32>();
    let packed = column(layout.packed_keys()).as_map_opt();
    // The packed metadata is two leaf columns, but one field.
    let offset = column(layout.offset() - 1).as_primitive_opt::<Int64Type>();
    let (Some(ts), Some(stream), Some(line), Some(packed), Some(offset)) = (ts, stream, line, packed, offset) else {
        return Err(BlockError::damaged("columns have other types than they should"));
    };
    let mut rows = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let mut metadata = Vec::new();
        for (i, key) in index.metadata_keys().iter().enumerate() {
            let values = column(layout.key(i)).as_string_opt::<i32>();
            let values = values.ok_or_else(|| BlockError::damaged("a metadata column holds no text"))?;
            if values.is_valid(row) {
                metadata.push((key.to_string(), values.value(row).to_owned()));
            }
        }
        let pairs = packed.value(row);
        if let (Some(keys), Some(values)) =
            (pairs.column(0).as_string_opt::<i32>(), pairs.column(1).as_string_opt::<i32>())
        {
            metadata.extend((0..pairs.len()).map(|i| (keys.value(i).to_owned(), values.value(i).to_owned())));
        }
        metadata.sort_unstable();
        let stream =
            u32::try_from(stream.value(row)).map_err(|_| BlockError::damaged("a stream's ordinal is negative"))?;
        let line = line.value(row).to_vec();
        rows.push(FlatRow { stream, ts: ts.value(row), offset: offset.value(row), line, metadata });
    }
    Ok(rows)
}

/// Rows as a scan reads them.
struct ScannedRows<'a> {
    scan: BlockScan,
    bytes: &'a Bytes,
    batch: Option<model::Batch>,
    row: usize,
}

impl<'a> ScannedRows<'a> {
    fn new(index: &BlockIndex, bytes: &'a Bytes) -> Self {
        let columns = Needs::everything();
        let streams = (0..index.table().streams.len() as u32).collect();
        Self { scan: BlockScan::whole(index, streams, columns), bytes, batch: None, row: 0 }
    }

    fn next_row(&mut self) -> Result<Option<FlatRow>, BlockError> {
        while self.batch.as_ref().is_none_or(|batch| self.row >= batch.len()) {
            match self.scan.next()? {
                Step::Done => return Ok(None),
                Step::NeedsData(ranges) => {
                    let slice = |range: &Range<u64>| self.bytes.slice(range.start as usize..range.end as usize);
                    let data = ranges.iter().map(slice).collect();
                    self.scan.supply(ranges, data)?;
                }
                Step::Batch(batch) => (self.batch, self.row) = (Some(batch), 0),
            }
        }
        let (Some(batch), Some(stream)) = (&self.batch, self.scan.stream()) else {
            return Ok(None);
        };
        let row = self.row;
        self.row += 1;
        let value = |column: &model::MetadataColumn| {
            column.values.get(row).map(|value| (column.name.to_string(), value.to_owned()))
        };
        let mut metadata: Vec<(String, String)> = batch.metadata.iter().filter_map(value).collect();
        metadata.sort_unstable();
        let (ts, offset) = (batch.timestamps[row], batch.offsets[row]);
        Ok(Some(FlatRow { stream, ts, offset, line: batch.lines.get(row).to_vec(), metadata }))
    }
}
