//! Topics: refused settings, deletion, recreation, TLS and passwords.

use std::time::Duration;

use limits::PromDuration;
use millrace_log_bus::{FetchLimits, KafkaConfig, KafkaControl, KafkaLog, LogBus, LogError};
use model::Offset;
use testbed::kafka::TopicOptions;

use super::{FIRST, SASL, append, broker, config, connect, until};

const LIMITS: FetchLimits = FetchLimits { bytes_max: 1 << 20, wait_max: Duration::from_secs(5) };

fn settings(of: &[(&str, &str)]) -> TopicOptions {
    let settings = of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    TopicOptions { partitions: 2, replication: 1, settings }
}

async fn refused(config: &KafkaConfig) -> String {
    match KafkaLog::connect(config.clone(), None).await {
        Err(error @ LogError::Open { .. }) => error.to_string(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it connects"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_problems_of_a_topic_are_reported_at_once() {
    let broker = broker();
    let config = config(&broker.bootstrap(), 2);
    let admin = broker.admin().unwrap();
    let wrong = [
        ("message.timestamp.type", "CreateTime"),
        ("retention.ms", "60000"),
        ("max.message.bytes", "100000"),
        ("cleanup.policy", "compact"),
    ];
    admin.create_topic(&config.topic, &settings(&wrong)).await.unwrap();
    let two_in_sync = KafkaConfig { replication_factor: 2, min_insync_replicas: 2, ..config.clone() };
    let text = refused(&two_in_sync).await;
    for (name, _) in wrong.iter().chain(&[("min.insync.replicas", "")]) {
        assert!(text.contains(&format!("--add-config {name}=")), "{name}: {text}");
    }
    assert!(text.contains("have 1 replicas"), "{text}");

    let right = [("message.timestamp.type", "LogAppendTime")];
    admin.set_topic(&config.topic, &right).await.unwrap();
    until("the topic's settings are right", || async { KafkaLog::connect(config.clone(), None).await.is_ok() }).await;
    // The settings require a longer retention than Kafka's default of a week.
    let longer = PromDuration::from_hours(24 * 30);
    let text = refused(&KafkaConfig { retention_min: longer, retention: longer, ..config }).await;
    assert!(text.contains("retention.ms is 604800000"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_cannot_be_created() {
    let broker = broker();
    let base = config(&broker.bootstrap(), 2);
    let text = refused(&KafkaConfig { create_topics: false, ..base.clone() }).await;
    assert!(text.contains("kafka.create_topics") && text.contains(&base.topic), "{text}");
    let text = refused(&KafkaConfig { replication_factor: 3, ..base.clone() }).await;
    assert!(text.contains("kafka.replication_factor"), "{text}");
    let text = refused(&KafkaConfig { partitions: 0, readers_max: 0, ..base.clone() }).await;
    assert!(text.contains("kafka.partitions") && text.contains("kafka.readers_max"), "{text}");
    // Nothing listens on this port.
    let nobody =
        KafkaConfig { brokers: "127.0.0.1:1".to_owned(), request_timeout: PromDuration::from_millis(300), ..base };
    assert!(matches!(KafkaLog::connect(nobody, None).await, Err(LogError::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_topic_stops_the_log() {
    let broker = broker();
    let config = config(&broker.bootstrap(), 1);
    let admin = broker.admin().unwrap();
    let log = connect(&config).await;
    for i in 0..10 {
        append(&log, FIRST, &i.to_string()).await;
    }
    let fetched = log.fetch(FIRST, Offset::ZERO, LIMITS).await.unwrap();
    assert_eq!(fetched.records.len(), 10);
    let waiting = tokio::spawn({
        let log = log.clone();
        async move { log.assignment().await.and(log.assignment().await) }
    });
    admin.delete_topic(&config.topic).await.unwrap();
    // Another process recreates it at once.
    let new = loop {
        match KafkaLog::connect(config.clone(), None).await {
            Ok(new) if new.log_id() != log.log_id() => break new,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    for i in 0..20 {
        append(&new, FIRST, &i.to_string()).await;
    }
    until("the old log stops", || async {
        matches!(log.append(FIRST, &super::tenant(), "x".into()).await, Err(LogError::Stopped(_)))
    })
    .await;
    match log.fetch(FIRST, fetched.next, LIMITS).await {
        Err(LogError::Stopped(reason)) => assert!(reason.contains("recreated"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(log.ends().await, Err(LogError::Stopped(_))));
    assert!(matches!(waiting.await.unwrap(), Err(LogError::Stopped(_))), "a pending call must fail");
    // The new log has all its records.
    let fetched = new.fetch(FIRST, Offset::ZERO, LIMITS).await.unwrap();
    assert_eq!(fetched.records.first().unwrap().payload, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_a_recreated_topic_never_gets_out_of_range() {
    let broker = broker();
    // The watcher does not run during the test, so the read itself must notice the new topic.
    let config = KafkaConfig { metadata_refresh: PromDuration::from_mins(50), ..config(&broker.bootstrap(), 1) };
    let admin = broker.admin().unwrap();
    let log = connect(&config).await;
    for i in 0..10 {
        append(&log, FIRST, &i.to_string()).await;
    }
    admin.delete_topic(&config.topic).await.unwrap();
    until("the topic is recreated", || async { KafkaLog::connect(config.clone(), None).await.is_ok() }).await;
    let began = std::time::Instant::now();
    loop {
        match log.fetch(FIRST, Offset::new(10), LIMITS).await {
            Err(LogError::Stopped(_)) => break,
            // The client still has metadata of the old topic.
            Err(LogError::Unavailable(_)) => {}
            Ok(fetched) => assert!(fetched.records.is_empty()),
            Err(other) => panic!("{other}"),
        }
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_stops_the_log() {
    let broker = broker();
    let config = config(&broker.bootstrap(), 1);
    let log = connect(&config).await;
    append(&log, FIRST, "x").await;
    broker.admin().unwrap().delete_topic(&config.topic).await.unwrap();
    until("the log stops", || async { matches!(log.watermarks(FIRST).await, Err(LogError::Stopped(_))) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_passwords_are_passed_to_kafka() {
    let broker = broker();
    let mut config = config(&broker.bootstrap_secure().unwrap(), 1);
    config.request_timeout = PromDuration::from_secs(3);
    assert!(KafkaLog::connect(config.clone(), None).await.is_err(), "it connected without TLS and a name");
    let authority = broker.authority().unwrap().display().to_string();
    config.properties = [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanisms", "PLAIN"),
        ("sasl.username", SASL.0),
        ("sasl.password", "wrong"),
        ("ssl.ca.location", &authority),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    assert!(KafkaLog::connect(config.clone(), None).await.is_err(), "it connected with a wrong password");
    config.properties.insert("sasl.password".to_owned(), SASL.1.to_owned());
    config.properties.remove("ssl.ca.location");
    assert!(KafkaLog::connect(config.clone(), None).await.is_err(), "it trusted a broker without its authority");
    config.properties.insert("ssl.ca.location".to_owned(), authority);
    config.request_timeout = PromDuration::from_secs(20);
    let log = connect(&config).await;
    append(&log, FIRST, "x").await;
    assert_eq!(log.fetch(FIRST, Offset::ZERO, LIMITS).await.unwrap().records.len(), 1);
    assert!(log.assignment().await.is_ok(), "it cannot join the group");
    log.leave().await.unwrap();
    KafkaControl::connect(&config).await.unwrap();
}
