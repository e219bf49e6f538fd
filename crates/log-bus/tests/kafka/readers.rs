//! Readers: many at once, overtaken by retention, offsets without records, latency.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use limits::ByteSize;
use millrace_log_bus::{FetchLimits, Fetched, KafkaConfig, KafkaLog, LogBus, LogError};
use model::{Offset, PartitionId};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::{FIRST, append, broker, config, connect, tenant, until};

const fn limits(bytes_max: usize, wait: Duration) -> FetchLimits {
    FetchLimits { bytes_max, wait_max: wait }
}

const LIMITS: FetchLimits = limits(1 << 20, Duration::from_secs(5));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_at_random_offsets_get_the_right_records() {
    let broker = broker();
    let config =
        KafkaConfig { readers_max: 3, fetch_bytes_max: ByteSize::from_kb(64), ..config(&broker.bootstrap(), 2) };
    let log = connect(&config).await;
    let mut rng = fastrand::Rng::with_seed(4);
    let payloads: Arc<Vec<Bytes>> =
        Arc::new((0..400).map(|i| Bytes::from(vec![i as u8; 50 + rng.usize(..4000)])).collect());
    for payload in payloads.iter() {
        log.append(FIRST, &tenant(), payload.clone()).await.unwrap();
    }
    let readers = (0..8_u64).map(|seed| {
        let (log, payloads) = (log.clone(), payloads.clone());
        tokio::spawn(async move {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut records = 0;
            for _ in 0..25 {
                let mut next = Offset::new(rng.i64(0..400));
                for _ in 0..rng.usize(1..6) {
                    let limits = limits(rng.usize(..40_000), Duration::from_millis(rng.u64(1..200)));
                    if rng.u8(..) < 40 {
                        // A fetch that is cancelled half-way.
                        let _ =
                            tokio::time::timeout(Duration::from_millis(rng.u64(..4)), log.fetch(FIRST, next, limits))
                                .await;
                    }
                    let fetched = log.fetch(FIRST, next, limits).await.unwrap();
                    for (i, record) in fetched.records.iter().enumerate() {
                        assert_eq!(record.offset.value(), next.value() + i as i64, "no record is skipped or repeated");
                        assert!(record.payload == payloads[record.offset.value() as usize]);
                    }
                    records += fetched.records.len();
                    next = fetched.next;
                }
            }
            records
        })
    });
    let mut all = 0;
    for reader in readers.collect::<Vec<_>>() {
        all += reader.await.unwrap();
    }
    assert!(all > 1000, "they read {all} records");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_learns_that_retention_overtook_it() {
    let broker = broker();
    // Fetches little ahead.
    let config = KafkaConfig { fetch_bytes_max: ByteSize::from_kb(64), ..config(&broker.bootstrap(), 1) };
    let log = connect(&config).await;
    for i in 0..1000_u32 {
        log.append(FIRST, &tenant(), Bytes::from(vec![i as u8; 1000])).await.unwrap();
    }
    let Fetched { mut next, .. } = log.fetch(FIRST, Offset::ZERO, limits(5000, LIMITS.wait_max)).await.unwrap();
    broker.admin().unwrap().delete_records(&config.topic, 0, 900).await.unwrap();
    // The reader may still get what was fetched ahead. Then it must get an error.
    loop {
        match log.fetch(FIRST, next, limits(5000, LIMITS.wait_max)).await {
            Ok(fetched) => {
                for record in &fetched.records {
                    assert_eq!(record.offset, next, "records were skipped without an error");
                    next = record.offset.next();
                }
                assert_eq!(fetched.next, next);
                assert!(next.value() < 900, "the reader passed removed records without an error");
            }
            Err(LogError::OutOfRange { asked, held, .. }) => {
                assert_eq!((asked, held.first), (next, Offset::new(900)));
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(log.fetch(FIRST, Offset::new(900), LIMITS).await.unwrap().records.len(), 100);
}

/// Commits a transaction, which writes a marker: an offset without a record.
fn transaction(brokers: &str, topic: &str, records: u32, commit: bool) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", format!("{topic}-{}", fastrand::u32(..)))
        .create()
        .unwrap();
    let patience = Duration::from_secs(30);
    producer.init_transactions(patience).unwrap();
    producer.begin_transaction().unwrap();
    for _ in 0..records {
        producer.send(BaseRecord::to(topic).partition(0).key("tenant-a").payload("in a transaction")).unwrap();
    }
    producer.flush(patience).unwrap();
    if commit { producer.commit_transaction(patience) } else { producer.abort_transaction(patience) }.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_without_records_are_passed() {
    let broker = broker();
    let config = config(&broker.bootstrap(), 1);
    let log = connect(&config).await;
    append(&log, FIRST, "a").await;
    let mut next = Offset::ZERO;
    for round in 0..3 {
        let (brokers, topic) = (broker.bootstrap(), config.topic.clone());
        tokio::task::spawn_blocking(move || transaction(&brokers, &topic, 3, true)).await.unwrap();
        if round == 1 {
            append(&log, FIRST, "b").await;
        }
        // Kafka writes the marker after it has acknowledged the transaction.
        let end = Offset::new([5, 10, 14][round]);
        until("the marker is written", || async { log.watermarks(FIRST).await.unwrap().end == end }).await;
        assert_eq!(log.ends().await.unwrap(), [end]);
        let began = Instant::now();
        let mut records = 0;
        while next < end {
            let fetched = log.fetch(FIRST, next, limits(1 << 20, Duration::from_millis(100))).await.unwrap();
            assert!(fetched.next <= end);
            records += fetched.records.len();
            next = fetched.next;
            assert!(began.elapsed() < Duration::from_secs(20), "a reader at {next} never reaches {end}");
        }
        assert_eq!(records, [4, 4, 3][round], "round {round}");
    }
    // A record is not passed.
    let offset = append(&log, FIRST, "c").await;
    let fetched = log.fetch(FIRST, next, LIMITS).await.unwrap();
    assert_eq!(fetched.records.first().map(|record| record.offset), Some(offset));
}

/// Prints the time from the acknowledgement of a record to its fetch. The bound is generous, since machines are busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_fetched_soon() {
    let broker = broker();
    let registry = prometheus::Registry::new();
    let log = KafkaLog::connect(config(&broker.bootstrap(), 16), Some(&registry)).await.unwrap();
    let mut late = Vec::new();
    let readers: Vec<_> = (0..16)
        .map(|p| {
            let log: Arc<KafkaLog> = log.clone();
            tokio::spawn(async move {
                let (mut next, mut arrivals) = (Offset::ZERO, Vec::new());
                while arrivals.len() < 20 {
                    let fetched = log.fetch(PartitionId::new(p), next, LIMITS).await.unwrap();
                    let now = Instant::now();
                    arrivals.extend(fetched.records.iter().map(|record| (record.offset, now)));
                    next = fetched.next;
                }
                arrivals
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut acknowledged = vec![Vec::new(); 16];
    for i in 0..320_u32 {
        let p = i % 16;
        let offset = append(&log, PartitionId::new(p), "a record").await;
        acknowledged[p as usize].push((offset, Instant::now()));
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    for (reader, acknowledged) in readers.into_iter().zip(acknowledged) {
        for ((offset, arrived), (expected, told)) in reader.await.unwrap().into_iter().zip(acknowledged) {
            assert_eq!(offset, expected);
            late.push(arrived.saturating_duration_since(told));
        }
    }
    late.sort_unstable();
    let at = |percent: usize| late[(late.len() - 1) * percent / 100];
    eprintln!("from acknowledged to fetched: p50 {:?}, p99 {:?}, maximum {:?}", at(50), at(99), at(100));
    assert!(at(50) < Duration::from_millis(500), "a record must end the wait of its reader: {:?}", at(50));
    let families = registry.gather();
    let value = |name: &str| {
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metric = &family.get_metric()[0];
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    };
    assert!(families.iter().all(|family| family.name().starts_with("millrace_kafka_")));
    for (name, expected) in [
        ("millrace_kafka_produced_records_total", 320.0),
        ("millrace_kafka_produced_bytes_total", 2560.0),
        ("millrace_kafka_fetched_records_total", 320.0),
        ("millrace_kafka_partitions", 16.0),
        // Each reader positioned its cursor once and continued from there.
        ("millrace_kafka_repositioned_total", 16.0),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
}
