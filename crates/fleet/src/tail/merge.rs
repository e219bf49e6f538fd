//! Merges the rows of several sources, each row once.
//!
//! At any time one source delivers a partition. Rows of other sources wait; once the delivering source comes that far
//! itself, they are repetitions. If it does not come that far within the hold time, another source takes over. Nothing is
//! missing then, because its rows have waited from the point where the first source stopped. Taking whichever rows come
//! first would lose rows of the old owner that were in transit when the new owner's rows came.
//!
//! If an owner breaks off and no other source follows, the next owner, or the same one after a restart, replays the latest
//! rows from before it served the partition. The rows after the last one passed on are the missing ones. Sources say how far
//! each partition was consumed when they began, so that this position is known before the first row.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use model::{Offset, PartitionId};
use owner::TailBatch;
use tokio::time::Instant;

/// Most batches of a partition that may wait. A source that is further ahead takes over.
const WAITING_MAX: usize = 1024;

/// The result of a step.
#[derive(Default)]
pub(super) struct MergeOutput {
    /// Batches to pass on, in order.
    pub(super) batches: Vec<TailBatch>,
    /// Number of rows left out as repetitions.
    pub(super) repeated_rows: u64,
}

/// Merges the sources of all partitions.
pub(super) struct Merge {
    hold: Duration,
    partitions: HashMap<PartitionId, PartitionMerge>,
}

/// Merges the sources of one partition.
struct PartitionMerge {
    /// The delivering source. `None` after it is gone, until rows of another source have waited long enough.
    source: Option<u64>,
    /// The offset of the last rows passed on, or of the last ones before the tail began.
    last: Offset,
    /// In the order in which they came.
    waiting: VecDeque<WaitingBatch>,
}

struct WaitingBatch {
    source: u64,
    until: Instant,
    batch: TailBatch,
}

impl Merge {
    pub(super) fn new(hold: Duration) -> Self {
        Self { hold, partitions: HashMap::new() }
    }

    /// Takes in rows of a source.
    pub(super) fn take(&mut self, source: u64, batch: TailBatch, now: Instant, out: &mut MergeOutput) {
        let is_mark = batch.is_replayed && batch.batch.is_empty();
        let Some(partition) = self.partitions.get_mut(&batch.partition) else {
            if batch.is_replayed && !is_mark {
                // Whether it was consumed before the tail began is unknown. It counts as history.
                out.repeated_rows += batch.batch.len() as u64;
                return;
            }
            let partition = PartitionMerge { source: Some(source), last: batch.offset, waiting: VecDeque::new() };
            self.partitions.insert(batch.partition, partition);
            if !is_mark {
                out.batches.push(batch);
            }
            return;
        };
        if is_mark {
            return;
        }
        if partition.source == Some(source) {
            // Several batches of one record share its offset.
            if batch.offset < partition.last {
                out.repeated_rows += batch.batch.len() as u64;
                return;
            }
            partition.last = batch.offset;
            out.batches.push(batch);
            partition.forget_passed(out);
        } else if batch.offset > partition.last {
            partition.waiting.push_back(WaitingBatch { source, until: now + self.hold, batch });
            if partition.waiting.len() > WAITING_MAX {
                partition.switch(now + self.hold, out);
            }
        } else {
            out.repeated_rows += batch.batch.len() as u64;
        }
    }

    /// Notes that a source is gone. Another one takes over when its rows have waited long enough: a third one may have older
    /// rows in transit.
    pub(super) fn gone(&mut self, source: u64) {
        for partition in self.partitions.values_mut().filter(|partition| partition.source == Some(source)) {
            partition.source = None;
        }
    }

    /// When the oldest waiting rows have waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.partitions.values().filter_map(|partition| partition.waiting.front()).map(|waiting| waiting.until).min()
    }

    /// Switches to sources whose rows have waited long enough.
    pub(super) fn expire(&mut self, now: Instant, out: &mut MergeOutput) {
        for partition in self.partitions.values_mut() {
            while partition.waiting.front().is_some_and(|waiting| waiting.until <= now) {
                partition.switch(now + self.hold, out);
            }
        }
    }
}

impl PartitionMerge {
    /// Makes the source with the lowest waiting offset deliver the partition. Rows of other sources wait again.
    fn switch(&mut self, until: Instant, out: &mut MergeOutput) {
        let Some(first) = self.waiting.iter().min_by_key(|waiting| waiting.batch.offset) else { return };
        let (source, passed) = (first.source, self.last);
        self.source = Some(source);
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.source != source {
                self.waiting.push_back(WaitingBatch { until, ..waiting });
            } else if waiting.batch.offset > passed {
                self.last = waiting.batch.offset;
                out.batches.push(waiting.batch);
            } else {
                out.repeated_rows += waiting.batch.batch.len() as u64;
            }
        }
        self.forget_passed(out);
    }

    /// Drops waiting rows that the source has delivered by now.
    fn forget_passed(&mut self, out: &mut MergeOutput) {
        let last = self.last;
        self.waiting.retain(|waiting| {
            let is_ahead = waiting.batch.offset > last;
            if !is_ahead {
                out.repeated_rows += waiting.batch.batch.len() as u64;
            }
            is_ahead
        });
    }
}

#[cfg(test)]
mod tests;
