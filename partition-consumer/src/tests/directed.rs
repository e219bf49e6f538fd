//! Tests of single situations.

use std::sync::Arc;
use std::time::Duration;

use log_bus::{Assignment, LogBus, LogError};
use model::{Clock, MatchOp, Matcher, Offset, OffsetRange, PartitionId, TenantId, TimeRange, TimestampNs};
use object_store::{Effect, Fault, Operation};
use owner::{CatchUp, Owner, OwnerError, StreamsRequest, TailRequest, Where};
use tokio::time::Instant;

use super::world::{World, all_partitions, small, until};
use crate::{Config, Error};

const ONE: PartitionId = PartitionId::new(0);

fn tenants() -> [TenantId; 3] {
    ["acme", "globex", "initech"].map(|name| TenantId::new(name).unwrap())
}

#[tokio::test]
async fn cuts_say_why() {
    let mut rng = fastrand::Rng::with_seed(1);
    let world = World::new(1, 1);
    let config = Config { published_grace: Duration::from_secs(60).into(), ..small() };
    let process = world.start("a", config, all_partitions(1));
    process.ready().await;
    let flushed = |reason: &str| process.metric("loki_ingester_chunks_flushed_total", reason) as u64;
    // By size.
    while flushed("full") == 0 {
        world.push(&mut rng, ONE, 20, 200).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    process.consumer.flush().await.unwrap();
    // On request.
    let before = flushed("forced");
    world.push(&mut rng, ONE, 1, 0).await;
    process.consumer.flush().await.unwrap();
    assert_eq!(flushed("forced"), before + 1);
    assert_eq!(process.metric("loki_ingester_memory_streams", ""), 0.0);
    // By age.
    world.push(&mut rng, ONE, 1, 0).await;
    until("consuming", || process.metric("loki_ingester_memory_streams", "") > 0.0).await;
    // The time of day may jump without an effect.
    for days in [400, 0, 800] {
        world.clock.set(TimestampNs::from_secs(1_800_000_000 + days * 86_400));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(flushed("max_age"), 0);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(180)).await;
    tokio::time::resume();
    until("a cut by age", || flushed("max_age") == 1).await;
    // A range of gaps makes no block, but the head advances.
    let blocks = world.heads().read(ONE).await.unwrap().unwrap().0.blocks.len();
    world.log.skip(ONE, 5);
    process.consumer.flush().await.unwrap();
    assert_eq!(world.heads().read(ONE).await.unwrap().unwrap().0.blocks.len(), blocks);
    // At shutdown.
    world.push(&mut rng, ONE, 1, 0).await;
    until("consuming", || process.metric("loki_ingester_memory_streams", "") > 0.0).await;
    let metrics = process.metrics.clone();
    process.stop().await.unwrap();
    let families = metrics.gather();
    let family = families.iter().find(|f| f.name() == "loki_ingester_chunks_flushed_total").unwrap();
    let last = family.get_metric().iter().find(|m| m.get_label()[0].value() == "not_owned").unwrap();
    assert_eq!(last.get_counter().get_value(), 1.0);
    world.check_all_in_blocks(ONE).await;
    let end = world.log.watermarks(ONE).await.unwrap().end;
    assert_eq!(world.log.committed(ONE).await.unwrap(), Some(end));
}

#[tokio::test]
async fn a_range_that_retention_took_before_the_start_is_recorded() {
    let mut rng = fastrand::Rng::with_seed(2);
    let world = World::new(1, 2);
    for _ in 0..10 {
        world.push(&mut rng, ONE, 3, 10).await;
    }
    world.log.trim(ONE, Offset::new(4));
    let process = world.start("a", small(), all_partitions(1));
    process.ready().await;
    process.consumer.flush().await.unwrap();
    let (head, _) = world.heads().read(ONE).await.unwrap().unwrap();
    assert_eq!(
        head.lost.iter().map(|lost| lost.range).collect::<Vec<_>>(),
        [OffsetRange::new(Offset::ZERO, Offset::new(4))]
    );
    assert_eq!(process.metric("millrace_lost_offsets_total", "0"), 4.0);
    world.check_all_in_blocks(ONE).await;
    process.stop().await.unwrap();
}

#[tokio::test]
async fn retention_that_passes_a_running_consumer_is_recorded() {
    let mut rng = fastrand::Rng::with_seed(3);
    let world = World::new(1, 3);
    let process = world.start("a", small(), all_partitions(1));
    process.ready().await;
    world.push(&mut rng, ONE, 3, 10).await;
    until("consuming", || process.consumer.held(ONE).is_some_and(|held| held.end == Offset::new(1))).await;
    // The next fetches fail; meanwhile records come and go.
    world.log.inject(|faults| faults.fail_fetches = 5);
    for _ in 0..5 {
        world.log.append_raw(ONE, "?".into(), "gone".into()).unwrap();
    }
    world.log.trim(ONE, Offset::new(4));
    world.push(&mut rng, ONE, 3, 10).await;
    until("going on behind the hole", || process.consumer.held(ONE).is_some_and(|held| held.end == Offset::new(7)))
        .await;
    process.consumer.flush().await.unwrap();
    let (head, _) = world.heads().read(ONE).await.unwrap().unwrap();
    let lost: Vec<OffsetRange> = head.lost.iter().map(|lost| lost.range).collect();
    // The record of the fetch in flight may have been consumed before the trim.
    assert!(lost.is_empty() || (lost.len() == 1 && lost[0].end == Offset::new(4)), "{lost:?}");
    assert_eq!(head.flushed_to, Offset::new(7));
    process.stop().await.unwrap();
}

#[tokio::test]
async fn a_log_that_was_cut_short_stops_the_consumer() {
    let mut rng = fastrand::Rng::with_seed(4);
    let world = World::new(1, 4);
    let process = world.start("a", small(), all_partitions(1));
    world.push(&mut rng, ONE, 3, 10).await;
    process.ready().await;
    process.consumer.flush().await.unwrap();
    process.stop().await.unwrap();
    // The head now lies above the end of a log with the same id.
    let heads = world.heads();
    let mut lead = heads.acquire(ONE, "intruder", Offset::ZERO).await.unwrap();
    lead.publish(OffsetRange::new(lead.flushed_to(), Offset::new(100)), None).await.unwrap();
    let process = world.start("b", small(), all_partitions(1));
    let error = process.end().await.unwrap_err();
    assert!(matches!(error, Error::Cut(cut::CutError::LogBehind { .. })), "{error}");
    assert!(error.to_string().contains("truncated"), "{error}");
}

#[tokio::test]
async fn a_log_that_stopped_stops_the_consumer_after_publishing() {
    let mut rng = fastrand::Rng::with_seed(5);
    let world = World::new(2, 5);
    let process = world.start("a", small(), all_partitions(2));
    process.ready().await;
    world.push(&mut rng, ONE, 3, 10).await;
    until("consuming", || process.consumer.held(ONE).is_some_and(|held| held.end == Offset::new(1))).await;
    world.log.stop("disk full");
    let error = process.end().await.unwrap_err();
    assert!(matches!(error, Error::Log { source: LogError::Stopped(_), .. }), "{error}");
    world.check_all_in_blocks(ONE).await;
}

#[tokio::test]
async fn memory_is_bounded_while_the_store_is_away() {
    let mut rng = fastrand::Rng::with_seed(6);
    let world = World::new(2, 6);
    let config = small();
    let cap = config.memory_bytes.as_usize();
    let process = world.start("a", config, all_partitions(2));
    process.ready().await;
    world.store.add(Fault { operations: vec![Operation::Put], ..Fault::always(Effect::ErrorBefore) });
    let mut pushed = 0;
    for _ in 0..400 {
        for partition in all_partitions(2) {
            world.push(&mut rng, partition, 20, 200).await;
            pushed += 1;
        }
        // Memory may exceed the cap by one fetch of each partition and the cost of decoding it.
        assert!(process.consumer.memory_bytes() <= cap + 2 * 64_000, "{}", process.consumer.memory_bytes());
    }
    until("memory to be full", || process.metric("millrace_consumer_memory_full_total", "") > 0.0).await;
    let consumed: i64 = all_partitions(2).iter().map(|p| process.consumer.held(*p).unwrap().end.value()).sum();
    assert!(consumed < pushed, "fetching stopped");
    // Recent reads go on.
    let (rows, _) = world.read(&process.consumer, ONE).await.unwrap();
    assert!(!rows.is_empty());
    world.store.clear();
    process.consumer.flush().await.unwrap();
    for partition in all_partitions(2) {
        world.check_all_in_blocks(partition).await;
    }
    assert!(process.consumer.memory_bytes() <= cap);
    process.stop().await.unwrap();
}

#[tokio::test]
async fn at_the_cap_partitions_that_are_all_small_are_cut() {
    let mut rng = fastrand::Rng::with_seed(7);
    let world = World::new(8, 7);
    // No partition can reach the size of a cut before memory is full.
    let config = Config { cut_bytes: limits::ByteSize::from_kb(300), ..small() };
    let process = world.start("a", config, all_partitions(8));
    process.ready().await;
    for _ in 0..50 {
        for partition in all_partitions(8) {
            world.push(&mut rng, partition, 20, 200).await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for partition in all_partitions(8) {
        let end = world.log.watermarks(partition).await.unwrap().end;
        let deadline = Instant::now() + Duration::from_secs(10);
        process.consumer.wait_consumed(partition, end, deadline).await.unwrap();
    }
    assert!(process.metric("loki_ingester_chunks_flushed_total", "pressure") > 0.0);
    process.stop().await.unwrap();
    for partition in all_partitions(8) {
        world.check_all_in_blocks(partition).await;
    }
}

#[tokio::test]
async fn a_fenced_process_stops_serving() {
    let mut rng = fastrand::Rng::with_seed(8);
    let world = World::new(1, 8);
    let config = Config { fenced_pause: Duration::from_secs(3600).into(), ..small() };
    let first = world.start("first", config.clone(), all_partitions(1));
    first.ready().await;
    world.push(&mut rng, ONE, 3, 10).await;
    let second = world.start("second", config, all_partitions(1));
    second.ready().await;
    // The fenced process does not know it yet. Its answers are right as far as they reach.
    assert!(world.read(&first.consumer, ONE).await.is_some());
    let error = first.consumer.flush().await.unwrap_err();
    assert!(matches!(error, OwnerError::NotLeading { .. }), "{error}");
    assert!(first.consumer.partitions().is_empty());
    assert_eq!(first.consumer.memory_bytes(), 0);
    assert_eq!(first.metric("millrace_consumer_fenced_total", ""), 1.0);
    second.consumer.flush().await.unwrap();
    world.check_all_in_blocks(ONE).await;
    first.stop().await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test]
async fn partitions_come_and_go() {
    let mut rng = fastrand::Rng::with_seed(9);
    let world = World::new(2, 9);
    let process = world.start("a", small(), vec![ONE]);
    process.ready().await;
    assert_eq!(process.consumer.partitions(), [ONE]);
    world.push(&mut rng, ONE, 3, 10).await;
    process.assignments.send(Assignment::Assigned(all_partitions(2))).unwrap();
    until("two partitions", || process.consumer.partitions().len() == 2).await;
    process.assignments.send(Assignment::Revoked(vec![ONE])).unwrap();
    process.assignments.send(Assignment::Assigned(vec![ONE])).unwrap();
    process.assignments.send(Assignment::Revoked(vec![ONE])).unwrap();
    until("one partition", || process.consumer.partitions() == [PartitionId::new(1)]).await;
    let end = world.log.watermarks(ONE).await.unwrap().end;
    let (head, _) = world.heads().read(ONE).await.unwrap().unwrap();
    assert_eq!(head.flushed_to, end, "what is given away is in blocks");
    process.assignments.send(Assignment::Assigned(vec![ONE])).unwrap();
    until("two partitions again", || process.consumer.partitions().len() == 2).await;
    assert!(!process.is_finished());
    process.stop().await.unwrap();
}

#[tokio::test]
async fn evicted_rows_are_not_held() {
    let mut rng = fastrand::Rng::with_seed(10);
    let world = World::new(1, 10);
    let process = world.start("a", small(), all_partitions(1));
    process.ready().await;
    for _ in 0..4 {
        world.push(&mut rng, ONE, 3, 10).await;
    }
    process.consumer.flush().await.unwrap();
    until("eviction", || process.consumer.held(ONE).is_some_and(|held| held.start == Offset::new(4))).await;
    let request = |from| StreamsRequest {
        at: Where {
            at_least: None,
            deadline: Instant::now(),
            partition: ONE,
            tenant: tenants()[0].clone(),
            from: Offset::new(from),
        },
        matchers: Arc::from([]),
        time: TimeRange::ALL,
    };
    let late = process.consumer.streams(request(3)).await.unwrap_err();
    assert!(matches!(late, OwnerError::NotHeld { held, .. } if held.start == Offset::new(4)), "{late}");
    assert!(process.consumer.streams(request(4)).await.unwrap().streams.is_empty());
    let mut nobody = request(4);
    nobody.at.partition = PartitionId::new(7);
    assert!(matches!(process.consumer.streams(nobody).await.unwrap_err(), OwnerError::NotLeading { .. }));
    process.stop().await.unwrap();
}

#[tokio::test]
async fn streams_are_counted_from_an_offset_and_within_a_time() {
    let mut rng = fastrand::Rng::with_seed(11);
    let world = World::new(1, 11);
    let config = Config { published_grace: Duration::from_secs(60).into(), ..small() };
    let process = world.start("a", config, all_partitions(1));
    process.ready().await;
    for round in 0..30 {
        world.push(&mut rng, ONE, 10, 10).await;
        if round % 10 == 9 {
            process.consumer.flush().await.unwrap();
        }
    }
    let now = world.clock.now();
    let window = TimeRange::new(now.minus(Duration::from_secs(50)), now.minus(Duration::from_nanos(400_000)));
    for (from, time) in [(0, TimeRange::ALL), (5, TimeRange::ALL), (10, window), (17, window), (30, TimeRange::ALL)] {
        for tenant in tenants() {
            for name in ["a0", "a1"] {
                let matcher = Matcher::new("app", MatchOp::Equal, name).unwrap();
                let request = StreamsRequest {
                    at: Where {
                        at_least: None,
                        deadline: Instant::now(),
                        partition: ONE,
                        tenant: tenant.clone(),
                        from: Offset::new(from),
                    },
                    matchers: Arc::from([matcher]),
                    time,
                };
                let found = process.consumer.streams(request).await.unwrap();
                let ledger = world.ledger(ONE).lock();
                let text = format!("{{app=\"{name}\", env=\"prod\"}}");
                let expected: Vec<i64> = ledger
                    .acknowledged
                    .iter()
                    .filter(|(row, offset)| {
                        row.tenant == tenant.as_str() && row.labels == text && offset.value() >= from
                    })
                    .map(|(row, _)| row.ts)
                    .filter(|ts| time.contains(model::TimestampNs::from_nanos(*ts)))
                    .collect();
                let counted: u64 = found.streams.iter().map(|stream| stream.rows).sum();
                assert_eq!(counted, expected.len() as u64, "{tenant} {name} from {from}");
                if let Some(stream) = found.streams.first() {
                    assert_eq!(found.streams.len(), 1);
                    assert_eq!(stream.time.start.nanos(), *expected.iter().min().unwrap());
                    assert_eq!(stream.time.end.nanos(), expected.iter().max().unwrap() + 1);
                }
            }
        }
    }
    process.stop().await.unwrap();
}

#[tokio::test]
async fn tails_get_rows_as_they_come() {
    let mut rng = fastrand::Rng::with_seed(12);
    let world = World::new(1, 12);
    let process = world.start("a", small(), all_partitions(1));
    process.ready().await;
    let request = |name: &str, capacity| TailRequest {
        tenant: tenants()[0].clone(),
        matchers: Arc::from([Matcher::new("app", MatchOp::Regex, name).unwrap()]),
        capacity,
        catch_up: CatchUp::Never,
    };
    let mut all = process.consumer.tail(request("a[01]", 1_000));
    let slow = process.consumer.tail(request(".+", 1));
    let gone = process.consumer.tail(request(".+", 1));
    drop(gone);
    for _ in 0..30 {
        world.push(&mut rng, ONE, 10, 10).await;
    }
    process.consumer.wait_consumed(ONE, Offset::new(30), Instant::now() + Duration::from_secs(10)).await.unwrap();
    let wanted = |labels: &[&str]| {
        let ledger = world.ledger(ONE).lock();
        let mine = ledger.acknowledged.keys().filter(|row| row.tenant == "acme");
        mine.filter(|row| labels.iter().any(|label| row.labels.contains(label))).count()
    };
    let mut rows = 0;
    while let Some(owner::TailBatch { batch, .. }) = all.try_recv() {
        assert!(batch.labels.get("app").is_some_and(|app| ["a0", "a1"].contains(&app)));
        assert_eq!(batch.lines.len(), batch.len());
        rows += batch.len();
    }
    assert_eq!(rows, wanted(&["a0", "a1"]));
    assert!(rows > 0 && all.dropped() == 0);
    assert!(slow.dropped() > 0 && (slow.dropped() as usize) < wanted(&["a"]));
    until("the closed tail to be removed", || process.metric("millrace_consumer_tails", "") == 2.0).await;
    process.stop().await.unwrap();
    assert!(all.recv().await.is_none(), "a tail ends with its owner");
}

#[tokio::test]
async fn shutdown_without_a_store_gives_up_and_loses_nothing() {
    let mut rng = fastrand::Rng::with_seed(13);
    let world = World::new(1, 13);
    let process = world.start("a", small(), all_partitions(1));
    process.ready().await;
    world.push(&mut rng, ONE, 30, 100).await;
    process.consumer.wait_consumed(ONE, Offset::new(1), Instant::now() + Duration::from_secs(10)).await.unwrap();
    world.store.add(Fault::always(Effect::ErrorBefore));
    tokio::time::timeout(Duration::from_secs(5), process.stop()).await.expect("it gives up").unwrap();
    world.store.clear();
    let process = world.start("b", small(), all_partitions(1));
    process.ready().await;
    process.consumer.flush().await.unwrap();
    world.check_all_in_blocks(ONE).await;
    process.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_is_served_before_it_is_caught_up() {
    let mut rng = fastrand::Rng::with_seed(14);
    let world = World::new(1, 14);
    for _ in 0..20 {
        world.push(&mut rng, ONE, 10, 100).await;
    }
    world.log.inject(|faults| faults.fetch_delay = Duration::from_millis(30));
    let process = world.start("a", small(), all_partitions(1));
    let wait = process.consumer.clone();
    let early = wait.flush().await.unwrap_err();
    assert!(
        matches!(early, OwnerError::Unavailable(_)),
        "nothing is led yet, so nothing is known to be in blocks: {early}"
    );
    until("taking the lead", || !wait.warming().is_empty()).await;
    assert!(world.read(&wait, ONE).await.is_none());
    assert!(wait.partitions().is_empty() && !wait.is_ready());
    process.ready().await;
    let (rows, complete_to) = world.read(&wait, ONE).await.unwrap();
    assert_eq!((rows.len(), complete_to), (200, Offset::new(20)));
    let error = wait.wait_consumed(ONE, Offset::new(21), Instant::now() + Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, OwnerError::Deadline { .. }), "{error}");
    process.stop().await.unwrap();
}

#[tokio::test]
async fn settings_that_cannot_work_are_all_named() {
    let world = World::new(1, 15);
    let config = Config { fetch_bytes: limits::ByteSize::default(), pressure_percent: 0, ..Config::default() };
    let problems = config.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(Config::default().problems().is_empty());
    assert!(small().problems().is_empty());
    drop(world);
}

#[tokio::test]
async fn scans_answer_queries() {
    let mut rng = fastrand::Rng::with_seed(16);
    let world = World::new(1, 16);
    let config = Config { published_grace: Duration::from_secs(60).into(), ..small() };
    let process = world.start("a", config, all_partitions(1));
    process.ready().await;
    for round in 0..40 {
        world.push(&mut rng, ONE, 10, 10).await;
        if round % 15 == 14 {
            process.consumer.flush().await.unwrap();
        }
    }
    process.consumer.wait_consumed(ONE, Offset::new(40), Instant::now() + Duration::from_secs(10)).await.unwrap();
    let (now, tenant) = (world.clock.now(), tenants()[1].clone());
    let expected = |from: i64, since: Duration| -> Vec<(i64, u64)> {
        let ledger = world.ledger(ONE).lock();
        let mine = ledger.acknowledged.iter().filter(|(row, offset)| {
            let in_time = row.ts >= now.minus(since).nanos() && row.ts < now.nanos();
            row.tenant == tenant.as_str() && offset.value() >= from && in_time
        });
        mine.map(|(row, _)| (row.ts, row.id)).collect()
    };
    let ask = async |text: &str, params: logql::Params, from: i64| {
        let query = Arc::new(logql::Query::prepare(text, params).unwrap());
        let (partition, from) = (ONE, Offset::new(from));
        let request = owner::ScanRequest {
            at: owner::Where { at_least: None, deadline: Instant::now(), partition, tenant: tenant.clone(), from },
            query: query.clone(),
        };
        let reply = process.consumer.scan(request).await.unwrap();
        assert_eq!(reply.held, OffsetRange::new(Offset::ZERO, Offset::new(40)));
        query.finish(reply.partials).unwrap()
    };
    let all_time = Duration::from_secs(10 * 365 * 86_400);
    let params = |direction, limit| logql::Params {
        start: now.minus(all_time),
        end: now,
        step: Duration::ZERO,
        interval: Duration::ZERO,
        direction,
        limit,
        series_max: 0,
    };
    for direction in [logql::Direction::Forward, logql::Direction::Backward] {
        for (from, limit) in [(0, 10_000), (0, 7), (3, 25), (17, 1), (39, 100)] {
            let logql::Answer::Streams(streams) = ask(r#"{env="prod"}"#, params(direction, limit), from).await else {
                panic!("a log query answers with streams")
            };
            let mut found: Vec<i64> =
                streams.iter().flat_map(|stream| stream.entries.iter().map(|entry| entry.ts.nanos())).collect();
            found.sort_unstable();
            let mut wanted: Vec<i64> = expected(from, all_time).into_iter().map(|(ts, _)| ts).collect();
            wanted.sort_unstable();
            if direction == logql::Direction::Backward {
                wanted.reverse();
            }
            wanted.truncate(limit as usize);
            wanted.sort_unstable();
            assert_eq!(found, wanted, "{direction:?} from {from} limit {limit}");
        }
    }
    let day = Duration::from_secs(86_400);
    for from in [0, 5, 22] {
        // The window of an instant query excludes its start and includes its end. This range makes both irrelevant.
        let params = logql::Params { start: now, end: now, ..params(logql::Direction::Forward, 0) };
        let answer = ask(r#"sum(count_over_time({app=~"a.*"}[24h]))"#, params, from).await;
        let logql::Answer::Vector(samples) = answer else { panic!("an instant query answers with a vector") };
        let at_end = world
            .ledger(ONE)
            .lock()
            .acknowledged
            .iter()
            .filter(|(row, offset)| row.tenant == tenant.as_str() && offset.value() >= from && row.ts == now.nanos())
            .count();
        let wanted = expected(from, day).len() + at_end;
        assert_eq!(samples.first().map_or(0.0, |sample| sample.value), wanted as f64, "from {from}");
    }
    process.stop().await.unwrap();
}
