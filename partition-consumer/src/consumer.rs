//! The service: which partitions are led here, and what readers may ask of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant as Moment;

use async_trait::async_trait;
use cut::CutSink;
use log_bus::{Assignment, LogBus, LogError};
use model::{Clock, Offset, OffsetRange, PartitionId};
use owner::segments::Abandoned;
use owner::{Owner, OwnerError, ScanReply, ScanRequest, StreamsReply, StreamsRequest, TailRequest, TailStream};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::config::Backoff;
use crate::intake::own;
use crate::memory::{PartitionMemory, Snapshot};
use crate::metrics::Metrics;
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
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Takes the metrics.
    pub metrics: prometheus::Registry,
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
    /// How many partitions should be served here; `None` before that is known.
    assigned: watch::Sender<Option<usize>>,
}

impl Shared {
    /// Makes a partition's memory known to readers.
    pub(crate) fn register(&self, memory: &Arc<PartitionMemory>) {
        self.partitions.write().insert(memory.partition(), memory.clone());
    }

    /// Takes a partition's memory back.
    pub(crate) fn deregister(&self, memory: &Arc<PartitionMemory>) {
        let mut partitions = self.partitions.write();
        if partitions.get(&memory.partition()).is_some_and(|known| Arc::ptr_eq(known, memory)) {
            partitions.remove(&memory.partition());
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

    /// The memory of a partition that is led here, caught up or not.
    fn led(&self, partition: PartitionId) -> Result<Arc<PartitionMemory>, OwnerError> {
        self.partitions.read().get(&partition).cloned().ok_or(OwnerError::NotLeading { partition })
    }

    /// The memory of a partition whose answers are not short.
    fn serving(&self, partition: PartitionId) -> Result<Arc<PartitionMemory>, OwnerError> {
        let memory = self.led(partition)?;
        if memory.is_serving() { Ok(memory) } else { Err(OwnerError::NotLeading { partition }) }
    }

    fn all_led(&self) -> Vec<Arc<PartitionMemory>> {
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
        Ok(Arc::new(Self(Arc::new(Shared {
            config,
            components,
            budget,
            metrics,
            tails: Tails::default(),
            partitions: RwLock::default(),
            scans,
            assigned: watch::Sender::new(None),
        }))))
    }

    /// True when all partitions assigned to this process are served: caught up with what the log held when they
    /// were taken.
    pub fn is_ready(&self) -> bool {
        let assigned = *self.0.assigned.borrow();
        assigned.is_some_and(|assigned| self.partitions().len() >= assigned)
    }

    /// The partitions that are led but still catch up, with how far they came.
    pub fn warming(&self) -> Vec<(PartitionId, Offset)> {
        let led = self.0.all_led();
        led.iter().filter(|m| !m.is_serving()).map(|m| (m.partition(), m.held().end)).collect()
    }

    /// Memory that segments take now, estimated, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.0.budget.held()
    }

    /// Consumes until `shutdown` is cancelled or something fails for good. Then stops fetching, publishes what is in
    /// memory, and ends. Dropping the future drops everything at once, as a crash does: nothing is lost by it, since
    /// the log holds what heads do not list.
    ///
    /// # Errors
    /// The first thing that failed for good. Other partitions are drained before it is reported.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), Error> {
        let outcome = Assignments::new(&self.0, shutdown.child_token()).run().await;
        self.0.tails.clear();
        outcome
    }

    #[cfg(test)]
    pub(crate) fn snapshot(&self, partition: PartitionId, from: Offset) -> Result<Snapshot, Option<OffsetRange>> {
        self.0.serving(partition).map_err(|_| None)?.snapshot(from).map_err(Some)
    }

    /// Waits until all of `partition` below `to` is in memory or in blocks.
    ///
    /// # Errors
    /// [`OwnerError::Deadline`] when that does not happen in time, [`OwnerError::NotLeading`] when the partition is
    /// not led here.
    pub async fn wait_consumed(&self, partition: PartitionId, to: Offset, deadline: Instant) -> Result<(), OwnerError> {
        let memory = self.0.led(partition)?;
        match tokio::time::timeout_at(deadline, reached(&memory, memory.watch_consumed(), to)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(OwnerError::Deadline { partition, consumed: memory.held().end, wanted: to }),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        partition: PartitionId,
        from: Offset,
        (at_least, deadline): (Option<Offset>, Instant),
        work: impl FnOnce(&Snapshot, &std::sync::atomic::AtomicBool) -> T + Send + 'static,
    ) -> Result<(T, OffsetRange), OwnerError> {
        let shared = &self.0;
        let stopped = || OwnerError::Stopped("no scan can be started".to_owned());
        if let Some(wanted) = at_least {
            self.wait_consumed(partition, wanted, deadline).await?;
        }
        // The permit first: who waits for one should not keep memory from being freed.
        let permit = shared.scans.clone().acquire_owned().await.map_err(|_| stopped())?;
        let snapshot = shared.serving(partition)?.snapshot(from).map_err(|held| {
            shared.metrics.not_held.inc();
            OwnerError::NotHeld { partition, held }
        })?;
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
        let ScanRequest { partition, tenant, from, at_least, deadline, query, scan: number } = request;
        if number >= query.scans().len() {
            return Err(logql::QueryError::Evaluation(format!("the query has no scan {number}")).into());
        }
        let work = move |snapshot: &Snapshot, abandoned: &std::sync::atomic::AtomicBool| {
            rows(snapshot, &tenant).scan(&query, &query.scans()[number], abandoned)
        };
        let (partial, held) = self.read(partition, from, (at_least, deadline), work).await?;
        Ok(ScanReply { partial: partial?, held })
    }

    async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError> {
        let StreamsRequest { partition, tenant, from, at_least, deadline, matchers, time } = request;
        let work = move |snapshot: &Snapshot, abandoned: &std::sync::atomic::AtomicBool| {
            rows(snapshot, &tenant).streams(&matchers, time, abandoned)
        };
        let (streams, held) = self.read(partition, from, (at_least, deadline), work).await?;
        Ok(StreamsReply { streams, held })
    }

    fn tail(&self, request: TailRequest) -> TailStream {
        self.0.tails.open(request)
    }

    async fn flush(&self) -> Result<(), OwnerError> {
        let unavailable = |error: LogError| OwnerError::Unavailable(error.to_string());
        let led = self.0.all_led();
        if self.0.assigned.borrow().is_none_or(|assigned| led.len() < assigned) {
            // Saying that all is in blocks would not be true.
            return Err(OwnerError::Unavailable(
                "not all partitions of this process are led yet; try again".to_owned(),
            ));
        }
        let mut wanted = Vec::new();
        for memory in led {
            let held = self.0.components.log.watermarks(memory.partition()).await.map_err(unavailable)?;
            memory.want_flushed(held.end);
            wanted.push((memory, held.end));
        }
        for (memory, end) in wanted {
            reached(&memory, memory.watch_flushed(), end).await?;
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

/// Runs a task for each partition that is assigned to this process.
struct Assignments<'a> {
    shared: &'a Arc<Shared>,
    shutdown: CancellationToken,
    tasks: JoinSet<(PartitionId, Result<(), Error>)>,
    owned: HashMap<PartitionId, Owned>,
    failed: Option<Error>,
}

struct Owned {
    token: CancellationToken,
    /// It came back while it was still being drained.
    again: bool,
}

impl<'a> Assignments<'a> {
    fn new(shared: &'a Arc<Shared>, shutdown: CancellationToken) -> Self {
        Self { shared, shutdown, tasks: JoinSet::new(), owned: HashMap::new(), failed: None }
    }

    async fn run(mut self) -> Result<(), Error> {
        let log = self.shared.components.log.clone();
        let mut backoff = Backoff::new(&self.shared.config);
        while !self.shutdown.is_cancelled() {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {}
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                assignment = log.assignment() => match assignment {
                    Ok(assignment) => {
                        backoff.reset();
                        self.assigned(assignment);
                    }
                    Err(LogError::Unavailable(reason)) => {
                        self.shared.metrics.retries.with_label_values(&["log"]).inc();
                        tracing::warn!(reason, "cannot learn what partitions to own; trying again");
                        tokio::time::sleep(backoff.pause()).await;
                    }
                    Err(error) => self.fail(Error::Assignment(error)),
                },
            }
        }
        // Each task has a child of the token, and drains by itself.
        while let Some(ended) = self.tasks.join_next().await {
            self.ended(ended);
        }
        self.failed.map_or(Ok(()), Err)
    }

    fn assigned(&mut self, assignment: Assignment) {
        tracing::info!(?assignment, "partitions");
        match assignment {
            Assignment::Assigned(partitions) => {
                for partition in partitions {
                    match self.owned.get_mut(&partition) {
                        Some(owned) => owned.again = owned.token.is_cancelled(),
                        None => self.start(partition),
                    }
                }
            }
            Assignment::Revoked(partitions) => {
                for partition in partitions {
                    if let Some(owned) = self.owned.get_mut(&partition) {
                        owned.token.cancel();
                        owned.again = false;
                    }
                }
            }
        }
        let count = self.owned.values().filter(|owned| !owned.token.is_cancelled() || owned.again).count();
        self.shared.assigned.send_replace(Some(count));
    }

    fn start(&mut self, partition: PartitionId) {
        let token = self.shutdown.child_token();
        self.owned.insert(partition, Owned { token: token.clone(), again: false });
        let shared = self.shared.clone();
        self.tasks.spawn(async move { (partition, own(shared, partition, token).await) });
    }

    fn ended(&mut self, ended: Result<(PartitionId, Result<(), Error>), JoinError>) {
        match ended {
            Ok((partition, Ok(()))) => {
                let again = self.owned.remove(&partition).is_some_and(|owned| owned.again);
                if again && !self.shutdown.is_cancelled() {
                    self.start(partition);
                }
            }
            Ok((partition, Err(error))) => {
                self.owned.remove(&partition);
                self.fail(error);
            }
            Err(panic) => self.fail(Error::Panicked(panic.to_string())),
        }
    }

    /// Keeps the first failure and asks the others to drain.
    fn fail(&mut self, error: Error) {
        tracing::error!(%error, "the consumer fails; draining the other partitions");
        self.failed.get_or_insert(error);
        self.shutdown.cancel();
    }
}
