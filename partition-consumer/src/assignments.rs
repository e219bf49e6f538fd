//! The partitions that this process holds: a task for each, and the orders for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use log_bus::{Assignment, LogError};
use model::PartitionId;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::order::{Order, Orders};
use crate::phase::own;
use crate::state::ConsumerState;

/// How often the state of this process is published when nothing changes.
const PUBLISH_PERIOD: Duration = Duration::from_secs(1);

/// Leaving the group may take this long. After that, shutdown goes on without it.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// Runs a task for each partition that is assigned to this process, or that was assigned and is still held.
pub(crate) struct Assignments<'a> {
    state: &'a Arc<ConsumerState>,
    shutdown: CancellationToken,
    tasks: JoinSet<(PartitionId, Result<(), Error>)>,
    held: HashMap<PartitionId, watch::Sender<Order>>,
    failed: Option<Error>,
}

impl<'a> Assignments<'a> {
    pub(crate) fn new(state: &'a Arc<ConsumerState>, shutdown: CancellationToken) -> Self {
        Self { state, shutdown, tasks: JoinSet::new(), held: HashMap::new(), failed: None }
    }

    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let log = self.state.components.log.clone();
        let mut pauses = self.state.retry_pauses();
        let mut not_before = Instant::now();
        let mut tell = tokio::time::interval(PUBLISH_PERIOD);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.shutdown.is_cancelled() {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {}
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                _ = tell.tick() => self.state.publish(),
                assignment = async {
                    tokio::time::sleep_until(not_before).await;
                    log.assignment().await
                } => match assignment {
                    Ok(assignment) => {
                        pauses.reset();
                        self.assigned(assignment);
                    }
                    Err(LogError::Unavailable(reason)) => {
                        self.state.metrics.retries.with_label_values(&["log"]).inc();
                        tracing::warn!(reason, "cannot ask for the assigned partitions; trying again");
                        not_before = Instant::now() + pauses.next();
                    }
                    Err(error) => self.fail(Error::Assignment(error)),
                },
            }
        }
        self.leave(tell).await;
        self.failed.map_or(Ok(()), Err)
    }

    /// Leaves the group and waits until everything is handed over or published. Serving goes on meanwhile.
    async fn leave(&mut self, mut tell: Interval) {
        let since = Instant::now();
        if let Some(control) = &self.state.components.control {
            control.update(|state| state.leaving = true);
        }
        for orders in self.held.values() {
            orders.send_replace(Order::Leave { since });
        }
        let log = self.state.components.log.clone();
        let left = async {
            match tokio::time::timeout(LEAVE_MAX, log.leave()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot leave the group; other processes take over after the session timeout")
                }
                Err(_) => tracing::warn!(
                    "leaving the group takes too long; other processes take over after the session timeout"
                ),
            }
        };
        let drained = async {
            loop {
                tokio::select! {
                    biased;
                    ended = self.tasks.join_next() => match ended {
                        Some(ended) => self.ended(ended),
                        None => return,
                    },
                    _ = tell.tick() => self.state.publish(),
                }
            }
        };
        tokio::join!(left, drained);
    }

    fn assigned(&mut self, assignment: Assignment) {
        tracing::info!(?assignment, "assignment changed");
        let since = Instant::now();
        match assignment {
            Assignment::Assigned(partitions) => {
                for partition in partitions {
                    match self.held.get(&partition) {
                        Some(orders) => {
                            orders.send_if_modified(|order| {
                                let is_back = !order.is_own();
                                if is_back {
                                    *order = Order::Own { since };
                                }
                                is_back
                            });
                        }
                        None => self.start(partition),
                    }
                }
            }
            Assignment::Revoked(partitions) => {
                for orders in partitions.iter().filter_map(|partition| self.held.get(partition)) {
                    orders.send_if_modified(|order| {
                        let goes = order.is_own();
                        if goes {
                            *order = Order::Release { since };
                        }
                        goes
                    });
                }
            }
        }
        let owned = self.held.iter().filter(|(_, orders)| orders.borrow().is_own());
        self.state.assigned.send_replace(Some(owned.map(|(partition, _)| *partition).collect()));
    }

    fn start(&mut self, partition: PartitionId) {
        let (orders, receiver) = watch::channel(Order::Own { since: Instant::now() });
        self.held.insert(partition, orders);
        let state = self.state.clone();
        self.tasks.spawn(async move { (partition, own(state, partition, Orders::new(receiver)).await) });
    }

    fn ended(&mut self, ended: Result<(PartitionId, Result<(), Error>), JoinError>) {
        match ended {
            Ok((partition, Ok(()))) => {
                // It may have been assigned again while its task ended.
                let is_back = self.held.remove(&partition).is_some_and(|orders| orders.borrow().is_own());
                if is_back && !self.shutdown.is_cancelled() {
                    self.start(partition);
                }
            }
            Ok((partition, Err(error))) => {
                self.held.remove(&partition);
                self.fail(error);
            }
            Err(panic) => self.fail(Error::Panicked(panic.to_string())),
        }
    }

    /// Keeps the first failure and shuts down the other partitions.
    fn fail(&mut self, error: Error) {
        tracing::error!(%error, "the consumer fails; draining the other partitions");
        self.failed.get_or_insert(error);
        self.shutdown.cancel();
    }
}
