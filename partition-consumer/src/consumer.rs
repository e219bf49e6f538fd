//! The service: which partitions are led here, and what readers may ask of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant as Moment;

use async_trait::async_trait;
use control::{Control, PartitionRole};
use cut::CutSink;
use log_bus::{LogBus, LogError};
use model::{Clock, Offset, OffsetRange, PartitionId};
use owner::segments::Abandoned;
use owner::{Owner, OwnerError, ScanReply, ScanRequest, StreamsReply, StreamsRequest, TailRequest, TailStream, Where};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::assignments::Assignments;
use crate::budget::Budget;
use crate::memory::{PartitionMemory, Snapshot};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::scan::rows;
use crate::tails::Tails;
use crate::{Config, Error};

/// What the consumer works with.
#[derive(Clone)]
pub struct Components {
    /// What is consumed.
    pub log: Arc<dyn LogBus>,
    /// Takes leads, and turns cuts into blocks.
    pub blocks: Arc<dyn CutSink>,
    /// Tells the time of day, for people. Ages go by tokio's clock, which never jumps.
    pub clock: Arc<dyn Clock>,
    /// Takes the metrics.
    pub metrics: prometheus::Registry,
    /// Who else is there, and who holds what: partitions are handed over warm. None on the log of one machine: this
    /// process is alone.
    pub control: Option<Arc<Control>>,
}

/// Consumes the partitions that are assigned to this process, cuts them, and answers for what is recent.
pub struct Consumer(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) components: Components,
    pub(crate) budget: Arc<Budget>,
    pub(crate) metrics: Metrics,
    pub(crate) tails: Tails,
    partitions: RwLock<BTreeMap<PartitionId, Arc<PartitionMemory>>>,
    scans: Arc<Semaphore>,
    pub(crate) peers: Peers,
    /// The partitions that should be served here; `None` before that is known.
    pub(crate) assigned: watch::Sender<Option<BTreeSet<PartitionId>>>,
}

impl Shared {
    /// Makes a partition's memory known to readers.
    pub(crate) fn register(&self, memory: &Arc<PartitionMemory>) {
        self.partitions.write().insert(memory.partition(), memory.clone());
        self.tell();
    }

    /// Takes a partition's memory back.
    pub(crate) fn deregister(&self, memory: &Arc<PartitionMemory>) {
        let mut partitions = self.partitions.write();
        if partitions.get(&memory.partition()).is_some_and(|known| Arc::ptr_eq(known, memory)) {
            partitions.remove(&memory.partition());
        }
        drop(partitions);
        self.tell();
    }

    /// Tells other processes what is held here.
    pub(crate) fn tell(&self) {
        if let Some(control) = &self.components.control {
            control.update(|state| {
                state.partitions = self.partitions.read().values().map(|memory| memory.told()).collect();
                state.partition_count = state.partition_count.max(self.components.log.partition_count());
            });
        }
    }

    pub(crate) fn report_memory(&self) {
        let held = self.budget.held();
        self.metrics.memory_bytes.set(i64::try_from(held).unwrap_or(i64::MAX));
        self.metrics.memory_fill.set(held as f64 / self.budget.cap().max(1) as f64);
        let counts: Vec<_> = self.partitions.read().values().map(|memory| memory.segment_counts()).collect();
        self.metrics.memory_chunks.set(counts.iter().map(|(all, _)| *all as i64).sum());
        self.metrics.flush_queue_length.set(counts.iter().map(|(_, waiting)| *waiting as i64).sum());
        self.tails.prune();
        self.metrics.tails.set(self.tails.len() as i64);
    }

    /// The memory of a partition that is held here, caught up or not.
    fn held(&self, partition: PartitionId) -> Result<Arc<PartitionMemory>, OwnerError> {
        self.partitions.read().get(&partition).cloned().ok_or(OwnerError::NotLeading { partition })
    }

    /// The memory of a partition whose answers are not short.
    fn serving(&self, partition: PartitionId) -> Result<Arc<PartitionMemory>, OwnerError> {
        let memory = self.held(partition)?;
        if memory.is_serving() { Ok(memory) } else { Err(OwnerError::NotLeading { partition }) }
    }

    fn all_held(&self) -> Vec<Arc<PartitionMemory>> {
        self.partitions.read().values().cloned().collect()
    }
}

impl Consumer {
    /// A consumer that does nothing until it [runs](Consumer::run).
    ///
    /// # Errors
    /// When a setting cannot work, or the metrics are registered already.
    pub fn new(config: Config, components: Components) -> Result<Arc<Self>, Error> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(Error::Config(problems.join("; ")));
        }
        let metrics = Metrics::register(&components.metrics)?;
        let budget = Budget::new(config.memory_bytes.as_usize(), config.pressure_bytes());
        let scans = Arc::new(Semaphore::new(config.scans_max()));
        let peers = Peers::new(components.control.clone());
        Ok(Arc::new(Self(Arc::new(Shared {
            config,
            components,
            budget,
            metrics,
            tails: Tails::default(),
            partitions: RwLock::default(),
            scans,
            peers,
            assigned: watch::Sender::new(None),
        }))))
    }

    /// True when all partitions assigned to this process are served: caught up with what the log held when they
    /// were taken.
    pub fn is_ready(&self) -> bool {
        let assigned = self.0.assigned.borrow();
        assigned.as_ref().is_some_and(|assigned| assigned.iter().all(|p| self.0.serving(*p).is_ok()))
    }

    /// The partitions that are held but still catch up, with how far they came.
    pub fn warming(&self) -> Vec<(PartitionId, Offset)> {
        let held = self.0.all_held();
        held.iter().filter(|m| !m.is_serving()).map(|m| (m.partition(), m.held().end)).collect()
    }

    /// Memory that segments take now, estimated, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.0.budget.held()
    }

    /// Consumes until `shutdown` is cancelled or something fails for good. Then leaves the group, goes on until other
    /// processes have taken over (for a bounded time, and only when there are any), publishes what is still led, and
    /// ends. Dropping the future drops everything at once, as a crash does: nothing is lost by it, since
    /// the log holds what heads do not list.
    ///
    /// # Errors
    /// The first thing that failed for good. Other partitions are drained before it is reported.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), Error> {
        let outcome = Assignments::new(&self.0, shutdown.child_token()).run().await;
        self.0.tails.clear();
        outcome
    }

    /// What a read goes by.
    #[cfg(test)]
    pub(crate) async fn take(&self, at: &Where) -> Result<Snapshot, OwnerError> {
        let memory = self.reach(at).await?;
        self.snapshot(&memory, at.from)
    }

    /// Waits until all of `partition` below `to` is in memory or in blocks.
    ///
    /// # Errors
    /// [`OwnerError::Deadline`] when that does not happen in time, [`OwnerError::NotLeading`] when the partition is
    /// not held here.
    pub async fn wait_consumed(&self, partition: PartitionId, to: Offset, deadline: Instant) -> Result<(), OwnerError> {
        let memory = self.0.held(partition)?;
        match tokio::time::timeout_at(deadline, reached(&memory, memory.watch_consumed(), to)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(OwnerError::Deadline { partition, consumed: memory.held().end, wanted: to }),
        }
    }

    /// The memory to read a partition from, once it reaches what is wanted.
    async fn reach(&self, at: &Where) -> Result<Arc<PartitionMemory>, OwnerError> {
        let &Where { partition, at_least, deadline, .. } = at;
        let Some(wanted) = at_least else { return self.0.serving(partition) };
        let memory = self.0.held(partition)?;
        if !memory.is_serving() && self.0.peers.hold_more(partition, memory.held().end) {
            // Another one can answer now.
            return Err(OwnerError::NotLeading { partition });
        }
        self.wait_consumed(partition, wanted, deadline).await?;
        // An answer that reaches what was wanted is not short, whether all else is caught up with or not.
        Ok(memory)
    }

    fn snapshot(&self, memory: &PartitionMemory, from: Offset) -> Result<Snapshot, OwnerError> {
        let partition = memory.partition();
        if memory.has_ended() {
            return Err(OwnerError::NotLeading { partition });
        }
        memory.snapshot(from).map_err(|held| {
            self.0.metrics.not_held.inc();
            OwnerError::NotHeld { partition, held }
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        at: &Where,
        work: impl FnOnce(&Snapshot, &AtomicBool) -> T + Send + 'static,
    ) -> Result<(T, OffsetRange), OwnerError> {
        let shared = &self.0;
        let stopped = || OwnerError::Stopped("no scan can be started".to_owned());
        let memory = self.reach(at).await?;
        // The permit first: who waits for one should not keep memory from being freed.
        let permit = shared.scans.clone().acquire_owned().await.map_err(|_| stopped())?;
        let snapshot = self.snapshot(&memory, at.from)?;
        let held = snapshot.held;
        let abandoned = Abandoned::default();
        let flag = abandoned.flag();
        let started = Moment::now();
        shared.metrics.scans_running.inc();
        let running = shared.metrics.scans_running.clone();
        let done = tokio::task::spawn_blocking(move || {
            let found = work(&snapshot, &flag);
            running.dec();
            drop(permit);
            found
        });
        let found = done.await.map_err(|panic| OwnerError::Stopped(panic.to_string()))?;
        shared.metrics.scan_seconds.observe(started.elapsed().as_secs_f64());
        drop(abandoned);
        Ok((found, held))
    }
}

#[async_trait]
impl Owner for Consumer {
    fn partition_count(&self) -> u32 {
        self.0.components.log.partition_count()
    }

    async fn ends(&self) -> Result<Vec<Offset>, OwnerError> {
        self.0.components.log.ends().await.map_err(|error| OwnerError::Unavailable(error.to_string()))
    }

    fn partitions(&self) -> Vec<PartitionId> {
        let partitions = self.0.partitions.read();
        partitions.values().filter(|memory| memory.is_serving()).map(|memory| memory.partition()).collect()
    }

    fn held(&self, partition: PartitionId) -> Option<OffsetRange> {
        self.0.serving(partition).ok().map(|memory| memory.held())
    }

    async fn scan(&self, request: ScanRequest) -> Result<ScanReply, OwnerError> {
        let ScanRequest { at, query } = request;
        let tenant = at.tenant.clone();
        let work =
            move |snapshot: &Snapshot, abandoned: &AtomicBool| rows(snapshot, &tenant).scan_all(&query, abandoned);
        let (partials, held) = self.read(&at, work).await?;
        Ok(ScanReply { partials: partials?, held })
    }

    async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError> {
        let StreamsRequest { at, matchers, time } = request;
        let tenant = at.tenant.clone();
        let work = move |snapshot: &Snapshot, abandoned: &AtomicBool| {
            rows(snapshot, &tenant).streams(&matchers, time, abandoned)
        };
        let (streams, held) = self.read(&at, work).await?;
        Ok(StreamsReply { streams, held })
    }

    fn tail(&self, request: TailRequest) -> TailStream {
        self.0.tails.open(request, || self.0.all_held().into_iter().filter(|memory| memory.is_serving()).collect())
    }

    async fn flush(&self) -> Result<(), OwnerError> {
        let unavailable = |error: LogError| OwnerError::Unavailable(error.to_string());
        let not_yet =
            || OwnerError::Unavailable("not all partitions of this process are led yet; try again".to_owned());
        // Saying that all is in blocks would not be true.
        let held = self.0.all_held();
        let is_held = |partition: &PartitionId| held.iter().any(|memory| memory.partition() == *partition);
        if !self.0.assigned.borrow().as_ref().is_some_and(|assigned| assigned.iter().all(is_held)) {
            return Err(not_yet());
        }
        let mut led = Vec::new();
        for memory in held {
            let standing = memory.standing();
            match standing.role {
                _ if standing.leads => led.push(memory),
                PartitionRole::Warming => return Err(not_yet()),
                // Another process leads it, and is asked there.
                PartitionRole::Leading | PartitionRole::Following | PartitionRole::Draining => {}
            }
        }
        let mut wanted = Vec::new();
        for memory in led {
            let held = self.0.components.log.watermarks(memory.partition()).await.map_err(unavailable)?;
            memory.want_flushed(held.end);
            wanted.push((memory, held.end));
        }
        for (memory, end) in wanted {
            flushed(&memory, end).await?;
        }
        Ok(())
    }
}

/// Waits until a mark of a partition reaches `to`, or its lead ends.
async fn reached(memory: &PartitionMemory, mut mark: watch::Receiver<Offset>, to: Offset) -> Result<(), OwnerError> {
    tokio::select! {
        biased;
        Ok(_) = mark.wait_for(|at| *at >= to) => Ok(()),
        () = memory.ended() => Err(OwnerError::NotLeading { partition: memory.partition() }),
    }
}

/// As [`reached`], of what only the leader moves.
async fn flushed(memory: &PartitionMemory, to: Offset) -> Result<(), OwnerError> {
    tokio::select! {
        biased;
        outcome = reached(memory, memory.watch_flushed(), to) => outcome,
        () = memory.lead_is_over() => Err(OwnerError::NotLeading { partition: memory.partition() }),
    }
}
