//! What is held of one partition, however the process stands to it.
//!
//! ```text
//! head:      … blocks ──────────────▶F
//! memory:        [flushed][ frozen ][  filling  )W
//!                 held.start                     held.end
//! ```
//!
//! Segments follow one another without gap. The last one fills. Those that lie below F stay for a grace period; the others
//! wait for a head. Whoever leads moves F with its own cuts, so that F lies between segments; who does not lead reads it
//! from the head, and it may lie anywhere. A reader takes a list of segments and both bounds under one short lock, and
//! scans without any.

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
    /// Where its range begins; it ends where the next one begins.
    pub(crate) start: Offset,
    pub(crate) charge: Charge,
    /// When its first record was consumed; not set while it has none.
    pub(crate) opened: OnceLock<OpenedAt>,
}

/// A moment on both clocks: ages go by the one that never jumps, what people read by the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenedAt {
    pub(crate) at: Instant,
    pub(crate) time: TimestampNs,
}

/// How this process stands to the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeadStatus {
    /// What others are told.
    pub(crate) role: PartitionRole,
    /// It has the lead, as far as it knows: also while it drains, until another one takes it.
    pub(crate) leads: bool,
    /// Of its lead, or else of the head that it knows.
    pub(crate) epoch: u64,
}

/// The memory of one partition.
#[derive(Debug)]
pub(crate) struct PartitionMemory {
    partition: PartitionId,
    budget: Arc<Budget>,
    state: Mutex<SegmentList>,
    lead_status: watch::Sender<LeadStatus>,
    /// W: everything below was consumed and is visible.
    consumed: watch::Sender<Offset>,
    /// F: everything below is listed by a head, as far as is known here.
    flushed: watch::Sender<Offset>,
    /// Everything below this is wanted in blocks.
    flush_to: AtomicI64,
    flush_wanted: Notify,
    /// Caught up with what the log held in the beginning: answers are not short any more.
    is_serving: AtomicBool,
    /// Cancelled when nothing more will come.
    ended: CancellationToken,
}

#[derive(Debug)]
struct SegmentList {
    /// Ascending; the last one fills.
    segments: VecDeque<Arc<MemorySegment>>,
    /// Since when each of the first segments is known to be below F; shorter than `segments`.
    flushed_since: VecDeque<Instant>,
    flushed: Offset,
    consumed: Offset,
}

/// What a reader took.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// Segments that may hold rows of `range`, ascending.
    pub(crate) segments: Vec<Arc<MemorySegment>>,
    /// The offsets that the answer is about.
    pub(crate) range: OffsetRange,
    /// What was held.
    pub(crate) held: OffsetRange,
}

impl PartitionMemory {
    /// The memory of a partition that is flushed up to `start`, to be filled from there.
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

    /// What a reader needs to answer for offsets `from` and above, as of now. `Err` holds what is held when `from`
    /// lies below it.
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

    /// The segment that fills.
    pub(crate) fn filling(&self) -> Arc<MemorySegment> {
        self.state.lock().filling().clone()
    }

    /// How many segments there are, and how many of them wait for a head.
    pub(crate) fn segment_counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.segments.len(), state.segments.len() - 1 - state.flushed_since.len())
    }

    /// Makes everything below `to` visible to readers.
    pub(crate) fn advance(&self, to: Offset) {
        {
            let mut state = self.state.lock();
            assert!(state.consumed <= to, "what is consumed never shrinks");
            state.consumed = to;
        }
        self.consumed.send_if_modified(|consumed| std::mem::replace(consumed, to) != to);
    }

    /// Ends the segment that fills at W, and begins the next one there. Answers the one that ended, and its range.
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

    /// Lets everything go and begins anew at `to`, which a head is flushed to: nothing that is not in blocks may be held.
    pub(crate) fn jump(&self, to: Offset, next: Arc<Segment>) {
        let charge = self.budget.open(self.lead_status().leads);
        let first = Arc::new(MemorySegment { segment: next, start: to, charge, opened: OnceLock::new() });
        let gone = {
            let mut state = self.state.lock();
            assert!(state.consumed <= to, "what is not in blocks is not let go");
            state.flushed_since.clear();
            (state.consumed, state.flushed) = (to, to);
            std::mem::replace(&mut state.segments, [first].into())
        };
        drop(gone);
        self.consumed.send_replace(to);
        self.flushed.send_replace(to);
    }

    /// Takes note that a head is flushed to `to`. Segments that end below may go after the grace period.
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

    /// As [`PartitionMemory::flushed_to`], of a cut that was made here.
    pub(crate) fn published(&self, to: Offset, now: Instant) {
        self.flushed_to(to, now);
        let state = self.state.lock();
        let next = state.segments.get(state.flushed_since.len()).map(|held| held.start);
        assert!(state.flushed > to || next == Some(to), "heads list segments in their order");
    }

    /// F, as far as is known here.
    pub(crate) fn flushed(&self) -> Offset {
        self.state.lock().flushed
    }

    /// The segments that ended and that no head lists whole, with their ranges.
    pub(crate) fn waiting(&self) -> VecDeque<(Arc<MemorySegment>, OffsetRange)> {
        let state = self.state.lock();
        let ended = state.segments.iter().zip(state.segments.iter().skip(1));
        let ended = ended.map(|(held, next)| (held.clone(), OffsetRange::new(held.start, next.start)));
        ended.skip(state.flushed_since.len()).collect()
    }

    /// Lets segments below F go: those older than the grace period, or, when memory is short, all.
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
        // Freeing megabytes takes a while: not under the lock.
        drop(state);
        drop(gone);
    }

    /// Asks for everything below `to` to be cut.
    pub(crate) fn want_flushed(&self, to: Offset) {
        self.flush_to.fetch_max(to.value(), Ordering::Relaxed);
        self.flush_wanted.notify_one();
    }

    /// Waits for [`PartitionMemory::want_flushed`].
    pub(crate) async fn flush_wanted(&self) {
        self.flush_wanted.notified().await;
    }

    /// True when a flush wants more than what was cut, up to `cut_to`, and everything that it wants was consumed.
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

    /// Takes another lead_status; true when it is another.
    pub(crate) fn set_lead_status(&self, lead_status: LeadStatus) -> bool {
        let is_other = self.lead_status.send_if_modified(|now| std::mem::replace(now, lead_status) != lead_status);
        if is_other {
            self.filling().charge.set_cuttable(lead_status.leads);
        }
        is_other
    }

    /// What others are told. Who is not caught up holds nothing that it would answer for.
    pub(crate) fn published_state(&self) -> PartitionState {
        let LeadStatus { role, epoch, .. } = self.lead_status();
        let held = if self.is_serving() { self.held() } else { OffsetRange::new(Offset::ZERO, Offset::ZERO) };
        PartitionState { partition: self.partition, role, epoch, held }
    }

    /// Waits until the partition is not led here.
    pub(crate) async fn lead_is_over(&self) {
        let mut lead_status = self.lead_status.subscribe();
        // The sender lives as long as this memory.
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

    /// Marks the ended segments that lie below F whole.
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

    /// Memory with segments that end at each of these offsets, and one that fills up to the last of them plus 5.
    fn memory(ends: &[i64]) -> Arc<PartitionMemory> {
        let memory = PartitionMemory::new(P, at(10), Arc::default(), &Budget::new(1000, 500));
        for end in ends {
            memory.advance(at(*end));
            memory.roll(Arc::default());
        }
        memory.advance(at(ends.last().unwrap_or(&10) + 5));
        memory
    }

    /// What is held, and the ranges that wait, after a head was seen that is flushed to `flushed`, without grace.
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
    async fn only_what_lies_below_the_head_whole_goes() {
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
    async fn what_is_flushed_stays_for_the_grace() {
        let (memory, grace) = (memory(&[20, 30]), Duration::from_secs(10));
        memory.flushed_to(at(20), Instant::now());
        tokio::time::advance(Duration::from_secs(6)).await;
        memory.flushed_to(at(30), Instant::now());
        // What was learnt twice is not younger for it.
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
    async fn a_head_above_everything_begins_anew() {
        let memory = memory(&[20]);
        memory.jump(at(25), Arc::default());
        assert_eq!((memory.held(), memory.flushed()), (OffsetRange::new(at(25), at(25)), at(25)));
        assert!(memory.snapshot(at(24)).is_err());
        memory.advance(at(26));
        memory.roll(Arc::default());
        assert_eq!(memory.waiting().len(), 1);
    }

    #[tokio::test]
    #[should_panic(expected = "what is not in blocks is not let go")]
    async fn what_is_above_the_head_is_never_let_go() {
        memory(&[20]).jump(at(24), Arc::default());
    }
}
