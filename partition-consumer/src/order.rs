//! Orders for the task of one partition.

use tokio::sync::watch;
use tokio::time::Instant;

/// What the task should do with its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Hold it: it is assigned to this process.
    Own {
        /// When it was assigned.
        since: Instant,
    },
    /// Hand it over: it was revoked from this process.
    Release {
        /// When it was revoked.
        since: Instant,
    },
    /// Hand it over or publish it: the process shuts down.
    Leave {
        /// When the shutdown began.
        since: Instant,
    },
}

/// The receiving end of orders.
#[derive(Clone, Debug)]
pub(crate) struct Orders(watch::Receiver<Order>);

impl Orders {
    pub(crate) fn new(receiver: watch::Receiver<Order>) -> Self {
        Self(receiver)
    }

    /// The current order.
    pub(crate) fn now(&self) -> Order {
        *self.0.borrow()
    }

    /// Waits for another order. Cancel-safe. Waits for ever if the sender is gone.
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
