//! The exact read: heads first, then memory from where the heads end; blocks for the rows below.
//!
//! Both sides meet at an offset, the head's flushed-to offset, never at a time. If memory no longer has that offset, or
//! a block is gone, newer heads say where the rows are now. The read then plans again, a bounded number of times
//! (`retries`). If memory cannot be read, or does not reach the offsets that the request asks for in time, the read
//! fails. It never answers with fewer rows.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use block::{BlockIndex, StreamRef};
use catalogue::{Head, Heads};
use futures_util::future::try_join_all;
use logql::{Partial, Query, QueryKind};
use model::{Matcher, TenantId, TimeRange};
use object_store::ObjectStore;
use owner::{Owner, ScanRequest, StreamStat, StreamsRequest, Where};
use prometheus::Registry;
use runtime::{Abandoned, Processors, Share};

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
    plan::{PartitionPlan, Plan},
    retries::{PlanAttempts, PlanFailure},
    scan_times::ScanTimes,
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

/// A query, and the offsets that its answer must reach.
struct QueryRequest<'a> {
    query: Arc<BlockQuery>,
    times: ScanTimes,
    goal: &'a Goal,
    targets: &'a Targets,
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
        let mut attempts = PlanAttempts::new(self.wait_max);
        let targets = self.targets(goal, &attempts).await?;
        let request = QueryRequest { query, times, goal, targets };
        loop {
            match self.try_query(&request, bytes, &mut attempts).await {
                Ok(read) => return Ok(read),
                Err(failure) => attempts.again(failure, &self.metrics).await?,
            }
        }
    }

    async fn try_query(
        &self,
        request: &QueryRequest<'_>,
        bytes: &ByteLimit,
        attempts: &mut PlanAttempts,
    ) -> Result<QueryRead, PlanFailure> {
        let query = &request.query;
        let Plan { partitions, jobs, warnings } =
            self.plan(&query.tenant, &request.times, request.targets, attempts).await?;
        self.check_bytes(&jobs, query, bytes).await?;
        let mut stats = ReadStats { blocks_listed: jobs.len() as u64, ..ReadStats::default() };
        let mut partials: Vec<Partial> = query.query.scans().iter().map(|scan| scan.partial()).collect();
        let memory = self.scan_memory(&partitions, request, attempts);
        // A log query reads memory first: what it finds there may save all blocks.
        let block_stats = if query.query.kind() == QueryKind::Log {
            let (of_memory, cost) = memory.await?;
            merge(&mut partials, of_memory);
            stats += &cost;
            self.blocks.scan(query, jobs, &mut partials).await?
        } else {
            let blocks = async { Ok(self.blocks.scan(query, jobs, &mut partials).await?) };
            let ((of_memory, cost), block_stats) = futures_util::try_join!(memory, blocks)?;
            merge(&mut partials, of_memory);
            stats += &cost;
            block_stats
        };
        stats += &block_stats;
        Ok(QueryRead { partials, stats, warnings })
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
        let mut attempts = PlanAttempts::new(self.wait_max);
        let targets = self.targets(goal, &attempts).await?;
        loop {
            match self.try_streams(tenant, &matchers, time, (goal, targets), &mut attempts).await {
                Ok(read) => return Ok(read),
                Err(failure) => attempts.again(failure, &self.metrics).await?,
            }
        }
    }

    async fn try_streams(
        &self,
        tenant: &TenantId,
        matchers: &Arc<[Matcher]>,
        time: TimeRange,
        (goal, targets): (&Goal, &Targets),
        attempts: &mut PlanAttempts,
    ) -> Result<StreamsRead, PlanFailure> {
        let plan = self.plan(tenant, &ScanTimes::new([time]), targets, attempts).await?;
        let deadline = attempts.deadline;
        let mut stats = ReadStats { blocks_listed: plan.jobs.len() as u64, ..ReadStats::default() };
        let in_memory = plan.partitions.iter().map(|p| {
            let partition = p.head.partition;
            let (tenant, from, matchers) = (tenant.clone(), p.memory_from, matchers.clone());
            let at = Where { partition, tenant, from, at_least: p.at_least, deadline };
            let request = StreamsRequest { at, matchers, time };
            async move {
                let reply = self.owner.streams(request).await.map_err(|e| PlanFailure::of_owner(partition, e))?;
                p.check(reply.held)?;
                Ok::<_, PlanFailure>(reply)
            }
        });
        let replies = try_join_all(in_memory).await?;
        self.note_wait(goal, attempts);
        let mut parts: Vec<StreamStat> = replies.into_iter().flat_map(|reply| reply.streams).collect();
        stats.partitions = plan.partitions.len() as u64;
        let select = {
            let (tenant, matchers) = (tenant.clone(), matchers.clone());
            move |index: &BlockIndex| {
                let of_index = index.streams(&tenant, &matchers, time);
                of_index.into_iter().map(stat).collect::<Vec<StreamStat>>()
            }
        };
        for of_block in self.select_in_indexes(&plan.jobs, select, &mut stats).await? {
            stats.blocks_read += u64::from(!of_block.is_empty());
            stats.block_streams += of_block.len() as u64;
            parts.extend(of_block);
        }
        Ok(StreamsRead { parts, stats, warnings: plan.warnings })
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

    async fn plan(
        &self,
        tenant: &TenantId,
        times: &ScanTimes,
        targets: &Targets,
        attempts: &mut PlanAttempts,
    ) -> Result<Plan, PlanFailure> {
        let mut plan = Plan::default();
        let heads = self.heads.all(targets.partitions(), attempts.freshness).await?;
        attempts.heads_are_stale = heads.iter().any(|cached| cached.is_stale);
        for cached in heads {
            let partition = cached.head.partition;
            let (skip_to, at_least) = (attempts.skip_to.get(&partition).copied(), targets.at_least(partition));
            plan.add(cached, skip_to, at_least, tenant, times)?;
        }
        for head in &self.older_heads {
            plan.add_older(head, tenant, times);
        }
        Ok(plan)
    }

    /// Asks the memory of each partition once, for all scans.
    async fn scan_memory(
        &self,
        partitions: &[PartitionPlan],
        request: &QueryRequest<'_>,
        attempts: &PlanAttempts,
    ) -> Result<(Vec<Partial>, ReadStats), PlanFailure> {
        let BlockQuery { query, tenant, .. } = &*request.query;
        let deadline = attempts.deadline;
        let asked = partitions.iter().map(|p| {
            let partition = p.head.partition;
            let (tenant, from) = (tenant.clone(), p.memory_from);
            let at = Where { partition, tenant, from, at_least: p.at_least, deadline };
            let request = ScanRequest { at, query: query.clone() };
            async move {
                let reply = self.owner.scan(request).await.map_err(|e| PlanFailure::of_owner(partition, e))?;
                p.check(reply.held)?;
                Ok::<_, PlanFailure>(reply)
            }
        });
        let replies = try_join_all(asked).await?;
        self.note_wait(request.goal, attempts);
        let mut merged: Vec<Partial> = query.scans().iter().map(|scan| scan.partial()).collect();
        for reply in replies {
            if reply.partials.len() != merged.len() {
                let text = format!("memory answered {} of {} scans", reply.partials.len(), merged.len());
                return Err(Error::Internal(text).into());
            }
            merge(&mut merged, reply.partials);
        }
        let mut stats = ReadStats { partitions: partitions.len() as u64, ..ReadStats::default() };
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

    async fn targets<'a>(&self, goal: &'a Goal, attempts: &PlanAttempts) -> Result<&'a Targets, Error> {
        let count = || self.metrics.count_read(goal.consistency());
        goal.targets(&*self.owner, attempts.deadline, count).await
    }

    /// Notes that all owners have answered and reached the offsets they had to.
    fn note_wait(&self, goal: &Goal, attempts: &PlanAttempts) {
        if goal.asks_for_offsets() {
            self.metrics.strong_wait_seconds.observe(attempts.elapsed().as_secs_f64());
        }
    }
}

fn merge(partials: &mut [Partial], others: Vec<Partial>) {
    for (partial, other) in partials.iter_mut().zip(others) {
        partial.merge(other);
    }
}

fn stat(stream: StreamRef<'_>) -> StreamStat {
    StreamStat { labels: stream.labels.clone(), rows: stream.rows, line_bytes: stream.line_bytes, time: stream.time }
}
