//! Heads in the object store: reading, taking the lead, trimming.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use model::{Clock, Offset, PartitionId, SystemClock};
use object_store::{ObjectKey, ObjectStore, PutCondition, StoreError, Version};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    CatalogueError, Head, Leadership, codec,
    keys::{blocks_prefix, check_log_id, head_key, parse_head_key, range_of_block},
    rules::{Rule, holds},
};

/// Encoding and decoding of heads larger than this leave the async threads.
const INLINE_BLOCKS_MAX: usize = 200;
const INLINE_BYTES_MAX: usize = 64 << 10;

/// How often, and how fast, an operation is tried again when the store is unavailable or another was faster.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Tries in all.
    pub attempts: u32,
    /// The longest pause before the second try; each pause is of random length, its bound twice the last one's.
    pub backoff: Duration,
    /// The bound grows no longer than this.
    pub backoff_max: Duration,
}

/// About half a minute in all: an outage of the store that is longer is for the caller to wait out.
impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 10, backoff: Duration::from_millis(50), backoff_max: Duration::from_secs(8) }
    }
}

impl Retry {
    /// Waits before try number `attempt`, counted from 0.
    async fn pause(&self, attempt: u32) {
        let doubled = self.backoff.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
        let bound = doubled.min(self.backoff_max);
        if attempt > 0 && bound > Duration::ZERO {
            // At least a quarter: a pause of nothing would not be one.
            tokio::time::sleep(bound.mul_f64(0.25 + 0.75 * fastrand::f64())).await;
        }
    }
}

/// What the log holds of a partition, for [`Heads::acquire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// The first offset that the caller can still read, from the log or from memory it already has.
    pub first: Offset,
    /// The end of the log, when the caller wants it checked.
    pub end: Option<Offset>,
}

impl From<Offset> for LogBounds {
    fn from(first: Offset) -> Self {
        Self { first, end: None }
    }
}

/// The heads of one log. Cheap to clone; clones share one cache.
#[derive(Clone)]
pub struct Heads(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    log_id: String,
    retry: Retry,
    clock: Arc<dyn Clock>,
    /// The last head seen of each partition. Saves decoding, never a read: the version says whether it is still right.
    cache: Mutex<HashMap<PartitionId, (Version, Arc<Head>)>>,
}

impl Heads {
    /// The heads of the log with this id.
    ///
    /// # Errors
    /// [`CatalogueError::LogId`].
    pub fn new(store: Arc<dyn ObjectStore>, log_id: &str) -> Result<Self, CatalogueError> {
        Self::with(store, log_id, Retry::default(), Arc::new(SystemClock))
    }

    /// As [`Heads::new`], with the caller's own patience and clock.
    ///
    /// # Errors
    /// [`CatalogueError::LogId`].
    pub fn with(
        store: Arc<dyn ObjectStore>,
        log_id: &str,
        retry: Retry,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CatalogueError> {
        check_log_id(log_id)?;
        let cache = Mutex::default();
        Ok(Self(Arc::new(Inner { store, log_id: log_id.to_owned(), retry, clock, cache })))
    }

    /// The same heads through a cache of their own.
    #[cfg(test)]
    pub(crate) fn fresh(&self) -> Self {
        let Inner { store, log_id, retry, clock, .. } = &*self.0;
        Self::with(store.clone(), log_id, *retry, clock.clone()).unwrap()
    }

    /// The log.
    pub fn log_id(&self) -> &str {
        &self.0.log_id
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.0.store
    }

    /// The head as it is now; none when nobody has led the partition yet.
    ///
    /// # Errors
    /// When the store fails, or what it holds cannot be used.
    pub async fn read(&self, partition: PartitionId) -> Result<Option<(Head, Version)>, CatalogueError> {
        let found = self.read_shared(partition).await?;
        Ok(found.map(|(head, version)| (Arc::unwrap_or_clone(head), version)))
    }

    /// As [`Heads::read`], without a copy; cheap also for large heads when they have not changed since the last read.
    ///
    /// # Errors
    /// As [`Heads::read`].
    pub async fn read_shared(&self, partition: PartitionId) -> Result<Option<(Arc<Head>, Version)>, CatalogueError> {
        let mut attempt = 0;
        loop {
            match self.read_once(partition).await {
                Err(error) if error.is_unavailable() && attempt + 1 < self.0.retry.attempts => {
                    attempt += 1;
                    self.0.retry.pause(attempt).await;
                }
                outcome => return outcome,
            }
        }
    }

    pub(crate) async fn read_once(
        &self,
        partition: PartitionId,
    ) -> Result<Option<(Arc<Head>, Version)>, CatalogueError> {
        let key = self.key(partition)?;
        let object = match self.0.store.get(&key).await {
            Err(StoreError::NotFound(_)) => return Ok(None),
            object => object?,
        };
        let cached = self.0.cache.lock().get(&partition).cloned();
        if let Some((version, head)) = cached
            && version == object.version
        {
            return Ok(Some((head, version)));
        }
        let head = if object.bytes.len() > INLINE_BYTES_MAX {
            let bytes = object.bytes.clone();
            on_a_thread(move || codec::decode(&bytes)).await?
        } else {
            codec::decode(&object.bytes)
        };
        let head = head.map_err(|error| match error {
            codec::DecodeError::Newer { format } => {
                CatalogueError::NewerFormat { key: key.to_string(), format, known: codec::FORMAT }
            }
            codec::DecodeError::Corrupt(reason) => CatalogueError::Corrupt { key: key.to_string(), reason },
        })?;
        self.check_identity(&key, partition, &head)?;
        let head = Arc::new(head);
        self.remember(partition, &object.version, &head);
        Ok(Some((head, object.version)))
    }

    fn check_identity(&self, key: &ObjectKey, partition: PartitionId, head: &Head) -> Result<(), CatalogueError> {
        if head.log_id == self.0.log_id && head.partition == partition {
            return Ok(());
        }
        let name = |log_id: &str, partition| format!("partition {partition} of log {log_id:?}");
        Err(CatalogueError::OtherHead {
            key: key.to_string(),
            expected: name(&self.0.log_id, partition),
            found: name(&head.log_id, head.partition),
        })
    }

    fn key(&self, partition: PartitionId) -> Result<ObjectKey, CatalogueError> {
        head_key(&self.0.log_id, partition)
    }

    fn remember(&self, partition: PartitionId, version: &Version, head: &Arc<Head>) {
        self.0.cache.lock().insert(partition, (version.clone(), head.clone()));
    }

    /// One try to write a head.
    pub(crate) async fn write(&self, head: &Arc<Head>, condition: PutCondition) -> Result<Version, CatalogueError> {
        head.check().map_err(|reason| CatalogueError::Invalid { partition: head.partition, reason })?;
        let bytes = if head.blocks.len() > INLINE_BLOCKS_MAX {
            let head = head.clone();
            on_a_thread(move || codec::encode(&head)).await?
        } else {
            codec::encode(head)
        };
        let condition = if holds(Rule::CompareAndSwap) { condition } else { PutCondition::Always };
        let version = self.0.store.put(&self.key(head.partition)?, Bytes::from(bytes), condition).await?;
        self.remember(head.partition, &version, head);
        Ok(version)
    }

    pub(crate) fn retry(&self) -> Retry {
        self.0.retry
    }

    pub(crate) fn now(&self) -> model::TimestampNs {
        self.0.clock.now()
    }

    pub(crate) async fn pause(&self, attempt: u32) {
        self.0.retry.pause(attempt).await;
    }

    /// Takes the lead of a partition: epoch + 1, by compare-and-swap. Whoever led before is fenced from now on.
    ///
    /// When `bounds.first` lies above F, the records between are lost: that is recorded, and F moves on. A caller that
    /// warmed up says the first offset that it can read *from memory or log*, so that what it holds is not given up.
    ///
    /// # Errors
    /// [`CatalogueError::LogBehindHead`] when the log ends below F. The bounds were read before the head, so that
    /// another owner may have flushed what was appended in between: read the bounds again and call again, and take it
    /// seriously the second time. Otherwise as [`Heads::read`].
    pub async fn acquire(
        &self,
        partition: PartitionId,
        owner: &str,
        bounds: impl Into<LogBounds>,
    ) -> Result<Leadership, CatalogueError> {
        let bounds = bounds.into();
        let nonce = fresh_nonce();
        let mut last = None;
        for attempt in 0..self.0.retry.attempts {
            self.pause(attempt).await;
            let found = match self.read_once(partition).await {
                Err(error) if error.is_unavailable() => {
                    last = Some(error);
                    continue;
                }
                found => found?,
            };
            let (base, condition) = match found {
                // An earlier try went through; its reply got lost.
                Some((head, version)) if head.nonce == nonce => {
                    return Ok(Leadership::new(self.clone(), head, version));
                }
                Some((head, version)) => (head, PutCondition::IfVersion(version)),
                None => (Arc::new(Head::unled(&self.0.log_id, partition)), PutCondition::IfAbsent),
            };
            if let Some(end) = bounds.end.filter(|end| *end < base.flushed_to) {
                let (log_id, flushed_to) = (self.0.log_id.clone(), base.flushed_to);
                return Err(CatalogueError::LogBehindHead { log_id, partition, end, flushed_to });
            }
            let mut next = base.led_by(owner, bounds.first, self.now());
            next.nonce.clone_from(&nonce);
            let next = Arc::new(next);
            match self.write(&next, condition).await {
                Ok(version) => {
                    if next.lost.len() > base.lost.len() {
                        tracing::error!(%partition, from = %base.flushed_to, to = %next.flushed_to,
                            "records were removed by the log's retention before they were read; they are lost");
                    }
                    tracing::info!(%partition, epoch = next.epoch, flushed_to = %next.flushed_to, "leading a partition");
                    return Ok(Leadership::new(self.clone(), next, version));
                }
                Err(error) if may_be_retried(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| no_attempts(partition)))
    }

    /// Removes blocks below `to` from the head, once *every* catalogue shard says that it has compacted up to `to` or
    /// further. Anybody may do so; the leader notices and goes on. Does nothing when it is trimmed so far already.
    ///
    /// # Errors
    /// [`CatalogueError::Invalid`] when `to` lies inside a block or above F; otherwise as [`Heads::read`].
    pub async fn trim(&self, partition: PartitionId, to: Offset) -> Result<(), CatalogueError> {
        let mut last = None;
        for attempt in 0..self.0.retry.attempts {
            self.pause(attempt).await;
            let (head, version) = match self.read_once(partition).await {
                Err(error) if error.is_unavailable() => {
                    last = Some(error);
                    continue;
                }
                found => found?.ok_or_else(|| CatalogueError::Gone(format!("the head of partition {partition}")))?,
            };
            if head.trimmed_to >= to {
                return Ok(());
            }
            // The nonce stays: it belongs to the leader's last change, which the leader may still be asking about.
            match self.write(&Arc::new(head.trimmed(to)), PutCondition::IfVersion(version)).await {
                Ok(_) => return Ok(()),
                Err(error) if may_be_retried(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| no_attempts(partition)))
    }

    /// The heads of all partitions that have one, in order.
    ///
    /// # Errors
    /// As [`Heads::read`].
    pub async fn all(&self) -> Result<Vec<Arc<Head>>, CatalogueError> {
        let mut heads = Vec::new();
        for partition in self.partitions().await? {
            heads.extend(self.read_shared(partition).await?.map(|(head, _)| head));
        }
        Ok(heads)
    }

    /// The partitions of this log that have a head, in order.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn partitions(&self) -> Result<Vec<PartitionId>, CatalogueError> {
        let listed = self.0.store.list(&format!("meta/{}/p/", self.0.log_id)).await?;
        let mut found: Vec<_> = listed.iter().filter_map(|meta| Some(parse_head_key(&meta.key)?.1)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Level-0 blocks below F that no head lists: what losers of a race, crashed builders and swaps left behind. Delete
    /// only those that are older than a day: a cut is only ever published from F on, and these begin below, but a
    /// block may also wait for [`Heads::swap_blocks`], or be read by plans of before a swap. Blocks that were trimmed
    /// away are not named.
    ///
    /// # Errors
    /// As [`Heads::read`].
    pub async fn orphans(&self, partition: PartitionId) -> Result<Vec<ObjectKey>, CatalogueError> {
        let prefix = blocks_prefix(&self.0.log_id, partition);
        // The listing first: a block that is published after it is in the head then.
        let objects = self.0.store.list(&prefix).await?;
        let Some((head, _)) = self.read_shared(partition).await? else { return Ok(Vec::new()) };
        let listed: BTreeSet<&str> = head.blocks.iter().map(|block| block.key.as_str()).collect();
        let is_orphan = |key: &ObjectKey| {
            let range = range_of_block(key, &prefix);
            range.is_some_and(|range| range.start >= head.trimmed_to && range.start < head.flushed_to)
                && !listed.contains(key.as_str())
        };
        Ok(objects.into_iter().map(|meta| meta.key).filter(is_orphan).collect())
    }
}

/// The ids of all logs that the store has heads of, in order. Blocks of logs that are gone still hold what they
/// acknowledged.
///
/// # Errors
/// When the store fails.
pub async fn log_ids(store: &dyn ObjectStore) -> Result<Vec<String>, CatalogueError> {
    let listed = store.list("meta/").await?;
    let ids: BTreeSet<_> = listed.iter().filter_map(|meta| Some(parse_head_key(&meta.key)?.0.to_owned())).collect();
    Ok(ids.into_iter().collect())
}

/// Another was faster, or nobody knows: read again and decide again.
pub(crate) fn may_be_retried(error: &CatalogueError) -> bool {
    matches!(error, CatalogueError::Store(StoreError::Precondition(_) | StoreError::Unavailable { .. }))
}

pub(crate) fn no_attempts(partition: PartitionId) -> CatalogueError {
    CatalogueError::Store(StoreError::Unavailable {
        doing: format!("changing the head of partition {partition}"),
        reason: "no attempts are allowed".to_owned(),
    })
}

pub(crate) fn fresh_nonce() -> String {
    Uuid::new_v4().simple().to_string()
}

async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CatalogueError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        let doing = "encoding or decoding a head".to_owned();
        CatalogueError::Store(StoreError::Unavailable { doing, reason: error.to_string() })
    })
}

#[cfg(test)]
mod tests;
