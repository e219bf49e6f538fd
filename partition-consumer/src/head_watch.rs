//! Polls the head of a partition that another process may lead.

use std::pin::Pin;
use std::time::Duration;

use cut::{CutError, Flushed};
use model::PartitionId;
use tokio::time::Instant;

use crate::Error;
use crate::state::ConsumerState;

/// Hints may make polls at most this many times as frequent as `head_poll`.
const HURRY: u32 = 4;

type Asking<'a> = Pin<Box<dyn Future<Output = Result<Option<Flushed>, CutError>> + Send + 'a>>;

/// Reads the head when it is due, while its owner does other work.
pub(crate) struct HeadWatch<'a> {
    state: &'a ConsumerState,
    partition: PartitionId,
    /// The time from one poll to the next. `None` polls only after [`HeadWatch::hurry`].
    period: Option<Duration>,
    due: Option<Instant>,
    not_before: Instant,
    asking: Option<Asking<'a>>,
}

impl<'a> HeadWatch<'a> {
    /// Polls now, and then every `head_poll`.
    pub(crate) fn steady(state: &'a ConsumerState, partition: PartitionId) -> Self {
        let now = Instant::now();
        let period = Some(state.config.head_poll.get());
        Self { state, partition, period, due: Some(now), not_before: now, asking: None }
    }

    /// Polls only after a [hint](HeadWatch::hurry).
    pub(crate) fn on_hint(state: &'a ConsumerState, partition: PartitionId) -> Self {
        Self { state, partition, period: None, due: None, not_before: Instant::now(), asking: None }
    }

    /// Polls as soon as the rate limit allows.
    pub(crate) fn hurry(&mut self) {
        if self.asking.is_none() {
            self.due = Some(self.due.map_or(self.not_before, |due| due.min(self.not_before)));
        }
    }

    /// Waits for the next poll and returns the head. Cancel-safe: the next call goes on with a request that has begun.
    ///
    /// # Errors
    /// When the head cannot be used. If the store is unavailable, this keeps trying instead.
    pub(crate) async fn next(&mut self) -> Result<Flushed, Error> {
        loop {
            if self.asking.is_none() {
                match self.due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
                self.asking = Some(self.state.components.blocks.flushed_to(self.partition));
            }
            let answer = match &mut self.asking {
                Some(asking) => asking.await,
                None => continue,
            };
            self.asking = None;
            let now = Instant::now();
            self.due = self.period.map(|period| now + period);
            self.not_before = now + self.state.config.head_poll.get() / HURRY;
            match answer {
                Ok(Some(flushed)) => return Ok(flushed),
                Ok(None) => {}
                Err(error @ CutError::Unavailable { .. }) => {
                    self.state.metrics.retries.with_label_values(&["store"]).inc();
                    tracing::debug!(partition = %self.partition, %error, "cannot read the head; trying again");
                    // The hint is not checked yet, so another poll is due even without a period.
                    self.due = Some(now + self.state.config.head_poll.get());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
