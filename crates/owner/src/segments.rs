//! Reads rows that lie in segments: selects them by labels, time and offset, then runs the query's scans.
//!
//! This is work for blocking threads. The writer of a segment waits for a reader no longer than it takes to copy a list
//! of pointers.
//!
//! Streams are found by testing the labels of each: 20 ns a stream for equality. For ten thousand streams that is less
//! than the cost of making a plan. Postings would have to be maintained for every stream that comes in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use cut::{Segment, Slice, StreamRows};
use logql::{Direction, Partial, Query, QueryError, QueryKind, Scan};
use model::{Labels, Matcher, Needs, Offset, OffsetRange, TenantId, TimeRange, TimestampNs};
use runtime::Abandoned;
use schemas::record::StreamSlice;

use crate::StreamStat;

/// The rows of one tenant in a range of offsets of one partition.
#[derive(Clone, Debug)]
pub struct SegmentRows<'a> {
    /// The segments that hold the rows, in offset order. They may hold other rows, too.
    pub segments: Vec<&'a Segment>,
    /// Only rows with these offsets are read.
    pub offsets: OffsetRange,
    /// Only rows of this tenant are read.
    pub tenant: &'a TenantId,
}

impl SegmentRows<'_> {
    /// Runs all scans of a query in one pass and returns one partial for each, in their order. Stops early, with an
    /// incomplete result, once `abandoned` is set.
    ///
    /// # Errors
    /// When the query itself fails.
    pub fn scan_all(&self, query: &Query, abandoned: &Abandoned) -> Result<Vec<Partial>, QueryError> {
        let scans = query.scans();
        let mut partials: Vec<Partial> = scans.iter().map(Scan::partial).collect();
        let mut groups = ScanGroups::new(scans);
        let mut records = self.records(&mut groups);
        if query.kind() == QueryKind::Log {
            // The limit is reached soonest when the rows that are wanted first come first.
            match query.params().direction {
                Direction::Forward => records.sort_by_key(|record| record.time.start),
                Direction::Backward => records.sort_by_key(|record| Reverse(record.time.end)),
            }
        }
        let mut wanting = Vec::with_capacity(scans.len());
        for record in &records {
            if abandoned.is_set() {
                break;
            }
            let group = &groups.groups[record.group];
            let wants = |&scan: &usize| {
                let time = scans[scan].still_wanted(&partials[scan]).unwrap_or_else(|| scans[scan].time());
                record.time.overlaps(&time)
            };
            wanting.clear();
            wanting.extend(group.scans.iter().copied().filter(wants));
            let needs = match wanting.as_slice() {
                [] => continue,
                [scan] => scans[*scan].needs(),
                _ => &group.needs,
            };
            for slice in record.slices() {
                let batch = slice.rows.batch(slice.offset, needs);
                for &scan in &wanting {
                    scans[scan].accept(&batch, &mut partials[scan])?;
                }
            }
        }
        Ok(partials)
    }

    /// The rows that at least one scan may want: stream by stream, and in offset order within a stream.
    fn records(&self, groups: &mut ScanGroups<'_>) -> Vec<StreamRecord> {
        let mut records: Vec<StreamRecord> = Vec::new();
        self.for_each_stream(|stream| {
            let Some(group) = groups.group_of(stream) else { return };
            let first = records.len();
            for slice in stream.slices().iter().filter(|slice| self.offsets.contains(slice.offset)) {
                match records[first..].last_mut().filter(|record| record.offset() == slice.offset) {
                    Some(record) => record.add(slice),
                    None => records.push(StreamRecord::new(slice, group)),
                }
            }
        });
        records.retain(|record| {
            let scans = &groups.groups[record.group].scans;
            scans.iter().any(|scan| record.time.overlaps(&groups.scans[*scan].time()))
        });
        records
    }

    /// Lists the streams that match, each once and in label order, with counts of their rows in `time`. Stops early,
    /// with an incomplete result, once `abandoned` is set.
    pub fn streams(&self, matchers: &[Matcher], time: TimeRange, abandoned: &Abandoned) -> Vec<StreamStat> {
        let mut counts: BTreeMap<Labels, RowCount> = BTreeMap::new();
        self.for_each_stream(|stream| {
            if abandoned.is_set() || !may_overlap(stream, time) || !matches_all(stream, matchers) {
                return;
            }
            let count = RowCount::of(stream, self.offsets, time);
            if count.rows > 0 {
                counts.entry(stream.labels().clone()).or_default().add(count);
            }
        });
        let stat = |(labels, count): (Labels, RowCount)| StreamStat {
            labels,
            rows: count.rows,
            line_bytes: count.line_bytes,
            time: TimeRange::closed(TimestampNs::from_nanos(count.min), TimestampNs::from_nanos(count.max)),
        };
        counts.into_iter().map(stat).collect()
    }

    /// The latest slices of streams that match, at most `count`, in offset order.
    pub fn latest(&self, matchers: &[Matcher], count: usize) -> Vec<Slice> {
        let mut latest: Vec<Slice> = Vec::new();
        let keep_latest = |slices: &mut Vec<Slice>| {
            slices.sort_by_key(|slice| slice.offset);
            slices.drain(..slices.len().saturating_sub(count));
        };
        self.for_each_stream(|stream| {
            if !may_overlap(stream, TimeRange::ALL) || !matches_all(stream, matchers) {
                return;
            }
            let (slices, first) = (stream.slices(), latest.len());
            let of_stream = slices.iter().rev().filter(|slice| self.offsets.contains(slice.offset)).take(count);
            latest.extend(of_stream.cloned());
            latest[first..].reverse();
            if latest.len() > 8 * count {
                keep_latest(&mut latest);
            }
        });
        keep_latest(&mut latest);
        latest
    }

    /// Visits the tenant's streams in all segments. A stream that spans segments is visited once for each.
    fn for_each_stream(&self, mut visit: impl FnMut(&StreamRows)) {
        for segment in &self.segments {
            let Some(rows) = segment.tenant(self.tenant) else { continue };
            for stream in rows.streams() {
                visit(&stream);
            }
        }
    }
}

fn may_overlap(stream: &StreamRows, time: TimeRange) -> bool {
    stream.stats().time.is_some_and(|rows| rows.overlaps(&time))
}

fn matches_all(stream: &StreamRows, matchers: &[Matcher]) -> bool {
    matchers.iter().all(|matcher| matcher.matches(stream.labels()))
}

/// Sorts streams into groups: those of one group are wanted by the same scans.
struct ScanGroups<'q> {
    scans: &'q [Scan],
    /// For each scan, the first scan that has the same matchers: they are tested once.
    same_matchers_as: Vec<usize>,
    groups: Vec<ScanGroup>,
    by_scans: HashMap<Vec<usize>, usize>,
    /// For each scan, whether its matchers match the current stream. `None` if they were not tested yet.
    matched: Vec<Option<bool>>,
    wanting: Vec<usize>,
}

/// Scans that want the same streams.
struct ScanGroup {
    /// Positions in the query's list of scans, ascending; at least one.
    scans: Vec<usize>,
    /// The union of their needs.
    needs: Needs,
}

impl<'q> ScanGroups<'q> {
    fn new(scans: &'q [Scan]) -> Self {
        let first_alike =
            |(i, scan): (usize, &Scan)| scans.iter().position(|other| other.matchers() == scan.matchers()).unwrap_or(i);
        Self {
            scans,
            same_matchers_as: scans.iter().enumerate().map(first_alike).collect(),
            groups: Vec::new(),
            by_scans: HashMap::new(),
            matched: vec![None; scans.len()],
            wanting: Vec::with_capacity(scans.len()),
        }
    }

    /// The number of the group that a stream belongs to, or `None` if no scan wants it.
    fn group_of(&mut self, stream: &StreamRows) -> Option<usize> {
        let time = stream.stats().time?;
        self.wanting.clear();
        self.matched.fill(None);
        for (i, scan) in self.scans.iter().enumerate().filter(|(_, scan)| time.overlaps(&scan.time())) {
            let matched = &mut self.matched[self.same_matchers_as[i]];
            if *matched.get_or_insert_with(|| matches_all(stream, scan.matchers())) {
                self.wanting.push(i);
            }
        }
        if self.wanting.is_empty() {
            return None;
        }
        if let Some(known) = self.by_scans.get(&self.wanting) {
            return Some(*known);
        }
        let needs = self.wanting.iter().fold(Needs::default(), |needs, scan| needs.union(self.scans[*scan].needs()));
        self.groups.push(ScanGroup { scans: self.wanting.clone(), needs });
        let number = self.groups.len() - 1;
        self.by_scans.insert(self.wanting.clone(), number);
        Some(number)
    }
}

/// The rows that one record has for one stream. Mostly this is one slice. If a record has several, they must be scanned
/// in their order.
struct StreamRecord {
    first: Slice,
    more: Vec<Slice>,
    time: TimeRange,
    /// The group of the stream.
    group: usize,
}

impl StreamRecord {
    fn new(slice: &Slice, group: usize) -> Self {
        Self { first: slice.clone(), more: Vec::new(), time: slice.rows.time_range(), group }
    }

    fn add(&mut self, slice: &Slice) {
        let time = slice.rows.time_range();
        self.time = TimeRange::new(self.time.start.min(time.start), self.time.end.max(time.end));
        self.more.push(slice.clone());
    }

    fn offset(&self) -> Offset {
        self.first.offset
    }

    fn slices(&self) -> impl Iterator<Item = &Slice> {
        std::iter::once(&self.first).chain(&self.more)
    }
}

/// Number, size and times of rows.
#[derive(Clone, Copy, Debug)]
struct RowCount {
    rows: u64,
    line_bytes: u64,
    min: i64,
    max: i64,
}

impl Default for RowCount {
    fn default() -> Self {
        Self { rows: 0, line_bytes: 0, min: i64::MAX, max: i64::MIN }
    }
}

impl RowCount {
    fn of(stream: &StreamRows, offsets: OffsetRange, time: TimeRange) -> Self {
        let mut count = Self::default();
        for slice in stream.slices().iter().filter(|slice| offsets.contains(slice.offset)) {
            count.add(Self::of_slice(slice, time));
        }
        count
    }

    fn of_slice(slice: &Slice, time: TimeRange) -> Self {
        let rows: &StreamSlice = &slice.rows;
        let range = rows.time_range();
        if !range.overlaps(&time) {
            return Self::default();
        }
        if time.covers(&range) {
            // The last nanosecond of time is never inside a range, so no row has it.
            let (min, max) = (range.start.nanos(), range.end.nanos().saturating_sub(1));
            return Self { rows: rows.len() as u64, line_bytes: rows.line_bytes(), min, max };
        }
        let mut count = Self::default();
        for row in rows.rows().filter(|row| time.contains(row.ts)) {
            let ts = row.ts.nanos();
            count.add(Self { rows: 1, line_bytes: row.line.len() as u64, min: ts, max: ts });
        }
        count
    }

    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.line_bytes += other.line_bytes;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

#[cfg(test)]
mod tests;
