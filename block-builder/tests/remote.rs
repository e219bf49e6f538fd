//! Builders in other processes, over the real RPC. Owners use correct blocks and make all others themselves.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]
#![allow(clippy::disallowed_methods, reason = "tests own what they start")]

use std::sync::Arc;
use std::time::Duration;

use catalogue::Heads;
use control::{Control, ProcessState, Role};
use cut::{Cut, CutReason, CutSink, Lead};
use log_bus::{LogBus, MemoryControl, MemoryLog};
use millrace_block_builder::{Builder, Components, Config, assemble};
use model::{Labels, Offset, OffsetRange, PartitionId, SystemClock, SystemRandom, TenantId, TimestampNs};
use object_store::{MemoryStore, ObjectStore};
use prometheus::Registry;
use runtime::Processors;
use schemas::record::RecordBuilder;
use telemetry::ServeConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const ONE: PartitionId = PartitionId::new(0);

struct World {
    log: Arc<MemoryLog>,
    store: Arc<MemoryStore>,
    topic: MemoryControl,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The builder of an owner, and its metrics.
struct Owner {
    builder: Arc<Builder>,
    metrics: Registry,
}

impl World {
    async fn new() -> Self {
        let topic = MemoryControl::new(Arc::new(SystemClock));
        let world = Self {
            log: Arc::new(MemoryLog::new(1)),
            store: Arc::new(MemoryStore::new()),
            topic,
            stop: CancellationToken::new(),
        };
        world.append(10).await;
        world
    }

    async fn append(&self, records: usize) {
        let tenant = TenantId::new("t").unwrap();
        for i in 0..records {
            let mut record = RecordBuilder::new(&tenant, TimestampNs::from_secs(1));
            record.stream(&Labels::from_pairs([("app", "a")]), &[]);
            record.entry(TimestampNs::from_secs(i as i64), format!("line {i}").as_bytes(), std::iter::empty());
            self.log.append(ONE, &tenant, record.finish(None)).await.unwrap();
        }
        // This record cannot be decoded.
        self.log.append(ONE, &tenant, "no record".into()).await.unwrap();
    }

    fn control(&self, name: &str, role: Role, rpc: Option<String>) -> Arc<Control> {
        let state = ProcessState {
            id: control::fresh_id(name),
            roles: vec![role],
            rpc,
            zone: String::new(),
            leaving: false,
            partition_count: 1,
            partitions: Vec::new(),
            rates: Default::default(),
        };
        let control = Control::new(control::Config::default(), state, self.topic.join(), &Registry::new()).unwrap();
        let (running, stop) = (control.clone(), self.stop.clone());
        tokio::spawn(async move { running.run(stop).await });
        control
    }

    fn builder(&self, log_id: &str, config: Config, control: Option<Arc<Control>>) -> Owner {
        let metrics = Registry::new();
        let store: Arc<dyn ObjectStore> = self.store.clone();
        let components = Components {
            heads: Heads::new(store.clone(), log_id).unwrap(),
            store,
            log: self.log.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            processors: Processors::default(),
            metrics: metrics.clone(),
            owner: "test".to_owned(),
            control,
        };
        Owner { builder: Builder::new(config, components).unwrap(), metrics }
    }

    /// Starts a builder process and publishes it on the control topic.
    async fn serve_builder(&self, log_id: &str) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = self.builder(log_id, Config::default(), None).builder.router();
        let stop = self.stop.clone();
        tokio::spawn(async move { serve(listener, router, stop).await });
        self.control("builder", Role::Builder, Some(address));
    }

    /// An owner that knows `builders` builders.
    async fn owner(&self, builders: usize, remote_timeout: Duration) -> Owner {
        let control = self.control("owner", Role::Consumer, None);
        let mut views = control.watch();
        views.wait_for(|view| view.with_role(Role::Builder).count() == builders).await.unwrap();
        let config = Config { remote_timeout: remote_timeout.into(), ..Config::default() };
        self.builder(&self.log.log_id().0, config, Some(control))
    }

    async fn cut(&self, range: OffsetRange) -> Cut {
        let segment = assemble(self.log.as_ref(), ONE, range).await.unwrap();
        Cut { partition: ONE, range, segment, reason: CutReason::Full, opened: TimestampNs::from_secs(1) }
    }

    /// Publishes the whole log as one cut. Returns how many blocks builders made, and how many they failed to make.
    async fn publish(&self, owner: &Owner) -> (u64, u64) {
        let marks = self.log.watermarks(ONE).await.unwrap();
        let mut lead: Box<dyn Lead> =
            owner.builder.acquire(ONE, OffsetRange::new(marks.first, marks.end)).await.unwrap();
        let cut = self.cut(OffsetRange::new(lead.flushed_to(), marks.end)).await;
        let published = lead.publish(&cut).await.unwrap();
        assert_eq!(published.flushed_to, marks.end);
        let head = Heads::new(self.store.clone(), &self.log.log_id().0).unwrap().read(ONE).await.unwrap().unwrap().0;
        let listed = head.blocks.last().unwrap();
        assert_eq!((listed.range, listed.rows, listed.quarantined), (cut.range, 10, 1));
        let bytes = self.store.get(&object_store::ObjectKey::new(&listed.key).unwrap()).await.unwrap().bytes;
        assert_eq!(block::verify(bytes).unwrap().problems, Vec::<String>::new());
        owner.remote_builds()
    }
}

async fn serve(listener: TcpListener, router: axum::Router, stop: CancellationToken) {
    telemetry::serve(listener, router, &Registry::new(), ServeConfig::default(), stop).await.unwrap();
}

impl Owner {
    fn remote_builds(&self) -> (u64, u64) {
        (self.builds("made"), self.builds("failed"))
    }

    fn builds(&self, outcome: &str) -> u64 {
        let families = self.metrics.gather();
        let family = families.iter().find(|f| f.name() == "millrace_builder_remote_builds_total");
        let metrics = family.into_iter().flat_map(|f| f.get_metric());
        let of_outcome = metrics.filter(|m| m.get_label().iter().any(|l| l.value() == outcome));
        of_outcome.map(|m| m.get_counter().get_value() as u64).sum()
    }
}

#[tokio::test]
async fn a_builder_makes_the_block_and_the_owner_lists_it() {
    let world = World::new().await;
    world.serve_builder(&world.log.log_id().0).await;
    let owner = world.owner(1, Duration::from_secs(20)).await;
    assert_eq!(world.publish(&owner).await, (1, 0));
    world.append(10).await;
    assert_eq!(world.publish(&owner).await, (2, 0));
}

#[tokio::test]
async fn without_builders_the_owner_makes_it() {
    let world = World::new().await;
    let owner = world.owner(0, Duration::from_secs(20)).await;
    assert_eq!(world.publish(&owner).await, (0, 0));
}

#[tokio::test]
async fn a_builder_of_another_log_is_refused_and_not_asked_again() {
    let world = World::new().await;
    world.serve_builder("another-log").await;
    let owner = world.owner(1, Duration::from_secs(20)).await;
    assert_eq!(world.publish(&owner).await, (0, 1));
    world.append(10).await;
    assert_eq!(world.publish(&owner).await, (0, 1));
}

#[tokio::test]
async fn a_builder_that_never_answers_costs_its_timeout_only() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.control("stuck", Role::Builder, Some(listener.local_addr().unwrap().to_string()));
    let owner = world.owner(1, Duration::from_millis(100)).await;
    assert_eq!(world.publish(&owner).await, (0, 1));
}

/// Only a defect can cause this.
#[tokio::test]
async fn rows_that_the_owner_failed_to_read_are_listed_nevertheless() {
    let world = World::new().await;
    world.serve_builder(&world.log.log_id().0).await;
    let owner = world.owner(1, Duration::from_secs(20)).await;
    let end = world.log.watermarks(ONE).await.unwrap().end;
    let mut lead = owner.builder.acquire(ONE, OffsetRange::new(Offset::ZERO, end)).await.unwrap();
    let short = world.cut(OffsetRange::new(Offset::ZERO, Offset::new(7))).await;
    let cut = Cut { range: OffsetRange::new(Offset::ZERO, end), ..short };
    lead.publish(&cut).await.unwrap();
    assert_eq!((owner.remote_builds(), owner.builds("differs")), ((0, 0), 1));
    let head = Heads::new(world.store.clone(), &world.log.log_id().0).unwrap().read(ONE).await.unwrap().unwrap().0;
    let listed: Vec<_> = head.blocks.iter().map(|block| (block.range, block.rows, block.quarantined)).collect();
    assert_eq!(listed, [(cut.range, 10, 1)]);
}
