//! What answers must contain: strong and eventual reads, read tokens, partitions that are added, owners that lag or are
//! unavailable, and outages of the store.

#![allow(clippy::disallowed_methods, reason = "tests own what they start")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{LOG_ID, NOW, Reply, Row, World, range_path, row};
use http::StatusCode;
use limits::{Limits, PromDuration};
use millrace_query_service::{Config, Consistency};
use model::{Offset, PartitionId, ReadToken};
use owner::Owner;

const CONSISTENCY: &str = "X-Millrace-Consistency";
const TOKEN: &str = "X-Millrace-Read-Token";

fn rows(numbers: std::ops::Range<u64>) -> Vec<Row> {
    let of = |i: u64| {
        row(&[("app", "web"), ("pod", &(i % 3).to_string())], NOW.minus(Duration::from_secs(i + 1)), &i.to_string())
    };
    numbers.map(of).collect()
}

fn path() -> String {
    range_path(r#"{app="web"}"#, "&limit=5000")
}

/// A world whose requests are eventual by default, and do not wait long.
fn eventual(partitions: u32) -> World {
    let config = Config {
        strong_wait_max: PromDuration::from_millis(1_000),
        head_wait_max: PromDuration::from_millis(100),
        ..Config::default()
    };
    World::of(partitions, config, Limits::default(), None)
}

fn token(parts: &[(u32, i64)]) -> String {
    let mut token = ReadToken::new(LOG_ID);
    parts.iter().for_each(|(partition, end)| token.add(PartitionId::new(*partition), Offset::new(*end)));
    token.to_string()
}

fn line_count(reply: &Reply) -> usize {
    numbers(reply).len()
}

#[tokio::test]
async fn eventual_reads_take_what_there_is_and_strong_ones_wait() {
    let world = eventual(2);
    world.owner.append(0, &rows(0..10));
    world.owner.append(1, &rows(10..20));
    world.owner.lag(1, 4);
    assert_eq!(line_count(&world.get(&path()).await), 16);
    assert_eq!(world.owner.ends_asked.load(Ordering::Relaxed), 0, "an eventual read does not ask the log");
    assert_eq!(world.metric("millrace_query_reads_total", "eventual"), 1.0);

    // By header and by parameter, for every endpoint that reads rows.
    let api = "/loki/api/v1";
    for path in
        [path(), format!("{api}/series"), format!("{api}/labels"), format!("{api}/index/stats?query={{app=%22web%22}}")]
    {
        let reply = world.get_with(&path, (CONSISTENCY, "strong")).await;
        assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT, "{path}");
        for part in ["partition 1 is consumed up to offset 6", "asks for offset 10", "not reached within"] {
            assert!(reply.text().contains(part), "{}", reply.text());
        }
    }

    let reply = world.get("/loki/api/v1/series?consistency=strong").await;
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);

    let catches_up = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.owner.lag(1, 0);
    };
    let path = path();
    let (reply, ()) = tokio::join!(world.get_with(&path, (CONSISTENCY, "strong")), catches_up);
    assert_eq!(line_count(&reply), 20);
    assert_eq!(world.metric("millrace_query_strong_wait_seconds", ""), 1.0);
    // The header wins over the parameter.
    world.owner.lag(1, 4);
    let reply = world.get_with(&format!("{path}&consistency=strong"), (CONSISTENCY, "eventual")).await;
    assert_eq!(line_count(&reply), 16);
}

#[tokio::test]
async fn the_default_is_set() {
    let check = async |config: Consistency, component: Option<Consistency>, expected: u64| {
        let config = Config { consistency: config, ..Config::default() };
        let world = World::of(1, config, Limits::default(), component);
        world.owner.append(0, &rows(0..3));
        assert_eq!(line_count(&world.get(&path()).await), 3);
        assert_eq!(world.owner.ends_asked.load(Ordering::Relaxed), expected);
    };
    check(Consistency::Eventual, None, 0).await;
    check(Consistency::Strong, None, 1).await;
    check(Consistency::Eventual, Some(Consistency::Strong), 1).await;
}

#[tokio::test]
async fn read_tokens_ask_for_what_a_push_wrote() {
    let world = eventual(2);
    world.owner.append(0, &rows(0..10));
    world.owner.append(1, &rows(10..20));
    world.owner.lag(0, 5);
    world.owner.lag(1, 5);
    // Partition 1 lags, but the token does not ask for more than it has consumed.
    let path = path();
    let ask = async |tokens: &str| world.get_with(&path, (TOKEN, tokens)).await;
    assert_eq!(line_count(&ask(&token(&[(0, 5), (1, 5)])).await), 10);
    let late = ask(&token(&[(0, 7)])).await;
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(
        late.text().contains("partition 0 is consumed up to offset 5, and this query asks for offset 7"),
        "{}",
        late.text()
    );
    world.owner.lag(0, 3);
    assert_eq!(line_count(&ask(&format!("{},{}", token(&[(1, 2)]), token(&[(0, 7)]))).await), 12);
    assert_eq!(world.owner.ends_asked.load(Ordering::Relaxed), 0);

    let other = ReadToken::new("other-log").to_string();
    for (tokens, complaint) in [
        ("nonsense", "no read token"),
        (other.as_str(), "of another log"),
        (token(&[(2, 1)]).as_str(), "names partition 2, but the log has 2 partitions"),
    ] {
        let reply = ask(tokens).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{tokens}");
        assert!(reply.text().contains(complaint), "{}", reply.text());
    }
    let reply = world.get_with(&path, (CONSISTENCY, "sturdy")).await;
    assert_eq!((reply.status, reply.text().contains("'strong' or 'eventual'")), (StatusCode::BAD_REQUEST, true));
}

#[tokio::test]
async fn partitions_may_grow_between_queries() {
    for consistency in ["strong", "eventual"] {
        let world = eventual(1);
        world.owner.append(0, &rows(0..5));
        let path = path();
        let count = async || line_count(&world.get_with(&path, (CONSISTENCY, consistency)).await);
        assert_eq!(count().await, 5);
        world.owner.grow(3);
        world.owner.append(2, &rows(5..9));
        assert_eq!(count().await, 9, "{consistency}");
        world.cut(2, 4).await;
        world.owner.evict(2, 4);
        assert_eq!(count().await, 9, "{consistency}");
    }
}

#[tokio::test]
async fn partitions_that_are_not_known_yet_are_asked_for() {
    let world = eventual(1);
    world.owner.known_partitions.store(1, Ordering::Relaxed);
    world.owner.grow(2);
    world.owner.append(1, &rows(0..4));
    let path = path();
    // The token names a partition that the service does not know yet. A strong read asks the log anyway.
    assert_eq!(line_count(&world.get_with(&path, (TOKEN, &token(&[(1, 4)]))).await), 4);
    // A known partition stays known.
    assert_eq!(line_count(&world.get(&path).await), 4);
}

#[tokio::test]
async fn the_log_is_asked_once_for_a_request() {
    let config = Config { multi_tenant_queries_enabled: true, auth_enabled: true, ..Config::default() };
    let world = World::with(4, config, Limits::default());
    let several = [("X-Scope-OrgID", "fake|other")];
    assert_eq!(line_count(&world.get_with_all(&path(), &several).await), 0);
    assert_eq!(world.owner.ends_asked.load(Ordering::Relaxed), 1);
    let two_scans =
        "/loki/api/v1/query?query=sum(count_over_time({a=%22b%22}[1h]))/sum(count_over_time({a=%22c%22}[1h]))";
    let one = [("X-Scope-OrgID", "fake")];
    assert_eq!(world.get_with_all(two_scans, &one).await.status, StatusCode::OK);
    assert_eq!(world.owner.ends_asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn owners_that_are_unavailable_for_a_while_only_cost_time() {
    let world = eventual(2);
    world.owner.append(0, &rows(0..5));
    world.owner.append(1, &rows(5..9));
    let (owner, path) = (&world.owner.misbehaves, path());
    for consistency in ["strong", "eventual"] {
        let count = async || line_count(&world.get_with(&path, (CONSISTENCY, consistency)).await);
        owner.not_leading.store(4, Ordering::Relaxed);
        assert_eq!(count().await, 9, "{consistency}");
        owner.unavailable.store(3, Ordering::Relaxed);
        assert_eq!(count().await, 9, "{consistency}");
        owner.no_ends.store(2, Ordering::Relaxed);
        assert_eq!(count().await, 9, "{consistency}");
        owner.no_ends.store(0, Ordering::Relaxed);
        assert_eq!(world.get("/loki/api/v1/series").await.json()["data"].as_array().map(Vec::len), Some(3));
    }
    assert!(world.metric("millrace_query_plans_again_total", "not_leading") >= 2.0);
    assert!(world.metric("millrace_query_plans_again_total", "unavailable") >= 2.0);

    owner.not_leading.store(u64::MAX, Ordering::Relaxed);
    let reply = world.get(&path).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.text().contains("is not served here"), "{}", reply.text());
    owner.not_leading.store(0, Ordering::Relaxed);
    owner.no_ends.store(u64::MAX, Ordering::Relaxed);
    let reply = world.get_with(&path, (CONSISTENCY, "strong")).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.text().contains("the end of the log cannot be asked") && reply.text().contains("no broker answers"));
}

#[tokio::test]
async fn an_answer_that_is_short_is_not_accepted() {
    let world = eventual(1);
    world.owner.append(0, &rows(0..9));
    world.owner.lag(0, 4);
    let short = &world.owner.misbehaves.short;
    short.store(3, Ordering::Relaxed);
    let catches_up = async {
        while short.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.owner.lag(0, 0);
    };
    let path = path();
    let (reply, ()) = tokio::join!(world.get_with(&path, (CONSISTENCY, "strong")), catches_up);
    assert_eq!(line_count(&reply), 9);
    assert_eq!(world.metric("millrace_query_plans_again_total", "behind"), 3.0);

    // An owner that always answers short.
    world.owner.lag(0, 4);
    world.owner.misbehaves.short.store(u64::MAX, Ordering::Relaxed);
    for path in [path, "/loki/api/v1/series".to_owned()] {
        let reply = world.get_with(&path, (CONSISTENCY, "strong")).await;
        assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT, "{}", reply.text());
    }
}

#[tokio::test]
async fn an_answer_without_removed_records_has_a_warning() {
    let world = eventual(2);
    world.owner.append(0, &rows(0..10));
    world.owner.append(1, &rows(10..15));
    world.cut(0, 3).await;
    world.owner.remove(0, 6);
    let reply = world.get(&path()).await;
    assert_eq!(line_count(&reply), 3 + 4 + 5);
    let warning = reply.json()["warnings"][0].as_str().unwrap_or_default().to_owned();
    assert!(warning.contains("offsets [3, 6) of partition 0 were removed by the log's retention"), "{warning}");
    assert_eq!(world.metric("millrace_query_removed_ranges_total", ""), 1.0);
    let volume = format!(
        "/loki/api/v1/index/volume?query={{app=%22web%22}}&start={}&end={}",
        NOW.nanos() - 600_000_000_000,
        NOW.nanos()
    );
    let stats = "/loki/api/v1/index/stats?query={app=%22web%22}";
    for path in [volume.as_str(), stats, "/loki/api/v1/labels", "/loki/api/v1/series", "/loki/api/v1/detected_labels"] {
        let told = world.get(path).await.json()["warnings"][0].as_str().map(ToOwned::to_owned);
        assert!(told.is_some_and(|told| told.contains("[3, 6) of partition 0 were removed")), "{path}");
    }

    // A leader lists the records as lost. From then on plans know this from the head.
    let before = world.metric("millrace_query_removed_ranges_total", "");
    let mut lead = world.heads.acquire(PartitionId::new(0), "test", Offset::new(6)).await.expect("leadership");
    assert_eq!(lead.flushed_to(), Offset::new(6));
    let reply = world.get(&path()).await;
    assert_eq!(line_count(&reply), 3 + 4 + 5);
    let warning = reply.json()["warnings"][0].as_str().unwrap_or_default().to_owned();
    assert!(warning.contains("offsets [3, 6) of partition 0 were lost"), "{warning}");
    assert_eq!(world.metric("millrace_query_removed_ranges_total", ""), before);
    assert!(lead.refresh().await.is_ok());
}

#[tokio::test]
async fn removed_records_that_a_newer_head_lists_are_not_lost() {
    let config = Config { head_age_max: PromDuration::from_hours(1), ..Config::default() };
    let world = World::of(1, config, Limits::default(), None);
    world.owner.append(0, &rows(0..10));
    assert_eq!(line_count(&world.get(&path()).await), 10);
    world.cut(0, 8).await;
    world.owner.remove(0, 6);
    let reply = world.get(&path()).await;
    assert_eq!(line_count(&reply), 10);
    assert!(reply.json().get("warnings").is_none(), "{}", reply.text());
}

#[tokio::test]
async fn recent_rows_can_be_read_during_an_outage_of_the_store() {
    let config = Config {
        strong_wait_max: PromDuration::from_millis(400),
        head_wait_max: PromDuration::from_millis(50),
        head_age_max: PromDuration::from_millis(0),
        ..Config::default()
    };
    let world = World::of(2, config, Limits::default(), None);
    let (old, recent): (Vec<Row>, Vec<Row>) = (rows(300..310), rows(0..5));
    world.owner.append(0, &old);
    world.cut(0, 10).await;
    world.owner.append(0, &recent);
    world.owner.append(1, &rows(5..9));
    assert_eq!(line_count(&world.get(&path()).await), 19);

    world.store_goes_away();
    let last_minute = format!("{}&start={}", path(), NOW.minus(Duration::from_secs(60)).nanos());
    let last_minute = last_minute.replacen(&format!("&start={}", NOW.nanos() - 600_000_000_000), "", 1);
    for consistency in ["strong", "eventual"] {
        let reply = world.get_with(&last_minute, (CONSISTENCY, consistency)).await;
        assert_eq!(line_count(&reply), 9, "memory has it");
    }
    assert!(world.metric("millrace_query_heads_stale_total", "") >= 2.0);
    // Rows in blocks that cannot be read cause an error, not a shorter answer.
    let count = format!("/loki/api/v1/query?query=sum(rate({{app=%22web%22}}|=%223%22[10m]))&time={}", NOW.nanos());
    let reply = world.get(&count).await;
    assert!(reply.status.is_server_error(), "{}", reply.text());

    // Memory evicts rows, and the head that lists their block cannot be read.
    world.cut(1, 2).await;
    world.owner.evict(1, 2);
    let reply = world.get(&last_minute).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.text());
    // Records that the log no longer has are not called lost while heads cannot be read.
    world.owner.remove(1, 2);
    let reply = world.get(&last_minute).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.text());
    assert!(reply.text().contains("were removed by the log's retention"), "{}", reply.text());
    assert_eq!(world.metric("millrace_query_removed_ranges_total", ""), 0.0);

    // The store comes back.
    world.faults.clear();
    let is_back = async {
        while world.get(&last_minute).await.status != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_back).await.expect("heads are read again");
    assert_eq!(line_count(&world.get(&path()).await), 19);
}

#[tokio::test]
async fn a_head_that_was_never_read_is_needed() {
    let world = eventual(1);
    world.owner.append(0, &rows(0..5));
    world.store_goes_away();
    let began = std::time::Instant::now();
    for _ in 0..3 {
        let reply = world.get(&path()).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(reply.text().contains("the head of partition 0 cannot be read"), "{}", reply.text());
    }
    assert!(began.elapsed() < Duration::from_secs(5), "known to be away, it is not waited for again and again");
}

#[tokio::test]
async fn partitions_are_asked_in_parallel() {
    let world = eventual(16);
    for partition in 0..16 {
        world.owner.append(partition, &rows(u64::from(partition)..u64::from(partition) + 1));
        world.owner.lag(partition, 1);
    }
    assert_eq!(world.owner.partitions().len(), 16);
    // All of them lag. If they were asked one after the other, the first ones would use up the time.
    let catch_up = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (0..16).for_each(|partition| world.owner.lag(partition, 0));
    };
    let path = path();
    let (reply, ()) = tokio::join!(world.get_with(&path, (CONSISTENCY, "strong")), catch_up);
    assert_eq!(line_count(&reply), 16);
    assert_eq!(world.owner.scans.load(Ordering::Relaxed), 16);
}

/// Rows are appended, consumed late, put into blocks and evicted; owners are unavailable and answer short; partitions are
/// added. All the while a strong read has every row that was appended before it began, once, and no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strong_reads_have_all_acknowledged_rows() {
    for seed in 0..4 {
        let config = Config { head_age_max: PromDuration::from_millis(20), ..Config::default() };
        let world = Arc::new(World::of(1, config, Limits::default(), None));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let writer = tokio::spawn(write(world.clone(), acknowledged.clone(), fastrand::Rng::with_seed(seed)));
        let path = path();
        while !writer.is_finished() {
            let least = acknowledged.load(Ordering::SeqCst);
            let reply = world.get_with(&path, (CONSISTENCY, "strong")).await;
            let most = acknowledged.load(Ordering::SeqCst) + STEP_ROWS_MAX;
            let mut found = numbers(&reply);
            found.sort_unstable();
            let count = found.len();
            found.dedup();
            assert_eq!(found.len(), count, "seed {seed}: each once");
            let missing = (0..least).find(|number| found.binary_search(number).is_err());
            assert_eq!(missing, None, "seed {seed}: acknowledged before the query");
            assert!(found.last().is_none_or(|last| *last < most), "seed {seed}: {found:?}");
            // An eventual read may lack rows, but has no wrong ones.
            let eventual = numbers(&world.get_with(&path, (CONSISTENCY, "eventual")).await);
            let distinct: std::collections::BTreeSet<_> = eventual.iter().collect();
            assert_eq!(distinct.len(), eventual.len(), "seed {seed}: each once");
        }
        writer.await.expect("the writer does not fail");
    }
}

/// The largest number of rows that one step appends.
const STEP_ROWS_MAX: u64 = 6;

async fn write(world: Arc<World>, acknowledged: Arc<AtomicU64>, mut rng: fastrand::Rng) {
    let mut partitions = 1;
    let mut flushed = vec![0i64];
    for _ in 0..150 {
        let partition = rng.u32(..partitions);
        let at = partition as usize;
        match rng.u8(..10) {
            0..4 => {
                let first = acknowledged.load(Ordering::SeqCst);
                let count = rng.u64(1..=STEP_ROWS_MAX);
                let of = |i: u64| row(&[("app", "web")], NOW.minus(Duration::from_secs(1 + i % 500)), &i.to_string());
                world.owner.append(partition, &(first..first + count).map(of).collect::<Vec<_>>());
                // None of these rows is consumed yet.
                world.owner.lag(partition, i64::try_from(count).expect("few"));
                acknowledged.store(first + count, Ordering::SeqCst);
            }
            4..6 => world.owner.lag(partition, 0),
            6 => {
                world.owner.lag(partition, 0);
                let end = world.owner.end(partition);
                if end > flushed[at] {
                    flushed[at] = rng.i64(flushed[at] + 1..=end);
                    world.cut(partition, flushed[at]).await;
                }
            }
            7 => world.owner.evict(partition, flushed[at]),
            8 if partitions < 4 => {
                partitions += 1;
                flushed.push(0);
                world.owner.grow(partitions);
            }
            _ => {
                let owner = &world.owner.misbehaves;
                let which = [&owner.not_leading, &owner.unavailable, &owner.short, &owner.no_ends];
                which[rng.usize(..4)].store(rng.u64(1..4), Ordering::Relaxed);
            }
        }
        tokio::time::sleep(Duration::from_micros(rng.u64(..4_000))).await;
        (0..partitions).filter(|_| rng.u8(..4) == 0).for_each(|partition| world.owner.lag(partition, 0));
    }
    (0..partitions).for_each(|partition| world.owner.lag(partition, 0));
}

fn numbers(reply: &Reply) -> Vec<u64> {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let json = reply.json();
    let streams = json["data"]["result"].as_array().expect("streams").iter();
    let values = streams.flat_map(|stream| stream["values"].as_array().expect("values").clone());
    values.map(|value| value[1].as_str().expect("a line").parse().expect("a number")).collect()
}
