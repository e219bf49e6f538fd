//! The rules that the simulation takes away one by one, to show that it would notice.
//!
//! Outside tests [`holds`] is the constant `true` and costs nothing.

/// A rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "owners' own rules are named by the simulation only"))]
pub(crate) enum Rule {
    /// A cut starts at F.
    StartIsFlushedTo,
    /// Only the leader of the current epoch publishes.
    EpochIsMine,
    /// Heads are replaced by compare-and-swap.
    CompareAndSwap,
    /// After a lost reply the head is read again (dropped: success is assumed).
    LostReplyIsResolved,
    /// After a lost reply the nonce says whose the change is (dropped: it is taken for another's).
    NonceTellsMine,
    /// What retention took above F is recorded when leadership changes.
    LostIsRecorded,
    /// A head that is older than the catalogue is read again.
    HeadReachesCatalogue,
    /// Memory that begins above F means: plan again.
    MemoryMustReachDown,
    /// A catalogue that is older than the head's trimming is refreshed.
    CatalogueReachesTrim,
    /// Swapping blocks keeps the leader's nonce, which the leader may still be asking about.
    SwapKeepsNonce,
    /// Blocks and memory come from one head.
    OneHeadPerPlan,
    /// Level-0 blocks below C are left to the catalogue.
    BlocksFromCompacted,
    /// An answer of memory that ends below the offset asked for is refused.
    AnswerReachesTarget,
    /// A removed range is left out only after several plans found it removed.
    SkipAfterPlans,
    /// A removed range is left out only when the heads are not stale.
    SkipWithFreshHeads,

    // Rules that owners and compactors follow, not this crate.
    /// Memory is evicted only below a published F.
    EvictBelowHead,
    /// The block is put before the head lists it.
    BlockBeforeHead,
    /// After a hole that retention made, memory begins anew behind it.
    HoleRestartsMemory,
    /// One compare-and-swap of the root adds blocks and advances C.
    RootInOneStep,
    /// A head is trimmed only up to what the root says.
    TrimAfterRoot,
}

#[cfg(not(test))]
pub(crate) const fn holds(_: Rule) -> bool {
    true
}

#[cfg(test)]
pub(crate) use switch::{holds, without};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static DROPPED: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    pub(crate) fn holds(rule: Rule) -> bool {
        DROPPED.get() != Some(rule)
    }

    /// Runs `work` on this thread without a rule.
    pub(crate) fn without<T>(rule: Option<Rule>, work: impl FnOnce() -> T) -> T {
        DROPPED.set(rule);
        let outcome = work();
        DROPPED.set(None);
        outcome
    }
}
