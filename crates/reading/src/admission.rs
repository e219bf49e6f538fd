//! Which requests may run now: a bounded queue.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use model::TenantId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;

/// Admits requests in the order they come, and bounds how many of each tenant may wait.
#[derive(Debug)]
pub struct Admission {
    running: Arc<Semaphore>,
    outstanding_max: usize,
    outstanding: Arc<Mutex<HashMap<TenantId, usize>>>,
}

/// A request that may run. Dropping it admits the next one.
#[derive(Debug)]
pub struct Admitted {
    /// How long it waited.
    pub waited: Duration,
    _running: OwnedSemaphorePermit,
    _place: TenantPlace,
}

/// One of the requests of a tenant that run or wait.
#[derive(Debug)]
struct TenantPlace {
    tenant: TenantId,
    outstanding: Arc<Mutex<HashMap<TenantId, usize>>>,
}

impl Drop for TenantPlace {
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
    /// Admits at most `running` requests at a time, and lets at most `outstanding_max` of each tenant run or wait.
    pub fn new(running: usize, outstanding_max: usize) -> Self {
        Self { running: Arc::new(Semaphore::new(running)), outstanding_max, outstanding: Arc::default() }
    }

    /// Waits until the request may run.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::TooManyOutstanding`] if too many requests of the tenant run or wait already; without waiting.
    pub async fn admit(&self, tenant: &TenantId) -> Result<Admitted, Error> {
        let place = self.place(tenant)?;
        let since = Instant::now();
        let running = self.running.clone().acquire_owned().await.expect("the semaphore is never closed");
        Ok(Admitted { waited: since.elapsed(), _running: running, _place: place })
    }

    fn place(&self, tenant: &TenantId) -> Result<TenantPlace, Error> {
        let mut outstanding = self.outstanding.lock();
        let count = outstanding.entry(tenant.clone()).or_default();
        if *count >= self.outstanding_max {
            return Err(Error::TooManyOutstanding);
        }
        *count += 1;
        Ok(TenantPlace { tenant: tenant.clone(), outstanding: self.outstanding.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_of_a_tenant_are_bounded() {
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
        let second = second.await.expect("the second runs when the first has ended");
        drop(second);
        drop(other);
        assert!(admission.outstanding.lock().is_empty());
    }
}
