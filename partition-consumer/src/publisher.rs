//! Publishes the cuts of one partition, one after the other.

use std::sync::Arc;

use cut::{Cut, CutError, Lead};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::memory::PartitionMemory;
use crate::order::{Order, Orders};
use crate::state::ConsumerState;

/// A cut to publish.
pub(crate) struct PublishJob {
    pub(crate) cut: Cut,
    /// When its segment ended.
    pub(crate) frozen: Instant,
}

/// Why publishing ended before all cuts were published.
#[derive(Debug)]
pub(crate) enum PublishError {
    /// Another process leads the partition now.
    Fenced,
    /// The store was unavailable for too long during shutdown. The log holds the rest.
    GaveUp,
    /// The cut can never be published.
    Failed(CutError),
}

/// Runs until the channel is closed and all its cuts are published.
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
                    // Shutdown cuts the pause short: the remaining time is for more tries.
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

/// When the order came that ends the lead; `None` if the lead should go on.
fn ends_since(state: &ConsumerState, order: Order) -> Option<Instant> {
    match order {
        Order::Leave { since } => Some(since),
        // If there are other processes, the lead goes on until one of them takes it.
        Order::Release { since } => (!state.peers.can_exist()).then_some(since),
        Order::Own { .. } => None,
    }
}
