//! The timeline of faults. It attributes failed reads to faults and tells which failures have no excuse.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::schedule::Kind;

/// A fault still excuses failed reads for this long after its end, unless the cluster has recovered since.
const AFTERMATH: Duration = Duration::from_secs(15);

/// All faults of a run.
#[derive(Debug, Default)]
pub(crate) struct Timeline(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    spans: Vec<Span>,
    /// The moment at which the cluster was last seen to have recovered.
    settled: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Span {
    kind: Kind,
    target: String,
    from: Instant,
    to: Option<Instant>,
}

impl Timeline {
    /// Records the begin of a fault. Returns its number for [`Timeline::end`].
    pub(crate) fn begin(&self, kind: Kind, target: String) -> usize {
        let mut inner = self.lock();
        inner.spans.push(Span { kind, target, from: Instant::now(), to: None });
        inner.spans.len() - 1
    }

    pub(crate) fn end(&self, fault: usize) {
        self.lock().spans[fault].to = Some(Instant::now());
    }

    /// Records that the cluster has recovered: earlier faults excuse nothing any more.
    pub(crate) fn settled(&self) {
        self.lock().settled = Some(Instant::now());
    }

    /// Returns the kinds of faults that were active, or had just ended, between two moments.
    pub(crate) fn during(&self, from: Instant, to: Instant) -> BTreeSet<Kind> {
        let inner = self.lock();
        let excuses = |span: &&Span| {
            let until = match span.to {
                None => return span.from <= to,
                Some(end) => match inner.settled {
                    Some(settled) if settled >= end => settled.min(end + AFTERMATH),
                    _ => end + AFTERMATH,
                },
            };
            span.from <= to && from <= until
        };
        inner.spans.iter().filter(excuses).map(|span| span.kind).collect()
    }

    /// Returns for how long reads had no sources between two moments.
    pub(crate) fn without_sources(&self, from: Instant, to: Instant) -> Duration {
        let inner = self.lock();
        let spans = inner.spans.iter().filter(|s| s.kind.takes_sources());
        spans.map(|s| s.to.unwrap_or(to).min(to).saturating_duration_since(s.from.max(from))).sum()
    }

    /// Returns all faults so far: seconds since `origin`, duration, kind and target.
    pub(crate) fn all(&self, origin: Instant) -> Vec<(f64, f64, Kind, String)> {
        let seconds = |d: Duration| (d.as_secs_f64() * 10.0).round() / 10.0;
        let line = |s: &Span| {
            let lasted = s.to.unwrap_or(s.from).saturating_duration_since(s.from);
            (seconds(s.from.saturating_duration_since(origin)), seconds(lasted), s.kind, s.target.clone())
        };
        self.lock().spans.iter().map(line).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no thread panics while it holds the timeline")
    }
}

/// Returns whether a read that failed during these faults breaks a promise: none was active, or only ordinary operation.
pub(crate) fn is_inexcusable(kinds: &BTreeSet<Kind>) -> bool {
    kinds.iter().all(|kind| kind.is_planned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_excuse_for_a_while_and_not_after_all_was_well() {
        let second = Duration::from_secs(1);
        let timeline = Timeline::default();
        let start = Instant::now();
        assert!(is_inexcusable(&timeline.during(start, start + second)));
        let fault = timeline.begin(Kind::KillConsumer, "consumer-0".into());
        let later = Instant::now() + second;
        assert_eq!(timeline.during(later, later).into_iter().collect::<Vec<_>>(), [Kind::KillConsumer]);
        timeline.end(fault);
        assert!(!is_inexcusable(&timeline.during(later, later)));
        assert!(is_inexcusable(&timeline.during(later + AFTERMATH, later + AFTERMATH)));
        timeline.settled();
        assert!(is_inexcusable(&timeline.during(later, later)));
        timeline.begin(Kind::Scale, "2".into());
        assert!(is_inexcusable(&timeline.during(later, later)));
        timeline.begin(Kind::StoreAway, String::new());
        assert!(!is_inexcusable(&timeline.during(later, later)));
        let from = Instant::now();
        assert_eq!(timeline.without_sources(from, from + second), second);
    }
}
