//! Tests of round trips, of the golden file, and of bytes that are not records.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::{Labels, MetadataNeed, Needs, Offset, TenantId, TimestampNs};
use proptest::prelude::*;

use super::*;

/// A record as plain values.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    tenant: String,
    received: i64,
    batch_id: Option<String>,
    slices: Vec<PlainSlice>,
}

type Pairs = Vec<(String, String)>;

#[derive(Clone, Debug, PartialEq)]
struct PlainSlice {
    labels: Pairs,
    common: Pairs,
    rows: Vec<(i64, Vec<u8>, BTreeMap<String, String>)>,
}

fn refs(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()
}

fn builder(plain: &Plain) -> RecordBuilder {
    let tenant = TenantId::new(&plain.tenant).unwrap();
    let mut builder = RecordBuilder::new(&tenant, TimestampNs::from_nanos(plain.received));
    for slice in &plain.slices {
        builder.stream(&Labels::from_pairs(slice.labels.clone()), &refs(&slice.common));
        for (ts, line, metadata) in &slice.rows {
            let pairs = metadata.iter().map(|(n, v)| (n.as_str(), v.as_str()));
            builder.entry(TimestampNs::from_nanos(*ts), line, pairs);
        }
    }
    builder
}

fn encode(plain: &Plain) -> Bytes {
    let builder = builder(plain);
    let bound = builder.encoded_bytes() + plain.batch_id.as_ref().map_or(0, String::len);
    let encoded = builder.finish(plain.batch_id.as_deref());
    assert!(encoded.len() <= bound, "{} bytes were promised, {} came", bound, encoded.len());
    encoded
}

fn plain_of(record: &Record) -> Plain {
    let pairs = |labels: &Labels| labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let slice = |s: StreamSlice| PlainSlice {
        labels: pairs(s.labels()),
        common: s.common_metadata().iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        rows: s
            .rows()
            .map(|r| {
                let metadata = r.metadata().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
                (r.ts.nanos(), r.line.to_vec(), metadata)
            })
            .collect(),
    };
    Plain {
        tenant: record.tenant().as_str().to_owned(),
        received: record.received().nanos(),
        batch_id: record.batch_id().map(str::to_owned),
        slices: record.streams().map(slice).collect(),
    }
}

/// Checks that the columns of a slice's batch agree with its rows.
fn check_batch(slice: &StreamSlice) {
    let batch = slice.batch(Offset::new(7), &Needs::everything());
    assert_eq!((batch.len(), batch.lines.len(), batch.offsets.len()), (slice.len(), slice.len(), slice.len()));
    for (i, row) in slice.rows().enumerate() {
        assert_eq!((batch.timestamps[i], batch.lines.get(i)), (row.ts.nanos(), row.line));
        let common = slice.common_metadata().iter().map(|(n, v)| (&**n, &**v));
        let expected: BTreeMap<&str, &str> = common.chain(row.metadata()).collect();
        let found: BTreeMap<&str, &str> =
            batch.metadata.iter().filter_map(|c| Some((&*c.name, c.values.get(i)?))).collect();
        assert_eq!(found, expected);
    }
    let none = slice.batch(Offset::ZERO, &Needs::default());
    assert!(none.lines.is_empty() && none.metadata.is_empty());
    let named =
        slice.batch(Offset::ZERO, &Needs { metadata: MetadataNeed::Names(vec!["k1".into()]), ..Needs::default() });
    assert!(named.metadata.iter().all(|c| &*c.name == "k1"));
}

fn check_round_trip(plain: &Plain) {
    let record = Record::decode(encode(plain)).unwrap();
    assert_eq!(plain_of(&record), *plain);
    let rows: Vec<_> = plain.slices.iter().flat_map(|s| &s.rows).collect();
    assert_eq!(record.entry_count(), rows.len());
    assert_eq!(record.line_bytes(), rows.iter().map(|r| r.1.len() as u64).sum::<u64>());
    for (ts, ..) in rows.iter().filter(|r| r.0 < i64::MAX) {
        assert!(record.time_range().contains(TimestampNs::from_nanos(*ts)));
    }
    record.streams().for_each(|slice| check_batch(&slice));
}

fn pairs(pairs: &[(&str, &str)]) -> Pairs {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

fn map(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs(of).into_iter().collect()
}

/// A record that uses every encoding. It is the content of the golden file, so it must not change.
fn example() -> Plain {
    let ids = (0..40).map(|i| (1_700_000_000_000_000_000 + i, b"x".to_vec(), map(&[("id", &format!("{i:08x}"))])));
    let rare = (0..20).map(|i| (i, Vec::new(), if i == 3 { map(&[("rare", "here")]) } else { map(&[]) }));
    Plain {
        tenant: "team-a".into(),
        received: 1_795_204_800_123_456_789,
        batch_id: Some("batch-17".into()),
        slices: vec![
            PlainSlice {
                labels: pairs(&[("app", "web"), ("env", "prod")]),
                common: pairs(&[("detected_level", "info")]),
                rows: vec![
                    (1_795_204_800_000_000_002, b"second line, first".to_vec(), map(&[])),
                    (1_795_204_800_000_000_001, "älter \u{1f980}".into(), map(&[("trace_id", "abc"), ("user", "7")])),
                    (-5, vec![0xff, 0x00, 0xfe], map(&[("user", "")])),
                ],
            },
            PlainSlice { labels: pairs(&[("app", "ids")]), common: pairs(&[]), rows: ids.collect() },
            PlainSlice { labels: pairs(&[("app", "rare")]), common: pairs(&[("rare", "no")]), rows: rare.collect() },
        ],
    }
}

#[test]
fn round_trips() {
    let empty = Plain { tenant: "t".into(), received: 0, batch_id: None, slices: vec![] };
    check_round_trip(&empty);
    check_round_trip(&example());
    let one = |ts, line: &[u8]| PlainSlice {
        labels: pairs(&[]),
        common: pairs(&[]),
        rows: vec![(ts, line.to_vec(), map(&[]))],
    };
    check_round_trip(&Plain { slices: vec![one(i64::MIN, b"")], ..empty.clone() });
    check_round_trip(&Plain { slices: vec![one(i64::MAX, b"last")], ..empty });
}

/// Write the file of a new version with `MILLRACE_WRITE_GOLDEN=1 cargo test -p millrace-schemas golden`.
#[test]
fn golden_files() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/record-v1.bin");
    if std::env::var_os("MILLRACE_WRITE_GOLDEN").is_some() {
        std::fs::write(path, encode(&example())).unwrap();
    }
    let golden = Bytes::from(std::fs::read(path).unwrap());
    assert_eq!(plain_of(&Record::decode(golden.clone()).unwrap()), example(), "the golden file reads otherwise");
    assert!(golden == encode(&example()), "the encoder writes other bytes: a new format needs a new version");
}

#[test]
fn streams_are_returned_to() {
    let tenant = TenantId::new("t").unwrap();
    let (a, b) = (Labels::from_pairs([("s", "a")]), Labels::from_pairs([("s", "b")]));
    let mut builder = RecordBuilder::new(&tenant, TimestampNs::from_nanos(1));
    for (ts, labels, common) in [(1, &a, "x"), (2, &b, "x"), (3, &a, "x"), (4, &a, "y"), (5, &a, "x")] {
        builder.stream(labels, &[("c", common)]);
        builder.entry(TimestampNs::from_nanos(ts), b"l", std::iter::empty());
    }
    builder.stream(&b, &[("c", "never used")]);
    let record = Record::decode(builder.finish(None)).unwrap();
    let found: Vec<_> = record.streams().map(|s| (s.labels().clone(), s.timestamps())).collect();
    assert_eq!(found, [(a.clone(), vec![1, 3, 5]), (b, vec![2]), (a, vec![4])]);
}

#[test]
fn the_last_of_equal_names_counts() {
    let check = |values: &[&str], expected: &str| {
        let mut builder = RecordBuilder::new(&TenantId::new("t").unwrap(), TimestampNs::from_nanos(1));
        builder.stream(&Labels::empty(), &[("k", "common")]);
        // Enough distinct values to make the column plain.
        for value in values {
            builder.entry(TimestampNs::from_nanos(1), b"", [("k", *value)].into_iter());
        }
        builder.entry(TimestampNs::from_nanos(1), b"", values.iter().map(|v| ("k", *v)));
        let record = Record::decode(builder.finish(None)).unwrap();
        let slice = record.stream(0);
        let found: Vec<_> = slice.row(values.len()).metadata().collect();
        assert_eq!(found, [("k", expected)]);
        check_batch(&slice);
    };
    check(&["a", "b"], "b");
    let many: Vec<String> = (0..100).map(|i| i.to_string()).collect();
    check(&many.iter().map(String::as_str).collect::<Vec<_>>(), "99");
}

#[test]
fn texts_of_errors() {
    let encoded = encode(&example());
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut bytes = encoded.to_vec();
        change(&mut bytes);
        let found = Record::decode(bytes.into()).map(|_| ()).map_err(|e| e.to_string());
        assert!(found.as_ref().is_err_and(|e| e.contains(expected)), "{found:?} should tell {expected:?}");
    };
    check(&|b| b.clear(), "magic");
    check(&|b| b[0] = b'X', "magic");
    check(&|b| b[4] = 9, "version 9 is not supported: this program reads version 1");
    check(&|b| b.truncate(20), "record of 20 bytes should have");
    check(&|b| b.truncate(500), "record of 500 bytes should have");
    check(&|b| b.push(0), "should have");
    check(&|b| b[100] ^= 1, "checksum");
    check(
        &|b| {
            b[44] += 1;
            seal(b)
        },
        "malformed",
    );
    check(
        &|b| {
            b[40] += 1;
            seal(b)
        },
        "the header's counts or times are not those of the entries",
    );
    check(
        &|b| {
            b.push(0);
            seal(b)
        },
        "bytes follow the last stream",
    );
}

/// Repairs length and checksum.
fn seal(bytes: &mut [u8]) {
    if bytes.len() >= HEADER_BYTES {
        let len = bytes.len() as u32;
        bytes[CHECKED_FROM..CHECKED_FROM + 4].copy_from_slice(&len.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[CHECKED_FROM..]);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Checks that all of a decoded record can be read.
fn read_all(bytes: Vec<u8>) {
    if let Ok(record) = Record::decode(bytes.into()) {
        assert_eq!(plain_of(&record).slices.len(), record.stream_count());
        for slice in record.streams() {
            slice.batch(Offset::ZERO, &Needs::everything());
        }
    }
}

fn any_pairs(values: &'static str, count: std::ops::Range<usize>) -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("k[0-9]", values, count)
}

fn any_slice() -> impl Strategy<Value = PlainSlice> {
    let row = (any::<i64>(), proptest::collection::vec(any::<u8>(), 0..20), any_pairs("[a-z]{0,2}|\\PC{0,5}", 0..4));
    let rows = proptest::collection::vec(row, 1..60);
    (any_pairs("\\PC{1,4}", 0..4), any_pairs("\\PC{0,4}", 0..3), rows).prop_map(|(labels, common, rows)| PlainSlice {
        labels: labels.into_iter().collect(),
        common: common.into_iter().collect(),
        rows,
    })
}

fn any_plain() -> impl Strategy<Value = Plain> {
    let slices = proptest::collection::vec(any_slice(), 0..5);
    ("[a-z]{1,9}", any::<i64>(), proptest::option::of("\\PC{1,9}"), slices).prop_map(
        |(tenant, received, batch_id, mut slices)| {
            let mut seen = Vec::new();
            slices.retain(|s| {
                let is_new = !seen.contains(&(s.labels.clone(), s.common.clone()));
                seen.push((s.labels.clone(), s.common.clone()));
                is_new
            });
            Plain { tenant, received, batch_id, slices }
        },
    )
}

proptest! {
    #[test]
    fn decode_undoes_encode(plain in any_plain()) {
        check_round_trip(&plain);
    }

    #[test]
    fn any_bytes_are_safe(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), is_sealed: bool) {
        if is_sealed && bytes.len() > 8 {
            bytes[..5].copy_from_slice(&[b'M', b'R', b'e', b'c', VERSION]);
            seal(&mut bytes);
        }
        read_all(bytes);
    }

    #[test]
    fn changed_records_are_safe(
        plain in any_plain(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = encode(&plain).to_vec();
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(bytes.clone());
        seal(&mut bytes);
        read_all(bytes);
    }
}
