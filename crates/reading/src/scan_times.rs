//! The times of the scans of a query.

use model::{TimeRange, TimestampNs};

/// The times that the scans of a query read. They may have gaps between them: `a / a offset 1w` reads no rows of the
/// days between.
#[derive(Clone, Debug)]
pub(crate) struct ScanTimes(Vec<TimeRange>);

impl ScanTimes {
    pub(crate) fn new(times: impl IntoIterator<Item = TimeRange>) -> Self {
        Self(times.into_iter().collect())
    }

    /// True if a scan may read rows of this time.
    pub(crate) fn overlap(&self, time: &TimeRange) -> bool {
        self.0.iter().any(|mine| mine.overlaps(time))
    }

    /// True if a scan may read rows that were pushed at or before this moment, if pushes have no rows of the future.
    pub(crate) fn begin_by(&self, moment: TimestampNs) -> bool {
        self.0.iter().any(|mine| mine.start <= moment)
    }
}

/// For each of these times the number of its group. Times of one group overlap, directly or through others of it.
pub(crate) fn overlapping_groups(times: &[TimeRange]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by_key(|i| times[*i].start);
    let mut groups = vec![0; times.len()];
    let mut group = 0;
    let mut end: Option<TimestampNs> = None;
    for i in order {
        if end.is_some_and(|end| times[i].start >= end) {
            group += 1;
        }
        groups[i] = group;
        end = end.max(Some(times[i].end));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(start: i64, end: i64) -> TimeRange {
        TimeRange::new(TimestampNs::from_nanos(start), TimestampNs::from_nanos(end))
    }

    #[test]
    fn groups() {
        let check = |times: &[(i64, i64)], expected: &[usize]| {
            let times: Vec<TimeRange> = times.iter().map(|(start, end)| time(*start, *end)).collect();
            assert_eq!(overlapping_groups(&times), expected, "{times:?}");
        };
        check(&[], &[]);
        check(&[(0, 10)], &[0]);
        check(&[(0, 10), (0, 10)], &[0, 0]);
        check(&[(20, 30), (0, 10)], &[1, 0]);
        check(&[(0, 10), (10, 20)], &[0, 1]);
        check(&[(0, 10), (15, 30), (5, 20)], &[0, 0, 0]);
        check(&[(0, 100), (5, 6), (50, 60), (100, 101)], &[0, 0, 0, 1]);
    }

    #[test]
    fn gaps() {
        let times = ScanTimes::new([time(0, 10), time(50, 60)]);
        assert!(times.overlap(&time(5, 20)) && times.overlap(&time(40, 51)));
        assert!(!times.overlap(&time(10, 50)));
        assert!(times.begin_by(TimestampNs::from_nanos(0)) && !times.begin_by(TimestampNs::from_nanos(-1)));
    }
}
