//! The memory that the segments of all partitions take, and when there is room for more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The memory of all segments. A segment is charged until its last reader drops it.
#[derive(Debug)]
pub(crate) struct Budget {
    cap: usize,
    pressure: usize,
    held: AtomicUsize,
    /// Bytes and number of the filling segments whose partition is led here, so that they can be cut.
    cuttable: AtomicUsize,
    cuttable_segments: AtomicUsize,
    released: Notify,
}

/// The memory of one segment. Dropping it releases the memory.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: AtomicUsize,
    is_cuttable: AtomicBool,
}

impl Budget {
    pub(crate) fn new(cap: usize, pressure: usize) -> Arc<Self> {
        Arc::new(Self {
            cap,
            pressure,
            held: AtomicUsize::new(0),
            cuttable: AtomicUsize::new(0),
            cuttable_segments: AtomicUsize::new(0),
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

    /// True when more may be fetched. Memory may exceed the cap by one fetch per partition.
    pub(crate) fn has_room(&self) -> bool {
        self.held() < self.cap
    }

    /// True when memory is short: segments are cut early, and rows that are in blocks are evicted.
    pub(crate) fn is_short(&self) -> bool {
        self.held() >= self.pressure
    }

    /// True when a filling segment of this size is at least as large as the mean of all filling segments that can be
    /// cut. When memory is short, only the large ones are cut, so that blocks do not become small. Partitions that another
    /// process leads do not count: this process cannot cut them.
    pub(crate) fn is_large(&self, bytes: usize) -> bool {
        let segments = self.cuttable_segments.load(Ordering::Relaxed).max(1);
        bytes > 0 && bytes >= self.cuttable.load(Ordering::Relaxed) / segments
    }

    /// Waits until memory is released.
    pub(crate) async fn released(&self) {
        self.released.notified().await;
    }

    /// The charge of a new, empty segment. `is_cuttable`: its partition is led here.
    pub(crate) fn open(self: &Arc<Self>, is_cuttable: bool) -> Charge {
        let charge = Charge { budget: self.clone(), bytes: AtomicUsize::new(0), is_cuttable: false.into() };
        charge.set_cuttable(is_cuttable);
        charge
    }
}

impl Charge {
    /// Only the writer of the segment calls this and [`Charge::set_cuttable`].
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        if self.is_cuttable.load(Ordering::Relaxed) {
            self.budget.cuttable.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Sets whether the segment still fills and its partition is led here. Its memory stays charged either way.
    pub(crate) fn set_cuttable(&self, is_cuttable: bool) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        match (self.is_cuttable.swap(is_cuttable, Ordering::Relaxed), is_cuttable) {
            (false, true) => {
                self.budget.cuttable_segments.fetch_add(1, Ordering::Relaxed);
                self.budget.cuttable.fetch_add(bytes, Ordering::Relaxed);
            }
            (true, false) => {
                self.budget.cuttable_segments.fetch_sub(1, Ordering::Relaxed);
                self.budget.cuttable.fetch_sub(bytes, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set_cuttable(false);
        self.budget.held.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        self.budget.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_add_up() {
        let budget = Budget::new(100, 50);
        let (one, two) = (budget.open(true), budget.open(true));
        one.add(10);
        two.add(40);
        assert!(budget.has_room() && budget.is_short());
        assert!(!budget.is_large(10) && budget.is_large(40));
        two.set_cuttable(false);
        assert_eq!((budget.held(), budget.is_large(10)), (50, true));
        one.add(50);
        assert!(!budget.has_room());
        drop(two);
        assert!(budget.has_room());
        drop(one);
        assert_eq!((budget.held(), budget.is_short(), budget.is_large(0)), (0, false, false));
    }

    #[test]
    fn partitions_led_elsewhere_do_not_count_for_the_mean() {
        let budget = Budget::new(100, 50);
        let (led, followed) = (budget.open(true), budget.open(false));
        led.add(5);
        followed.add(80);
        assert!(budget.is_large(5));
        followed.set_cuttable(true);
        assert!(!budget.is_large(5));
        followed.set_cuttable(false);
        assert!(budget.is_large(5) && budget.is_short());
    }
}
