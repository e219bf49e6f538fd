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
    heads::CachedHead,
    index_cache::BlockAddress,
    retries::{Moved, PlanFailure},
    scan_times::ScanTimes,
};

/// There is no catalogue of compacted blocks yet, so nothing is compacted.
const COMPACTED_TO: Offset = Offset::ZERO;

/// Where the rows of one partition are.
pub(crate) struct PartitionPlan {
    pub(crate) head: Arc<Head>,
    /// The first offset that memory is asked for. Rows below are in blocks, or lost.
    pub(crate) memory_from: Offset,
    /// An answer of memory must reach this offset.
    pub(crate) at_least: Option<Offset>,
}

/// Where the rows of all partitions are.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) partitions: Vec<PartitionPlan>,
    /// Blocks with rows of the tenant that a scan may read.
    pub(crate) jobs: Vec<BlockJob>,
    pub(crate) warnings: BTreeSet<String>,
}

impl Plan {
    /// Adds a partition of the log. Offsets below `skip_to` that are in no block were removed, and are skipped.
    pub(crate) fn add(
        &mut self,
        cached: CachedHead,
        skip_to: Option<Offset>,
        at_least: Option<Offset>,
        tenant: &TenantId,
        times: &ScanTimes,
    ) -> Result<(), PlanFailure> {
        let head = cached.head;
        let mut memory_from = read::memory_from(&head, COMPACTED_TO);
        // Until memory answers, the plan holds the lowest offset that memory must cover.
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
    /// Checks that an answer of memory covers the offsets that it must. No owner is trusted to check this itself.
    pub(crate) fn check(&self, held: OffsetRange) -> Result<(), PlanFailure> {
        let partition = self.head.partition;
        if let Some(wanted) = self.at_least.filter(|wanted| held.end < *wanted) {
            let source = OwnerError::Deadline { partition, consumed: held.end, wanted };
            return Err(PlanFailure::OwnerNotReady { partition, source });
        }
        let flushed_to = read::memory_from(&self.head, COMPACTED_TO);
        // Removed offsets are skipped, so memory need not cover them.
        let start = if held.start <= self.memory_from { held.start.min(flushed_to) } else { held.start };
        blocks(&self.head, OffsetRange::new(start, held.end)).map(|_| ())
    }
}

/// The blocks of a plan with this head, and memory that holds these offsets; or why the two do not fit together.
fn blocks(head: &Head, held: OffsetRange) -> Result<&[BlockEntry], PlanFailure> {
    let view = PartitionView { head, compacted_to: COMPACTED_TO, memory: Some(MemoryView { held }) };
    match read::plan(&view) {
        read::Plan::Read { blocks, .. } => Ok(blocks),
        read::Plan::Replan(why) => {
            Err(PlanFailure::Outdated { moved: Moved::Memory, text: format!("partition {}: {why}", head.partition) })
        }
        read::Plan::MissingTail { from, .. } => Err(PlanFailure::Final(Error::Internal(format!(
            "partition {} lacks memory from {from} on",
            head.partition
        )))),
        read::Plan::Broken(what) => {
            tracing::error!(partition = %head.partition, what, "a head is broken");
            Err(PlanFailure::Final(Error::Internal(format!("partition {}: {what}", head.partition))))
        }
    }
}

/// The blocks among these that have rows of the tenant which a scan may read.
fn jobs(blocks: &[BlockEntry], tenant: &TenantId, times: &ScanTimes) -> Vec<BlockJob> {
    let job = |entry: &BlockEntry| {
        let at = entry.tenants.binary_search_by(|t| t.tenant.cmp(tenant)).ok()?;
        let of_tenant = &entry.tenants[at];
        times.overlap(&of_tenant.time).then(|| BlockJob {
            address: BlockAddress::from(entry),
            time: of_tenant.time,
            line_bytes: of_tenant.line_bytes,
        })
    };
    blocks.iter().filter_map(job).collect()
}

/// Warnings about lost offsets. All that is known of their entries is that they were pushed before the loss was noted, so
/// a query about later times does not need them.
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

/// A warning about records that are neither in blocks nor in the log, if no head lists them as lost yet.
fn removed(head: &Head, range: OffsetRange) -> String {
    format!(
        "offsets {range} of partition {} were removed by the log's retention, and nothing says that they were stored \
         before; entries in them are missing",
        head.partition
    )
}
