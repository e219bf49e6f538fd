//! The exact read: heads first, then memory from where the heads end; blocks for what lies below.
//!
//! Both sides meet at an offset, the head's flushed-to offset, never at a time. When memory no longer holds that
//! offset, or a block is gone, newer heads say where the rows are by now: the plan is made again, a bounded number of
//! times (`planning`). When memory cannot be read, or does not reach what the request asks for in time, the read fails: it
//! never answers with less.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use block::BlockIndex;
use catalogue::Head;
use futures_util::future::try_join_all;
use logql::{Partial, Query, QueryKind};
use model::{Matcher, TenantId, TimeRange};
use owner::{Owner, ScanRequest, StreamStat, StreamsRequest, Where};

use crate::{
    admission::Abandoned,
    blocks::{BlockJob, BlockReader, ScanTask},
    byte_limit::ByteLimit,
    error::Error,
    goal::{Goal, Targets},
    heads::HeadCache,
    metrics::ReadMetrics,
    plan::{PartitionPlan, Plan},
    planning::{Planning, Stop},
    stats::ReadStats,
    whole::WindowEdges,
};

/// How many indexes of blocks are opened at one time by a request about streams.
const INDEXES_PARALLEL: usize = 32;

/// Reads what matches, exactly once each, from memory and blocks.
pub(crate) struct Reader {
    owner: Arc<dyn Owner>,
    heads: HeadCache,
    /// How long a read waits for owners to answer, and to reach what is wanted.
    wait_max: Duration,
    /// Of logs that were replaced: blocks without memory.
    older_heads: Vec<Arc<Head>>,
    blocks: BlockReader,
    metrics: ReadMetrics,
}

/// One scan and what its answer must reach.
struct Question<'a> {
    task: &'a ScanTask,
    query: &'a Arc<Query>,
    scan: usize,
    goal: &'a Goal,
    targets: &'a Targets,
}

/// What a scan found.
pub(crate) struct Found {
    /// Merged over memory and blocks.
    pub(crate) partial: Partial,
    /// What it cost.
    pub(crate) stats: ReadStats,
    /// What a person should know about the answer.
    pub(crate) warnings: BTreeSet<String>,
}

/// Streams with rows, one item for each stream of each block and each partition's memory.
#[derive(Default)]
pub(crate) struct FoundStreams {
    /// In no order, streams several times.
    pub(crate) parts: Vec<StreamStat>,
    /// What it cost.
    pub(crate) stats: ReadStats,
    /// What a person should know about the answer.
    pub(crate) warnings: BTreeSet<String>,
}

impl Reader {
    pub(crate) fn new(
        owner: Arc<dyn Owner>,
        heads: HeadCache,
        older_heads: Vec<Arc<Head>>,
        wait_max: Duration,
        blocks: BlockReader,
        metrics: ReadMetrics,
    ) -> Self {
        Self { owner, heads, older_heads, wait_max, blocks, metrics }
    }

    /// Which log is read.
    pub(crate) fn log_id(&self) -> &str {
        self.heads.log_id()
    }

    /// A goal in offsets; the log is asked once for each.
    async fn targets<'a>(&self, goal: &'a Goal, planning: &Planning) -> Result<&'a Targets, Error> {
        let first = || self.metrics.read(goal.consistency());
        goal.targets(&*self.owner, planning.deadline, first).await
    }

    /// Takes note that memory has answered, and reached what it had to.
    fn note_wait(&self, goal: &Goal, planning: &Planning) {
        if goal.asks_for_offsets() {
            self.metrics.strong_wait_seconds.observe(planning.elapsed().as_secs_f64());
        }
    }

    /// Runs one scan of a query over all rows.
    pub(crate) async fn scan(
        &self,
        tenant: &TenantId,
        query: &Arc<Query>,
        scan: usize,
        goal: &Goal,
        bytes: &ByteLimit,
        abandoned: &Abandoned,
    ) -> Result<Found, Error> {
        let task = ScanTask {
            scan: query.scans()[scan].clone(),
            kind: query.kind(),
            direction: query.params().direction,
            limit: query.params().limit,
            tenant: tenant.clone(),
            edges: WindowEdges::of(query),
            abandoned: abandoned.clone(),
        };
        let mut planning = Planning::new(self.wait_max);
        let targets = self.targets(goal, &planning).await?;
        let question = Question { task: &task, query, scan, goal, targets };
        loop {
            match self.try_scan(&question, bytes, &mut planning).await {
                Ok(found) => return Ok(found),
                Err(stop) => planning.again(stop, &self.metrics).await?,
            }
        }
    }

    async fn try_scan(
        &self,
        question: &Question<'_>,
        bytes: &ByteLimit,
        planning: &mut Planning,
    ) -> Result<Found, Stop> {
        let task = question.task;
        let Plan { partitions, jobs, warnings } =
            self.plan(&task.tenant, task.scan.time(), question.targets, planning).await?;
        self.check_bytes(&jobs, task, bytes).await?;
        let mut stats = ReadStats { blocks_listed: jobs.len() as u64, ..ReadStats::default() };
        let mut partial = task.scan.partial();
        let memory = self.scan_memory(&partitions, question, planning);
        // A log query reads memory first: what it finds there may save all blocks.
        let block_stats = if task.kind == QueryKind::Log {
            let (found, cost) = memory.await?;
            partial.merge(found);
            stats.add(&cost);
            self.blocks.scan(task, jobs, &mut partial).await?
        } else {
            let blocks = async { Ok(self.blocks.scan(task, jobs, &mut partial).await?) };
            let ((found, cost), block_stats) = futures_util::try_join!(memory, blocks)?;
            partial.merge(found);
            stats.add(&cost);
            block_stats
        };
        stats.add(&block_stats);
        let scanned = partial.stats();
        stats.lines = scanned.lines;
        stats.bytes = scanned.bytes;
        stats.metadata_bytes = scanned.metadata_bytes;
        stats.post_filter_lines = scanned.post_filter_lines;
        Ok(Found { partial, stats, warnings })
    }

    /// Names the streams that have rows in `time`.
    pub(crate) async fn streams(
        &self,
        tenant: &TenantId,
        matchers: Arc<[Matcher]>,
        time: TimeRange,
        goal: &Goal,
    ) -> Result<FoundStreams, Error> {
        let mut planning = Planning::new(self.wait_max);
        let targets = self.targets(goal, &planning).await?;
        loop {
            match self.try_streams(tenant, &matchers, time, (goal, targets), &mut planning).await {
                Ok(found) => return Ok(found),
                Err(stop) => planning.again(stop, &self.metrics).await?,
            }
        }
    }

    async fn try_streams(
        &self,
        tenant: &TenantId,
        matchers: &Arc<[Matcher]>,
        time: TimeRange,
        (goal, targets): (&Goal, &Targets),
        planning: &mut Planning,
    ) -> Result<FoundStreams, Stop> {
        let plan = self.plan(tenant, time, targets, planning).await?;
        let deadline = planning.deadline;
        let mut stats = ReadStats { blocks_listed: plan.jobs.len() as u64, ..ReadStats::default() };
        let in_memory = plan.partitions.iter().map(|p| {
            let partition = p.head.partition;
            let (tenant, from, matchers) = (tenant.clone(), p.memory_from, matchers.clone());
            let at = Where { partition, tenant, from, at_least: p.at_least, deadline };
            let request = StreamsRequest { at, matchers, time };
            async move {
                let reply = self.owner.streams(request).await.map_err(|e| Stop::of_owner(partition, e))?;
                p.check(reply.held)?;
                Ok::<_, Stop>(reply)
            }
        });
        let replies = try_join_all(in_memory).await?;
        self.note_wait(goal, planning);
        let mut parts: Vec<StreamStat> = replies.into_iter().flat_map(|reply| reply.streams).collect();
        stats.partitions = plan.partitions.len() as u64;
        parts.extend(self.block_streams(&plan.jobs, tenant, matchers, time, &mut stats).await?);
        Ok(FoundStreams { parts, stats, warnings: plan.warnings })
    }

    /// The streams of blocks, by their indexes alone.
    async fn block_streams(
        &self,
        jobs: &[BlockJob],
        tenant: &TenantId,
        matchers: &Arc<[Matcher]>,
        time: TimeRange,
        stats: &mut ReadStats,
    ) -> Result<Vec<StreamStat>, Error> {
        let mut found = Vec::new();
        for jobs in jobs.chunks(INDEXES_PARALLEL) {
            let opened = try_join_all(jobs.iter().map(|job| async move {
                let mut cost = ReadStats::default();
                let index = self.blocks.indexes.open(&job.address, &mut cost).await?;
                Ok::<_, Error>((index, cost))
            }))
            .await?;
            let (indexes, costs): (Vec<BlockIndex>, Vec<ReadStats>) = opened.into_iter().unzip();
            costs.iter().for_each(|cost| stats.add(cost));
            let (tenant, matchers) = (tenant.clone(), matchers.clone());
            let select = move || {
                let of_blocks = indexes.iter().map(|index| streams_of(index, &tenant, &matchers, time));
                of_blocks.collect::<Vec<_>>()
            };
            for of_block in self.blocks.processors.run(select).await? {
                stats.blocks_read += u64::from(!of_block.is_empty());
                stats.block_streams += of_block.len() as u64;
                found.extend(of_block);
            }
        }
        Ok(found)
    }

    async fn plan(
        &self,
        tenant: &TenantId,
        time: TimeRange,
        targets: &Targets,
        planning: &mut Planning,
    ) -> Result<Plan, Stop> {
        let mut plan = Plan::default();
        let heads = self.heads.all(targets.partitions(), planning.freshness).await?;
        planning.heads_are_stale = heads.iter().any(|known| known.is_stale);
        for known in heads {
            let partition = known.head.partition;
            let (skip_to, at_least) = (planning.skip_to.get(&partition).copied(), targets.at_least(partition));
            plan.add(known, skip_to, at_least, tenant, time)?;
        }
        for head in &self.older_heads {
            plan.add_older(head, tenant, time);
        }
        Ok(plan)
    }

    async fn scan_memory(
        &self,
        partitions: &[PartitionPlan],
        question: &Question<'_>,
        planning: &Planning,
    ) -> Result<(Partial, ReadStats), Stop> {
        let &Question { task, query, scan, goal, .. } = question;
        let deadline = planning.deadline;
        let asked = partitions.iter().map(|p| {
            let partition = p.head.partition;
            let (tenant, from, query) = (task.tenant.clone(), p.memory_from, query.clone());
            let request = ScanRequest { at: Where { partition, tenant, from, at_least: p.at_least, deadline }, query };
            async move {
                let reply = self.owner.scan(request).await.map_err(|e| Stop::of_owner(partition, e))?;
                p.check(reply.held)?;
                Ok::<_, Stop>(reply)
            }
        });
        let mut merged = task.scan.partial();
        let replies = try_join_all(asked).await?;
        self.note_wait(goal, planning);
        for reply in replies {
            let partial = reply.partials.into_iter().nth(scan);
            merged.merge(partial.ok_or_else(|| Error::Internal(format!("memory did not answer scan {scan}")))?);
        }
        let scanned = merged.stats();
        let stats = ReadStats {
            memory_lines: scanned.lines,
            memory_bytes: scanned.bytes,
            partitions: partitions.len() as u64,
            ..ReadStats::default()
        };
        Ok((merged, stats))
    }

    /// Refuses a query that would read more than it may. Only when all of the tenant's bytes in the time could be too many
    /// are indexes asked which of them the matchers choose.
    async fn check_bytes(&self, jobs: &[BlockJob], task: &ScanTask, limit: &ByteLimit) -> Result<(), Error> {
        let at_most: u64 = jobs.iter().map(|job| job.line_bytes).sum();
        if !limit.exceeded_by(at_most) {
            return Ok(());
        }
        let matchers: Arc<[Matcher]> = task.scan.matchers().into();
        let mut ignored = ReadStats::default();
        let found = self.block_streams(jobs, &task.tenant, &matchers, task.scan.time(), &mut ignored).await?;
        limit.check(found.iter().map(|s| s.line_bytes).sum())?;
        Ok(())
    }
}

/// What a block holds of the streams that match.
fn streams_of(index: &BlockIndex, tenant: &TenantId, matchers: &[Matcher], time: TimeRange) -> Vec<StreamStat> {
    let stat = |s: block::StreamRef<'_>| StreamStat {
        labels: s.labels.clone(),
        rows: s.rows,
        line_bytes: s.line_bytes,
        time: s.time,
    };
    index.streams(tenant, matchers, time).into_iter().map(stat).collect()
}
