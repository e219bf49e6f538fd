//! Looks into the head of a partition that is not led here.

use std::pin::Pin;
use std::time::Duration;

use cut::{CutError, Flushed};
use model::PartitionId;
use tokio::time::Instant;

use crate::Error;
use crate::state::ConsumerState;

/// However much they are wanted, looks do not come more often than so many times the usual.
const HURRY: u32 = 4;

type Asking<'a> = Pin<Box<dyn Future<Output = Result<Option<Flushed>, CutError>> + Send + 'a>>;

/// Asks for the head when it is time, beside whatever else its owner does.
pub(crate) struct HeadWatch<'a> {
    state: &'a ConsumerState,
    partition: PartitionId,
    /// From one look to the next; None looks only when it is told to.
    period: Option<Duration>,
    due: Option<Instant>,
    not_before: Instant,
    asking: Option<Asking<'a>>,
}

impl<'a> HeadWatch<'a> {
    /// Looks now, and then again and again.
    pub(crate) fn steady(state: &'a ConsumerState, partition: PartitionId) -> Self {
        let now = Instant::now();
        let period = Some(state.config.head_poll.get());
        Self { state, partition, period, due: Some(now), not_before: now, asking: None }
    }

    /// Looks when it is [told to](HeadWatch::hurry).
    pub(crate) fn on_hint(state: &'a ConsumerState, partition: PartitionId) -> Self {
        Self { state, partition, period: None, due: None, not_before: Instant::now(), asking: None }
    }

    /// Looks as soon as it may.
    pub(crate) fn hurry(&mut self) {
        if self.asking.is_none() {
            self.due = Some(self.due.map_or(self.not_before, |due| due.min(self.not_before)));
        }
    }

    /// Waits for the next look and what it finds. Cancel-safe: what was begun goes on with the next call.
    ///
    /// # Errors
    /// When the head is of no use. That the store is away is none.
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
                    tracing::debug!(partition = %self.partition, %error, "cannot look into the head; trying again");
                    // A hint that could not be checked is checked again.
                    self.due = Some(now + self.state.config.head_poll.get());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
