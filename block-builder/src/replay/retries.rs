//! Pauses between the tries of a replay.

use std::{sync::Arc, time::Duration};

use model::Random;
use runtime::Backoff;
use tokio_util::sync::CancellationToken;

use super::Error;

/// The schedule of tries, and the token that ends the pauses.
#[derive(Clone, Debug)]
pub(crate) struct Retries {
    pub(crate) schedule: Backoff,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) stop: CancellationToken,
}

impl Retries {
    /// True when another try may follow this many failures.
    pub(crate) fn allows_another(&self, failures: u32) -> bool {
        self.schedule.allows_another(failures)
    }

    /// Waits after this many failures in a row, counted from 1.
    ///
    /// # Errors
    /// [`Error::Stopped`] when somebody asks to stop.
    pub(crate) async fn pause(&self, failures: u32) -> Result<(), Error> {
        self.pause_at_least(failures, Duration::ZERO).await
    }

    /// As [`Retries::pause`], for at least `least`.
    pub(crate) async fn pause_at_least(&self, failures: u32, least: Duration) -> Result<(), Error> {
        let pause = self.schedule.pause(failures, &*self.random).max(least);
        self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.ok_or(Error::Stopped)
    }
}
