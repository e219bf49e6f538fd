//! Requests and replies.

use std::sync::Arc;

use model::{Labels, Matcher, Offset, OffsetRange, PartitionId, TenantId, TimeRange};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The rows that a request is about, and its deadline.
#[derive(Clone, Debug)]
pub struct Where {
    /// The partition.
    pub partition: PartitionId,
    /// The tenant whose rows are read.
    pub tenant: TenantId,
    /// The first offset to read: the flushed-to offset of the head that the plan was made from.
    pub from: Offset,
    /// The owner answers once everything below this offset is consumed, and waits for that until [`Where::deadline`].
    /// `None` asks for the rows that are there now.
    pub at_least: Option<Offset>,
    /// The owner gives up at this time.
    pub deadline: Instant,
}

/// Runs all scans of a prepared query over the memory of one partition, as of one moment.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    /// The rows to scan.
    pub at: Where,
    /// The prepared query.
    pub query: Arc<logql::Query>,
}

/// The answer to a [`ScanRequest`].
#[derive(Clone, Debug)]
pub struct ScanReply {
    /// The partial result of each scan over the rows in `[from, held.end)`, in the order of [`logql::Query::scans`].
    pub partials: Vec<logql::Partial>,
    /// The held range at the moment of the answer. Its end is at least [`Where::at_least`].
    pub held: OffsetRange,
}

/// Lists the streams in the memory of one partition.
#[derive(Clone, Debug)]
pub struct StreamsRequest {
    /// The rows to count.
    pub at: Where,
    /// All must match; an empty list matches every stream.
    pub matchers: Arc<[Matcher]>,
    /// Only rows in this range count.
    pub time: TimeRange,
}

/// A stream, and counts of its rows in the requested ranges of offsets and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStat {
    /// Its labels.
    pub labels: Labels,
    /// Number of rows.
    pub rows: u64,
    /// Number of bytes of their lines.
    pub line_bytes: u64,
    /// The smallest range of time that holds them.
    pub time: TimeRange,
}

/// The answer to a [`StreamsRequest`].
#[derive(Clone, Debug)]
pub struct StreamsReply {
    /// Streams with at least one row, each once, in label order.
    pub streams: Vec<StreamStat>,
    /// The held range at the moment of the answer. Its end is at least [`Where::at_least`].
    pub held: OffsetRange,
}

/// Follows the rows that match.
#[derive(Clone, Debug)]
pub struct TailRequest {
    /// The tenant whose rows are followed.
    pub tenant: TenantId,
    /// All must match a stream's labels.
    pub matchers: Arc<[Matcher]>,
    /// Number of batches that may wait for the reader before rows are dropped.
    pub capacity: usize,
    /// Which rows come in addition to those that are consumed from now on.
    pub catch_up: CatchUp,
}

/// Which rows a tail sends in addition to those that are consumed while its owner serves their partition.
///
/// Readers that merge the tails of several owners use this, so that no row is missing when one owner breaks off and
/// another one takes over. The rows come as [replayed](crate::TailBatch::is_replayed) batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// Nothing.
    Never,
    /// For a new reader: the consumed offset of each partition at the start of the tail. For partitions that this owner
    /// begins to serve later, also the latest rows from before that.
    FromNow,
    /// For a reader that continues: also the latest rows of all partitions from before the tail began.
    FromBefore,
}
