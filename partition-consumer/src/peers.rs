//! Reports of other processes about partitions. These are hints: they decide when to wait, and for which process. The head
//! decides who leads.

use std::sync::Arc;

use control::{Control, PartitionRole, PartitionState, ProcessState, Role, View};
use model::{Offset, PartitionId};
use tokio::sync::watch;

/// The other processes. There are none on the log of one machine.
pub(crate) struct Peers(Option<Arc<Control>>);

/// Wakes when the view of the fleet changes.
pub(crate) struct Changes(Option<watch::Receiver<Arc<View>>>);

impl Peers {
    pub(crate) fn new(control: Option<Arc<Control>>) -> Self {
        Self(control)
    }

    /// True when there may be other processes at all.
    pub(crate) fn can_exist(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn changes(&self) -> Changes {
        Changes(self.0.as_ref().map(|control| control.watch()))
    }

    /// True when another process leads with this epoch or a later one. A draining process counts: it leads until
    /// another one takes the head.
    pub(crate) fn is_led(&self, partition: PartitionId, epoch: u64) -> bool {
        let leads = [PartitionRole::Leading, PartitionRole::Draining];
        self.any(partition, |state| leads.contains(&state.role) && state.epoch >= epoch)
    }

    /// As [`Peers::is_led`], by a process that does not drain.
    pub(crate) fn is_led_to_stay(&self, partition: PartitionId, epoch: u64) -> bool {
        self.any(partition, |state| state.role == PartitionRole::Leading && state.epoch >= epoch)
    }

    /// True when another process knows a later epoch.
    pub(crate) fn know_later(&self, partition: PartitionId, epoch: u64) -> bool {
        self.any(partition, |state| state.epoch > epoch)
    }

    /// True when another process leads with a later epoch, and answers for everything below `to`.
    pub(crate) fn have_succeeded(&self, partition: PartitionId, epoch: u64, to: Offset) -> bool {
        self.any(partition, |state| state.role == PartitionRole::Leading && state.epoch > epoch && state.held.end >= to)
    }

    /// True when another process may answer for offsets beyond `end`.
    pub(crate) fn hold_more(&self, partition: PartitionId, end: Offset) -> bool {
        self.any(partition, |state| state.role != PartitionRole::Warming && state.held.end > end)
    }

    /// True when another process could take over partitions of this one.
    pub(crate) fn can_take_over(&self) -> bool {
        self.others(|process| process.roles.contains(&Role::Consumer) && !process.leaving)
    }

    fn any(&self, partition: PartitionId, is: impl Fn(&PartitionState) -> bool) -> bool {
        self.others(|process| process.partition(partition).is_some_and(&is))
    }

    fn others(&self, is: impl Fn(&ProcessState) -> bool) -> bool {
        let Some(control) = &self.0 else { return false };
        control.view().processes().any(|process| process.id != control.id() && is(process))
    }
}

impl Changes {
    /// Waits for a change. Waits for ever if there are no other processes. Cancel-safe.
    pub(crate) async fn next(&mut self) {
        let is_over = match &mut self.0 {
            Some(views) => views.changed().await.is_err(),
            None => true,
        };
        if is_over {
            self.0 = None;
            std::future::pending::<()>().await;
        }
    }
}
