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
//! [`plan`] decides on values. The loop over all partitions is in [`crate::driver`].

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

/// The index of the first block that lies above C. Blocks are in the order of their offsets.
pub(crate) fn level_0_start(head: &Head, compacted_to: Offset) -> usize {
    let bound = if holds(Rule::BlocksFromCompacted) { compacted_to } else { Offset::ZERO };
    head.blocks.partition_point(|block| block.range.start < bound)
}

/// Decides what to read of one partition.
pub fn plan<'a>(view: &PartitionView<'a>) -> Plan<'a> {
    let &PartitionView { head, compacted_to, memory } = view;
    if let Err(why) = fits(head, compacted_to) {
        return Plan::Replan(why);
    }
    let (compacted, blocks) = head.blocks.split_at(level_0_start(head, compacted_to));
    if let Some(astride) = compacted.last().filter(|block| block.range.end > compacted_to) {
        return Plan::Broken(format!(
            "the catalogue ends at {compacted_to}, within the block {} of {}",
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

#[cfg(test)]
mod tests;
