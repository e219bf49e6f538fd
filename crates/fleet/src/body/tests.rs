//! Decoding gives what was encoded, for all results of scans.

use std::time::Duration;

use logql::{Direction, Params, Partial, Query, QueryError};
use model::TimestampNs;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Row {
    stream: usize,
    ts: i64,
    level: Option<usize>,
    line: String,
}

const LEVELS: [&str; 3] = ["info", "warn", ""];

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let number = prop_oneof!["[0-9]{1,4}", Just("NaN".to_owned()), Just("+Inf".to_owned()), Just("x".to_owned())];
    let row = (0usize..3, 0i64..60, proptest::option::of(0usize..3), "[ax]{0,3}", number)
        .prop_map(|(stream, ts, level, word, n)| Row { stream, ts, level, line: format!("{word} n={n} é") });
    proptest::collection::vec(row, 0..60)
}

/// The rows of one stream.
fn batch(rows: &[Row], stream: usize) -> Batch {
    let rows: Vec<(usize, &Row)> = rows.iter().enumerate().filter(|(_, row)| row.stream == stream).collect();
    // The bounds do not begin at 0, as in a slice of a larger column.
    let (mut offsets, mut data) = (vec![2], b"##".to_vec());
    for (_, row) in &rows {
        data.extend_from_slice(row.line.as_bytes());
        offsets.push(data.len() as u32);
    }
    data.extend_from_slice(b"##");
    let dictionary = ByteColumn::new(vec![0, 4, 8, 8], LEVELS.concat().into_bytes().into());
    let ids = rows.iter().map(|(_, r)| r.level.map_or(MetadataValues::ABSENT, |l| l as u32)).collect();
    Batch {
        labels: Labels::from_pairs([("app", ["a", "b", "c"][stream]), ("env", "test")]),
        timestamps: rows.iter().map(|(_, r)| r.ts * 1_000_000_000 + 7).collect(),
        lines: ByteColumn::new(offsets, data.into()).into(),
        metadata: vec![
            MetadataColumn { name: "level".into(), values: MetadataValues::Dictionary { dictionary, ids } },
            MetadataColumn { name: "pod".into(), values: MetadataValues::Constant("p1".into()) },
        ],
        offsets: rows.iter().map(|(i, _)| *i as i64).collect(),
    }
}

fn prepare(text: &str, direction: Direction, limit: u32) -> Query {
    let (start, end) = (TimestampNs::from_secs(0), TimestampNs::from_secs(61));
    let (step, interval) = (Duration::from_secs(7), Duration::ZERO);
    Query::prepare(text, Params { start, end, step, interval, direction, limit, series_max: 0 }).unwrap()
}

const QUERIES: [&str; 12] = [
    r#"{env="test"}"#,
    r#"{env="test"} |= "a" | logfmt | level != "warn""#,
    r#"count_over_time({env="test"}[20s])"#,
    r#"sum by (app) (rate({env="test"} |= "x" [13s]))"#,
    r#"bytes_over_time({env="test"}[20s])"#,
    r#"sum by (level) (bytes_rate({env="test"}[20s]))"#,
    r#"absent_over_time({env="test"}[20s])"#,
    r#"sum_over_time({env="test"} | logfmt | unwrap n | __error__="" [20s])"#,
    r#"quantile_over_time(0.9, {env="test"} | logfmt | unwrap n | __error__="" [20s]) by (app)"#,
    r#"stddev_over_time({env="test"} | logfmt | unwrap n | __error__="" [20s])"#,
    r#"first_over_time({env="test"} | logfmt | unwrap n | __error__="" [20s])"#,
    r#"rate_counter({env="test"} | logfmt | unwrap n | __error__="" [20s])"#,
];

fn scan(query: &Query, rows: &[Row]) -> Partial {
    let scan = &query.scans()[0];
    let mut partial = scan.partial();
    for stream in 0..3 {
        scan.accept(&batch(rows, stream), &mut partial).unwrap();
    }
    partial
}

proptest! {
    #[test]
    fn partials_survive(rows in rows(), more in rows(), query in 0..QUERIES.len(), forward: bool, limit in 1u32..40) {
        let direction = if forward { Direction::Forward } else { Direction::Backward };
        let query = prepare(QUERIES[query], direction, limit);
        let partial = scan(&query, &rows);
        let body = encode(&partial).unwrap();
        let read: Partial = decode(Some(&body)).unwrap();
        prop_assert!(query.scans()[0].fits(&read));
        prop_assert_eq!(read.stats(), partial.stats());
        prop_assert_eq!(encode(&read).unwrap().bytes.len(), body.bytes.len());
        // Compares debug texts, since NaN does not equal itself.
        let answer = |partial: Partial| format!("{:?}", query.finish(vec![partial]).unwrap());
        prop_assert_eq!(answer(read.clone()), answer(partial.clone()));
        // The decoded partial merges like the original.
        let merged = |mut one: Partial| {
            one.merge(scan(&query, &more));
            answer(one)
        };
        prop_assert_eq!(merged(read.clone()), merged(partial.clone()));
        let merged_into = |other: Partial| {
            let mut one = scan(&query, &more);
            one.merge(other);
            answer(one)
        };
        prop_assert_eq!(merged_into(read), merged_into(partial));
    }

    #[test]
    fn rows_survive(rows in rows(), stream in 0usize..3) {
        let written = batch(&rows, stream);
        let body = encode(&Rows::from(&written)).unwrap();
        let read = Batch::try_from(decode::<Rows>(Some(&body)).unwrap()).unwrap();
        prop_assert_eq!(&read.labels, &written.labels);
        prop_assert_eq!((&read.timestamps, &read.offsets), (&written.timestamps, &written.offsets));
        let lines = |batch: &Batch| -> Vec<Vec<u8>> { (0..batch.lines.len()).map(|i| batch.lines.get(i).to_vec()).collect() };
        prop_assert_eq!(lines(&read), lines(&written));
        let metadata = |batch: &Batch| -> Vec<(String, Vec<Option<String>>)> {
            let values = |column: &MetadataColumn| (0..batch.len()).map(|i| column.values.get(i).map(str::to_owned)).collect();
            batch.metadata.iter().map(|column| (column.name.to_string(), values(column))).collect()
        };
        prop_assert_eq!(metadata(&read), metadata(&written));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let body = Body { format: FORMAT, bytes: bytes.into() };
        let _ = decode::<Partial>(Some(&body));
        let _ = decode::<QueryError>(Some(&body));
        let _ = decode::<Rows>(Some(&body)).map(Batch::try_from);
    }

    /// Damaged bytes are refused or decode to a valid value; nothing panics.
    #[test]
    fn damaged_rows_are_read_or_refused(rows in rows(), at: usize, flip in 1u8..) {
        let mut bytes = encode(&Rows::from(&batch(&rows, 0))).unwrap().bytes.to_vec();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        let body = Body { format: FORMAT, bytes: bytes.into() };
        if let Ok(Ok(batch)) = decode::<Rows>(Some(&body)).map(Batch::try_from) {
            for i in 0..batch.lines.len() {
                batch.lines.get(i);
            }
            batch.metadata.iter().for_each(|column| (0..batch.len()).for_each(|i| assert!(column.values.get(i).is_none_or(|v| v.len() < 1000))));
        }
    }

    #[test]
    fn damaged_partials_are_refused_or_fit(rows in rows(), query in 0..QUERIES.len(), at: usize, flip in 1u8..) {
        let query = prepare(QUERIES[query], Direction::Backward, 20);
        let mut bytes = encode(&scan(&query, &rows)).unwrap().bytes.to_vec();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        let body = Body { format: FORMAT, bytes: bytes.into() };
        if let Ok(partial) = decode::<Partial>(Some(&body)) && query.scans()[0].fits(&partial) {
            let mut merged = scan(&query, &rows);
            merged.merge(partial);
            let _ = query.finish(vec![merged]);
        }
    }
}

#[test]
fn formats_are_checked() {
    let check = |body: Option<Body>, expected: &str| {
        assert_eq!(decode::<u32>(body.as_ref()).unwrap_err().to_string(), expected);
    };
    check(None, "the answer has no body");
    check(Some(Body { format: 1, bytes: Bytes::new() }), "the answer has format 1, but this program reads 2");
    let short = "the answer cannot be read: Hit the end of buffer, expected more data";
    check(Some(Body { format: 2, bytes: Bytes::new() }), short);
}

/// A body has each label set once, not once per entry. Equal sets share memory after decoding.
#[test]
fn five_thousand_entries_are_small() {
    let query = prepare(r#"{env="test"}"#, Direction::Backward, 5000);
    let rows: Vec<Row> = (0..5000)
        .map(|i| Row { stream: i % 3, ts: 30, level: Some(0), line: format!("{i:07} {}", "x".repeat(92)) })
        .collect();
    let partial = scan(&query, &rows);
    let body = encode(&partial).unwrap();
    let lines = 5000 * 100;
    assert!(body.bytes.len() < lines + 5000 * 28, "{} bytes, {lines} of them lines", body.bytes.len());

    println!("a partial of 5000 entries of 100 bytes: {} bytes", body.bytes.len());
}
