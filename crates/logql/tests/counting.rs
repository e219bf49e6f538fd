//! Counting rows without reading them gives the same answer as reading them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use millrace_logql::{Direction, Params, Query};
use model::{Batch, ByteColumn, Labels, TimeRange, TimestampNs};
use proptest::prelude::*;

fn query(text: &str, start: i64, end: i64, step: u64) -> Query {
    let params = Params {
        start: TimestampNs::from_secs(start),
        end: TimestampNs::from_secs(end),
        step: Duration::from_secs(step),
        interval: Duration::ZERO,
        direction: Direction::Backward,
        limit: 100,
        series_max: 0,
    };
    Query::prepare(text, params).unwrap()
}

fn secs(first: i64, last: i64) -> TimeRange {
    TimeRange::closed(TimestampNs::from_secs(first), TimestampNs::from_secs(last))
}

#[test]
fn window_edges_split_streams() {
    #[track_caller]
    fn check(text: &str, step: u64, time: TimeRange, expected: bool) {
        let query = query(text, 1000, 2000, step);
        let counts = query.scans().iter().all(|scan| scan.counts_whole(time, Some(1)));
        assert_eq!(counts, expected, "{text} {step} {time:?}");
    }
    let plain = r#"sum(count_over_time({a="b"}[100s]))"#;
    check(plain, 100, secs(1001, 1100), true);
    check(plain, 100, secs(1000, 1100), false);
    check(plain, 100, secs(1001, 1101), false);
    check(plain, 100, secs(1100, 1100), true);
    check(plain, 100, secs(1, 100), true);
    check(plain, 100, secs(900, 901), false);
    let uneven = r#"sum(rate({a="b"}[30s] offset 5s))"#;
    check(uneven, 100, secs(996, 1065), true);
    check(uneven, 100, secs(966, 995), true);
    check(uneven, 100, secs(965, 995), false);
    check(uneven, 100, secs(996, 1066), false);
    check(r#"sum(count_over_time({a="b"}[1h]))"#, 0, secs(-1599, 2000), true);
    check(r#"sum(count_over_time({a="b"}[1h]))"#, 0, secs(-1600, 2000), false);
    let both = r#"sum(count_over_time({a="b"}[100s])) / sum(count_over_time({a="b"}[130s]))"#;
    check(both, 100, secs(1001, 1070), true);
    check(both, 100, secs(1001, 1071), false);
}

#[test]
fn what_a_scan_must_see() {
    let check = |text: &str, line_bytes: Option<u64>, expected: bool| {
        let query = query(text, 1000, 2000, 100);
        assert_eq!(query.scans()[0].counts_whole(secs(1001, 1002), line_bytes), expected, "{text} {line_bytes:?}");
    };
    check(r#"sum by (a) (rate({a=~"b.*"}[1m]))"#, None, true);
    check(r#"sum by (level) (rate({a="b"}[1m]))"#, None, false);
    check(r#"sum by (a) (rate({a="b"} |= "x" [1m]))"#, None, false);
    check(r#"sum by (a) (rate({a="b"} | json | x="y" [1m]))"#, None, false);
    check(r#"sum by (a) (bytes_rate({a="b"}[1m]))"#, None, false);
    check(r#"sum by (a) (bytes_rate({a="b"}[1m]))"#, Some(7), true);
    check(r#"sum by (a) (sum_over_time({a="b"} | unwrap a [1m]))"#, Some(7), false);
    check(r#"{a="b"}"#, Some(7), false);
    check(r#"absent_over_time({a="b"}[1m])"#, None, true);
}

/// Rows of one stream whose lines have the lengths of `lines`.
fn batch(labels: &Labels, rows: &[(i64, usize)]) -> Batch {
    let mut offsets = vec![0];
    for (_, length) in rows {
        offsets.push(offsets.last().unwrap() + *length as u32);
    }
    let data = vec![b'x'; *offsets.last().unwrap() as usize];
    Batch {
        labels: labels.clone(),
        timestamps: rows.iter().map(|(second, _)| second * 1_000_000_000).collect(),
        lines: ByteColumn::new(offsets, data.into()).into(),
        metadata: Vec::new(),
        offsets: Vec::new(),
    }
}

proptest! {
    #[test]
    fn counting_is_accepting(
        rows in proptest::collection::vec((0i64..8, 0usize..5), 1..40),
        at in 0i64..100,
        copies in 1u64..200_000,
        (start, steps, step) in (0i64..50, 1i64..10, 0u64..20),
        range in 1u64..40,
        offset in -20i64..20,
        aggregation in proptest::sample::select(vec!["count_over_time", "bytes_rate", "absent_over_time"]),
    ) {
        let sign = if offset < 0 { "-" } else { "" };
        let inner = format!("{aggregation}({{a=\"b\"}} | a=\"b\" [{range}s] offset {sign}{}s)", offset.abs());
        let text = format!("sum by (a) ({inner})");
        let query = query(&text, start, start + (steps - 1) * step as i64, step);
        let scan = &query.scans()[0];
        let rows: Vec<(i64, usize)> = rows.iter().map(|(second, length)| (second + at, *length)).collect();
        let labels = Labels::from_pairs([("a", "b")]);
        let times = || rows.iter().map(|(second, _)| *second);
        let time = secs(times().min().unwrap(), times().max().unwrap());
        let bytes: usize = rows.iter().map(|(_, length)| *length).sum();
        prop_assume!(scan.counts_whole(time, Some(bytes as u64)));
        let (mut seen, mut counted) = (scan.partial(), scan.partial());
        scan.accept(&batch(&labels, &rows), &mut seen).unwrap();
        scan.count(&labels, rows.len() as u64, Some(bytes as u64), time, &mut counted).unwrap();
        prop_assert_eq!(query.finish(vec![seen]).unwrap(), query.finish(vec![counted]).unwrap());

        let mut many = scan.partial();
        scan.count(&labels, rows.len() as u64 * copies, Some(bytes as u64 * copies), time, &mut many).unwrap();
        let is_inside = time.overlaps(&scan.time());
        prop_assert_eq!(many.stats().lines, if is_inside { rows.len() as u64 * copies } else { 0 });
    }
}

#[test]
fn rows_of_several_windows_are_not_counted_blindly() {
    let query = query(r#"sum(count_over_time({a="b"}[100s]))"#, 1000, 2000, 100);
    let scan = &query.scans()[0];
    let labels = Labels::from_pairs([("a", "b")]);
    let refused = scan.count(&labels, 5, None, secs(1000, 1100), &mut scan.partial());
    assert!(refused.is_err());
}
