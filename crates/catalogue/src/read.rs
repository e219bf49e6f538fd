//! The exact read: which offsets come from where, so that each row is in the answer once.
//!
//! ```text
//! 0 ........ C ........ F ........ W
//! catalogue  | level 0  | memory   |
//! ```
//!
//! The order of a plan: **head, then catalogue, then memory.** Catalogue blocks serve what is below C, level-0 blocks
//! of the head `[C, F)`, an owner's memory `[F, W)`. Then:
//! - a head that is older than memory is never wrong: memory is asked for more, and says so when it has evicted
//!   that ([`Replan::MemoryStartsAbove`]); a newer head lists it by then, since eviction follows the head;
//! - a head that is older than the catalogue (F < C) does not know what was lost between F and C
//!   ([`Replan::HeadIsOlder`]). The rows themselves would be right with memory from max(F, C) on, and so
//!   [`memory_from`] says; but an answer over a range that was lost in between would be short without a word;
//! - a catalogue that is older than the head may lack what the head no longer lists ([`Replan::CatalogueIsOlder`]);
//! - blocks and memory of one answer come from one head.
//!
//! A block that is gone when it is read was compacted or rewritten: plan again, with a fresh catalogue.
//!
//! [`plan`] decides on values; [`exact`] goes through the steps in their order over whatever the caller reads from.

use std::{future::Future, sync::Arc};

use model::{Offset, OffsetRange};
use thiserror::Error;

use crate::{
    BlockEntry, Head, Lost,
    rules::{Rule, holds},
};

/// What an owner answered with: it holds the rows of all offsets in the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryView {
    /// `[held.start, W)`, W being up to where it has consumed.
    pub held: OffsetRange,
}

/// All that a plan for one partition goes by, read in the order of its fields.
#[derive(Clone, Copy, Debug)]
pub struct PartitionView<'a> {
    /// The head. [`Head::unled`] when there is none.
    pub head: &'a Head,
    /// C: up to where the catalogue shard in question has compacted this partition; zero while there is no catalogue.
    pub compacted_to: Offset,
    /// What an owner holds, when one answered.
    pub memory: Option<MemoryView>,
}

/// What to do for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan<'a> {
    /// Everything is there: catalogue blocks below C, these blocks, and memory.
    Read {
        /// Level-0 blocks `[C, F)`, in the order of their offsets.
        blocks: &'a [BlockEntry],
        /// Rows of memory below this are in blocks: leave them out.
        memory_from: Offset,
        /// Up to where the answer is complete: everything below is in it, once.
        complete_to: Offset,
        /// What retention took; an answer that may touch it says so.
        lost: &'a [Lost],
    },
    /// What was read does not fit together: read again.
    Replan(Replan),
    /// No owner answered. Read the log from here, or fail; an answer without would be short.
    MissingTail {
        /// Level-0 blocks `[C, F)`.
        blocks: &'a [BlockEntry],
        /// The first offset that is missing.
        from: Offset,
        /// What retention took.
        lost: &'a [Lost],
    },
    /// What was read cannot be right, whenever it was read. A defect: tell somebody.
    Broken(String),
}

/// Why a plan must be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Replan {
    /// The catalogue is older than the head requires: refresh it.
    #[error("the catalogue is compacted to {compacted_to}, but the head is trimmed to {trimmed_to}")]
    CatalogueIsOlder {
        /// C.
        compacted_to: Offset,
        /// What the head requires.
        trimmed_to: Offset,
    },
    /// The head is older than the catalogue, so that lost ranges may be unknown: read the head again. It is flushed to
    /// `compacted_to` or further now.
    #[error("the head is flushed to {flushed_to}, but the catalogue is compacted to {compacted_to} already")]
    HeadIsOlder {
        /// F.
        flushed_to: Offset,
        /// C.
        compacted_to: Offset,
    },
    /// Memory no longer holds what the head does not list yet: read the head again. It is flushed to `held_from` or
    /// further now.
    #[error("memory begins at {held_from}, but is needed from {needed_from} on")]
    MemoryStartsAbove {
        /// What was asked for.
        needed_from: Offset,
        /// Where memory begins.
        held_from: Offset,
    },
}

/// Memory is asked for rows from here on: `max(F, C)`.
pub fn memory_from(head: &Head, compacted_to: Offset) -> Offset {
    head.flushed_to.max(compacted_to)
}

/// Whether a head and a catalogue that was read after it belong in one plan. Worth asking before memory is.
pub fn fits(head: &Head, compacted_to: Offset) -> Result<(), Replan> {
    let (trimmed_to, flushed_to) = (head.trimmed_to, head.flushed_to);
    if compacted_to < trimmed_to && holds(Rule::CatalogueReachesTrim) {
        return Err(Replan::CatalogueIsOlder { compacted_to, trimmed_to });
    }
    if flushed_to < compacted_to && holds(Rule::HeadReachesCatalogue) {
        return Err(Replan::HeadIsOlder { flushed_to, compacted_to });
    }
    Ok(())
}

/// Decides what to read of one partition.
pub fn plan<'a>(view: &PartitionView<'a>) -> Plan<'a> {
    let &PartitionView { head, compacted_to, memory } = view;
    if let Err(why) = fits(head, compacted_to) {
        return Plan::Replan(why);
    }
    // Blocks are in the order of offsets: those from C on are the last ones.
    let bound = if holds(Rule::BlocksFromCompacted) { compacted_to } else { Offset::ZERO };
    let below = head.blocks.partition_point(|block| block.range.start < bound);
    let (compacted, blocks) = head.blocks.split_at(below);
    if let Some(astride) = compacted.last().filter(|block| block.range.end > bound) {
        return Plan::Broken(format!(
            "the catalogue ends at {bound}, within the block {} of {}",
            astride.key, astride.range
        ));
    }
    let (from, lost) = (memory_from(head, compacted_to), &head.lost[..]);
    let Some(memory) = memory else { return Plan::MissingTail { blocks, from, lost } };
    if memory.held.start > from && holds(Rule::MemoryMustReachDown) {
        let (needed_from, held_from) = (from, memory.held.start);
        return Plan::Replan(Replan::MemoryStartsAbove { needed_from, held_from });
    }
    // An owner that is behind (paused, or warming up) holds nothing above `from`; blocks are complete up to there.
    Plan::Read { blocks, memory_from: from, complete_to: from.max(memory.held.end), lost }
}

/// What an owner said.
#[derive(Clone, Debug)]
pub enum MemoryAnswer<M> {
    /// It holds this range; its rows from the offset asked for on are in the answer.
    Held {
        /// What it held when it answered.
        held: OffsetRange,
        /// Its rows, or what a query made of them.
        rows: M,
    },
    /// It holds only this range, and the offset asked for lies below.
    NotHeld {
        /// What it holds.
        held: OffsetRange,
    },
    /// Nobody holds the partition, as far as is known.
    Nobody,
}

/// Where [`exact`] reads from, for one partition.
pub trait Sources {
    /// What memory answers with.
    type Memory;
    /// Why reading may fail.
    type Error;

    /// The head. The first one of a read may be some seconds old; each further one must be read anew.
    fn head(&mut self) -> impl Future<Output = Result<Arc<Head>, Self::Error>>;

    /// C, from a catalogue that is kept for the rest of the read. It may be a cached one when that has compacted up
    /// to `at_least`; otherwise it must be read anew.
    fn compacted_to(&mut self, at_least: Offset) -> impl Future<Output = Result<Offset, Self::Error>>;

    /// Asks an owner for its rows from `from` on.
    fn memory(&mut self, from: Offset) -> impl Future<Output = Result<MemoryAnswer<Self::Memory>, Self::Error>>;
}

/// What [`exact`] found. `memory_from` and `complete_to` are those of [`Plan::Read`].
#[derive(Clone, Debug)]
pub struct Exact<M> {
    /// The head to take blocks and lost ranges from.
    pub head: Arc<Head>,
    /// C of the catalogue to take blocks from.
    pub compacted_to: Offset,
    /// The answer of memory; none when the tail must be read from the log.
    pub memory: Option<(OffsetRange, M)>,
    /// Where memory, or the tail in the log, begins.
    pub memory_from: Offset,
    /// Up to where the answer is complete without the tail.
    pub complete_to: Offset,
    first_block: usize,
}

impl<M> Exact<M> {
    /// The level-0 blocks to read.
    pub fn blocks(&self) -> &[BlockEntry] {
        &self.head.blocks[self.first_block..]
    }
}

/// Why [`exact`] came to no end.
#[derive(Debug, Error)]
pub enum ReadError<E> {
    /// A source failed.
    #[error(transparent)]
    Source(E),
    /// Plans fell apart again and again.
    #[error("no plan held in {plans} tries{}", last.map(|why| format!("; the last one: {why}")).unwrap_or_default())]
    Unsettled {
        /// How many were made.
        plans: usize,
        /// Why the last one did not hold.
        last: Option<Replan>,
    },
    /// A promise was broken: something is missing that must be there.
    #[error("the read cannot be exact: {0}")]
    Broken(String),
}

/// Goes through the steps of a read: head, catalogue, memory; and again when they do not fit together, at most
/// `plans_max` times.
///
/// # Errors
/// See [`ReadError`].
pub async fn exact<S: Sources>(sources: &mut S, plans_max: usize) -> Result<Exact<S::Memory>, ReadError<S::Error>> {
    let mut flushed_at_least = Offset::ZERO;
    let mut last = None;
    for _ in 0..plans_max {
        let head = sources.head().await.map_err(ReadError::Source)?;
        if head.flushed_to < flushed_at_least {
            let reason = format!("the head ends at {}, but {flushed_at_least} was seen", head.flushed_to);
            return Err(ReadError::Broken(reason));
        }
        match attempt(sources, head).await? {
            Ok(found) => return Ok(found),
            Err(why) => {
                // What was seen to lie in blocks lies in blocks: a head that is read from now on says so.
                flushed_at_least = match why {
                    Replan::MemoryStartsAbove { held_from: seen, .. }
                    | Replan::HeadIsOlder { compacted_to: seen, .. } => flushed_at_least.max(seen),
                    Replan::CatalogueIsOlder { .. } => flushed_at_least,
                };
                last = Some(why);
            }
        }
    }
    Err(ReadError::Unsettled { plans: plans_max, last })
}

/// One plan over one head.
async fn attempt<S: Sources>(
    sources: &mut S,
    head: Arc<Head>,
) -> Result<Result<Exact<S::Memory>, Replan>, ReadError<S::Error>> {
    let mut head = head;
    let required = if holds(Rule::CatalogueReachesTrim) { head.trimmed_to } else { Offset::ZERO };
    let compacted_to = sources.compacted_to(required).await.map_err(ReadError::Source)?;
    if let Err(why) = fits(&head, compacted_to) {
        return Ok(Err(why));
    }
    let answer = sources.memory(memory_from(&head, compacted_to)).await.map_err(ReadError::Source)?;
    let (memory, rows) = match answer {
        MemoryAnswer::Held { held, rows } => (Some(MemoryView { held }), Some((held, rows))),
        MemoryAnswer::NotHeld { held } => (Some(MemoryView { held }), None),
        MemoryAnswer::Nobody => (None, None),
    };
    if !holds(Rule::OneHeadPerPlan) {
        head = sources.head().await.map_err(ReadError::Source)?;
    }
    let (blocks, memory_from, complete_to) = match plan(&PartitionView { head: &head, compacted_to, memory }) {
        Plan::Read { memory_from, .. } if rows.is_none() => {
            let reason = format!("an owner said that it does not hold {memory_from}, which lies in what it holds");
            return Err(ReadError::Broken(reason));
        }
        Plan::Read { blocks, memory_from, complete_to, .. } => (blocks, memory_from, complete_to),
        Plan::MissingTail { blocks, from, .. } => (blocks, from, from),
        Plan::Broken(reason) => return Err(ReadError::Broken(reason)),
        Plan::Replan(why) => return Ok(Err(why)),
    };
    let first_block = head.blocks.len() - blocks.len();
    Ok(Ok(Exact { head, compacted_to, memory: rows, memory_from, complete_to, first_block }))
}

#[cfg(test)]
mod tests;
