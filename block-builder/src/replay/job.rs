//! What a replay does: which tenants, which window, and what to do with the entries.

use std::{collections::BTreeSet, time::Duration};

use model::{Labels, Matcher, PartitionId, TenantId, TimeRange, TimestampNs};
use serde::{Deserialize, Serialize};

/// A search by entry time is wider than the age limits by this much: records wait in gateways, and clocks differ.
const CLOCK_SLACK: Duration = Duration::from_secs(300);

/// Everything that defines a replay. The state includes it, so that resuming needs nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// What to do.
    pub mode: Mode,
    /// The tenants whose entries are replayed.
    pub tenants: Tenants,
    /// Only streams that match this selector are replayed; empty means all. The caller parses it and supplies its matchers.
    pub selector: String,
    /// The window of time.
    pub window: Window,
    /// The partitions; empty means all.
    pub partitions: Vec<PartitionId>,
}

/// What to do with the records of the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Compare them with the blocks.
    Verify,
    /// Rebuild the blocks of the window and list them in place of the old ones.
    Rebuild,
    /// Send them on.
    Send {
        /// The name that the caller has for the target.
        target: String,
        /// The tenant that the target files the entries under.
        as_tenant: TenantId,
    },
}

/// The tenants whose entries are replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tenants {
    /// All tenants.
    All,
    /// Only these.
    These(BTreeSet<TenantId>),
}

impl Tenants {
    /// True when entries of this tenant are selected.
    pub fn wants(&self, tenant: &TenantId) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(tenant),
        }
    }

    /// True when records with this key may hold selected entries. A record's key is its tenant's name.
    pub(crate) fn wants_key(&self, key: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.iter().any(|name| name.as_str().as_bytes() == key),
        }
    }
}

/// The time that a window is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The time when records were appended. Exact, since the log has an index of it.
    AppendTime,
    /// The entries' own time. The search in the log is widened by the age limits, and entries are filtered.
    EntryTime,
}

/// The window `[from, to)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Its first moment.
    pub from: TimestampNs,
    /// The first moment after it.
    pub to: TimestampNs,
    /// The time that the window is about.
    pub by: By,
    /// For entry time: entries older than this were refused (`reject_old_samples_max_age`). `None` if entries of any age
    /// were accepted; the search then goes on to the end of the log.
    pub age_max: Option<Duration>,
    /// For entry time: entries further in the future than this were refused (`creation_grace_period`).
    pub grace: Duration,
}

impl Window {
    /// The range of append times that the window's records can have. An entry of time `t` is accepted between `t - grace`
    /// and `t + age_max`, apart from differences between clocks.
    pub fn append_time(&self) -> TimeRange {
        match self.by {
            By::AppendTime => TimeRange::new(self.from, self.to),
            By::EntryTime => {
                let until = self.age_max.map_or(TimestampNs::MAX, |age| self.to.plus(age).plus(CLOCK_SLACK));
                TimeRange::new(self.from.minus(self.grace).minus(CLOCK_SLACK), until)
            }
        }
    }

    /// The entry times that are selected; `None` selects all.
    pub fn entry_time(&self) -> Option<TimeRange> {
        (self.by == By::EntryTime).then(|| TimeRange::new(self.from, self.to))
    }
}

/// Selects entries of the window's records.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Only entries of these tenants.
    pub tenants: Tenants,
    /// Only entries of streams that match all of these.
    pub matchers: Vec<Matcher>,
    /// Only entries of this time; `None` selects all.
    pub time: Option<TimeRange>,
}

impl Selection {
    /// The selection of a job. `matchers` are those of its selector.
    pub fn of(job: &Job, matchers: Vec<Matcher>) -> Self {
        Self { tenants: job.tenants.clone(), matchers, time: job.window.entry_time() }
    }

    /// Everything.
    pub(crate) fn everything() -> Self {
        Self { tenants: Tenants::All, matchers: Vec::new(), time: None }
    }

    pub(crate) fn wants_stream(&self, labels: &Labels) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches(labels))
    }

    pub(crate) fn wants_time(&self, nanos: i64) -> bool {
        self.time.is_none_or(|time| time.contains(TimestampNs::from_nanos(nanos)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_by_entry_time_is_searched_wider() {
        let secs = TimestampNs::from_secs;
        let check = |by, age_max: Option<u64>, expected: (TimestampNs, TimestampNs)| {
            let grace = Duration::from_secs(600);
            let age_max = age_max.map(Duration::from_secs);
            let window = Window { from: secs(10_000), to: secs(20_000), by, age_max, grace };
            assert_eq!(window.append_time(), TimeRange::new(expected.0, expected.1), "{by:?} {age_max:?}");
        };
        check(By::AppendTime, Some(7), (secs(10_000), secs(20_000)));
        check(By::EntryTime, Some(1000), (secs(10_000 - 600 - 300), secs(20_000 + 1000 + 300)));
        check(By::EntryTime, None, (secs(10_000 - 600 - 300), TimestampNs::MAX));
    }
}
