//! Draining: holds a partition that another process has taken over, until that process answers for it.

use std::time::Duration;

use control::PartitionRole;
use tokio::time::Instant;

use super::next::NextPhase;
use crate::Error;
use crate::head_watch::HeadWatch;
use crate::intake::{Intake, IntakeTurn};
use crate::order::{Order, Orders};

/// A process that shuts down waits no longer than this for readers to learn of the new owner.
const LEAVE_GRACE: Duration = Duration::from_secs(1);

/// Reads along after this process lost the lead of `epoch`.
pub(super) async fn drain(intake: &mut Intake<'_>, orders: &mut Orders, epoch: u64) -> Result<NextPhase, Error> {
    let (state, partition) = (intake.state, intake.partition);
    let fenced = Instant::now();
    let held_to = intake.consumed();
    // Since when another process leads and holds everything that was held here.
    let mut succeeded: Option<Instant> = None;
    let mut head = HeadWatch::steady(state, partition);
    let mut changes = state.peers.changes();
    intake.head_epoch = intake.head_epoch.max(epoch + 1);
    intake.set_lead_status(PartitionRole::Draining, false, epoch);
    loop {
        succeeded = if state.peers.have_succeeded(partition, epoch, held_to) {
            succeeded.or_else(|| Some(Instant::now()))
        } else {
            None
        };
        if let Some(next) = what_next(intake, orders.now(), fenced, succeeded.map(|since| since.elapsed())) {
            return Ok(next);
        }
        if state.budget.is_short() {
            head.hurry();
        }
        let woken = async {
            tokio::select! {
                biased;
                () = orders.changed() => None,
                found = head.next() => Some(found),
                () = changes.next() => None,
            }
        };
        match intake.turn(woken).await? {
            IntakeTurn::Woken(Some(found)) => intake.note_head(found?),
            IntakeTurn::Overtaken => head.hurry(),
            IntakeTurn::Woken(None) | IntakeTurn::Went => {}
        }
    }
}

fn what_next(intake: &Intake<'_>, order: Order, fenced: Instant, succeeded: Option<Duration>) -> Option<NextPhase> {
    let Intake { state, partition, .. } = *intake;
    let config = &state.config;
    match order {
        // It was assigned again after the lead was lost, so the assignment knows of the new leader.
        Order::Own { since } if since > fenced => Some(NextPhase::Warm { take_now: false }),
        // It was never revoked: either the other process got it by mistake or is gone, or this process was paused and
        // missed the revocation. It waits until that is clear.
        Order::Own { .. } => {
            let is_free = !state.peers.is_led_to_stay(partition, intake.head_epoch);
            (is_free && fenced.elapsed() >= config.fenced_pause.get()).then_some(NextPhase::Warm { take_now: false })
        }
        Order::Release { .. } => {
            let grace = if state.budget.is_short() { Duration::ZERO } else { config.drain_grace.get() };
            let is_over = succeeded.is_some_and(|time| time >= grace) || fenced.elapsed() >= config.handoff_max.get();
            is_over.then_some(NextPhase::End)
        }
        Order::Leave { .. } => {
            let is_over = succeeded.is_some_and(|time| time >= config.drain_grace.get().min(LEAVE_GRACE));
            (is_over || state.is_time_to_leave(order)).then_some(NextPhase::End)
        }
    }
}
