//! Scans of a query in one pass give what each scan gives alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cut::SegmentWriter;
use logql::Params;
use schemas::record::{Record, RecordBuilder};

use super::*;

const APPS: [&str; 3] = ["api", "db", "web"];

fn tenant() -> TenantId {
    TenantId::new("acme").expect("a valid name")
}

/// A record with rows of some streams, in random order. Some rows have metadata.
fn record(rng: &mut fastrand::Rng) -> Bytes {
    let mut builder = RecordBuilder::new(&tenant(), TimestampNs::from_secs(1));
    for _ in 0..rng.usize(1..6) {
        let labels =
            Labels::from_pairs([("app", rng.choice(APPS).expect("not empty")), ("host", ["a", "b"][rng.usize(..2)])]);
        builder.stream(&labels, &[]);
        for _ in 0..rng.usize(1..5) {
            let (ts, level) = (TimestampNs::from_secs(rng.i64(0..1000)), ["info", "error"][rng.usize(..2)]);
            let line = format!("took={}ms {}", rng.u32(..100), "x".repeat(rng.usize(..20)));
            let metadata = [("level", level), ("trace", "0123")];
            builder.entry(ts, line.as_bytes(), metadata.into_iter().take(rng.usize(..3)));
        }
    }
    builder.finish(None)
}

fn query(text: &str, limit: u32, direction: Direction) -> Query {
    let params = Params {
        start: TimestampNs::from_secs(200),
        end: TimestampNs::from_secs(800),
        step: Duration::from_secs(100),
        interval: Duration::ZERO,
        direction,
        limit,
        series_max: 0,
    };
    Query::prepare(text, params).expect(text)
}

/// Every row of every stream, one scan after the other, with only what that scan needs.
fn one_by_one(rows: &SegmentRows<'_>, query: &Query) -> Vec<Partial> {
    let alone = |scan: &Scan| {
        let mut partial = scan.partial();
        rows.for_each_stream(|stream| {
            if matches_all(stream, scan.matchers()) {
                for slice in stream.slices().iter().filter(|slice| rows.offsets.contains(slice.offset)) {
                    scan.accept(&slice.rows.batch(slice.offset, scan.needs()), &mut partial).expect("accepted");
                }
            }
        });
        partial
    };
    query.scans().iter().map(alone).collect()
}

#[test]
fn one_pass_equals_one_pass_per_scan() {
    let queries = [
        query(r#"{app="web"}"#, 7, Direction::Forward),
        query(r#"{app=~".+"} |= "xx""#, 5, Direction::Backward),
        query(r#"sum(rate({app="web"}[100s])) / sum(rate({app="web"}[100s]))"#, 0, Direction::Forward),
        query(
            r#"sum by (level) (count_over_time({app="web"}[3m])) + count_over_time({host="a"}[1m] offset 5m)"#,
            0,
            Direction::Forward,
        ),
        query(
            r#"sum by (level) (bytes_over_time({app=~"web|db"}[2m])) / sum by (trace) (count_over_time({app!="db", host="b"} |= "x"[2m]))"#,
            0,
            Direction::Forward,
        ),
        query(
            r#"sum(count_over_time({app="nobody"}[1m])) or sum by (app) (count_over_time({host="b"}[1m]))"#,
            0,
            Direction::Forward,
        ),
    ];
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        let mut offset = Offset::ZERO;
        for _ in 0..rng.usize(1..4) {
            let mut writer = SegmentWriter::new();
            for _ in 0..rng.usize(0..8) {
                writer.append(offset, &Record::decode(record(&mut rng)).expect("a good record"));
                offset = offset.next();
            }
            segments.push(writer.freeze());
        }
        let offsets = OffsetRange::new(Offset::new(rng.i64(0..=offset.value())), offset);
        let tenant = tenant();
        let rows =
            SegmentRows { segments: segments.iter().map(|segment| &**segment).collect(), offsets, tenant: &tenant };
        for query in &queries {
            let partials = rows.scan_all(query, &Abandoned::default()).expect("scanned");
            let expected = query.finish(one_by_one(&rows, query)).expect("an answer");
            assert_eq!(query.finish(partials).expect("an answer"), expected, "seed {seed}: {}", query.text());
        }
    }
}

#[test]
fn an_abandoned_scan_stops() {
    let mut writer = SegmentWriter::new();
    let mut rng = fastrand::Rng::with_seed(1);
    writer.append(Offset::ZERO, &Record::decode(record(&mut rng)).expect("a good record"));
    let segment = writer.freeze();
    let tenant = tenant();
    let offsets = OffsetRange::new(Offset::ZERO, Offset::new(1));
    let rows = SegmentRows { segments: vec![&segment], offsets, tenant: &tenant };
    let abandoned = Abandoned::default();
    abandoned.set();
    let partials = rows.scan_all(&query(r#"{app=~".+"}"#, 10, Direction::Forward), &abandoned).expect("scanned");
    assert_eq!(partials[0].stats().lines, 0);
}
