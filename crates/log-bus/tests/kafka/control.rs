//! The control topic.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_log_bus::{ControlBus, KafkaConfig, KafkaControl};
use model::{Clock, SystemClock};
use testbed::kafka::{KafkaCluster, KafkaOptions};
use tokio::task::JoinSet;

use super::{broker, config, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_process_reads_all_messages_of_the_last_minute() {
    let broker = broker();
    let config = config(&broker.bootstrap(), 1);
    let one = KafkaControl::connect(&config).await.unwrap();
    let two = KafkaControl::connect(&config).await.unwrap();
    for text in ["1", "2"] {
        one.publish("one", Bytes::from(text)).await.unwrap();
    }
    for control in [&one, &two] {
        for text in ["1", "2"] {
            let record = control.next().await.unwrap();
            assert_eq!((record.key.as_str(), &record.payload[..]), ("one", text.as_bytes()));
            let age = SystemClock.now().nanos() - record.append_time.nanos();
            assert!((0..60_000_000_000).contains(&age), "the append time is {age} ns ago");
        }
    }
    let waiting = tokio::spawn({
        let two = two.clone();
        async move { two.next().await.unwrap().payload }
    });
    one.publish("one", Bytes::from("3")).await.unwrap();
    assert_eq!(waiting.await.unwrap(), "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_is_recreated() {
    let broker = broker();
    let config = config(&broker.bootstrap(), 1);
    let one = KafkaControl::connect(&config).await.unwrap();
    let two = KafkaControl::connect(&config).await.unwrap();
    one.publish("one", Bytes::from("before")).await.unwrap();
    assert_eq!(two.next().await.unwrap().payload, "before");
    broker.admin().unwrap().delete_topic(&config.control_topic()).await.unwrap();
    let publishing = tokio::spawn({
        let one = one.clone();
        async move {
            loop {
                let _ = one.publish("one", Bytes::from("after")).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    });
    let began = std::time::Instant::now();
    until("the topic can be read again", || async { two.next().await.is_ok_and(|record| record.payload == "after") })
        .await;
    eprintln!("the control topic was back after {:?}", began.elapsed());
    until("the other process reads it too", || async {
        one.next().await.is_ok_and(|record| record.payload == "after")
    })
    .await;
    publishing.abort();
}

/// librdkafka keeps the leader epochs of a deleted topic and treats the lower epochs of its successor as outdated, so it
/// never learns about the new leader. This needs a topic whose leader moved before it was deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_whose_leaders_moved_is_recreated() {
    let mut cluster = KafkaCluster::start(KafkaOptions { brokers: 3, ..KafkaOptions::default() }).unwrap();
    let config = KafkaConfig { replication_factor: 3, min_insync_replicas: 2, ..config(&cluster.bootstrap(), 1) };
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(KafkaControl::connect(&config).await.unwrap());
    }
    let admin = cluster.admin().unwrap();
    let publishing = publish_repeatedly(&all, "before");
    for _ in 0..2 {
        let leader = admin.all_leaders(&config.control_topic()).await.unwrap()[0];
        let broker = usize::try_from(leader).unwrap() - 1;
        cluster.terminate(broker).unwrap();
        cluster.restart(broker).unwrap();
    }
    until_all_read_all(&all, "before").await;
    drop(publishing);
    admin.delete_topic(&config.control_topic()).await.unwrap();
    let publishing = publish_repeatedly(&all, "after");
    until_all_read_all(&all, "after").await;
    drop(publishing);
}

/// Each member publishes `text` again and again until the returned set is dropped.
fn publish_repeatedly(all: &[Arc<KafkaControl>], text: &'static str) -> JoinSet<()> {
    let mut publishing = JoinSet::new();
    for (i, control) in all.iter().cloned().enumerate() {
        publishing.spawn(async move {
            loop {
                let _ = control.publish(&i.to_string(), Bytes::from(text)).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    publishing
}

async fn until_all_read_all(all: &[Arc<KafkaControl>], text: &'static str) {
    let began = std::time::Instant::now();
    let mut reading = JoinSet::new();
    for (reader, control) in all.iter().cloned().enumerate() {
        let mut missing: BTreeSet<String> = (0..all.len()).map(|writer| writer.to_string()).collect();
        reading.spawn(async move {
            while !missing.is_empty() {
                let left = Duration::from_secs(60).saturating_sub(began.elapsed());
                match tokio::time::timeout(left, control.next()).await {
                    Ok(Ok(record)) if record.payload == text => _ = missing.remove(&record.key),
                    Ok(_) => {}
                    Err(_) => panic!("{reader} does not read messages of {missing:?}"),
                }
            }
        });
    }
    reading.join_all().await;
    eprintln!("every member read {text:?} of every member after {:?}", began.elapsed());
}
