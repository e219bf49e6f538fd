//! Descriptions of a block that are kept outside of it.

use std::ops::Range;

use bytes::Bytes;
use model::{OffsetRange, PartitionId, TenantId, TimeRange, TimestampNs};
use serde::{Deserialize, Serialize};

/// Where the rows of a block come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Id of the log.
    pub log_id: String,
    /// The partition.
    pub partition: PartitionId,
    /// The offsets of the block's records. The block holds all records in this range and no others.
    pub range: OffsetRange,
    /// When the block was made.
    pub created: TimestampNs,
}

/// A finished block.
#[derive(Clone, Debug)]
pub struct EncodedBlock {
    /// The whole file.
    pub bytes: Bytes,
    /// The description that a head lists.
    pub summary: BlockSummary,
}

/// The description of a block that a head lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockSummary {
    /// Length of the file.
    pub bytes: u64,
    /// Number of the file's last bytes that a reader needs to open it.
    pub tail_bytes: u64,
    /// Rows of all tenants.
    pub rows: u64,
    /// Bytes of all lines before compression.
    pub line_bytes: u64,
    /// From the earliest row to just after the latest one. `None` without rows.
    pub time: Option<TimeRange>,
    /// Same as [`Provenance::range`].
    pub offsets: OffsetRange,
    /// The tenants in ascending order.
    pub tenants: Vec<TenantSummary>,
    /// Number of records that could not be decoded and are kept in the quarantine section.
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
    /// Number of its streams.
    pub streams: u32,
    /// From its earliest row to just after its latest one.
    pub time: TimeRange,
}
