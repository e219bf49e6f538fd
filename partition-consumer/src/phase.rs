//! The life of one partition in one process: phases that follow one another over one memory.
//!
//! ```text
//!                    nobody leads, caught up, memory short, too long
//!  assigned ─▶ Warming ───────────────────────────────────────▶ Leading ──▶ what is left is cut: End
//!                 ▲  ▲                                          │    │      (alone, or nobody took it in time)
//!                 │  └─ retention overtook it: lead again ──────┘    │ fenced
//!                 │                                                  ▼
//!                 └─ assigned again, or the other one is gone ── Draining ──▶ another one answers: End
//!
//!  assigned, mode `follow` ─▶ Following ─▶ End
//! ```
//!
//! All phases use the same memory. It is contiguous from some offset at or below a head's F up to W, and only rows below
//! an F that this process read or wrote are evicted. So a partition that is assigned again need not be read again, and an
//! old owner answers readers until the new one holds as much.
//!
//! Revoking a partition does not end its lead: the old owner goes on cutting until another process takes the head, and
//! publishes its role as `Draining` meanwhile. Two processes that believe they lead do no harm, since only one of them can
//! change the head. A partition without a leader would pile up in the log.

mod draining;
mod following;
mod leading;
mod next;
mod warming;

use std::sync::Arc;
use std::time::Duration;

use cut::Flushed;
use model::{Offset, PartitionId};

use crate::Error;
use crate::config::Mode;
use crate::intake::Intake;
use crate::order::Orders;
use crate::state::ConsumerState;
use next::NextPhase;

/// Holds a partition until an order releases it and it can be released.
///
/// Dropping the future drops everything at once, as a crash does. The next owner reads the unpublished rows again.
///
/// # Errors
/// The first error that another try cannot cure.
pub(crate) async fn own(state: Arc<ConsumerState>, partition: PartitionId, mut orders: Orders) -> Result<(), Error> {
    while orders.now().is_own() {
        let Some((head, log_end)) = look(&state, partition, &mut orders).await? else { return Ok(()) };
        let mut intake = Intake::new(&state, partition, head, log_end);
        let mut next = match state.config.mode {
            Mode::Lead => NextPhase::Warm { take_now: false },
            Mode::Follow => NextPhase::Follow,
        };
        loop {
            next = match next {
                NextPhase::Warm { take_now } => warming::warm(&mut intake, &mut orders, take_now).await?,
                NextPhase::Lead(lead) => leading::lead(&mut intake, &mut orders, lead).await?,
                NextPhase::Drain { epoch } => draining::drain(&mut intake, &mut orders, epoch).await?,
                NextPhase::Follow => following::follow(&mut intake, &mut orders).await?,
                NextPhase::Pause => break,
                NextPhase::End => return Ok(()),
            };
        }
        drop(intake);
        pause(&mut orders, state.config.fenced_pause.get()).await;
    }
    Ok(())
}

/// Reads the head and the log's end, and waits while store or log are unavailable. `None` if the partition is revoked
/// first.
async fn look(
    state: &ConsumerState,
    partition: PartitionId,
    orders: &mut Orders,
) -> Result<Option<(Flushed, Offset)>, Error> {
    let mut pauses = state.retry_pauses();
    while orders.now().is_own() {
        let found = tokio::select! {
            biased;
            () = orders.changed() => continue,
            found = async {
                // The head first: everything it lists was in the log before it was written.
                let head = state.components.blocks.flushed_to(partition).await?;
                let held = state.components.log.watermarks(partition).await;
                let held = held.map_err(|source| Error::Log { partition, source })?;
                Ok((head.unwrap_or(Flushed { flushed_to: Offset::ZERO, epoch: 0 }), held.end))
            } => found,
        };
        match found {
            Ok(found) => return Ok(Some(found)),
            Err(error) => state.note_retry(partition, error)?,
        }
        pause(orders, pauses.next()).await;
    }
    Ok(None)
}

/// Waits for a time, or until the order changes.
async fn pause(orders: &mut Orders, time: Duration) {
    tokio::select! {
        biased;
        () = orders.changed() => {}
        () = tokio::time::sleep(time) => {}
    }
}
