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

/// A head as it was at some moment; none when nobody has led the partition yet.
pub(crate) type SharedHead = Option<Arc<Head>>;

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
    slots: Vec<Mutex<Option<(Instant, SharedHead)>>>,
}

impl HeadCache {
    pub(crate) fn new(heads: Arc<Heads>, partitions: u32, age_max: Duration) -> Self {
        Self { heads, age_max, slots: (0..partitions).map(|_| Mutex::default()).collect() }
    }

    /// The heads of all partitions, in order.
    pub(crate) async fn all(&self, freshness: Freshness) -> Result<Vec<(PartitionId, SharedHead)>, Error> {
        let partitions = (0..self.slots.len()).map(|i| PartitionId::new(u32::try_from(i).unwrap_or(u32::MAX)));
        try_join_all(partitions.map(|p| self.one(p, freshness))).await
    }

    async fn one(&self, partition: PartitionId, freshness: Freshness) -> Result<(PartitionId, SharedHead), Error> {
        let mut slot = self.slots[partition.index() as usize].lock().await;
        if let Some((read_at, head)) = &*slot {
            let young = match freshness {
                Freshness::Recent => read_at.elapsed() < self.age_max,
                Freshness::Since(moment) => *read_at >= moment,
            };
            if young {
                return Ok((partition, head.clone()));
            }
        }
        // Taken before the read: what happens meanwhile may or may not be in it.
        let read_at = Instant::now();
        let head = self.heads.read(partition).await?.map(|(head, _)| Arc::new(head));
        *slot = Some((read_at, head.clone()));
        Ok((partition, head))
    }
}
