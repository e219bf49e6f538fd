//! The memory of one partition.
//!
//! ```text
//! head:      … blocks ──────────────▶F
//! memory:        [flushed][ frozen ][  filling  )W
//!                 held.start                     held.end
//! ```
//!
//! Segments follow one another without a gap. The last one fills. Segments below F stay for a grace period; the others
//! wait until a head lists them. A leader moves F with its own cuts, so that F lies between two segments. A process that
//! does not lead reads F from the head, and F may lie anywhere. A reader copies the list of segments and both bounds under
//! one short lock, and scans without a lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use control::{PartitionRole, PartitionState};
use cut::Segment;
use model::{Offset, OffsetRange, PartitionId, TimestampNs};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::budget::{Budget, Charge};

/// One segment in memory.
#[derive(Debug)]
pub(crate) struct MemorySegment {
    pub(crate) segment: Arc<Segment>,
    /// The first offset of its range. The range ends where the next segment begins.
    pub(crate) start: Offset,
    pub(crate) charge: Charge,
    /// When its first record was consumed; not set while it is empty.
    pub(crate) opened: OnceLock<OpenedAt>,
}

/// A moment on two clocks: one that never jumps, for ages, and the time of day, for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenedAt {
    pub(crate) at: Instant,
    pub(crate) time: TimestampNs,
}

/// The role of this process for a partition, and whether it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeadStatus {
    /// The role that is published.
    pub(crate) role: PartitionRole,
    /// True while it has the lead, as far as it knows. A draining process has it until another one takes it.
    pub(crate) leads: bool,
    /// The epoch of its lead, or of the latest head it knows.
    pub(crate) epoch: u64,
}

/// The memory of one partition.
#[derive(Debug)]
pub(crate) struct PartitionMemory {
    partition: PartitionId,
    budget: Arc<Budget>,
    state: Mutex<SegmentList>,
    lead_status: watch::Sender<LeadStatus>,
    /// W: everything below is consumed and visible.
    consumed: watch::Sender<Offset>,
    /// F, as far as this process knows: a head lists everything below.
    flushed: watch::Sender<Offset>,
    /// A flush wants everything below this offset in blocks.
    flush_to: AtomicI64,
    flush_wanted: Notify,
    /// True once everything is consumed that the log held at the start, so that answers are complete.
    is_serving: AtomicBool,
    /// Cancelled when the partition is no longer held here.
    ended: CancellationToken,
}

#[derive(Debug)]
struct SegmentList {
    /// Ascending; the last one fills.
    segments: VecDeque<Arc<MemorySegment>>,
    /// For each of the first segments, since when it is known to lie below F. Shorter than `segments`.
    flushed_since: VecDeque<Instant>,
    flushed: Offset,
    consumed: Offset,
}

/// The segments and bounds that a reader uses.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// Segments that may hold rows of `range`, ascending.
    pub(crate) segments: Vec<Arc<MemorySegment>>,
    /// The offsets that the answer covers.
    pub(crate) range: OffsetRange,
    /// The offsets that were held.
    pub(crate) held: OffsetRange,
}

impl PartitionMemory {
    /// Empty memory of a partition that is flushed to `start` and fills from there.
    pub(crate) fn new(partition: PartitionId, start: Offset, first: Arc<Segment>, budget: &Arc<Budget>) -> Arc<Self> {
        let held = MemorySegment { segment: first, start, charge: budget.open(false), opened: OnceLock::new() };
        let state = SegmentList {
            segments: [Arc::new(held)].into(),
            flushed_since: VecDeque::new(),
            flushed: start,
            consumed: start,
        };
        Arc::new(Self {
            partition,
            budget: budget.clone(),
            state: Mutex::new(state),
            lead_status: watch::Sender::new(LeadStatus { role: PartitionRole::Warming, leads: false, epoch: 0 }),
            consumed: watch::Sender::new(start),
            flushed: watch::Sender::new(start),
            flush_to: AtomicI64::new(start.value()),
            flush_wanted: Notify::new(),
            is_serving: AtomicBool::new(false),
            ended: CancellationToken::new(),
        })
    }

    pub(crate) fn partition(&self) -> PartitionId {
        self.partition
    }

    /// `[held.start, W)`.
    pub(crate) fn held(&self) -> OffsetRange {
        self.state.lock().held()
    }

    /// What a reader needs to answer for offsets from `from` on, as of now.
    ///
    /// # Errors
    /// The held range, when `from` lies below it.
    pub(crate) fn snapshot(&self, from: Offset) -> Result<Snapshot, OffsetRange> {
        let state = self.state.lock();
        let held = state.held();
        if from < held.start {
            return Err(held);
        }
        let after = state.segments.partition_point(|held| held.start <= from);
        let segments = state.segments.iter().skip(after.saturating_sub(1)).cloned().collect();
        Ok(Snapshot { segments, range: OffsetRange::new(from, held.end), held })
    }

    /// The filling segment.
    pub(crate) fn filling(&self) -> Arc<MemorySegment> {
        self.state.lock().filling().clone()
    }

    /// The number of all segments, and of those that wait until a head lists them.
    pub(crate) fn segment_counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.segments.len(), state.segments.len() - 1 - state.flushed_since.len())
    }

    /// Makes everything below `to` visible to readers.
    pub(crate) fn advance(&self, to: Offset) {
        {
            let mut state = self.state.lock();
            assert!(state.consumed <= to, "the consumed offset never falls");
            state.consumed = to;
        }
        self.consumed.send_if_modified(|consumed| std::mem::replace(consumed, to) != to);
    }

    /// Ends the filling segment at W and begins the next one there. Returns the ended segment and its range.
    pub(crate) fn roll(&self, next: Arc<Segment>) -> (Arc<MemorySegment>, OffsetRange) {
        let mut state = self.state.lock();
        let frozen = state.filling().clone();
        let range = OffsetRange::new(frozen.start, state.consumed);
        assert!(!range.is_empty(), "a segment covers at least one offset");
        frozen.charge.set_cuttable(false);
        let charge = self.budget.open(self.lead_status().leads);
        state.segments.push_back(Arc::new(MemorySegment {
            segment: next,
            start: range.end,
            charge,
            opened: OnceLock::new(),
        }));
        state.note_flushed(Instant::now());
        (frozen, range)
    }

    /// Drops everything and starts again at `to`, the flushed-to offset of a head. Everything held must be in blocks.
    pub(crate) fn jump(&self, to: Offset, next: Arc<Segment>) {
        let charge = self.budget.open(self.lead_status().leads);
        let first = Arc::new(MemorySegment { segment: next, start: to, charge, opened: OnceLock::new() });
        let gone = {
            let mut state = self.state.lock();
            assert!(state.consumed <= to, "rows that are not in blocks are never dropped");
            state.flushed_since.clear();
            (state.consumed, state.flushed) = (to, to);
            std::mem::replace(&mut state.segments, [first].into())
        };
        drop(gone);
        self.consumed.send_replace(to);
        self.flushed.send_replace(to);
    }

    /// Notes that a head is flushed to `to`. Segments that end below may be evicted after the grace period.
    pub(crate) fn flushed_to(&self, to: Offset, now: Instant) {
        {
            let mut state = self.state.lock();
            state.flushed = state.flushed.max(to);
            state.note_flushed(now);
        }
        self.flushed.send_if_modified(|flushed| {
            let is_news = *flushed < to;
            *flushed = to.max(*flushed);
            is_news
        });
    }

    /// As [`PartitionMemory::flushed_to`], for a cut of this process.
    pub(crate) fn published(&self, to: Offset, now: Instant) {
        self.flushed_to(to, now);
        let state = self.state.lock();
        let next = state.segments.get(state.flushed_since.len()).map(|held| held.start);
        assert!(state.flushed > to || next == Some(to), "heads list segments in their order");
    }

    /// F, as far as this process knows.
    pub(crate) fn flushed(&self) -> Offset {
        self.state.lock().flushed
    }

    /// The ended segments that no head lists completely, with their ranges.
    pub(crate) fn waiting(&self) -> VecDeque<(Arc<MemorySegment>, OffsetRange)> {
        let state = self.state.lock();
        let ended = state.segments.iter().zip(state.segments.iter().skip(1));
        let ended = ended.map(|(held, next)| (held.clone(), OffsetRange::new(held.start, next.start)));
        ended.skip(state.flushed_since.len()).collect()
    }

    /// Evicts segments that have been below F for the grace period, or all segments below F if memory is short.
    pub(crate) fn evict(&self, grace: Duration, is_short: bool, now: Instant) {
        let mut gone = Vec::new();
        let mut state = self.state.lock();
        while let Some(flushed) = state.flushed_since.front() {
            if !is_short && now.duration_since(*flushed) < grace {
                break;
            }
            state.flushed_since.pop_front();
            gone.extend(state.segments.pop_front());
        }
        // Freed outside the lock, since freeing megabytes takes a while.
        drop(state);
        drop(gone);
    }

    /// Asks the leader to cut everything below `to`.
    pub(crate) fn want_flushed(&self, to: Offset) {
        self.flush_to.fetch_max(to.value(), Ordering::Relaxed);
        self.flush_wanted.notify_one();
    }

    /// Waits for [`PartitionMemory::want_flushed`].
    pub(crate) async fn flush_wanted(&self) {
        self.flush_wanted.notified().await;
    }

    /// True when a flush wants offsets above `cut_to`, and all of them are consumed.
    pub(crate) fn is_flush_due(&self, cut_to: Offset) -> bool {
        let wanted = self.flush_to.load(Ordering::Relaxed);
        cut_to.value() < wanted && wanted <= self.held().end.value()
    }

    pub(crate) fn watch_consumed(&self) -> watch::Receiver<Offset> {
        self.consumed.subscribe()
    }

    pub(crate) fn watch_flushed(&self) -> watch::Receiver<Offset> {
        self.flushed.subscribe()
    }

    pub(crate) fn serve(&self) {
        self.is_serving.store(true, Ordering::Release);
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.is_serving.load(Ordering::Acquire)
    }

    pub(crate) fn lead_status(&self) -> LeadStatus {
        *self.lead_status.borrow()
    }

    /// Changes the lead status. Returns false if it was the same before.
    pub(crate) fn set_lead_status(&self, lead_status: LeadStatus) -> bool {
        let is_other = self.lead_status.send_if_modified(|now| std::mem::replace(now, lead_status) != lead_status);
        if is_other {
            self.filling().charge.set_cuttable(lead_status.leads);
        }
        is_other
    }

    /// The state for other processes. The held range is empty until this process serves the partition.
    pub(crate) fn published_state(&self) -> PartitionState {
        let LeadStatus { role, epoch, .. } = self.lead_status();
        let held = if self.is_serving() { self.held() } else { OffsetRange::new(Offset::ZERO, Offset::ZERO) };
        PartitionState { partition: self.partition, role, epoch, held }
    }

    /// Waits until this process does not lead the partition.
    pub(crate) async fn lead_is_over(&self) {
        let mut lead_status = self.lead_status.subscribe();
        // It cannot fail: `self` keeps the sender alive.
        let _ = lead_status.wait_for(|lead_status| !lead_status.leads).await;
    }

    pub(crate) fn end(&self) {
        self.is_serving.store(false, Ordering::Release);
        self.ended.cancel();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl SegmentList {
    fn held(&self) -> OffsetRange {
        OffsetRange::new(self.segments.front().expect("there is always a segment that fills").start, self.consumed)
    }

    fn filling(&self) -> &Arc<MemorySegment> {
        self.segments.back().expect("there is always a segment that fills")
    }

    /// Marks the ended segments that lie completely below F.
    fn note_flushed(&mut self, now: Instant) {
        while let Some(next) = self.segments.get(self.flushed_since.len() + 1)
            && next.start <= self.flushed
        {
            self.flushed_since.push_back(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId::new(0);

    fn at(offset: i64) -> Offset {
        Offset::new(offset)
    }

    /// Memory with segments that end at these offsets, and a filling one that holds 5 offsets more.
    fn memory(ends: &[i64]) -> Arc<PartitionMemory> {
        let memory = PartitionMemory::new(P, at(10), Arc::default(), &Budget::new(1000, 500));
        for end in ends {
            memory.advance(at(*end));
            memory.roll(Arc::default());
        }
        memory.advance(at(ends.last().unwrap_or(&10) + 5));
        memory
    }

    /// Checks the held range and the waiting segments after a head is flushed to `flushed`, with no grace period.
    fn check(ends: &[i64], flushed: i64, held_start: i64, waiting: &[(i64, i64)]) {
        let memory = memory(ends);
        let end = memory.held().end;
        memory.flushed_to(at(flushed), Instant::now());
        memory.evict(Duration::ZERO, false, Instant::now());
        assert_eq!(memory.held(), OffsetRange::new(at(held_start), end), "{ends:?} flushed to {flushed}");
        let found: Vec<_> = memory.waiting().iter().map(|(_, r)| (r.start.value(), r.end.value())).collect();
        assert_eq!(found, waiting, "{ends:?} flushed to {flushed}");
        assert_eq!(memory.segment_counts().1, waiting.len());
    }

    #[tokio::test]
    async fn only_segments_completely_below_the_head_are_evicted() {
        check(&[], 10, 10, &[]);
        check(&[], 13, 10, &[]);
        check(&[20, 30], 10, 10, &[(10, 20), (20, 30)]);
        check(&[20, 30], 19, 10, &[(10, 20), (20, 30)]);
        check(&[20, 30], 20, 20, &[(20, 30)]);
        check(&[20, 30], 29, 20, &[(20, 30)]);
        check(&[20, 30], 30, 30, &[]);
        check(&[20, 30], 35, 30, &[]);
    }

    #[tokio::test(start_paused = true)]
    async fn flushed_segments_stay_for_the_grace_period() {
        let (memory, grace) = (memory(&[20, 30]), Duration::from_secs(10));
        memory.flushed_to(at(20), Instant::now());
        tokio::time::advance(Duration::from_secs(6)).await;
        memory.flushed_to(at(30), Instant::now());
        // Hearing of an older head does not restart the grace period.
        memory.flushed_to(at(25), Instant::now());
        assert_eq!(memory.flushed(), at(30));
        tokio::time::advance(Duration::from_secs(5)).await;
        memory.evict(grace, false, Instant::now());
        assert_eq!(memory.held().start, at(20));
        memory.evict(grace, true, Instant::now());
        assert_eq!(memory.held().start, at(30));
    }

    #[tokio::test]
    async fn a_segment_that_ends_below_the_head_is_flushed() {
        let memory = memory(&[20]);
        memory.flushed_to(at(25), Instant::now());
        memory.roll(Arc::default());
        memory.evict(Duration::ZERO, false, Instant::now());
        assert_eq!(memory.held(), OffsetRange::new(at(25), at(25)));
    }

    #[tokio::test]
    async fn a_head_above_all_rows_restarts_the_memory() {
        let memory = memory(&[20]);
        memory.jump(at(25), Arc::default());
        assert_eq!((memory.held(), memory.flushed()), (OffsetRange::new(at(25), at(25)), at(25)));
        assert!(memory.snapshot(at(24)).is_err());
        memory.advance(at(26));
        memory.roll(Arc::default());
        assert_eq!(memory.waiting().len(), 1);
    }

    #[tokio::test]
    #[should_panic(expected = "rows that are not in blocks are never dropped")]
    async fn rows_above_the_head_are_never_dropped() {
        memory(&[20]).jump(at(24), Arc::default());
    }
}
