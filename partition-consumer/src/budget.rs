//! How much memory segments take, over all partitions, and when there is room for more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The memory of all segments. A segment is charged until its last reader lets go of it.
#[derive(Debug)]
pub(crate) struct Budget {
    cap: usize,
    pressure: usize,
    held: AtomicUsize,
    /// Bytes of segments that fill and can be cut here, and how many such segments there are.
    cuttable: AtomicUsize,
    cuttable_segments: AtomicUsize,
    released: Notify,
}

/// What one segment takes. Gives it back when dropped.
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

    /// True when more may be fetched. What is fetched then may pass the cap by one fetch of each partition.
    pub(crate) fn has_room(&self) -> bool {
        self.held() < self.cap
    }

    /// True when memory is short: cut early, keep nothing that is in blocks.
    pub(crate) fn is_short(&self) -> bool {
        self.held() >= self.pressure
    }

    /// True when a filling segment of so many bytes is at least as large as the mean of those that fill and can be cut:
    /// of several partitions the largest ones are cut, so that blocks do not become small. What is only read along is
    /// not counted: however large, no cut of it would come.
    pub(crate) fn is_large(&self, bytes: usize) -> bool {
        let segments = self.cuttable_segments.load(Ordering::Relaxed).max(1);
        bytes > 0 && bytes >= self.cuttable.load(Ordering::Relaxed) / segments
    }

    /// Waits for memory to be given back.
    pub(crate) async fn released(&self) {
        self.released.notified().await;
    }

    /// The account of a new segment that fills. `is_cuttable`: its partition is led here.
    pub(crate) fn open(self: &Arc<Self>, is_cuttable: bool) -> Charge {
        let charge = Charge { budget: self.clone(), bytes: AtomicUsize::new(0), is_cuttable: false.into() };
        charge.set_cuttable(is_cuttable);
        charge
    }
}

impl Charge {
    /// Only the one who fills the segment calls this, and [`Charge::set_cuttable`].
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        if self.is_cuttable.load(Ordering::Relaxed) {
            self.budget.cuttable.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Whether the segment fills and its partition is led here; it is not cuttable when it does not fill any more. Its
    /// memory stays charged.
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
    fn accounts_add_up() {
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
    fn what_is_read_along_makes_nothing_look_small() {
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
