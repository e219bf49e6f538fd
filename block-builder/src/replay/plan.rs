//! Finds the offsets of a window of time, and estimates how much they hold without reading a record.

use std::sync::Arc;

use catalogue::{Head, Heads};
use log_bus::{LogBus, LogError, Watermarks};
use model::{Offset, OffsetRange, PartitionId, TimestampNs};

use super::{Error, Job, Tenants};

/// The part of one partition that a replay reads.
#[derive(Clone, Debug)]
pub struct PartitionPlan {
    /// The partition.
    pub partition: PartitionId,
    /// The offsets that the log holds.
    pub held: Watermarks,
    /// The offsets to read; empty if the window has none.
    pub range: OffsetRange,
    /// True when the window begins at the start of the log, so that retention may have removed part of it.
    pub cut_off: bool,
    /// The head at the time of the plan.
    pub head: Arc<Head>,
}

/// Finds the window's offsets in every partition of the job, and reads the heads. Reads no record.
///
/// # Errors
/// When the log or the store fails, or the job names a partition that does not exist.
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
        // In Kafka, negative times have special meanings.
        let found = log.offset_at(partition, time.max(TimestampNs::from_nanos(0))).await.map_err(wrong)?;
        Ok::<_, Error>(found.unwrap_or(held.end).clamp(held.first, held.end))
    };
    let start = first_at(time.start).await?;
    let end = if time.end == TimestampNs::MAX { held.end } else { first_at(time.end).await? };
    // If the oldest record left is in the window, there may have been others before it.
    let oldest = first_at(TimestampNs::MIN).await?;
    let cut_off = held.first > Offset::ZERO && start <= oldest;
    let head = heads.read_shared(partition).await?;
    let head = head.map_or_else(|| Arc::new(Head::unled(heads.log_id(), partition)), |(head, _)| head);
    Ok(PartitionPlan { partition, held, range: OffsetRange::new(start, end.max(start)), cut_off, head })
}

fn in_log(partition: PartitionId, source: LogError) -> Error {
    Error::Log { partition, at: Offset::ZERO, source }
}

/// How much a replay reads of one partition, according to the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Upper bound of records, of all tenants. Offsets may have gaps.
    pub records_max: u64,
    /// Upper bound of records that are not in blocks yet. The head does not know their contents.
    pub unflushed_records_max: u64,
    /// Entries of the selected tenants in blocks. A block that overlaps the window counts in proportion.
    pub entries: u64,
    /// Bytes of their lines.
    pub line_bytes: u64,
    /// Blocks that hold selected entries.
    pub blocks: u64,
    /// Of these, blocks that cannot be rebuilt, since the log no longer holds their whole range.
    pub blocks_not_in_log: u64,
}

impl PartitionPlan {
    /// Estimates from the head alone. For entry time, blocks without entries of the window do not count.
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

/// The intersection of two ranges; may be empty.
pub(crate) fn overlap(a: OffsetRange, b: OffsetRange) -> OffsetRange {
    OffsetRange::new(a.start.max(b.start), a.end.min(b.end))
}

/// True when the log holds the whole range.
pub(crate) fn is_held(held: Watermarks, range: OffsetRange) -> bool {
    held.first <= range.start && range.end <= held.end
}

/// The blocks of a head that overlap the window and hold entries of the job's tenants and time.
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
