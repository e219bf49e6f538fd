//! What is said of a block outside of it.

use std::ops::Range;

use bytes::Bytes;
use model::{OffsetRange, PartitionId, TenantId, TimeRange, TimestampNs};
use serde::{Deserialize, Serialize};

/// Where the rows of a block come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Which log.
    pub log_id: String,
    /// Which partition of it.
    pub partition: PartitionId,
    /// Which records of the partition: all of them, and no others.
    pub range: OffsetRange,
    /// When the block was made.
    pub created: TimestampNs,
}

/// A finished block.
#[derive(Clone, Debug)]
pub struct EncodedBlock {
    /// The whole file.
    pub bytes: Bytes,
    /// What a head lists of it.
    pub summary: BlockSummary,
}

/// What a head lists of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockSummary {
    /// Length of the file.
    pub bytes: u64,
    /// One ranged read of this many of the file's last bytes opens it.
    pub tail_bytes: u64,
    /// Rows of all tenants.
    pub rows: u64,
    /// Bytes of all lines before compression.
    pub line_bytes: u64,
    /// From the earliest to just behind the latest row; none when there are no rows.
    pub time: Option<TimeRange>,
    /// As [`Provenance::range`].
    pub offsets: OffsetRange,
    /// The tenants in ascending order.
    pub tenants: Vec<TenantSummary>,
    /// How many records could not be decoded and are kept raw.
    pub quarantined: u64,
}

/// What a block holds of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSummary {
    /// The tenant.
    pub tenant: TenantId,
    /// Its row groups, counted from 0.
    pub row_groups: Range<usize>,
    /// Its rows.
    pub rows: u64,
    /// Bytes of its lines before compression.
    pub line_bytes: u64,
    /// Its streams.
    pub streams: u32,
    /// From its earliest to just behind its latest row.
    pub time: TimeRange,
}
