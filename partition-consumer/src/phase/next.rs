//! The phases that may follow.

use cut::Lead;

/// The next phase of a partition.
pub(super) enum NextPhase {
    /// Read along until the lead may be taken, or take it at once if `take_now` is set.
    Warm { take_now: bool },
    /// Lead.
    Lead(Box<dyn Lead>),
    /// Read along after another process took the lead of this epoch.
    Drain { epoch: u64 },
    /// Another process took the lead, and nothing is known of it: drop the memory, and take the partition back after a
    /// pause.
    Pause,
    /// Read along, and never lead.
    Follow,
    /// The partition is no longer held here.
    End,
}
