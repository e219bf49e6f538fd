//! The one driver of the exact read: it plans over all partitions, lets the caller read, and plans again when
//! something has moved.
//!
//! ```text
//! heads of all partitions ─▶ C of each ─▶ ReadPlan ─▶ Sources::read (memory, blocks) ─▶ ExactRead
//!        ▲                                                   │
//!        └──── fresh heads, fresh catalogue ◀──── Obstacle ──┘
//! ```
//!
//! - Heads are read once per plan. Everything that [`Sources::read`] reads belongs to that plan.
//! - [`crate::read`] decides what is read from where; this module decides when, how often and how long.
//! - A read never answers with less than the plan promises. Lost and removed ranges are data in the plan.
//! - A removed range is left out only after several plans with heads that were read from the store.
//!
//! The driver does not know what an answer is, and has not heard of HTTP, LogQL or the format of blocks.
//!
//! A query service implements [`Sources`] like this:
//!
//! ```
//! use catalogue::driver::{Freshness, HeadView, Obstacle, ReadDriver, ReadPlan, Replanned, Sources};
//! # use millrace_catalogue as catalogue;
//! use std::time::Duration;
//! # use catalogue::Head;
//! # use model::{Offset, OffsetRange, PartitionId};
//!
//! /// One query over all partitions.
//! struct Query {
//!     rows: u64,
//! }
//!
//! impl Sources for Query {
//!     type Answer = u64;
//!     type Error = std::io::Error;
//!
//!     async fn heads(&mut self, freshness: Freshness) -> Result<Vec<HeadView>, Self::Error> {
//!         // From a cache of heads; `Freshness::ReadAfter` asks for heads that were read after this moment.
//! #       let _ = freshness;
//!         let head = Head::unled("log", PartitionId::new(0)).into();
//!         Ok(vec![HeadView { head, is_stale: false }])
//!     }
//!
//!     async fn read(&mut self, plan: &ReadPlan) -> Result<u64, Obstacle<Self::Error>> {
//!         for partition in &plan.partitions {
//!             // Ask an owner for rows from `memory_from` on, and wait for it until `plan.deadline` at most.
//!             let held = OffsetRange::new(partition.memory_from, Offset::new(7));
//!             partition.check(held)?;
//!             // Then read `partition.blocks()`.
//!         }
//!         Ok(self.rows)
//!     }
//!
//!     fn replanned(&mut self, why: Replanned) {
//!         // Count it: `why.as_str()` is a label.
//! #       let _ = why;
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let driver = ReadDriver::new(Duration::from_secs(10));
//! let read = driver.run(&mut Query { rows: 7 }).await.expect("everything answers");
//! assert_eq!(read.answer, 7);
//! // Warnings come from `read.plan.partitions`: `lost()` and `removed` of each.
//! assert!(read.plan.partitions[0].lost().is_empty());
//! # }
//! ```

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use model::{Offset, OffsetRange, PartitionId};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::{
    BlockEntry, Head, Lost,
    read::{self, MemoryView, PartitionView, Plan, Replan},
    rules::{Rule, holds},
};

/// The read makes at least this many plans, however late it is. While there is time it makes more if memory has moved
/// on: an owner that flushes what waited for a store that was away drops segments several times a second, and each
/// time a plan may be too slow for it.
const PLANS_LEAST: u32 = 6;

/// This many plans must find that records were removed before the answer does without them: a head that lists them
/// may be on its way.
const PLANS_BEFORE_SKIP: u32 = 4;

/// The pauses before a partition that did not answer is asked again.
const WAIT_PAUSES: Pauses = Pauses { first: Duration::from_millis(5), max: Duration::from_millis(200) };

/// The pauses before another plan, from the third one on.
const PLAN_PAUSES: Pauses = Pauses { first: Duration::from_millis(40), max: Duration::from_millis(500) };

/// How young the heads, or the catalogue, of a plan must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// A cached one will do.
    Cached,
    /// It must be read after this moment: an older one has proved to be too old.
    ReadAfter(Instant),
}

/// The head of one partition, and whether it is up to date.
#[derive(Clone, Debug)]
pub struct HeadView {
    /// The head. [`Head::unled`] when nobody has led the partition yet.
    pub head: Arc<Head>,
    /// The head should have been read again, but the store was away.
    pub is_stale: bool,
}

/// What one plan reads from each partition.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    /// All partitions, in the order of the heads.
    pub partitions: Vec<PartitionPlan>,
    /// Do not wait for owners longer than this.
    pub deadline: Instant,
    /// Number of this plan, counted from 1.
    pub number: u32,
}

/// What one plan reads from one partition.
#[derive(Clone, Debug)]
pub struct PartitionPlan {
    /// The head that the plan is made from.
    pub head: Arc<Head>,
    /// C: catalogue blocks serve everything below.
    pub compacted_to: Offset,
    /// Memory serves from here on.
    pub memory_from: Offset,
    /// The answer must hold everything below this.
    pub at_least: Option<Offset>,
    /// Retention removed these records, and no head lists them. The answer lacks them; say so.
    pub removed: Option<OffsetRange>,
}

/// Where a read gets its heads, its catalogue and its rows from.
pub trait Sources: Send {
    /// What a read answers with.
    type Answer: Send;
    /// Why reading may fail.
    type Error: Send;

    /// Returns the heads of all partitions.
    fn heads(&mut self, freshness: Freshness) -> impl Future<Output = Result<Vec<HeadView>, Self::Error>> + Send;

    /// Returns C of each partition, in the order of `at_least`, from one snapshot of the catalogue that also serves
    /// the blocks of this plan. A cached snapshot will do if `freshness` allows it and each C reaches `at_least`.
    ///
    /// The default is for logs without a catalogue: nothing is compacted.
    fn compacted_to(
        &mut self,
        at_least: &[(PartitionId, Offset)],
        freshness: Freshness,
    ) -> impl Future<Output = Result<Vec<Offset>, Self::Error>> + Send {
        let _ = freshness;
        let nothing = vec![Offset::ZERO; at_least.len()];
        async move { Ok(nothing) }
    }

    /// The offset below which an answer about this partition must hold everything.
    fn at_least(&self, partition: PartitionId) -> Option<Offset> {
        let _ = partition;
        None
    }

    /// Carries out one plan: asks memory of each partition from [`PartitionPlan::memory_from`] on, passes each answer
    /// through [`PartitionPlan::check`], and reads the blocks.
    fn read(&mut self, plan: &ReadPlan) -> impl Future<Output = Result<Self::Answer, Obstacle<Self::Error>>> + Send;

    /// Called before each further plan, for metrics.
    fn replanned(&mut self, why: Replanned) {
        let _ = why;
    }

    /// Called when further plans leave out a range that retention removed, for metrics.
    fn skipped(&mut self, partition: PartitionId, range: OffsetRange) {
        let _ = (partition, range);
    }
}

/// Why a plan could not be carried out.
#[derive(Debug)]
pub enum Obstacle<E> {
    /// Memory no longer holds what the plan asks it for. A newer head lists it.
    NotHeld {
        /// The partition.
        partition: PartitionId,
        /// What memory holds now.
        held: OffsetRange,
    },
    /// A block was rewritten or removed after the head was read.
    BlockGone {
        /// The key of the block.
        key: String,
    },
    /// Retention removed records that the head does not list.
    Removed {
        /// The partition.
        partition: PartitionId,
        /// What was removed.
        range: OffsetRange,
    },
    /// Memory ends below what the answer must hold.
    Behind {
        /// The partition.
        partition: PartitionId,
        /// Where memory ends.
        consumed: Offset,
        /// Where it must end at least.
        wanted: Offset,
    },
    /// Nobody answers for the partition now; somebody will soon.
    NotAnswered {
        /// The partition.
        partition: PartitionId,
        /// True when whoever was asked does not lead the partition; false when it is unavailable.
        is_not_leading: bool,
        /// What went wrong.
        source: E,
    },
    /// The read failed. Another plan would not help.
    Failed(E),
    /// An answer cannot be right, whenever it was read.
    Broken(String),
}

/// Why the next plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replanned {
    /// Memory no longer holds what it was asked for.
    NotHeld,
    /// A block is gone.
    BlockGone,
    /// Retention removed records that no head lists.
    Removed,
    /// Memory is behind the offset that was asked for.
    Behind,
    /// An owner does not lead the partition.
    NotLeading,
    /// An owner is unavailable.
    Unavailable,
    /// The head is older than the catalogue, or ends below what was seen to be flushed.
    HeadIsOlder,
    /// The catalogue is older than the head.
    CatalogueIsOlder,
}

impl Replanned {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotHeld => "not_held",
            Self::BlockGone => "block_gone",
            Self::Removed => "removed",
            Self::Behind => "behind",
            Self::NotLeading => "not_leading",
            Self::Unavailable => "unavailable",
            Self::HeadIsOlder => "head_older",
            Self::CatalogueIsOlder => "catalogue_older",
        }
    }
}

/// A read that came to its end.
#[derive(Clone, Debug)]
pub struct ExactRead<A> {
    /// What [`Sources::read`] answered.
    pub answer: A,
    /// The plan that was carried out. It names lost and removed ranges.
    pub plan: ReadPlan,
}

/// Why a read has no answer.
#[derive(Debug, Error)]
pub enum ReadError<E> {
    /// A source failed.
    #[error(transparent)]
    Failed(E),
    /// Nobody answered for a partition in time.
    #[error("nobody answered for partition {partition} in time")]
    NotAnswered {
        /// The partition.
        partition: PartitionId,
        /// What went wrong last.
        source: E,
    },
    /// Memory did not reach the offset in time.
    #[error("partition {partition} is consumed up to {consumed}, not up to {wanted}, after {waited:?}")]
    NotReached {
        /// The partition.
        partition: PartitionId,
        /// How far memory came.
        consumed: Offset,
        /// How far it should have come.
        wanted: Offset,
        /// How long the read took until then.
        waited: Duration,
    },
    /// Retention removed records, and there was no time to find out whether blocks hold them.
    #[error("records {range} of partition {partition} were removed by the log's retention")]
    Removed {
        /// The partition.
        partition: PartitionId,
        /// What was removed.
        range: OffsetRange,
    },
    /// No plan could be carried out before something moved.
    #[error("no plan held in {plans} tries; the last one: {reason}")]
    Unsettled {
        /// Number of plans.
        plans: u32,
        /// Why the last one did not hold.
        reason: String,
    },
    /// Something is missing that must be there. This is a defect.
    #[error("the read cannot be exact: {0}")]
    Broken(String),
}

/// Drives one read. It begins when it is made.
#[derive(Debug)]
pub struct ReadDriver {
    started: Instant,
    wait_max: Duration,
    deadline: Instant,
    plans_least: u32,
    wait_pauses: Pauses,
    plan_pauses: Pauses,
    /// Number of the current plan, not counting those that only waited.
    made: u32,
    waits: u32,
    heads: Freshness,
    catalogue: Freshness,
    /// The store was away when the heads of the last plan were read.
    heads_are_stale: bool,
    /// What was seen to be flushed: a head that is read later must not end below.
    flushed: BTreeMap<PartitionId, Offset>,
    /// Where memory begins in partitions whose records retention removed.
    skip_to: BTreeMap<PartitionId, Offset>,
}

/// Pauses that double up to a bound.
#[derive(Clone, Copy, Debug)]
struct Pauses {
    first: Duration,
    max: Duration,
}

/// What stops a plan: an obstacle of the caller, or heads and a catalogue that do not fit together.
enum Stop<E> {
    Obstacle(Obstacle<E>),
    Unfit {
        partition: PartitionId,
        why: Replan,
    },
    /// The head ends below what was seen to be flushed.
    HeadIsBehind {
        partition: PartitionId,
        flushed_to: Offset,
        seen: Offset,
    },
}

impl PartitionPlan {
    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.head.partition
    }

    /// The level-0 blocks `[C, F)` to read, in the order of their offsets.
    pub fn blocks(&self) -> &[BlockEntry] {
        let at = read::level_0_start(&self.head, self.compacted_to);
        &self.head.blocks[at..]
    }

    /// What retention removed before it was flushed.
    pub fn lost(&self) -> &[Lost] {
        &self.head.lost
    }

    /// Checks that an answer of memory, which holds this range, completes the plan. Returns the offset that the answer
    /// is complete to.
    ///
    /// # Errors
    /// An obstacle to return from [`Sources::read`].
    pub fn check<E>(&self, held: OffsetRange) -> Result<Offset, Obstacle<E>> {
        let partition = self.partition();
        if let Some(wanted) = self.at_least.filter(|wanted| held.end < *wanted)
            && holds(Rule::AnswerReachesTarget)
        {
            return Err(Obstacle::Behind { partition, consumed: held.end, wanted });
        }
        // The answer does without what was removed.
        let start = if held.start <= self.memory_from {
            held.start.min(read::memory_from(&self.head, self.compacted_to))
        } else {
            held.start
        };
        let memory = Some(MemoryView { held: OffsetRange::new(start, held.end) });
        match read::plan(&PartitionView { head: &self.head, compacted_to: self.compacted_to, memory }) {
            Plan::Read { complete_to, .. } => Ok(complete_to.max(self.memory_from)),
            Plan::Replan(_) => Err(Obstacle::NotHeld { partition, held }),
            Plan::MissingTail { from, .. } => {
                Err(Obstacle::Broken(format!("partition {partition} lacks memory from {from} on")))
            }
            Plan::Broken(what) => Err(Obstacle::Broken(format!("partition {partition}: {what}"))),
        }
    }
}

impl ReadDriver {
    /// A read that waits for owners at most this long.
    pub fn new(wait_max: Duration) -> Self {
        let started = Instant::now();
        Self {
            started,
            wait_max,
            deadline: started + wait_max,
            plans_least: PLANS_LEAST,
            wait_pauses: WAIT_PAUSES,
            plan_pauses: PLAN_PAUSES,
            made: 1,
            waits: 0,
            heads: Freshness::Cached,
            catalogue: Freshness::Cached,
            heads_are_stale: false,
            flushed: BTreeMap::new(),
            skip_to: BTreeMap::new(),
        }
    }

    /// A read that never pauses, for schedulers that choose the order of steps themselves.
    #[cfg(test)]
    pub(crate) fn without_pauses(wait_max: Duration, plans_least: u32) -> Self {
        let none = Pauses { first: Duration::ZERO, max: Duration::ZERO };
        Self { plans_least, wait_pauses: none, plan_pauses: none, ..Self::new(wait_max) }
    }

    /// Until when owners, and the log, may be waited for.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How long the read has taken so far.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Plans and reads until a plan holds.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn run<S: Sources>(mut self, sources: &mut S) -> Result<ExactRead<S::Answer>, ReadError<S::Error>> {
        loop {
            let stop = match self.plan(sources).await? {
                Ok(plan) => match sources.read(&plan).await {
                    Ok(answer) => return Ok(ExactRead { answer, plan }),
                    Err(obstacle) => Stop::Obstacle(obstacle),
                },
                Err(stop) => stop,
            };
            self.prepare_next(stop, sources).await?;
        }
    }

    /// Makes one plan over all partitions.
    async fn plan<S: Sources>(
        &mut self,
        sources: &mut S,
    ) -> Result<Result<ReadPlan, Stop<S::Error>>, ReadError<S::Error>> {
        let heads = sources.heads(self.heads).await.map_err(ReadError::Failed)?;
        self.heads_are_stale = heads.iter().any(|view| view.is_stale);
        for HeadView { head, is_stale } in &heads {
            let (partition, flushed_to) = (head.partition, head.flushed_to);
            let seen = self.flushed.get(&partition).copied().unwrap_or(Offset::ZERO);
            if flushed_to < seen && !is_stale {
                return Ok(Err(Stop::HeadIsBehind { partition, flushed_to, seen }));
            }
        }
        let required = |head: &Head| if holds(Rule::CatalogueReachesTrim) { head.trimmed_to } else { Offset::ZERO };
        let at_least: Vec<_> = heads.iter().map(|view| (view.head.partition, required(&view.head))).collect();
        let compacted_to = sources.compacted_to(&at_least, self.catalogue).await.map_err(ReadError::Failed)?;
        if compacted_to.len() != heads.len() {
            let (found, expected) = (compacted_to.len(), heads.len());
            return Err(ReadError::Broken(format!("the catalogue answered for {found} of {expected} partitions")));
        }
        let mut partitions = Vec::with_capacity(heads.len());
        for (HeadView { head, .. }, compacted_to) in heads.into_iter().zip(compacted_to) {
            let partition = head.partition;
            let flushed_to = match read::plan(&PartitionView { head: &head, compacted_to, memory: None }) {
                Plan::MissingTail { from, .. } | Plan::Read { memory_from: from, .. } => from,
                Plan::Replan(why) => return Ok(Err(Stop::Unfit { partition, why })),
                Plan::Broken(what) => return Err(broken(partition, &what)),
            };
            let skip_to = self.skip_to.get(&partition).copied().filter(|to| flushed_to < *to);
            partitions.push(PartitionPlan {
                head,
                compacted_to,
                memory_from: skip_to.unwrap_or(flushed_to),
                at_least: sources.at_least(partition),
                removed: skip_to.map(|to| OffsetRange::new(flushed_to, to)),
            });
        }
        if !holds(Rule::OneHeadPerPlan) {
            let later = sources.heads(Freshness::Cached).await.map_err(ReadError::Failed)?;
            partitions.iter_mut().zip(later).for_each(|(plan, later)| plan.head = later.head);
        }
        Ok(Ok(ReadPlan { partitions, deadline: self.deadline, number: self.made }))
    }

    /// Prepares for another plan, unless what stopped the last one is final, there were too many, or it is too late.
    async fn prepare_next<S: Sources>(
        &mut self,
        stop: Stop<S::Error>,
        sources: &mut S,
    ) -> Result<(), ReadError<S::Error>> {
        let is_late = Instant::now() >= self.deadline;
        let (why, reason) = match stop {
            Stop::Obstacle(Obstacle::Failed(error)) => return Err(ReadError::Failed(error)),
            Stop::Obstacle(Obstacle::Broken(what)) => {
                tracing::error!(what, "a read cannot be exact");
                return Err(ReadError::Broken(what));
            }
            Stop::Obstacle(Obstacle::Behind { partition, consumed, wanted }) => {
                let waited = self.elapsed();
                let error = || ReadError::NotReached { partition, consumed, wanted, waited };
                return self.wait(Replanned::Behind, is_late, error, sources).await;
            }
            Stop::Obstacle(Obstacle::NotAnswered { partition, is_not_leading, source }) => {
                let why = if is_not_leading { Replanned::NotLeading } else { Replanned::Unavailable };
                return self.wait(why, is_late, || ReadError::NotAnswered { partition, source }, sources).await;
            }
            Stop::Obstacle(Obstacle::Removed { partition, range }) => {
                if is_late {
                    return Err(ReadError::Removed { partition, range });
                }
                self.consider_skipping(partition, range, sources);
                (Replanned::Removed, None)
            }
            Stop::Obstacle(Obstacle::NotHeld { partition, held }) => {
                // Not a promise about the head: a follower that met a hole begins anew behind it.
                let reason = format!("memory of partition {partition} holds {held} only");
                (Replanned::NotHeld, Some(reason))
            }
            Stop::Obstacle(Obstacle::BlockGone { key }) => (Replanned::BlockGone, Some(format!("block {key} is gone"))),
            Stop::Unfit { partition, why } => {
                let replanned = match why {
                    Replan::HeadIsOlder { compacted_to, .. } => {
                        self.note_flushed(partition, compacted_to);
                        Replanned::HeadIsOlder
                    }
                    Replan::CatalogueIsOlder { .. } => Replanned::CatalogueIsOlder,
                    Replan::MemoryStartsAbove { .. } => Replanned::NotHeld,
                };
                (replanned, Some(format!("partition {partition}: {why}")))
            }
            Stop::HeadIsBehind { partition, flushed_to, seen } => {
                let reason = format!("the head ends at {flushed_to}, but {seen} was seen");
                if self.made >= self.plans_least && is_late {
                    return Err(broken(partition, &reason));
                }
                (Replanned::HeadIsOlder, Some(format!("partition {partition}: {reason}")))
            }
        };
        if let Some(reason) = reason {
            // Owners move on, and a store that is away may come back. A block that is gone does not come back.
            let may_change = (why != Replanned::BlockGone || self.heads_are_stale) && !is_late;
            if self.made >= self.plans_least && !may_change {
                return Err(ReadError::Unsettled { plans: self.made, reason });
            }
            tracing::debug!(reason, "planning the read again");
            if is_late && !self.heads_are_stale {
                // Reading blocks took that long. Owners that are asked again need time again.
                self.deadline = Instant::now() + self.wait_max;
            }
        }
        sources.replanned(why);
        if self.made > 1 {
            // The head that lists what is missing may be on its way.
            self.plan_pauses.sleep(self.made - 2).await;
        }
        (self.heads, self.catalogue) = (Freshness::ReadAfter(Instant::now()), Freshness::ReadAfter(Instant::now()));
        self.made += 1;
        Ok(())
    }

    /// Waits before a partition is asked again. Heads need not be fresh: if they are too old by then, memory says so.
    async fn wait<S: Sources>(
        &mut self,
        why: Replanned,
        is_late: bool,
        error: impl FnOnce() -> ReadError<S::Error>,
        sources: &mut S,
    ) -> Result<(), ReadError<S::Error>> {
        if is_late {
            return Err(error());
        }
        sources.replanned(why);
        self.wait_pauses.sleep(self.waits).await;
        self.waits += 1;
        Ok(())
    }

    /// Leaves out a removed range once enough plans found it removed. A stale head says nothing about blocks that may
    /// hold it.
    fn consider_skipping<S: Sources>(&mut self, partition: PartitionId, range: OffsetRange, sources: &mut S) {
        let is_known = self.made >= PLANS_BEFORE_SKIP || !holds(Rule::SkipAfterPlans);
        if is_known && (!self.heads_are_stale || !holds(Rule::SkipWithFreshHeads)) {
            tracing::warn!(%partition, %range, "retention removed records that no head lists; an answer lacks them");
            sources.skipped(partition, range);
            self.skip_to.insert(partition, range.end);
        }
    }

    fn note_flushed(&mut self, partition: PartitionId, seen: Offset) {
        let flushed = self.flushed.entry(partition).or_insert(seen);
        *flushed = seen.max(*flushed);
    }
}

impl Pauses {
    async fn sleep(self, before: u32) {
        let pause = self.first.saturating_mul(1u32.checked_shl(before).unwrap_or(u32::MAX)).min(self.max);
        if pause > Duration::ZERO {
            sleep(pause).await;
        }
    }
}

fn broken<E>(partition: PartitionId, what: &str) -> ReadError<E> {
    tracing::error!(%partition, what, "a read cannot be exact");
    ReadError::Broken(format!("partition {partition}: {what}"))
}

#[cfg(test)]
mod tests;
