//! The scans of a query over one block.
//!
//! Streams are grouped by the scans that want them. For each group there is one pass over its rows, which decodes what
//! any of its scans needs, and passes each batch to all of them. So what several scans share is fetched and decoded
//! once.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use block::{BlockError, BlockIndex, BlockScan, Step};
use bytes::Bytes;
use logql::{Direction, Partial, QueryError, ScanStats};
use model::{Batch, Needs, TimeRange, TimestampNs};

use crate::{block_query::BlockQuery, stats::ReadStats, wanted_time::WantedTime};

/// Why the work on a block failed.
pub(crate) enum WorkError {
    Block(BlockError),
    Query(QueryError),
    Abandoned,
}

/// What the work needs to go on.
pub(crate) enum Progress {
    /// These ranges of the block.
    NeedsData(Vec<Range<u64>>),
    /// Nothing: it has ended.
    Done,
}

/// One pass over the rows of some streams, for all scans that want them.
#[derive(Clone, Debug, PartialEq)]
struct Pass {
    /// Numbers of the scans, ascending.
    scans: Vec<usize>,
    /// Ordinals of the streams.
    streams: Arc<[u32]>,
    time: TimeRange,
    needs: Needs,
}

/// The work on one block. It moves between processors, which decode and evaluate, and async threads, which fetch.
pub(crate) struct BlockWork {
    query: Arc<BlockQuery>,
    index: BlockIndex,
    /// Of a log query.
    wanted: Option<WantedTime>,
    /// A log query reads this block alone, so it begins with a part that may be enough.
    is_first: bool,
    /// One for each scan.
    partials: Vec<Partial>,
    stats: ReadStats,
    /// Passes still to be made, the next one last. `None` before streams were chosen.
    passes: Option<Vec<Pass>>,
    current: Option<(BlockScan, Vec<usize>)>,
}

impl BlockWork {
    pub(crate) fn new(query: Arc<BlockQuery>, index: BlockIndex, wanted: Option<WantedTime>, is_first: bool) -> Self {
        let partials = query.query.scans().iter().map(|scan| scan.partial()).collect();
        let stats = ReadStats::default();
        Self { query, index, wanted, is_first, partials, stats, passes: None, current: None }
    }

    /// Works until it needs bytes or has ended. Runs on processors.
    pub(crate) fn run(mut self) -> (Self, Result<Progress, WorkError>) {
        let progress = self.advance();
        (self, progress)
    }

    /// Takes the bytes that [`Progress::NeedsData`] asked for.
    pub(crate) fn supply(&mut self, ranges: Vec<Range<u64>>, data: Vec<Bytes>) -> Result<(), WorkError> {
        match &mut self.current {
            Some((scan, _)) => scan.supply(ranges, data).map_err(WorkError::Block),
            None => Ok(()),
        }
    }

    /// One partial for each scan, and what they cost besides fetching.
    pub(crate) fn into_parts(self) -> (Vec<Partial>, ReadStats) {
        (self.partials, self.stats)
    }

    fn advance(&mut self) -> Result<Progress, WorkError> {
        if self.passes.is_none() {
            let passes = self.choose_streams()?;
            self.passes = Some(passes);
        }
        loop {
            if self.query.abandoned.is_set() {
                return Err(WorkError::Abandoned);
            }
            let Some((scan, scans)) = &mut self.current else {
                match self.passes.as_mut().and_then(Vec::pop) {
                    Some(pass) => self.current = self.open(pass),
                    None => return Ok(Progress::Done),
                }
                continue;
            };
            match scan.next().map_err(WorkError::Block)? {
                Step::NeedsData(ranges) => return Ok(Progress::NeedsData(ranges)),
                Step::Done => self.current = None,
                Step::Batch(batch) => {
                    let cost = accept(&self.query, scans, &batch, &mut self.partials)?;
                    add_scanned(&mut self.stats, &cost);
                    if let (Some(wanted), [partial]) = (&self.wanted, self.partials.as_slice()) {
                        // Other blocks may have reached the limit, too; both bounds hold.
                        scan.narrow(wanted.shrink_to(partial));
                    }
                }
            }
        }
    }

    /// Selects the streams of each scan, counts those that can be counted whole, and plans passes over the others.
    fn choose_streams(&mut self) -> Result<Vec<Pass>, WorkError> {
        let query = self.query.clone();
        let index = self.index.clone();
        let scans = query.query.scans();
        let mut matching = BTreeSet::new();
        let mut counted = BTreeSet::new();
        // Which scans of one group want which stream.
        let mut wishes: BTreeMap<(usize, u32), Vec<usize>> = BTreeMap::new();
        for (number, scan) in scans.iter().enumerate() {
            let time = self.wanted.as_ref().map_or(scan.time(), WantedTime::get);
            for stream in index.streams(&query.tenant, scan.matchers(), time) {
                matching.insert(stream.ordinal);
                if scan.counts_whole(stream.time, None) {
                    // The block's index has the number of rows: no page is fetched.
                    let partial = &mut self.partials[number];
                    let before = partial.stats();
                    scan.count(stream.labels, stream.rows, None, stream.time, partial).map_err(WorkError::Query)?;
                    if counted.insert(stream.ordinal) {
                        add_scanned(&mut self.stats, &difference(&before, &partial.stats()));
                    }
                } else {
                    wishes.entry((query.groups[number], stream.ordinal)).or_default().push(number);
                }
            }
        }
        self.stats.block_streams += matching.len() as u64;
        self.stats.blocks_read += u64::from(!matching.is_empty());
        let mut streams_of: BTreeMap<(usize, Vec<usize>), Vec<u32>> = BTreeMap::new();
        for ((group, stream), wanted_by) in wishes {
            streams_of.entry((group, wanted_by)).or_default().push(stream);
        }
        let passes = streams_of.into_iter().map(|((_, scans), streams)| self.pass(scans, streams)).collect();
        Ok(if self.is_first && self.wanted.is_some() { self.in_two_parts(passes) } else { passes })
    }

    fn pass(&self, numbers: Vec<usize>, streams: Vec<u32>) -> Pass {
        let mut pass = Pass {
            scans: Vec::new(),
            streams: streams.into(),
            time: TimeRange::new(TimestampNs::MAX, TimestampNs::MIN),
            needs: Needs::default(),
        };
        for number in &numbers {
            let scan = &self.query.query.scans()[*number];
            let time = self.wanted.as_ref().map_or(scan.time(), WantedTime::get);
            pass.time.start = pass.time.start.min(time.start);
            pass.time.end = pass.time.end.max(time.end);
            pass.needs = pass.needs.union(scan.needs());
        }
        pass.scans = numbers;
        pass
    }

    /// Cuts the passes of a log query where its first part ends; the next part comes last.
    fn in_two_parts(&self, passes: Vec<Pass>) -> Vec<Pass> {
        let params = self.query.query.params();
        let mut parts = Vec::new();
        for pass in passes {
            let chosen = || pass.streams.iter().filter_map(|ordinal| self.index.stream(*ordinal));
            let rows: u64 = chosen().map(|s| s.rows).sum();
            let start = chosen().map(|s| s.time.start).min().unwrap_or(pass.time.start).max(pass.time.start);
            let end = chosen().map(|s| s.time.end).max().unwrap_or(pass.time.end).min(pass.time.end);
            let windows = windows(TimeRange::new(start, end), rows, params.limit, params.direction);
            parts.extend(windows.into_iter().map(|time| Pass { time, ..pass.clone() }));
        }
        parts
    }

    fn open(&self, pass: Pass) -> Option<(BlockScan, Vec<usize>)> {
        let mut time = pass.time;
        if let Some(wanted) = &self.wanted {
            let wanted = wanted.get();
            time = TimeRange::new(time.start.max(wanted.start), time.end.min(wanted.end));
        }
        if time.is_empty() {
            return None;
        }
        let overlaps = |ordinal: &u32| self.index.stream(*ordinal).is_some_and(|s| s.time.overlaps(&time));
        let streams = pass.streams.iter().copied().filter(overlaps).collect();
        Some((BlockScan::new(&self.index, streams, time, pass.needs), pass.scans))
    }
}

/// Passes a batch to each of these scans whose time it overlaps. Returns the cost of it; rows that several scans looked
/// at count once.
fn accept(
    query: &BlockQuery,
    scans: &[usize],
    batch: &Batch,
    partials: &mut [Partial],
) -> Result<ScanStats, WorkError> {
    let mut cost = ScanStats::default();
    let (Some(first), Some(last)) = (batch.timestamps.first(), batch.timestamps.last()) else { return Ok(cost) };
    let time = TimeRange::closed(TimestampNs::from_nanos(*first), TimestampNs::from_nanos(*last));
    for number in scans {
        let scan = &query.query.scans()[*number];
        if scans.len() > 1 && !scan.time().overlaps(&time) {
            continue;
        }
        let partial = &mut partials[*number];
        let before = partial.stats();
        scan.accept(batch, partial).map_err(WorkError::Query)?;
        let of_scan = difference(&before, &partial.stats());
        cost.lines = cost.lines.max(of_scan.lines);
        cost.bytes = cost.bytes.max(of_scan.bytes);
        cost.metadata_bytes = cost.metadata_bytes.max(of_scan.metadata_bytes);
        cost.post_filter_lines = cost.post_filter_lines.max(of_scan.post_filter_lines);
    }
    Ok(cost)
}

fn difference(before: &ScanStats, after: &ScanStats) -> ScanStats {
    ScanStats {
        lines: after.lines - before.lines,
        bytes: after.bytes - before.bytes,
        metadata_bytes: after.metadata_bytes - before.metadata_bytes,
        post_filter_lines: after.post_filter_lines - before.post_filter_lines,
    }
}

fn add_scanned(stats: &mut ReadStats, cost: &ScanStats) {
    stats.lines += cost.lines;
    stats.bytes += cost.bytes;
    stats.metadata_bytes += cost.metadata_bytes;
    stats.post_filter_lines += cost.post_filter_lines;
}

/// Cuts the time of a block's rows in two: a short part at the end that the answer comes from, and the rest. The short
/// part has enough rows for the limit if rows are spread evenly and one in eight passes. The next part comes last.
fn windows(time: TimeRange, rows: u64, limit: u32, direction: Direction) -> Vec<TimeRange> {
    let rows_hoped_for = u64::from(limit).saturating_mul(8);
    let span = time.end.since(time.start).as_nanos();
    if rows_hoped_for.saturating_mul(4) >= rows || span < 2 {
        return vec![time];
    }
    let part = (span * u128::from(rows_hoped_for) / u128::from(rows)).max(1);
    let part = i64::try_from(part).unwrap_or(i64::MAX);
    let at = match direction {
        Direction::Backward => time.end.nanos().saturating_sub(part),
        Direction::Forward => time.start.nanos().saturating_add(part),
    };
    let at = TimestampNs::from_nanos(at);
    let (old, new) = (TimeRange::new(time.start, at), TimeRange::new(at, time.end));
    match direction {
        Direction::Backward => vec![old, new],
        Direction::Forward => vec![new, old],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_windows() {
        let range = |start: i64, end: i64| TimeRange::new(TimestampNs::from_nanos(start), TimestampNs::from_nanos(end));
        let check = |rows: u64, limit: u32, direction, expected: &[TimeRange]| {
            assert_eq!(windows(range(0, 1000), rows, limit, direction), expected, "{rows} {limit}");
        };
        check(100, 10, Direction::Backward, &[range(0, 1000)]);
        check(8000, 10, Direction::Backward, &[range(0, 990), range(990, 1000)]);
        check(8000, 10, Direction::Forward, &[range(10, 1000), range(0, 10)]);
        assert_eq!(windows(range(5, 6), 1000, 1, Direction::Forward), [range(5, 6)]);
        check(u64::MAX, u32::MAX, Direction::Forward, &[range(1, 1000), range(0, 1)]);
    }
}
