//! What actors share: the log, owners' memories, the catalogue's root, the tally.

use std::sync::Arc;

use bytes::Bytes;
use model::{Offset, OffsetRange, PartitionId};
use object_store::{ObjectKey, ObjectStore, PutCondition, StoreError, Version};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Tally, store::SteppedStore};
use crate::BlockEntry;

pub(super) const PARTITION: PartitionId = PartitionId::new(0);

/// Where each row of the log is.
pub(super) struct Log {
    /// Whether there is a record at each offset; the log leaves gaps.
    exists: Vec<bool>,
    first: usize,
    healed: bool,
}

impl Log {
    pub(super) fn first(&self) -> Offset {
        Offset::new(self.first as i64)
    }

    pub(super) fn end(&self) -> Offset {
        Offset::new(self.exists.len() as i64)
    }

    /// All rows ever appended in a range, also those that retention took.
    pub(super) fn rows(&self, range: OffsetRange) -> impl Iterator<Item = u32> {
        let (start, end) = (range.start.value() as usize, (range.end.value() as usize).min(self.exists.len()));
        (start..end.max(start)).filter(|i| self.exists[*i]).map(|i| i as u32)
    }
}

/// What an owner holds.
#[derive(Default)]
pub(super) struct Memory {
    /// None: it does not serve.
    pub(super) held: Option<OffsetRange>,
    pub(super) rows: Vec<u32>,
}

impl Memory {
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) fn begin(&mut self, at: Offset) {
        self.held = Some(OffsetRange::new(at, at));
        self.rows.clear();
    }

    pub(super) fn evict(&mut self, to: Offset) {
        let Some(held) = &mut self.held else { return };
        held.start = held.start.max(to.min(held.end));
        let start = held.start.value() as u32;
        self.rows.retain(|row| *row >= start);
    }

    pub(super) fn rows_in(&self, range: OffsetRange) -> Vec<u32> {
        let inside = |row: &u32| range.contains(Offset::new(i64::from(*row)));
        self.rows.iter().copied().filter(inside).collect()
    }
}

/// The root of a catalogue shard, as design 9 says: one object, replaced by compare-and-swap, that lists compacted
/// blocks and says up to where they reach.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Root {
    pub(super) nonce: u64,
    pub(super) compacted_to: Offset,
    pub(super) blocks: Vec<String>,
}

impl Root {
    pub(super) const NONE: Self = Self { nonce: 0, compacted_to: Offset::ZERO, blocks: Vec::new() };
}

pub(super) struct World {
    pub(super) log: Mutex<Log>,
    pub(super) owners: Vec<Mutex<Memory>>,
    /// The root as query services have it cached.
    pub(super) cached_root: Mutex<Root>,
    /// The highest epoch that somebody was told to lead with.
    pub(super) epoch: Mutex<u64>,
    pub(super) tally: Mutex<Tally>,
    pub(super) store: Arc<SteppedStore>,
    random: Mutex<fastrand::Rng>,
    complete: Mutex<bool>,
}

impl World {
    pub(super) fn new(seed: u64, store: Arc<SteppedStore>, owners: usize) -> Self {
        Self {
            log: Mutex::new(Log { exists: Vec::new(), first: 0, healed: false }),
            owners: (0..owners).map(|_| Mutex::default()).collect(),
            cached_root: Mutex::new(Root::NONE),
            epoch: Mutex::new(0),
            tally: Mutex::default(),
            store,
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            complete: Mutex::new(false),
        }
    }

    /// A random number below `bound`.
    pub(super) fn below(&self, bound: usize) -> usize {
        self.random.lock().usize(..bound)
    }

    pub(super) fn chance(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn number(&self) -> u64 {
        self.random.lock().u64(1..)
    }

    /// A random offset in `(start, end]`.
    pub(super) fn above(&self, range: OffsetRange) -> Offset {
        Offset::new(range.start.value() + 1 + self.below((range.end.value() - range.start.value()) as usize) as i64)
    }

    pub(super) fn count(&self, add: impl FnOnce(&mut Tally)) {
        add(&mut self.tally.lock());
    }

    pub(super) fn append(&self) {
        let gap = self.chance(10);
        self.log.lock().exists.push(!gap);
    }

    /// Retention takes some of what is there, whether it was read or not.
    pub(super) fn retain(&self) {
        let mut log = self.log.lock();
        log.first += self.below(log.exists.len() - log.first + 1);
    }

    pub(super) fn heal(&self) {
        self.log.lock().healed = true;
    }

    pub(super) fn is_healed(&self) -> bool {
        self.log.lock().healed
    }

    pub(super) fn wrong(&self, reason: String) {
        let mut tally = self.tally.lock();
        tally.wrong = 1;
        tally.first_wrong.get_or_insert(reason);
    }

    pub(super) fn is_wrong(&self) -> bool {
        self.tally.lock().wrong > 0
    }

    pub(super) fn is_complete(&self) -> bool {
        *self.complete.lock()
    }

    /// A read that was begun after healing came to this offset.
    pub(super) fn completed(&self, to: Offset) {
        *self.complete.lock() |= to == self.log.lock().end();
    }

    pub(super) async fn put_rows(&self, key: &str, rows: &[u32]) -> Result<(), StoreError> {
        let bytes: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
        self.store.put(&object(key), Bytes::from(bytes), PutCondition::IfAbsent).await.map(drop)
    }

    pub(super) async fn rows_of(&self, key: &str) -> Result<Vec<u32>, StoreError> {
        let bytes = self.store.get(&object(key)).await?.bytes;
        Ok(bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
    }

    pub(super) async fn root(&self) -> Result<(Root, Option<Version>), StoreError> {
        match self.store.get(&object("cat/0/root")).await {
            Ok(found) => Ok((serde_json::from_slice(&found.bytes).unwrap(), Some(found.version))),
            Err(StoreError::NotFound(_)) => Ok((Root::NONE, None)),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn put_root(&self, root: &Root, before: Option<Version>) -> Result<Version, StoreError> {
        let bytes = Bytes::from(serde_json::to_vec(root).unwrap());
        let condition = before.map_or(PutCondition::IfAbsent, PutCondition::IfVersion);
        self.store.put(&object("cat/0/root"), bytes, condition).await
    }
}

pub(super) fn object(key: &str) -> ObjectKey {
    ObjectKey::new(key).unwrap()
}

pub(super) fn entry(key: &str, range: OffsetRange, rows: usize) -> BlockEntry {
    let rows = rows as u64;
    BlockEntry {
        key: key.to_owned(),
        bytes: rows * 4,
        tail_bytes: 0,
        range,
        rows,
        line_bytes: 0,
        time: None,
        tenants: Vec::new(),
        quarantined: 0,
    }
}
