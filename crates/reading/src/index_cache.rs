//! Opened block indexes. All queries share them, and their bytes in memory are bounded.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use block::{BlockError, BlockIndex};
use catalogue::BlockEntry;
use object_store::{ObjectKey, ObjectStore};
use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::sync::OnceCell;

use crate::{error::Error, stats::ReadStats};

/// Where a block lies, and how its index is read.
#[derive(Clone, Debug)]
pub struct BlockAddress {
    /// The key of the object.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// The length of its tail, which has the index.
    pub tail_bytes: u64,
}

impl BlockAddress {
    pub(crate) fn damaged(&self, source: BlockError) -> Error {
        Error::Block { key: self.key.clone(), source }
    }
}

impl From<&BlockEntry> for BlockAddress {
    fn from(entry: &BlockEntry) -> Self {
        Self { key: entry.key.clone(), bytes: entry.bytes, tail_bytes: entry.tail_bytes }
    }
}

/// Caches indexes. Evicts the least recently used first.
pub(crate) struct IndexCache {
    store: Arc<dyn ObjectStore>,
    bytes_max: u64,
    /// Shows the bytes held.
    gauge: IntGauge,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<String, Entry>,
    /// Keys by the tick of their last use. Ticks are unique.
    by_use: BTreeMap<u64, String>,
    tick: u64,
    bytes: u64,
}

struct Entry {
    /// Filled once, by the first request. Others wait for it.
    index: Arc<OnceCell<BlockIndex>>,
    used: u64,
    /// 0 until the index is read.
    bytes: u64,
}

impl Entries {
    fn touch(&mut self, key: &str) -> Arc<OnceCell<BlockIndex>> {
        self.tick += 1;
        let tick = self.tick;
        let entry =
            self.by_key.entry(key.to_owned()).or_insert_with(|| Entry { index: Arc::default(), used: tick, bytes: 0 });
        self.by_use.remove(&std::mem::replace(&mut entry.used, tick));
        self.by_use.insert(tick, key.to_owned());
        entry.index.clone()
    }

    /// Counts an index that was just opened, and evicts others to make room for it.
    fn opened(&mut self, key: &str, bytes: u64, bytes_max: u64) {
        let Some(entry) = self.by_key.get_mut(key) else { return };
        self.bytes += bytes - std::mem::replace(&mut entry.bytes, bytes);
        while self.bytes > bytes_max && self.by_use.len() > 1 {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.bytes -= self.by_key.remove(&oldest).map_or(0, |entry| entry.bytes);
        }
    }

    fn forget(&mut self, key: &str) {
        if let Some(entry) = self.by_key.remove(key) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }
}

impl IndexCache {
    /// An empty cache over `store`.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, bytes_max: u64, gauge: IntGauge) -> Self {
        Self { store, bytes_max, gauge, entries: Mutex::default() }
    }

    /// The index of a block, from the cache or by one read of the block's tail.
    pub(crate) async fn open(&self, address: &BlockAddress, stats: &mut ReadStats) -> Result<BlockIndex, Error> {
        stats.index_requests += 1;
        let cell = self.entries.lock().touch(&address.key);
        if let Some(index) = cell.get() {
            stats.index_hits += 1;
            return Ok(index.clone());
        }
        match cell.get_or_try_init(|| self.read(address, stats)).await {
            Ok(index) => Ok(index.clone()),
            Err(error) => {
                self.entries.lock().forget(&address.key);
                Err(error)
            }
        }
    }

    async fn read(&self, address: &BlockAddress, stats: &mut ReadStats) -> Result<BlockIndex, Error> {
        let fetch_error = |source| Error::Fetch { key: address.key.clone(), source };
        let key = ObjectKey::new(&address.key).map_err(fetch_error)?;
        let start = address.bytes.saturating_sub(address.tail_bytes);
        let since = Instant::now();
        let tail = self.store.get_range(&key, start..address.bytes).await.map_err(fetch_error)?;
        stats.fetch_time += since.elapsed();
        stats.fetches += 1;
        stats.index_bytes += tail.len() as u64;
        let opened = BlockIndex::open(address.bytes, tail);
        let index = opened.map_err(|source| address.damaged(source))?;
        let mut entries = self.entries.lock();
        entries.opened(&address.key, index.memory_bytes() as u64, self.bytes_max);
        self.gauge.set(i64::try_from(entries.bytes).unwrap_or(i64::MAX));
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_recently_used_goes_first() {
        let mut entries = Entries::default();
        for key in ["a", "b", "c"] {
            entries.touch(key);
            entries.opened(key, 10, 30);
        }
        entries.touch("a");
        entries.touch("d");
        entries.opened("d", 10, 30);
        let mut held: Vec<_> = entries.by_key.keys().cloned().collect();
        held.sort();
        assert_eq!((held, entries.bytes), (vec!["a".to_owned(), "c".to_owned(), "d".to_owned()], 30));
        entries.forget("a");
        entries.forget("a");
        assert_eq!((entries.bytes, entries.by_use.len()), (20, 2));
        entries.touch("huge");
        entries.opened("huge", 1000, 30);
        assert_eq!(entries.by_key.len(), 1, "one index may be larger than the cache");
    }
}
