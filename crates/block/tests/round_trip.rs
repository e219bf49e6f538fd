//! A block returns the rows that went into it, for any rows, columns, times and matchers.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use block::{BlockScan, inspect, quarantined, verify};
use model::{LineNeed, MetadataNeed, Needs};
use model::{MatchOp, Matcher, TenantId, TimeRange, TimestampNs};
use proptest::prelude::*;
use support::{NaiveBlock, any_block, any_columns, any_time, expected_rows, open, provenance, rows_of, run};

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

/// Sorts by the labels of streams. The rows of a stream keep their order.
fn by_labels(mut rows: Vec<support::ScannedRow>) -> Vec<support::ScannedRow> {
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

fn any_matchers() -> impl Strategy<Value = Vec<Matcher>> {
    let op = prop_oneof![Just(MatchOp::Equal), Just(MatchOp::NotEqual), Just(MatchOp::Regex), Just(MatchOp::NotRegex)];
    let name = proptest::sample::select(&["app", "env", "none"][..]);
    let value = proptest::sample::select(&["", "a", "b", "a|b", ".+", "[^a]*"][..]);
    let matcher = (name, op, value);
    let matcher = matcher.prop_map(|(name, op, value)| Matcher::new(name, op, value).unwrap());
    proptest::collection::vec(matcher, 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn scans_equal_a_naive_model(
        block in any_block(400),
        columns in any_columns(),
        time in any_time(),
        matchers in any_matchers(),
        name in proptest::sample::select(&["one", "two", "absent"][..]),
    ) {
        let encoded = block.encode();
        let index = open(&encoded);
        let tenant = tenant(name);
        let streams = index.streams(&tenant, &matchers, time);
        let keep = |row: &support::NaiveRow| row.tenant == tenant && matchers.iter().all(|m| m.matches(&row.labels));
        for stream in &streams {
            let rows: Vec<_> = block.rows.iter().filter(|row| row.tenant == tenant && row.labels == *stream.labels).collect();
            prop_assert_eq!(stream.rows, rows.len() as u64);
            prop_assert_eq!(stream.line_bytes, rows.iter().map(|row| row.line.len() as u64).sum::<u64>());
            prop_assert_eq!(stream.time.start.nanos(), rows.iter().map(|row| row.ts).min().unwrap());
        }
        let ordinals = streams.iter().map(|stream| stream.ordinal).collect();
        let batches = run(BlockScan::new(&index, ordinals, time, columns.clone()), &encoded.bytes).unwrap();
        let in_time = |row: &support::NaiveRow| keep(row) && time.contains(TimestampNs::from_nanos(row.ts));
        prop_assert_eq!(by_labels(rows_of(&batches, &columns)), expected_rows(&block, &columns, in_time));
    }

    #[test]
    fn any_block_is_sound(block in any_block(400)) {
        let encoded = block.encode();
        let report = verify(encoded.bytes.clone()).unwrap();
        prop_assert_eq!(&report.problems, &Vec::<String>::new());
        prop_assert_eq!(report.rows, block.rows.len() as u64);
        prop_assert_eq!(&report.summary, &encoded.summary);
        let inspection = inspect(encoded.bytes.clone()).unwrap();
        prop_assert_eq!(&inspection.summary, &encoded.summary);
        prop_assert_eq!(&inspection.provenance, &provenance());
        let stored = inspection.parts().iter().map(|(_, bytes)| bytes).sum::<u64>();
        prop_assert_eq!(stored, encoded.bytes.len() as u64);
        let index = open(&encoded);
        let records = quarantined(&index, &encoded.bytes).unwrap();
        let records: Vec<_> = records.into_iter().map(|r| (r.offset.value(), r.raw.to_vec(), r.reason)).collect();
        prop_assert_eq!(records, block.quarantine);
    }

    #[test]
    fn narrowing_leaves_rows_inside_of_it(block in any_block(400), narrowed in any_time()) {
        let encoded = block.encode();
        let index = open(&encoded);
        let columns = Needs { offsets: true, ..Needs::default() };
        let one = tenant("one");
        let streams = index.streams(&one, &[], TimeRange::ALL).iter().map(|s| s.ordinal).collect();
        let mut scan = BlockScan::new(&index, streams, TimeRange::ALL, columns.clone());
        scan.narrow(narrowed);
        let inside = |ts: i64| narrowed.contains(TimestampNs::from_nanos(ts));
        let mut rows = rows_of(&run(scan, &encoded.bytes).unwrap(), &columns);
        rows.retain(|row| inside(row.1));
        prop_assert_eq!(by_labels(rows), expected_rows(&block, &columns, |row| row.tenant == one && inside(row.ts)));
    }
}

/// One stream with many rows, so that pages and row groups end within it.
fn long_stream(rows: i64) -> NaiveBlock {
    let row = |i: i64| support::NaiveRow {
        tenant: tenant("one"),
        labels: model::Labels::from_pairs([("app", "a")]),
        ts: i * 10,
        offset: i % support::OFFSETS,
        line: format!("line {i} {}", "x".repeat((i % 50) as usize)).into_bytes(),
        metadata: [("trace_id".to_owned(), format!("{i:032x}")), ("level".to_owned(), "info".to_owned())].into(),
    };
    let keys = vec!["trace_id".to_owned(), "level".to_owned()];
    NaiveBlock { rows: (0..rows).map(row).collect(), quarantine: Vec::new(), keys, options: Default::default() }
}

#[test]
fn few_bytes_are_read_for_few_rows() {
    let mut block = long_stream(100_000);
    block.options.line_page_bytes = 64 << 10;
    let encoded = block.encode();
    let index = open(&encoded);
    let time = TimeRange::new(TimestampNs::from_nanos(500_000), TimestampNs::from_nanos(500_100));
    let supplied = |columns: Needs| {
        let mut scan = BlockScan::new(&index, vec![0], time, columns.clone());
        let mut rows = 0;
        loop {
            match scan.next().unwrap() {
                block::Step::Done => break,
                block::Step::Batch(batch) => rows += batch.len(),
                block::Step::NeedsData(ranges) => {
                    let slice = |r: &std::ops::Range<u64>| encoded.bytes.slice(r.start as usize..r.end as usize);
                    let data = ranges.iter().map(slice).collect();
                    scan.supply(ranges, data).unwrap();
                }
            }
        }
        assert_eq!((rows, scan.stats().rows), (10, 10));
        scan.stats().bytes_supplied
    };
    let times = supplied(Needs::default());
    let lines = supplied(Needs { lines: LineNeed::Content, ..Needs::default() });
    assert!(times < 64 << 10, "{times} bytes for ten timestamps of {}", encoded.bytes.len());
    assert!(lines < times + (64 << 10), "{lines} bytes for ten lines of {}", encoded.bytes.len());
}

#[test]
fn large_dictionaries_and_values_behind_them() {
    // A million bytes of distinct values overflow the dictionary page, so that later pages have none.
    let block = long_stream(120_000);
    let encoded = block.encode();
    assert_eq!(verify(encoded.bytes.clone()).unwrap().problems, Vec::<String>::new());
    let index = open(&encoded);
    let columns = Needs { metadata: MetadataNeed::All, ..Needs::default() };
    let scan = BlockScan::new(&index, vec![0], TimeRange::ALL, columns.clone());
    let batches = run(scan, &encoded.bytes).unwrap();
    assert_eq!(rows_of(&batches, &columns), expected_rows(&block, &columns, |_| true));
    let constant =
        |b: &model::Batch| b.metadata.iter().any(|c| matches!(&c.values, model::MetadataValues::Constant(_)));
    assert!(batches.iter().all(constant), "one level in all rows is said once a batch");
}

#[test]
fn opening_says_how_much_it_needs() {
    let encoded = long_stream(1000).encode();
    let file = &encoded.bytes;
    let open = |count: u64| block::BlockIndex::open(file.len() as u64, file.slice(file.len() - count as usize..));
    let mut count = 0;
    let mut tries = 0;
    let index = loop {
        match open(count) {
            Ok(index) => break index,
            Err(block::BlockError::NeedsMore { bytes }) => {
                assert!(bytes > count);
                (count, tries) = (bytes, tries + 1);
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((count, tries), (encoded.summary.tail_bytes, 3));
    assert_eq!(index.tail_bytes(), encoded.summary.tail_bytes);
    assert!(open(file.len() as u64).is_ok());
    assert!(index.memory_bytes() > 500);
}

#[test]
fn a_block_may_hold_nothing_but_quarantine() {
    let mut block = long_stream(0);
    block.quarantine.push((3, b"raw".to_vec(), "checksum differs".to_owned()));
    let encoded = block.encode();
    assert_eq!((encoded.summary.rows, encoded.summary.quarantined, encoded.summary.time), (0, 1, None));
    assert_eq!(verify(encoded.bytes).unwrap().problems, Vec::<String>::new());
}

#[test]
fn supplied_data_must_fit() {
    let encoded = long_stream(10).encode();
    let mut scan = BlockScan::new(&open(&encoded), vec![0], TimeRange::ALL, Needs::default());
    let one: Vec<_> = std::iter::once(0..4).collect();
    assert!(scan.supply(one.clone(), vec![]).is_err());
    assert!(scan.supply(one, vec![encoded.bytes.slice(..3)]).is_err());
}
