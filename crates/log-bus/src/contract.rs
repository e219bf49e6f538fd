//! The contract of every log, as a test suite. Each implementation runs it in its tests: [`check`] panics at the first
//! broken promise and names it.

#![allow(clippy::disallowed_methods, reason = "a test suite, which waits for every task it starts")]
#![allow(clippy::print_stderr, reason = "a test suite, which prints how far it is")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use model::{Offset, PartitionId, TenantId, TimestampNs};
use tokio::time::{Instant, timeout};

use crate::{Assignment, FetchLimits, LogBus, LogError, LogRecord};

/// Creates the logs that the suite tests.
#[async_trait]
pub trait LogFactory: Send + Sync {
    /// Creates an empty log.
    async fn fresh(&self, partitions: u32) -> Arc<dyn LogBus>;

    /// Closes a log and opens it again. Returns `None` if the log does not keep its records.
    async fn reopen(&self, log: Arc<dyn LogBus>) -> Option<Arc<dyn LogBus>>;

    /// Makes retention remove some of the first records of the partition, but not the last. The partition has at least
    /// 100 records of 1 KB each.
    async fn trim(&self, log: &Arc<dyn LogBus>, partition: PartitionId);

    /// The largest record that the logs take.
    fn record_bytes_max(&self) -> usize;
}

/// Runs the whole suite.
///
/// # Panics
/// If the log breaks a promise.
pub async fn check(factory: &dyn LogFactory) {
    type Promise = for<'a> fn(&'a dyn LogFactory) -> BoxFuture<'a, ()>;
    let promises: [(&str, Promise); 14] = [
        ("empty log", |f| Box::pin(empty_log(f))),
        ("order and content", |f| Box::pin(order_and_content(f))),
        ("partitions are separate", |f| Box::pin(partitions_are_separate(f))),
        ("fetch limits", |f| Box::pin(fetch_limits(f))),
        ("fetch waits", |f| Box::pin(fetch_waits(f))),
        ("a record wakes all waiting readers", |f| Box::pin(record_wakes_all(f))),
        ("out of range", |f| Box::pin(out_of_range(f))),
        ("retention", |f| Box::pin(retention(f))),
        ("offset at a time", |f| Box::pin(offset_at_a_time(f))),
        ("concurrent appends", |f| Box::pin(concurrent_appends(f))),
        ("cancelled appends", |f| Box::pin(cancelled_appends(f))),
        ("large records", |f| Box::pin(large_records(f))),
        ("commit and assignment", |f| Box::pin(commit_and_assignment(f))),
        ("reopen", |f| Box::pin(reopen(f))),
    ];
    for (name, promise) in promises {
        eprintln!("contract: {name}");
        let kept = timeout(Duration::from_secs(60), promise(factory)).await;
        assert!(kept.is_ok(), "contract: {name} took too long");
    }
}

const FIRST: PartitionId = PartitionId::new(0);
const SECOND: PartitionId = PartitionId::new(1);

fn tenant() -> TenantId {
    TenantId::new("tenant-a").expect("the name is valid")
}

const fn limits(bytes_max: usize, wait_max: Duration) -> FetchLimits {
    FetchLimits { bytes_max, wait_max }
}

/// Long enough to get records that exist already, even from a remote log.
const SOON: FetchLimits = limits(1 << 20, Duration::from_secs(5));
const AT_ONCE: FetchLimits = limits(1 << 20, Duration::ZERO);

async fn append(log: &Arc<dyn LogBus>, partition: PartitionId, payload: impl Into<Bytes>) -> Offset {
    log.append(partition, &tenant(), payload.into()).await.expect("appends work")
}

/// All records from `from` to the end.
async fn read_all(log: &Arc<dyn LogBus>, partition: PartitionId, from: Offset, limits: FetchLimits) -> Vec<LogRecord> {
    let end = log.watermarks(partition).await.expect("watermarks work").end;
    let mut all: Vec<LogRecord> = Vec::new();
    let mut next = from;
    while next < end {
        let fetched = log.fetch(partition, next, limits).await.expect("the offset is in range");
        for record in fetched.records {
            assert!(record.offset >= next, "a fetch from {next} gave {}", record.offset);
            assert!(all.last().is_none_or(|last| last.offset < record.offset), "offsets increase");
            assert!(
                all.last().is_none_or(|last| last.append_time <= record.append_time),
                "append times do not decrease"
            );
            all.push(record);
        }
        assert!(all.last().is_none_or(|last| last.offset < fetched.next), "next is after the records");
        assert!(fetched.next >= next, "next does not go back");
        next = fetched.next;
    }
    all
}

async fn empty_log(factory: &dyn LogFactory) {
    let log = factory.fresh(2).await;
    assert_eq!(log.partition_count(), 2);
    assert!(!log.log_id().0.is_empty());
    let held = log.watermarks(FIRST).await.expect("watermarks work");
    assert_eq!(held.first, held.end);
    let fetched = log.fetch(FIRST, held.end, AT_ONCE).await.expect("the end can be fetched");
    assert!(fetched.records.is_empty());
    assert_eq!(fetched.next, held.end);
    assert_eq!(log.offset_at(FIRST, TimestampNs::from_nanos(0)).await.expect("the log answers"), None);
    assert_eq!(log.committed(FIRST).await.expect("the log answers"), None);
    let other = PartitionId::new(2);
    assert!(matches!(log.watermarks(other).await, Err(LogError::NoPartition { count: 2, .. })));
    assert!(matches!(log.append(other, &tenant(), Bytes::new()).await, Err(LogError::NoPartition { .. })));
    assert!(matches!(log.fetch(other, Offset::ZERO, AT_ONCE).await, Err(LogError::NoPartition { .. })));
    assert_ne!(factory.fresh(1).await.log_id(), log.log_id(), "each log has its own id");
}

async fn order_and_content(factory: &dyn LogFactory) {
    let log = factory.fresh(1).await;
    let mut expected = Vec::new();
    for i in 0..100_u32 {
        let payload = vec![i as u8; (i * i) as usize];
        let offset = append(&log, FIRST, payload.clone()).await;
        let held = log.watermarks(FIRST).await.expect("watermarks work");
        assert!(held.end > offset, "acknowledged records are below the end");
        expected.push((offset, payload));
    }
    for bytes_max in [0, 1000, 1 << 20] {
        let records = read_all(&log, FIRST, Offset::ZERO, limits(bytes_max, SOON.wait_max)).await;
        let found: Vec<_> = records.iter().map(|record| (record.offset, record.payload.to_vec())).collect();
        assert!(found == expected, "each record is returned once, complete and in order ({bytes_max})");
        assert!(records.iter().all(|record| record.key == tenant().as_str().as_bytes()));
    }
    for (index, (offset, _)) in expected.iter().enumerate() {
        let fetched = log.fetch(FIRST, *offset, limits(0, SOON.wait_max)).await.expect("the offset is in range");
        assert_eq!(fetched.records.first().map(|record| record.offset), Some(expected[index].0));
    }
}

async fn partitions_are_separate(factory: &dyn LogFactory) {
    let log = factory.fresh(3).await;
    for i in 0..60_u8 {
        append(&log, PartitionId::new(u32::from(i) % 3), vec![i]).await;
    }
    for p in 0..3_u8 {
        let records = read_all(&log, PartitionId::new(u32::from(p)), Offset::ZERO, SOON).await;
        let found: Vec<u8> = records.iter().map(|record| record.payload[0]).collect();
        assert_eq!(found, (0..60).filter(|i| i % 3 == p).collect::<Vec<u8>>());
    }
}

async fn fetch_limits(factory: &dyn LogFactory) {
    let log = factory.fresh(1).await;
    let first = append(&log, FIRST, vec![0; 1000]).await;
    let second = append(&log, FIRST, vec![1; 1000]).await;
    let third = append(&log, FIRST, vec![2; 1000]).await;
    for (bytes_max, from, expected) in [
        (0, first, vec![first]),
        (1999, first, vec![first]),
        (2000, first, vec![first, second]),
        (2999, second, vec![second, third]),
        (1 << 20, first, vec![first, second, third]),
    ] {
        let fetched = log.fetch(FIRST, from, limits(bytes_max, SOON.wait_max)).await.expect("the offset is in range");
        let found: Vec<Offset> = fetched.records.iter().map(|record| record.offset).collect();
        assert!(!found.is_empty(), "a fetch returns at least one record");
        // A log may return fewer records than allowed, but not more, and only in order.
        assert!(expected.starts_with(&found), "{found:?} of {expected:?}");
        assert!(fetched.next > *found.last().expect("it is not empty"));
        assert!(expected.get(found.len()).is_none_or(|next| fetched.next <= *next), "next skips nothing");
    }
}

async fn fetch_waits(factory: &dyn LogFactory) {
    let log = factory.fresh(1).await;
    let began = Instant::now();
    let wait = Duration::from_millis(80);
    let fetched = log.fetch(FIRST, Offset::ZERO, limits(1, wait)).await.expect("the log answers");
    assert!(fetched.records.is_empty());
    assert!(began.elapsed() >= wait - Duration::from_millis(5), "the fetch waits for wait_max");

    let reader = Arc::clone(&log);
    let waiting = tokio::spawn(async move {
        let fetched = reader.fetch(FIRST, Offset::ZERO, limits(1 << 20, Duration::from_secs(20))).await;
        (fetched, Instant::now())
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    append(&log, FIRST, "x").await;
    let acknowledged = Instant::now();
    let (fetched, arrived) = waiting.await.expect("the task does not panic");
    assert_eq!(fetched.expect("the log answers").records.len(), 1);
    let late = arrived.saturating_duration_since(acknowledged);
    assert!(late < Duration::from_secs(2), "a record wakes the reader; it took {late:?}");
}

async fn record_wakes_all(factory: &dyn LogFactory) {
    let log = factory.fresh(2).await;
    let wait = limits(1 << 20, Duration::from_secs(20));
    let readers = (0..8).map(|_| {
        let log = Arc::clone(&log);
        tokio::spawn(async move { log.fetch(FIRST, Offset::ZERO, wait).await.map(|fetched| fetched.records.len()) })
    });
    let readers: Vec<_> = readers.collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    append(&log, SECOND, "not for them").await;
    append(&log, FIRST, "x").await;
    for reader in readers {
        assert!(reader.await.expect("the task does not panic").expect("the log answers") >= 1);
    }
}

async fn out_of_range(factory: &dyn LogFactory) {
    let log = factory.fresh(1).await;
    append(&log, FIRST, "x").await;
    let held = log.watermarks(FIRST).await.expect("watermarks work");
    let beyond = Offset::new(held.end.value() + 1);
    match log.fetch(FIRST, beyond, AT_ONCE).await {
        Err(LogError::OutOfRange { partition, asked, held: said }) => {
            assert_eq!((partition, asked, said), (FIRST, beyond, held));
        }
        other => panic!("an offset above the end is out of range, got {other:?}"),
    }
    let below = Offset::new(held.first.value() - 1);
    assert!(matches!(log.fetch(FIRST, below, AT_ONCE).await, Err(LogError::OutOfRange { .. })));
}

async fn retention(factory: &dyn LogFactory) {
    let log = factory.fresh(1).await;
    for i in 0..200_u8 {
        append(&log, FIRST, vec![i; 1000]).await;
    }
    let before = read_all(&log, FIRST, Offset::ZERO, SOON).await;
    factory.trim(&log, FIRST).await;
    let held = log.watermarks(FIRST).await.expect("watermarks work");
    assert!(held.first > Offset::ZERO, "retention removed something");
    assert!(held.first < held.end, "retention left something");
    match log.fetch(FIRST, Offset::ZERO, AT_ONCE).await {
        Err(LogError::OutOfRange { held: said, .. }) => assert_eq!(said, held),
        other => panic!("what was removed is out of range, got {other:?}"),
    }
    let left = read_all(&log, FIRST, held.first, SOON).await;
    let expected: Vec<_> = before.iter().filter(|record| record.offset >= held.first).map(|r| r.offset).collect();
    assert_eq!(left.iter().map(|record| record.offset).collect::<Vec<_>>(), expected);
    let oldest = log.offset_at(FIRST, TimestampNs::from_nanos(0)).await.expect("the log answers");
    assert_eq!(oldest, expected.first().copied());
    let next = append(&log, FIRST, "next").await;
    assert!(next >= held.end, "offsets continue");
}

async fn offset_at_a_time(factory: &dyn LogFactory) {
    let log = factory.fresh(2).await;
    for i in 0..30_u8 {
        append(&log, FIRST, vec![i; 2000]).await;
        if i % 7 == 0 {
            append(&log, SECOND, vec![i]).await;
        }
        if i % 5 == 0 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
    for partition in [FIRST, SECOND] {
        let records = read_all(&log, partition, Offset::ZERO, SOON).await;
        let mut times: Vec<i64> = records.iter().map(|record| record.append_time.nanos()).collect();
        times.extend(times.clone().iter().flat_map(|time| [time - 1, time + 1]));
        for time in times.into_iter().map(TimestampNs::from_nanos) {
            let expected = records.iter().find(|record| record.append_time >= time).map(|record| record.offset);
            assert_eq!(log.offset_at(partition, time).await.expect("the log answers"), expected, "{time}");
        }
    }
}

async fn concurrent_appends(factory: &dyn LogFactory) {
    let log = factory.fresh(2).await;
    let writers = (0..16_u32).map(|writer| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for i in 0..25_u32 {
                let partition = PartitionId::new((writer + i) % 2);
                let payload = format!("{writer} {i} {}", "x".repeat((writer * 97 + i * 131) as usize % 5000));
                acknowledged.push((partition, append(&log, partition, payload.clone()).await, payload));
            }
            acknowledged
        })
    });
    let mut expected: BTreeMap<(PartitionId, Offset), String> = BTreeMap::new();
    for writer in join_all(writers).await {
        let mut last = BTreeMap::new();
        for (partition, offset, payload) in writer.expect("the task does not panic") {
            assert!(last.insert(partition, offset).is_none_or(|before| before < offset), "a writer's order is kept");
            assert!(expected.insert((partition, offset), payload).is_none(), "an offset is assigned once");
        }
    }
    let mut found = BTreeMap::new();
    for partition in [FIRST, SECOND] {
        for record in read_all(&log, partition, Offset::ZERO, SOON).await {
            let payload = String::from_utf8(record.payload.to_vec()).expect("the payload is text");
            found.insert((partition, record.offset), payload);
        }
    }
    assert!(found == expected, "exactly the acknowledged records are in the log");
}

async fn cancelled_appends(factory: &dyn LogFactory) {
    let log = factory.fresh(1).await;
    let mut acknowledged = Vec::new();
    for i in 0..200_u32 {
        let payload = Bytes::from(format!("record {i}"));
        let tenant = tenant();
        let wait = log.append(FIRST, &tenant, payload.clone());
        if i % 2 == 0 {
            // Polled at least once, then cancelled.
            let _ = timeout(Duration::ZERO, wait).await;
        } else {
            acknowledged.push((wait.await.expect("the log answers"), payload));
        }
    }
    let records = read_all(&log, FIRST, Offset::ZERO, SOON).await;
    for (offset, payload) in &acknowledged {
        assert!(
            records.iter().any(|r| r.offset == *offset && r.payload == *payload),
            "the record at {offset} is in the log"
        );
    }
    let mut payloads: Vec<_> = records.iter().map(|record| record.payload.clone()).collect();
    payloads.sort();
    payloads.dedup();
    assert_eq!(payloads.len(), records.len(), "no record is in the log twice");
}

async fn large_records(factory: &dyn LogFactory) {
    let log = factory.fresh(1).await;
    let bytes_max = factory.record_bytes_max();
    let fits = Bytes::from(vec![7; bytes_max]);
    let offset = append(&log, FIRST, fits.clone()).await;
    match log.append(FIRST, &tenant(), vec![7; bytes_max + 1].into()).await {
        Err(LogError::TooLarge { bytes, .. }) => assert_eq!(bytes, bytes_max + 1),
        other => panic!("a record above the limit is refused, got {other:?}"),
    }
    let empty = append(&log, FIRST, Bytes::new()).await;
    let records = read_all(&log, FIRST, Offset::ZERO, SOON).await;
    let found: Vec<_> = records.iter().map(|record| (record.offset, record.payload.len())).collect();
    assert_eq!(found, [(offset, bytes_max), (empty, 0)]);
    assert!(records[0].payload == fits);
}

async fn commit_and_assignment(factory: &dyn LogFactory) {
    let log = factory.fresh(2).await;
    let offset = append(&log, SECOND, "x").await.next();
    log.commit(SECOND, offset).await.expect("commits work");
    assert_eq!(log.committed(SECOND).await.expect("the log answers"), Some(offset));
    assert_eq!(log.committed(FIRST).await.expect("the log answers"), None);
    let mut assigned = Vec::new();
    while assigned.len() < 2 {
        match timeout(Duration::from_secs(30), log.assignment()).await.expect("partitions are assigned") {
            Ok(Assignment::Assigned(more)) => assigned.extend(more),
            other => panic!("the only member of a group gets partitions, got {other:?}"),
        }
    }
    assigned.sort();
    assert_eq!(assigned, [FIRST, SECOND]);
    assert!(
        timeout(Duration::from_millis(20), log.assignment()).await.is_err(),
        "the assignment does not change any more"
    );
}

async fn reopen(factory: &dyn LogFactory) {
    let log = factory.fresh(2).await;
    let id = log.log_id().clone();
    for i in 0..150_u8 {
        append(&log, PartitionId::new(u32::from(i % 2)), vec![i; 700]).await;
    }
    log.commit(FIRST, Offset::new(5)).await.expect("commits work");
    let held =
        [log.watermarks(FIRST).await.expect("watermarks work"), log.watermarks(SECOND).await.expect("watermarks work")];
    let before = [read_all(&log, FIRST, Offset::ZERO, SOON).await, read_all(&log, SECOND, Offset::ZERO, SOON).await];
    let Some(log) = factory.reopen(log).await else { return };
    assert_eq!(*log.log_id(), id, "the id stays");
    assert_eq!(log.committed(FIRST).await.expect("the log answers"), Some(Offset::new(5)));
    for (partition, (held, before)) in [FIRST, SECOND].into_iter().zip(held.into_iter().zip(before)) {
        assert_eq!(log.watermarks(partition).await.expect("watermarks work"), held);
        let after = read_all(&log, partition, Offset::ZERO, SOON).await;
        let parts = |records: &[LogRecord]| -> Vec<_> {
            records.iter().map(|r| (r.offset, r.append_time, r.key.clone(), r.payload.clone())).collect()
        };
        assert!(parts(&before) == parts(&after), "all records are kept unchanged");
        let next = append(&log, partition, "next").await;
        assert!(next >= held.end, "offsets continue");
        let records = read_all(&log, partition, held.end, SOON).await;
        assert_eq!(records.len(), 1);
    }
}
