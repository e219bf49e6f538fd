//! State that the threads of a run share: sources of lines, addresses, the timeline, and results.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{schedule::Kind, timeline::Timeline};
use crate::{
    ledger::{Differences, StreamNumber},
    lines::Writer,
};

/// Number of streams that a writer fills at a time.
pub(crate) const STREAMS: StreamNumber = 4;
/// Number of lines after which a writer continues with new streams, so that whole streams stay short enough to read.
pub(crate) const GENERATION_LINES: u64 = 3000;
/// Maximum number of complaints that are kept in full.
const COMPLAINTS_MAX: usize = 50;

/// A writer and its last acknowledged push.
pub(crate) struct Source {
    pub(crate) writer: Writer,
    last_push: Mutex<Option<LastPush>>,
}

/// An acknowledged push and its read token.
#[derive(Clone)]
pub(crate) struct LastPush {
    pub(crate) token: String,
    pub(crate) lines: Range<usize>,
    pub(crate) stream: StreamNumber,
}

impl Source {
    pub(crate) fn new(writer: Writer) -> Self {
        Self { writer, last_push: Mutex::default() }
    }

    pub(crate) fn last_push(&self) -> Option<LastPush> {
        self.last_push.lock().expect("nobody panics with it").clone()
    }

    pub(crate) fn set_last_push(&self, push: LastPush) {
        *self.last_push.lock().expect("nobody panics with it") = Some(push);
    }

    /// Returns the number of streams that the writer has begun.
    pub(crate) fn streams(&self) -> StreamNumber {
        let (_, sent) = self.writer.ledger.counts();
        let generations = sent.div_ceil(GENERATION_LINES).max(1);
        StreamNumber::try_from(generations).unwrap_or(StreamNumber::MAX / STREAMS).saturating_mul(STREAMS)
    }
}

/// The consistency that a read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asking {
    Strong,
    Eventual,
    Token,
}

/// State of a run, run by its threads.
pub(crate) struct ChaosRun {
    pub(crate) sources: Vec<Source>,
    pub(crate) gateways: Vec<String>,
    pub(crate) query_services: Vec<String>,
    pub(crate) timeline: Timeline,
    stop: AtomicBool,
    stop_watch: AtomicBool,
    /// Set while writers send long lines.
    pub(crate) burst: AtomicBool,
    pub(crate) pushes: AtomicU64,
    pub(crate) pushes_unknown: AtomicU64,
    tally: Mutex<Tally>,
}

/// Results so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Number of reads that were answered and checked.
    pub(crate) reads: BTreeMap<Asking, u64>,
    /// Number of failed attempts by active fault. An attempt counts for each active kind.
    pub(crate) failed: BTreeMap<Kind, u64>,
    pub(crate) failed_in_all: u64,
    /// Texts of failed reads without names and numbers: the number of occurrences, and one example with its active faults.
    pub(crate) failures: BTreeMap<String, (u64, String)>,
    pub(crate) during: Differences,
    pub(crate) strong_longest: Duration,
    pub(crate) with_retries_longest: Duration,
    /// The same, not counting time without Kafka or without the store.
    pub(crate) with_sources_longest: Duration,
    pub(crate) tail_lines: u64,
    /// Number of entries that tails reported as dropped.
    pub(crate) tail_dropped: u64,
    /// Number of lines that a tail should have contained and did not.
    pub(crate) tail_missing: u64,
    pub(crate) drains: BTreeMap<Kind, Vec<Duration>>,
    pub(crate) ended_by_themselves: Vec<String>,
    /// Broken promises.
    pub(crate) complaints: Vec<String>,
    pub(crate) complaints_in_all: u64,
}

impl ChaosRun {
    pub(crate) fn new(sources: Vec<Source>, gateways: Vec<String>, query_services: Vec<String>) -> Self {
        Self {
            sources,
            gateways,
            query_services,
            timeline: Timeline::default(),
            stop: AtomicBool::new(false),
            stop_watch: AtomicBool::new(false),
            burst: AtomicBool::new(false),
            pushes: AtomicU64::new(0),
            pushes_unknown: AtomicU64::new(0),
            tally: Mutex::default(),
        }
    }

    pub(crate) fn stops(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub(crate) fn watch_stops(&self) -> bool {
        self.stop_watch.load(Ordering::SeqCst)
    }

    pub(crate) fn stop_watch(&self) {
        self.stop_watch.store(true, Ordering::SeqCst);
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("no thread panics while it holds the tally")
    }

    /// Records a broken promise.
    pub(crate) fn complain(&self, text: impl Into<String>) {
        let text = text.into();
        println!("  WRONG: {text}");
        let mut tally = self.tally();
        tally.complaints_in_all += 1;
        if tally.complaints.len() < COMPLAINTS_MAX {
            tally.complaints.push(text);
        }
    }

    pub(crate) fn count_failed(&self, kinds: &BTreeSet<Kind>, said: &str) {
        let mut tally = self.tally();
        tally.failed_in_all += 1;
        // Names and numbers differ each time, so they are left out.
        let words: String = said.split('"').step_by(2).collect();
        let form: String = words.chars().filter(|c| !c.is_ascii_digit()).take(160).collect();
        let names: Vec<&str> = kinds.iter().map(|k| k.name()).collect();
        tally.failures.entry(form).or_insert_with(|| (0, format!("{said}, amid {names:?}"))).0 += 1;
        for kind in kinds {
            *tally.failed.entry(*kind).or_default() += 1;
        }
    }

    /// Returns the number of acknowledged lines and the number of lines sent.
    pub(crate) fn lines(&self) -> (u64, u64) {
        let all = self.sources.iter().map(|s| s.writer.ledger.counts());
        all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}
