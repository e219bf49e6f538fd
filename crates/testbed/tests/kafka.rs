//! Starts three brokers, kills one, pauses one, and brings them back.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

use millrace_testbed::kafka::{KafkaCluster, KafkaOptions, TopicOptions};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_come_and_go() {
    let mut cluster = KafkaCluster::start(KafkaOptions { brokers: 3, ..KafkaOptions::default() }).unwrap();
    let admin = cluster.admin().unwrap();
    admin.create_topic("t", &TopicOptions { partitions: 6, ..TopicOptions::default() }).await.unwrap();
    let leaders = admin.all_leaders("t").await.unwrap();
    assert_eq!(leaders.len(), 6);
    cluster.kill(0).unwrap();
    assert_eq!(cluster.pid(0), None);
    cluster.stop(1).unwrap();
    cluster.cont(1).unwrap();
    cluster.restart(0).unwrap();
    cluster.terminate(2).unwrap();
    cluster.restart(2).unwrap();
    cluster.wait_until_all_answer().unwrap();
    admin.grow_topic("t", 8).await.unwrap();
    admin.delete_topic("t").await.unwrap();
}
