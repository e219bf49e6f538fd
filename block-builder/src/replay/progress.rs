//! How far a replay is, for whoever watches.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts that grow while a replay runs; read them at any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Offsets of the window, of all partitions.
    pub offsets_total: AtomicU64,
    /// Offsets of the window that were passed.
    pub offsets_done: AtomicU64,
    /// Bytes of records that were read from the log.
    pub log_bytes: AtomicU64,
    /// Entries that were read and wanted.
    pub entries: AtomicU64,
    /// Blocks compared or made, or batches acknowledged.
    pub steps: AtomicU64,
    /// Requests that were tried again.
    pub retries: AtomicU64,
    /// Differences found.
    pub differences: AtomicU64,
}

impl Progress {
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Relaxed);
    }

    /// The value of one of the counters.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Relaxed)
    }
}
