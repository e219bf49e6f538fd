//! Several processes over one log, one store and one control topic: a group that shares the partitions, and readers that
//! ask the processes on the topic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use control::{Control, PartitionRole, ProcessState, Role};
use log_bus::{Assignment, ControlBus, ControlRecord, LogBus, LogError, MemoryControl};
use model::{Offset, PartitionId, SystemClock};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::world::{Gate, Process, ProcessLog, Read, World, small};
use crate::{Config, Consumer, Error, Mode};

/// Short times for tests, and long limits that no test should reach.
pub(super) fn quick() -> Config {
    let millis = |millis| Duration::from_millis(millis).into();
    Config {
        warm_max: millis(20_000),
        drain_grace: millis(100),
        handoff_max: millis(10_000),
        handoff_max_at_shutdown: millis(10_000),
        shutdown_grace: millis(20_000),
        ..small()
    }
}

/// The processes and their shared parts.
pub(super) struct Fleet {
    pub(super) world: Arc<World>,
    pub(super) group: Arc<Group>,
    topic: MemoryControl,
    running: Mutex<BTreeMap<String, Arc<Consumer>>>,
    observer: Member,
}

/// A process of the fleet.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) control: Arc<Control>,
    token: CancellationToken,
    task: JoinHandle<()>,
    process: Option<Process>,
}

/// Assigns partitions to processes as a Kafka group does: a revocation comes before the next assignment.
#[derive(Default)]
pub(super) struct Group(Mutex<GroupState>);

#[derive(Default)]
struct GroupState {
    members: BTreeMap<String, mpsc::UnboundedSender<Assignment>>,
    owners: BTreeMap<PartitionId, String>,
}

impl Group {
    /// Assigns a partition to a member, or to nobody.
    pub(super) fn give(&self, partition: PartitionId, to: Option<&str>) {
        let mut state = self.0.lock();
        let from = state.owners.get(&partition).cloned();
        if from.as_deref() == to {
            return;
        }
        if let Some(member) = from.and_then(|from| state.members.get(&from)) {
            let _ = member.send(Assignment::Revoked(vec![partition]));
        }
        state.owners.remove(&partition);
        if let Some(to) = to {
            state.owners.insert(partition, to.to_owned());
            let _ = state.members[to].send(Assignment::Assigned(vec![partition]));
        }
    }

    /// Assigns all partitions evenly, with as few moves as possible.
    pub(super) fn balance(&self, partitions: u32) {
        let members: Vec<String> = self.0.lock().members.keys().cloned().collect();
        if members.is_empty() {
            return;
        }
        let share = (partitions as usize).div_ceil(members.len());
        let mut counts: BTreeMap<String, usize> = members.iter().map(|member| (member.clone(), 0)).collect();
        let mut homeless = Vec::new();
        for partition in (0..partitions).map(PartitionId::new) {
            let owner = self.0.lock().owners.get(&partition).cloned();
            match owner.and_then(|owner| counts.get_mut(&owner)).filter(|count| **count < share) {
                Some(count) => *count += 1,
                None => homeless.push(partition),
            }
        }
        for partition in homeless {
            let least = counts.iter_mut().min_by_key(|(_, count)| **count).expect("there are members");
            *least.1 += 1;
            let to = least.0.clone();
            self.give(partition, Some(&to));
        }
    }

    fn join(&self, name: &str, assignments: mpsc::UnboundedSender<Assignment>) {
        self.0.lock().members.insert(name.to_owned(), assignments);
    }

    pub(super) fn leave(&self, name: &str) {
        let mut state = self.0.lock();
        state.members.remove(name);
        state.owners.retain(|_, owner| owner != name);
    }
}

/// The control topic as one process sees it.
struct GatedBus {
    bus: Arc<dyn ControlBus>,
    gate: Gate,
}

#[async_trait]
impl ControlBus for GatedBus {
    async fn publish(&self, key: &str, payload: Bytes) -> Result<(), LogError> {
        self.gate.pass().await;
        self.bus.publish(key, payload).await
    }

    async fn next(&self) -> Result<ControlRecord, LogError> {
        self.gate.pass().await;
        self.bus.next().await
    }
}

impl Fleet {
    pub(super) fn new(partitions: u32, seed: u64) -> Arc<Self> {
        let topic = MemoryControl::new(Arc::new(SystemClock));
        Arc::new(Self {
            world: World::new(partitions, seed),
            group: Arc::default(),
            observer: Member::join(&topic, "observer", Role::QueryService, &Gate::open(), &prometheus::Registry::new()),
            topic,
            running: Mutex::default(),
        })
    }

    /// Starts a process without partitions.
    pub(super) fn start(self: &Arc<Self>, name: &str, config: Config) -> Member {
        let (assignments, receiver) = mpsc::unbounded_channel();
        let (gate, metrics) = (Gate::open(), prometheus::Registry::new());
        let role = if config.mode == Mode::Follow { Role::Follower } else { Role::Consumer };
        if config.mode == Mode::Lead {
            self.group.join(name, assignments.clone());
        }
        let mut member = Member::join(&self.topic, name, role, &gate, &metrics);
        let (fleet, left) = (Arc::downgrade(self), name.to_owned());
        let log = ProcessLog {
            log: self.world.log.clone(),
            assignments: tokio::sync::Mutex::new(receiver),
            gate,
            fetch_to: Arc::new(watch::Sender::new(i64::MAX)),
            on_leave: Box::new(move || {
                if let Some(fleet) = fleet.upgrade() {
                    fleet.group.leave(&left);
                    fleet.group.balance(fleet.world.log.partition_count());
                }
            }),
        };
        let process = self.world.run(name, config, log, assignments, Some(member.control.clone()), metrics);
        self.running.lock().insert(name.to_owned(), process.consumer.clone());
        member.process = Some(process);
        member
    }

    /// Kills a process. Its partitions are not assigned to another one yet.
    pub(super) fn kill(&self, member: &Member) {
        self.running.lock().remove(&member.name);
        self.group.leave(&member.name);
        member.process().kill();
        member.task.abort();
    }

    /// Shuts a process down.
    pub(super) async fn stop(&self, mut member: Member) -> Result<(), Error> {
        let process = member.process.take().expect("a member that was started");
        let ended = process.stop().await;
        self.running.lock().remove(&member.name);
        member.token.cancel();
        member.task.await.expect("control does not panic");
        ended
    }

    /// Reads as a query service does: asks the holders of the partition, best first.
    pub(super) async fn read(&self, partition: PartitionId, at_least: Option<Offset>) -> Read {
        let holders = self.observer.control.view().holders(partition);
        let consumers: Vec<Arc<Consumer>> = {
            let running = self.running.lock();
            holders.iter().filter_map(|holder| running.get(&holder.id).cloned()).collect()
        };
        let consumers: Vec<&Consumer> = consumers.iter().map(|consumer| &**consumer).collect();
        self.world.read_from(&consumers, partition, at_least).await
    }

    /// Reads until an answer reaches the current end of the log. With `gapless`, the first try must succeed.
    pub(super) async fn read_strongly(&self, partition: PartitionId, gapless: bool) -> usize {
        let acknowledged: Vec<_> = {
            let ledger = self.world.ledger(partition).lock();
            ledger.acknowledged.iter().map(|(row, offset)| (row.clone(), *offset)).collect()
        };
        let end = self.world.log.watermarks(partition).await.unwrap().end;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < deadline, "nobody answers for partition {partition}");
            let named = self.holders(partition);
            match self.read(partition, Some(end)).await {
                Read::Rows(rows, complete_to) => {
                    assert!(complete_to >= end, "an answer up to {complete_to}, where {end} was wanted");
                    let found: BTreeSet<_> = rows.iter().cloned().collect();
                    assert_eq!(found.len(), rows.len(), "rows came twice");
                    for (row, offset) in &acknowledged {
                        assert!(found.contains(row), "{row:?} at {offset} is missing below {complete_to}");
                    }
                    let ledger = self.world.ledger(partition).lock();
                    assert!(found.iter().all(|row| ledger.tried.contains(row)), "a row that nobody pushed");
                    return rows.len();
                }
                Read::Again => {}
                Read::Nobody => {
                    // Holders on the topic must answer. Only a change of the topic meanwhile excuses a failure.
                    let now = self.holders(partition);
                    assert!(!gapless || named != now, "nobody answered for partition {partition}: {now:?}");
                    continue;
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The names, roles and epochs of the holders of a partition on the topic.
    pub(super) fn holders(&self, partition: PartitionId) -> Vec<(String, PartitionRole, u64)> {
        let holders = self.observer.control.view().holders(partition);
        holders.into_iter().map(|holder| (holder.id, holder.role, holder.epoch)).collect()
    }

    /// Reads all partitions repeatedly until `done`. Returns the number of answers.
    pub(super) fn readers(self: &Arc<Self>, gapless: bool, done: &CancellationToken) -> Vec<JoinHandle<usize>> {
        let partitions = self.world.log.partition_count();
        let reader = |partition| {
            let (fleet, done) = (self.clone(), done.clone());
            tokio::spawn(async move {
                let mut reads = 0;
                while !done.is_cancelled() {
                    fleet.read_strongly(partition, gapless).await;
                    reads += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                reads
            })
        };
        (0..partitions).map(PartitionId::new).map(reader).collect()
    }

    /// Pushes small records to all partitions until `done`.
    pub(super) fn pusher(self: &Arc<Self>, seed: u64, done: &CancellationToken) -> JoinHandle<()> {
        let (fleet, done, mut rng) = (self.clone(), done.clone(), fastrand::Rng::with_seed(seed));
        tokio::spawn(async move {
            while !done.is_cancelled() {
                let partition = PartitionId::new(rng.u32(..fleet.world.log.partition_count()));
                let rows = rng.usize(1..10);
                fleet.world.push(&mut rng, partition, rows, 100).await;
                tokio::time::sleep(Duration::from_millis(rng.u64(1..4))).await;
            }
        })
    }

    /// The leader of a partition and the epoch, according to its head.
    pub(super) async fn leader(&self, partition: PartitionId) -> (String, u64) {
        let head = self.world.heads().read(partition).await.unwrap();
        head.map_or((String::new(), 0), |(head, _)| (head.owner, head.epoch))
    }

    /// Waits until the process leads the partition, according to its head.
    pub(super) async fn led_by(&self, partition: PartitionId, name: &str) {
        for _ in 0..2_000 {
            if self.leader(partition).await.0 == name {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{name} does not lead partition {partition}: {:?}", self.holders(partition));
    }

    /// Flushes until heads list everything, and checks that blocks alone hold each row once.
    pub(super) async fn check_all_in_blocks(&self, partition: PartitionId) {
        let end = self.world.log.watermarks(partition).await.unwrap().end;
        for _ in 0..1_000 {
            let consumers: Vec<_> = self.running.lock().values().cloned().collect();
            for consumer in consumers {
                let _ = tokio::time::timeout(Duration::from_secs(1), owner::Owner::flush(&*consumer)).await;
            }
            let head = self.world.heads().read(partition).await.unwrap();
            if head.is_some_and(|(head, _)| head.flushed_to == end) {
                self.world.check_all_in_blocks(partition).await;
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("partition {partition} is not flushed: {:?}", self.holders(partition));
    }
}

impl Member {
    fn join(topic: &MemoryControl, name: &str, role: Role, gate: &Gate, metrics: &prometheus::Registry) -> Self {
        let millis = |millis| Duration::from_millis(millis).into();
        let config = control::Config {
            beat: millis(50),
            expiry: millis(600),
            coalesce: millis(2),
            ..control::Config::default()
        };
        let rpc = Some("127.0.0.1:1".to_owned());
        let state = ProcessState { id: name.to_owned(), roles: vec![role], rpc, ..ProcessState::default() };
        let bus = Arc::new(GatedBus { bus: topic.join(), gate: gate.clone() });
        let control = Control::new(config, state, bus, metrics).unwrap();
        let (token, running) = (CancellationToken::new(), control.clone());
        let shutdown = token.clone();
        let task = tokio::spawn(async move { running.run(shutdown).await });
        Self { name: name.to_owned(), control, token, task, process: None }
    }

    pub(super) fn process(&self) -> &Process {
        self.process.as_ref().expect("a member that was started")
    }

    /// Its role for a partition, as it publishes it.
    pub(super) fn role(&self, partition: PartitionId) -> Option<PartitionRole> {
        let view = self.control.view();
        let state = view.process(&self.name)?.partition(partition)?;
        Some(state.role)
    }
}
