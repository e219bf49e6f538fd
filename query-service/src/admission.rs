//! Who may run now: a bounded queue of queries, and permits for work on processors.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use model::TenantId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Lets queries in, first come, first served, and bounds how many of a tenant wait.
#[derive(Debug)]
pub(crate) struct Admission {
    running: Arc<Semaphore>,
    outstanding_max: usize,
    outstanding: Arc<Mutex<HashMap<TenantId, usize>>>,
}

/// A query that may run. Dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// How long it had to wait.
    pub(crate) waited: Duration,
    _running: OwnedSemaphorePermit,
    _slot: Slot,
}

#[derive(Debug)]
struct Slot {
    tenant: TenantId,
    outstanding: Arc<Mutex<HashMap<TenantId, usize>>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut outstanding = self.outstanding.lock();
        if let Some(count) = outstanding.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                outstanding.remove(&self.tenant);
            }
        }
    }
}

impl Admission {
    /// At most `running` queries at one time, at most `outstanding_max` of one tenant running or waiting.
    pub(crate) fn new(running: usize, outstanding_max: usize) -> Self {
        Self { running: Arc::new(Semaphore::new(running)), outstanding_max, outstanding: Arc::default() }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// At once when too many of the tenant's queries wait already.
    pub(crate) async fn admit(&self, tenant: &TenantId) -> Result<Admitted, Error> {
        let slot = self.slot(tenant)?;
        let since = Instant::now();
        let running = self.running.clone().acquire_owned().await.map_err(|_| Error::Cancelled)?;
        Ok(Admitted { waited: since.elapsed(), _running: running, _slot: slot })
    }

    fn slot(&self, tenant: &TenantId) -> Result<Slot, Error> {
        let mut outstanding = self.outstanding.lock();
        let count = outstanding.entry(tenant.clone()).or_default();
        if *count >= self.outstanding_max {
            return Err(Error::TooManyOutstanding);
        }
        *count += 1;
        Ok(Slot { tenant: tenant.clone(), outstanding: self.outstanding.clone() })
    }
}

/// Runs work on processors, off the async threads, at most so many pieces at one time, in the order they came.
#[derive(Clone, Debug)]
pub(crate) struct Processors(Arc<Semaphore>);

impl Processors {
    /// At most `permits` pieces at one time.
    pub(crate) fn new(permits: usize) -> Self {
        Self(Arc::new(Semaphore::new(permits)))
    }

    /// Runs one piece of work. When nobody waits for it any more it runs to its end, or to where it looks at
    /// its [`Abandoned`] flag.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let permit = self.0.clone().acquire_owned().await.map_err(|_| Error::Cancelled)?;
        let task = tokio::task::spawn_blocking(move || {
            let _held_while_working = permit;
            work()
        });
        task.await.map_err(|e| Error::Internal(format!("a piece of work was lost: {e}")))
    }
}

/// Tells work on processors that nobody waits for it any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abandoned(CancellationToken);

impl Abandoned {
    /// True when the work may stop where it is.
    pub(crate) fn is_set(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Sets the flag when the answer is dropped: the client is gone, time is up, or another part failed.
    pub(crate) fn on_drop(&self) -> impl Drop + use<> {
        self.0.clone().drop_guard()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tenant_may_only_wait_so_often() {
        let admission = Admission::new(1, 2);
        let tenant = |name: &str| TenantId::new(name).expect("a valid name");
        let first = admission.admit(&tenant("a")).await.expect("the first runs");
        let (a, b) = (tenant("a"), tenant("b"));
        let mut second = Box::pin(admission.admit(&a));
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(matches!(admission.admit(&tenant("a")).await, Err(Error::TooManyOutstanding)));
        let mut other = Box::pin(admission.admit(&b));
        assert!(futures_util::poll!(&mut other).is_pending(), "another tenant may wait");
        drop(first);
        let second = second.await.expect("the second runs when the first is done");
        drop(second);
        drop(other);
        assert!(admission.outstanding.lock().is_empty());
    }
}
