//! The log tail over a log in memory.

use bytes::Bytes;
use log_bus::MemoryLog;
use logql::{Answer, Direction, Params, Query};
use model::{Labels, TenantId, TimeRange, TimestampNs};
use schemas::record::{Record, RecordBuilder};

use super::*;
use limits::ByteSize;

const P: PartitionId = PartitionId::new(0);
const Q: PartitionId = PartitionId::new(1);

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("a name")
}

/// A record of tenant `acme` with one line per number. The last digit of the number selects the stream.
fn record(numbers: impl IntoIterator<Item = u64>) -> Bytes {
    record_of("acme", numbers, "")
}

fn record_of(name: &str, numbers: impl IntoIterator<Item = u64>, padding: &str) -> Bytes {
    let mut builder = RecordBuilder::new(&tenant(name), TimestampNs::from_secs(1));
    for number in numbers {
        builder.stream(&Labels::from_pairs([("app", "web".to_owned()), ("digit", (number % 10).to_string())]), &[]);
        builder.entry(
            TimestampNs::from_secs(number as i64),
            format!("{number}{padding}").as_bytes(),
            std::iter::empty(),
        );
    }
    builder.finish(None)
}

struct World {
    log: Arc<MemoryLog>,
    tail: Arc<LogTail>,
}

impl World {
    fn new() -> Self {
        Self::with(LogTailConfig::default())
    }

    fn with(config: LogTailConfig) -> Self {
        assert_eq!(config.problems(), Vec::<String>::new());
        let log = Arc::new(MemoryLog::new(2));
        Self { tail: LogTail::new(config, log.clone(), &Processors::default()), log }
    }

    fn append(&self, partition: PartitionId, payload: Bytes) -> Offset {
        self.log.append_raw(partition, Bytes::new(), payload).expect("appended")
    }

    /// Appends records of one line each.
    fn append_lines(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.append(P, record([number]));
        }
    }

    async fn scan(&self, ask: Ask) -> Result<(Vec<u64>, OffsetRange), OwnerError> {
        let query = query();
        let request = ScanRequest {
            at: Where {
                partition: ask.partition,
                tenant: tenant("acme"),
                from: Offset::new(ask.from),
                at_least: ask.at_least.map(Offset::new),
                deadline: Instant::now() + ask.patience,
            },
            query: query.clone(),
        };
        let reply = self.tail.scan(request).await?;
        Ok((numbers(&query, reply.partials), reply.held))
    }

    fn fetched(&self) -> u64 {
        self.tail.metrics.fetched_bytes.get()
    }

    fn kept(&self) -> u64 {
        u64::try_from(self.tail.metrics.bytes.get()).expect("never below nothing")
    }
}

#[derive(Clone, Copy)]
struct Ask {
    partition: PartitionId,
    from: i64,
    at_least: Option<i64>,
    patience: Duration,
}

fn from(from: i64) -> Ask {
    Ask { partition: P, from, at_least: None, patience: Duration::from_secs(10) }
}

fn query() -> Arc<Query> {
    let params = Params {
        start: TimestampNs::MIN,
        end: TimestampNs::MAX,
        step: Duration::ZERO,
        interval: Duration::ZERO,
        direction: Direction::Forward,
        limit: u32::MAX,
        series_max: 0,
    };
    Arc::new(Query::prepare(r#"{app="web"}"#, params).expect("a good query"))
}

/// The numbers in an answer's lines, ascending.
fn numbers(query: &Query, partials: Vec<logql::Partial>) -> Vec<u64> {
    let Answer::Streams(streams) = query.finish(partials).expect("an answer") else { panic!("no streams") };
    let line = |entry: &logql::ResultEntry| {
        let text = String::from_utf8_lossy(entry.line.as_ref()).into_owned();
        text.trim_end_matches('x').parse().expect("a number")
    };
    let mut found: Vec<u64> = streams.iter().flat_map(|stream| stream.entries.iter().map(line)).collect();
    found.sort_unstable();
    found
}

fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange::new(Offset::new(start), Offset::new(end))
}

fn small(bytes_max: u64, total: u64) -> LogTailConfig {
    LogTailConfig {
        bytes_max: ByteSize::from_bytes(bytes_max),
        total_bytes_max: ByteSize::from_bytes(total),
        fetch_bytes: ByteSize::from_bytes(2_000),
        ..LogTailConfig::default()
    }
}

#[tokio::test]
async fn the_next_read_fetches_only_what_is_new() {
    let world = World::new();
    world.append_lines(0..10);
    assert_eq!(world.scan(from(0)).await.unwrap(), ((0..10).collect(), range(0, 10)));
    let first = world.fetched();
    assert_eq!(world.scan(from(4)).await.unwrap(), ((4..10).collect(), range(0, 10)));
    assert_eq!(world.fetched(), first, "all of it was here");
    world.append_lines(10..12);
    assert_eq!(world.scan(from(4)).await.unwrap(), ((4..12).collect(), range(0, 12)));
    assert_eq!(world.fetched(), first + (record([10]).len() + record([11]).len()) as u64);
    // At the end of the log the answer is empty.
    assert_eq!(world.scan(from(12)).await.unwrap(), (vec![], range(0, 12)));
}

#[tokio::test]
async fn a_read_outside_the_kept_rows_starts_again() {
    let world = World::new();
    world.append_lines(0..10);
    assert_eq!(world.scan(from(6)).await.unwrap(), ((6..10).collect(), range(6, 10)));
    assert_eq!(world.scan(from(2)).await.unwrap(), ((2..10).collect(), range(2, 10)));
    world.append_lines(10..20);
    assert_eq!(world.scan(from(15)).await.unwrap(), ((15..20).collect(), range(15, 20)));
}

#[tokio::test]
async fn gaps_and_garbage_are_skipped() {
    let world = World::new();
    world.log.skip(P, 3);
    world.append_lines(0..2);
    world.append(P, Bytes::from_static(b"no record"));
    world.append(P, record_of("other", [77], ""));
    world.append_lines(2..3);
    world.log.skip(P, 4);
    assert_eq!(world.scan(from(0)).await.unwrap(), ((0..3).collect(), range(0, 12)));
    let slot = world.tail.slot(P);
    let kept = slot.lock().await;
    let quarantined: Vec<_> = kept.view(Offset::ZERO).segments().flat_map(|s| s.quarantined()).collect();
    assert_eq!(quarantined.len(), 1);
    assert_eq!((quarantined[0].offset, &quarantined[0].raw[..]), (Offset::new(5), &b"no record"[..]));
}

#[tokio::test]
async fn streams_are_counted() {
    let world = World::new();
    world.append(P, record(0..25));
    let request = StreamsRequest {
        at: Where {
            partition: P,
            tenant: tenant("acme"),
            from: Offset::ZERO,
            at_least: None,
            deadline: Instant::now() + Duration::from_secs(10),
        },
        matchers: logql::parse_matchers(r#"{digit=~"[34]"}"#).unwrap().into(),
        time: TimeRange::new(TimestampNs::from_secs(4), TimestampNs::from_secs(20)),
    };
    let reply = world.tail.streams(request).await.unwrap();
    let found: Vec<_> = reply.streams.iter().map(|s| (s.labels.get("digit").unwrap(), s.rows, s.line_bytes)).collect();
    assert_eq!(found, [("3", 1, 2), ("4", 2, 3)]);
}

#[tokio::test]
async fn an_error_names_the_offsets_that_retention_removed() {
    let world = World::new();
    world.append_lines(0..10);
    world.log.trim(P, Offset::new(4));
    let removed = |error: OwnerError| match error {
        OwnerError::Removed { range, .. } => range,
        other => panic!("{other}"),
    };
    assert_eq!(removed(world.scan(from(1)).await.unwrap_err()), range(1, 4));
    assert_eq!(world.scan(from(4)).await.unwrap().0, (4..10).collect::<Vec<_>>());
    // Kept rows do not depend on retention.
    world.log.trim(P, Offset::new(8));
    assert_eq!(world.scan(from(4)).await.unwrap().0, (4..10).collect::<Vec<_>>());
    // A gap after them does.
    world.append_lines(10..20);
    world.log.trim(P, Offset::new(15));
    assert_eq!(removed(world.scan(from(4)).await.unwrap_err()), range(4, 15));
    assert_eq!(world.scan(from(15)).await.unwrap().0, (15..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_for_the_offset_it_must_reach() {
    let world = World::new();
    world.append_lines(0..3);
    let ask = Ask { at_least: Some(5), patience: Duration::from_secs(2), ..from(1) };
    let error = world.scan(ask).await.unwrap_err();
    let OwnerError::Deadline { consumed, wanted, .. } = error else { panic!("{error}") };
    assert_eq!((consumed, wanted), (Offset::new(3), Offset::new(5)));
    let later = async {
        sleep(Duration::from_secs(1)).await;
        world.append_lines(3..5);
    };
    let (found, ()) = tokio::join!(world.scan(ask), later);
    assert_eq!(found.unwrap(), ((1..5).collect(), range(1, 5)));
    // The head is ahead of the log, as after a change to a broker that lags.
    let error = world.scan(Ask { patience: Duration::from_secs(1), ..from(9) }).await.unwrap_err();
    assert!(matches!(error, OwnerError::Deadline { wanted, .. } if wanted == Offset::new(9)), "{error}");
}

#[tokio::test]
async fn a_log_that_fails_is_unavailable() {
    let world = World::new();
    world.append_lines(0..3);
    world.log.inject(|faults| faults.fail_fetches = 1);
    assert!(matches!(world.scan(from(0)).await.unwrap_err(), OwnerError::Unavailable(_)));
    assert_eq!(world.scan(from(0)).await.unwrap().0, [0, 1, 2]);
    world.log.inject(|faults| faults.unavailable = true);
    assert!(matches!(world.scan(from(0)).await.unwrap_err(), OwnerError::Unavailable(_)), "the end is not known");
    let nowhere = Ask { partition: PartitionId::new(9), ..from(0) };
    assert!(matches!(world.scan(nowhere).await.unwrap_err(), OwnerError::Unavailable(_)));
}

#[tokio::test]
async fn a_tail_that_is_too_large_says_so() {
    let world = World::with(small(20_000, 60_000));
    world.append_lines(0..100);
    let text = world.scan(from(0)).await.unwrap_err().to_string();
    for part in ["partition 0", "[0, 100)", "log_tail.bytes_max, 0.0 MB", "raise the limit"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(world.kept() <= 22_000, "{}", world.kept());
    // Once heads list more, the rest fits, since rows below are evicted.
    assert_eq!(world.scan(from(90)).await.unwrap().0, (90..100).collect::<Vec<_>>());
    for end in 101..140 {
        world.append_lines(end - 1..end);
        let first = i64::try_from(end).unwrap() - 5;
        assert_eq!(world.scan(from(first)).await.unwrap().0.len(), 5);
        assert!(world.kept() <= 22_000, "{}", world.kept());
    }
}

#[tokio::test]
async fn the_least_recently_used_tail_makes_room() {
    let world = World::with(small(20_000, 22_000));
    for partition in [P, Q] {
        for number in 0..12 {
            world.append(partition, record([number]));
        }
    }
    let all: Vec<u64> = (0..12).collect();
    for partition in [P, Q, P] {
        assert_eq!(world.scan(Ask { partition, ..from(0) }).await.unwrap().0, all);
        assert!(world.kept() <= 24_000, "{}", world.kept());
    }
    // While one tail is being read, there is no room for the other.
    let held = world.tail.slot(P).lock_owned().await;
    let text = world.scan(Ask { partition: Q, ..from(0) }).await.unwrap_err().to_string();
    assert!(text.contains("log_tail.total_bytes_max"), "{text}");
    drop(held);
    assert_eq!(world.scan(Ask { partition: Q, ..from(0) }).await.unwrap().0, all);
}

#[tokio::test]
async fn readers_share_one_fetch() {
    let world = World::new();
    world.append_lines(0..50);
    world.log.inject(|faults| faults.fetch_delay = Duration::from_millis(20));
    let answers = (0..8).map(|i| world.scan(from(i)));
    let mut held = Vec::new();
    for (i, answer) in futures(answers).await.into_iter().enumerate() {
        let (numbers, range) = answer.unwrap();
        assert_eq!(numbers.len(), 50 - i);
        held.push(range);
    }
    let payload = |n: u64| record([n]).len() as u64;
    assert_eq!(world.fetched(), (0..50).map(payload).sum::<u64>(), "each record was fetched once");
}

/// Runs futures concurrently, polled in their order.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = all.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(move |cx| {
        let mut is_done = true;
        for (future, found) in &mut pending {
            if found.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *found = Some(value),
                    std::task::Poll::Pending => is_done = false,
                }
            }
        }
        if is_done {
            std::task::Poll::Ready(pending.iter_mut().filter_map(|(_, found)| found.take()).collect())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_read_keeps_what_it_fetched() {
    let world = World::with(small(1 << 20, 1 << 20));
    for number in 0..40 {
        world.append(P, record_of("acme", [number], &"x".repeat(1_000)));
    }
    world.log.inject(|faults| faults.fetch_delay = Duration::from_millis(100));
    let outcome = tokio::time::timeout(Duration::from_millis(450), world.scan(from(0))).await;
    assert!(outcome.is_err(), "the read takes longer");
    let some = world.fetched();
    assert!(some > 0);
    let error = world.scan(Ask { patience: Duration::from_millis(250), ..from(0) }).await.unwrap_err();
    assert!(matches!(error, OwnerError::Deadline { consumed, .. } if consumed > Offset::ZERO), "{error}");
    assert_eq!(world.scan(from(0)).await.unwrap().0, (0..40).collect::<Vec<_>>());
    let each = record_of("acme", [10], &"x".repeat(1_000)).len() as u64;
    assert!(world.fetched() <= 40 * each, "nothing was read twice");
}

#[tokio::test(start_paused = true)]
async fn idle_tails_are_evicted() {
    let config = LogTailConfig::default();
    let world = World::with(config.clone());
    world.append_lines(0..10);
    world.append(Q, record([1]));
    world.scan(from(0)).await.unwrap();
    world.scan(Ask { partition: Q, ..from(0) }).await.unwrap();
    let both = world.kept();
    assert!(both > 0);
    for _ in 0..3 {
        sleep(config.idle_max.get() / 2).await;
        world.scan(from(0)).await.unwrap();
    }
    assert!(0 < world.kept() && world.kept() < both, "only the tail that is read stays");
    sleep(config.idle_max.get() * 2).await;
    assert_eq!(world.kept(), 0);
    assert!(world.tail.slots.lock().is_empty() && world.tail.sweeper.lock().is_none());
    assert_eq!(world.scan(from(0)).await.unwrap().0.len(), 10);
    assert!(world.tail.sweeper.lock().is_some());
}

/// Whatever is appended, read and abandoned in between, an answer equals a scan of a segment with all records, which is
/// what an owner has in memory.
#[tokio::test]
async fn answers_equal_those_of_memory() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let config = LogTailConfig {
            fetch_bytes: ByteSize::from_bytes(rng.u64(1..3_000)),
            ..small(rng.u64(200..400) * 1_000, 400_000)
        };
        let world = World::with(config);
        world.log.inject(|faults| faults.gap_every = Some(rng.u64(2..9)));
        let mut memory = cut::SegmentWriter::new();
        let query = query();
        let mut number = 0;
        let mut flushed = Offset::ZERO;
        for _ in 0..rng.usize(1..12) {
            for _ in 0..rng.usize(0..8) {
                let payload = match rng.u8(..8) {
                    0 => Bytes::from(vec![rng.u8(..); rng.usize(..50)]),
                    1 => record_of("other", 0..3, ""),
                    _ => record_of("acme", number..number + rng.u64(..6), &"x".repeat(rng.usize(..200))),
                };
                number += 6;
                let offset = world.append(P, payload.clone());
                match Record::decode(payload.clone()) {
                    Ok(decoded) => memory.append(offset, &decoded),
                    Err(error) => memory.quarantine(offset, payload, error.to_string()),
                };
            }
            let end = world.log.watermarks(P).await.unwrap().end;
            if rng.bool() {
                flushed = Offset::new(rng.i64(flushed.value()..=end.value()));
            }
            if rng.u8(..4) == 0 {
                // A client gives up early.
                let mut given_up = Box::pin(world.scan(from(flushed.value())));
                let _ = std::future::poll_fn(|cx| std::task::Poll::Ready(given_up.as_mut().poll(cx).is_ready())).await;
            }
            let Ok((found, held)) = world.scan(from(flushed.value())).await else {
                panic!("seed {seed}: limits are wide enough");
            };
            assert!(held.start <= flushed && held.end == end, "seed {seed}: {held} of {flushed} to {end}");
            let whose = tenant("acme");
            let rows = SegmentRows {
                segments: vec![memory.segment()],
                offsets: OffsetRange::new(flushed, end),
                tenant: &whose,
            };
            let expected = rows.scan_all(&query, &Abandoned::default()).unwrap();
            assert_eq!(found, numbers(&query, expected), "seed {seed}");
        }
    }
}
