//! Three brokers: acknowledged records survive the death of any one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use limits::PromDuration;
use millrace_log_bus::{FetchLimits, KafkaConfig, LogBus, LogError};
use model::{Offset, PartitionId};
use testbed::kafka::{KafkaCluster, KafkaOptions};

use super::{FIRST, config, connect, read_all, tenant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_survive_killed_brokers() {
    let mut cluster = KafkaCluster::start(KafkaOptions { brokers: 3, ..KafkaOptions::default() }).unwrap();
    let config = KafkaConfig {
        replication_factor: 3,
        min_insync_replicas: 2,
        delivery_timeout: PromDuration::from_secs(20),
        ..config(&cluster.bootstrap(), 3)
    };
    let log = connect(&config).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..6_u32)
        .map(|writer| {
            let (log, stop) = (log.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut acknowledged, mut failed, mut longest) = (Vec::new(), 0, Duration::ZERO);
                for i in 0_u32.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let partition = PartitionId::new((writer + i) % 3);
                    let payload = Bytes::from(format!("{writer} {i}"));
                    let began = Instant::now();
                    match log.append(partition, &tenant(), payload.clone()).await {
                        Ok(offset) => acknowledged.push((partition, offset, payload)),
                        Err(LogError::Unavailable(_)) => failed += 1,
                        Err(other) => panic!("{other}"),
                    }
                    longest = longest.max(began.elapsed());
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                (acknowledged, failed, longest)
            })
        })
        .collect();
    // A reader that follows the log from the start up to its end, which it is told after the last append.
    let (send_end, end) = tokio::sync::watch::channel(None::<Offset>);
    let follower = tokio::spawn({
        let log = log.clone();
        async move {
            let limits = FetchLimits { bytes_max: 1 << 20, wait_max: Duration::from_millis(500) };
            let (mut next, mut seen) = (Offset::ZERO, BTreeMap::new());
            while end.borrow().is_none_or(|end| next < end) {
                match log.fetch(FIRST, next, limits).await {
                    Ok(fetched) => {
                        for record in fetched.records {
                            let earlier = seen.insert(record.offset, record.payload);
                            assert!(earlier.is_none(), "{} was fetched twice", record.offset);
                        }
                        next = fetched.next;
                    }
                    Err(LogError::Unavailable(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            seen
        }
    });
    let mut cluster = tokio::task::spawn_blocking(move || {
        for broker in 0..3 {
            std::thread::sleep(Duration::from_secs(2));
            cluster.kill(broker).unwrap();
            std::thread::sleep(Duration::from_secs(5));
            cluster.restart(broker).unwrap();
            cluster.wait_until_all_answer().unwrap();
        }
        cluster
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut expected, mut failed, mut longest) = (BTreeMap::new(), 0, Duration::ZERO);
    for writer in writers {
        let (acknowledged, failures, slowest) = writer.await.unwrap();
        failed += failures;
        longest = longest.max(slowest);
        for (partition, offset, payload) in acknowledged {
            assert!(expected.insert((partition, offset), payload).is_none(), "an offset is assigned once");
        }
    }
    let ends = log.ends().await.unwrap();
    send_end.send(Some(ends[0])).unwrap();
    let mut followed = follower.await.unwrap();
    followed.retain(|offset, _| *offset < ends[0]);
    let mut found = BTreeMap::new();
    for (p, end) in ends.into_iter().enumerate() {
        let partition = PartitionId::new(p as u32);
        for record in read_all(&log, partition, end).await {
            found.insert((partition, record.offset), record.payload);
        }
    }
    for (place, payload) in &expected {
        assert_eq!(found.get(place), Some(payload), "the acknowledged record at {place:?} is missing");
    }
    let mut payloads: Vec<&Bytes> = found.values().collect();
    payloads.sort_unstable();
    payloads.dedup();
    assert_eq!(payloads.len(), found.len(), "retries write nothing twice");
    let first = found.iter().filter(|((partition, _), _)| *partition == FIRST);
    let first: BTreeMap<_, _> = first.map(|((_, offset), payload)| (*offset, payload.clone())).collect();
    assert!(followed == first, "the follower and the log differ: {:?}", difference(&followed, &first));
    eprintln!(
        "{} acknowledged, {} found, {failed} appends failed, the longest took {longest:?}",
        expected.len(),
        found.len()
    );
    assert!(expected.len() > 500);

    // With one broker of three, appends fail in time.
    let quick = KafkaConfig { delivery_timeout: PromDuration::from_secs(2), ..config.clone() };
    let log = connect(&quick).await;
    cluster.kill(1).unwrap();
    cluster.kill(2).unwrap();
    let began = Instant::now();
    match log.append(PartitionId::new(0), &tenant(), "x".into()).await {
        Err(LogError::Unavailable(_)) => {}
        other => panic!("{other:?}"),
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// The offsets whose records are not in both logs, or differ.
fn difference(a: &BTreeMap<Offset, Bytes>, b: &BTreeMap<Offset, Bytes>) -> Vec<Offset> {
    let offsets = a.keys().chain(b.keys()).collect::<BTreeSet<_>>();
    offsets.into_iter().filter(|offset| a.get(offset) != b.get(offset)).copied().collect()
}
