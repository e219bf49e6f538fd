//! What is asked of the task of one partition.

use tokio::sync::watch;
use tokio::time::Instant;

/// What should become of a partition here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// It is assigned to this process.
    Own {
        /// Since when.
        since: Instant,
    },
    /// It was taken away from this process.
    Release {
        /// When.
        since: Instant,
    },
    /// The process ends.
    Leave {
        /// When that was asked for.
        since: Instant,
    },
}

/// Where a task reads its orders.
#[derive(Clone, Debug)]
pub(crate) struct Orders(watch::Receiver<Order>);

impl Orders {
    pub(crate) fn new(receiver: watch::Receiver<Order>) -> Self {
        Self(receiver)
    }

    /// What is asked now.
    pub(crate) fn now(&self) -> Order {
        *self.0.borrow()
    }

    /// Waits for another order. Cancel-safe. Whoever gives orders outlives the task; if not, this waits for ever.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Order {
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, Self::Own { .. })
    }
}
