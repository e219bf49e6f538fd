//! The target of a replay, and the batches that it receives.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Labels, Offset, PartitionId, TenantId, TimestampNs};

/// Entries that are sent together, in log order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// A unique name. A repeat of the batch has the same one.
    pub id: String,
    /// The partition that the entries come from.
    pub partition: PartitionId,
    /// The streams of the entries.
    pub streams: Vec<BatchStream>,
    /// The entries.
    pub entries: Vec<Entry>,
    /// Approximate size in bytes.
    pub bytes: usize,
}

/// A stream of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchStream {
    /// Its tenant in the log.
    pub tenant: TenantId,
    /// Its labels.
    pub labels: Labels,
}

/// An entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The position of its stream in [`Batch::streams`].
    pub stream: usize,
    /// Its time.
    pub ts: TimestampNs,
    /// Its line; any bytes.
    pub line: Bytes,
    /// Its structured metadata, by name.
    pub metadata: Vec<(String, String)>,
    /// The offset of its record.
    pub offset: Offset,
}

/// Why a batch was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// Send it again later. The target may have accepted it all the same.
    Again {
        /// The reason.
        reason: String,
        /// The shortest pause before the next try.
        after: Duration,
    },
    /// The target will never accept it.
    Refused(String),
}

/// Receives the entries of a replay.
#[async_trait]
pub trait Target: Send + Sync {
    /// Sends a batch. Returns when the target has stored it durably.
    async fn send(&self, batch: &Batch) -> Result<(), SendError>;

    /// True when the target needs one batch at a time, over all partitions.
    fn is_sequential(&self) -> bool {
        false
    }

    /// The position of a sequential target, which is saved with the state. Everything after it was not acknowledged.
    fn position(&self) -> Option<u64> {
        None
    }
}
