//! The state that all tasks of a consumer share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cut::CutError;
use log_bus::LogError;
use model::PartitionId;
use owner::OwnerError;
use parking_lot::RwLock;
use runtime::{Backoff, Share};
use tokio::sync::watch;

use crate::budget::Budget;
use crate::components::Components;
use crate::memory::PartitionMemory;
use crate::metrics::Metrics;
use crate::order::Order;
use crate::peers::Peers;
use crate::tails::Tails;
use crate::{Config, Error};

/// The state of a consumer: its settings and components, and the memory of the partitions it holds.
pub(crate) struct ConsumerState {
    pub(crate) config: Config,
    pub(crate) components: Components,
    pub(crate) budget: Arc<Budget>,
    pub(crate) metrics: Metrics,
    pub(crate) tails: Tails,
    pub(crate) peers: Peers,
    /// Turns to scan memory.
    pub(crate) scans: Share,
    /// The partitions that should be served here; `None` before the first assignment.
    pub(crate) assigned: watch::Sender<Option<BTreeSet<PartitionId>>>,
    partitions: RwLock<BTreeMap<PartitionId, Arc<PartitionMemory>>>,
}

impl ConsumerState {
    pub(crate) fn new(config: Config, components: Components) -> Result<Self, Error> {
        let scans_max = config.scans_max(components.processors.count());
        Ok(Self {
            metrics: Metrics::register(&components.metrics)?,
            budget: Budget::new(config.memory_bytes.as_usize(), config.pressure_bytes()),
            tails: Tails::default(),
            peers: Peers::new(components.control.clone()),
            scans: components.processors.share("scan", scans_max),
            assigned: watch::Sender::new(None),
            partitions: RwLock::default(),
            config,
            components,
        })
    }

    /// Makes a partition's memory visible to readers.
    pub(crate) fn register(&self, memory: &Arc<PartitionMemory>) {
        self.partitions.write().insert(memory.partition(), memory.clone());
        self.publish();
    }

    /// Takes a partition's memory away from readers.
    pub(crate) fn deregister(&self, memory: &Arc<PartitionMemory>) {
        let mut partitions = self.partitions.write();
        if partitions.get(&memory.partition()).is_some_and(|known| Arc::ptr_eq(known, memory)) {
            partitions.remove(&memory.partition());
        }
        drop(partitions);
        self.publish();
    }

    /// Publishes what this process holds, for other processes.
    pub(crate) fn publish(&self) {
        if let Some(control) = &self.components.control {
            control.update(|process| {
                process.partitions = self.partitions.read().values().map(|memory| memory.published_state()).collect();
                process.partition_count = process.partition_count.max(self.components.log.partition_count());
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
    pub(crate) fn held(&self, partition: PartitionId) -> Result<Arc<PartitionMemory>, OwnerError> {
        self.partitions.read().get(&partition).cloned().ok_or(OwnerError::NotLeading { partition })
    }

    /// The memory of a partition that has caught up, so that its answers are complete.
    pub(crate) fn serving(&self, partition: PartitionId) -> Result<Arc<PartitionMemory>, OwnerError> {
        let memory = self.held(partition)?;
        if memory.is_serving() { Ok(memory) } else { Err(OwnerError::NotLeading { partition }) }
    }

    /// The memory of all partitions that are held here, ascending.
    pub(crate) fn all_held(&self) -> Vec<Arc<PartitionMemory>> {
        self.partitions.read().values().cloned().collect()
    }

    /// The memory of all partitions that have caught up, ascending.
    pub(crate) fn all_serving(&self) -> Vec<Arc<PartitionMemory>> {
        self.partitions.read().values().filter(|memory| memory.is_serving()).cloned().collect()
    }

    /// The pauses of one thing that is tried until it works.
    pub(crate) fn retry_pauses(&self) -> RetryPauses<'_> {
        let (first, max) = (self.config.retry_pause.get(), self.config.retry_pause_max.get());
        RetryPauses { state: self, backoff: Backoff { attempts: u32::MAX, first, max }, failures: 0 }
    }

    /// Logs and counts an error that another try may cure. Returns any other error.
    pub(crate) fn note_retry(&self, partition: PartitionId, error: Error) -> Result<(), Error> {
        let from = match &error {
            Error::Cut(CutError::Unavailable { .. } | CutError::Fenced { .. }) => "store",
            Error::Log { source: LogError::Unavailable(_), .. } => "log",
            _ => return Err(error),
        };
        self.metrics.retries.with_label_values(&[from]).inc();
        tracing::warn!(%partition, %error, "cannot take a partition; trying again");
        Ok(())
    }

    /// True when the process shuts down and need not wait for others: nobody could take over, or the time for it is over.
    pub(crate) fn is_time_to_leave(&self, order: Order) -> bool {
        match order {
            Order::Leave { since } => {
                !self.peers.can_take_over() || since.elapsed() >= self.config.handoff_max_at_shutdown.get()
            }
            Order::Own { .. } | Order::Release { .. } => false,
        }
    }
}

/// Pauses that grow with each failure in a row.
pub(crate) struct RetryPauses<'a> {
    state: &'a ConsumerState,
    backoff: Backoff,
    failures: u32,
}

impl RetryPauses<'_> {
    /// The pause after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.backoff.pause(self.failures, &*self.state.components.random)
    }

    /// Begins again with the shortest pause, after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}
