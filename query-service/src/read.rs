//! The exact read: heads first, then memory from where the heads end; blocks for what lies below.
//!
//! Both sides meet at an offset, the head's flushed-to offset, never at a time. When memory no longer holds that
//! offset, or a block is gone, newer heads say where the rows are by now: the plan is made again, a bounded number of
//! times. When memory cannot be read the read fails: it never answers with less.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use block::BlockIndex;
use catalogue::{
    BlockEntry, Head, Heads,
    read::{self, MemoryView, PartitionView},
};
use futures_util::future::try_join_all;
use logql::{Partial, Query, QueryKind};
use model::{Matcher, Offset, OffsetRange, PartitionId, TenantId, TimeRange, TimestampNs};
use object_store::StoreError;
use owner::{Owner, OwnerError, ScanRequest, StreamStat, StreamsRequest};

use crate::{
    admission::Abandoned,
    blocks::{BlockJob, BlockReader, ScanTask},
    error::Error,
    heads::{Freshness, HeadCache},
    index_cache::BlockAddress,
    stats::ReadStats,
    whole::WindowEdges,
};

/// There is no catalogue of compacted blocks yet, so nothing is compacted.
const COMPACTED_TO: Offset = Offset::ZERO;

/// How many indexes of blocks are opened at one time by a request about streams.
const INDEXES_PARALLEL: usize = 32;

/// How often a plan is made before a read is given up.
const PLANS_MAX: u32 = 6;

/// The pause before a partition that nobody served is asked for again.
const NOT_LED_PAUSE: Duration = Duration::from_millis(5);

/// How long a read waits for memory to catch up with the log, as it must after a start or when the store is slow.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

/// Reads what matches, exactly once each, from memory and blocks.
pub(crate) struct Reader {
    owner: Arc<dyn Owner>,
    heads: HeadCache,
    /// Of logs that were replaced: blocks without memory.
    older_heads: Vec<Arc<Head>>,
    blocks: BlockReader,
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
}

/// Where the rows of one partition are.
struct PartitionPlan {
    head: Arc<Head>,
    /// Memory serves from here on; blocks serve all below.
    memory_from: Offset,
}

/// The rows of all partitions.
struct Plan {
    partitions: Vec<PartitionPlan>,
    /// Blocks with rows of the tenant in the time asked for.
    jobs: Vec<BlockJob>,
    warnings: BTreeSet<String>,
}

/// What the memory of each partition must have consumed, and until when it may take to get there.
struct Reach {
    ends: Vec<Offset>,
    deadline: tokio::time::Instant,
}

impl Reach {
    fn at_least(&self, partition: PartitionId) -> Option<Offset> {
        self.ends.get(partition.index() as usize).copied()
    }
}

/// Why a plan could not be carried out.
enum Stop {
    /// Newer heads help.
    PlanAgain { reason: String },
    /// Nobody serves the partition yet: soon after a start somebody will.
    NotLeading { partition: PartitionId },
    /// Nothing helps.
    Fail(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            // A block that was rewritten or removed since the head was read.
            Error::Fetch { source: StoreError::NotFound(key), .. } => {
                Self::PlanAgain { reason: format!("block {key} is gone") }
            }
            other => Self::Fail(other),
        }
    }
}

impl Stop {
    fn of_owner(partition: PartitionId, error: OwnerError) -> Self {
        match error {
            OwnerError::NotHeld { .. } => Self::PlanAgain { reason: error.to_string() },
            OwnerError::Query(error) => Self::Fail(error.into()),
            OwnerError::NotLeading { .. } => Self::NotLeading { partition },
            source => Self::Fail(Error::Owner { partition, source }),
        }
    }
}

impl Reader {
    pub(crate) fn new(
        owner: Arc<dyn Owner>,
        heads: Arc<Heads>,
        older_heads: Vec<Arc<Head>>,
        partitions: u32,
        head_age_max: Duration,
        blocks: BlockReader,
    ) -> Self {
        let heads = HeadCache::new(heads, partitions, head_age_max);
        Self { owner, heads, older_heads, blocks }
    }

    /// What answers must reach so that a caller finds what it just pushed, and until when they may take to get there.
    async fn reach(&self) -> Result<Reach, Error> {
        let deadline = tokio::time::Instant::now() + CATCH_UP_MAX;
        let ends = self.owner.ends().await.map_err(Error::LogEnds)?;
        Ok(Reach { ends, deadline })
    }

    /// Runs one scan of a query over all rows.
    pub(crate) async fn scan(
        &self,
        tenant: &TenantId,
        query: &Arc<Query>,
        scan: usize,
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
        let reach = self.reach().await?;
        let mut planning = Planning::default();
        loop {
            match self.try_scan(&task, query, scan, bytes, &reach, planning.freshness).await {
                Ok(found) => return Ok(found),
                Err(stop) => planning.again(stop, &reach).await?,
            }
        }
    }

    async fn try_scan(
        &self,
        task: &ScanTask,
        query: &Arc<Query>,
        scan: usize,
        bytes: &ByteLimit,
        reach: &Reach,
        freshness: Freshness,
    ) -> Result<Found, Stop> {
        let Plan { partitions, jobs, warnings } = self.plan(&task.tenant, task.scan.time(), freshness).await?;
        self.check_bytes(&jobs, task, bytes).await?;
        let mut stats = ReadStats { blocks_listed: jobs.len() as u64, ..ReadStats::default() };
        let mut partial = task.scan.partial();
        let memory = self.scan_memory(&partitions, task, query, scan, reach);
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
    ) -> Result<FoundStreams, Error> {
        let reach = self.reach().await?;
        let mut planning = Planning::default();
        loop {
            match self.try_streams(tenant, &matchers, time, &reach, planning.freshness).await {
                Ok(found) => return Ok(found),
                Err(stop) => planning.again(stop, &reach).await?,
            }
        }
    }

    async fn try_streams(
        &self,
        tenant: &TenantId,
        matchers: &Arc<[Matcher]>,
        time: TimeRange,
        reach: &Reach,
        freshness: Freshness,
    ) -> Result<FoundStreams, Stop> {
        let plan = self.plan(tenant, time, freshness).await?;
        let mut stats = ReadStats { blocks_listed: plan.jobs.len() as u64, ..ReadStats::default() };
        let in_memory = plan.partitions.iter().map(|p| {
            let partition = p.head.partition;
            let (tenant, from, matchers) = (tenant.clone(), p.memory_from, matchers.clone());
            let (at_least, deadline) = (reach.at_least(partition), reach.deadline);
            let request = StreamsRequest { partition, tenant, from, at_least, deadline, matchers, time };
            async move {
                let reply = self.owner.streams(request).await.map_err(|e| Stop::of_owner(partition, e))?;
                blocks(&p.head, reply.held)?;
                Ok::<_, Stop>(reply)
            }
        });
        let replies = try_join_all(in_memory).await?;
        let mut parts: Vec<StreamStat> = replies.into_iter().flat_map(|reply| reply.streams).collect();
        stats.partitions = plan.partitions.len() as u64;
        parts.extend(self.block_streams(&plan.jobs, tenant, matchers, time, &mut stats).await?);
        Ok(FoundStreams { parts, stats })
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

    async fn plan(&self, tenant: &TenantId, time: TimeRange, freshness: Freshness) -> Result<Plan, Stop> {
        let mut plan = Plan { partitions: Vec::new(), jobs: Vec::new(), warnings: BTreeSet::new() };
        for head in self.heads.all(freshness).await? {
            let memory_from = read::memory_from(&head, COMPACTED_TO);
            // Memory has not been asked yet: for its place stands what it must at least answer with.
            let least = OffsetRange::new(memory_from, memory_from);
            plan.jobs.extend(jobs(blocks(&head, least)?, tenant, time));
            plan.warnings.extend(lost(&head, time));
            plan.partitions.push(PartitionPlan { head, memory_from });
        }
        for head in &self.older_heads {
            plan.jobs.extend(jobs(&head.blocks, tenant, time));
            plan.warnings.extend(lost(head, time));
        }
        Ok(plan)
    }

    async fn scan_memory(
        &self,
        partitions: &[PartitionPlan],
        task: &ScanTask,
        query: &Arc<Query>,
        scan: usize,
        reach: &Reach,
    ) -> Result<(Partial, ReadStats), Stop> {
        let asked = partitions.iter().map(|p| {
            let partition = p.head.partition;
            let (tenant, from, query) = (task.tenant.clone(), p.memory_from, query.clone());
            let (at_least, deadline) = (reach.at_least(partition), reach.deadline);
            let request = ScanRequest { partition, tenant, from, at_least, deadline, query, scan };
            async move {
                let reply = self.owner.scan(request).await.map_err(|e| Stop::of_owner(partition, e))?;
                blocks(&p.head, reply.held)?;
                Ok::<_, Stop>(reply)
            }
        });
        let mut merged = task.scan.partial();
        for reply in try_join_all(asked).await? {
            merged.merge(reply.partial);
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

/// How often a plan was made, and how young the heads of the next one must be.
struct Planning {
    made: u32,
    freshness: Freshness,
}

impl Default for Planning {
    fn default() -> Self {
        Self { made: 1, freshness: Freshness::Recent }
    }
}

impl Planning {
    /// Prepares for another plan, unless what stopped the last one is final or there were too many.
    async fn again(&mut self, stop: Stop, reach: &Reach) -> Result<(), Error> {
        let reason = match stop {
            Stop::Fail(error) => return Err(error),
            Stop::NotLeading { partition } if tokio::time::Instant::now() >= reach.deadline => {
                return Err(Error::Owner { partition, source: OwnerError::NotLeading { partition } });
            }
            Stop::NotLeading { .. } => {
                self.freshness = Freshness::Since(Instant::now());
                tokio::time::sleep(NOT_LED_PAUSE).await;
                return Ok(());
            }
            Stop::PlanAgain { reason } if self.made >= PLANS_MAX => return Err(Error::Unsettled { reason }),
            Stop::PlanAgain { reason } => reason,
        };
        tracing::debug!(reason, "planning the read again");
        self.freshness = Freshness::Since(Instant::now());
        if self.made > 1 {
            // The head that says more may be on its way.
            tokio::time::sleep(Duration::from_millis(10 << self.made)).await;
        }
        self.made += 1;
        Ok(())
    }
}

/// How many bytes of lines a query may read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ByteLimit {
    /// `max_query_bytes_read`, 0 for none.
    pub(crate) query: u64,
    /// `max_querier_bytes_read`, 0 for none.
    pub(crate) querier: u64,
}

impl ByteLimit {
    fn exceeded_by(&self, bytes: u64) -> bool {
        let exceeds = |limit: u64| limit > 0 && bytes > limit;
        exceeds(self.query) || exceeds(self.querier)
    }

    fn check(&self, bytes: u64) -> Result<(), Error> {
        let narrow = "consider adding more specific stream selectors or reduce the time range of the query";
        if self.query > 0 && bytes > self.query {
            let (found, limit) = (human_bytes(bytes), human_bytes(self.query));
            return Err(Error::bad(format!(
                "the query would read too many bytes (query: {found}, limit: {limit}); {narrow}"
            )));
        }
        if self.querier > 0 && bytes > self.querier {
            let (found, limit) = (human_bytes(bytes), human_bytes(self.querier));
            return Err(Error::bad(format!(
                "query too large to execute on a single querier: (query: {found}, limit: {limit}); consider adding more \
                 specific stream selectors, reduce the time range of the query, or adjust parallelization settings"
            )));
        }
        Ok(())
    }
}

/// A size for people: `1.5GB`, in powers of 1024.
fn human_bytes(bytes: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB", "PB", "EB"];
    let power = (bytes.max(1).ilog2() / 10) as usize;
    let value = bytes as f64 / 1024f64.powi(power as i32);
    let text = format!("{value:.1}");
    format!("{}{}", text.strip_suffix(".0").unwrap_or(&text), units[power])
}

/// The blocks that a head and what memory holds make whole; or why they do not.
fn blocks(head: &Head, held: OffsetRange) -> Result<&[BlockEntry], Stop> {
    let view = PartitionView { head, compacted_to: COMPACTED_TO, memory: Some(MemoryView { held }) };
    match read::plan(&view) {
        read::Plan::Read { blocks, .. } => Ok(blocks),
        read::Plan::Replan(why) => Err(Stop::PlanAgain { reason: format!("partition {}: {why}", head.partition) }),
        read::Plan::MissingTail { from, .. } => {
            Err(Stop::Fail(Error::Internal(format!("partition {} lacks memory from {from} on", head.partition))))
        }
        read::Plan::Broken(what) => {
            tracing::error!(partition = %head.partition, what, "a head cannot be right");
            Err(Stop::Fail(Error::Internal(format!("partition {}: {what}", head.partition))))
        }
    }
}

/// Those of the blocks that have rows of the tenant in `time`.
fn jobs(blocks: &[BlockEntry], tenant: &TenantId, time: TimeRange) -> Vec<BlockJob> {
    let job = |entry: &BlockEntry| {
        let at = entry.tenants.binary_search_by(|t| t.tenant.cmp(tenant)).ok()?;
        let of_tenant = &entry.tenants[at];
        of_tenant.time.overlaps(&time).then(|| BlockJob {
            address: BlockAddress { key: entry.key.clone(), bytes: entry.bytes, tail_bytes: entry.tail_bytes },
            time: of_tenant.time,
            line_bytes: of_tenant.line_bytes,
        })
    };
    blocks.iter().filter_map(job).collect()
}

/// What to say about offsets that were lost. Nothing is known of their entries but that they had been pushed when the
/// loss was noted, so a query that begins later cannot miss them.
fn lost(head: &Head, time: TimeRange) -> Vec<String> {
    let partition = head.partition;
    let text = |range: &OffsetRange, noted: TimestampNs| {
        format!(
            "offsets {range} of partition {partition} were lost before they were stored (noted at {}); entries pushed \
             before then may be missing",
            jiff::Timestamp::from_nanosecond(i128::from(noted.nanos()))
                .map_or_else(|_| noted.to_string(), |t| t.to_string())
        )
    };
    let touches = |noted: TimestampNs| time.start <= noted;
    head.lost.iter().filter(|l| touches(l.recorded_at)).map(|l| text(&l.range, l.recorded_at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        let check = |bytes: u64, expected: &str| assert_eq!(human_bytes(bytes), expected);
        check(0, "0B");
        check(1023, "1023B");
        check(1536, "1.5KB");
        check(150 << 30, "150GB");
        check(u64::MAX, "16EB");
    }

    #[test]
    fn byte_limits() {
        let check = |query: u64, querier: u64, bytes: u64, expected: Option<&str>| {
            let limit = ByteLimit { query, querier };
            let found = limit.check(bytes).err().map(|e| e.to_string());
            assert_eq!(found.as_deref().map(|t| t.split(':').next().unwrap_or("")), expected);
            assert_eq!(limit.exceeded_by(bytes), expected.is_some());
        };
        check(0, 0, u64::MAX, None);
        check(10, 0, 10, None);
        check(10, 0, 11, Some("the query would read too many bytes (query"));
        check(0, 10, 11, Some("query too large to execute on a single querier"));
    }
}
