//! The exact read: an answer has every row once, whether it is in memory, in a block, or in both for a while.

#![allow(clippy::disallowed_methods, reason = "tests own what they start")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{NOW, Row, World, encode, range_path, row};
use fastrand::Rng;
use http::StatusCode;
use limits::{Limits, PromDuration};
use millrace_query_service::Config;
use model::TimestampNs;
use object_store::{ObjectKey, ObjectStore};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

const PARTITIONS: u32 = 3;

/// A random row. Rows have few distinct times, so that many are equal; they are out of order, and have words to search for.
fn random_row(rng: &mut Rng, number: usize) -> Row {
    let apps = ["web", "db", "cache", "queue"];
    let app = apps[rng.usize(..apps.len())];
    let pod = rng.u8(..3).to_string();
    let ago = rng.u64(1..500);
    let word = ["ok", "error", "warning"][rng.usize(..3)];
    let mut row = row(&[("app", app), ("pod", &pod)], NOW.minus(Duration::from_secs(ago)), &format!("{number} {word}"));
    if rng.bool() {
        row.metadata.push(("trace".to_owned(), rng.u8(..5).to_string()));
    }
    row
}

/// A query, and the rows that it selects.
struct Case {
    query: &'static str,
    app: fn(&str) -> bool,
    line: fn(&str) -> bool,
}

const CASES: [Case; 5] = [
    Case { query: r#"{app="web"}"#, app: |a| a == "web", line: |_| true },
    Case { query: r#"{app=~".+"}"#, app: |_| true, line: |_| true },
    Case { query: r#"{app!="web", pod=~".+"} |= "error""#, app: |a| a != "web", line: |l| l.contains("error") },
    Case { query: r#"{app=~"db|cache"} != "ok""#, app: |a| a == "db" || a == "cache", line: |l| !l.contains("ok") },
    Case { query: r#"{app="nothing"}"#, app: |_| false, line: |_| true },
];

/// Lines in the order of the answer, each with its time.
fn lines(result: &Value) -> Vec<(i64, String)> {
    let text = |v: &Value| v.as_str().expect("text").to_owned();
    let streams = result.as_array().expect("a list").iter();
    let values = streams.flat_map(|s| s["values"].as_array().expect("a list").clone());
    values.map(|v| (text(&v[0]).parse().expect("a time"), text(&v[1]))).collect()
}

async fn check_answers(world: &World, rows: &[Row], rng: &mut Rng, seed: u64) {
    for case in &CASES {
        let app = |row: &Row| row.labels.get("app").expect("an app").to_owned();
        let matching: Vec<&Row> = rows.iter().filter(|r| (case.app)(&app(r)) && (case.line)(&r.line)).collect();

        // All rows.
        let mut expected: Vec<(i64, String)> = matching.iter().map(|r| (r.ts.nanos(), r.line.clone())).collect();
        let mut found = lines(&world.result(&range_path(case.query, "&limit=5000")).await);
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "seed {seed}: {}", case.query);

        // The newest or oldest in a part of the time. Among entries of one time, any may be in the answer.
        let limit = rng.usize(1..20);
        let (from, to) = (rng.u64(250..550), rng.u64(0..250));
        let (start, end) = (NOW.minus(Duration::from_secs(from)), NOW.minus(Duration::from_secs(to)));
        for direction in ["forward", "backward"] {
            let mut times: Vec<TimestampNs> =
                matching.iter().map(|r| r.ts).filter(|ts| start <= *ts && *ts < end).collect();
            times.sort();
            if direction == "backward" {
                times.reverse();
            }
            times.truncate(limit);
            times.sort();
            let path = format!(
                "/loki/api/v1/query_range?query={}&start={}&end={}&limit={limit}&direction={direction}",
                encode(case.query),
                start.nanos(),
                end.nanos()
            );
            let mut found: Vec<i64> = lines(&world.result(&path).await).iter().map(|(ts, _)| *ts).collect();
            found.sort_unstable();
            let expected: Vec<i64> = times.iter().map(|t| t.nanos()).collect();
            assert_eq!(found, expected, "seed {seed}: {} {direction} {limit}", case.query);
        }

        // The number of rows in one window.
        let window = rng.u64(1..600);
        let at = NOW.minus(Duration::from_secs(rng.u64(0..300)));
        let start = at.minus(Duration::from_secs(window));
        let expected = matching.iter().filter(|r| start < r.ts && r.ts <= at).count();
        let query = encode(&format!("sum(count_over_time({}[{window}s]))", case.query));
        let found = world.result(&format!("/loki/api/v1/query?query={query}&time={}", at.nanos())).await;
        let found = found[0]["value"][1].as_str().map_or(0, |v| v.parse().expect("a number"));
        assert_eq!(found, expected, "seed {seed}: {} in {window}s", case.query);

        // The number of rows in each of many windows, which may overlap or have gaps between them.
        let (window, step) = (rng.i64(1..200), rng.i64(1..200));
        let (start, end) = (NOW.nanos() / 1_000_000_000 - 600, NOW.nanos() / 1_000_000_000);
        let query = encode(&format!("sum(count_over_time({}[{window}s]))", case.query));
        let path = format!("/loki/api/v1/query_range?query={query}&start={start}&end={end}&step={step}");
        let result = world.result(&path).await;
        let points = result[0]["values"].as_array().cloned().unwrap_or_default();
        let point =
            |p: &Value| (p[0].as_i64().expect("a second"), p[1].as_str().expect("text").parse().expect("a number"));
        let found: Vec<(i64, usize)> = points.iter().map(point).collect();
        let (first, last) = (start.div_euclid(step), (end + step - 1).div_euclid(step));
        let count = |at: i64| {
            let inside = |r: &&&Row| (at - window) * 1_000_000_000 < r.ts.nanos() && r.ts.nanos() <= at * 1_000_000_000;
            matching.iter().filter(inside).count()
        };
        let expected = (first..=last).map(|i| (i * step, count(i * step))).filter(|(_, n)| *n > 0);
        assert_eq!(found, expected.collect::<Vec<_>>(), "seed {seed}: {} in {window}s by {step}s", case.query);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_once_whatever_lies_where() {
    for seed in 0..12 {
        let mut rng = Rng::with_seed(seed);
        // In some rounds the heads of plans are old on purpose.
        let head_age_max = limits::PromDuration::from_secs(if rng.bool() { 0 } else { 3600 });
        let world = World::with(PARTITIONS, Config { head_age_max, ..Config::default() }, limits::Limits::default());
        let mut rows: Vec<Row> = Vec::new();
        for _ in 0..rng.usize(1..6) {
            for partition in 0..PARTITIONS {
                let new: Vec<Row> = (0..rng.usize(0..120)).map(|i| random_row(&mut rng, rows.len() + i)).collect();
                world.owner.append(partition, &new);
                rows.extend(new);
                let end = world.owner.end(partition);
                let head = world.heads.read(model::PartitionId::new(partition)).await.expect("a head");
                let flushed = head.map_or(0, |(head, _)| head.flushed_to.value());
                // There may be rows above a cut, and memory may keep rows below it.
                if rng.bool() && end > flushed {
                    let to = rng.i64(flushed + 1..=end);
                    world.cut(partition, to).await;
                    if rng.bool() {
                        world.owner.evict(partition, rng.i64(..=to).max(0).max(evicted(&world, partition)));
                    }
                }
            }
            check_answers(&world, &rows, &mut rng, seed).await;
        }
    }
}

/// The offset at which a partition's memory begins.
fn evicted(world: &World, partition: u32) -> i64 {
    use owner::Owner;
    Owner::held(&*world.owner, model::PartitionId::new(partition)).map_or(0, |held| held.start.value())
}

#[tokio::test]
async fn an_old_head_is_read_anew_when_memory_has_moved_on() {
    let config = Config { head_age_max: limits::PromDuration::from_hours(1), ..Config::default() };
    let world = World::with(1, config, limits::Limits::default());
    let rows: Vec<Row> =
        (0..10).map(|i| row(&[("app", "web")], NOW.minus(Duration::from_secs(i + 1)), &i.to_string())).collect();
    world.owner.append(0, &rows);
    let path = range_path(r#"{app="web"}"#, "");
    assert_eq!(lines(&world.result(&path).await).len(), 10);
    world.cut(0, 10).await;
    world.owner.evict(0, 10);
    assert_eq!(lines(&world.result(&path).await).len(), 10);
    assert_eq!(world.get("/loki/api/v1/series").await.json()["data"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn an_answer_is_whole_or_an_error() {
    let config = Config { strong_wait_max: PromDuration::from_millis(500), ..Config::default() };
    let world = World::with(1, config, Limits::default());
    let rows: Vec<Row> =
        (0..10).map(|i| row(&[("app", "web")], NOW.minus(Duration::from_secs(i + 1)), &i.to_string())).collect();
    world.owner.append(0, &rows);
    world.cut(0, 5).await;
    let path = range_path(r#"{app="web"}"#, "");

    // Memory evicted rows that no head lists.
    world.owner.evict(0, 7);
    let reply = world.get(&path).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.text());

    // A block is gone for good.
    let world = World::new(1);
    world.owner.append(0, &rows);
    world.cut(0, 5).await;
    let (head, _) = world.heads.read(model::PartitionId::new(0)).await.expect("read").expect("a head");
    world.store.delete(&ObjectKey::new(&head.blocks[0].key).expect("a key")).await.expect("deleted");
    let reply = world.get(&path).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.text());
    assert!(reply.text().contains("is gone"), "{}", reply.text());
}

#[tokio::test]
async fn lost_ranges_are_told() {
    let world = World::new(1);
    let mut lead =
        world.heads.acquire(model::PartitionId::new(0), "test", model::Offset::new(5)).await.expect("leadership");
    assert_eq!(lead.flushed_to(), model::Offset::new(5));
    for number in 0..5 {
        world.owner.append(0, &[row(&[("app", "web")], NOW.minus(Duration::from_secs(10)), &number.to_string())]);
    }
    world.owner.evict(0, 5);
    let reply = world.get(&range_path(r#"{app="web"}"#, "")).await.json();
    let warning = reply["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("offsets [0, 5) of partition 0 were lost"), "{reply}");
    assert!(lead.refresh().await.is_ok());
}

#[tokio::test]
async fn whole_streams_are_counted_without_reading_them() {
    let world = World::new(1);
    let rows: Vec<Row> =
        (1..=300).map(|i| row(&[("app", "web")], NOW.minus(Duration::from_secs(i)), &i.to_string())).collect();
    world.owner.append(0, &rows);
    world.cut(0, 300).await;
    world.owner.evict(0, 300);
    let check = async |query: &str, expected: &str, fetches: bool| {
        let reply = world.get(&format!("/loki/api/v1/query?query={}&time={}", encode(query), NOW.nanos())).await.json();
        assert_eq!(reply["data"]["result"][0]["value"][1], expected, "{query}: {reply}");
        let fetched = reply["data"]["stats"]["querier"]["store"]["chunk"]["compressedBytes"].as_u64();
        assert_eq!(fetched.is_some_and(|bytes| bytes > 0), fetches, "{query}");
    };
    check(r#"sum(count_over_time({app="web"}[1h]))"#, "300", false).await;
    check(r#"count_over_time({app="web"}[100s])"#, "99", true).await;
    check(r#"bytes_over_time({app="web"}[1h])"#, "792", true).await;
}

#[tokio::test]
async fn a_limit_that_is_met_early_reads_little() {
    let world = World::new(1);
    for block in 0..20u64 {
        let rows: Vec<Row> = (0..200)
            .map(|i| {
                let ago = Duration::from_millis((20 - block) * 20_000 - i * 100);
                row(
                    &[("app", "web"), ("pod", &(i % 5).to_string())],
                    NOW.minus(ago),
                    &format!("{block} {i} padding padding"),
                )
            })
            .collect();
        let first = world.owner.append(0, &rows);
        world.cut(0, first + 200).await;
    }
    let end = world.owner.end(0);
    world.owner.evict(0, end);
    for direction in ["forward", "backward"] {
        let path = range_path(r#"{app="web"}"#, &format!("&limit=10&direction={direction}"));
        let reply = world.get(&path).await.json();
        let stats = &reply["data"]["stats"];
        assert_eq!(lines(&reply["data"]["result"]).len(), 10);
        assert_eq!(stats["querier"]["store"]["totalChunksRef"], 20);
        assert_eq!(stats["querier"]["store"]["totalChunksDownloaded"], 1, "{direction}");
        let looked_at = stats["summary"]["totalLinesProcessed"].as_u64().unwrap_or(u64::MAX);
        assert!(looked_at <= 200, "{direction}: {looked_at} of 4000 lines");
    }
}

/// Ratios of counts over the same rows. The selectors of the last two differ, but select the same streams.
const RATIOS: [&str; 3] = [
    r#"sum(count_over_time({app="web"}[1h])) / sum(count_over_time({app="web"}[1h]))"#,
    r#"sum(rate({app="web"}[1h])) / sum(rate({app=~"w.b"}[1h]))"#,
    r#"sum(bytes_over_time({app="web"} |= "row" [1h])) / sum(bytes_over_time({app=~"w.b", pod!="x"}[1h]))"#,
];

async fn check_ratios(world: &World) {
    for query in RATIOS {
        let path = format!("/loki/api/v1/query?query={}&time={}", encode(query), NOW.nanos());
        assert_eq!(world.result(&path).await[0]["value"][1], "1", "{query}");
        let (start, end) = (NOW.nanos() - 60_000_000_000, NOW.nanos());
        let path = format!("/loki/api/v1/query_range?query={}&start={start}&end={end}&step=20", encode(query));
        let result = world.result(&path).await;
        let points = result[0]["values"].as_array().expect("points");
        assert!(!points.is_empty() && points.iter().all(|point| point[1] == "1"), "{query}: {result}");
    }
}

fn row_of(number: u64) -> Row {
    let pod = (number % 3).to_string();
    let ago = Duration::from_secs(1 + number % 300);
    row(&[("app", "web"), ("pod", &pod)], NOW.minus(ago), &format!("row {number}"))
}

/// Every scan of memory appends a row, so a reader that asks memory once for each leg of a query gets different legs.
#[tokio::test]
async fn both_legs_see_one_moment_of_memory() {
    let world = World::new(1);
    world.owner.append(0, &(0..40).map(row_of).collect::<Vec<_>>());
    world.cut(0, 20).await;
    *world.owner.scans_append.lock() = Some(row_of(7));
    check_ratios(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_legs_see_one_moment_under_ingest() {
    let world = Arc::new(World::new(2));
    world.owner.append(0, &(0..300).map(row_of).collect::<Vec<_>>());
    let stop = CancellationToken::new();
    let ingest = {
        let (world, stop) = (world.clone(), stop.clone());
        tokio::spawn(async move {
            let mut number = 1000;
            while !stop.is_cancelled() {
                for partition in 0..2 {
                    world.owner.append(partition, &(number..number + 20).map(row_of).collect::<Vec<_>>());
                    number += 20;
                    let end = world.owner.end(partition);
                    world.cut(partition, end).await;
                    world.owner.evict(partition, end);
                    world.owner.append(partition, &[row_of(number)]);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    };
    for _ in 0..10 {
        check_ratios(&world).await;
    }
    stop.cancel();
    ingest.await.expect("rows were ingested");
}

#[tokio::test]
async fn legs_share_what_they_read() {
    let world = World::new(1);
    world.owner.append(0, &(0..400).map(row_of).collect::<Vec<_>>());
    world.cut(0, 400).await;
    world.owner.evict(0, 400);
    let stats = async |query: &str| {
        let path = format!("/loki/api/v1/query?query={}&time={}", encode(query), NOW.nanos());
        let reply = world.get(&path).await.json();
        let number = |pointer: &str| reply["data"]["stats"].pointer(pointer).and_then(Value::as_u64).expect("a number");
        [
            "/summary/totalLinesProcessed",
            "/summary/totalBytesProcessed",
            "/summary/subqueries",
            "/querier/store/totalChunksRef",
            "/querier/store/totalChunksDownloaded",
            "/querier/store/chunk/compressedBytes",
            "/index/totalStreams",
            "/ingester/totalReached",
        ]
        .map(number)
    };
    let one = r#"sum(bytes_over_time({app="web"} |= "1" [1h]))"#;
    let alone = stats(one).await;
    assert!(alone.iter().all(|number| *number > 0), "{alone:?}");
    assert_eq!(stats(&format!("{one} / {one}")).await, alone);
    assert_eq!(stats(&format!("{one} / sum(count_over_time({{app=~\"w.b\"}} |~ \"2|3\" [1h]))")).await, alone);
    // A stream that only one leg wants is read for this leg alone.
    let part = r#"sum(bytes_over_time({pod="1"} |= "1" [1h]))"#;
    assert_eq!(stats(&format!("{part} / {one}")).await[..2], alone[..2]);
}

#[tokio::test]
async fn legs_of_different_times_are_exact() {
    let world = World::new(1);
    world.owner.append(0, &(0..300).map(row_of).collect::<Vec<_>>());
    world.cut(0, 300).await;
    world.owner.evict(0, 300);
    let check = async |query: &str, expected: &str| {
        let path = format!("/loki/api/v1/query?query={}&time={}", encode(query), NOW.nanos());
        assert_eq!(world.result(&path).await[0]["value"][1], expected, "{query}");
    };
    // One row each second, from 1 to 300 seconds ago.
    let count = |range: &str| format!(r#"sum(count_over_time({{app="web"}} |= "row" [{range}]))"#);
    let sum = |ranges: &[&str]| ranges.iter().map(|range| count(range)).collect::<Vec<_>>().join(" + ");
    check(&sum(&["100s", "200s"]), "298").await;
    let late = r#"sum(count_over_time({app="web"} |= "row" [50s] offset 200s))"#;
    check(&format!("{} + {late}", count("50s")), "99").await;
    check(&format!("{} + {late} * 1000", count("1h")), "50300").await;
    check(&format!("{late} + sum(count_over_time({{pod=\"1\"}}[1h])) * 1000"), "100050").await;
}
