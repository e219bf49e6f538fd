//! A circuit breaker around the log: while appends fail, requests do not wait for one more failure.
//!
//! ```text
//! a partition:  closed ── breaker_failures in a row ──▶ open ── its probe succeeds ──▶ closed
//!               open: requests are routed around it; each breaker_probe one of them goes to it, one at a time, and
//!               never two in a row: a client whose push was the probe has its next one stored
//! the log:      closed ── breaker_failures in a row, over several partitions ──▶ open ── any append succeeds ──▶ closed
//!               open: requests get 503 before their body is read; one each breaker_probe is let through
//! ```
//!
//! A partition whose leader moves concerns only its own records; so the log counts as unavailable only when nothing
//! works, on as many partitions as there are or three of them. Routing around happens before the append. A record
//! whose append failed is never sent to another partition: the failure may be a lost answer, and the record would be
//! there twice.
//!
//! As long as nothing fails, all of this is one load of a flag for each append.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use model::{PartitionId, TimestampNs};
use parking_lot::Mutex;

/// Failures on fewer partitions (or all there are) say nothing about the log.
const PARTITIONS_MIN: usize = 3;

/// Which partitions and which requests may be tried.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// So many failures in a row open a circuit.
    failures_max: u32,
    /// An open one is tried this often.
    probe: Duration,
    is_troubled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Failures since the last success, on these partitions, the first of them then.
    failures: u32,
    failed: BTreeSet<PartitionId>,
    since: Option<TimestampNs>,
    /// When the log may be tried again, while its circuit is open.
    probe_at: Option<Instant>,
    /// The partitions whose last append failed.
    circuits: BTreeMap<PartitionId, Circuit>,
}

#[derive(Debug, Default)]
struct Circuit {
    failures: u32,
    /// Appends under way since it is in trouble.
    under_way: u32,
    /// When it may be tried again, while it is open.
    probe_at: Option<Instant>,
    /// Requests were routed around it since it was tried last.
    was_passed: bool,
}

/// How a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the tenant's partitions.
    Straight,
    /// Not to these.
    Around(BTreeSet<PartitionId>),
    /// Only to this one, to find out whether it works again.
    Through(PartitionId),
    /// Nowhere: no partition works.
    Nowhere,
}

/// The log has been unavailable since then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable {
    pub(crate) since: TimestampNs,
}

/// What an append changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    PartitionOpened,
    PartitionClosed,
    LogOpened,
    LogClosed,
}

impl Breaker {
    pub(crate) fn new(failures_max: u32, probe: Duration) -> Self {
        Self { failures_max, probe, is_troubled: AtomicBool::new(false), state: Mutex::default() }
    }

    fn is_troubled(&self) -> bool {
        self.is_troubled.load(Ordering::Relaxed)
    }

    /// Whether a request may try the log now.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Unavailable> {
        if !self.is_troubled() {
            return Ok(());
        }
        let mut state = self.state.lock();
        let (Some(probe_at), Some(since)) = (state.probe_at, state.since) else { return Ok(()) };
        if now < probe_at {
            return Err(Unavailable { since });
        }
        state.probe_at = Some(now + self.probe);
        Ok(())
    }

    /// How an admitted request of a tenant with these partitions goes, when `0..partition_count` are in use.
    pub(crate) fn way(&self, partitions: &[PartitionId], partition_count: u32, now: Instant) -> Way {
        if !self.is_troubled() {
            return Way::Straight;
        }
        let mut state = self.state.lock();
        if !partitions.iter().any(|p| state.is_open(*p)) {
            return Way::Straight;
        }
        let open: BTreeSet<_> = state.circuits.keys().copied().filter(|p| state.is_open(*p)).collect();
        let can_pass = (0..partition_count).any(|p| !open.contains(&PartitionId::new(p)));
        for partition in partitions {
            let Some(circuit) = state.circuits.get_mut(partition) else { continue };
            let is_due = circuit.under_way == 0 && circuit.probe_at.is_some_and(|at| now >= at);
            if is_due && (circuit.was_passed || !can_pass) {
                (circuit.probe_at, circuit.was_passed) = (Some(now + self.probe), false);
                return Way::Through(*partition);
            }
            circuit.was_passed = true;
        }
        if can_pass { Way::Around(open) } else { Way::Nowhere }
    }

    /// Since when nothing worked, as far as anything failed.
    pub(crate) fn failing_since(&self) -> Option<TimestampNs> {
        self.state.lock().since
    }

    /// An append to a partition begins. True when [`Breaker::succeeded`], [`Breaker::failed`] or
    /// [`Breaker::abandoned`] must be told that it was counted.
    pub(crate) fn begin(&self, partition: PartitionId) -> bool {
        if !self.is_troubled() {
            return false;
        }
        let mut state = self.state.lock();
        let circuit = state.circuits.get_mut(&partition);
        circuit.map(|circuit| circuit.under_way += 1).is_some()
    }

    /// An append is durable.
    pub(crate) fn succeeded(&self, partition: PartitionId) -> Change {
        if !self.is_troubled() {
            return Change::None;
        }
        let mut state = self.state.lock();
        let was_open = state.is_open(partition);
        state.circuits.remove(&partition);
        let has_log_opened = state.probe_at.take().is_some();
        (state.failures, state.since) = (0, None);
        state.failed.clear();
        self.is_troubled.store(!state.circuits.is_empty(), Ordering::Relaxed);
        match (has_log_opened, was_open) {
            (true, _) => Change::LogClosed,
            (false, true) => Change::PartitionClosed,
            (false, false) => Change::None,
        }
    }

    /// An append failed, or took too long. `at` is the time of day.
    pub(crate) fn failed(
        &self,
        partition: PartitionId,
        was_counted: bool,
        partition_count: u32,
        now: Instant,
        at: TimestampNs,
    ) -> Change {
        let mut state = self.state.lock();
        self.is_troubled.store(true, Ordering::Relaxed);
        state.since.get_or_insert(at);
        state.failures = state.failures.saturating_add(1);
        state.failed.insert(partition);
        let probe_at = now + self.probe;
        let circuit = state.circuits.entry(partition).or_default();
        circuit.under_way = circuit.under_way.saturating_sub(u32::from(was_counted));
        circuit.failures = circuit.failures.saturating_add(1);
        let has_partition_opened = circuit.failures >= self.failures_max && circuit.probe_at.is_none();
        if circuit.failures >= self.failures_max {
            circuit.probe_at = Some(probe_at);
        }
        let is_everywhere = state.failed.len() >= PARTITIONS_MIN.min(partition_count.max(1) as usize);
        if state.failures >= self.failures_max && is_everywhere && state.probe_at.is_none() {
            state.probe_at = Some(probe_at);
            return Change::LogOpened;
        }
        if has_partition_opened { Change::PartitionOpened } else { Change::None }
    }

    /// Nobody waits for an append any more, and it says nothing about the log.
    pub(crate) fn abandoned(&self, partition: PartitionId, was_counted: bool) {
        if !was_counted {
            return;
        }
        if let Some(circuit) = self.state.lock().circuits.get_mut(&partition) {
            circuit.under_way = circuit.under_way.saturating_sub(1);
        }
    }

    /// Whether the log's circuit is open, and how many partitions' are.
    pub(crate) fn open(&self) -> (bool, usize) {
        let state = self.state.lock();
        (state.probe_at.is_some(), state.circuits.keys().filter(|p| state.is_open(**p)).count())
    }
}

impl State {
    fn is_open(&self, partition: PartitionId) -> bool {
        self.circuits.get(&partition).is_some_and(|circuit| circuit.probe_at.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: TimestampNs = TimestampNs::from_secs(1_795_176_000);
    const PROBE: Duration = Duration::from_secs(1);

    fn p(i: u32) -> PartitionId {
        PartitionId::new(i)
    }

    /// A log of `count` partitions and its breaker, at a time that moves when told.
    struct World {
        breaker: Breaker,
        count: u32,
        now: Instant,
    }

    impl World {
        fn new(count: u32) -> Self {
            Self { breaker: Breaker::new(3, PROBE), count, now: Instant::now() }
        }

        fn fail(&self, partition: u32) -> Change {
            let was_counted = self.breaker.begin(p(partition));
            self.breaker.failed(p(partition), was_counted, self.count, self.now, AT)
        }

        fn way(&self, partitions: &[u32]) -> Way {
            let partitions: Vec<_> = partitions.iter().map(|i| p(*i)).collect();
            self.breaker.way(&partitions, self.count, self.now)
        }

        fn is_admitted(&self) -> bool {
            self.breaker.admit(self.now).is_ok()
        }
    }

    #[test]
    fn a_log_that_fails_everywhere() {
        let mut world = World::new(8);
        assert_eq!([0, 1].map(|i| world.fail(i)), [Change::None; 2]);
        assert!(world.is_admitted() && world.way(&[0, 1, 2]) == Way::Straight);
        assert_eq!(world.fail(2), Change::LogOpened);
        assert_eq!(world.breaker.admit(world.now), Err(Unavailable { since: AT }));
        assert_eq!(world.breaker.open(), (true, 0));
        // One request each second is let through.
        for _ in 0..3 {
            world.now += PROBE;
            assert!(world.is_admitted() && !world.is_admitted());
            world.fail(0);
        }
        assert_eq!(world.breaker.open(), (true, 1));
        assert_eq!(world.breaker.succeeded(p(5)), Change::LogClosed);
        assert!(world.is_admitted() && world.breaker.failing_since().is_none());
        assert_eq!(world.way(&[0, 5]), Way::Around(BTreeSet::from([p(0)])), "its own probe is still to come");
        world.now += PROBE;
        assert_eq!(world.way(&[0, 5]), Way::Through(p(0)));
        assert_eq!(
            [0, 1, 2].map(|i| world.breaker.succeeded(p(i))),
            [Change::PartitionClosed, Change::None, Change::None]
        );
        assert!(!world.breaker.is_troubled() && world.way(&[0, 5]) == Way::Straight);
    }

    #[test]
    fn one_partition_concerns_only_itself() {
        let mut world = World::new(8);
        assert_eq!([3; 3].map(|i| world.fail(i)), [Change::None, Change::None, Change::PartitionOpened]);
        (0..20).for_each(|_| assert_eq!(world.fail(3), Change::None));
        assert!(world.is_admitted());
        assert_eq!(world.way(&[0, 1]), Way::Straight);
        assert_eq!(world.way(&[1, 3]), Way::Around(BTreeSet::from([p(3)])));
        // Successes elsewhere change nothing for it, and failures elsewhere come from zero.
        assert_eq!(world.breaker.succeeded(p(1)), Change::None);
        assert_eq!([world.fail(1), world.fail(2)], [Change::None; 2]);
        world.breaker.succeeded(p(1));
        world.breaker.succeeded(p(2));
        // A probe at a time, however long it takes.
        world.now += PROBE;
        assert_eq!(world.way(&[1, 3]), Way::Through(p(3)));
        assert!(world.breaker.begin(p(3)));
        world.now += PROBE * 10;
        assert_eq!(world.way(&[1, 3]), Way::Around(BTreeSet::from([p(3)])));
        world.breaker.abandoned(p(3), true);
        assert_eq!(world.way(&[1, 3]), Way::Through(p(3)));
        // One that was let through and appended nothing is followed by another.
        assert_eq!(world.way(&[1, 3]), Way::Around(BTreeSet::from([p(3)])));
        world.now += PROBE;
        assert_eq!(world.way(&[1, 3]), Way::Through(p(3)));
        // However seldom requests come, every other one goes around.
        world.now += PROBE * 100;
        assert_eq!(world.way(&[1, 3]), Way::Around(BTreeSet::from([p(3)])));
        assert_eq!(world.way(&[1, 3]), Way::Through(p(3)));
    }

    #[test]
    fn small_logs() {
        let world = World::new(1);
        assert_eq!([0; 3].map(|i| world.fail(i)), [Change::None, Change::None, Change::LogOpened]);
        let world = World::new(2);
        for i in [0, 0, 0] {
            world.fail(i);
        }
        assert!(world.is_admitted());
        assert_eq!(world.fail(1), Change::LogOpened);
        world.fail(1);
        assert_eq!(world.way(&[0, 1]), Way::Around(BTreeSet::from([p(0)])));
        world.fail(1);
        assert_eq!(world.way(&[0, 1]), Way::Nowhere);
    }

    #[test]
    fn a_success_between_keeps_it_closed() {
        let world = World::new(4);
        for _ in 0..50 {
            (0..2).for_each(|i| assert_eq!(world.fail(i), Change::None));
            (0..2).for_each(|i| assert_eq!(world.breaker.succeeded(p(i)), Change::None));
        }
        assert_eq!(world.breaker.open(), (false, 0));
    }
}
