//! Heads as plans are made from them: read anew when they are old, shared while they are young.
//!
//! A head that is older than the log's owner knows is never wrong: its flushed-to offset is lower, so that memory is
//! asked for more, and memory says so when it no longer holds that much. Then the head is read anew.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use catalogue::{Head, Heads};
use futures_util::future::try_join_all;
use model::PartitionId;
use tokio::sync::Mutex;

use crate::error::Error;

/// How young the heads of a plan must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Young enough for a first try.
    Recent,
    /// Read after this moment: an older one has proved to be too old.
    Since(Instant),
}

/// The heads of all partitions.
pub(crate) struct HeadCache {
    heads: Arc<Heads>,
    age_max: Duration,
    /// One for each partition. The lock is held while reading, so that requests that come meanwhile share the read.
    slots: Vec<Mutex<Option<Seen>>>,
}

/// A head, and a moment before which it was not read.
struct Seen {
    read_at: Instant,
    head: Arc<Head>,
}

impl HeadCache {
    pub(crate) fn new(heads: Arc<Heads>, partitions: u32, age_max: Duration) -> Self {
        Self { heads, age_max, slots: (0..partitions).map(|_| Mutex::default()).collect() }
    }

    /// The heads of all partitions, in order. A partition that nobody has led yet has an empty one.
    pub(crate) async fn all(&self, freshness: Freshness) -> Result<Vec<Arc<Head>>, Error> {
        let partitions = (0..self.slots.len()).map(|i| PartitionId::new(u32::try_from(i).unwrap_or(u32::MAX)));
        try_join_all(partitions.map(|p| self.one(p, freshness))).await
    }

    async fn one(&self, partition: PartitionId, freshness: Freshness) -> Result<Arc<Head>, Error> {
        let mut slot = self.slots[partition.index() as usize].lock().await;
        if let Some(Seen { read_at, head }) = &*slot {
            let young = match freshness {
                Freshness::Recent => read_at.elapsed() < self.age_max,
                Freshness::Since(moment) => *read_at >= moment,
            };
            if young {
                return Ok(head.clone());
            }
        }
        // Taken before the read: what happens meanwhile may or may not be in it.
        let read_at = Instant::now();
        let found = self.heads.read_shared(partition).await?;
        let head = found.map_or_else(|| Arc::new(Head::unled(self.heads.log_id(), partition)), |(head, _)| head);
        *slot = Some(Seen { read_at, head: head.clone() });
        Ok(head)
    }
}
