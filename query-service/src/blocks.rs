//! Running a scan over blocks: which blocks, in which order, and how far.
//!
//! ```text
//! heads ─▶ BlockJob* ─order─▶ (index cache ─▶ BlockScan ⇄ store) × parallel ─▶ Partial
//!                                   ▲ narrowed by what is still wanted ◀──────────┘
//! ```
//!
//! A log query with a limit begins with one block, at the end that its answer comes from, and within that with as short a
//! time as may be enough; only when that was not enough it reads blocks in parallel.

use std::{cmp::Reverse, collections::VecDeque, sync::Arc, time::Instant};

use block::{BlockIndex, BlockScan, Step, StreamRef};
use bytes::Bytes;
use logql::{Direction, Partial, QueryKind, Scan};
use model::{TenantId, TimeRange, TimestampNs};
use object_store::{ObjectKey, ObjectStore};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::{
    admission::{Abandoned, Processors},
    error::Error,
    index_cache::{BlockAddress, IndexCache},
    stats::ReadStats,
    whole::{self, WindowEdges},
};

/// One block that a plan reads.
#[derive(Clone, Debug)]
pub(crate) struct BlockJob {
    /// Where it lies.
    pub(crate) address: BlockAddress,
    /// From the tenant's earliest to just behind its latest row.
    pub(crate) time: TimeRange,
    /// The tenant's bytes of lines.
    pub(crate) line_bytes: u64,
}

/// What scans of blocks work with.
#[derive(Clone)]
pub(crate) struct BlockReader {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) indexes: Arc<IndexCache>,
    pub(crate) processors: Processors,
    pub(crate) parallel: usize,
}

/// One scan and whom it is for.
#[derive(Clone)]
pub(crate) struct ScanTask {
    pub(crate) scan: Scan,
    pub(crate) kind: QueryKind,
    pub(crate) direction: Direction,
    pub(crate) limit: u32,
    pub(crate) tenant: TenantId,
    /// Where whole streams may be counted without reading them.
    pub(crate) edges: Option<WindowEdges>,
    pub(crate) abandoned: Abandoned,
}

/// The range of time that rows are still wanted from, shared by all parts of one scan. Only shrinks.
#[derive(Clone)]
struct Wanted(Arc<Mutex<TimeRange>>);

impl Wanted {
    fn new(time: TimeRange) -> Self {
        Self(Arc::new(Mutex::new(time)))
    }

    fn get(&self) -> TimeRange {
        *self.0.lock()
    }

    fn shrink(&self, to: TimeRange) -> TimeRange {
        let mut time = self.0.lock();
        time.start = time.start.max(to.start);
        time.end = time.end.min(to.end);
        *time
    }
}

impl BlockReader {
    /// Runs the scan over all blocks that can matter, and merges what it finds into `partial`, which may hold something.
    pub(crate) async fn scan(
        &self,
        task: &ScanTask,
        jobs: Vec<BlockJob>,
        partial: &mut Partial,
    ) -> Result<ReadStats, Error> {
        let wanted = Wanted::new(task.scan.time());
        wanted.shrink_to(&task.scan, partial);
        let mut stats = ReadStats::default();
        let mut waiting = ordered(jobs, task.direction);
        let mut running = JoinSet::new();
        // A limit is often met by the first block alone.
        let mut parallel = if task.kind == QueryKind::Log { 1 } else { self.parallel };
        loop {
            while running.len() < parallel
                && let Some(job) = waiting.pop_front()
            {
                if wanted.get().overlaps(&job.time) {
                    let (reader, task, wanted) = (self.clone(), task.clone(), wanted.clone());
                    let cautious = parallel == 1;
                    running.spawn(async move { reader.scan_block(&task, job, &wanted, cautious).await });
                }
            }
            let Some(finished) = running.join_next().await else { break };
            let finished = finished.map_err(|e| Error::Internal(format!("the scan of a block was lost: {e}")))?;
            let (found, cost) = finished?;
            partial.merge(found);
            stats.add(&cost);
            wanted.shrink_to(&task.scan, partial);
            parallel = self.parallel;
        }
        Ok(stats)
    }

    async fn scan_block(
        self,
        task: &ScanTask,
        job: BlockJob,
        wanted: &Wanted,
        cautious: bool,
    ) -> Result<(Partial, ReadStats), Error> {
        let mut stats = ReadStats::default();
        let index = self.indexes.open(&job.address, &mut stats).await?;
        let mut work = BlockWork::new(task, index, wanted.clone(), cautious);
        let key = ObjectKey::new(&job.address.key).map_err(|source| fetch_error(&job, source))?;
        loop {
            let (back, progress) = self.processors.run(move || work.run()).await?;
            work = back;
            let ranges = match progress.map_err(|e| e.in_block(&job))? {
                Progress::NeedsData(ranges) => ranges,
                Progress::Done => break,
            };
            let since = Instant::now();
            let data = self.store.get_ranges(&key, &ranges).await.map_err(|source| fetch_error(&job, source))?;
            stats.fetch_time += since.elapsed();
            stats.fetches += 1;
            stats.fetched_bytes += data.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
            work.supply(ranges, data).map_err(|e| e.in_block(&job))?;
        }
        stats.blocks_read += u64::from(work.streams > 0);
        stats.block_streams += work.streams;
        stats.subqueries += 1;
        Ok((work.partial, stats))
    }
}

impl Wanted {
    fn shrink_to(&self, scan: &Scan, partial: &Partial) -> TimeRange {
        match scan.still_wanted(partial) {
            Some(range) => self.shrink(range),
            None => self.get(),
        }
    }
}

fn fetch_error(job: &BlockJob, source: object_store::StoreError) -> Error {
    Error::Fetch { key: job.address.key.clone(), source }
}

/// The blocks in the order in which they fill a limit soonest.
fn ordered(mut jobs: Vec<BlockJob>, direction: Direction) -> VecDeque<BlockJob> {
    match direction {
        Direction::Backward => jobs.sort_by_key(|job| Reverse(job.time.end)),
        Direction::Forward => jobs.sort_by_key(|job| job.time.start),
    }
    jobs.into()
}

/// Why a piece of work on a block stopped short.
enum WorkError {
    Block(block::BlockError),
    Query(logql::QueryError),
    Abandoned,
}

impl WorkError {
    fn in_block(self, job: &BlockJob) -> Error {
        match self {
            Self::Block(source) => Error::Block { key: job.address.key.clone(), source },
            Self::Query(error) => error.into(),
            Self::Abandoned => Error::Cancelled,
        }
    }
}

enum Progress {
    NeedsData(Vec<std::ops::Range<u64>>),
    Done,
}

/// The scan of one block, moved between processors (which decode and evaluate) and async threads (which fetch).
struct BlockWork {
    scan: Scan,
    index: BlockIndex,
    tenant: TenantId,
    kind: QueryKind,
    direction: Direction,
    limit: u32,
    edges: Option<WindowEdges>,
    abandoned: Abandoned,
    wanted: Wanted,
    cautious: bool,
    partial: Partial,
    /// How many streams were chosen.
    streams: u64,
    ordinals: Vec<u32>,
    /// Times still to be scanned, the next one last. None before streams were chosen.
    windows: Option<Vec<TimeRange>>,
    current: Option<BlockScan>,
}

impl BlockWork {
    fn new(task: &ScanTask, index: BlockIndex, wanted: Wanted, cautious: bool) -> Self {
        Self {
            scan: task.scan.clone(),
            index,
            tenant: task.tenant.clone(),
            kind: task.kind,
            direction: task.direction,
            limit: task.limit,
            edges: task.edges.clone(),
            abandoned: task.abandoned.clone(),
            wanted,
            cautious,
            partial: task.scan.partial(),
            streams: 0,
            ordinals: Vec::new(),
            windows: None,
            current: None,
        }
    }

    /// Works until bytes are needed or nothing is left. For processors.
    fn run(mut self) -> (Self, Result<Progress, WorkError>) {
        let progress = self.advance();
        (self, progress)
    }

    fn supply(&mut self, ranges: Vec<std::ops::Range<u64>>, data: Vec<Bytes>) -> Result<(), WorkError> {
        match &mut self.current {
            Some(scan) => scan.supply(ranges, data).map_err(WorkError::Block),
            None => Ok(()),
        }
    }

    fn advance(&mut self) -> Result<Progress, WorkError> {
        if self.windows.is_none() {
            self.choose_streams()?;
        }
        loop {
            if self.abandoned.is_set() {
                return Err(WorkError::Abandoned);
            }
            let Some(scan) = &mut self.current else {
                match self.windows.as_mut().and_then(Vec::pop) {
                    Some(window) => self.current = self.open(window),
                    None => return Ok(Progress::Done),
                }
                continue;
            };
            match scan.next().map_err(WorkError::Block)? {
                Step::NeedsData(ranges) => return Ok(Progress::NeedsData(ranges)),
                Step::Done => self.current = None,
                Step::Batch(batch) => {
                    self.scan.accept(&batch, &mut self.partial).map_err(WorkError::Query)?;
                    if self.kind == QueryKind::Log {
                        // Other blocks may have met the limit too; both bounds hold.
                        scan.narrow(self.wanted.shrink_to(&self.scan, &self.partial));
                    }
                }
            }
        }
    }

    fn choose_streams(&mut self) -> Result<(), WorkError> {
        let time = self.wanted.get();
        let mut found = self.index.streams(&self.tenant, self.scan.matchers(), time);
        self.streams = found.len() as u64;
        if let Some(edges) = self.edges.as_ref().filter(|_| whole::needs_times_only(&self.scan)) {
            let is_whole = |s: &StreamRef<'_>| self.scan.time().covers(&s.time) && edges.are_outside(s.time);
            let (whole, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(is_whole);
            for s in whole {
                whole::accept_rows(&self.scan, s.labels, s.rows, s.time, &mut self.partial)
                    .map_err(WorkError::Query)?;
            }
            found = rest;
        }
        let rows: u64 = found.iter().map(|s| s.rows).sum();
        let start = found.iter().map(|s| s.time.start).min().unwrap_or(time.start).max(time.start);
        let end = found.iter().map(|s| s.time.end).max().unwrap_or(time.end).min(time.end);
        self.ordinals = found.iter().map(|s| s.ordinal).collect();
        self.windows = Some(if self.ordinals.is_empty() {
            Vec::new()
        } else if self.cautious && self.kind == QueryKind::Log {
            windows(TimeRange::new(start, end), rows, self.limit, self.direction)
        } else {
            vec![time]
        });
        Ok(())
    }

    fn open(&self, window: TimeRange) -> Option<BlockScan> {
        let wanted = self.wanted.get();
        let time = TimeRange::new(window.start.max(wanted.start), window.end.min(wanted.end));
        let ordinals = || {
            let overlaps = |ordinal: &u32| self.index.stream(*ordinal).is_some_and(|s| s.time.overlaps(&time));
            self.ordinals.iter().copied().filter(overlaps).collect()
        };
        (!time.is_empty()).then(|| BlockScan::new(&self.index, ordinals(), time, self.scan.needs().clone()))
    }
}

/// Cuts the time of a block's rows in two: a short part, at the end that the answer comes from, that has enough rows if
/// they are spread evenly and one in eight passes, and the rest. The next one stands last.
fn windows(time: TimeRange, rows: u64, limit: u32, direction: Direction) -> Vec<TimeRange> {
    let hoped = u64::from(limit).saturating_mul(8);
    let span = time.end.since(time.start).as_nanos();
    if hoped.saturating_mul(4) >= rows || span < 2 {
        return vec![time];
    }
    let part = (span * u128::from(hoped) / u128::from(rows)).max(1);
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
