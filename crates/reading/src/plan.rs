//! One plan: for every partition which blocks are read, and from which offset on memory is.

use std::{collections::BTreeSet, sync::Arc};

use catalogue::{
    BlockEntry, Head,
    read::{self, MemoryView, PartitionView},
};
use model::{Offset, OffsetRange, TenantId, TimestampNs};
use owner::OwnerError;

use crate::{
    blocks::BlockJob,
    error::Error,
    heads::KnownHead,
    index_cache::BlockAddress,
    retries::{Moved, Stop},
    scan_times::ScanTimes,
};

/// There is no catalogue of compacted blocks yet, so nothing is compacted.
const COMPACTED_TO: Offset = Offset::ZERO;

/// Where the rows of one partition are.
pub(crate) struct PartitionPlan {
    pub(crate) head: Arc<Head>,
    /// Memory serves from here on; blocks serve all below that is not lost.
    pub(crate) memory_from: Offset,
    /// What an answer must hold everything below of.
    pub(crate) at_least: Option<Offset>,
}

/// The rows of all partitions.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) partitions: Vec<PartitionPlan>,
    /// Blocks with rows of the tenant that a scan may read.
    pub(crate) jobs: Vec<BlockJob>,
    pub(crate) warnings: BTreeSet<String>,
}

impl Plan {
    /// Adds a partition of the log. Offsets below `skip_to` that no block holds are known to be gone.
    pub(crate) fn add(
        &mut self,
        known: KnownHead,
        skip_to: Option<Offset>,
        at_least: Option<Offset>,
        tenant: &TenantId,
        times: &ScanTimes,
    ) -> Result<(), Stop> {
        let head = known.head;
        let mut memory_from = read::memory_from(&head, COMPACTED_TO);
        // Memory has not been asked yet: for its place stands what it must at least answer with.
        self.jobs.extend(jobs(blocks(&head, OffsetRange::new(memory_from, memory_from))?, tenant, times));
        self.warnings.extend(lost(&head, times));
        if let Some(skip_to) = skip_to.filter(|to| memory_from < *to) {
            self.warnings.insert(removed(&head, OffsetRange::new(memory_from, skip_to)));
            memory_from = skip_to;
        }
        self.partitions.push(PartitionPlan { head, memory_from, at_least });
        Ok(())
    }

    /// Adds the blocks of a log that was replaced.
    pub(crate) fn add_older(&mut self, head: &Head, tenant: &TenantId, times: &ScanTimes) {
        self.jobs.extend(jobs(&head.blocks, tenant, times));
        self.warnings.extend(lost(head, times));
    }
}

impl PartitionPlan {
    /// Checks that an answer of memory holds what it must, whoever gave it.
    pub(crate) fn check(&self, held: OffsetRange) -> Result<(), Stop> {
        let partition = self.head.partition;
        if let Some(wanted) = self.at_least.filter(|wanted| held.end < *wanted) {
            let source = OwnerError::Deadline { partition, consumed: held.end, wanted };
            return Err(Stop::Wait { partition, source });
        }
        let flushed_to = read::memory_from(&self.head, COMPACTED_TO);
        // What was removed is not missed.
        let start = if held.start <= self.memory_from { held.start.min(flushed_to) } else { held.start };
        blocks(&self.head, OffsetRange::new(start, held.end)).map(|_| ())
    }
}

/// The blocks that a head and what memory holds make whole; or why they do not.
fn blocks(head: &Head, held: OffsetRange) -> Result<&[BlockEntry], Stop> {
    let view = PartitionView { head, compacted_to: COMPACTED_TO, memory: Some(MemoryView { held }) };
    match read::plan(&view) {
        read::Plan::Read { blocks, .. } => Ok(blocks),
        read::Plan::Replan(why) => {
            Err(Stop::PlanAgain { moved: Moved::Memory, text: format!("partition {}: {why}", head.partition) })
        }
        read::Plan::MissingTail { from, .. } => {
            Err(Stop::Fail(Error::Internal(format!("partition {} lacks memory from {from} on", head.partition))))
        }
        read::Plan::Broken(what) => {
            tracing::error!(partition = %head.partition, what, "a head cannot be right");
            Err(Stop::Fail(Error::Internal(format!("partition {}: {what}", head.partition))))
        }
    }
}

/// The blocks among these that have rows of the tenant which a scan may read.
fn jobs(blocks: &[BlockEntry], tenant: &TenantId, times: &ScanTimes) -> Vec<BlockJob> {
    let job = |entry: &BlockEntry| {
        let at = entry.tenants.binary_search_by(|t| t.tenant.cmp(tenant)).ok()?;
        let of_tenant = &entry.tenants[at];
        times.overlap(&of_tenant.time).then(|| BlockJob {
            address: BlockAddress { key: entry.key.clone(), bytes: entry.bytes, tail_bytes: entry.tail_bytes },
            time: of_tenant.time,
            line_bytes: of_tenant.line_bytes,
        })
    };
    blocks.iter().filter_map(job).collect()
}

/// What to say about offsets that were lost. Nothing is known of their entries but that they had been pushed when the
/// loss was noted, so a query that begins later cannot miss them.
fn lost(head: &Head, times: &ScanTimes) -> Vec<String> {
    let partition = head.partition;
    let text = |range: &OffsetRange, noted: TimestampNs| {
        format!(
            "offsets {range} of partition {partition} were lost before they were stored (noted at {}); entries pushed \
             before then may be missing",
            jiff::Timestamp::from_nanosecond(i128::from(noted.nanos()))
                .map_or_else(|_| noted.to_string(), |t| t.to_string())
        )
    };
    head.lost.iter().filter(|l| times.begin_by(l.recorded_at)).map(|l| text(&l.range, l.recorded_at)).collect()
}

/// What to say about records that are neither in blocks nor in the log, and of which no head says anything yet.
fn removed(head: &Head, range: OffsetRange) -> String {
    format!(
        "offsets {range} of partition {} were removed by the log's retention, and nothing says that they were stored \
         before; entries in them are missing",
        head.partition
    )
}
