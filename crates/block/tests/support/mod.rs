//! A naive block, which is a list of rows, and helpers that write it into a real block and read it again.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::collections::{BTreeMap, BTreeSet};

use block::{BlockError, BlockIndex, BlockOptions, BlockScan, BlockWriter, EncodedBlock, Provenance, Row, Step};
use bytes::Bytes;
use model::{Batch, Labels, Offset, OffsetRange, PartitionId, TenantId, TimeRange, TimestampNs};
use model::{LineNeed, MetadataNeed, Needs};
use proptest::prelude::*;

/// One row with all its values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NaiveRow {
    pub(crate) tenant: TenantId,
    pub(crate) labels: Labels,
    pub(crate) ts: i64,
    pub(crate) offset: i64,
    pub(crate) line: Vec<u8>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Rows, and the options to write them with.
#[derive(Clone, Debug)]
pub(crate) struct NaiveBlock {
    pub(crate) rows: Vec<NaiveRow>,
    pub(crate) quarantine: Vec<(i64, Vec<u8>, String)>,
    pub(crate) keys: Vec<String>,
    pub(crate) options: BlockOptions,
}

pub(crate) const OFFSETS: i64 = 1000;

pub(crate) fn provenance() -> Provenance {
    Provenance {
        log_id: "log-1".to_owned(),
        partition: PartitionId::new(7),
        range: OffsetRange::new(Offset::new(0), Offset::new(OFFSETS)),
        created: TimestampNs::from_secs(1_700_000_000),
    }
}

impl NaiveBlock {
    pub(crate) fn encode(&self) -> EncodedBlock {
        let mut rows: Vec<&NaiveRow> = self.rows.iter().collect();
        // The sort is stable, so rows with equal keys keep their order.
        // The hash of labels stands for any order of streams.
        let order = |row: &NaiveRow| (row.tenant.clone(), row.labels.stream_hash(), row.ts, row.offset);
        rows.sort_by_key(|row| order(row));
        let mut writer = BlockWriter::new(self.options.clone(), provenance(), &self.keys).unwrap();
        let mut previous: Option<&NaiveRow> = None;
        for row in rows {
            let same_tenant = previous.is_some_and(|p| p.tenant == row.tenant);
            if !same_tenant {
                writer.begin_tenant(&row.tenant).unwrap();
            }
            if !same_tenant || previous.is_some_and(|p| p.labels != row.labels) {
                writer.begin_stream(&row.labels).unwrap();
            }
            let metadata: Vec<(&str, &str)> = row.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let (ts, offset) = (TimestampNs::from_nanos(row.ts), Offset::new(row.offset));
            writer.append(Row { ts, offset, line: &row.line, metadata: &metadata }).unwrap();
            previous = Some(row);
        }
        for (offset, raw, reason) in &self.quarantine {
            writer.quarantine(Offset::new(*offset), raw, reason);
        }
        writer.finish().unwrap()
    }
}

/// Opens a block from exactly the tail that its summary names.
pub(crate) fn open(block: &EncodedBlock) -> BlockIndex {
    let tail = block.bytes.slice(block.bytes.len() - block.summary.tail_bytes as usize..);
    BlockIndex::open(block.summary.bytes, tail).unwrap()
}

/// All batches of a scan.
pub(crate) fn run(mut scan: BlockScan, file: &Bytes) -> Result<Vec<Batch>, BlockError> {
    let mut batches = Vec::new();
    loop {
        match scan.next()? {
            Step::Done => return Ok(batches),
            Step::Batch(batch) => batches.push(batch),
            Step::NeedsData(ranges) => {
                assert!(!ranges.is_empty());
                assert!(ranges.iter().all(|range| range.end <= file.len() as u64));
                let data = ranges.iter().map(|range| file.slice(range.start as usize..range.end as usize)).collect();
                scan.supply(ranges, data)?;
            }
        }
    }
}

/// A row of a batch with the requested columns. For `Lengths`, the line is as many zeros.
pub(crate) type ScannedRow = (Labels, i64, Option<i64>, Option<Vec<u8>>, BTreeMap<String, String>);

pub(crate) fn rows_of(batches: &[Batch], columns: &Needs) -> Vec<ScannedRow> {
    let mut rows = Vec::new();
    for batch in batches {
        assert!(!batch.is_empty(), "a batch has rows");
        assert_eq!(batch.lines.len(), if columns.lines == LineNeed::None { 0 } else { batch.len() });
        assert_eq!(batch.offsets.len(), if columns.offsets { batch.len() } else { 0 });
        let names: BTreeSet<_> = batch.metadata.iter().map(|column| column.name.clone()).collect();
        assert_eq!(names.len(), batch.metadata.len(), "names are distinct");
        for i in 0..batch.len() {
            let line = match columns.lines {
                LineNeed::None => None,
                LineNeed::Lengths => Some(vec![0; batch.lines.bytes_of(i)]),
                LineNeed::Content => Some(batch.lines.get(i).to_vec()),
            };
            let value = |c: &model::MetadataColumn| c.values.get(i).map(|v| (c.name.to_string(), v.to_owned()));
            let metadata = batch.metadata.iter().filter_map(value).collect();
            rows.push((batch.labels.clone(), batch.timestamps[i], batch.offsets.get(i).copied(), line, metadata));
        }
    }
    rows
}

/// The rows that a scan of a tenant's streams should yield. Rows of equal (stream, time, offset) may come in any order.
pub(crate) fn expected_rows(block: &NaiveBlock, columns: &Needs, keep: impl Fn(&NaiveRow) -> bool) -> Vec<ScannedRow> {
    let row = |row: &NaiveRow| -> ScannedRow {
        let line = match columns.lines {
            LineNeed::None => None,
            LineNeed::Lengths => Some(vec![0; row.line.len()]),
            LineNeed::Content => Some(row.line.clone()),
        };
        let wanted = |key: &String| match &columns.metadata {
            MetadataNeed::None => false,
            MetadataNeed::Names(names) => names.contains(key),
            MetadataNeed::All => true,
        };
        let metadata = row.metadata.iter().filter(|(k, _)| wanted(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
        (row.labels.clone(), row.ts, columns.offsets.then_some(row.offset), line, metadata)
    };
    let mut rows: Vec<&NaiveRow> = block.rows.iter().filter(|row| keep(row)).collect();
    rows.sort_by(|a, b| (&a.labels, a.ts, a.offset).cmp(&(&b.labels, b.ts, b.offset)));
    rows.into_iter().map(row).collect()
}

pub(crate) const KEYS: [&str; 4] = ["level", "trace_id", "pod", "späť"];

fn any_row() -> impl Strategy<Value = NaiveRow> {
    let label = |name: &'static str| (Just(name), proptest::sample::select(&["a", "b", "c", "\"\\\n"][..]));
    let labels = prop_oneof![
        label("app").prop_map(|pair| vec![pair]),
        (label("app"), label("env")).prop_map(|(a, b)| vec![a, b]),
        Just(Vec::new()),
    ];
    let line = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..20),
        2 => "[a-z ]{0,80}".prop_map(String::into_bytes),
        1 => Just(b"the same line again and again".to_vec()),
    ];
    let ts = prop_oneof![8 => -20..200i64, 1 => Just(i64::MIN), 1 => Just(i64::MAX - 1), 1 => any::<i64>()];
    let value = prop_oneof![Just("info".to_owned()), Just(String::new()), "[a-f0-9]{32}"];
    let metadata =
        proptest::collection::btree_map(proptest::sample::select(&KEYS[..]).prop_map(str::to_owned), value, 0..3);
    (0..3usize, labels, ts, 0..OFFSETS, line, metadata).prop_map(|(tenant, labels, ts, offset, line, metadata)| {
        NaiveRow {
            tenant: TenantId::new(["one", "two", "three"][tenant]).unwrap(),
            labels: Labels::from_pairs(labels),
            ts,
            offset,
            line,
            metadata,
        }
    })
}

/// Any block of up to `rows` rows, with pages and row groups small enough to end often.
pub(crate) fn any_block(rows: usize) -> impl Strategy<Value = NaiveBlock> {
    let options = (1..4usize, 1..200usize, 1..2000usize).prop_map(|(pages, page_rows, bytes)| BlockOptions {
        page_rows_max: page_rows,
        line_page_bytes: bytes,
        row_group_rows_max: pages * page_rows,
        ..BlockOptions::default()
    });
    let options = prop_oneof![2 => Just(BlockOptions::default()), 3 => options];
    let quarantine =
        proptest::collection::vec((0..OFFSETS, proptest::collection::vec(any::<u8>(), 0..9), "[a-z]{1,5}"), 0..3);
    let keys = proptest::sample::subsequence(KEYS.map(str::to_owned).to_vec(), 0..=KEYS.len());
    (proptest::collection::vec(any_row(), 0..rows), quarantine, keys, options).prop_map(
        |(mut rows, quarantine, keys, options)| {
            // One row per (stream, time, offset), so that the order of rows is fixed.
            let mut seen = BTreeSet::new();
            rows.retain(|row| seen.insert((row.tenant.clone(), row.labels.clone(), row.ts, row.offset)));
            NaiveBlock { rows, quarantine, keys, options }
        },
    )
}

pub(crate) fn any_columns() -> impl Strategy<Value = Needs> {
    let lines = prop_oneof![Just(LineNeed::None), Just(LineNeed::Lengths), Just(LineNeed::Content)];
    let names = proptest::sample::subsequence(KEYS.map(str::to_owned).to_vec(), 0..=KEYS.len());
    let metadata = prop_oneof![Just(MetadataNeed::None), Just(MetadataNeed::All), names.prop_map(MetadataNeed::Names)];
    (lines, metadata, any::<bool>()).prop_map(|(lines, metadata, offsets)| Needs {
        lines,
        metadata,
        offsets,
        ..Needs::default()
    })
}

pub(crate) fn any_time() -> impl Strategy<Value = TimeRange> {
    let range = |(start, length): (i64, i64)| {
        TimeRange::new(TimestampNs::from_nanos(start), TimestampNs::from_nanos(start.saturating_add(length)))
    };
    prop_oneof![1 => Just(TimeRange::ALL), 3 => (-30..210i64, 0..150i64).prop_map(range)]
}
