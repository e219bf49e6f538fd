//! The state that the writer's thread and the readers of a log share.

use std::sync::Arc;

use model::Random;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::folder::FolderLock;
use super::state::DurableState;
use crate::{LogError, LogId};

/// The open journal.
pub(super) struct Journal {
    pub(super) id: LogId,
    pub(super) state: Mutex<DurableState>,
    /// Notified when the partition of this number gets records.
    pub(super) arrivals: Vec<Notify>,
    /// Bytes of appends that may be queued. Closed when the log stops.
    pub(super) permits: Arc<Semaphore>,
    /// Supplies the salts of new segments.
    pub(super) random: Arc<dyn Random>,
    /// Held until the log is closed or dropped.
    pub(super) lock: Mutex<Option<FolderLock>>,
}

impl Journal {
    /// Fails all appends and all waits from now on.
    pub(super) fn stop(&self, reason: &str) {
        self.state.lock().stopped.get_or_insert_with(|| reason.to_owned());
        self.permits.close();
        for arrival in &self.arrivals {
            arrival.notify_waiters();
        }
    }

    /// The error of operations on a stopped log.
    pub(super) fn stopped(&self) -> LogError {
        LogError::Stopped(self.state.lock().stopped.clone().unwrap_or_else(|| "it was closed".to_owned()))
    }
}
