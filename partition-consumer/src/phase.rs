//! What one process does with one partition: phases that follow one another, over one memory.
//!
//! ```text
//!                    nobody leads, caught up, memory short, too long
//!  assigned ─▶ Warming ───────────────────────────────────────▶ Leading ──▶ what is left is cut: End
//!                 ▲  ▲                                          │    │      (alone, or nobody took it in time)
//!                 │  └─ retention overtook it: lead anew ───────┘    │ fenced
//!                 │                                                  ▼
//!                 └─ assigned again, or the other one is gone ── Draining ──▶ another one answers: End
//!
//!  assigned, mode `follow` ─▶ Following ─▶ End
//! ```
//!
//! The memory goes on through all of them: it is contiguous from some offset at or below a head's F up to W, and only
//! what lies below an F that this process read or wrote is let go. So a partition that comes back is not read anew, and
//! what an old owner holds answers readers until the new one holds as much.
//!
//! Taking a partition away does not end a lead: the old owner cuts on until its head is taken (`Draining` is what it
//! tells others meanwhile). Two that believe to lead are no danger, since only one of them can change the head; nobody who
//! leads would be one: the partition would wait in the log.

mod draining;
mod following;
mod leading;
mod warming;

use std::sync::Arc;
use std::time::Duration;

use cut::{CutError, Flushed, Lead};
use log_bus::LogError;
use model::{Offset, PartitionId};

use crate::Error;
use crate::config::{Backoff, Mode};
use crate::consumer::Shared;
use crate::intake::Intake;
use crate::order::{Order, Orders};

/// What comes next.
enum Next {
    /// Read until the lead may be taken; at once when `take_now`.
    Warm { take_now: bool },
    /// Lead.
    Lead(Box<dyn Lead>),
    /// Another process took the lead away from the one of this epoch.
    Drain { epoch: u64 },
    /// Another process took the lead, and nothing is known of it: let go of everything, and take it back after a pause.
    Pause,
    /// Never lead.
    Follow,
    /// The partition is not held here any more.
    End,
}

/// Holds a partition until it is ordered to let it go, and may.
///
/// Dropping the future drops everything at once, as a crash does; what was not published is read again.
///
/// # Errors
/// What failed for good.
pub(crate) async fn own(shared: Arc<Shared>, partition: PartitionId, mut orders: Orders) -> Result<(), Error> {
    while orders.now().is_own() {
        let Some((head, log_end)) = look(&shared, partition, &mut orders).await? else { return Ok(()) };
        let mut intake = Intake::new(&shared, partition, head, log_end);
        let mut next = match shared.config.mode {
            Mode::Lead => Next::Warm { take_now: false },
            Mode::Follow => Next::Follow,
        };
        loop {
            next = match next {
                Next::Warm { take_now } => warming::warm(&mut intake, &mut orders, take_now).await?,
                Next::Lead(lead) => leading::lead(&mut intake, &mut orders, lead).await?,
                Next::Drain { epoch } => draining::drain(&mut intake, &mut orders, epoch).await?,
                Next::Follow => following::follow(&mut intake, &mut orders).await?,
                Next::Pause => break,
                Next::End => return Ok(()),
            };
        }
        drop(intake);
        pause(&mut orders, shared.config.fenced_pause.get()).await;
    }
    Ok(())
}

/// The head and the log's end, however long store and log are away; `None` when the partition goes away first.
async fn look(
    shared: &Shared,
    partition: PartitionId,
    orders: &mut Orders,
) -> Result<Option<(Flushed, Offset)>, Error> {
    let mut backoff = Backoff::new(&shared.config);
    while orders.now().is_own() {
        let found = tokio::select! {
            biased;
            () = orders.changed() => continue,
            found = async {
                // The head first: what it says was in the log before.
                let head = shared.components.blocks.flushed_to(partition).await?;
                let held = shared.components.log.watermarks(partition).await;
                let held = held.map_err(|source| Error::Log { partition, source })?;
                Ok((head.unwrap_or(Flushed { flushed_to: Offset::ZERO, epoch: 0 }), held.end))
            } => found,
        };
        match found {
            Ok(found) => return Ok(Some(found)),
            Err(error) => passes(shared, partition, error)?,
        }
        pause(orders, backoff.pause()).await;
    }
    Ok(None)
}

/// Takes note of an error that may pass; any other is handed back.
fn passes(shared: &Shared, partition: PartitionId, error: Error) -> Result<(), Error> {
    let from = match &error {
        Error::Cut(CutError::Unavailable { .. } | CutError::Fenced { .. }) => "store",
        Error::Log { source: LogError::Unavailable(_), .. } => "log",
        _ => return Err(error),
    };
    shared.metrics.retries.with_label_values(&[from]).inc();
    tracing::warn!(%partition, %error, "cannot take a partition; trying again");
    Ok(())
}

/// Waits, or until there is another order.
async fn pause(orders: &mut Orders, time: Duration) {
    tokio::select! {
        biased;
        () = orders.changed() => {}
        () = tokio::time::sleep(time) => {}
    }
}

/// True when the process ends and need not wait for others: none could take over, or they had their time.
fn is_time_to_go(shared: &Shared, order: Order) -> bool {
    match order {
        Order::Leave { since } => {
            !shared.peers.can_take_over() || since.elapsed() >= shared.config.handoff_max_at_shutdown.get()
        }
        Order::Own { .. } | Order::Release { .. } => false,
    }
}
