//! Following: reads along, only to answer readers.

use control::PartitionRole;

use super::next::NextPhase;
use crate::Error;
use crate::head_watch::HeadWatch;
use crate::intake::{Intake, IntakeTurn};
use crate::order::Orders;

/// Reads along until the partition is revoked. Rows that heads list are evicted. At the memory cap fetching stops until
/// they list more.
pub(super) async fn follow(intake: &mut Intake<'_>, orders: &mut Orders) -> Result<NextPhase, Error> {
    let mut head = HeadWatch::steady(intake.state, intake.partition);
    while orders.now().is_own() {
        intake.set_lead_status(PartitionRole::Following, false, intake.head_epoch);
        if intake.state.budget.is_short() {
            head.hurry();
        }
        let woken = async {
            tokio::select! {
                biased;
                () = orders.changed() => None,
                found = head.next() => Some(found),
            }
        };
        match intake.turn(woken).await? {
            IntakeTurn::Woken(Some(found)) => intake.note_head(found?),
            // Once the leader has recorded the loss, the next head shows where the log begins.
            IntakeTurn::Overtaken => head.hurry(),
            IntakeTurn::Woken(None) | IntakeTurn::Went => {}
        }
    }
    Ok(NextPhase::End)
}
