//! The world of the tests: a log, a store with faults, a clock that stands still, processes that start and die, and a ledger
//! of all pushed rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use block::{BlockIndex, BlockScan, Step};
use block_builder::Builder;
use bytes::Bytes;
use catalogue::read::{MemoryView, PartitionView, Plan, memory_from, plan};
use catalogue::{Head, Heads};
use control::Control;
use log_bus::{Assignment, FetchLimits, Fetched, LogBus, LogError, LogId, MemoryLog, Watermarks};
use model::{Clock, Labels, ManualClock, Needs, Offset, PartitionId, SystemRandom, TenantId, TimeRange, TimestampNs};
use object_store::{
    Faults, MemoryStore, Object, ObjectKey, ObjectMeta, ObjectStore, PutCondition, StoreError, Version,
};
use owner::{OwnerError, Where};
use parking_lot::Mutex;
use runtime::{Backoff, Processors};
use schemas::record::RecordBuilder;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Components, Config, Consumer, Error};

/// A row: its number identifies it, and the other fields must come back with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Row {
    pub(super) id: u64,
    pub(super) tenant: String,
    pub(super) labels: String,
    pub(super) ts: i64,
}

type BlockRows = Vec<(Row, Offset)>;

/// The outcome of a read.
pub(super) enum Read {
    /// The rows, and the offset up to which they are complete.
    Rows(Vec<Row>, Offset),
    /// Memory has evicted rows that the head of the plan does not list: plan again.
    Again,
    /// Nobody answers for the partition.
    Nobody,
}

/// The rows that were pushed to one partition.
#[derive(Default)]
pub(super) struct Ledger {
    /// Rows that may be in the log.
    pub(super) tried: BTreeSet<Row>,
    /// Rows that are in the log, with their offset.
    pub(super) acknowledged: BTreeMap<Row, Offset>,
    /// Records that cannot be decoded.
    pub(super) garbage: BTreeSet<Offset>,
}

pub(super) struct World {
    pub(super) log: Arc<MemoryLog>,
    pub(super) store: Arc<Faults>,
    pub(super) bare_store: Arc<MemoryStore>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) ledgers: Vec<Mutex<Ledger>>,
    next_id: AtomicU64,
    blocks: Mutex<HashMap<String, Arc<BlockRows>>>,
}

/// One process with a consumer and a builder.
pub(super) struct Process {
    pub(super) consumer: Arc<Consumer>,
    pub(super) metrics: prometheus::Registry,
    pub(super) assignments: mpsc::UnboundedSender<Assignment>,
    pub(super) gate: Gate,
    pub(super) fetch_to: Arc<watch::Sender<i64>>,
    token: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

/// Cuts a process off from log and store, as if it were paused. Its memory can still be read.
#[derive(Clone)]
pub(super) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(super) fn open() -> Self {
        Self(Arc::new(watch::Sender::new(true)))
    }

    pub(super) fn set_open(&self, open: bool) {
        self.0.send_replace(open);
    }

    pub(super) async fn pass(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// The log as one process sees it.
pub(super) struct ProcessLog {
    pub(super) log: Arc<MemoryLog>,
    pub(super) assignments: tokio::sync::Mutex<mpsc::UnboundedReceiver<Assignment>>,
    pub(super) gate: Gate,
    /// Records from here on are not fetched yet.
    pub(super) fetch_to: Arc<watch::Sender<i64>>,
    /// Called when the process leaves the group.
    pub(super) on_leave: Box<dyn Fn() + Send + Sync>,
}

/// The store as one process sees it.
pub(super) struct GatedStore {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) gate: Gate,
}

#[async_trait]
impl ObjectStore for GatedStore {
    async fn get(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.gate.pass().await;
        self.store.get(key).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.gate.pass().await;
        self.store.get_range(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.gate.pass().await;
        self.store.head(key).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes, condition: PutCondition) -> Result<Version, StoreError> {
        self.gate.pass().await;
        let answer = self.store.put(key, bytes, condition).await;
        self.gate.pass().await;
        answer
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.gate.pass().await;
        self.store.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.gate.pass().await;
        self.store.list(prefix).await
    }
}

#[async_trait]
impl LogBus for ProcessLog {
    fn log_id(&self) -> &LogId {
        self.log.log_id()
    }

    fn partition_count(&self) -> u32 {
        self.log.partition_count()
    }

    async fn append(&self, partition: PartitionId, key: &TenantId, payload: Bytes) -> Result<Offset, LogError> {
        self.log.append(partition, key, payload).await
    }

    async fn fetch(&self, partition: PartitionId, from: Offset, limits: FetchLimits) -> Result<Fetched, LogError> {
        self.gate.pass().await;
        let mut fetch_to = self.fetch_to.subscribe();
        let bound = *fetch_to.borrow_and_update();
        if from.value() >= bound {
            let _ = tokio::time::timeout(limits.wait_max, fetch_to.changed()).await;
            return Ok(Fetched { records: Vec::new(), next: from });
        }
        let mut fetched = self.log.fetch(partition, from, limits).await?;
        self.gate.pass().await;
        let before = fetched.records.len();
        fetched.records.retain(|record| record.offset.value() < bound);
        if fetched.records.len() < before {
            fetched.next = fetched.records.last().map_or(from, |record| record.offset.next());
        }
        Ok(fetched)
    }

    async fn watermarks(&self, partition: PartitionId) -> Result<Watermarks, LogError> {
        self.gate.pass().await;
        self.log.watermarks(partition).await
    }

    async fn offset_at(&self, partition: PartitionId, time: TimestampNs) -> Result<Option<Offset>, LogError> {
        self.log.offset_at(partition, time).await
    }

    async fn leave(&self) -> Result<(), LogError> {
        self.gate.pass().await;
        (self.on_leave)();
        Ok(())
    }

    async fn assignment(&self) -> Result<Assignment, LogError> {
        self.gate.pass().await;
        match self.assignments.lock().await.recv().await {
            Some(assignment) => Ok(assignment),
            None => std::future::pending().await,
        }
    }

    async fn commit(&self, partition: PartitionId, offset: Offset) -> Result<(), LogError> {
        self.log.commit(partition, offset).await
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        self.log.committed(partition).await
    }
}

/// Sizes so small that tests cut often.
pub(super) fn small() -> Config {
    let millis = |millis| Duration::from_millis(millis).into();
    Config {
        cut_bytes: limits::ByteSize::from_kb(48),
        memory_bytes: limits::ByteSize::from_kb(400),
        fetch_bytes: limits::ByteSize::from_kb(16),
        fetch_wait: millis(20),
        published_grace: millis(20),
        retry_pause: millis(2),
        retry_pause_max: millis(20),
        fenced_pause: millis(30),
        shutdown_grace: millis(200),
        handoff_max_at_shutdown: millis(100),
        head_poll: millis(10),
        ..Config::default()
    }
}

/// Waits until `done` returns true, for at most ten seconds.
pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} did not happen");
}

pub(super) fn all_partitions(count: u32) -> Vec<PartitionId> {
    (0..count).map(PartitionId::new).collect()
}

impl World {
    pub(super) fn new(partitions: u32, seed: u64) -> Arc<Self> {
        let clock = Arc::new(ManualClock::new(TimestampNs::from_secs(1_800_000_000)));
        let bare_store = Arc::new(MemoryStore::new());
        Arc::new(Self {
            log: Arc::new(MemoryLog::with_clock(partitions, clock.clone())),
            store: Arc::new(Faults::new(bare_store.clone(), seed)),
            bare_store,
            clock,
            ledgers: (0..partitions).map(|_| Mutex::default()).collect(),
            next_id: AtomicU64::new(1),
            blocks: Mutex::default(),
        })
    }

    fn heads_over(&self, store: Arc<dyn ObjectStore>) -> Heads {
        let backoff = Backoff { attempts: 3, first: Duration::from_millis(1), max: Duration::from_millis(4) };
        Heads::with(store, &self.log.log_id().0, backoff, self.clock.clone(), Arc::new(SystemRandom)).unwrap()
    }

    /// The heads, read without faults.
    pub(super) fn heads(&self) -> Heads {
        self.heads_over(self.bare_store.clone())
    }

    /// A process that owns these partitions, and is alone.
    pub(super) fn start(&self, name: &str, config: Config, partitions: Vec<PartitionId>) -> Process {
        let (assignments, receiver) = mpsc::unbounded_channel();
        assignments.send(Assignment::Assigned(partitions)).unwrap();
        let log = ProcessLog {
            log: self.log.clone(),
            assignments: tokio::sync::Mutex::new(receiver),
            gate: Gate::open(),
            fetch_to: Arc::new(watch::Sender::new(i64::MAX)),
            on_leave: Box::new(|| {}),
        };
        self.run(name, config, log, assignments, None, prometheus::Registry::new())
    }

    /// A process over this log.
    pub(super) fn run(
        &self,
        name: &str,
        config: Config,
        log: ProcessLog,
        assignments: mpsc::UnboundedSender<Assignment>,
        control: Option<Arc<Control>>,
        metrics: prometheus::Registry,
    ) -> Process {
        let (gate, fetch_to) = (log.gate.clone(), log.fetch_to.clone());
        let log: Arc<dyn LogBus> = Arc::new(log);
        let store: Arc<dyn ObjectStore> = Arc::new(GatedStore { store: self.store.clone(), gate: gate.clone() });
        let builder_config = block_builder::Config {
            put_attempts: 3,
            put_backoff: Duration::from_millis(1).into(),
            ..block_builder::Config::default()
        };
        let builder = block_builder::Components {
            store: store.clone(),
            heads: self.heads_over(store),
            log: log.clone(),
            clock: self.clock.clone(),
            random: Arc::new(SystemRandom),
            processors: Processors::default(),
            metrics: metrics.clone(),
            owner: name.to_owned(),
            control: None,
        };
        let blocks = Builder::new(builder_config, builder).unwrap();
        let components = Components {
            log,
            blocks,
            clock: self.clock.clone(),
            random: Arc::new(SystemRandom),
            processors: Processors::default(),
            metrics: metrics.clone(),
            control,
        };
        let consumer = Consumer::new(config, components).unwrap();
        let token = CancellationToken::new();
        let (running, shutdown) = (consumer.clone(), token.clone());
        let task = tokio::spawn(async move { running.run(shutdown).await });
        Process { consumer, metrics, assignments, gate, fetch_to, token, task }
    }

    /// Appends one record of random rows: several streams, old and unordered times, some metadata.
    pub(super) async fn push(&self, rng: &mut fastrand::Rng, partition: PartitionId, rows: usize, line_bytes: usize) {
        let tenant = TenantId::new(["acme", "globex", "initech"][rng.usize(..3)]).unwrap();
        let now = self.clock.now();
        let mut builder = RecordBuilder::new(&tenant, now);
        let mut pushed = Vec::new();
        for _ in 0..rows {
            let labels = Labels::from_pairs([("app", format!("a{}", rng.u8(..4))), ("env", "prod".to_owned())]);
            let age = match rng.u8(..10) {
                0 => Duration::from_secs(rng.u64(..5 * 365 * 86_400)),
                1..=3 => Duration::from_millis(rng.u64(..100_000)),
                4 => Duration::ZERO,
                _ => Duration::from_micros(rng.u64(..1_000)),
            };
            let ts = now.minus(age);
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let common: &[(&str, &str)] = if rng.bool() { &[("pod", "p-1")] } else { &[] };
            builder.stream(&labels, common);
            let trace = format!("{:x}", rng.u64(..));
            let metadata = rng.bool().then_some(("trace", &*trace));
            let mut line = format!("{id} ").into_bytes();
            line.resize(line.len() + rng.usize(..=line_bytes), b'x');
            builder.entry(ts, &line, metadata.into_iter());
            pushed.push(Row { id, tenant: tenant.as_str().to_owned(), labels: labels.to_string(), ts: ts.nanos() });
        }
        self.ledger(partition).lock().tried.extend(pushed.iter().cloned());
        if let Ok(offset) = self.log.append(partition, &tenant, builder.finish(None)).await {
            self.ledger(partition).lock().acknowledged.extend(pushed.into_iter().map(|row| (row, offset)));
        }
    }

    /// Appends a record that cannot be decoded.
    pub(super) fn push_garbage(&self, rng: &mut fastrand::Rng, partition: PartitionId) {
        let payload: Vec<u8> = (0..rng.usize(..200)).map(|_| rng.u8(..)).collect();
        let offset = self.log.append_raw(partition, Bytes::from_static(b"?"), payload.into()).unwrap();
        self.ledger(partition).lock().garbage.insert(offset);
    }

    pub(super) fn ledger(&self, partition: PartitionId) -> &Mutex<Ledger> {
        &self.ledgers[partition.index() as usize]
    }

    /// The rows of a block, with their offsets.
    pub(super) async fn block(&self, key: &str, tail_bytes: u64) -> Arc<BlockRows> {
        if let Some(known) = self.blocks.lock().get(key) {
            return known.clone();
        }
        let bytes = self.bare_store.get(&ObjectKey::new(key).unwrap()).await.unwrap().bytes;
        block::verify(bytes.clone()).unwrap();
        let rows = Arc::new(rows_of_block(&bytes, tail_bytes));
        self.blocks.lock().insert(key.to_owned(), rows.clone());
        rows
    }

    /// Reads a partition as a query does: head, then memory, then blocks.
    pub(super) async fn read(&self, consumer: &Consumer, partition: PartitionId) -> Option<(Vec<Row>, Offset)> {
        match self.read_from(&[consumer], partition, None).await {
            Read::Rows(rows, complete_to) => Some((rows, complete_to)),
            Read::Again | Read::Nobody => None,
        }
    }

    /// As [`World::read`], but asks several processes in turn for an answer that reaches `at_least`.
    pub(super) async fn read_from(
        &self,
        consumers: &[&Consumer],
        partition: PartitionId,
        at_least: Option<Offset>,
    ) -> Read {
        let head = match self.heads().read(partition).await.unwrap() {
            Some((head, _)) => head,
            None => Head::unled(&self.log.log_id().0, partition),
        };
        tokio::task::yield_now().await;
        let from = memory_from(&head, Offset::ZERO);
        let mut snapshot = None;
        for consumer in consumers {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
            // A snapshot holds the rows of all tenants.
            let tenant = TenantId::new("any").unwrap();
            match consumer.take(&Where { partition, tenant, from, at_least, deadline }).await {
                Ok(found) => snapshot = Some(Ok(found)),
                Err(OwnerError::NotHeld { held, .. }) => snapshot = Some(Err(held)),
                Err(OwnerError::NotLeading { .. } | OwnerError::Deadline { .. }) => continue,
                Err(other) => panic!("no answer: {other}"),
            }
            break;
        }
        let Some(snapshot) = snapshot else { return Read::Nobody };
        tokio::task::yield_now().await;
        let held = match &snapshot {
            Ok(snapshot) => snapshot.held,
            Err(held) => *held,
        };
        assert!(snapshot.is_err() || at_least.is_none_or(|wanted| held.end >= wanted), "{held} is short");
        let view = PartitionView { head: &head, compacted_to: Offset::ZERO, memory: Some(MemoryView { held }) };
        let (blocks, complete_to) = match plan(&view) {
            Plan::Read { blocks, complete_to, .. } => (blocks.to_vec(), complete_to),
            Plan::Replan(_) => {
                // Eviction follows the head, so a newer head lists the evicted rows.
                let (head, _) = self.heads().read(partition).await.unwrap().expect("a head that was there stays");
                assert!(
                    held.start <= head.flushed_to,
                    "memory begins at {}, the head ends at {}",
                    held.start,
                    head.flushed_to
                );
                return Read::Again;
            }
            other => panic!("no plan: {other:?}"),
        };
        let mut rows = Vec::new();
        for block in blocks {
            rows.extend(self.block(&block.key, block.tail_bytes).await.iter().map(|(row, _)| row.clone()));
        }
        let snapshot = snapshot.expect("a plan that reads memory got it");
        for held in &snapshot.segments {
            for (tenant, streams) in held.segment.tenants() {
                for stream in streams.streams() {
                    for slice in stream.slices().iter().filter(|slice| snapshot.range.contains(slice.offset)) {
                        let labels = stream.labels().to_string();
                        rows.extend(slice.rows.rows().map(|row| Row {
                            id: id_of(row.line),
                            tenant: tenant.as_str().to_owned(),
                            labels: labels.clone(),
                            ts: row.ts.nanos(),
                        }));
                    }
                }
            }
        }
        Read::Rows(rows, complete_to)
    }

    /// Checks that blocks alone hold each acknowledged row once, except rows of lost ranges.
    pub(super) async fn check_all_in_blocks(&self, partition: PartitionId) {
        let (head, _) = self.heads().read(partition).await.unwrap().expect("the partition was led");
        let end = self.log.watermarks(partition).await.unwrap().end;
        assert_eq!(head.flushed_to, end, "everything is in blocks");
        let mut found = BTreeMap::new();
        let mut quarantined = 0;
        for block in &head.blocks {
            for (row, offset) in self.block(&block.key, block.tail_bytes).await.iter() {
                assert!(block.range.contains(*offset));
                let before = found.insert(row.clone(), *offset);
                assert_eq!(before, None, "a row is in blocks twice: {row:?}");
            }
            quarantined += block.quarantined;
        }
        let ledger = self.ledger(partition).lock();
        let is_lost = |offset: &Offset| head.lost.iter().any(|lost| lost.range.contains(*offset));
        for (row, offset) in ledger.acknowledged.iter().filter(|(_, offset)| !is_lost(offset)) {
            assert_eq!(found.get(row), Some(offset), "an acknowledged row is missing or at another offset: {row:?}");
        }
        assert!(found.keys().all(|row| ledger.tried.contains(row)), "a row that nobody pushed");
        let garbage = ledger.garbage.iter().filter(|offset| !is_lost(offset)).count();
        assert_eq!(quarantined, garbage as u64, "records that cannot be decoded are kept");
    }
}

impl Process {
    /// Kills the process, in the middle of whatever it does.
    pub(super) fn kill(&self) {
        self.task.abort();
    }

    /// Shuts the process down.
    pub(super) async fn stop(self) -> Result<(), Error> {
        self.token.cancel();
        self.task.await.expect("the process does not panic")
    }

    /// Waits until the process ends by itself.
    pub(super) async fn end(self) -> Result<(), Error> {
        self.task.await.expect("the process does not panic")
    }

    pub(super) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    pub(super) async fn ready(&self) {
        until("getting ready", || self.consumer.is_ready()).await;
    }

    /// The value of a counter or gauge, summed over its labels that contain `label`.
    pub(super) fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.metrics.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let wanted = metrics.filter(|m| label.is_empty() || m.get_label().iter().any(|l| l.value() == label));
        wanted.map(|m| m.get_counter().get_value() + m.get_gauge().get_value()).sum()
    }
}

fn id_of(line: &[u8]) -> u64 {
    let text = std::str::from_utf8(line).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn rows_of_block(bytes: &Bytes, tail_bytes: u64) -> BlockRows {
    let total = bytes.len() as u64;
    let index = BlockIndex::open(total, bytes.slice((total - tail_bytes) as usize..)).unwrap();
    let tenants: Vec<TenantId> = index.tenants().map(|t| t.tenant.clone()).collect();
    let mut rows = Vec::new();
    for tenant in tenants {
        let ordinals = index.streams(&tenant, &[], TimeRange::ALL).iter().map(|s| s.ordinal).collect();
        let columns = Needs::everything();
        let mut scan = BlockScan::new(&index, ordinals, TimeRange::ALL, columns);
        loop {
            match scan.next().unwrap() {
                Step::NeedsData(ranges) => {
                    let data = ranges.iter().map(|r| bytes.slice(r.start as usize..r.end as usize)).collect();
                    scan.supply(ranges, data).unwrap();
                }
                Step::Batch(batch) => rows.extend((0..batch.len()).map(|i| {
                    let row = Row {
                        id: id_of(batch.lines.get(i)),
                        tenant: tenant.as_str().to_owned(),
                        labels: batch.labels.to_string(),
                        ts: batch.timestamps[i],
                    };
                    (row, Offset::new(batch.offsets[i]))
                })),
                Step::Done => break,
            }
        }
    }
    rows
}
