//! The service: which partitions this process holds, and how readers use them.

use std::sync::Arc;
use std::time::Instant as Moment;

use async_trait::async_trait;
use control::PartitionRole;
use log_bus::LogError;
use model::{Offset, OffsetRange, PartitionId};
use owner::{Owner, OwnerError, ScanReply, ScanRequest, StreamsReply, StreamsRequest, TailRequest, TailStream, Where};
use runtime::Abandoned;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::assignments::Assignments;
use crate::components::Components;
use crate::memory::{PartitionMemory, Snapshot};
use crate::scan::rows;
use crate::state::ConsumerState;
use crate::{Config, Error};

/// Consumes the partitions that are assigned to this process, cuts them, and answers for their recent rows.
pub struct Consumer(Arc<ConsumerState>);

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
        Ok(Arc::new(Self(Arc::new(ConsumerState::new(config, components)?))))
    }

    /// True when all partitions assigned to this process are served. A partition is served once everything is consumed
    /// that the log held when this process took it.
    pub fn is_ready(&self) -> bool {
        let assigned = self.0.assigned.borrow();
        assigned.as_ref().is_some_and(|assigned| assigned.iter().all(|p| self.0.serving(*p).is_ok()))
    }

    /// The partitions that are held but not caught up yet, each with the end of its consumed offsets.
    pub fn warming(&self) -> Vec<(PartitionId, Offset)> {
        let held = self.0.all_held();
        held.iter().filter(|m| !m.is_serving()).map(|m| (m.partition(), m.held().end)).collect()
    }

    /// Estimated memory of all segments, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.0.budget.held()
    }

    /// Consumes until `shutdown` is cancelled or something fails for good. Then it leaves the group, goes on until other
    /// processes have taken over (for a bounded time, and only if there are any), publishes what it still leads, and
    /// returns.
    ///
    /// Dropping the future drops everything at once, as a crash does. Nothing is lost, since the log holds what heads do
    /// not list.
    ///
    /// # Errors
    /// The first failure that another try cannot cure. Other partitions are drained before it is returned.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), Error> {
        let outcome = Assignments::new(&self.0, shutdown.child_token()).run().await;
        self.0.tails.clear();
        outcome
    }

    /// The snapshot that a read uses.
    #[cfg(test)]
    pub(crate) async fn take(&self, at: &Where) -> Result<Snapshot, OwnerError> {
        let memory = self.reach(at).await?;
        self.snapshot(&memory, at.from)
    }

    /// Waits until everything in `partition` below `to` is in memory or in blocks.
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

    /// The memory of the partition that is asked for, once it reaches [`Where::at_least`].
    async fn reach(&self, at: &Where) -> Result<Arc<PartitionMemory>, OwnerError> {
        let &Where { partition, at_least, deadline, .. } = at;
        let Some(wanted) = at_least else { return self.0.serving(partition) };
        let memory = self.0.held(partition)?;
        if !memory.is_serving() && self.0.peers.hold_more(partition, memory.held().end) {
            // Another process can answer now.
            return Err(OwnerError::NotLeading { partition });
        }
        self.wait_consumed(partition, wanted, deadline).await?;
        // An answer that reaches the wanted offset is complete, even if the partition has not caught up.
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
        work: impl FnOnce(&Snapshot, &Abandoned) -> T + Send + 'static,
    ) -> Result<(T, OffsetRange), OwnerError> {
        let metrics = &self.0.metrics;
        let memory = self.reach(at).await?;
        // The turn comes before the snapshot: a waiting reader should not keep memory from being freed.
        let turn = self.0.scans.turn().await;
        let snapshot = self.snapshot(&memory, at.from)?;
        let held = snapshot.held;
        let abandoned = Abandoned::default();
        let _abandon = abandoned.on_drop();
        let started = Moment::now();
        metrics.scans_running.inc();
        let running = metrics.scans_running.clone();
        let scan = turn.run(move || {
            let answer = work(&snapshot, &abandoned);
            running.dec();
            answer
        });
        let answer = scan.await.map_err(|lost| OwnerError::Stopped(lost.to_string()))?;
        metrics.scan_seconds.observe(started.elapsed().as_secs_f64());
        Ok((answer, held))
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
        self.0.all_serving().iter().map(|memory| memory.partition()).collect()
    }

    fn held(&self, partition: PartitionId) -> Option<OffsetRange> {
        self.0.serving(partition).ok().map(|memory| memory.held())
    }

    async fn scan(&self, request: ScanRequest) -> Result<ScanReply, OwnerError> {
        let ScanRequest { at, query } = request;
        let tenant = at.tenant.clone();
        let work =
            move |snapshot: &Snapshot, abandoned: &Abandoned| rows(snapshot, &tenant).scan_all(&query, abandoned);
        let (partials, held) = self.read(&at, work).await?;
        Ok(ScanReply { partials: partials?, held })
    }

    async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError> {
        let StreamsRequest { at, matchers, time } = request;
        let tenant = at.tenant.clone();
        let work = move |snapshot: &Snapshot, abandoned: &Abandoned| {
            rows(snapshot, &tenant).streams(&matchers, time, abandoned)
        };
        let (streams, held) = self.read(&at, work).await?;
        Ok(StreamsReply { streams, held })
    }

    fn tail(&self, request: TailRequest) -> TailStream {
        self.0.tails.open(request, || self.0.all_serving())
    }

    async fn flush(&self) -> Result<(), OwnerError> {
        let unavailable = |error: LogError| OwnerError::Unavailable(error.to_string());
        let not_yet =
            || OwnerError::Unavailable("not all partitions of this process are led yet; try again".to_owned());
        // A partition that is not held yet would be left out, though its rows may not be in blocks.
        let held = self.0.all_held();
        let is_held = |partition: &PartitionId| held.iter().any(|memory| memory.partition() == *partition);
        if !self.0.assigned.borrow().as_ref().is_some_and(|assigned| assigned.iter().all(is_held)) {
            return Err(not_yet());
        }
        let mut led = Vec::new();
        for memory in held {
            let status = memory.lead_status();
            match status.role {
                _ if status.leads => led.push(memory),
                PartitionRole::Warming => return Err(not_yet()),
                // Another process leads it. The flush there covers it.
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

/// Waits until a mark of a partition reaches `to`.
///
/// # Errors
/// [`OwnerError::NotLeading`] when the partition stops being held first.
async fn reached(memory: &PartitionMemory, mut mark: watch::Receiver<Offset>, to: Offset) -> Result<(), OwnerError> {
    tokio::select! {
        biased;
        Ok(_) = mark.wait_for(|at| *at >= to) => Ok(()),
        () = memory.ended() => Err(OwnerError::NotLeading { partition: memory.partition() }),
    }
}

/// Waits until the partition is flushed to `to`. As [`reached`], but also fails when the lead ends, since only a leader
/// flushes.
async fn flushed(memory: &PartitionMemory, to: Offset) -> Result<(), OwnerError> {
    tokio::select! {
        biased;
        outcome = reached(memory, memory.watch_flushed(), to) => outcome,
        () = memory.lead_is_over() => Err(OwnerError::NotLeading { partition: memory.partition() }),
    }
}
