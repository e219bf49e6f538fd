//! Identifies scans, for caches of their partials.

use std::fmt;

/// The identity of a scan: a stable hash of everything that determines the scan's result for a row. Scans with the same
/// identity compute the same partial from the same rows.
///
/// A range aggregation is identified by its selector, pipeline, labels, the states it keeps, and the edges of its
/// windows relative to the epoch. Queries whose starts differ by whole steps therefore have the same identity, and so
/// do operations that keep the same states, such as `rate` and `count_over_time`. For a scan of entries, time,
/// direction and limit are part of the identity too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScanId(u128);

impl ScanId {
    /// Returns the identity of the scan that this text describes.
    pub(crate) fn of(text: &str) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
    }

    /// The hash.
    pub fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for ScanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ScanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScanId({self})")
    }
}
