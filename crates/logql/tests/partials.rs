//! The answer equals that of a plain loop over all rows, no matter how rows are split into batches and partials and in
//! which order partials are merged.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, time::Duration};

use millrace_logql::{Answer, Direction, Params, Partial, Query};
use model::{Batch, ByteColumn, Labels, MetadataColumn, MetadataValues, TimestampNs};
use proptest::prelude::*;

/// A row of one of three streams.
#[derive(Clone, Debug)]
struct Row {
    stream: usize,
    ts: i64,
    offset: i64,
    level: Option<usize>,
    line: String,
}

const LEVELS: [&str; 3] = ["info", "warn", ""];

fn labels(stream: usize) -> Labels {
    Labels::from_pairs([("app", ["a", "b", "c"][stream]), ("env", "test")])
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (0usize..3, 0i64..60, proptest::option::of(0usize..3), "[ax]{0,3}( n=[0-9]{1,2})?")
        .prop_map(|(stream, ts, level, line)| Row { stream, ts, offset: 0, level, line });
    proptest::collection::vec(row, 0..80).prop_map(|mut rows| {
        rows.iter_mut().enumerate().for_each(|(i, row)| row.offset = i as i64);
        rows
    })
}

fn batch(rows: &[&Row]) -> Batch {
    let mut offsets = vec![0];
    let mut data = Vec::new();
    for row in rows {
        data.extend_from_slice(row.line.as_bytes());
        offsets.push(data.len() as u32);
    }
    let dictionary = ByteColumn::new(vec![0, 4, 8, 8], LEVELS.concat().into_bytes().into());
    let ids = rows.iter().map(|r| r.level.map_or(MetadataValues::ABSENT, |l| l as u32)).collect();
    Batch {
        labels: labels(rows[0].stream),
        timestamps: rows.iter().map(|r| r.ts).collect(),
        lines: ByteColumn::new(offsets, data.into()).into(),
        metadata: vec![MetadataColumn { name: "level".into(), values: MetadataValues::Dictionary { dictionary, ids } }],
        offsets: rows.iter().map(|r| r.offset).collect(),
    }
}

/// Splits the rows into batches by `cuts` (a number for each row), adds each batch to one of three partials and merges
/// the partials in the order given by `order`.
fn answer(text: &str, params: Params, rows: &[Row], cuts: &[usize], order: [usize; 3]) -> Answer {
    let query = Query::prepare(text, params).unwrap();
    let scan = &query.scans()[0];
    let mut partials: Vec<Partial> = (0..3).map(|_| scan.partial()).collect();
    let mut parts: BTreeMap<(usize, usize), Vec<&Row>> = BTreeMap::new();
    for (row, cut) in rows.iter().zip(cuts.iter().cycle()) {
        parts.entry((row.stream, *cut)).or_default().push(row);
    }
    for ((_, cut), rows) in &parts {
        scan.accept(&batch(rows), &mut partials[cut % 3]).unwrap();
    }
    let mut merged = scan.partial();
    for i in order {
        merged.merge(partials[i].clone());
    }
    assert!(merged.stats().lines <= rows.len() as u64);
    query.finish(vec![merged]).unwrap()
}

fn orders() -> impl Strategy<Value = [usize; 3]> {
    proptest::sample::select(vec![[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
}

proptest! {
    #[test]
    fn windows(
        rows in rows(),
        cuts in proptest::collection::vec(0usize..6, 1..80),
        order in orders(),
        start in 0i64..30,
        steps in 1i64..12,
        step in 1i64..15,
        range in 1i64..25,
        offset in -10i64..10,
        op in proptest::sample::select(vec!["count_over_time", "bytes_over_time"]),
        by in proptest::sample::select(vec!["", "app", "level", "app, level", "none"]),
        filter in proptest::sample::select(vec!["", "|= \"x\"", "!= \"a\"", "| level=\"warn\"", "|~ \"a.?x\" | level=~\"warn|info\""]),
    ) {
        let nanos = |n: i64| if n < 0 { format!("-{}ms", -n) } else { format!("{n}ms") };
        let ms = 1_000_000;
        let text = format!("sum by ({by}) ({op}({{env=\"test\"}} {filter} [{}] offset {}))", nanos(range), nanos(offset));
        let params = Params {
            start: TimestampNs::from_nanos(start * ms),
            end: TimestampNs::from_nanos((start + (steps - 1) * step) * ms),
            step: Duration::from_millis(step as u64),
            interval: Duration::ZERO,
            direction: Direction::Backward,
            limit: 10,
            series_max: 0,
        };
        let rows: Vec<Row> = rows.into_iter().map(|r| Row { ts: r.ts * ms, ..r }).collect();
        let passes = |row: &Row| {
            let level = row.level.map_or("", |l| LEVELS[l]);
            match filter {
                "" => true,
                "|= \"x\"" => row.line.contains('x'),
                "!= \"a\"" => !row.line.contains('a'),
                "| level=\"warn\"" => level == "warn",
                _ => ["ax", "aax", "axx", "a x"].iter().any(|t| row.line.contains(t)) && !level.is_empty(),
            }
        };
        let mut expected: BTreeMap<Labels, BTreeMap<i64, f64>> = BTreeMap::new();
        for i in 0..steps {
            let t = (start + i * step) * ms;
            for row in rows.iter().filter(|r| passes(r)) {
                if t - (offset + range) * ms < row.ts && row.ts <= t - offset * ms {
                    let mut all: Vec<(String, String)> = labels(row.stream).iter().map(|(n, v)| (n.into(), v.into())).collect();
                    all.extend(row.level.map(|l| ("level".to_owned(), LEVELS[l].to_owned())));
                    all.retain(|(n, _)| by.split(", ").any(|b| b == n));
                    let all = Labels::with_empty_values(all.iter().map(|(n, v)| (n.as_str(), v.as_str())));
                    let weight = if op == "count_over_time" { 1.0 } else { row.line.len() as f64 };
                    *expected.entry(all).or_default().entry(t / ms).or_default() += weight;
                }
            }
        }
        let Answer::Matrix(found) = answer(&text, params, &rows, &cuts, order) else { panic!("no matrix") };
        let found: Vec<_> = found.into_iter().map(|s| (s.labels, s.points)).collect();
        let expected: Vec<_> = expected.into_iter().map(|(labels, points)| (labels, points.into_iter().collect::<Vec<_>>())).collect();
        prop_assert_eq!(found, expected, "{}", text);
    }

    #[test]
    fn limits(
        rows in rows(),
        cuts in proptest::collection::vec(0usize..6, 1..80),
        order in orders(),
        limit in 0u32..20,
        backward: bool,
        filter in proptest::sample::select(vec!["", "|= \"x\"", "| logfmt | n > 20", "| level=\"warn\""]),
    ) {
        let direction = if backward { Direction::Backward } else { Direction::Forward };
        let params = Params {
            start: TimestampNs::from_nanos(5),
            end: TimestampNs::from_nanos(50),
            step: Duration::ZERO,
            interval: Duration::ZERO,
            direction,
            limit,
            series_max: 0,
        };
        let passes = |row: &&Row| {
            (5..50).contains(&row.ts) && match filter {
                "" => true,
                "|= \"x\"" => row.line.contains('x'),
                "| level=\"warn\"" => row.level == Some(1),
                _ => row.line.split_once("n=").is_some_and(|(_, n)| n.parse::<u32>().unwrap() > 20),
            }
        };
        let mut expected: Vec<&Row> = rows.iter().filter(passes).collect();
        expected.sort_by_key(|r| (r.ts, labels(r.stream).stream_hash(), r.offset));
        if backward {
            expected.reverse();
        }
        expected.truncate(limit as usize);
        let mut expected: Vec<(i64, String, Vec<u8>)> =
            expected.iter().map(|r| (r.ts, labels(r.stream).get("app").unwrap().to_owned(), r.line.clone().into_bytes())).collect();
        let Answer::Streams(streams) = answer(&format!("{{env=\"test\"}} {filter}"), params, &rows, &cuts, order) else { panic!("no streams") };
        prop_assert!(streams.is_sorted_by_key(|s| s.labels.to_string()));
        let mut found = Vec::new();
        for stream in &streams {
            let is_sorted = stream.entries.is_sorted_by(|a, b| if backward { a.ts >= b.ts } else { a.ts <= b.ts });
            prop_assert!(is_sorted);
            let app = stream.labels.get("app").unwrap();
            found.extend(stream.entries.iter().map(|e| (e.ts.nanos(), app.to_owned(), e.line.clone())));
        }
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected);
    }
}
