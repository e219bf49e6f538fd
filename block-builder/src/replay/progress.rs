//! The progress of a replay, for display.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters that grow while a replay runs. They can be read at any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Number of offsets in the window, over all partitions.
    pub offsets_total: AtomicU64,
    /// Number of offsets that are done.
    pub offsets_done: AtomicU64,
    /// Bytes of records read from the log.
    pub log_bytes: AtomicU64,
    /// Number of selected entries that were read.
    pub entries: AtomicU64,
    /// Number of blocks compared or rebuilt, or batches acknowledged.
    pub steps: AtomicU64,
    /// Number of requests that were tried again.
    pub retries: AtomicU64,
    /// Number of differences between log and blocks.
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
