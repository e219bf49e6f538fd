//! The gateway in a fleet: a log that grows and fails, tenants and streams that are spread, limits that are shared.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;

use axum::body::Body;
use axum::http::Request;
use control::{ProcessState, Role};
use http_body_util::BodyExt;
use limits::{ByteSize, Limits, PromDuration};
use log_bus::{Assignment, ControlBus, FetchLimits, Fetched, LogError, LogId, MemoryControl, MemoryLog, Watermarks};
use model::{ManualClock, Offset, SystemClock, TimestampNs};
use parking_lot::Mutex;
use tower::ServiceExt;

use super::*;

/// 2026-11-20T12:00:00Z
const NOW_S: i64 = 1_795_176_000;

/// How a partition of a [`TestLog`] takes appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Fails,
    Hangs,
}

/// A log of 16 partitions that shows as many of them as it is told to, and of which single ones can be broken.
struct TestLog {
    log: MemoryLog,
    shown: AtomicU32,
    moods: Mutex<BTreeMap<PartitionId, Mood>>,
    asked: AtomicU32,
}

impl TestLog {
    fn new(partitions: u32) -> Arc<Self> {
        let (shown, asked) = (AtomicU32::new(partitions), AtomicU32::default());
        Arc::new(Self { log: MemoryLog::new(16), shown, moods: Mutex::default(), asked })
    }

    fn show(&self, partitions: u32) {
        self.shown.store(partitions, Ordering::Relaxed);
    }

    fn set(&self, partitions: impl IntoIterator<Item = u32>, mood: Option<Mood>) {
        let mut moods = self.moods.lock();
        for partition in partitions.into_iter().map(PartitionId::new) {
            match mood {
                Some(mood) => moods.insert(partition, mood),
                None => moods.remove(&partition),
            };
        }
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Records of each partition that has any.
    async fn records(&self) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        for partition in 0..16 {
            let limits = FetchLimits { bytes_max: usize::MAX, wait_max: Duration::ZERO };
            let fetched = self.log.fetch(PartitionId::new(partition), Offset::ZERO, limits).await.unwrap();
            if !fetched.records.is_empty() {
                counts.insert(partition, fetched.records.len());
            }
        }
        counts
    }
}

#[async_trait::async_trait]
impl LogBus for TestLog {
    fn log_id(&self) -> &LogId {
        self.log.log_id()
    }

    fn partition_count(&self) -> u32 {
        self.shown.load(Ordering::Relaxed)
    }

    async fn append(&self, partition: PartitionId, key: &TenantId, payload: Bytes) -> Result<Offset, LogError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mood = self.moods.lock().get(&partition).copied();
        match mood {
            None => self.log.append(partition, key, payload).await,
            Some(Mood::Fails) => Err(LogError::Unavailable("its leader moves".into())),
            Some(Mood::Hangs) => std::future::pending().await,
        }
    }

    async fn fetch(&self, partition: PartitionId, from: Offset, limits: FetchLimits) -> Result<Fetched, LogError> {
        self.log.fetch(partition, from, limits).await
    }

    async fn watermarks(&self, partition: PartitionId) -> Result<Watermarks, LogError> {
        self.log.watermarks(partition).await
    }

    async fn offset_at(&self, partition: PartitionId, time: TimestampNs) -> Result<Option<Offset>, LogError> {
        self.log.offset_at(partition, time).await
    }

    async fn assignment(&self) -> Result<Assignment, LogError> {
        self.log.assignment().await
    }

    async fn commit(&self, partition: PartitionId, offset: Offset) -> Result<(), LogError> {
        self.log.commit(partition, offset).await
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        self.log.committed(partition).await
    }
}

/// A gateway, and a time that moves when told: a second at each measurement.
struct World {
    log: Arc<TestLog>,
    gateway: Arc<Gateway>,
    clock: Arc<ManualClock>,
    control: Option<Arc<Control>>,
    now: Instant,
}

/// What a push answered: status, text, token.
type Answer = (u16, String, Option<ReadToken>);

impl World {
    fn new(partitions: u32, limits: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::with(partitions, limits, None, change)
    }

    fn with(partitions: u32, limits: &str, bus: Option<Arc<dyn ControlBus>>, change: impl FnOnce(&mut Config)) -> Self {
        Self::named("own", partitions, limits, bus, change)
    }

    fn named(
        id: &str,
        partitions: u32,
        limits: &str,
        bus: Option<Arc<dyn ControlBus>>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let limits = Limits::default().changed(&serde_yaml_ng::from_str(limits).unwrap()).unwrap();
        let mut config = Config { auth_enabled: true, ..Config::default() };
        change(&mut config);
        let (log, clock) = (TestLog::new(partitions), Arc::new(ManualClock::new(TimestampNs::from_secs(NOW_S))));
        let registry = prometheus::Registry::new();
        let control = bus.map(|bus| {
            let config = control::Config { beat: PromDuration::from_millis(5), ..control::Config::default() };
            let config = control::Config { coalesce: PromDuration::from_millis(1), ..config };
            Control::new(config, gateway_state(id), bus, &registry).unwrap()
        });
        let components = Components {
            log: log.clone(),
            overrides: Arc::new(Overrides::new(limits)),
            clock: clock.clone(),
            control: control.clone(),
            processors: Processors::default(),
            metrics: registry,
        };
        Self { log, gateway: Gateway::new(config, components).unwrap(), clock, control, now: Instant::now() }
    }

    async fn push(&self, tenant: &str, stream: &str, line: &str) -> Answer {
        let nanos = NOW_S * 1_000_000_000;
        let body = format!(r#"{{"streams":[{{"stream":{{"s":"{stream}"}},"values":[["{nanos}","{line}"]]}}]}}"#);
        let request = Request::post("/loki/api/v1/push").header("Content-Type", "application/json");
        let request = request.header("X-Scope-OrgID", tenant).body(Body::from(body)).unwrap();
        let (parts, body) = self.gateway.router().oneshot(request).await.unwrap().into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let token = parts.headers.get("x-millrace-token").map(|token| token.to_str().unwrap().parse().unwrap());
        (parts.status.as_u16(), text, token)
    }

    async fn status(&self, tenant: &str, stream: &str) -> u16 {
        self.push(tenant, stream, "x").await.0
    }

    /// A second goes by.
    fn tick(&mut self) {
        self.now += Duration::from_secs(1);
        self.clock.advance(Duration::from_secs(1));
        self.gateway.measure(self.now);
    }

    fn tenant(&self, name: &str) -> Arc<Tenant> {
        self.gateway.tenants.get(&TenantId::new(name).unwrap())
    }

    /// Streams of a tenant to as many partitions as it has.
    async fn spread(&self, tenant: &str) -> Vec<u32> {
        let before = self.log.records().await;
        for stream in 0..200 {
            assert_eq!(self.status(tenant, &stream.to_string()).await, 204);
        }
        let after = self.log.records().await;
        after.into_iter().filter(|(p, count)| before.get(p) != Some(count)).map(|(p, _)| p).collect()
    }
}

fn gateway_state(id: &str) -> ProcessState {
    ProcessState { id: id.to_owned(), roles: vec![Role::Gateway], ..ProcessState::default() }
}

const UNLIMITED: &str = "{ingestion_rate_mb: 0, per_stream_rate_limit: 0}";

#[tokio::test]
async fn new_partitions_are_used_after_a_while() {
    let mut world = World::new(2, UNLIMITED, |c| c.shards_min = 16);
    assert_eq!(world.spread("a").await, [0, 1]);
    world.log.show(4);
    for _ in 0..10 {
        world.tick();
        assert_eq!(world.spread("a").await, [0, 1], "not known for 10 s yet");
    }
    world.tick();
    assert_eq!(world.spread("a").await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn readers_that_do_not_know_a_partition_hold_it_back() {
    let topic = MemoryControl::new(Arc::new(SystemClock));
    let mut world = World::with(2, UNLIMITED, Some(topic.join()), |c| c.shards_min = 16);
    let reader =
        |partition_count| ProcessState { roles: vec![Role::QueryService], partition_count, ..gateway_state("query") };
    let hears = Hears::start(&world, &topic);
    hears.hear(reader(2), |view| view.process("query").is_some()).await;
    world.log.show(4);
    for _ in 0..30 {
        world.tick();
    }
    assert_eq!(world.spread("a").await, [0, 1]);
    hears.hear(reader(4), |view| view.process("query").is_some_and(|p| p.partition_count == 4)).await;
    world.tick();
    assert_eq!(world.spread("a").await, [0, 1, 2, 3]);
    hears.stop().await;
}

#[tokio::test]
async fn tenants_get_partitions_by_their_rate() {
    let mut world = World::new(16, UNLIMITED, |c| {
        c.partition_rate_target = ByteSize::from_kb(1);
        c.shards_min = 2;
        c.stream_rate_max = ByteSize::from_bytes(0);
    });
    let first = world.spread("a").await;
    assert_eq!(first.len(), 2);
    // 8 KB a second for a long time.
    for _ in 0..100 {
        assert_eq!(world.push("a", "s", &"x".repeat(8192)).await.0, 204);
        world.tick();
    }
    let grown = world.spread("a").await;
    assert!((8..=9).contains(&grown.len()) && first.iter().all(|p| grown.contains(p)), "{first:?} {grown:?}");
    // It shrinks only after ten minutes of less.
    for _ in 0..300 {
        world.tick();
    }
    assert_eq!(world.spread("a").await, grown);
    for _ in 0..1400 {
        world.tick();
    }
    assert_eq!(world.spread("a").await, first);
    // A tenant's own number counts.
    let told = World::new(16, "{ingestion_partitions_tenant_shard_size: 3}", |c| c.shards_min = 16);
    assert_eq!(told.spread("a").await.len(), 3);
    // Different tenants, different partitions.
    let mut used = std::collections::BTreeSet::new();
    for tenant in 0..20 {
        used.extend(told.spread(&format!("t{tenant}")).await);
    }
    assert_eq!(used.len(), 16);
}

#[tokio::test]
async fn a_hot_stream_fills_all_partitions_of_its_tenant() {
    let mut world = World::new(16, "{ingestion_partitions_tenant_shard_size: 5, ingestion_rate_mb: 0}", |c| {
        c.stream_rate_max = ByteSize::from_kb(10);
    });
    let line = "x".repeat(2 << 10);
    let push = async |world: &World, stream| assert_eq!(world.push("a", stream, &line).await.0, 204);
    // A quarter of the rate that is too hot stays in one partition.
    for _ in 0..60 {
        push(&world, "warm").await;
        world.tick();
    }
    assert_eq!(world.log.records().await.len(), 1);
    let before = world.log.records().await;
    // Twice that rate is spread as soon as that is known.
    for _ in 0..20 {
        for _ in 0..10 {
            push(&world, "hot").await;
        }
        world.tick();
    }
    let warmed = world.log.records().await;
    for _ in 0..50 {
        for _ in 0..10 {
            push(&world, "hot").await;
        }
        world.tick();
    }
    let after = world.log.records().await;
    let came: Vec<usize> = after.iter().map(|(p, count)| count - warmed.get(p).unwrap_or(&0)).collect();
    assert_eq!(came, [100; 5], "500 records over 5 partitions");
    let home = before.keys().next().unwrap();
    push(&world, "warm").await;
    let moved = world.log.records().await;
    assert_eq!(moved[home], after[home] + 1, "others stay where they are");
    // It cools down, and goes home.
    for _ in 0..60 {
        world.tick();
    }
    let cool = world.log.records().await;
    for _ in 0..10 {
        push(&world, "hot").await;
    }
    let after = world.log.records().await;
    assert_eq!(after.iter().filter(|(p, count)| cool[p] != **count).count(), 1);
}

#[tokio::test]
async fn records_of_one_request_take_turns_too() {
    let mut world = World::new(4, UNLIMITED, |c| {
        c.stream_rate_max = ByteSize::from_kb(10);
        c.record_bytes_max = ByteSize::from_kb(16);
    });
    let line = "x".repeat(12 << 10);
    for _ in 0..60 {
        assert_eq!(world.push("a", "s", &line).await.0, 204);
        assert_eq!(world.push("a", "s", &line).await.0, 204);
        world.tick();
    }
    let before = world.log.records().await;
    let nanos = NOW_S * 1_000_000_000;
    let values = vec![format!(r#"["{nanos}","{line}"]"#); 40].join(",");
    let body = format!(r#"{{"streams":[{{"stream":{{"s":"s"}},"values":[{values}]}}]}}"#);
    let request = Request::post("/loki/api/v1/push").header("Content-Type", "application/json");
    let request = request.header("X-Scope-OrgID", "a").body(Body::from(body)).unwrap();
    assert_eq!(world.gateway.router().oneshot(request).await.unwrap().status(), 204);
    let after = world.log.records().await;
    assert_eq!(after.iter().map(|(p, count)| count - before[p]).collect::<Vec<_>>(), [10; 4]);
}

#[tokio::test]
async fn tokens_tell_what_was_written() {
    let world = World::new(4, "{max_line_size: 10B}", |_| {});
    let mut token = ReadToken::new(&world.log.log_id().0);
    for stream in 0..50 {
        let (status, _, told) = world.push("a", &stream.to_string(), "x").await;
        assert_eq!(status, 204);
        token.join(&told.unwrap()).unwrap();
    }
    for partition in (0..4).map(PartitionId::new) {
        let end = world.log.watermarks(partition).await.unwrap().end;
        assert_eq!(token.end_of(partition), Some(end));
    }
    // Nothing stored, no token.
    let (status, _, told) = world.push("a", "s", "a line too long").await;
    assert_eq!((status, told), (400, None));
}

#[tokio::test]
async fn a_log_that_is_down_fails_fast() {
    let world = World::new(4, UNLIMITED, |c| c.breaker_probe = PromDuration::from_hours(1));
    world.log.set(0..16, Some(Mood::Fails));
    let mut streams = 0..;
    while world.gateway.admit().is_ok() {
        assert_eq!(world.status("a", &streams.next().unwrap().to_string()).await, 503);
    }
    let asked = world.log.asked();
    assert!((5..20).contains(&asked), "{asked}");
    for _ in 0..10 {
        let (status, text, _) = world.push("a", "s", "x").await;
        let expected = "the log has been unavailable since 2026-11-20T12:00:00Z; nothing was stored, try again later\n";
        assert_eq!((status, text.as_str()), (503, expected));
    }
    assert_eq!(world.log.asked(), asked, "the log is left alone");
    assert_eq!(world.log.records().await.len(), 0);
}

#[tokio::test]
async fn a_log_that_comes_back_is_found() {
    let world = World::new(4, UNLIMITED, |c| {
        c.breaker_probe = PromDuration::from_millis(1);
        c.breaker_failures = 2;
        c.append_timeout = PromDuration::from_millis(20);
    });
    let wait = async || tokio::time::sleep(Duration::from_millis(2)).await;
    for mood in [Mood::Fails, Mood::Hangs] {
        world.log.set(0..16, Some(mood));
        for stream in 0..20 {
            wait().await;
            assert_eq!(world.status("a", &stream.to_string()).await, 503, "{mood:?}");
        }
        assert!(world.gateway.appender.breaker.open().0, "{mood:?}");
        world.log.set(0..16, None);
        let mut refused = 0;
        for stream in 0..50 {
            wait().await;
            refused += u32::from(world.status("a", &stream.to_string()).await != 204);
        }
        assert_eq!((refused, world.gateway.appender.breaker.open()), (0, (false, 0)), "{mood:?}");
    }
}

#[tokio::test]
async fn a_partition_that_fails_is_led_around() {
    let world = World::new(8, UNLIMITED, |c| {
        c.shards_min = 3;
        c.breaker_probe = PromDuration::from_hours(1);
    });
    let own = world.spread("a").await;
    assert_eq!(own.len(), 3);
    world.log.set([own[1]], Some(Mood::Fails));
    let before = world.log.records().await;
    let mut refused = 0;
    for stream in 0..200 {
        refused += u32::from(world.status("a", &stream.to_string()).await == 503);
    }
    assert_eq!(refused, 5, "as many as it takes to know");
    let after = world.log.records().await;
    let used: Vec<u32> = after.into_iter().filter(|(p, n)| before.get(p) != Some(n)).map(|(p, _)| p).collect();
    assert!(used.len() == 3 && used.contains(&own[0]) && used.contains(&own[2]), "{own:?} {used:?}");
    // Nothing was sent twice: 200 before, 195 now.
    assert_eq!(world.log.records().await.values().sum::<usize>(), 395);
    // Others are not concerned.
    world.log.set([own[1]], None);
    assert_eq!(world.gateway.appender.breaker.open(), (false, 1));
}

#[tokio::test]
async fn clients_that_give_up_are_heard_too() {
    let world = World::new(1, UNLIMITED, |c| {
        c.append_timeout = PromDuration::from_millis(30);
        c.breaker_probe = PromDuration::from_hours(1);
    });
    world.log.set([0], Some(Mood::Hangs));
    for _ in 0..5 {
        let push = tokio::time::timeout(Duration::from_millis(15), world.status("a", "s"));
        assert!(push.await.is_err() || world.gateway.appender.breaker.open().0);
    }
    assert!(world.gateway.appender.breaker.open().0);
}

/// Lets a world's control hear what a test publishes.
struct Hears {
    control: Arc<Control>,
    bus: Arc<dyn ControlBus>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Hears {
    #[allow(clippy::disallowed_methods, reason = "the test waits for it in `stop`")]
    fn start(world: &World, topic: &MemoryControl) -> Self {
        let (control, stop) = (world.control.clone().unwrap(), CancellationToken::new());
        let (running, token) = (control.clone(), stop.clone());
        let task = tokio::spawn(async move { running.run(token).await });
        Self { control, bus: topic.join(), stop, task }
    }

    async fn hear(&self, state: ProcessState, is_heard: impl FnMut(&Arc<control::View>) -> bool) {
        self.bus.publish(&state.id.clone(), control::encode(&state)).await.unwrap();
        self.wait(is_heard).await;
    }

    async fn wait(&self, is_heard: impl FnMut(&Arc<control::View>) -> bool) {
        let mut views = self.control.watch();
        tokio::time::timeout(Duration::from_secs(30), views.wait_for(is_heard)).await.unwrap().unwrap();
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn limits_are_shared_by_what_each_gateway_gets() {
    let topic = MemoryControl::new(Arc::new(SystemClock));
    let limits = "{ingestion_rate_mb: 1, max_global_streams_per_user: 100}";
    let mut world = World::with(4, limits, Some(topic.join()), |c| c.gateway_count = 7);
    let hears = Hears::start(&world, &topic);
    let name = TenantId::new("a").unwrap();
    let share = |world: &World| world.tenant("a").share().map(|share| (share * 1000.0).round() as u32);
    assert_eq!(world.status("a", "s").await, 204);
    assert_eq!(share(&world), None);
    world.tick();
    assert_eq!(share(&world), Some(1000), "alone");
    // A steady 10 KB a second here, 30 KB there.
    let line = "x".repeat(10_000);
    for _ in 0..100 {
        assert_eq!(world.push("a", "s", &line).await.0, 204);
        world.tick();
    }
    let told = |rate| {
        let rates = BTreeMap::from([(name.clone(), rate)]);
        ProcessState { rates, ..gateway_state("other") }
    };
    let is_told = |rate: u64| {
        let name = name.clone();
        move |view: &Arc<control::View>| view.process("other").is_some_and(|p| p.rates.get(&name) == Some(&rate))
    };
    hears.hear(told(30_000), is_told(30_000)).await;
    world.tick();
    let measured = share(&world).unwrap();
    assert!((235..=250).contains(&measured), "{measured}");
    // Own rates are told.
    let own = world.control.as_ref().unwrap().view().process("own").unwrap().rates[&name];
    assert!((8_900..=10_100).contains(&own), "{own}");
    // Much more elsewhere leaves a floor.
    hears.hear(told(30_000_000), is_told(30_000_000)).await;
    world.tick();
    assert_eq!(share(&world), Some(250));
    // A quarter of the streams: it has one.
    let mut admitted = 0;
    for stream in 0..100 {
        admitted += u32::from(world.status("a", &stream.to_string()).await == 204);
    }
    assert_eq!(admitted, 24);
    // The other one leaves.
    let leaving = ProcessState { leaving: true, ..told(0) };
    hears.hear(leaving, |view| view.process("other").is_none_or(|p| p.leaving)).await;
    world.tick();
    assert_eq!(share(&world), Some(1000));
    assert_eq!(world.status("a", "50").await, 204);
    hears.stop().await;
}

#[tokio::test]
async fn a_gateway_that_stops_says_so() {
    let topic = MemoryControl::new(Arc::new(SystemClock));
    let world = World::with(4, UNLIMITED, Some(topic.join()), |_| {});
    let control = world.control.clone().unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    world.gateway.run(shutdown.clone()).await;
    assert!(control.view().process("own").unwrap().leaving);
    // One that also consumes leaves when it holds nothing any more, and says so itself.
    control.update(|state| {
        state.leaving = false;
        state.roles.push(Role::Consumer);
    });
    world.gateway.run(shutdown).await;
    assert!(!control.view().process("own").unwrap().leaving);
}

/// Two gateways that hear each other, under more than a tenant's rate allows.
#[tokio::test]
async fn two_gateways_give_out_one_limit() {
    const LIMIT: f64 = 0.1 * 1_048_576.0;
    let topic = MemoryControl::new(Arc::new(SystemClock));
    let limits = "{ingestion_rate_mb: 0.1, ingestion_burst_size_mb: 0.1}";
    let mut worlds = ["one", "two"].map(|id| World::named(id, 4, limits, Some(topic.join()), |_| {}));
    let hears = worlds.each_ref().map(|world| Hears::start(world, &topic));
    let line = "x".repeat(10_000);
    // So many pushes a second to each, for so many seconds; what was let in of the second half, in limits.
    let mut run = async |demand: [u32; 2], seconds: u32| {
        let mut taken = 0.0;
        for second in 0..seconds {
            for (world, pushes) in worlds.iter().zip(demand) {
                for _ in 0..pushes {
                    let is_taken = world.push("a", "s", &line).await.0 == 204;
                    taken += if is_taken && second >= seconds / 2 { line.len() as f64 } else { 0.0 };
                }
            }
            worlds.iter_mut().for_each(World::tick);
            for (other, hears) in worlds.iter().zip(hears.iter().rev()) {
                let other = other.control.as_ref().unwrap();
                let told = other.view().process(other.id()).unwrap().rates.clone();
                hears.wait(|view| view.process(other.id()).is_some_and(|p| p.rates == told)).await;
            }
        }
        taken / LIMIT / f64::from(seconds - seconds / 2)
    };
    let check = |taken: f64, from: f64, to: f64| assert!((from..to).contains(&taken), "{taken} of the limit");
    check(run([20, 20], 40).await, 0.9, 1.1);
    check(run([36, 4], 60).await, 0.9, 1.3);
    check(run([20, 0], 60).await, 0.9, 1.1);
    check(run([0, 20], 80).await, 0.9, 1.1);
    for hears in hears {
        hears.stop().await;
    }
}
