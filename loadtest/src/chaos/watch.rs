//! Watches the consumers' metrics: how long partitions are without a leader, and how often memory is full.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{state::ChaosRun, timeline::is_inexcusable};
use crate::cluster::{Metrics, metrics};

/// Interval between two readings of all consumers.
const PERIOD: Duration = Duration::from_millis(250);

/// The watch: its targets and its observations.
pub(crate) struct Watch {
    consumers: Mutex<Vec<String>>,
    /// Number of partitions that must have a leader.
    partitions: AtomicU32,
    seen: Mutex<Seen>,
}

/// Observations of a watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// When each partition last had a leader, and whether it has one now.
    led: BTreeMap<u32, (Instant, bool)>,
    /// The longest time without a leader, its partition, and the faults that were active.
    pub(crate) longest: Option<(Duration, u32, Vec<&'static str>)>,
    /// The longest time without a leader while Kafka and the store were available.
    pub(crate) longest_with_sources: Option<(Duration, u32, Vec<&'static str>)>,
    /// The longest time without a leader during ordinary operation: scaling, draining, raising partitions.
    pub(crate) longest_planned: Option<(Duration, u32, Vec<&'static str>)>,
    pub(crate) handoffs: u64,
    counters: BTreeMap<(String, &'static str), f64>,
    /// Increase of counters, summed over all processes.
    pub(crate) rose: BTreeMap<&'static str, f64>,
}

/// Counters whose increase is reported.
const COUNTERS: [&str; 3] =
    ["millrace_consumer_memory_full_total", "millrace_consumer_fenced_total", "millrace_consumer_not_held_total"];

impl Watch {
    pub(crate) fn new(consumers: Vec<String>, partitions: u32) -> Self {
        Self { consumers: Mutex::new(consumers), partitions: AtomicU32::new(partitions), seen: Mutex::default() }
    }

    pub(crate) fn set_consumers(&self, consumers: Vec<String>) {
        *self.consumers.lock().expect("nobody panics with it") = consumers;
    }

    pub(crate) fn set_partitions(&self, partitions: u32) {
        self.partitions.store(partitions, Ordering::SeqCst);
    }

    pub(crate) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// Returns whether every partition has a leader.
    pub(crate) fn all_led(&self) -> bool {
        let seen = self.lock();
        let led = seen.led.values().filter(|(_, led)| *led).count();
        led >= self.partitions.load(Ordering::SeqCst) as usize
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no thread panics while it holds what was seen")
    }

    /// Reads all consumers repeatedly until told to stop.
    pub(crate) fn run(&self, run: &ChaosRun) {
        while !run.watch_stops() {
            let began = Instant::now();
            let consumers = self.consumers.lock().expect("nobody panics with it").clone();
            // Consumers are read in parallel, so that a paused one delays no other.
            let answers: Vec<(String, Option<Metrics>)> = thread::scope(|scope| {
                let asked: Vec<_> = consumers.into_iter().map(|c| scope.spawn(move || (metrics(&c).ok(), c))).collect();
                asked.into_iter().filter_map(|a| a.join().ok()).map(|(m, c)| (c, m)).collect()
            });
            self.note(run, &answers);
            thread::sleep(PERIOD.saturating_sub(began.elapsed()));
        }
    }

    fn note(&self, run: &ChaosRun, answers: &[(String, Option<Metrics>)]) {
        let now = Instant::now();
        let mut seen = self.lock();
        let led: Vec<u32> = answers.iter().filter_map(|(_, m)| m.as_ref()).flat_map(Metrics::partitions_led).collect();
        for partition in 0..self.partitions.load(Ordering::SeqCst) {
            let (since, was_led) = *seen.led.entry(partition).or_insert((now, false));
            let is_led = led.contains(&partition);
            if is_led && !was_led {
                seen.handoff(run, partition, since, now);
            }
            seen.led.insert(partition, (if is_led { now } else { since }, is_led));
        }
        for (consumer, metrics) in answers {
            for name in COUNTERS {
                let Some(value) = metrics.as_ref().and_then(|m| m.sum(name)) else { continue };
                let before = seen.counters.insert((consumer.clone(), name), value).unwrap_or_default();
                // A restarted process counts from 0.
                *seen.rose.entry(name).or_default() += if value >= before { value - before } else { value };
            }
        }
    }
}

impl Seen {
    /// Records that a partition has a leader again.
    fn handoff(&mut self, run: &ChaosRun, partition: u32, since: Instant, now: Instant) {
        let kinds = run.timeline.during(since, now);
        if kinds.is_empty() {
            // The partition's first leader is not a hand-over.
            return;
        }
        self.handoffs += 1;
        let gap = now - since;
        let raise = |longest: &mut Option<(Duration, u32, Vec<&'static str>)>| {
            if longest.as_ref().is_none_or(|(longest, ..)| gap > *longest) {
                *longest = Some((gap, partition, kinds.iter().map(|k| k.name()).collect()));
            }
        };
        raise(&mut self.longest);
        if !kinds.iter().any(|kind| kind.takes_sources()) {
            raise(&mut self.longest_with_sources);
        }
        if is_inexcusable(&kinds) {
            raise(&mut self.longest_planned);
        }
    }
}
