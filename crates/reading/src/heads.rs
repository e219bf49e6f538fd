//! Heads as plans are made from them: read anew when they are old, shared while they are young.
//!
//! A head that is older than the log's owner knows is never wrong: its flushed-to offset is lower, so that memory is
//! asked for more, and memory says so when it no longer holds that much. Then the head is read anew. For the same reason
//! the last head that was seen is good enough while the store is away: what memory still holds can be read then.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use catalogue::{Head, Heads};
use futures_util::future::try_join_all;
use model::PartitionId;
use parking_lot::RwLock;
use tokio::{sync::Mutex, time::timeout};

use crate::{error::Error, metrics::Metrics};

/// For so long nobody tries again to read a head that could not be read.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How young the heads of a plan must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Young enough for a first try.
    Recent,
    /// Read after this moment: an older one has proved to be too old.
    Since(Instant),
}

/// One partition's head.
#[derive(Clone, Debug)]
pub(crate) struct KnownHead {
    pub(crate) head: Arc<Head>,
    /// It should have been read anew, and the store was away.
    pub(crate) is_stale: bool,
}

/// The heads of all partitions.
pub(crate) struct HeadCache {
    heads: Arc<Heads>,
    age_max: Duration,
    wait_max: Duration,
    metrics: Metrics,
    /// One for each partition that was ever asked for. A lock is held while reading, so that requests that come meanwhile
    /// share the read.
    slots: RwLock<Vec<Arc<Mutex<Slot>>>>,
}

#[derive(Default)]
struct Slot {
    seen: Option<Seen>,
    /// When the store was last found away, unless the head was read since.
    failed: Option<(Instant, String)>,
}

/// A head, and a moment before which it was not read.
struct Seen {
    read_at: Instant,
    head: Arc<Head>,
}

impl HeadCache {
    /// Heads at most `age_max` old, for which the store is given `wait_max`.
    pub(crate) fn new(heads: Arc<Heads>, age_max: Duration, wait_max: Duration, metrics: Metrics) -> Self {
        Self { heads, age_max, wait_max, metrics, slots: RwLock::default() }
    }

    /// Which log the heads are of.
    pub(crate) fn log_id(&self) -> &str {
        self.heads.log_id()
    }

    /// The heads of all partitions, in order: of `partitions`, or of more when there were more before. A partition that
    /// nobody has led yet has an empty one.
    pub(crate) async fn all(&self, partitions: usize, freshness: Freshness) -> Result<Vec<KnownHead>, Error> {
        let slots = self.slots(partitions);
        let ids = (0..).map(PartitionId::new);
        try_join_all(ids.zip(&slots).map(|(partition, slot)| self.one(partition, slot, freshness))).await
    }

    fn slots(&self, partitions: usize) -> Vec<Arc<Mutex<Slot>>> {
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

    async fn one(&self, partition: PartitionId, slot: &Mutex<Slot>, freshness: Freshness) -> Result<KnownHead, Error> {
        let mut slot = slot.lock().await;
        if let Some(Seen { read_at, head }) = &slot.seen {
            let young = match freshness {
                Freshness::Recent => read_at.elapsed() < self.age_max,
                Freshness::Since(moment) => *read_at >= moment,
            };
            if young {
                return Ok(KnownHead { head: head.clone(), is_stale: false });
            }
        }
        let is_known_to_be_away = slot.failed.as_ref().is_some_and(|(at, _)| at.elapsed() < RETRY_PAUSE);
        if !is_known_to_be_away {
            // Who has something to fall back on does not wait long for a store that did not answer the last time.
            let short = slot.failed.is_some() && slot.seen.is_some();
            let wait = if short { self.wait_max / 10 } else { self.wait_max };
            // Taken before the read: what happens meanwhile may or may not be in it.
            let read_at = Instant::now();
            let reason = match timeout(wait, self.heads.read_shared(partition)).await {
                Ok(Ok(found)) => {
                    let unled = || Arc::new(Head::unled(self.heads.log_id(), partition));
                    let head = found.map_or_else(unled, |(head, _)| head);
                    *slot = Slot { seen: Some(Seen { read_at, head: head.clone() }), failed: None };
                    return Ok(KnownHead { head, is_stale: false });
                }
                Ok(Err(error)) if error.is_unavailable() => error.to_string(),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => format!("no answer within {wait:?}"),
            };
            if slot.failed.is_none() {
                tracing::warn!(%partition, reason, "a head cannot be read anew; recent reads go on with the last one");
            }
            slot.failed = Some((Instant::now(), reason));
        }
        match (&slot.seen, &slot.failed) {
            (Some(Seen { head, .. }), _) => {
                self.metrics.heads_stale.inc();
                Ok(KnownHead { head: head.clone(), is_stale: true })
            }
            (None, failed) => {
                let reason = failed.as_ref().map_or_else(String::new, |(_, reason)| reason.clone());
                Err(Error::NoHead { partition, reason })
            }
        }
    }
}
