//! The bound on bytes in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::refusal::Refusal;

/// A number of bytes that all requests share.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    used: AtomicUsize,
}

/// What one request holds of the budget. It gives everything back when it is dropped, also when the client went
/// away and the request's future with it.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    held: usize,
}

/// The budget is used up: the client should come back later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

impl From<Exhausted> for Refusal {
    fn from(_: Exhausted) -> Self {
        Self::unavailable()
    }
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, used: AtomicUsize::new(0) })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// A reservation of nothing, to be grown.
    pub(crate) fn reserve(self: &Arc<Self>) -> Reservation {
        Reservation { budget: self.clone(), held: 0 }
    }
}

impl Reservation {
    /// Takes `bytes` more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let bytes_max = self.budget.bytes_max;
        let added = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= bytes_max);
        self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added).map_err(|_| Exhausted)?;
        self.held += bytes;
        Ok(())
    }

    /// Takes as much more as is missing to `bytes`.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.grow(bytes.saturating_sub(self.held))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let budget = Budget::new(100);
        let mut a = budget.reserve();
        assert_eq!((a.grow(60), a.grow_to(70), a.grow_to(50)), (Ok(()), Ok(()), Ok(())));
        let mut b = budget.reserve();
        assert_eq!((b.grow(31), b.grow(30), b.grow(1), budget.used()), (Err(Exhausted), Ok(()), Err(Exhausted), 100));
        assert_eq!(b.grow(usize::MAX), Err(Exhausted));
        drop(a);
        assert_eq!((budget.used(), b.grow(70)), (30, Ok(())));
        drop(b);
        assert_eq!(budget.used(), 0);
    }
}
