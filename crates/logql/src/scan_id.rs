//! What tells scans apart, for caches of what they found.

use std::fmt;

/// The identity of a scan: a stable hash of everything that decides what the scan makes of a row. Scans with the same
/// identity make the same partial of the same rows.
///
/// A range aggregation is identified by its selector, its pipeline, its labels, the states it keeps, and the edges of
/// its windows from the epoch on. So queries whose starts differ by whole steps have the same identity, and so have
/// operations that keep the same states, such as `rate` and `count_over_time`. A scan of entries is identified by its
/// time, direction and limit too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScanId(u128);

impl ScanId {
    /// The identity of a scan that this text describes.
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
