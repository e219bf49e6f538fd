//! Encoding: a block has every row once, in its order, with the right metadata.

use block::{BlockIndex, BlockOptions, BlockScan, Step, quarantined, verify};
use bytes::Bytes;
use cut::{Cut, CutReason, SegmentWriter};
use model::Needs;
use model::{Labels, Offset, OffsetRange, PartitionId, TenantId, TimeRange, TimestampNs};
use proptest::prelude::*;
use schemas::record::{Record, RecordBuilder};

use crate::encode;

/// tenant, stream, time, offset, line, metadata
type Row = (String, String, i64, i64, Vec<u8>, Vec<(String, String)>);

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn cut_of(writer: SegmentWriter, start: i64, end: i64) -> Cut {
    Cut {
        partition: PartitionId::new(3),
        range: OffsetRange::new(Offset::new(start), Offset::new(end)),
        segment: writer.freeze(),
        reason: CutReason::Full,
        opened: TimestampNs::from_secs(1),
    }
}

fn read_block(bytes: &Bytes, tail_bytes: u64) -> Vec<Row> {
    let total = bytes.len() as u64;
    let index = BlockIndex::open(total, bytes.slice((total - tail_bytes) as usize..)).unwrap();
    let mut rows = Vec::new();
    for tenant in index.tenants().map(|t| t.tenant.clone()).collect::<Vec<_>>() {
        let streams = index.streams(&tenant, &[], TimeRange::ALL);
        let ordinals = streams.iter().map(|s| s.ordinal).collect();
        let columns = Needs::everything();
        let mut scan = BlockScan::new(&index, ordinals, TimeRange::ALL, columns);
        loop {
            match scan.next().unwrap() {
                Step::NeedsData(ranges) => {
                    let data = ranges.iter().map(|r| bytes.slice(r.start as usize..r.end as usize)).collect();
                    scan.supply(ranges, data).unwrap();
                }
                Step::Batch(batch) => {
                    for i in 0..batch.len() {
                        let mut metadata: Vec<(String, String)> = batch
                            .metadata
                            .iter()
                            .filter_map(|c| Some((c.name.to_string(), c.values.get(i)?.to_owned())))
                            .collect();
                        metadata.sort();
                        let line = batch.lines.get(i).to_vec();
                        let labels = batch.labels.to_string();
                        rows.push((tenant.to_string(), labels, batch.timestamps[i], batch.offsets[i], line, metadata));
                    }
                }
                Step::Done => break,
            }
        }
    }
    rows
}

#[derive(Clone, Debug)]
struct Pushed {
    tenant: u8,
    stream: u8,
    ts: i64,
    line: Vec<u8>,
    common: Option<u8>,
    own: Vec<(u8, u8)>,
}

fn pushed() -> impl Strategy<Value = Pushed> {
    let own = prop::collection::vec((0..3u8, 0..3u8), 0..3);
    let line = prop::collection::vec(any::<u8>(), 0..20);
    (0..2u8, 0..3u8, -3..6i64, line, prop::option::of(0..2u8), own)
        .prop_map(|(tenant, stream, ts, line, common, own)| Pushed { tenant, stream, ts, line, common, own })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A block holds exactly what the records of its cut hold, in order.
    #[test]
    fn a_block_is_its_cut(records in prop::collection::vec(prop::collection::vec(pushed(), 1..12), 0..8), gap in 1..4i64) {
        let mut writer = SegmentWriter::new();
        let mut expected: Vec<(usize, Row)> = Vec::new();
        let mut offset = 5;
        for entries in &records {
            // A record has one tenant.
            let name = format!("t{}", entries[0].tenant);
            let mut builder = RecordBuilder::new(&tenant(&name), TimestampNs::from_secs(1));
            for entry in entries {
                let labels = Labels::from_pairs([("s", entry.stream.to_string())]);
                let common: Vec<(String, String)> =
                    entry.common.iter().map(|c| ("k0".to_owned(), format!("common{c}"))).collect();
                let common: Vec<(&str, &str)> = common.iter().map(|(k, v)| (&**k, &**v)).collect();
                builder.stream(&labels, &common);
                let own: Vec<(String, String)> = entry.own.iter().map(|(k, v)| (format!("k{k}"), v.to_string())).collect();
                builder.entry(TimestampNs::from_nanos(entry.ts), &entry.line, own.iter().map(|(k, v)| (&**k, &**v)));
                let mut metadata = std::collections::BTreeMap::new();
                for (k, v) in common.iter().map(|(k, v)| (k.to_string(), v.to_string())).chain(own) {
                    metadata.insert(k, v);
                }
                let row = (name.clone(), labels.to_string(), entry.ts, offset, entry.line.clone(), metadata.into_iter().collect());
                expected.push((expected.len(), row));
            }
            let payload = builder.finish(None);
            writer.append(Offset::new(offset), &Record::decode(payload).unwrap());
            offset += gap;
        }
        let segment_rows = writer.rows();
        let cut = cut_of(writer, 2, offset + 7);
        // A range inside the segment gives exactly the rows there.
        for (start, end) in [(2, offset + 7), (5 + gap, offset + 7), (6, offset - gap), (offset, offset + 7)] {
            let range = OffsetRange::new(Offset::new(start), Offset::new(end.max(start + 1)));
            let cut = Cut { range, ..cut.clone() };
            let mut inside: Vec<Row> =
                expected.iter().map(|(_, row)| row.clone()).filter(|row| range.contains(Offset::new(row.3))).collect();
            prop_assert_eq!(cut.is_empty(), inside.is_empty());
            let block = encode(&cut, "log", TimestampNs::from_secs(9), &BlockOptions::default()).unwrap();
            prop_assert_eq!(block.summary.rows, inside.len() as u64);
            prop_assert_eq!(verify(block.bytes.clone()).unwrap().problems, Vec::<String>::new());
            let mut found = read_block(&block.bytes, block.summary.tail_bytes);
            inside.sort();
            found.sort();
            prop_assert_eq!(found, inside);
        }
        let block = encode(&cut, "log", TimestampNs::from_secs(9), &BlockOptions::default()).unwrap();
        prop_assert_eq!(block.summary.rows, segment_rows);
        prop_assert_eq!(block.summary.offsets, cut.range);
        prop_assert_eq!(verify(block.bytes.clone()).unwrap().problems, Vec::<String>::new());
        let found = read_block(&block.bytes, block.summary.tail_bytes);
        // Within one (stream, time, offset), only rows of slices with the same common metadata keep the order of pushing,
        // so these rows are compared as sets. Tenants ascend, and each stream's rows are together and sorted.
        prop_assert!(found.is_sorted_by_key(|row| row.0.clone()));
        let runs: Vec<&[Row]> = found.chunk_by(|a, b| (&a.0, &a.1) == (&b.0, &b.1)).collect();
        let streams: std::collections::BTreeSet<_> = found.iter().map(|row| (&row.0, &row.1)).collect();
        prop_assert_eq!(runs.len(), streams.len());
        prop_assert!(runs.iter().all(|run| run.is_sorted_by_key(|row| (row.2, row.3))));
        let mut expected: Vec<Row> = expected.into_iter().map(|(_, row)| row).collect();
        let mut found = found;
        expected.sort();
        found.sort();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn rows_of_one_time_keep_the_order_of_pushing() {
    let mut writer = SegmentWriter::new();
    let labels = Labels::from_pairs([("a", "b")]);
    for (offset, lines) in [(4, [(7, "b"), (7, "a"), (3, "z")]), (6, [(7, "0"), (2, "y"), (7, "a")])] {
        let mut builder = RecordBuilder::new(&tenant("t"), TimestampNs::from_secs(1));
        builder.stream(&labels, &[]);
        for (ts, line) in lines {
            builder.entry(TimestampNs::from_nanos(ts), line.as_bytes(), std::iter::empty());
        }
        writer.append(Offset::new(offset), &Record::decode(builder.finish(None)).unwrap());
    }
    let block = encode(&cut_of(writer, 4, 7), "log", TimestampNs::from_secs(9), &BlockOptions::default()).unwrap();
    let rows = read_block(&block.bytes, block.summary.tail_bytes);
    let found: Vec<(i64, i64, &str)> = rows.iter().map(|r| (r.2, r.3, std::str::from_utf8(&r.4).unwrap())).collect();
    assert_eq!(found, [(2, 6, "y"), (3, 4, "z"), (7, 4, "b"), (7, 4, "a"), (7, 6, "0"), (7, 6, "a")]);
}

#[test]
fn quarantined_records_outside_the_cut_are_left_out() {
    let check = |start: i64, end: i64, expected: &[i64]| {
        let mut writer = SegmentWriter::new();
        for offset in [8, 9, 12] {
            writer.quarantine(Offset::new(offset), Bytes::from_static(b"no record"), "not a record".to_owned());
        }
        let cut = cut_of(writer, start, end);
        assert_eq!(cut.is_empty(), expected.is_empty());
        let block = encode(&cut, "log", TimestampNs::from_secs(9), &BlockOptions::default()).unwrap();
        assert_eq!(block.summary.quarantined, expected.len() as u64);
        let total = block.bytes.len() as u64;
        let tail = block.bytes.slice((total - block.summary.tail_bytes) as usize..);
        let kept = quarantined(&BlockIndex::open(total, tail).unwrap(), &block.bytes).unwrap_or_default();
        let found: Vec<i64> = kept.iter().map(|record| record.offset.value()).collect();
        assert_eq!(found, expected, "[{start}, {end})");
    };
    check(8, 13, &[8, 9, 12]);
    check(9, 13, &[9, 12]);
    check(9, 12, &[9]);
    check(10, 12, &[]);
}

#[test]
fn quarantined_records_are_kept_as_they_were() {
    let mut writer = SegmentWriter::new();
    writer.quarantine(Offset::new(8), Bytes::from_static(b"no record"), "not a record".to_owned());
    let block = encode(&cut_of(writer, 8, 9), "log", TimestampNs::from_secs(9), &BlockOptions::default()).unwrap();
    assert_eq!((block.summary.rows, block.summary.quarantined, block.summary.time), (0, 1, None));
    let total = block.bytes.len() as u64;
    let tail = block.bytes.slice((total - block.summary.tail_bytes) as usize..);
    let kept = quarantined(&BlockIndex::open(total, tail).unwrap(), &block.bytes).unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].offset, Offset::new(8));
    assert_eq!(&kept[0].raw[..], b"no record");
    assert_eq!(kept[0].reason, "not a record");
}
