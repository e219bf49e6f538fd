//! Sums of one request, for its metrics.

use std::collections::BTreeMap;

use crate::refusal::Reason;

/// What a request held.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) streams: usize,
    /// Entries that passed validation. Rates may still have refused some of them.
    pub(crate) entries: u64,
    pub(crate) line_bytes: u64,
    pub(crate) metadata_bytes: u64,
    /// Sum, over the streams, of the age of the first entry on arrival.
    pub(crate) lag_ms: u64,
    /// What was refused.
    pub(crate) discards: ReasonCounts,
    /// What was changed; bytes are those that were cut off.
    pub(crate) mutations: ReasonCounts,
}

/// Entries and bytes by reason.
#[derive(Debug, Default)]
pub(crate) struct ReasonCounts(BTreeMap<Reason, (u64, u64)>);

impl Tally {
    /// Bytes of all valid entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.line_bytes + self.metadata_bytes
    }
}

impl ReasonCounts {
    pub(crate) fn add(&mut self, reason: Reason, entries: u64, bytes: u64) {
        let sum = self.0.entry(reason).or_default();
        *sum = (sum.0 + entries, sum.1 + bytes);
    }

    /// Reason, entries and bytes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Reason, u64, u64)> {
        self.0.iter().map(|(reason, (entries, bytes))| (*reason, *entries, *bytes))
    }
}
