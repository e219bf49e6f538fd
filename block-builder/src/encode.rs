//! Encodes the rows of a segment as one block file. This is heavy work: callers run it outside async threads.

use std::collections::HashMap;

use block::{
    BlockError, BlockOptions, BlockWriter, EncodedBlock, METADATA_KEYS_MAX, Provenance, Row, StreamSketch,
    packing_order,
};
use cut::{Cut, Slice, Slices, StreamRows};
use model::{Labels, OffsetRange, TenantId, TimestampNs};
use schemas::record::StreamSlice;

/// A metadata key gets its own column if at least one row in this many has it. Rarer keys share one packed column.
const KEY_ROWS_SHARE: u64 = 200;

/// Makes a block of the rows in the range of `cut`.
///
/// Tenants are sorted. Streams with similar lines are neighbours; label order breaks ties. Rows of a stream are sorted by
/// (time, offset, order of pushing).
///
/// # Errors
/// When the block format refuses a row. Another try gives the same result.
pub fn encode(
    cut: &Cut,
    log_id: &str,
    created: TimestampNs,
    options: &BlockOptions,
) -> Result<EncodedBlock, BlockError> {
    let provenance = Provenance { log_id: log_id.to_owned(), partition: cut.partition, range: cut.range, created };
    let tenants: Vec<(TenantId, Vec<Part>)> = cut
        .segment
        .tenants()
        .into_iter()
        .map(|(tenant, rows)| {
            (tenant, rows.streams().iter().filter_map(|stream| Part::of(stream, cut.range)).collect())
        })
        .filter(|(_, parts): &(_, Vec<Part>)| !parts.is_empty())
        .collect();
    let keys = frequent_keys(tenants.iter().flat_map(|(_, parts)| parts));
    let mut writer = BlockWriter::new(options.clone(), provenance, &keys)?;
    for (tenant, mut parts) in tenants {
        writer.begin_tenant(&tenant)?;
        parts.sort_by(|a, b| a.labels.cmp(&b.labels));
        let sketches: Vec<StreamSketch> = parts.iter().map(sketch).collect();
        for place in packing_order(&sketches) {
            let part = &parts[place];
            writer.begin_stream(&part.labels)?;
            append_stream(&mut writer, part)?;
        }
    }
    for record in cut.segment.quarantined().iter().filter(|record| cut.range.contains(record.offset)) {
        writer.quarantine(record.offset, &record.raw, &record.reason);
    }
    writer.finish()
}

/// The slices of one stream that lie in the range of the cut. There is at least one.
struct Part {
    labels: Labels,
    slices: Slices,
    range: OffsetRange,
}

impl Part {
    fn of(stream: &StreamRows, range: OffsetRange) -> Option<Self> {
        let part = Self { labels: stream.labels().clone(), slices: stream.slices(), range };
        let has_rows = part.slices().next_back().is_some();
        has_rows.then_some(part)
    }

    /// In offset order.
    fn slices(&self) -> impl DoubleEndedIterator<Item = &Slice> {
        self.slices.iter().filter(|slice| self.range.contains(slice.offset))
    }
}

/// A sketch of a stream, made from a sample of its lines.
fn sketch(part: &Part) -> StreamSketch {
    let rows: usize = part.slices().map(|slice| slice.rows.len()).sum();
    let lines = part.slices().flat_map(|slice| (0..slice.rows.len()).map(|row| slice.rows.row(row).line));
    StreamSketch::new(lines.step_by(rows.div_ceil(16).max(1)))
}

/// The metadata keys that get a column of their own, most frequent first.
fn frequent_keys<'a>(parts: impl Iterator<Item = &'a Part>) -> Vec<String> {
    let mut rows_with: HashMap<String, u64> = HashMap::new();
    let mut rows = 0;
    for slice in parts.flat_map(Part::slices) {
        let slice_rows = slice.rows.len() as u64;
        rows += slice_rows;
        // If any row of a slice has the key, all its rows count. That makes a few columns too many, which cost little.
        for key in slice.rows.metadata_keys() {
            match rows_with.get_mut(key) {
                Some(count) => *count += slice_rows,
                None => drop(rows_with.insert(key.to_owned(), slice_rows)),
            }
        }
    }
    let mut keys: Vec<(u64, String)> = rows_with.into_iter().map(|(key, count)| (count, key)).collect();
    keys.retain(|(count, _)| count.saturating_mul(KEY_ROWS_SHARE) >= rows);
    keys.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    keys.truncate(METADATA_KEYS_MAX);
    keys.into_iter().map(|(_, key)| key).collect()
}

fn append_stream(writer: &mut BlockWriter, part: &Part) -> Result<(), BlockError> {
    if is_sorted(part) {
        for slice in part.slices() {
            append_in_order(writer, slice)?;
        }
        return Ok(());
    }
    let slices: Vec<&Slice> = part.slices().collect();
    for (slice, row) in time_order(&slices) {
        let slice = slices[slice as usize];
        let mut pairs = Vec::new();
        append_row(writer, slice, row as usize, &mut pairs)?;
    }
    Ok(())
}

/// True when the rows are in time order if slices follow one another in offset order.
fn is_sorted(part: &Part) -> bool {
    let mut last = TimestampNs::MIN;
    part.slices().all(|slice| {
        (0..slice.rows.len()).all(|row| {
            let ts = slice.rows.timestamp(row);
            let in_order = last <= ts;
            last = ts;
            in_order
        })
    })
}

/// Slice and row numbers, sorted by time, then offset, then order of pushing.
fn time_order(slices: &[&Slice]) -> Vec<(u32, u32)> {
    let total = slices.iter().map(|slice| slice.rows.len()).sum();
    let mut order = Vec::with_capacity(total);
    for (i, slice) in slices.iter().enumerate() {
        order.extend((0..slice.rows.len()).map(|row| (slice.rows.timestamp(row), i as u32, row as u32)));
    }
    order.sort_unstable();
    order.into_iter().map(|(_, slice, row)| (slice, row)).collect()
}

fn append_in_order(writer: &mut BlockWriter, slice: &Slice) -> Result<(), BlockError> {
    let mut pairs = Vec::new();
    (0..slice.rows.len()).try_for_each(|row| append_row(writer, slice, row, &mut pairs))
}

/// Appends one row. `pairs` is a buffer that is reused.
fn append_row<'a>(
    writer: &mut BlockWriter,
    slice: &'a Slice,
    row: usize,
    pairs: &mut Vec<(&'a str, &'a str)>,
) -> Result<(), BlockError> {
    let found = slice.rows.row(row);
    pairs.clear();
    collect_metadata(&slice.rows, row, pairs);
    writer.append(Row { ts: found.ts, offset: slice.offset, line: found.line, metadata: pairs })
}

/// Collects common pairs before the row's own: of equal keys a block keeps the last one, and a row's own pair wins.
fn collect_metadata<'a>(slice: &'a StreamSlice, row: usize, pairs: &mut Vec<(&'a str, &'a str)>) {
    pairs.extend(slice.common_metadata().iter().map(|(name, value)| (&**name, &**value)));
    if slice.has_row_metadata() {
        pairs.extend(slice.row(row).metadata());
    }
}
