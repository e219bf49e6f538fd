//! When a plan does not hold: what to wait for, and when to give up.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use model::{Offset, OffsetRange, PartitionId};
use object_store::StoreError;
use owner::OwnerError;

use crate::{error::Error, heads::Freshness, metrics::Metrics};

/// So many plans are made however late it is. More are made while there is time if memory has moved on: an owner that
/// writes down what waited for a store that was away drops segments several times a second, and each time a plan may be
/// too slow for it.
const PLANS_LEAST: u32 = 6;

/// So many plans must find that records were removed before the answer does without them: a head that lists them may
/// be on its way.
const PLANS_BEFORE_LOST: u32 = 4;

/// The first pause before a partition that nobody could answer for is asked for again, and the longest one.
const WAIT_PAUSE: Duration = Duration::from_millis(5);
const WAIT_PAUSE_MAX: Duration = Duration::from_millis(200);

/// The longest pause before another plan.
const PLAN_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Why a plan could not be carried out.
pub(crate) enum Stop {
    /// Newer heads help.
    PlanAgain {
        /// What moved on.
        moved: Moved,
        /// For people.
        text: String,
    },
    /// Retention removed what no head that was read knows of.
    Removed { partition: PartitionId, range: OffsetRange },
    /// Nobody answers for the partition as is wanted: soon somebody will.
    Wait { partition: PartitionId, source: OwnerError },
    /// Nothing helps.
    Fail(Error),
}

/// What is no longer where the plan looked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Records that an owner let go: newer heads list the blocks they are in.
    Memory,
    /// A block that was rewritten or removed.
    Block,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            // A block that was rewritten or removed since the head was read.
            Error::Fetch { source: StoreError::NotFound(key), .. } => {
                Self::PlanAgain { moved: Moved::Block, text: format!("block {key} is gone") }
            }
            other => Self::Fail(other),
        }
    }
}

impl Stop {
    pub(crate) fn of_owner(partition: PartitionId, error: OwnerError) -> Self {
        match error {
            OwnerError::NotHeld { .. } => Self::PlanAgain { moved: Moved::Memory, text: error.to_string() },
            OwnerError::Removed { range, .. } => Self::Removed { partition, range },
            OwnerError::Query(error) => Self::Fail(error.into()),
            source => Self::Wait { partition, source },
        }
    }

    /// The word in metrics.
    fn why(&self) -> &'static str {
        match self {
            Self::PlanAgain { moved: Moved::Memory, .. } => "not_held",
            Self::PlanAgain { moved: Moved::Block, .. } => "block_gone",
            Self::Removed { .. } => "removed",
            Self::Wait { source: OwnerError::NotLeading { .. }, .. } => "not_leading",
            Self::Wait { source: OwnerError::Deadline { .. }, .. } => "behind",
            Self::Wait { .. } => "unavailable",
            Self::Fail(_) => "failed",
        }
    }
}

/// How often plans were made, how young the heads of the next one must be, and how long there is for it.
pub(crate) struct Planning {
    started: Instant,
    wait_max: Duration,
    /// Nothing is waited for after this.
    pub(crate) deadline: tokio::time::Instant,
    made: u32,
    wait_pause: Duration,
    /// How young the heads of the next plan must be.
    pub(crate) freshness: Freshness,
    /// The last plan was made from a head that could not be read anew.
    pub(crate) heads_are_stale: bool,
    /// Where to begin in partitions whose records retention removed.
    pub(crate) skip_to: BTreeMap<PartitionId, Offset>,
}

impl Planning {
    /// The first plan, for which owners may be waited for so long.
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

    /// Since when it is planned.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prepares for another plan, unless what stopped the last one is final, or there were too many, or it is too late.
    pub(crate) async fn again(&mut self, stop: Stop, metrics: &Metrics) -> Result<(), Error> {
        let is_late = tokio::time::Instant::now() >= self.deadline;
        let why = stop.why();
        match stop {
            Stop::Fail(error) => return Err(error),
            Stop::Wait { partition, source } => {
                if is_late {
                    return Err(self.not_reached(partition, source));
                }
                // No new heads: if they are too old by now, whoever answers says so.
                metrics.count_plan_again(why);
                tokio::time::sleep(self.wait_pause).await;
                self.wait_pause = (self.wait_pause * 2).min(WAIT_PAUSE_MAX);
                return Ok(());
            }
            Stop::Removed { partition, range } => {
                if is_late {
                    return Err(Error::Owner { partition, source: OwnerError::Removed { partition, range } });
                }
                // While heads cannot be read anew nobody knows whether blocks hold what was removed.
                if self.made >= PLANS_BEFORE_LOST && !self.heads_are_stale {
                    tracing::warn!(%partition, %range, "retention removed records that no head lists; an answer lacks them");
                    metrics.removed_ranges.inc();
                    self.skip_to.insert(partition, range.end);
                }
            }
            Stop::PlanAgain { moved, text: reason } => {
                // Owners move on, and a store that is away may come back; a block that is gone stays so.
                let may_change = (moved == Moved::Memory || self.heads_are_stale) && !is_late;
                if self.made >= PLANS_LEAST && !may_change {
                    return Err(Error::Unsettled { reason });
                }
                tracing::debug!(reason, "planning the read again");
                if !self.heads_are_stale && is_late {
                    // Reading blocks took that long; who is asked again needs time again.
                    self.deadline = tokio::time::Instant::now() + self.wait_max;
                }
            }
        }
        metrics.count_plan_again(why);
        if self.made > 1 {
            // The head that says more may be on its way.
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

    fn moved() -> Stop {
        Stop::PlanAgain { moved: Moved::Memory, text: "memory has moved on".to_owned() }
    }

    async fn plans(planning: &mut Planning, each: Duration) -> u32 {
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let mut plans = 1;
        loop {
            advance(each).await;
            match planning.again(moved(), &metrics).await {
                Ok(()) => plans += 1,
                Err(Error::Unsettled { .. }) => return plans,
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn plans_are_made_again_while_there_is_time() {
        let wait_max = Duration::from_secs(10);
        let quick = plans(&mut Planning::new(wait_max), Duration::from_millis(50)).await;
        assert!((15..30).contains(&quick), "{quick}");
        let slow = plans(&mut Planning::new(wait_max), Duration::from_secs(30)).await;
        assert_eq!(slow, PLANS_LEAST, "blocks that take long to read have their tries, too");
    }
}
