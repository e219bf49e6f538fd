//! Measures metric queries over batches in memory: `cargo run --release --example evaluate`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement for a person to read")]

use std::time::{Duration, Instant};

use millrace_logql::{Direction, Params, Query};
use model::{Batch, ByteColumn, Labels, TimestampNs};

const STREAMS: i64 = 50;
const ROWS: i64 = 20_000;
const QUERIES: [(&str, i64, u64); 8] = [
    (r#"sum(count_over_time({a="b"}[1m]))"#, 3600, 60),
    (r#"sum by (s) (count_over_time({a="b"}[5m]))"#, 3600, 15),
    (r#"rate({a="b"}[1m])"#, 3600, 60),
    (r#"sum by (s) (bytes_rate({a="b"}[1m]))"#, 3600, 60),
    (r#"sum by (s) (count_over_time({a="b"} |= "7" [1m]))"#, 3600, 60),
    (r#"sum by (s) (sum_over_time({a="b"} | logfmt | unwrap v [1m]))"#, 3600, 60),
    (r#"avg_over_time({a="b"} | logfmt | unwrap v [30m]) by (s)"#, 3600, 5),
    (r#"quantile_over_time(0.9, {a="b"} | logfmt | unwrap v [30m]) by (s)"#, 3600, 5),
];

fn batches() -> Vec<Batch> {
    let batch = |stream: i64| {
        let (mut offsets, mut data) = (vec![0], Vec::new());
        for row in 0..ROWS {
            data.extend_from_slice(format!("v={} text of a line", (row * 7919 + stream) % 1000).as_bytes());
            offsets.push(data.len() as u32);
        }
        Batch {
            labels: Labels::from_pairs([("a", "b"), ("s", &format!("{stream}"))]),
            timestamps: (0..ROWS).map(|row| row * 3_600_000_000_000 / ROWS + stream).collect(),
            lines: ByteColumn::new(offsets, data.into()).into(),
            metadata: Vec::new(),
            offsets: Vec::new(),
        }
    };
    (0..STREAMS).map(batch).collect()
}

fn main() {
    let batches = batches();
    for (text, end, step) in QUERIES {
        let params = Params {
            start: TimestampNs::from_secs(0),
            end: TimestampNs::from_secs(end),
            step: Duration::from_secs(step),
            interval: Duration::ZERO,
            direction: Direction::Backward,
            limit: 10,
            series_max: 0,
        };
        let query = Query::prepare(text, params).unwrap();
        let scan = &query.scans()[0];
        let run = || {
            let since = Instant::now();
            let mut partial = scan.partial();
            batches.iter().for_each(|batch| scan.accept(batch, &mut partial).unwrap());
            let scanned = since.elapsed();
            query.finish(vec![partial]).unwrap();
            (scanned, since.elapsed() - scanned)
        };
        let (scanned, finished) = (0..7).map(|_| run()).min_by_key(|(a, b)| *a + *b).unwrap();
        let per_row = scanned.as_nanos() as f64 / (STREAMS * ROWS) as f64;
        println!("{per_row:7.2} ns a row, finished in {:8.2} ms  {text}", finished.as_secs_f64() * 1e3);
    }
}
