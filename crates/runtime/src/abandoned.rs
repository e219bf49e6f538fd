//! Work whose result nobody waits for any more.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Tells running work that its result is no longer wanted. Clones share one flag.
///
/// Whoever waits keeps an [`AbandonOnDrop`]; the work looks at [`Abandoned::is_set`] between its steps.
#[derive(Clone, Debug, Default)]
pub struct Abandoned(Arc<AtomicBool>);

/// Sets the flag of an [`Abandoned`] when it is dropped: the client is gone, time is up, or another part failed.
#[derive(Debug)]
#[must_use = "dropping it abandons the work"]
pub struct AbandonOnDrop(Abandoned);

impl Abandoned {
    /// True once the work may stop where it is. Costs one relaxed load.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the flag for all clones.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Sets the flag when the returned value is dropped.
    pub fn on_drop(&self) -> AbandonOnDrop {
        AbandonOnDrop(self.clone())
    }
}

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_the_guard_abandons() {
        let abandoned = Abandoned::default();
        let guard = abandoned.clone().on_drop();
        assert!(!abandoned.is_set());
        drop(guard);
        assert!(abandoned.is_set());
    }
}
