//! Heads in the object store: reading, writing, trimming.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use model::{Clock, Offset, PartitionId, Random, SystemClock, SystemRandom};
use object_store::{ObjectKey, ObjectStore, PutCondition, StoreError, Version};
use parking_lot::Mutex;
use runtime::Backoff;

use crate::{
    CatalogueError, Head, codec,
    keys::{blocks_prefix, check_log_id, head_key, parse_head_key, range_of_block},
    rules::{Rule, holds},
};

/// Encoding and decoding of heads larger than this leave the async threads.
const INLINE_BLOCKS_MAX: usize = 200;
const INLINE_BYTES_MAX: usize = 64 << 10;

/// About half a minute in all. A caller decides what to do about an outage of the store that is longer.
const BACKOFF: Backoff = Backoff { attempts: 10, first: Duration::from_millis(50), max: Duration::from_secs(8) };

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
    backoff: Backoff,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// The last head seen of each partition. Saves decoding, never a read: the version says whether it is still right.
    cache: Mutex<HashMap<PartitionId, (Version, Arc<Head>)>>,
}

impl Heads {
    /// The heads of the log with this id.
    ///
    /// # Errors
    /// [`CatalogueError::LogId`].
    pub fn new(store: Arc<dyn ObjectStore>, log_id: &str) -> Result<Self, CatalogueError> {
        Self::with(store, log_id, BACKOFF, Arc::new(SystemClock), Arc::new(SystemRandom))
    }

    /// As [`Heads::new`], with the caller's tries, clock and randomness. `backoff` is for an unavailable store and for
    /// changes that another process overtook. Processes recognise their own changes by random names, so no two
    /// processes may have generators with the same seed.
    ///
    /// # Errors
    /// [`CatalogueError::LogId`].
    pub fn with(
        store: Arc<dyn ObjectStore>,
        log_id: &str,
        backoff: Backoff,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, CatalogueError> {
        check_log_id(log_id)?;
        let cache = Mutex::default();
        Ok(Self(Arc::new(Inner { store, log_id: log_id.to_owned(), backoff, clock, random, cache })))
    }

    /// The same heads through a cache of their own.
    #[cfg(test)]
    pub(crate) fn fresh(&self) -> Self {
        let Inner { store, log_id, backoff, clock, random, .. } = &*self.0;
        Self::with(store.clone(), log_id, *backoff, clock.clone(), random.clone()).unwrap()
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
                Err(error) if error.is_unavailable() && attempt + 1 < self.attempts() => {
                    attempt += 1;
                    self.pause(attempt).await;
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

    /// Number of tries of one operation.
    pub(crate) fn attempts(&self) -> u32 {
        self.0.backoff.attempts
    }

    /// A name for one change of a head, by which its author recognises it.
    pub(crate) fn fresh_nonce(&self) -> String {
        self.0.random.unique_name()
    }

    pub(crate) fn now(&self) -> model::TimestampNs {
        self.0.clock.now()
    }

    /// Waits before try number `attempt`, counted from 0.
    pub(crate) async fn pause(&self, attempt: u32) {
        let pause = self.0.backoff.pause(attempt, self.0.random.as_ref());
        // A sleep of no length would still wait for the timer's next tick.
        if pause > Duration::ZERO {
            tokio::time::sleep(pause).await;
        }
    }

    /// Removes blocks below `to` from the head, once *every* catalogue shard says that it has compacted up to `to` or
    /// further. Anybody may do so; the leader notices and goes on. Does nothing when it is trimmed so far already.
    ///
    /// # Errors
    /// [`CatalogueError::Invalid`] when `to` lies inside a block or above F; otherwise as [`Heads::read`].
    pub async fn trim(&self, partition: PartitionId, to: Offset) -> Result<(), CatalogueError> {
        let mut last = None;
        for attempt in 0..self.attempts() {
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

#[expect(clippy::disallowed_methods, reason = "milliseconds for a large head; a turn would wait for minutes of scans")]
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CatalogueError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        let doing = "encoding or decoding a head".to_owned();
        CatalogueError::Store(StoreError::Unavailable { doing, reason: error.to_string() })
    })
}

#[cfg(test)]
mod tests;
