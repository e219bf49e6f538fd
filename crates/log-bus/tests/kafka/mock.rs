//! Tests with librdkafka's mock cluster, which can do what a real broker does not do on demand.

use std::time::{Duration, Instant};

use limits::{ByteSize, PromDuration};
use millrace_log_bus::{FetchLimits, KafkaConfig, LogBus, LogError};
use model::Offset;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::{FIRST, append, config, connect, read_all, tenant};

type Mock = MockCluster<'static, DefaultProducerContext>;

const LIMITS: FetchLimits = FetchLimits { bytes_max: 1 << 20, wait_max: Duration::from_secs(5) };

fn mock(change: impl FnOnce(&mut KafkaConfig)) -> (Mock, KafkaConfig) {
    let mock = MockCluster::new(1).unwrap();
    let mut config = config(&mock.bootstrap_servers(), 1);
    config.delivery_timeout = PromDuration::from_secs(5);
    // The mock does not answer requests for a topic's settings, so they time out.
    config.request_timeout = PromDuration::from_secs(2);
    change(&mut config);
    mock.create_topic(&config.topic, 1, 1).unwrap();
    (mock, config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_with_passing_errors_are_retried() {
    let (mock, config) = mock(|_| {});
    let log = connect(&config).await;
    append(&log, FIRST, "before").await;
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
    ] {
        mock.request_errors(RDKafkaApiKey::Produce, &[error; 3]);
        append(&log, FIRST, "after").await;
    }
}

/// A partition has one request in flight at a time (ADR 12). With a second one, unacknowledged records of the first could
/// get into the log twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_times_out_in_the_queue_is_not_in_the_log() {
    let (mock, config) = mock(|config| config.delivery_timeout = PromDuration::from_millis(1500));
    let log = connect(&config).await;
    append(&log, FIRST, "before").await;
    mock.broker_down(1).unwrap();
    for text in ["in flight", "queued"] {
        match log.append(FIRST, &tenant(), text.into()).await {
            Err(LogError::Unavailable(reason)) => assert!(reason.contains("timed out"), "{reason}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    mock.broker_up(1).unwrap();
    let mut tries = 0;
    while log.append(FIRST, &tenant(), "after".into()).await.is_err() {
        tries += 1;
        assert!(tries < 20);
    }
    let end = log.watermarks(FIRST).await.unwrap().end;
    let records = read_all(&log, FIRST, end).await;
    let mut texts: Vec<_> = records.iter().map(|record| std::str::from_utf8(&record.payload).unwrap()).collect();
    texts.dedup();
    assert_eq!(texts, ["before", "in flight", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_with_a_lasting_error_fails_and_later_ones_work() {
    let (mock, config) = mock(|config| config.delivery_timeout = PromDuration::from_millis(1500));
    let log = connect(&config).await;
    append(&log, FIRST, "before").await;
    mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 500]);
    let began = Instant::now();
    match log.append(FIRST, &tenant(), "lost".into()).await {
        Err(LogError::Unavailable(_)) => {}
        other => panic!("{other:?}"),
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    mock.clear_request_errors(RDKafkaApiKey::Produce);
    append(&log, FIRST, "again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_broker_refuses_as_too_large_fails_with_too_large() {
    let (mock, config) = mock(|_| {});
    let log = connect(&config).await;
    mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    match log.append(FIRST, &tenant(), "x".into()).await {
        Err(LogError::TooLarge { bytes: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    append(&log, FIRST, "the next one goes").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_with_a_fatal_error_is_replaced() {
    let (mock, config) = mock(|_| {});
    let log = connect(&config).await;
    append(&log, FIRST, "before").await;
    // This error is fatal for an idempotent producer.
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED],
    );
    let mut failed = 0;
    while log.append(FIRST, &tenant(), "x".into()).await.is_err() {
        failed += 1;
        assert!(failed < 10, "it never recovers");
    }
    assert!(failed > 0, "it was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_network_only_delays() {
    let (mock, config) = mock(|_| {});
    let log = connect(&config).await;
    mock.broker_round_trip_time(1, Duration::from_millis(150)).unwrap();
    let offset = append(&log, FIRST, "slow").await;
    let fetched = log.fetch(FIRST, offset, LIMITS).await.unwrap();
    assert_eq!(fetched.records.first().map(|record| record.offset), Some(offset));
    assert_eq!(log.watermarks(FIRST).await.unwrap().end, offset.next());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_to_a_broker_that_is_down_fail_in_time() {
    let (mock, config) = mock(|config| {
        config.delivery_timeout = PromDuration::from_secs(1);
        config.request_timeout = PromDuration::from_secs(1);
        config.record_bytes_max = ByteSize::from_kb(512);
        config.queue_bytes_max = ByteSize::from_mb(1);
    });
    let log = connect(&config).await;
    append(&log, FIRST, "before").await;
    mock.broker_down(1).unwrap();
    let began = Instant::now();
    let unavailable = |result: Result<Offset, LogError>| matches!(result, Err(LogError::Unavailable(_)));
    // Some appends time out in the queue. Those that do not fit into it fail at once.
    let large = vec![0_u8; 400 << 10];
    let tenant = tenant();
    let appends = (0..10).map(|_| log.append(FIRST, &tenant, large.clone().into())).collect::<Vec<_>>();
    assert!(futures_util::future::join_all(appends).await.into_iter().all(unavailable));
    assert!(matches!(log.watermarks(FIRST).await, Err(LogError::Unavailable(_))));
    assert!(matches!(log.ends().await, Err(LogError::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    mock.broker_up(1).unwrap();
    let began = Instant::now();
    while log.append(FIRST, &tenant, "back".into()).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(30), "it never comes back");
    }
}
