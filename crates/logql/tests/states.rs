//! Range aggregations of values: the states of cells give the same values as a plain loop over every window, in
//! whichever order partials are merged. The partial of one query also serves another that begins whole steps later.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, time::Duration};

use millrace_logql::{Answer, Direction, Params, Partial, Query};
use model::{Batch, ByteColumn, Labels, TimestampNs};
use proptest::prelude::*;

const OPS: [&str; 10] = [
    "rate",
    "sum_over_time",
    "avg_over_time",
    "min_over_time",
    "max_over_time",
    "stdvar_over_time",
    "stddev_over_time",
    "first_over_time",
    "last_over_time",
    "quantile_over_time",
];

fn params(start: i64, steps: i64, step: u64) -> Params {
    let secs = TimestampNs::from_secs;
    Params {
        start: secs(start),
        end: secs(start + (steps - 1) * step as i64),
        step: Duration::from_secs(step),
        interval: Duration::ZERO,
        direction: Direction::Backward,
        limit: 10,
        series_max: 0,
    }
}

fn query(text: &str, params: Params) -> Query {
    Query::prepare(text, params).unwrap()
}

/// Rows of one stream: seconds and values.
fn batch(rows: &[(i64, f64)]) -> Batch {
    let mut offsets = vec![0];
    let mut data = Vec::new();
    for (_, value) in rows {
        data.extend_from_slice(format!("v={value}").as_bytes());
        offsets.push(data.len() as u32);
    }
    Batch {
        labels: Labels::from_pairs([("a", "b")]),
        timestamps: rows.iter().map(|(second, _)| second * 1_000_000_000).collect(),
        lines: ByteColumn::new(offsets, data.into()).into(),
        metadata: Vec::new(),
        offsets: Vec::new(),
    }
}

fn found(query: &Query, rows: &[(i64, f64)]) -> Partial {
    let mut partial = query.scans()[0].partial();
    query.scans()[0].accept(&batch(rows), &mut partial).unwrap();
    partial
}

fn points(query: &Query, partial: Partial) -> BTreeMap<i64, f64> {
    match query.finish(vec![partial]).unwrap() {
        Answer::Matrix(series) => series.into_iter().flat_map(|s| s.points).collect(),
        Answer::Vector(samples) => samples.into_iter().map(|s| (s.t_ms, s.value)).collect(),
        other => panic!("{other:?}"),
    }
}

/// The value of a window whose values are given in the order of their times.
fn naive(op: &str, range: f64, values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let sum: f64 = values.iter().sum();
    let mean = sum / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    match op {
        "rate" => sum / range,
        "sum_over_time" => sum,
        "avg_over_time" => mean,
        "min_over_time" => values.iter().copied().fold(f64::NAN, f64::min),
        "max_over_time" => values.iter().copied().fold(f64::NAN, f64::max),
        "stdvar_over_time" => variance,
        "stddev_over_time" => variance.sqrt(),
        "first_over_time" => values[0],
        "last_over_time" => *values.last().unwrap(),
        _ => {
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            let rank = 0.3 * (count - 1.0);
            let below = rank.floor() as usize;
            let above = (below + 1).min(values.len() - 1);
            let weight = rank - rank.floor();
            sorted[below] * (1.0 - weight) + sorted[above] * weight
        }
    }
}

fn text(op: &str, range: u64, offset: i64) -> String {
    let quantile = if op == "quantile_over_time" { "0.3, " } else { "" };
    let sign = if offset < 0 { "-" } else { "" };
    format!("{op}({quantile}{{a=\"b\"}} | logfmt | unwrap v [{range}s] offset {sign}{}s)", offset.abs())
}

proptest! {
    #[test]
    fn windows_of_values(
        rows in proptest::collection::btree_map(0i64..120, -1000.0f64..1000.0, 0..60),
        parts in proptest::collection::vec(0usize..3, 1..60),
        rotation in 0usize..3,
        (start, steps, step) in (0i64..60, 1i64..15, 0u64..15),
        range in 1u64..60,
        offset in -10i64..10,
        op in proptest::sample::select(OPS.to_vec()),
    ) {
        let steps = if step == 0 { 1 } else { steps };
        let query = query(&text(op, range, offset), params(start, steps, step));
        let mut by_part: Vec<Vec<(i64, f64)>> = vec![Vec::new(); 3];
        for ((ts, value), part) in rows.iter().zip(parts.iter().cycle()) {
            by_part[*part].push((*ts, *value));
        }
        let merged = |rotation: usize| {
            let mut merged = query.scans()[0].partial();
            for part in 0..3 {
                let sent = serde_json::to_string(&found(&query, &by_part[(part + rotation) % 3])).unwrap();
                let partial: Partial = serde_json::from_str(&sent).unwrap();
                assert!(query.scans()[0].fits(&partial));
                merged.merge(partial);
            }
            points(&query, merged)
        };
        let found = merged(rotation);
        prop_assert_eq!(&found, &merged(0), "the order of partials must not matter");
        let mut expected = BTreeMap::new();
        for i in 0..steps {
            let t = start + i * step as i64;
            let inside = |ts: i64| t - offset - (range as i64) < ts && ts <= t - offset;
            let values: Vec<f64> = rows.iter().filter(|(ts, _)| inside(**ts)).map(|(_, v)| *v).collect();
            if !values.is_empty() {
                expected.insert(t * 1000, naive(op, range as f64, &values));
            }
        }
        prop_assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (t, value) in &expected {
            let error = (found[t] - value).abs();
            prop_assert!(error <= 1e-9 * value.abs().max(1.0), "{} at {}: {} is not {}", op, t, found[t], value);
        }
    }

    #[test]
    fn a_query_takes_what_an_earlier_one_found(
        rows in proptest::collection::btree_map(0i64..200, -1000.0f64..1000.0, 0..60),
        (start, steps, step) in (50i64..60, 5i64..15, 1u64..8),
        later in 0i64..5,
        range in 1u64..40,
        op in proptest::sample::select(OPS.to_vec()),
    ) {
        let text = text(op, range, 0);
        let shift = later * step as i64;
        let (earlier, now) = (query(&text, params(start, steps, step)), query(&text, params(start + shift, steps, step)));
        let (earlier_scan, scan) = (&earlier.scans()[0], &now.scans()[0]);
        prop_assert_eq!(earlier_scan.id(), scan.id());
        let rows: Vec<(i64, f64)> = rows.into_iter().collect();
        // Only rows in the windows of both queries can be reused.
        let is_common = |(second, _): &&(i64, f64)| {
            let ts = TimestampNs::from_secs(*second);
            earlier_scan.time().contains(ts) && scan.time().contains(ts)
        };
        let common: Vec<(i64, f64)> = rows.iter().filter(is_common).copied().collect();
        let adopted = scan.adopt(earlier_scan, found(&earlier, &rows)).unwrap();
        prop_assert!(scan.fits(&adopted));
        prop_assert_eq!(points(&now, adopted), points(&now, found(&now, &common)));
    }
}

#[test]
fn identities() {
    let id = |text: &str, start: i64, step: u64| query(text, params(start, 10, step)).scans()[0].id();
    let plain = r#"sum by (a) (count_over_time({a="b"} |= "x" [1m]))"#;
    let same = |text: &str, start: i64| assert_eq!(id(text, start, 60), id(plain, 600, 60), "{text} {start}");
    same(plain, 660);
    same(plain, 0);
    same(r#"sum by(a)(rate({ a = "b" } |= `x`[1m]))"#, 1200);
    same(r#"sum by (a) (rate({a="b"} |= "x" [5m] offset 1m))"#, 600);
    let other = |text: &str, start: i64| assert_ne!(id(text, start, 60), id(plain, 600, 60), "{text} {start}");
    other(plain, 601);
    other(r#"sum by (a) (count_over_time({a="b"} |= "x" [90s]))"#, 600);
    other(r#"sum by (a) (count_over_time({a="b"} |= "y" [1m]))"#, 600);
    other(r#"sum by (a) (count_over_time({a="c"} |= "x" [1m]))"#, 600);
    other(r#"sum by (b) (count_over_time({a="b"} |= "x" [1m]))"#, 600);
    other(r#"sum without (a) (count_over_time({a="b"} |= "x" [1m]))"#, 600);
    other(r#"sum by (a) (bytes_over_time({a="b"} |= "x" [1m]))"#, 600);
    other(r#"sum by (a) (sum_over_time({a="b"} |= "x" | unwrap c [1m]))"#, 600);
    assert_ne!(id(plain, 600, 60), id(plain, 600, 30));
    let log = r#"{a="b"}"#;
    assert_eq!(id(log, 600, 60), id(log, 600, 60));
    assert_ne!(id(log, 600, 60), id(log, 660, 60));
    // The id must be stable, because caches outlive a process.
    assert_eq!(id(log, 600, 60).to_string().len(), 32);
}

#[test]
fn partials_of_other_scans_do_not_fit() {
    let one = query(&text("sum_over_time", 60, 0), params(0, 10, 60));
    let others = [
        query(&text("avg_over_time", 90, 0), params(0, 10, 60)),
        query(&text("sum_over_time", 60, 0), params(0, 11, 60)),
        query(&text("max_over_time", 60, 0), params(0, 10, 60)),
        query(&text("quantile_over_time", 60, 0), params(0, 10, 60)),
        query(r#"count_over_time({a="b"}[60s])"#, params(0, 10, 60)),
    ];
    let scan = &one.scans()[0];
    assert!(scan.fits(&found(&one, &[(5, 1.0)])));
    for other in &others {
        assert!(!scan.fits(&found(other, &[(5, 1.0)])), "{}", other.text());
    }
}
