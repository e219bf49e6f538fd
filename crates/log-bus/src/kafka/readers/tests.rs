//! Cursors over librdkafka's mock cluster.

use limits::PromDuration;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};

use super::*;

const P: PartitionId = PartitionId::new(0);
const LIMITS: FetchLimits = FetchLimits { bytes_max: 10, wait_max: Duration::from_secs(10) };

struct World {
    readers: Arc<Readers>,
    mock: MockCluster<'static, DefaultProducerContext>,
    topic: String,
}

/// A partition with this many records of ten bytes each.
async fn world(records: u8, readers_max: usize) -> World {
    let mock = MockCluster::new(2).unwrap();
    let metadata_refresh = PromDuration::from_millis(100);
    let config =
        KafkaConfig { brokers: mock.bootstrap_servers(), readers_max, metadata_refresh, ..KafkaConfig::default() };
    mock.create_topic(&config.topic, 1, 1).unwrap();
    let producer: FutureProducer<Context> = config.producer().create_with_context(Context::quiet("producer")).unwrap();
    for i in 0..records {
        let payload = [i; 10];
        let record = FutureRecord::to(&config.topic).partition(0).key("t").payload(&payload);
        producer.send(record, Duration::from_secs(10)).await.unwrap();
    }
    let metrics = Arc::new(Metrics::new(None).unwrap());
    let readers = Arc::new(Readers::new(&config, Context::quiet("reader"), metrics).unwrap());
    World { readers, mock, topic: config.topic }
}

impl World {
    async fn read(&self, from: i64) -> i64 {
        let fetched = self.readers.fetch(P, Offset::new(from), LIMITS).await.unwrap();
        assert_eq!(fetched.records.len(), 1, "ten bytes are one record");
        assert_eq!((fetched.records[0].offset.value(), fetched.records[0].payload[0]), (from, from as u8));
        fetched.next.value()
    }

    fn repositioned(&self) -> u64 {
        self.readers.metrics.repositioned.get()
    }

    fn cursors(&self) -> (i64, i64) {
        self.readers.drop_idle(Duration::from_secs(3600));
        (self.readers.metrics.cursors.get(), self.readers.metrics.reader_clients.get())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_in_turns_keep_their_cursors() {
    let world = world(40, 4).await;
    let mut places = [0, 10, 20, 30];
    for _ in 0..10 {
        for place in &mut places {
            *place = world.read(*place).await;
        }
    }
    assert_eq!(world.repositioned(), 4, "each reader positioned its cursor once");
    assert_eq!(world.cursors(), (4, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_readers_than_cursors_share_them() {
    let world = world(40, 2).await;
    let mut places = [0, 10, 20, 30];
    for _ in 0..3 {
        for place in &mut places {
            *place = world.read(*place).await;
        }
    }
    assert_eq!(world.cursors(), (2, 2));
    // Concurrent fetches wait for one another.
    let (readers, mut tasks) = (world.readers.clone(), tokio::task::JoinSet::new());
    for from in 0..12 {
        let readers = readers.clone();
        tasks
            .spawn(async move { readers.fetch(P, Offset::new(from), LIMITS).await.unwrap().records[0].offset.value() });
    }
    let mut found = tasks.join_all().await;
    found.sort_unstable();
    assert_eq!(found, (0..12).collect::<Vec<_>>());
    assert_eq!(world.cursors(), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_cursors_are_dropped() {
    let world = world(10, 4).await;
    let (a, b) = (world.read(0).await, world.read(5).await);
    assert_eq!(world.cursors(), (2, 2));
    world.readers.drop_idle(Duration::ZERO);
    assert_eq!(world.cursors(), (0, 1), "the first client stays");
    assert_eq!((world.read(a).await, world.read(b).await), (2, 7));
    assert_eq!(world.repositioned(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_fetch_skips_no_record() {
    let world = world(3, 1).await;
    let next = world.read(0).await;
    let cancelled = tokio::time::timeout(Duration::ZERO, world.readers.fetch(P, Offset::new(next), LIMITS)).await;
    let next = if cancelled.is_ok() { 2 } else { next };
    for from in next..3 {
        world.read(from).await;
    }
    // The cursor of the cancelled fetch does not count as busy for ever.
    assert_eq!(world.cursors().0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_without_a_free_cursor_waits_at_most_wait_max() {
    let world = world(1, 1).await;
    let waiting = {
        let readers = world.readers.clone();
        tokio::spawn(async move { readers.fetch(P, Offset::new(1), LIMITS).await })
    };
    while world.cursors() != (1, 1) || !world.readers.cursors.lock()[&P].idle.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let short = FetchLimits { wait_max: Duration::from_millis(20), ..LIMITS };
    let fetched = world.readers.fetch(P, Offset::ZERO, short).await.unwrap();
    assert_eq!((fetched.records.len(), fetched.next), (0, Offset::ZERO));
    waiting.abort();
    let _ = waiting.await;
    world.read(0).await;
}

/// The replica that answers fetches is behind the one that answers with the bounds. Here it is a follower; a leader that
/// was just elected or replaced behaves the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_a_replica_does_not_show_yet_is_not_skipped() {
    let world = world(3, 1).await;
    world.mock.partition_leader(&world.topic, 0, Some(1)).unwrap();
    world.mock.partition_follower(&world.topic, 0, 2).unwrap();
    world.mock.follower_watermarks(&world.topic, 0, Some(0), Some(2)).unwrap();
    // The mock reports an end before the record once, then shows the record.
    assert_eq!(world.read(2).await, 3);
}
