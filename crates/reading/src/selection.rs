//! What a read plan says about one tenant: which blocks its rows may be in, and what an answer must warn of.

use std::{collections::BTreeSet, sync::Arc};

use catalogue::{
    BlockEntry, Head, Lost,
    driver::{PartitionPlan, ReadPlan},
};
use model::{OffsetRange, PartitionId, TenantId, TimestampNs};

use crate::{blocks::BlockJob, index_cache::BlockAddress, scan_times::ScanTimes};

/// The blocks to read for one tenant.
#[derive(Default)]
pub(crate) struct BlockSelection {
    /// Blocks with rows of the tenant that a scan may read.
    pub(crate) jobs: Vec<BlockJob>,
    /// Texts that the answer should show to a person.
    pub(crate) warnings: BTreeSet<String>,
}

impl BlockSelection {
    /// Selects from the blocks of a plan, and from those of logs that were replaced.
    pub(crate) fn new(plan: &ReadPlan, older_heads: &[Arc<Head>], tenant: &TenantId, times: &ScanTimes) -> Self {
        let mut selection = Self::default();
        for partition in &plan.partitions {
            selection.add(partition.partition(), partition.blocks(), partition.lost(), tenant, times);
            selection.warnings.extend(removed(partition));
        }
        for head in older_heads {
            selection.add(head.partition, &head.blocks, &head.lost, tenant, times);
        }
        selection
    }

    fn add(
        &mut self,
        partition: PartitionId,
        blocks: &[BlockEntry],
        lost_ranges: &[Lost],
        tenant: &TenantId,
        times: &ScanTimes,
    ) {
        self.jobs.extend(blocks.iter().filter_map(|block| job(block, tenant, times)));
        let relevant = lost_ranges.iter().filter(|lost| times.begin_by(lost.recorded_at));
        self.warnings.extend(relevant.map(|lost| lost_text(partition, &lost.range, lost.recorded_at)));
    }
}

/// Returns the job for a block, or `None` if the block has no rows of the tenant that a scan may read.
fn job(block: &BlockEntry, tenant: &TenantId, times: &ScanTimes) -> Option<BlockJob> {
    let at = block.tenants.binary_search_by(|t| t.tenant.cmp(tenant)).ok()?;
    let of_tenant = &block.tenants[at];
    times.overlap(&of_tenant.time).then(|| BlockJob {
        address: BlockAddress::from(block),
        time: of_tenant.time,
        line_bytes: of_tenant.line_bytes,
    })
}

/// A warning about lost offsets. All that is known of their entries is that they were pushed before the loss was noted, so
/// a query about later times does not need them.
fn lost_text(partition: PartitionId, range: &OffsetRange, noted: TimestampNs) -> String {
    format!(
        "offsets {range} of partition {partition} were lost before they were stored (noted at {}); entries pushed before \
         then may be missing",
        jiff::Timestamp::from_nanosecond(i128::from(noted.nanos()))
            .map_or_else(|_| noted.to_string(), |time| time.to_string())
    )
}

/// A warning about records that are neither in blocks nor in the log, if no head lists them as lost yet.
fn removed(plan: &PartitionPlan) -> Option<String> {
    let range = plan.removed?;
    Some(format!(
        "offsets {range} of partition {} were removed by the log's retention, and nothing says that they were stored \
         before; entries in them are missing",
        plan.partition()
    ))
}
