//! Counting whole streams without reading a row.
//!
//! The stream table of a block has the number of rows and the first and last time of each stream. If no window of a
//! query begins or ends between these times, all rows of the stream are in the same windows. A query that needs only
//! times then takes the number, and no page is fetched.

use logql::{Partial, Query, QueryError, QueryKind, Scan};
use model::{Batch, ByteColumn, Labels, LineNeed, MetadataNeed, TimeRange};

/// Rows are passed to a scan in batches of this size.
const BATCH_ROWS: u64 = 1 << 16;

/// The times at which the windows of a metric query begin and end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WindowEdges {
    /// The distance between steps in nanoseconds. 0 means that there is only one window: the time of the scan.
    step: i64,
    /// One begin and one end of a window for each range aggregation. All others are a multiple of `step` away. A row
    /// exactly at an edge belongs to the time before it.
    edges: Vec<i64>,
}

impl WindowEdges {
    /// The edges of all windows of a query. `None` if the query needs more of its rows than their number.
    pub(crate) fn of(query: &Query) -> Option<Self> {
        if query.kind() != QueryKind::Metric {
            return None;
        }
        let params = query.params();
        let step = i64::try_from(params.step.as_nanos()).ok()?;
        let mut edges = Vec::new();
        let mut has_values = false;
        query.expr().for_each_selector(&mut |_, range| {
            let Some(range) = range else { return };
            has_values |= range.unwrap.is_some();
            let last = params.start.nanos().saturating_sub(range.offset_ns);
            let length = i64::try_from(range.range.as_nanos()).unwrap_or(i64::MAX);
            edges.extend([last, last.saturating_sub(length)]);
        });
        (!has_values).then_some(Self { step, edges })
    }

    /// True if all rows of this time are in the same windows.
    pub(crate) fn are_outside(&self, time: TimeRange) -> bool {
        let (first, last) = (time.start.nanos(), time.end.nanos().saturating_sub(1));
        if self.step == 0 {
            return true;
        }
        // No edge may be between the first and the last row: the next edge from the first row on is not before the last.
        self.edges.iter().all(|edge| {
            let beyond = i128::from(*edge) - i128::from(first);
            i128::from(first) + beyond.rem_euclid(i128::from(self.step)) >= i128::from(last)
        })
    }
}

/// True if a scan needs nothing of rows but their times.
pub(crate) fn needs_times_only(scan: &Scan) -> bool {
    let needs = scan.needs();
    needs.lines == LineNeed::None && needs.metadata == MetadataNeed::None && !needs.offsets
}

/// Counts `rows` rows of one stream, as if all of them were at the first of these times.
pub(crate) fn accept_rows(
    scan: &Scan,
    labels: &Labels,
    rows: u64,
    time: TimeRange,
    partial: &mut Partial,
) -> Result<(), QueryError> {
    let mut batch = Batch {
        labels: labels.clone(),
        timestamps: vec![time.start.nanos(); usize::try_from(rows.min(BATCH_ROWS)).unwrap_or(0)],
        lines: ByteColumn::default(),
        metadata: Vec::new(),
        offsets: Vec::new(),
    };
    for _ in 0..rows / BATCH_ROWS {
        scan.accept(&batch, partial)?;
    }
    batch.timestamps.truncate(usize::try_from(rows % BATCH_ROWS).unwrap_or(0));
    if !batch.is_empty() {
        scan.accept(&batch, partial)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use logql::{Direction, Params};
    use model::TimestampNs;

    use super::*;

    fn query(text: &str, start: i64, end: i64, step: u64) -> Query {
        let params = Params {
            start: TimestampNs::from_secs(start),
            end: TimestampNs::from_secs(end),
            step: Duration::from_secs(step),
            interval: Duration::ZERO,
            direction: Direction::Backward,
            limit: 100,
            series_max: 0,
        };
        Query::prepare(text, params).expect("a good query")
    }

    fn secs(start: i64, end: i64) -> TimeRange {
        TimeRange::closed(TimestampNs::from_secs(start), TimestampNs::from_secs(end))
    }

    #[test]
    fn edges_split_streams() {
        let check = |text: &str, step: u64, time: TimeRange, expected: bool| {
            let edges = WindowEdges::of(&query(text, 1000, 2000, step)).expect("only numbers of rows matter");
            assert_eq!(edges.are_outside(time), expected, "{text} {step} {time:?}");
        };
        let plain = r#"count_over_time({a="b"}[100s])"#;
        check(plain, 100, secs(1001, 1100), true);
        check(plain, 100, secs(1000, 1100), false);
        check(plain, 100, secs(1001, 1101), false);
        check(plain, 100, secs(1100, 1100), true);
        check(plain, 100, secs(1, 100), true);
        check(plain, 100, secs(-99, 0), true);
        check(plain, 100, secs(-100, 0), false);
        let uneven = r#"sum(rate({a="b"}[30s] offset 5s))"#;
        check(uneven, 100, secs(996, 1065), true);
        check(uneven, 100, secs(966, 995), true);
        check(uneven, 100, secs(965, 995), false);
        check(uneven, 100, secs(996, 1066), false);
        check(r#"count_over_time({a="b"}[1h])"#, 0, secs(0, 5000), true);
        let both = r#"count_over_time({a="b"}[100s]) / count_over_time({a="b"}[130s])"#;
        check(both, 100, secs(1001, 1070), true);
        check(both, 100, secs(1001, 1071), false);
    }

    #[test]
    fn values_need_rows() {
        assert_eq!(WindowEdges::of(&query(r#"{a="b"}"#, 0, 10, 0)), None);
    }

    #[test]
    fn numbers_are_exact() {
        for rows in [0, 1, BATCH_ROWS - 1, BATCH_ROWS, BATCH_ROWS + 1, 2 * BATCH_ROWS, 2 * BATCH_ROWS + 7] {
            let query = query(r#"sum(count_over_time({a="b"}[1h]))"#, 3600, 3600, 0);
            let scan = &query.scans()[0];
            assert!(needs_times_only(scan));
            let mut partial = scan.partial();
            let labels = Labels::from_pairs([("a", "b")]);
            accept_rows(scan, &labels, rows, secs(5, 5), &mut partial).expect("counted");
            assert_eq!(partial.stats().lines, rows);
        }
    }
}
