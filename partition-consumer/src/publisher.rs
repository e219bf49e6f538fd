//! Publishes the cuts of one partition, one after the other, until there are no more.

use std::sync::Arc;

use cut::{Cut, CutError, Lead};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::memory::PartitionMemory;
use crate::order::{Order, Orders};
use crate::state::ConsumerState;

/// One cut on its way.
pub(crate) struct PublishJob {
    pub(crate) cut: Cut,
    /// When its segment ended.
    pub(crate) frozen: Instant,
}

/// Why publishing ended before the cuts did.
#[derive(Debug)]
pub(crate) enum PublishError {
    /// Another process leads the partition.
    Fenced,
    /// The store was not there for too long after shutdown was asked for. The log holds what is left.
    GaveUp,
    /// A cut that can never be published.
    Failed(CutError),
}

/// Runs until the channel closes and all that came through it is published.
pub(crate) async fn publish_all(
    state: Arc<ConsumerState>,
    memory: Arc<PartitionMemory>,
    mut lead: Box<dyn Lead>,
    mut jobs: mpsc::Receiver<PublishJob>,
    mut orders: Orders,
) -> Result<(), PublishError> {
    while let Some(job) = jobs.recv().await {
        publish(&state, &memory, &mut *lead, &job, &mut orders).await?;
    }
    Ok(())
}

async fn publish(
    state: &ConsumerState,
    memory: &PartitionMemory,
    lead: &mut dyn Lead,
    job: &PublishJob,
    orders: &mut Orders,
) -> Result<(), PublishError> {
    let mut pauses = state.retry_pauses();
    loop {
        let error = match lead.publish(&job.cut).await {
            Ok(published) => {
                let now = Instant::now();
                state.metrics.cut_seconds.observe(now.duration_since(job.frozen).as_secs_f64());
                memory.published(published.flushed_to, now);
                memory.evict(state.config.published_grace.into(), state.budget.is_short(), now);
                return Ok(());
            }
            Err(error) => error,
        };
        match error {
            CutError::Unavailable { .. } => {
                state.metrics.retries.with_label_values(&["store"]).inc();
                if ends_since(state, orders.now())
                    .is_some_and(|since| since.elapsed() >= state.config.shutdown_grace.get())
                {
                    tracing::warn!(%error, "giving up at shutdown; the log holds the range, and it is read again at the next start");
                    return Err(PublishError::GaveUp);
                }
                let pause = pauses.next();
                tracing::warn!(%error, ?pause, "cannot publish a cut; trying again");
                tokio::select! {
                    biased;
                    // At shutdown the time that is left is used for another try at once, then every pause.
                    () = orders.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
            CutError::Fenced { .. } => {
                tracing::warn!(%error, "lost the lead of a partition");
                return Err(PublishError::Fenced);
            }
            CutError::LogBehind { .. } | CutError::Failed { .. } => return Err(PublishError::Failed(error)),
        }
    }
}

/// Since when the end of the lead is asked for, if it is.
fn ends_since(state: &ConsumerState, order: Order) -> Option<Instant> {
    match order {
        Order::Leave { since } => Some(since),
        // Where others may be, the lead goes on until one of them takes it.
        Order::Release { since } => (!state.peers.can_exist()).then_some(since),
        Order::Own { .. } => None,
    }
}
