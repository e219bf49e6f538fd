//! The wire form of entries: each label set and name once, lines end to end.
//!
//! Thousands of entries come from a few streams. If each entry carried its labels, they would be most of the bytes, and
//! the receiver would allocate a label set per entry. In this form, entries of one stream share a label set on the
//! receiver too.

use std::{
    collections::{BinaryHeap, HashMap},
    hash::Hash,
};

use bytes::Bytes;
use model::Labels;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{Entries, EntryKey, FoundEntry, Ranked};

#[derive(Serialize, Deserialize)]
struct Sent {
    newest_first: bool,
    limit: u32,
    rows_seen: u64,
    /// Distinct label sets.
    labels: Vec<Labels>,
    /// Names of metadata and parsed labels, distinct.
    names: Vec<String>,
    entries: Vec<SentEntry>,
    /// The lines, in the order of the entries.
    lines: Bytes,
}

#[derive(Serialize, Deserialize)]
struct SentEntry {
    ts: i64,
    offset: i64,
    row: u64,
    line_bytes: u32,
    /// Index into [`Sent::labels`].
    stream: u32,
    seen: u32,
    /// Index into [`Sent::names`], and the value.
    metadata: Vec<(u32, String)>,
    parsed: Vec<(u32, String)>,
}

/// Numbers distinct values in the order of their first appearance.
struct Numbers<T>(HashMap<T, u32>);

impl<T: Hash + Eq> Numbers<T> {
    fn of(&mut self, thing: T) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(thing).or_insert(next)
    }

    fn into_list(self) -> Vec<T> {
        let mut list: Vec<(u32, T)> = self.0.into_iter().map(|(thing, number)| (number, thing)).collect();
        list.sort_unstable_by_key(|(number, _)| *number);
        list.into_iter().map(|(_, thing)| thing).collect()
    }
}

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut labels, mut names) = (Numbers(HashMap::new()), Numbers(HashMap::new()));
        let mut lines = Vec::with_capacity(self.heap.iter().map(|ranked| ranked.entry.line.len()).sum());
        let mut entries = Vec::with_capacity(self.heap.len());
        for Ranked { entry, .. } in &self.heap {
            let mut numbered = |pairs: &[(String, String)]| {
                pairs.iter().map(|(name, value)| (names.of(name.clone()), value.clone())).collect()
            };
            lines.extend_from_slice(&entry.line);
            entries.push(SentEntry {
                ts: entry.key.ts,
                offset: entry.key.offset,
                row: entry.key.row,
                line_bytes: u32::try_from(entry.line.len()).map_err(serde::ser::Error::custom)?,
                metadata: numbered(&entry.metadata),
                parsed: numbered(&entry.parsed),
                stream: labels.of(entry.key.stream.clone()),
                seen: labels.of(entry.seen.clone()),
            });
        }
        let sent = Sent {
            newest_first: self.newest_first,
            limit: u32::try_from(self.limit).unwrap_or(u32::MAX),
            rows_seen: self.rows_seen,
            labels: labels.into_list(),
            names: names.into_list(),
            entries,
            lines: lines.into(),
        };
        sent.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Sent { newest_first, limit, rows_seen, labels, names, entries, lines } = Sent::deserialize(deserializer)?;
        let wrong = |what: &str| D::Error::custom(format!("entries: {what} out of range"));
        if entries.len() > limit as usize {
            return Err(wrong("number of entries"));
        }
        let set = |number: u32| labels.get(number as usize).cloned().ok_or_else(|| wrong("label set"));
        let named = |pairs: Vec<(u32, String)>| -> Result<Vec<(String, String)>, D::Error> {
            let name = |number: u32| names.get(number as usize).cloned().ok_or_else(|| wrong("name"));
            pairs.into_iter().map(|(number, value)| Ok((name(number)?, value))).collect()
        };
        let mut rest = &lines[..];
        let mut heap = Vec::with_capacity(entries.len());
        for sent in entries {
            let (line, behind) = rest.split_at_checked(sent.line_bytes as usize).ok_or_else(|| wrong("line"))?;
            rest = behind;
            let key = EntryKey { ts: sent.ts, stream: set(sent.stream)?, offset: sent.offset, row: sent.row };
            let entry = FoundEntry {
                key,
                line: line.to_vec(),
                seen: set(sent.seen)?,
                metadata: named(sent.metadata)?,
                parsed: named(sent.parsed)?,
            };
            heap.push(Ranked { entry, newest_first });
        }
        Ok(Self { newest_first, limit: limit as usize, heap: BinaryHeap::from(heap), rows_seen })
    }
}
