//! The time that a log query still wants rows of.

use std::sync::Arc;

use logql::{Partial, Query, QueryKind, Scan};
use model::TimeRange;
use parking_lot::Mutex;

/// The time in which rows can still get into the answer of a log query. It only shrinks. Clones share it, so that what
/// one block yields saves reading others.
#[derive(Clone)]
pub(crate) struct WantedTime {
    scan: Scan,
    time: Arc<Mutex<TimeRange>>,
}

impl WantedTime {
    /// The whole time of a log query; `None` for a metric query, which wants all rows.
    pub(crate) fn of(query: &Query) -> Option<Self> {
        match (query.kind(), query.scans()) {
            (QueryKind::Log, [scan]) => Some(Self { scan: scan.clone(), time: Arc::new(Mutex::new(scan.time())) }),
            _ => None,
        }
    }

    pub(crate) fn get(&self) -> TimeRange {
        *self.time.lock()
    }

    /// Shrinks to the time in which rows can still matter to this partial, and returns what is left.
    pub(crate) fn shrink_to(&self, partial: &Partial) -> TimeRange {
        let mut time = self.time.lock();
        if let Some(wanted) = self.scan.still_wanted(partial) {
            time.start = time.start.max(wanted.start);
            time.end = time.end.min(wanted.end);
        }
        *time
    }
}
