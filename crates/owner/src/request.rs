//! Questions and answers.

use std::sync::Arc;

use model::{Labels, Matcher, Offset, OffsetRange, PartitionId, TenantId, TimeRange};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Which rows of a partition an answer is about, and by when it is wanted.
#[derive(Clone, Debug)]
pub struct Where {
    /// The partition.
    pub partition: PartitionId,
    /// The tenant whose rows are read.
    pub tenant: TenantId,
    /// The first offset wanted: the flushed-to offset of the head that the plan was made from.
    pub from: Offset,
    /// Answer only once everything below this offset is consumed, and wait for that until [`Where::deadline`].
    /// `None` asks for what is there now.
    pub at_least: Option<Offset>,
    /// No answer is wanted after this moment.
    pub deadline: Instant,
}

/// Run all scans of a prepared query over the memory of one partition, as of one moment.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    /// Which rows.
    pub at: Where,
    /// The prepared query.
    pub query: Arc<logql::Query>,
}

/// The answer to a [`ScanRequest`].
#[derive(Clone, Debug)]
pub struct ScanReply {
    /// What each scan of the query made of the rows with offsets in `[from, held.end)`, in the order of
    /// [`logql::Query::scans`].
    pub partials: Vec<logql::Partial>,
    /// What was held at the moment of the answer. Its end is at least [`Where::at_least`].
    pub held: OffsetRange,
}

/// Name the streams in the memory of one partition.
#[derive(Clone, Debug)]
pub struct StreamsRequest {
    /// Which rows.
    pub at: Where,
    /// All must match; an empty list matches every stream.
    pub matchers: Arc<[Matcher]>,
    /// Only rows in this range count.
    pub time: TimeRange,
}

/// One stream and what it has in the asked ranges of offsets and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStat {
    /// Its labels.
    pub labels: Labels,
    /// How many rows.
    pub rows: u64,
    /// How many bytes their lines have.
    pub line_bytes: u64,
    /// The smallest range of time that holds them.
    pub time: TimeRange,
}

/// The answer to a [`StreamsRequest`].
#[derive(Clone, Debug)]
pub struct StreamsReply {
    /// Streams with at least one row, each once, in label order.
    pub streams: Vec<StreamStat>,
    /// What was held at the moment of the answer; Its end is at least [`Where::at_least`].
    pub held: OffsetRange,
}

/// Follow the rows that match.
#[derive(Clone, Debug)]
pub struct TailRequest {
    /// Whose rows.
    pub tenant: TenantId,
    /// All must match a stream's labels.
    pub matchers: Arc<[Matcher]>,
    /// How many batches may wait for the reader before rows are dropped.
    pub capacity: usize,
    /// What comes besides rows that are consumed from now on.
    pub catch_up: CatchUp,
}

/// What a tail holds besides rows that are consumed while its owner serves their partition: for readers that merge the
/// tails of several owners and know how far they came, so that nothing is missing when an owner breaks off and another one
/// takes over. It comes as [`Replayed`](crate::TailBatch::is_replayed) batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// Nothing.
    Never,
    /// For a reader that begins: how far each partition was consumed when the tail began. For partitions that this owner
    /// begins to serve later, the latest rows before that, too.
    FromNow,
    /// For a reader that began before: the latest rows of all partitions from before the tail began, too.
    FromBefore,
}
