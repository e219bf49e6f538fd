//! How much memory segments take, over all partitions, and when there is room for more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The memory of all segments. A segment is charged until its last reader lets go of it.
#[derive(Debug)]
pub(crate) struct Budget {
    cap: usize,
    pressure: usize,
    held: AtomicUsize,
    /// Bytes of segments that still fill, and how many such segments there are.
    filling: AtomicUsize,
    filling_segments: AtomicUsize,
    released: Notify,
}

/// What one segment takes. Gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: AtomicUsize,
    is_filling: std::sync::atomic::AtomicBool,
}

impl Budget {
    pub(crate) fn new(cap: usize, pressure: usize) -> Arc<Self> {
        Arc::new(Self {
            cap,
            pressure,
            held: AtomicUsize::new(0),
            filling: AtomicUsize::new(0),
            filling_segments: AtomicUsize::new(0),
            released: Notify::new(),
        })
    }

    /// Charged bytes.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn cap(&self) -> usize {
        self.cap
    }

    /// True when more may be fetched. What is fetched then may pass the cap by one fetch of each partition.
    pub(crate) fn has_room(&self) -> bool {
        self.held() < self.cap
    }

    /// True when memory is short: cut early, keep nothing that is in blocks.
    pub(crate) fn is_short(&self) -> bool {
        self.held() >= self.pressure
    }

    /// True when a filling segment of so many bytes is at least as large as the mean of those that fill: of several
    /// partitions the largest ones are cut, so that blocks do not become small.
    pub(crate) fn is_large(&self, bytes: usize) -> bool {
        let segments = self.filling_segments.load(Ordering::Relaxed).max(1);
        bytes > 0 && bytes >= self.filling.load(Ordering::Relaxed) / segments
    }

    /// Waits for memory to be given back.
    pub(crate) async fn released(&self) {
        self.released.notified().await;
    }

    /// The account of a new segment that fills.
    pub(crate) fn open(self: &Arc<Self>) -> Charge {
        self.filling_segments.fetch_add(1, Ordering::Relaxed);
        Charge { budget: self.clone(), bytes: AtomicUsize::new(0), is_filling: true.into() }
    }
}

impl Charge {
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        self.budget.filling.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The segment does not fill any more; its memory stays charged.
    pub(crate) fn freeze(&self) {
        if self.is_filling.swap(false, Ordering::Relaxed) {
            self.budget.filling_segments.fetch_sub(1, Ordering::Relaxed);
            self.budget.filling.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.freeze();
        self.budget.held.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        self.budget.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_add_up() {
        let budget = Budget::new(100, 50);
        let (one, two) = (budget.open(), budget.open());
        one.add(10);
        two.add(40);
        assert!(budget.has_room() && budget.is_short());
        assert!(!budget.is_large(10) && budget.is_large(40));
        two.freeze();
        assert_eq!((budget.held(), budget.is_large(10)), (50, true));
        one.add(50);
        assert!(!budget.has_room());
        drop(two);
        assert!(budget.has_room());
        drop(one);
        assert_eq!((budget.held(), budget.is_short(), budget.is_large(0)), (0, false, false));
    }
}
