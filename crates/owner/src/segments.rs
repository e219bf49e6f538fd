//! Reading rows that lie in segments: selection by labels, time and offset, then the query's own work. Meant for
//! blocking threads; holds no lock that whoever fills a segment waits for longer than it takes to copy a list of pointers.
//!
//! Streams are found by looking at the labels of each: 20 ns a stream for equality, which for ten thousand streams
//! is less than making a plan costs. Postings would have to be kept up to date on the way in, for every stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cut::{Segment, Slice, StreamRows};
use logql::{Direction, Partial, Query, QueryError, QueryKind, Scan};
use model::{Labels, Matcher, Offset, OffsetRange, TenantId, TimeRange, TimestampNs};
use schemas::record::StreamSlice;

use crate::StreamStat;

/// Tells a scan, through its flag, that nobody waits for it any more: set when this is dropped.
#[derive(Debug, Default)]
pub struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    /// What the scan looks at.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The rows of one tenant in a range of offsets of one partition.
#[derive(Clone, Debug)]
pub struct SegmentRows<'a> {
    /// Where they lie, in the order of offsets. Rows outside `offsets` may lie there too.
    pub segments: Vec<&'a Segment>,
    /// Only rows of these offsets count.
    pub offsets: OffsetRange,
    /// Only rows of this tenant count.
    pub tenant: &'a TenantId,
}

impl SegmentRows<'_> {
    /// Runs all scans of a query; one partial for each, in their order. Ends early, with less than there is, once
    /// `abandoned` is set.
    ///
    /// # Errors
    /// When the query itself fails.
    pub fn scan_all(&self, query: &Query, abandoned: &AtomicBool) -> Result<Vec<Partial>, QueryError> {
        query.scans().iter().map(|scan| self.scan(query, scan, abandoned)).collect()
    }

    fn scan(&self, query: &Query, scan: &Scan, abandoned: &AtomicBool) -> Result<Partial, QueryError> {
        let mut partial = scan.partial();
        let time = scan.time();
        let mut units: Vec<Unit> = Vec::new();
        self.for_each_stream(scan.matchers(), time, |stream| {
            let first_unit = units.len();
            for slice in stream.slices().iter().filter(|s| self.offsets.contains(s.offset)) {
                match units[first_unit..].last_mut().filter(|unit| unit.offset() == slice.offset) {
                    Some(unit) => unit.add(slice),
                    None => units.push(Unit::new(slice)),
                }
            }
        });
        units.retain(|unit| unit.time.overlaps(&time));
        if query.kind() == QueryKind::Log {
            // The limit is met soonest when the rows wanted first come first.
            match query.params().direction {
                Direction::Forward => units.sort_by_key(|unit| unit.time.start),
                Direction::Backward => units.sort_by_key(|unit| std::cmp::Reverse(unit.time.end)),
            }
        }
        let needs = scan.needs();
        for unit in &units {
            if abandoned.load(Ordering::Relaxed) {
                break;
            }
            if scan.still_wanted(&partial).is_none_or(|wanted| unit.time.overlaps(&wanted)) {
                for slice in unit.slices() {
                    scan.accept(&slice.rows.batch(slice.offset, needs), &mut partial)?;
                }
            }
        }
        Ok(partial)
    }

    /// Names the streams that match, with counts of their rows in `time`; each once, in label order. Ends early, with
    /// less than there is, once `abandoned` is set.
    pub fn streams(&self, matchers: &[Matcher], time: TimeRange, abandoned: &AtomicBool) -> Vec<StreamStat> {
        let mut found: BTreeMap<Labels, Count> = BTreeMap::new();
        self.for_each_stream(matchers, time, |stream| {
            if abandoned.load(Ordering::Relaxed) {
                return;
            }
            let count = Count::of(stream, self.offsets, time);
            if count.rows > 0 {
                found.entry(stream.labels().clone()).or_default().add(count);
            }
        });
        let stat = |(labels, count): (Labels, Count)| StreamStat {
            labels,
            rows: count.rows,
            line_bytes: count.line_bytes,
            time: TimeRange::closed(TimestampNs::from_nanos(count.min), TimestampNs::from_nanos(count.max)),
        };
        found.into_iter().map(stat).collect()
    }

    /// The latest slices of streams that match, at most so many, in the order of their offsets.
    pub fn latest(&self, matchers: &[Matcher], count: usize) -> Vec<Slice> {
        let mut found: Vec<Slice> = Vec::new();
        let cut = |found: &mut Vec<Slice>| {
            found.sort_by_key(|slice| slice.offset);
            found.drain(..found.len().saturating_sub(count));
        };
        self.for_each_stream(matchers, TimeRange::ALL, |stream| {
            let (slices, first) = (stream.slices(), found.len());
            let latest = slices.iter().rev().filter(|slice| self.offsets.contains(slice.offset)).take(count);
            found.extend(latest.cloned());
            found[first..].reverse();
            if found.len() > 8 * count {
                cut(&mut found);
            }
        });
        cut(&mut found);
        found
    }

    /// Visits the streams of all segments that match and may have rows in `time`; a stream that spans segments comes
    /// once for each.
    fn for_each_stream(&self, matchers: &[Matcher], time: TimeRange, mut visit: impl FnMut(&StreamRows)) {
        for segment in &self.segments {
            let Some(rows) = segment.tenant(self.tenant) else { continue };
            for stream in rows.streams() {
                let may_overlap = stream.stats().time.is_some_and(|has| has.overlaps(&time));
                if may_overlap && matchers.iter().all(|matcher| matcher.matches(stream.labels())) {
                    visit(&stream);
                }
            }
        }
    }
}

/// What one record has for one stream. Mostly one slice; rows of one stream and offset must be scanned in their order.
struct Unit {
    first: Slice,
    more: Vec<Slice>,
    time: TimeRange,
}

impl Unit {
    fn new(slice: &Slice) -> Self {
        Self { first: slice.clone(), more: Vec::new(), time: slice.rows.time_range() }
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

#[derive(Clone, Copy, Debug)]
struct Count {
    rows: u64,
    line_bytes: u64,
    min: i64,
    max: i64,
}

impl Default for Count {
    fn default() -> Self {
        Self { rows: 0, line_bytes: 0, min: i64::MAX, max: i64::MIN }
    }
}

impl Count {
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
            // The last nanosecond of time is never inside a range; nothing is there.
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
