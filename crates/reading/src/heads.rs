//! The heads that plans are made from, cached for a short time.
//!
//! An old head is never wrong. Its flushed-to offset is lower, so the plan asks memory for more rows. If memory has
//! evicted some of them, it answers so, and the head is read again. For the same reason the last head that was read is
//! good enough during an outage of the store: the rows that memory still has can be read.

use std::{sync::Arc, time::Duration};

use catalogue::{
    Head, Heads,
    driver::{Freshness, HeadView},
};
use futures_util::future::try_join_all;
use model::PartitionId;
use parking_lot::RwLock;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{error::Error, metrics::Metrics};

/// How long a failed read of a head is not tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Caches the heads of all partitions.
pub(crate) struct HeadCache {
    heads: Arc<Heads>,
    age_max: Duration,
    wait_max: Duration,
    metrics: Metrics,
    /// One for each partition that was ever asked for. Its lock is held during a read, so that concurrent requests share
    /// the read.
    slots: RwLock<Vec<Arc<Mutex<HeadSlot>>>>,
}

/// What is known of the head of one partition.
#[derive(Default)]
struct HeadSlot {
    last_read: Option<LastRead>,
    /// When and why the last read failed. `None` if it succeeded.
    failed: Option<(Instant, String)>,
}

/// A head that was read.
struct LastRead {
    /// When the read began.
    began_at: Instant,
    head: Arc<Head>,
}

impl HeadCache {
    /// A cache of heads that are at most `age_max` old. A read waits up to `wait_max` for the store.
    pub(crate) fn new(heads: Arc<Heads>, age_max: Duration, wait_max: Duration, metrics: Metrics) -> Self {
        Self { heads, age_max, wait_max, metrics, slots: RwLock::default() }
    }

    /// Names the log of the heads.
    pub(crate) fn log_id(&self) -> &str {
        self.heads.log_id()
    }

    /// The heads of all partitions, in order: of `partitions` partitions, or of more if there were more in an earlier
    /// call. The head of a partition that was never led is empty.
    pub(crate) async fn all(&self, partitions: usize, freshness: Freshness) -> Result<Vec<HeadView>, Error> {
        let slots = self.slots(partitions);
        let ids = (0..).map(PartitionId::new);
        try_join_all(ids.zip(&slots).map(|(partition, slot)| self.one(partition, slot, freshness))).await
    }

    fn slots(&self, partitions: usize) -> Vec<Arc<Mutex<HeadSlot>>> {
        {
            let slots = self.slots.read();
            if slots.len() >= partitions {
                return slots.clone();
            }
        }
        let mut slots = self.slots.write();
        let count = slots.len().max(partitions);
        slots.resize_with(count, Arc::default);
        slots.clone()
    }

    async fn one(
        &self,
        partition: PartitionId,
        slot: &Mutex<HeadSlot>,
        freshness: Freshness,
    ) -> Result<HeadView, Error> {
        let mut slot = slot.lock().await;
        if let Some(LastRead { began_at, head }) = &slot.last_read {
            let is_young = match freshness {
                Freshness::Cached => began_at.elapsed() < self.age_max,
                Freshness::ReadAfter(moment) => *began_at >= moment,
            };
            if is_young {
                return Ok(HeadView { head: head.clone(), is_stale: false });
            }
        }
        let failed_recently = slot.failed.as_ref().is_some_and(|(at, _)| at.elapsed() < RETRY_PAUSE);
        if !failed_recently {
            // With an older head to fall back on, do not wait long for a store that failed the last time.
            let can_fall_back = slot.failed.is_some() && slot.last_read.is_some();
            let wait = if can_fall_back { self.wait_max / 10 } else { self.wait_max };
            // Taken before the read, because the head may or may not have what changes during the read.
            let began_at = Instant::now();
            let reason = match timeout(wait, self.heads.read_shared(partition)).await {
                Ok(Ok(found)) => {
                    let unled = || Arc::new(Head::unled(self.heads.log_id(), partition));
                    let head = found.map_or_else(unled, |(head, _)| head);
                    *slot = HeadSlot { last_read: Some(LastRead { began_at, head: head.clone() }), failed: None };
                    return Ok(HeadView { head, is_stale: false });
                }
                Ok(Err(error)) if error.is_unavailable() => error.to_string(),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => format!("no answer within {wait:?}"),
            };
            if slot.failed.is_none() {
                tracing::warn!(%partition, reason, "a head cannot be read; plans use the last one that was read");
            }
            slot.failed = Some((Instant::now(), reason));
        }
        match (&slot.last_read, &slot.failed) {
            (Some(LastRead { head, .. }), _) => {
                self.metrics.heads_stale.inc();
                Ok(HeadView { head: head.clone(), is_stale: true })
            }
            (None, failed) => {
                let reason = failed.as_ref().map_or_else(String::new, |(_, reason)| reason.clone());
                Err(Error::NoHead { partition, reason })
            }
        }
    }
}
