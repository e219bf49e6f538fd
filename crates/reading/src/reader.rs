//! The exact read: heads first, then memory from where the heads end; blocks for the rows below.
//!
//! Both sides meet at an offset, the head's flushed-to offset, never at a time. [`catalogue::driver`] makes the plans: which
//! blocks are read, and from which offset on memory is. If memory no longer has that offset, or a block is gone, the driver
//! plans again. This file carries plans out.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use block::{BlockIndex, StreamRef};
use catalogue::{
    Head, Heads,
    driver::{Freshness, HeadView, Obstacle, PartitionPlan, ReadDriver, ReadPlan, Replanned, Sources},
};
use futures_util::future::try_join_all;
use logql::{Partial, Query, QueryKind};
use model::{Matcher, Offset, OffsetRange, PartitionId, TenantId, TimeRange};
use object_store::ObjectStore;
use owner::{Owner, ScanRequest, StreamStat, StreamsRequest, Where};
use prometheus::Registry;
use runtime::{Abandoned, Processors, Share};
use tokio::time::Instant;

use crate::{
    block_query::BlockQuery,
    blocks::{BlockJob, BlockReader},
    byte_limit::ByteLimit,
    config::Config,
    error::Error,
    goal::{Goal, Targets},
    heads::HeadCache,
    index_cache::IndexCache,
    metrics::Metrics,
    obstacles,
    scan_times::ScanTimes,
    selection::BlockSelection,
    stats::ReadStats,
};

/// Number of block indexes that a request about streams opens at a time.
const INDEXES_PARALLEL: usize = 32;

/// What a reader works with.
pub struct Components {
    /// Answers for recent rows.
    pub owner: Arc<dyn Owner>,
    /// The heads of the log's partitions.
    pub heads: Arc<Heads>,
    /// Heads of logs that were replaced by a new one. No process leads their partitions, so they do not change. Their
    /// blocks hold the rows that those logs acknowledged.
    pub older_heads: Vec<Arc<Head>>,
    /// The store of the blocks.
    pub store: Arc<dyn ObjectStore>,
    /// The processors of the process.
    pub processors: Processors,
}

/// Reads rows that match, exactly once each, from memory and blocks.
pub struct Reader {
    owner: Arc<dyn Owner>,
    heads: HeadCache,
    older_heads: Vec<Arc<Head>>,
    /// How long a read waits for owners.
    wait_max: Duration,
    blocks: BlockReader,
    metrics: Metrics,
}

/// What a query read.
#[derive(Debug)]
pub struct QueryRead {
    /// One for each scan, merged over memory and blocks. All are of the same moment.
    pub partials: Vec<Partial>,
    /// What it cost.
    pub stats: ReadStats,
    /// Texts that the answer should show to a person.
    pub warnings: BTreeSet<String>,
}

/// Streams with rows.
#[derive(Debug, Default)]
pub struct StreamsRead {
    /// One for each stream of each block and of each partition's memory, in no order.
    pub parts: Vec<StreamStat>,
    /// What it cost.
    pub stats: ReadStats,
    /// Texts that the answer should show to a person.
    pub warnings: BTreeSet<String>,
}

impl Reader {
    /// A reader. Nothing is read yet.
    ///
    /// # Errors
    /// When metrics of the same names are registered already.
    pub fn new(config: &Config, components: Components, registry: &Registry) -> Result<Self, prometheus::Error> {
        let Components { owner, heads, older_heads, store, processors } = components;
        let metrics = Metrics::new(registry)?;
        let indexes =
            Arc::new(IndexCache::new(store.clone(), config.index_cache_bytes, metrics.index_cache_bytes.clone()));
        let parallel = config.blocks_parallel(&processors);
        let blocks = BlockReader { store, indexes, processors: processors.share("read", config.cpu_permits), parallel };
        let heads = HeadCache::new(heads, config.head_age_max, config.head_wait_max, metrics.clone());
        Ok(Self { owner, heads, older_heads, wait_max: config.strong_wait_max, blocks, metrics })
    }

    /// Names the log that is read.
    pub fn log_id(&self) -> &str {
        self.heads.log_id()
    }

    /// The share of processors that reads compute on. What a caller computes from a read belongs there, too.
    pub fn processors(&self) -> &Share {
        &self.blocks.processors
    }

    /// Runs all scans of a query over all rows of a tenant, as of one moment.
    ///
    /// Cancel safe: dropping the future stops the work soon.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn query(
        &self,
        tenant: &TenantId,
        query: Arc<Query>,
        goal: &Goal,
        bytes: &ByteLimit,
    ) -> Result<QueryRead, Error> {
        if query.scans().is_empty() {
            // `1 + 1` reads nothing.
            return Ok(QueryRead { partials: Vec::new(), stats: ReadStats::default(), warnings: BTreeSet::new() });
        }
        let abandoned = Abandoned::default();
        let _stop_work_when_dropped = abandoned.on_drop();
        let times = ScanTimes::new(query.scans().iter().map(|scan| scan.time()));
        let query = Arc::new(BlockQuery::new(tenant.clone(), query, abandoned));
        let request = QueryWork { reader: self, query, times, goal, bytes };
        self.drive(&request, goal).await
    }

    /// Names the streams of a tenant that match and have rows in `time`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn streams(
        &self,
        tenant: &TenantId,
        matchers: Arc<[Matcher]>,
        time: TimeRange,
        goal: &Goal,
    ) -> Result<StreamsRead, Error> {
        let times = ScanTimes::new([time]);
        self.drive(&StreamsWork { reader: self, tenant, matchers, time, times, goal }, goal).await
    }

    /// Reads by plans of the driver, until one can be carried out.
    async fn drive<W: PlannedWork>(&self, work: &W, goal: &Goal) -> Result<W::Answer, Error> {
        let driver = ReadDriver::new(self.wait_max);
        let count = || self.metrics.count_read(goal.consistency());
        let targets = goal.targets(&*self.owner, driver.deadline(), count).await?;
        let mut sources = PlannedSources { reader: self, targets, work, began: Instant::now() };
        driver.run(&mut sources).await.map(|read| read.answer).map_err(obstacles::read_error)
    }

    /// Opens the indexes of these blocks, and runs `select` over each on processors.
    async fn select_in_indexes<T, S>(
        &self,
        jobs: &[BlockJob],
        select: S,
        stats: &mut ReadStats,
    ) -> Result<Vec<T>, Error>
    where
        T: Send + 'static,
        S: Fn(&BlockIndex) -> T + Clone + Send + 'static,
    {
        let mut selected = Vec::with_capacity(jobs.len());
        for jobs in jobs.chunks(INDEXES_PARALLEL) {
            let opened = try_join_all(jobs.iter().map(|job| async move {
                let mut cost = ReadStats::default();
                let index = self.blocks.indexes.open(&job.address, &mut cost).await?;
                Ok::<_, Error>((index, cost))
            }))
            .await?;
            let (indexes, costs): (Vec<BlockIndex>, Vec<ReadStats>) = opened.into_iter().unzip();
            costs.iter().for_each(|cost| *stats += cost);
            let select = select.clone();
            let work = move || indexes.iter().map(select).collect::<Vec<T>>();
            selected.extend(self.blocks.processors.run(work).await?);
        }
        Ok(selected)
    }

    /// Refuses a query that would read more than it may. Opens indexes only if all lines of the tenant together are more
    /// than that, to count only the streams that match.
    async fn check_bytes(&self, jobs: &[BlockJob], query: &Arc<BlockQuery>, limit: &ByteLimit) -> Result<(), Error> {
        let at_most: u64 = jobs.iter().map(|job| job.line_bytes).sum();
        if !limit.is_exceeded_by(at_most) {
            return Ok(());
        }
        let query = query.clone();
        let line_bytes = move |index: &BlockIndex| {
            let mut counted = BTreeSet::new();
            let of_scans = query.query.scans().iter();
            let streams = of_scans.flat_map(|scan| index.streams(&query.tenant, scan.matchers(), scan.time()));
            streams.filter(|s| counted.insert(s.ordinal)).map(|s| s.line_bytes).sum::<u64>()
        };
        let mut ignored = ReadStats::default();
        let of_blocks = self.select_in_indexes(jobs, line_bytes, &mut ignored).await?;
        Ok(limit.check(of_blocks.iter().sum())?)
    }

    /// Notes that all owners have answered and reached the offsets they had to.
    fn note_wait(&self, goal: &Goal, began: Instant) {
        if goal.asks_for_offsets() {
            self.metrics.strong_wait_seconds.observe(began.elapsed().as_secs_f64());
        }
    }
}

/// What is read by a plan.
trait PlannedWork: Sync {
    type Answer: Send;

    /// Carries out one plan. The read began at `began`.
    fn carry_out(
        &self,
        plan: &ReadPlan,
        began: Instant,
    ) -> impl Future<Output = Result<Self::Answer, Obstacle<Error>>> + Send;
}

/// The sources of one read, for the driver.
struct PlannedSources<'a, W> {
    reader: &'a Reader,
    targets: &'a Targets,
    work: &'a W,
    began: Instant,
}

impl<W: PlannedWork> Sources for PlannedSources<'_, W> {
    type Answer = W::Answer;
    type Error = Error;

    async fn heads(&mut self, freshness: Freshness) -> Result<Vec<HeadView>, Error> {
        self.reader.heads.all(self.targets.partitions(), freshness).await
    }

    // There is no catalogue of compacted blocks yet, so the default of `compacted_to` holds: nothing is compacted.

    fn at_least(&self, partition: PartitionId) -> Option<Offset> {
        self.targets.at_least(partition)
    }

    async fn read(&mut self, plan: &ReadPlan) -> Result<W::Answer, Obstacle<Error>> {
        self.work.carry_out(plan, self.began).await
    }

    fn replanned(&mut self, why: Replanned) {
        self.reader.metrics.count_plan_again(why.as_str());
    }

    fn skipped(&mut self, _: PartitionId, _: OffsetRange) {
        self.reader.metrics.removed_ranges.inc();
    }
}

/// A query whose scans are all run over the rows of one plan.
struct QueryWork<'a> {
    reader: &'a Reader,
    query: Arc<BlockQuery>,
    times: ScanTimes,
    goal: &'a Goal,
    bytes: &'a ByteLimit,
}

impl PlannedWork for QueryWork<'_> {
    type Answer = QueryRead;

    async fn carry_out(&self, plan: &ReadPlan, began: Instant) -> Result<QueryRead, Obstacle<Error>> {
        let (reader, query) = (self.reader, &self.query);
        let BlockSelection { jobs, warnings } =
            BlockSelection::new(plan, &reader.older_heads, &query.tenant, &self.times);
        reader.check_bytes(&jobs, query, self.bytes).await.map_err(obstacles::of_blocks)?;
        let mut stats = ReadStats { blocks_listed: jobs.len() as u64, ..ReadStats::default() };
        let mut partials: Vec<Partial> = query.query.scans().iter().map(|scan| scan.partial()).collect();
        let memory = self.scan_memory(plan, began);
        // A log query reads memory first: what it finds there may save all blocks.
        let block_stats = if query.query.kind() == QueryKind::Log {
            let (of_memory, cost) = memory.await?;
            merge(&mut partials, of_memory);
            stats += &cost;
            reader.blocks.scan(query, jobs, &mut partials).await.map_err(obstacles::of_blocks)?
        } else {
            let blocks = async { reader.blocks.scan(query, jobs, &mut partials).await.map_err(obstacles::of_blocks) };
            let ((of_memory, cost), block_stats) = futures_util::try_join!(memory, blocks)?;
            merge(&mut partials, of_memory);
            stats += &cost;
            block_stats
        };
        stats += &block_stats;
        Ok(QueryRead { partials, stats, warnings })
    }
}

impl QueryWork<'_> {
    /// Asks the memory of each partition once, for all scans.
    async fn scan_memory(&self, plan: &ReadPlan, began: Instant) -> Result<(Vec<Partial>, ReadStats), Obstacle<Error>> {
        let BlockQuery { query, tenant, .. } = &*self.query;
        let asked = plan.partitions.iter().map(|partition| {
            let at = place(partition, tenant, plan.deadline);
            let request = ScanRequest { at, query: query.clone() };
            async move {
                let asked = self.reader.owner.scan(request).await;
                let reply = asked.map_err(|error| obstacles::of_owner(partition.partition(), error))?;
                partition.check(reply.held)?;
                Ok::<_, Obstacle<Error>>(reply)
            }
        });
        let replies = try_join_all(asked).await?;
        self.reader.note_wait(self.goal, began);
        let mut merged: Vec<Partial> = query.scans().iter().map(|scan| scan.partial()).collect();
        for reply in replies {
            if reply.partials.len() != merged.len() {
                let text = format!("memory answered {} of {} scans", reply.partials.len(), merged.len());
                return Err(Obstacle::Failed(Error::Internal(text)));
            }
            merge(&mut merged, reply.partials);
        }
        let mut stats = ReadStats { partitions: plan.partitions.len() as u64, ..ReadStats::default() };
        for scanned in merged.iter().map(Partial::stats) {
            stats.lines += scanned.lines;
            stats.bytes += scanned.bytes;
            stats.metadata_bytes += scanned.metadata_bytes;
            stats.post_filter_lines += scanned.post_filter_lines;
        }
        stats.memory_lines = stats.lines;
        stats.memory_bytes = stats.bytes;
        Ok((merged, stats))
    }
}

/// The names of streams, over the rows of one plan.
struct StreamsWork<'a> {
    reader: &'a Reader,
    tenant: &'a TenantId,
    matchers: Arc<[Matcher]>,
    time: TimeRange,
    times: ScanTimes,
    goal: &'a Goal,
}

impl PlannedWork for StreamsWork<'_> {
    type Answer = StreamsRead;

    async fn carry_out(&self, plan: &ReadPlan, began: Instant) -> Result<StreamsRead, Obstacle<Error>> {
        let (reader, time) = (self.reader, self.time);
        let BlockSelection { jobs, warnings } =
            BlockSelection::new(plan, &reader.older_heads, self.tenant, &self.times);
        let mut stats = ReadStats { blocks_listed: jobs.len() as u64, ..ReadStats::default() };
        let in_memory = plan.partitions.iter().map(|partition| {
            let at = place(partition, self.tenant, plan.deadline);
            let request = StreamsRequest { at, matchers: self.matchers.clone(), time };
            async move {
                let asked = reader.owner.streams(request).await;
                let reply = asked.map_err(|error| obstacles::of_owner(partition.partition(), error))?;
                partition.check(reply.held)?;
                Ok::<_, Obstacle<Error>>(reply)
            }
        });
        let replies = try_join_all(in_memory).await?;
        reader.note_wait(self.goal, began);
        let mut parts: Vec<StreamStat> = replies.into_iter().flat_map(|reply| reply.streams).collect();
        stats.partitions = plan.partitions.len() as u64;
        let (tenant, matchers) = (self.tenant.clone(), self.matchers.clone());
        let select = move |index: &BlockIndex| {
            let of_index = index.streams(&tenant, &matchers, time);
            of_index.into_iter().map(stat).collect::<Vec<StreamStat>>()
        };
        let selected = reader.select_in_indexes(&jobs, select, &mut stats).await.map_err(obstacles::of_blocks)?;
        for of_block in selected {
            stats.blocks_read += u64::from(!of_block.is_empty());
            stats.block_streams += of_block.len() as u64;
            parts.extend(of_block);
        }
        Ok(StreamsRead { parts, stats, warnings })
    }
}

/// Which rows memory is asked for.
fn place(plan: &PartitionPlan, tenant: &TenantId, deadline: Instant) -> Where {
    let (partition, from, at_least) = (plan.partition(), plan.memory_from, plan.at_least);
    Where { partition, tenant: tenant.clone(), from, at_least, deadline }
}

fn merge(partials: &mut [Partial], others: Vec<Partial>) {
    for (partial, other) in partials.iter_mut().zip(others) {
        partial.merge(other);
    }
}

fn stat(stream: StreamRef<'_>) -> StreamStat {
    StreamStat { labels: stream.labels.clone(), rows: stream.rows, line_bytes: stream.line_bytes, time: stream.time }
}
