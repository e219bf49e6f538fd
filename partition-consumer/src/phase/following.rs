//! Reading along, for readers only.

use control::PartitionRole;

use super::Next;
use crate::Error;
use crate::head_watch::HeadWatch;
use crate::intake::{Intake, Turn};
use crate::order::Orders;

/// Reads along until the partition is assigned to this process no longer. What heads list goes; at the cap fetching
/// stops until they list more.
pub(super) async fn follow(intake: &mut Intake<'_>, orders: &mut Orders) -> Result<Next, Error> {
    let mut head = HeadWatch::steady(intake.shared, intake.partition);
    while orders.now().is_own() {
        intake.stand(PartitionRole::Following, false, intake.head_epoch);
        if intake.shared.budget.is_short() {
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
            Turn::Woken(Some(found)) => intake.note_head(found?),
            // The next head shows where the log begins, once its leader has recorded what is lost.
            Turn::Overtaken => head.hurry(),
            Turn::Woken(None) | Turn::Went => {}
        }
    }
    Ok(Next::End)
}
