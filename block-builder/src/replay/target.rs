//! Where entries are sent, and in which form.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Labels, Offset, PartitionId, TenantId, TimestampNs};

/// Entries that are sent together, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The same for a repeat of this batch, and for nothing else.
    pub id: String,
    /// Where the entries come from.
    pub partition: PartitionId,
    /// The streams that they are of.
    pub streams: Vec<BatchStream>,
    /// The entries.
    pub entries: Vec<Entry>,
    /// About how many bytes they are.
    pub bytes: usize,
}

/// A stream of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchStream {
    /// Whose it is in the log.
    pub tenant: TenantId,
    /// Its labels.
    pub labels: Labels,
}

/// An entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which of the batch's streams it is of.
    pub stream: usize,
    /// Its time.
    pub ts: TimestampNs,
    /// Its line; any bytes.
    pub line: Bytes,
    /// Its structured metadata, by name.
    pub metadata: Vec<(String, String)>,
    /// The record that it came in.
    pub offset: Offset,
}

/// Why a batch was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// Not now; it may have been taken all the same. Send it again, after this long at least.
    Again {
        /// What went wrong.
        reason: String,
        /// What the target asked for.
        after: Duration,
    },
    /// Not ever.
    Refused(String),
}

/// Where entries are sent.
#[async_trait]
pub trait Target: Send + Sync {
    /// Answers when the batch is safe there.
    async fn send(&self, batch: &Batch) -> Result<(), SendError>;

    /// Whether batches go one after the other, also those of different partitions.
    fn is_sequential(&self) -> bool {
        false
    }

    /// How far a sequential target has come, to be kept with the state: what lies behind was not acknowledged.
    fn position(&self) -> Option<u64> {
        None
    }
}
