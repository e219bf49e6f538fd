//! Runs the scans of a query over blocks: which blocks, in which order, and how many.
//!
//! ```text
//! heads ─▶ BlockJob* ─order─▶ (index cache ─▶ BlockWork ⇄ store) × parallel ─▶ Partial of each scan
//!                                     ▲ narrowed to the time still wanted ◀───────┘
//! ```
//!
//! Each block is opened once for all scans. A log query with a limit reads one block first, at the end that its answer
//! comes from. Only if that is not enough it reads blocks in parallel.

use std::{cmp::Reverse, collections::VecDeque, sync::Arc, time::Instant};

use bytes::Bytes;
use logql::{Direction, Partial, QueryKind};
use model::TimeRange;
use object_store::{ObjectKey, ObjectStore};
use runtime::Share;
use tokio::task::JoinSet;

use crate::{
    block_query::BlockQuery,
    block_work::{BlockWork, Progress, WorkError},
    error::Error,
    index_cache::{BlockAddress, IndexCache},
    stats::ReadStats,
    wanted_time::WantedTime,
};

/// One block that a plan reads.
#[derive(Clone, Debug)]
pub(crate) struct BlockJob {
    /// Where it lies.
    pub(crate) address: BlockAddress,
    /// From the tenant's earliest to just behind its latest row.
    pub(crate) time: TimeRange,
    /// Bytes of the tenant's lines.
    pub(crate) line_bytes: u64,
}

/// Reads blocks. Clones share everything.
#[derive(Clone)]
pub(crate) struct BlockReader {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) indexes: Arc<IndexCache>,
    pub(crate) processors: Share,
    /// Number of blocks that one query reads at a time.
    pub(crate) parallel: usize,
}

impl BlockReader {
    /// Runs all scans over the blocks, and merges what each finds into its partial. The partials may have content
    /// already. A log query then reads only what may still get into its answer.
    pub(crate) async fn scan(
        &self,
        query: &Arc<BlockQuery>,
        jobs: Vec<BlockJob>,
        partials: &mut [Partial],
    ) -> Result<ReadStats, Error> {
        let params = query.query.params();
        let wanted = WantedTime::of(&query.query);
        let shrink = |partials: &[Partial]| {
            if let (Some(wanted), [partial]) = (&wanted, partials) {
                wanted.shrink_to(partial);
            }
        };
        shrink(partials);
        let mut stats = ReadStats::default();
        let mut waiting = ordered(jobs, params.direction);
        let mut running = JoinSet::new();
        // One block alone often reaches the limit.
        let mut parallel = if query.query.kind() == QueryKind::Log { 1 } else { self.parallel };
        loop {
            while running.len() < parallel
                && let Some(job) = waiting.pop_front()
            {
                if wanted.as_ref().is_none_or(|wanted| wanted.get().overlaps(&job.time)) {
                    let (reader, query, wanted) = (self.clone(), query.clone(), wanted.clone());
                    let is_first = parallel == 1;
                    running.spawn(async move { reader.scan_block(query, job, wanted, is_first).await });
                }
            }
            let Some(finished) = running.join_next().await else { break };
            let finished = finished.map_err(|e| Error::Internal(format!("the scan of a block was lost: {e}")))?;
            let (found, cost) = finished?;
            for (partial, found) in partials.iter_mut().zip(found) {
                partial.merge(found);
            }
            stats += &cost;
            shrink(partials);
            parallel = self.parallel;
        }
        Ok(stats)
    }

    async fn scan_block(
        self,
        query: Arc<BlockQuery>,
        job: BlockJob,
        wanted: Option<WantedTime>,
        is_first: bool,
    ) -> Result<(Vec<Partial>, ReadStats), Error> {
        let mut stats = ReadStats::default();
        let index = self.indexes.open(&job.address, &mut stats).await?;
        let mut work = BlockWork::new(query, index, wanted, is_first);
        let key = ObjectKey::new(&job.address.key).map_err(|source| fetch_error(&job, source))?;
        loop {
            let (back, progress) = self.processors.run(move || work.run()).await?;
            work = back;
            let ranges = match progress.map_err(|e| in_block(e, &job))? {
                Progress::NeedsData(ranges) => ranges,
                Progress::Done => break,
            };
            let since = Instant::now();
            let data: Vec<Bytes> =
                self.store.get_ranges(&key, &ranges).await.map_err(|source| fetch_error(&job, source))?;
            stats.fetch_time += since.elapsed();
            stats.fetches += 1;
            stats.fetched_bytes += data.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
            work.supply(ranges, data).map_err(|e| in_block(e, &job))?;
        }
        stats.subqueries += 1;
        let (partials, cost) = work.into_parts();
        stats += &cost;
        Ok((partials, stats))
    }
}

fn fetch_error(job: &BlockJob, source: object_store::StoreError) -> Error {
    Error::Fetch { key: job.address.key.clone(), source }
}

fn in_block(error: WorkError, job: &BlockJob) -> Error {
    match error {
        WorkError::Block(source) => job.address.damaged(source),
        WorkError::Query(error) => error.into(),
        WorkError::Abandoned => Error::Abandoned,
    }
}

/// The blocks in the order in which they reach a limit soonest.
fn ordered(mut jobs: Vec<BlockJob>, direction: Direction) -> VecDeque<BlockJob> {
    match direction {
        Direction::Backward => jobs.sort_by_key(|job| Reverse(job.time.end)),
        Direction::Forward => jobs.sort_by_key(|job| job.time.start),
    }
    jobs.into()
}
