//! What to do when a plan fails: wait, plan again, or give up.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use model::{Offset, OffsetRange, PartitionId};
use object_store::StoreError;
use owner::OwnerError;

use crate::{error::Error, heads::Freshness, metrics::Metrics};

/// Number of plans that are made even after the deadline. Before the deadline there may be more if memory evicts rows:
/// after an outage of the store an owner flushes and evicts several times a second, and each time a plan may be too slow.
const PLANS_LEAST: u32 = 6;

/// Number of plans that must find records removed before the answer omits them. Until then a head that lists them may
/// still be published.
const PLANS_BEFORE_LOST: u32 = 4;

/// The first and the longest pause before a partition is asked for again that no owner could answer for.
const WAIT_PAUSE: Duration = Duration::from_millis(5);
const WAIT_PAUSE_MAX: Duration = Duration::from_millis(200);

/// The longest pause before another plan.
const PLAN_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Why a plan failed.
pub(crate) enum PlanFailure {
    /// A plan from newer heads may succeed.
    Outdated {
        /// What is no longer where the plan expected it.
        moved: Moved,
        /// The reason for logs and errors.
        text: String,
    },
    /// The log's retention removed records that no head lists.
    Removed { partition: PartitionId, range: OffsetRange },
    /// No owner answers for the partition, or none has consumed far enough. This may change soon.
    OwnerNotReady { partition: PartitionId, source: OwnerError },
    /// Neither waiting nor planning again helps.
    Final(Error),
}

/// What is no longer where the plan expected it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Rows that an owner evicted. Newer heads list the blocks that have them.
    Memory,
    /// A block, which was rewritten or removed.
    Block,
}

impl From<Error> for PlanFailure {
    fn from(error: Error) -> Self {
        match error {
            Error::Fetch { source: StoreError::NotFound(key), .. } => {
                Self::Outdated { moved: Moved::Block, text: format!("block {key} is gone") }
            }
            other => Self::Final(other),
        }
    }
}

impl PlanFailure {
    pub(crate) fn of_owner(partition: PartitionId, error: OwnerError) -> Self {
        match error {
            OwnerError::NotHeld { .. } => Self::Outdated { moved: Moved::Memory, text: error.to_string() },
            OwnerError::Removed { range, .. } => Self::Removed { partition, range },
            OwnerError::Query(error) => Self::Final(error.into()),
            source => Self::OwnerNotReady { partition, source },
        }
    }

    /// The value of the metrics' label `reason`.
    fn reason(&self) -> &'static str {
        match self {
            Self::Outdated { moved: Moved::Memory, .. } => "not_held",
            Self::Outdated { moved: Moved::Block, .. } => "block_gone",
            Self::Removed { .. } => "removed",
            Self::OwnerNotReady { source: OwnerError::NotLeading { .. }, .. } => "not_leading",
            Self::OwnerNotReady { source: OwnerError::Deadline { .. }, .. } => "behind",
            Self::OwnerNotReady { .. } => "unavailable",
            Self::Final(_) => "failed",
        }
    }
}

/// The plans that one read makes until one of them succeeds.
pub(crate) struct PlanAttempts {
    started: Instant,
    wait_max: Duration,
    /// The read does not wait for owners after this.
    pub(crate) deadline: tokio::time::Instant,
    made: u32,
    wait_pause: Duration,
    /// How old the heads of the next plan may be.
    pub(crate) freshness: Freshness,
    /// The last plan used a head that is older than it should be.
    pub(crate) heads_are_stale: bool,
    /// Where memory begins in partitions whose records retention removed.
    pub(crate) skip_to: BTreeMap<PartitionId, Offset>,
}

impl PlanAttempts {
    /// The first plan. The read waits for owners up to `wait_max`.
    pub(crate) fn new(wait_max: Duration) -> Self {
        Self {
            started: Instant::now(),
            wait_max,
            deadline: tokio::time::Instant::now() + wait_max,
            made: 1,
            wait_pause: WAIT_PAUSE,
            freshness: Freshness::Recent,
            heads_are_stale: false,
            skip_to: BTreeMap::new(),
        }
    }

    /// The time since the read began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until another plan may succeed.
    ///
    /// # Errors
    /// If the failure of the last plan is final, there were too many plans, or the deadline has passed.
    pub(crate) async fn again(&mut self, failure: PlanFailure, metrics: &Metrics) -> Result<(), Error> {
        let is_late = tokio::time::Instant::now() >= self.deadline;
        let reason = failure.reason();
        match failure {
            PlanFailure::Final(error) => return Err(error),
            PlanFailure::OwnerNotReady { partition, source } => {
                if is_late {
                    return Err(self.not_reached(partition, source));
                }
                // The heads are not read again: if they are too old by now, the owner's answer will say so.
                metrics.count_plan_again(reason);
                tokio::time::sleep(self.wait_pause).await;
                self.wait_pause = (self.wait_pause * 2).min(WAIT_PAUSE_MAX);
                return Ok(());
            }
            PlanFailure::Removed { partition, range } => {
                if is_late {
                    return Err(Error::Owner { partition, source: OwnerError::Removed { partition, range } });
                }
                // A stale head does not prove that no block has the removed records.
                if self.made >= PLANS_BEFORE_LOST && !self.heads_are_stale {
                    tracing::warn!(%partition, %range, "retention removed records that no head lists; an answer lacks them");
                    metrics.removed_ranges.inc();
                    self.skip_to.insert(partition, range.end);
                }
            }
            PlanFailure::Outdated { moved, text } => {
                // Memory changes and the store may come back, but a block that is gone stays gone.
                let may_change = (moved == Moved::Memory || self.heads_are_stale) && !is_late;
                if self.made >= PLANS_LEAST && !may_change {
                    return Err(Error::Unsettled { reason: text });
                }
                tracing::debug!(reason = text, "planning the read again");
                if !self.heads_are_stale && is_late {
                    // Reading blocks took this long. Owners that are asked again need time again.
                    self.deadline = tokio::time::Instant::now() + self.wait_max;
                }
            }
        }
        metrics.count_plan_again(reason);
        if self.made > 1 {
            // A newer head may be published soon.
            let pause = Duration::from_millis(10 << self.made.min(PLANS_LEAST));
            tokio::time::sleep(pause.min(PLAN_PAUSE_MAX)).await;
        }
        self.freshness = Freshness::Since(Instant::now());
        self.made += 1;
        Ok(())
    }

    fn not_reached(&self, partition: PartitionId, source: OwnerError) -> Error {
        match source {
            OwnerError::Deadline { consumed, wanted, .. } => {
                Error::NotReached { partition, consumed, wanted, waited: self.elapsed() }
            }
            source => Error::Owner { partition, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::metrics::Metrics;

    fn outdated() -> PlanFailure {
        PlanFailure::Outdated { moved: Moved::Memory, text: "memory has evicted rows".to_owned() }
    }

    async fn plans(attempts: &mut PlanAttempts, each: Duration) -> u32 {
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let mut plans = 1;
        loop {
            advance(each).await;
            match attempts.again(outdated(), &metrics).await {
                Ok(()) => plans += 1,
                Err(Error::Unsettled { .. }) => return plans,
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn plans_are_made_again_while_there_is_time() {
        let wait_max = Duration::from_secs(10);
        let quick = plans(&mut PlanAttempts::new(wait_max), Duration::from_millis(50)).await;
        assert!((15..30).contains(&quick), "{quick}");
        let slow = plans(&mut PlanAttempts::new(wait_max), Duration::from_secs(30)).await;
        assert_eq!(slow, PLANS_LEAST, "slow reads of blocks get several tries, too");
    }
}
