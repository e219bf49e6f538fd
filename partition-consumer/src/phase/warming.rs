//! Warming: reads a partition into memory until this process takes the lead.

use std::pin::Pin;
use std::sync::Arc;

use control::PartitionRole;
use cut::{CutError, Lead};
use model::{OffsetRange, PartitionId};
use tokio::time::Instant;

use super::next::NextPhase;
use crate::Error;
use crate::head_watch::HeadWatch;
use crate::intake::{Intake, IntakeTurn};
use crate::memory::PartitionMemory;
use crate::order::Orders;
use crate::state::ConsumerState;

type Taking<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Lead>, Error>> + Send + 'a>>;

enum Woken {
    Taken(Result<Box<dyn Lead>, Error>),
    Head(Result<cut::Flushed, Error>),
    Look,
}

/// Reads along until it takes the lead. With `take_now` it takes the lead at once.
pub(super) async fn warm(intake: &mut Intake<'_>, orders: &mut Orders, take_now: bool) -> Result<NextPhase, Error> {
    let (state, partition, memory) = (intake.state, intake.partition, intake.memory.clone());
    let began = Instant::now();
    let mut why = take_now.then_some("it was led here");
    let mut short_since = None;
    let mut is_overtaken = false;
    let mut changes = state.peers.changes();
    let mut head = HeadWatch::steady(state, partition);
    // Fetching goes on meanwhile, since the store may be slow.
    let mut taking: Option<Taking<'_>> = None;
    loop {
        if !orders.now().is_own() {
            // A take-over that has begun may still succeed. Then nobody leads in the new epoch, and the process that
            // the partition is assigned to notices that.
            return Ok(NextPhase::End);
        }
        intake.set_lead_status(PartitionRole::Warming, false, intake.head_epoch);
        if state.budget.is_short() {
            short_since.get_or_insert_with(Instant::now);
            head.hurry();
        } else {
            short_since = None;
        }
        why = why.or_else(|| why_take(intake, began, short_since, is_overtaken));
        if let (None, Some(why)) = (&taking, why) {
            tracing::info!(%partition, why, consumed = %intake.consumed(), "taking the lead of a partition");
            taking = Some(Box::pin(take(state, memory.clone())));
        }
        let is_taking = taking.is_some();
        let woken = async {
            tokio::select! {
                biased;
                () = orders.changed() => Woken::Look,
                lead = async { taking.as_mut().expect("the branch is off without").await }, if is_taking => Woken::Taken(lead),
                found = head.next() => Woken::Head(found),
                () = changes.next() => Woken::Look,
            }
        };
        match intake.turn(woken).await? {
            IntakeTurn::Woken(Woken::Taken(lead)) => {
                state.metrics.warm_seconds.observe(began.elapsed().as_secs_f64());
                return Ok(NextPhase::Lead(lead?));
            }
            IntakeTurn::Woken(Woken::Head(found)) => {
                let found = found?;
                is_overtaken &= found.flushed_to <= intake.consumed();
                intake.note_head(found);
            }
            IntakeTurn::Overtaken => {
                is_overtaken = true;
                head.hurry();
            }
            IntakeTurn::Woken(Woken::Look) | IntakeTurn::Went => {}
        }
    }
}

/// The reason to take the lead now, if there is one.
fn why_take(
    intake: &Intake<'_>,
    began: Instant,
    short_since: Option<Instant>,
    is_overtaken: bool,
) -> Option<&'static str> {
    let Intake { state, partition, .. } = *intake;
    let config = &state.config;
    if !state.peers.is_led(partition, intake.head_epoch) {
        return Some("no other process leads it");
    }
    // Retention removed the next record. The leader may still hold it and make blocks of it, so it is not lost yet: the
    // leader's head shows where to go on.
    if is_overtaken {
        return None;
    }
    if intake.memory.is_serving() {
        return Some("all is read");
    }
    // Fetching has stopped. The next head may allow enough to be evicted; if not, only own cuts free memory.
    if short_since.is_some_and(|since| since.elapsed() >= config.head_poll.get()) {
        return Some("memory is short");
    }
    (began.elapsed() >= config.warm_max.get()).then_some("reading takes too long")
}

/// Takes the lead, and keeps trying while the store is unavailable.
async fn take(state: &ConsumerState, memory: Arc<PartitionMemory>) -> Result<Box<dyn Lead>, Error> {
    let partition = memory.partition();
    let mut pauses = state.retry_pauses();
    loop {
        let error = match try_take(state, &memory).await {
            Ok(lead) => return Ok(lead),
            // The flushed rows may have been appended after the log was asked.
            Err(error @ Error::Cut(CutError::LogBehind { .. })) => match is_log_behind(state, partition).await {
                Ok(true) => return Err(error),
                Ok(false) => continue,
                Err(error) => error,
            },
            Err(error) => error,
        };
        state.note_retry(partition, error)?;
        tokio::time::sleep(pauses.next()).await;
    }
}

/// True when the log ends below the flushed-to offset: it was truncated or created again.
async fn is_log_behind(state: &ConsumerState, partition: PartitionId) -> Result<bool, Error> {
    let components = &state.components;
    // The head first: everything it lists was in the log before it was written.
    let head = components.blocks.flushed_to(partition).await?;
    let log = components.log.watermarks(partition).await.map_err(|source| Error::Log { partition, source })?;
    Ok(head.is_some_and(|head| log.end < head.flushed_to))
}

async fn try_take(state: &ConsumerState, memory: &PartitionMemory) -> Result<Box<dyn Lead>, Error> {
    let partition = memory.partition();
    let log = state.components.log.watermarks(partition).await.map_err(|source| Error::Log { partition, source })?;
    // Rows in memory are not lost, even if the log no longer holds them.
    let held = memory.held();
    let first = if memory.flushed() < held.end { held.start.min(log.first) } else { log.first };
    Ok(state.components.blocks.acquire(partition, OffsetRange::new(first, log.end)).await?)
}
