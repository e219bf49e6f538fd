//! The contents of a range, by stream and offset, so that log and blocks can be compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use log_bus::LogRecord;
use model::{Batch, Labels, Needs, Offset, OffsetRange, PartitionId, TenantId};
use schemas::record::{Record, RecordError};
use xxhash_rust::xxh3::xxh3_128;

use super::{Amount, Difference, Selection};

/// A digest of entries in any order: their number, their size, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Digest {
    entries: u64,
    line_bytes: u64,
    /// The sum of the hashes of time, line and metadata. Order does not change a sum, but repeats do.
    hash: u128,
}

impl Digest {
    fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.line_bytes += other.line_bytes;
        self.hash = self.hash.wrapping_add(other.hash);
    }
}

/// The selected entries of a range.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    streams: HashMap<(TenantId, Labels), BTreeMap<Offset, Digest>>,
    /// Records that could not be decoded.
    pub(crate) undecodable: BTreeSet<Offset>,
    /// The amount of these entries. Records are counted only when the log is read.
    pub(crate) amount: Amount,
    /// A buffer for the bytes of one entry, reused.
    room: Vec<u8>,
}

impl Contents {
    /// Adds the selected entries of a record.
    ///
    /// # Errors
    /// When the record cannot be decoded. Its offset is kept in [`Contents::undecodable`].
    pub(crate) fn add_record(&mut self, record: &LogRecord, wanted: &Selection) -> Result<Record, RecordError> {
        let decoded = Record::decode(record.payload.clone()).inspect_err(|_| {
            self.undecodable.insert(record.offset);
        })?;
        if wanted.tenants.wants(decoded.tenant()) {
            self.amount.records += 1;
            for slice in decoded.streams().filter(|slice| wanted.wants_stream(slice.labels())) {
                let batch = slice.batch(record.offset, &Needs::everything());
                self.add_batch(decoded.tenant(), &batch, wanted, None);
            }
        }
        Ok(decoded)
    }

    /// Adds the entries of a batch that have a selected time and, if a range is given, an offset in it.
    pub(crate) fn add_batch(
        &mut self,
        tenant: &TenantId,
        batch: &Batch,
        wanted: &Selection,
        range: Option<OffsetRange>,
    ) {
        let mut columns: Vec<_> = batch.metadata.iter().collect();
        columns.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let stream = self.streams.entry((tenant.clone(), batch.labels.clone())).or_default();
        // Rows of one record mostly are neighbours, so their digests are summed before the map is updated.
        let mut run: Option<(Offset, Digest)> = None;
        for row in 0..batch.len() {
            let (nanos, offset) = (batch.timestamps[row], Offset::new(batch.offsets[row]));
            if !wanted.wants_time(nanos) || range.is_some_and(|range| !range.contains(offset)) {
                continue;
            }
            let line = batch.lines.get(row);
            let metadata = columns.iter().filter_map(|c| Some((&*c.name, c.values.get(row)?)));
            let hash = hash_entry(&mut self.room, nanos, line, metadata);
            let digest = Digest { entries: 1, line_bytes: line.len() as u64, hash };
            self.amount.entries += 1;
            self.amount.line_bytes += digest.line_bytes;
            match &mut run {
                Some((at, sum)) if *at == offset => sum.add(digest),
                _ => {
                    if let Some((at, sum)) = run.replace((offset, digest)) {
                        stream.entry(at).or_default().add(sum);
                    }
                }
            }
        }
        if let Some((at, sum)) = run {
            stream.entry(at).or_default().add(sum);
        }
    }

    /// The differences between this and `found`, one per stream, sorted by tenant and labels.
    pub(crate) fn differences(&self, found: &Self, place: &Comparison<'_>) -> Vec<Difference> {
        let none = BTreeMap::new();
        let keys: BTreeSet<_> = self.streams.keys().chain(found.streams.keys()).collect();
        let mut differences = Vec::new();
        for key in keys {
            let expected = self.streams.get(key).unwrap_or(&none);
            let found = found.streams.get(key).unwrap_or(&none);
            if expected == found {
                continue;
            }
            let offsets: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
            let apart: Vec<_> = offsets.into_iter().filter(|at| expected.get(at) != found.get(at)).collect();
            let (Some(first), Some(last)) = (apart.first(), apart.last()) else { continue };
            let sum = |side: &BTreeMap<Offset, Digest>| {
                let mut sum = Digest::default();
                apart.iter().filter_map(|at| side.get(at)).for_each(|digest| sum.add(*digest));
                sum
            };
            let (expected, found) = (sum(expected), sum(found));
            let what = if (expected.entries, expected.line_bytes) == (found.entries, found.line_bytes) {
                format!("{} entries exist on both sides, but their times, lines or metadata differ", expected.entries)
            } else {
                format!(
                    "{} holds {} entries of {} bytes, {} {} of {} bytes",
                    place.expected, expected.entries, expected.line_bytes, place.found, found.entries, found.line_bytes
                )
            };
            differences.push(Difference {
                partition: place.partition,
                range: OffsetRange::new(**first, last.next()),
                block: place.block.map(str::to_owned),
                tenant: Some(key.0.clone()),
                stream: Some(key.1.to_string()),
                what,
            });
        }
        differences
    }
}

/// The two sides of a comparison, for the text of a difference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Comparison<'a> {
    pub(crate) partition: PartitionId,
    pub(crate) block: Option<&'a str>,
    /// Such as "the log".
    pub(crate) expected: &'a str,
    /// Such as "the block".
    pub(crate) found: &'a str,
}

/// `metadata` is sorted by name. Lengths are hashed, too, so that different entries never have the same bytes.
fn hash_entry<'a>(
    room: &mut Vec<u8>,
    nanos: i64,
    line: &[u8],
    metadata: impl Iterator<Item = (&'a str, &'a str)>,
) -> u128 {
    room.clear();
    room.extend_from_slice(&nanos.to_le_bytes());
    let mut put = |bytes: &[u8]| {
        room.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        room.extend_from_slice(bytes);
    };
    put(line);
    for (name, value) in metadata {
        put(name.as_bytes());
        put(value.as_bytes());
    }
    xxh3_128(room)
}
