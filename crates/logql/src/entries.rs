//! The entries that a log query keeps. Their order is total and does not depend on which scan found them, or when.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use model::{Labels, TimestampNs};

use crate::{
    answer::{ResultEntry, ResultStream},
    params::Direction,
};

mod sent;

/// The sort key of entries: time, then stream, then position in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryKey {
    pub(crate) ts: i64,
    /// The stored stream.
    pub(crate) stream: Labels,
    /// The offset of the entry's record; 0 if unknown.
    pub(crate) offset: i64,
    /// The row's number among the rows that the partial has seen.
    pub(crate) row: u64,
}

impl Ord for EntryKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_stream =
            || self.stream.stream_hash().cmp(&other.stream.stream_hash()).then_with(|| self.stream.cmp(&other.stream));
        let by_place = || self.offset.cmp(&other.offset).then(self.row.cmp(&other.row));
        self.ts.cmp(&other.ts).then_with(by_stream).then_with(by_place)
    }
}

impl PartialOrd for EntryKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// An entry after the pipeline. The last fields only break ties between otherwise equal entries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FoundEntry {
    pub(crate) key: EntryKey,
    pub(crate) line: Vec<u8>,
    /// The stream's labels that the pipeline kept.
    pub(crate) seen: Labels,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) parsed: Vec<(String, String)>,
}

/// An entry in the heap. The greatest one is evicted first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranked {
    entry: FoundEntry,
    newest_first: bool,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.entry.cmp(&other.entry);
        if self.newest_first { order.reverse() } else { order }
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// At most `limit` entries: the newest or the oldest.
#[derive(Clone, Debug)]
pub(crate) struct Entries {
    newest_first: bool,
    limit: usize,
    heap: BinaryHeap<Ranked>,
    /// Number of rows seen, and so the number of the next row.
    pub(crate) rows_seen: u64,
}

impl Entries {
    pub(crate) fn new(direction: Direction, limit: u32) -> Self {
        let newest_first = direction == Direction::Backward;
        Self { newest_first, limit: limit as usize, heap: BinaryHeap::new(), rows_seen: 0 }
    }

    /// Whether these entries belong to a scan with this direction and limit.
    pub(crate) fn fits(&self, direction: Direction, limit: u32) -> bool {
        self.newest_first == (direction == Direction::Backward) && self.limit == limit as usize
    }

    /// Returns the time of the entry that is evicted next, or `None` while there is room.
    pub(crate) fn bound(&self) -> Option<i64> {
        if self.heap.len() < self.limit {
            return None;
        }
        let none = if self.newest_first { i64::MAX } else { i64::MIN };
        Some(self.heap.peek().map_or(none, |worst| worst.entry.key.ts))
    }

    /// Whether an entry with this key would be kept.
    pub(crate) fn wants(&self, key: &EntryKey) -> bool {
        let Some(worst) = self.heap.peek().filter(|_| self.heap.len() >= self.limit) else { return self.limit > 0 };
        let order = key.cmp(&worst.entry.key);
        if self.newest_first { order.is_ge() } else { order.is_le() }
    }

    /// Like [`Entries::wants`], but compares only the time.
    #[inline]
    pub(crate) fn wants_time(&self, ts: i64) -> bool {
        match self.bound() {
            None => true,
            Some(bound) if self.newest_first => ts >= bound,
            Some(bound) => ts <= bound,
        }
    }

    pub(crate) fn push(&mut self, entry: FoundEntry) {
        if self.limit == 0 {
            return;
        }
        self.put(Ranked { entry, newest_first: self.newest_first });
    }

    fn put(&mut self, ranked: Ranked) {
        if self.heap.len() < self.limit {
            self.heap.push(ranked);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && ranked < *worst
        {
            *worst = ranked;
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.rows_seen += other.rows_seen;
        other.heap.into_iter().for_each(|ranked| self.put(ranked));
    }

    /// Returns the answer: thinned by `interval` and grouped by labels. Streams are ordered by text, entries in query
    /// direction.
    pub(crate) fn streams(self, interval: Duration) -> Vec<ResultStream> {
        let mut entries: Vec<FoundEntry> = self.heap.into_sorted_vec().into_iter().map(|r| r.entry).collect();
        let interval = i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX);
        if interval > 0 {
            let mut last: Option<i64> = None;
            entries.retain(|e| {
                let far = last.is_none_or(|t| e.key.ts.saturating_sub(t).saturating_abs() >= interval);
                if far {
                    last = Some(e.key.ts);
                }
                far
            });
        }
        let mut groups: BTreeMap<String, Vec<ResultStream>> = BTreeMap::new();
        for entry in entries {
            let FoundEntry { key, line, seen, mut metadata, mut parsed } = entry;
            metadata.sort();
            parsed.sort();
            let labels = if metadata.is_empty() && parsed.is_empty() {
                seen.clone()
            } else {
                let others = metadata.iter().chain(&parsed).map(|(n, v)| (n.as_str(), v.as_str()));
                Labels::with_empty_values(seen.iter().chain(others))
            };
            let result = ResultEntry { ts: TimestampNs::from_nanos(key.ts), line, metadata, parsed };
            let same_text = groups.entry(labels.to_string()).or_default();
            match same_text.iter_mut().find(|s| s.labels == labels && s.stream == seen) {
                Some(stream) => stream.entries.push(result),
                None => same_text.push(ResultStream { labels, stream: seen, entries: vec![result] }),
            }
        }
        groups.into_values().flatten().collect()
    }
}
