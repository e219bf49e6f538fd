//! How many partitions are in use while the log grows.
//!
//! A record in a partition that readers have not heard of would be missing from their answers. So a new partition
//! is used only when it has been known for a while, in which consumers and query services look too, and when none of
//! those that are on the control topic still tells of fewer.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use control::{Role, View};
use parking_lot::Mutex;

/// A reader that still tells of fewer partitions holds new ones back for this many times the delay, not for ever.
const HELD_BACK_MAX: u32 = 6;

/// The partitions `0..in_use()` may be written to.
#[derive(Debug)]
pub(crate) struct Partitions {
    in_use: AtomicU32,
    delay: Duration,
    /// Counts that are not in use yet, and when they were first seen; both rise.
    coming: Mutex<Vec<(u32, Instant)>>,
}

impl Partitions {
    /// All that the log has at the start are in use.
    pub(crate) fn new(count: u32, delay: Duration) -> Self {
        Self { in_use: AtomicU32::new(count.max(1)), delay, coming: Mutex::default() }
    }

    /// How many are in use. Never falls.
    pub(crate) fn in_use(&self) -> u32 {
        self.in_use.load(Ordering::Relaxed)
    }

    /// The log has `count` now, and readers tell that they know `known_to_readers`. Tells what is newly in use.
    pub(crate) fn observe(&self, count: u32, known_to_readers: Option<u32>, now: Instant) -> Option<u32> {
        let mut coming = self.coming.lock();
        if count > coming.last().map_or(self.in_use(), |(last, _)| *last) {
            coming.push((count, now));
        }
        let is_ripe = |(count, seen): &(u32, Instant)| {
            let age = now.saturating_duration_since(*seen);
            let is_known = known_to_readers.is_none_or(|known| known >= *count);
            age >= self.delay && (is_known || age >= self.delay.saturating_mul(HELD_BACK_MAX))
        };
        let ripe = coming.iter().take_while(|c| is_ripe(c)).count();
        let (count, _) = coming.drain(..ripe).next_back()?;
        self.in_use.store(count, Ordering::Relaxed);
        Some(count)
    }
}

/// The fewest partitions that any reader tells to know; `None` when there is no reader.
pub(crate) fn known_to_readers(view: &View) -> Option<u32> {
    let is_reader = |role: &Role| matches!(role, Role::Consumer | Role::Follower | Role::QueryService);
    let readers = view.processes().filter(|process| !process.leaving && process.roles.iter().any(is_reader));
    readers.map(|process| process.partition_count).filter(|count| *count > 0).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_partitions_ripen() {
        let (start, partitions) = (Instant::now(), Partitions::new(4, Duration::from_secs(10)));
        let check = |second: u64, count: u32, known: Option<u32>, expected: u32| {
            let news = partitions.observe(count, known, start + Duration::from_secs(second));
            assert_eq!(partitions.in_use(), expected, "second {second}");
            assert!(news.is_none_or(|news| news == expected));
        };
        check(0, 4, None, 4);
        check(100, 8, None, 4);
        check(105, 16, None, 4);
        check(109, 16, None, 4);
        check(110, 16, None, 8);
        check(114, 16, None, 8);
        check(115, 16, None, 16);
        // A count that falls is a mistake of whoever told it.
        check(200, 3, None, 16);
        // Readers that do not know it yet hold it back, but not for ever.
        check(300, 20, Some(16), 16);
        check(320, 20, Some(19), 16);
        check(330, 20, Some(20), 20);
        check(400, 24, Some(20), 20);
        check(459, 24, Some(20), 20);
        check(460, 24, Some(20), 24);
        assert_eq!(Partitions::new(0, Duration::ZERO).in_use(), 1);
    }
}
