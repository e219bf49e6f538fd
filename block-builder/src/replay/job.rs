//! What is asked of a replay: whose entries, which window, what to do with them.

use std::{collections::BTreeSet, time::Duration};

use model::{Labels, Matcher, PartitionId, TenantId, TimeRange, TimestampNs};
use serde::{Deserialize, Serialize};

/// By how much a search by entry time is widened beyond the age limits: records wait in gateways, and clocks differ.
const CLOCK_SLACK: Duration = Duration::from_secs(300);

/// All that makes one replay; kept in its state, so that resuming needs nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// What to do.
    pub mode: Mode,
    /// Whose entries.
    pub tenants: Tenants,
    /// Only streams that pass this selector; empty: all. The caller parses it and supplies its matchers.
    pub selector: String,
    /// Which window of time.
    pub window: Window,
    /// Which partitions; empty: all.
    pub partitions: Vec<PartitionId>,
}

/// What to do with the records of the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Compare them with the blocks.
    Verify,
    /// Make the blocks of the window anew and list them in place of the old ones.
    Rebuild,
    /// Send them on.
    Send {
        /// Where to, in the caller's words.
        target: String,
        /// The tenant that they are sent as.
        as_tenant: TenantId,
    },
}

/// Whose entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tenants {
    /// Everybody's.
    All,
    /// These tenants'.
    These(BTreeSet<TenantId>),
}

impl Tenants {
    /// Whether this tenant's entries are wanted.
    pub fn wants(&self, tenant: &TenantId) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(tenant),
        }
    }

    /// Whether records of this key are worth decoding. A record's key is its tenant's name.
    pub(crate) fn wants_key(&self, key: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.iter().any(|name| name.as_str().as_bytes() == key),
        }
    }
}

/// By which time the window is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// When the log took the records. Exact: the log has an index of it.
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
    /// The first moment behind it.
    pub to: TimestampNs,
    /// Which time is meant.
    pub by: By,
    /// By entry time: entries older than this were refused (`reject_old_samples_max_age`); none: entries of any age were
    /// taken, so that the search goes on to the end of the log.
    pub age_max: Option<Duration>,
    /// By entry time: entries from further in the future than this were refused (`creation_grace_period`).
    pub grace: Duration,
}

impl Window {
    /// The append times at which the window's records can have been appended: an entry of time `t` is taken between
    /// `t - grace` and `t + age_max`, give or take what clocks differ.
    pub fn append_time(&self) -> TimeRange {
        match self.by {
            By::AppendTime => TimeRange::new(self.from, self.to),
            By::EntryTime => {
                let until = self.age_max.map_or(TimestampNs::MAX, |age| self.to.plus(age).plus(CLOCK_SLACK));
                TimeRange::new(self.from.minus(self.grace).minus(CLOCK_SLACK), until)
            }
        }
    }

    /// The entry times that are wanted; none when all are.
    pub fn entry_time(&self) -> Option<TimeRange> {
        (self.by == By::EntryTime).then(|| TimeRange::new(self.from, self.to))
    }
}

/// Which entries of the window's records are wanted.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Whose.
    pub tenants: Tenants,
    /// Only of streams that pass all of these.
    pub matchers: Vec<Matcher>,
    /// Only of this time; none: of any.
    pub time: Option<TimeRange>,
}

impl Selection {
    /// What a job wants; `matchers` are those of its selector.
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
