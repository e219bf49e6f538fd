//! From a window of time to offsets, and what is known of them without reading a record.

use std::sync::Arc;

use catalogue::{Head, Heads};
use log_bus::{LogBus, LogError, Watermarks};
use model::{Offset, OffsetRange, PartitionId, TimestampNs};

use super::{Error, Job, Tenants};

/// What a replay will read of one partition.
#[derive(Clone, Debug)]
pub struct PartitionPlan {
    /// The partition.
    pub partition: PartitionId,
    /// What the log holds of it.
    pub held: Watermarks,
    /// The offsets to read; empty when the window has none.
    pub range: OffsetRange,
    /// The window begins where the log does: retention may have removed some of it.
    pub cut_off: bool,
    /// The head, when the plan was made.
    pub head: Arc<Head>,
}

/// Finds the window's offsets in every partition of the job, and reads the heads. Reads no record.
///
/// # Errors
/// When log or store fail, or the job names a partition that there is not.
pub async fn plan(log: &dyn LogBus, heads: &Heads, job: &Job) -> Result<Vec<PartitionPlan>, Error> {
    if job.window.from >= job.window.to {
        return Err(Error::Job("the window ends before it begins".to_owned()));
    }
    let count = u32::try_from(log.ends().await.map_err(|e| in_log(PartitionId::new(0), e))?.len()).unwrap_or(u32::MAX);
    let partitions =
        if job.partitions.is_empty() { (0..count).map(PartitionId::new).collect() } else { job.partitions.clone() };
    let mut plans = Vec::new();
    for partition in partitions {
        if partition.index() >= count {
            return Err(Error::Job(format!("there is no partition {partition}: the log has {count}, counted from 0")));
        }
        plans.push(plan_partition(log, heads, job, partition).await?);
    }
    Ok(plans)
}

async fn plan_partition(
    log: &dyn LogBus,
    heads: &Heads,
    job: &Job,
    partition: PartitionId,
) -> Result<PartitionPlan, Error> {
    let time = job.window.append_time();
    let wrong = |error| in_log(partition, error);
    let held = log.watermarks(partition).await.map_err(wrong)?;
    let first_at = |time: TimestampNs| async move {
        // Kafka gives negative times meanings of their own.
        let found = log.offset_at(partition, time.max(TimestampNs::from_nanos(0))).await.map_err(wrong)?;
        Ok::<_, Error>(found.unwrap_or(held.end).clamp(held.first, held.end))
    };
    let start = first_at(time.start).await?;
    let end = if time.end == TimestampNs::MAX { held.end } else { first_at(time.end).await? };
    // The first record that is left is of the window already: there may have been others before it.
    let oldest = first_at(TimestampNs::MIN).await?;
    let cut_off = held.first > Offset::ZERO && start <= oldest;
    let head = heads.read_shared(partition).await?;
    let head = head.map_or_else(|| Arc::new(Head::unled(heads.log_id(), partition)), |(head, _)| head);
    Ok(PartitionPlan { partition, held, range: OffsetRange::new(start, end.max(start)), cut_off, head })
}

fn in_log(partition: PartitionId, source: LogError) -> Error {
    Error::Log { partition, at: Offset::ZERO, source }
}

/// What a replay would read of one partition, as far as the head's index tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Records of all tenants at the most: offsets may have gaps.
    pub records_max: u64,
    /// Records at the most that are not in blocks yet. The index says nothing of them.
    pub unflushed_records_max: u64,
    /// Entries of the wanted tenants in blocks; blocks that lie only in part in the window count in part.
    pub entries: u64,
    /// Bytes of their lines.
    pub line_bytes: u64,
    /// Blocks that lie in the window and hold any of it.
    pub blocks: u64,
    /// Of these, blocks whose range the log no longer holds completely, so that they cannot be rebuilt.
    pub blocks_not_in_log: u64,
}

impl PartitionPlan {
    /// Estimates from the index alone. By entry time, blocks whose entries are of other times count nothing.
    pub fn estimate(&self, job: &Job) -> Estimate {
        let length = |range: OffsetRange| u64::try_from(range.end.value() - range.start.value()).unwrap_or(0);
        let unflushed = OffsetRange::new(self.range.start.max(self.head.flushed_to), self.range.end);
        let mut estimate = Estimate {
            records_max: length(self.range),
            unflushed_records_max: length(unflushed),
            ..Estimate::default()
        };
        for block in blocks_of(&self.head, self.range, job) {
            estimate.blocks += 1;
            estimate.blocks_not_in_log += u64::from(!is_held(self.held, block.range));
            let common = length(overlap(block.range, self.range));
            let share = |whole: u64| {
                let part = u128::from(whole) * u128::from(common) / u128::from(length(block.range).max(1));
                u64::try_from(part).unwrap_or(u64::MAX)
            };
            for tenant in block.tenants.iter().filter(|entry| job.tenants.wants(&entry.tenant)) {
                estimate.entries += share(tenant.rows);
                estimate.line_bytes += share(tenant.line_bytes);
            }
        }
        estimate
    }
}

/// What two ranges have in common; may be empty.
pub(crate) fn overlap(a: OffsetRange, b: OffsetRange) -> OffsetRange {
    OffsetRange::new(a.start.max(b.start), a.end.min(b.end))
}

/// Whether the log holds a range completely.
pub(crate) fn is_held(held: Watermarks, range: OffsetRange) -> bool {
    held.first <= range.start && range.end <= held.end
}

/// The blocks of a head that lie in the window, in part or whole, and hold anything of the job's tenants and time.
pub(crate) fn blocks_of<'a>(
    head: &'a Head,
    window: OffsetRange,
    job: &'a Job,
) -> impl Iterator<Item = &'a catalogue::BlockEntry> {
    head.blocks.iter().filter(move |block| {
        let has_quarantine = block.quarantined > 0 && job.tenants == Tenants::All;
        let mut tenants = block.tenants.iter().filter(|entry| job.tenants.wants(&entry.tenant));
        let holds_some = tenants.any(|entry| job.window.entry_time().is_none_or(|time| time.overlaps(&entry.time)));
        !overlap(block.range, window).is_empty() && (holds_some || has_quarantine)
    })
}
