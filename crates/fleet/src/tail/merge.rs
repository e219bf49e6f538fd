//! Rows of several sources, each once.
//!
//! At any time one source delivers a partition. What others send waits: as soon as the source itself comes that far, it
//! is a repetition. When the source does not come that far within the hold, the other takes over, and
//! nothing is missing: its rows from where the first one stopped have waited. Taking whatever came first instead would lose the rows
//! that the old owner had sent and that were still under way when the new one's arrived.
//!
//! When an owner breaks off without another one beside it, the next one, or the same one started again, replays the latest
//! rows from before it served the partition. Of those the ones behind the last row passed on are the missing ones. So that
//! this is known of a partition before its first row, sources say how far it was consumed when they began.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use model::{Offset, PartitionId};
use owner::TailBatch;
use tokio::time::Instant;

/// How many batches of a partition may wait. A source that is so far ahead takes over.
const WAITING_MAX: usize = 1024;

/// What the rows that came make of it.
#[derive(Default)]
pub(super) struct Taken {
    /// To be passed on, in order.
    pub(super) batches: Vec<TailBatch>,
    /// Rows that were left out.
    pub(super) repeated_rows: u64,
}

/// The state of each partition.
pub(super) struct Merge {
    hold: Duration,
    partitions: HashMap<PartitionId, Line>,
}

/// One partition.
struct Line {
    /// Who delivers it; none after that source has gone, until another has waited long enough.
    source: Option<u64>,
    /// Of the last rows passed on, or of those before the tail began.
    last: Offset,
    /// In the order of their coming.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    source: u64,
    until: Instant,
    batch: TailBatch,
}

impl Merge {
    pub(super) fn new(hold: Duration) -> Self {
        Self { hold, partitions: HashMap::new() }
    }

    /// Takes rows that came from a source.
    pub(super) fn take(&mut self, source: u64, batch: TailBatch, now: Instant, out: &mut Taken) {
        let is_mark = batch.is_replayed && batch.batch.is_empty();
        let Some(line) = self.partitions.get_mut(&batch.partition) else {
            if batch.is_replayed && !is_mark {
                // Nothing says whether it was there before the tail began. Then it is in the history.
                out.repeated_rows += batch.batch.len() as u64;
                return;
            }
            let line = Line { source: Some(source), last: batch.offset, waiting: VecDeque::new() };
            self.partitions.insert(batch.partition, line);
            if !is_mark {
                out.batches.push(batch);
            }
            return;
        };
        if is_mark {
            return;
        }
        if line.source == Some(source) {
            // Several batches of one record share its offset.
            if batch.offset < line.last {
                out.repeated_rows += batch.batch.len() as u64;
                return;
            }
            line.last = batch.offset;
            out.batches.push(batch);
            line.forget_passed(out);
        } else if batch.offset > line.last {
            line.waiting.push_back(Waiting { source, until: now + self.hold, batch });
            if line.waiting.len() > WAITING_MAX {
                line.switch(now + self.hold, out);
            }
        } else {
            out.repeated_rows += batch.batch.len() as u64;
        }
    }

    /// Nothing more comes from a source. Another takes over when its rows have waited long enough: a third one may have
    /// older ones under way.
    pub(super) fn gone(&mut self, source: u64) {
        for line in self.partitions.values_mut().filter(|line| line.source == Some(source)) {
            line.source = None;
        }
    }

    /// When something has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.partitions.values().filter_map(|line| line.waiting.front()).map(|waiting| waiting.until).min()
    }

    /// Lets those take over whose rows have waited long enough.
    pub(super) fn expire(&mut self, now: Instant, out: &mut Taken) {
        for line in self.partitions.values_mut() {
            while line.waiting.front().is_some_and(|waiting| waiting.until <= now) {
                line.switch(now + self.hold, out);
            }
        }
    }
}

impl Line {
    /// The source whose waiting rows come first delivers from now on; what others sent waits anew.
    fn switch(&mut self, until: Instant, out: &mut Taken) {
        let Some(first) = self.waiting.iter().min_by_key(|waiting| waiting.batch.offset) else { return };
        let (source, passed) = (first.source, self.last);
        self.source = Some(source);
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.source != source {
                self.waiting.push_back(Waiting { until, ..waiting });
            } else if waiting.batch.offset > passed {
                self.last = waiting.batch.offset;
                out.batches.push(waiting.batch);
            } else {
                out.repeated_rows += waiting.batch.batch.len() as u64;
            }
        }
        self.forget_passed(out);
    }

    /// What others sent and the source has delivered.
    fn forget_passed(&mut self, out: &mut Taken) {
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
