//! Checks a whole block: its checksums, its stream table, and its rows with two readers.

use std::{collections::HashSet, ops::Range};

use bytes::Bytes;
use model::{Needs, Offset};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;

use crate::{
    BlockError, BlockIndex, BlockScan, BlockSummary, Step,
    columns::{ScannedRows, StoredRows},
    inspect::summary,
    quarantine::quarantined,
    section::MAGIC,
};

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The content of the block.
    pub summary: BlockSummary,
    /// Number of pages whose checksums were compared.
    pub pages: usize,
    /// Number of rows that both the Parquet library and [`BlockScan`] read.
    pub rows: u64,
    /// All problems found. Empty for a sound block.
    pub problems: Vec<String>,
}

/// Checks a whole file. A correct checksum covers every byte. The rows, as the Parquet library reads them, are in order and
/// agree with the counts, times and offsets in the stream table. A scan yields the same rows.
///
/// # Errors
/// When the file cannot be opened at all. Other problems are in [`VerifyReport::problems`].
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
    // Parquet's decoders do not expect damaged bytes, so they get none.
    if problems.is_empty() {
        match check_rows(&index, &bytes) {
            Ok(count) => rows = count,
            Err(error) => problems.push(error.to_string()),
        }
    }
    Ok(VerifyReport { summary: summary(&index, quarantined_count), pages, rows, problems })
}

/// Checks that every byte lies in the magic, a page, a section or the tail, and that all checksums are right.
fn check_bytes(index: &BlockIndex, bytes: &Bytes, problems: &mut Vec<String>) -> usize {
    let tail = index.file_bytes() - index.tail_bytes()..index.file_bytes();
    let mut covered: Vec<Range<u64>> = std::iter::once(tail).collect();
    if bytes.get(..4) == Some(&MAGIC[..]) {
        covered.push(0..4);
    }
    let mut pages = 0;
    for column in index.groups().iter().flatten() {
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

/// Checks that no stream of a tenant occurs twice. Decoding the table has already compared the counts.
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

/// Reads all rows with both readers and compares them column by column.
fn check_rows(index: &BlockIndex, bytes: &Bytes) -> Result<u64, BlockError> {
    let mut scanned = Scanned::new(index, bytes);
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())?;
    let mut checker = RowChecker { index, stream: None, rows: 0, last: None, line_bytes: 0, min: 0, max: 0 };
    let mut rows = 0;
    for batch in builder.with_batch_size(4096).build()? {
        let batch = batch?;
        let mut at = 0;
        while at < batch.num_rows() {
            let too_few = || BlockError::damaged(format!("a scan finds only {rows} rows"));
            let scanned = scanned.next_rows(batch.num_rows() - at)?.ok_or_else(too_few)?;
            let count = scanned.rows.len();
            let mut stored = StoredRows::default();
            for (placed, array) in index.columns().iter().zip(batch.slice(at, count).columns()) {
                placed.column.check(array, &scanned, &mut stored)?;
            }
            checker.check(&stored)?;
            rows += count as u64;
            at += count;
        }
    }
    checker.end_stream()?;
    if scanned.next_rows(1)?.is_some() {
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
    fn check(&mut self, stored: &StoredRows) -> Result<(), BlockError> {
        let rows = stored.streams.iter().zip(&stored.timestamps).zip(&stored.offsets).zip(&stored.line_bytes);
        rows.into_iter()
            .try_for_each(|(((stream, ts), offset), line_bytes)| self.check_row(*stream, *ts, *offset, *line_bytes))
    }

    fn check_row(&mut self, stream: u32, ts: i64, offset: i64, line_bytes: usize) -> Result<(), BlockError> {
        let wrong = |what: &str| Err(BlockError::damaged(format!("stream {stream}: {what}")));
        if self.stream != Some(stream) {
            let expected = self.stream.map_or(0, |stream| stream + 1);
            self.end_stream()?;
            if stream != expected {
                return wrong("its rows are not where its ordinal says");
            }
            (self.stream, self.last, self.min) = (Some(stream), None, ts);
        }
        if self.last > Some((ts, offset)) {
            return wrong("its rows are not in order");
        }
        if !self.index.provenance().range.contains(Offset::new(offset)) {
            return wrong("an offset is not in the block's range");
        }
        (self.last, self.max) = (Some((ts, offset)), ts);
        self.rows += 1;
        self.line_bytes += line_bytes as u64;
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
        if fits {
            Ok(())
        } else {
            Err(BlockError::damaged(format!("stream {ordinal}: its rows do not match the stream table")))
        }
    }
}

/// Rows as a scan reads them.
struct Scanned<'a> {
    scan: BlockScan,
    bytes: &'a Bytes,
    batch: Option<model::Batch>,
    /// The next row of the batch.
    row: usize,
}

impl<'a> Scanned<'a> {
    fn new(index: &BlockIndex, bytes: &'a Bytes) -> Self {
        let streams = (0..index.table().streams.len() as u32).collect();
        Self { scan: BlockScan::whole(index, streams, Needs::everything()), bytes, batch: None, row: 0 }
    }

    /// At most `max` rows of one stream, or `None` after the last row.
    fn next_rows(&mut self, max: usize) -> Result<Option<ScannedRows<'_>>, BlockError> {
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
        let rows = self.row..batch.len().min(self.row + max);
        self.row = rows.end;
        Ok(Some(ScannedRows { batch, stream, rows }))
    }
}
