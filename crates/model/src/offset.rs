//! Partitions and offsets.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One partition of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(u32);

impl PartitionId {
    /// The partition with this index, counted from 0.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// The index, counted from 0.
    pub const fn index(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of one record in a partition. Orders records; does not count them, since the log may leave gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(i64);

impl Offset {
    /// The first position of every partition.
    pub const ZERO: Self = Self(0);

    /// Creates an offset from its number. The log never assigns a negative one.
    pub const fn new(value: i64) -> Self {
        Self(value)
    }

    /// Returns the number that the log uses.
    pub const fn value(self) -> i64 {
        self.0
    }

    /// Where a reader resumes after the record at this position. This, not `self`, is what is committed.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The half-open range `[start, end)` of one partition. Both bounds are *next* offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First position inside the range.
    pub start: Offset,
    /// First position after the range.
    pub end: Offset,
}

impl OffsetRange {
    /// `[start, end)`.
    pub const fn new(start: Offset, end: Offset) -> Self {
        Self { start, end }
    }

    /// Returns true if the range is empty.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Returns true if `offset` is in the range.
    pub fn contains(&self, offset: Offset) -> bool {
        self.start <= offset && offset < self.end
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}
