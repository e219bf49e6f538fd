//! What is held of one partition, for as long as this process leads it once.
//!
//! ```text
//! head:      … blocks ──────────▶F
//! memory:        [published][frozen][  filling  )W
//!                 held.start                    held.end
//! ```
//!
//! Segments follow one another without gap. The last one fills; those before it wait for their head or were
//! published and stay for a grace period. A reader takes a list of segments and both bounds under one short lock,
//! and scans without any.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use cut::Segment;
use model::{Offset, OffsetRange, PartitionId};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::budget::{Budget, Charge};

/// One segment in memory.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) segment: Arc<Segment>,
    /// Where its range begins; it ends where the next one begins.
    pub(crate) start: Offset,
    pub(crate) charge: Charge,
}

/// The memory of one partition.
#[derive(Debug)]
pub(crate) struct PartitionMemory {
    partition: PartitionId,
    state: Mutex<State>,
    /// W: everything below was consumed and is visible.
    consumed: watch::Sender<Offset>,
    /// F: everything below is listed by the head.
    flushed: watch::Sender<Offset>,
    /// Everything below this is wanted in blocks.
    flush_to: AtomicI64,
    flush_wanted: Notify,
    /// Caught up with what the log held when the lead was taken: answers are not short any more.
    is_serving: AtomicBool,
    /// Cancelled when the lead is over and nothing more will come.
    ended: CancellationToken,
}

#[derive(Debug)]
struct State {
    /// Ascending; the last one fills.
    segments: VecDeque<Arc<Held>>,
    /// When each of the first segments was published; shorter than `segments`.
    published: VecDeque<Instant>,
    consumed: Offset,
}

/// What a reader took.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// Segments that may hold rows of `range`, ascending.
    pub(crate) segments: Vec<Arc<Held>>,
    /// The offsets that the answer is about.
    pub(crate) range: OffsetRange,
    /// What was held.
    pub(crate) held: OffsetRange,
}

impl PartitionMemory {
    /// The memory of a partition that is flushed up to `start`.
    pub(crate) fn new(partition: PartitionId, start: Offset, first: Arc<Segment>, budget: &Arc<Budget>) -> Arc<Self> {
        let held = Arc::new(Held { segment: first, start, charge: budget.open() });
        Arc::new(Self {
            partition,
            state: Mutex::new(State { segments: [held].into(), published: VecDeque::new(), consumed: start }),
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
        let state = self.state.lock();
        OffsetRange::new(state.start(), state.consumed)
    }

    /// What a reader needs to answer for offsets `from` and above, as of now. `Err` holds what is held when `from`
    /// lies below it.
    pub(crate) fn snapshot(&self, from: Offset) -> Result<Snapshot, OffsetRange> {
        let state = self.state.lock();
        let held = OffsetRange::new(state.start(), state.consumed);
        if from < held.start {
            return Err(held);
        }
        let after = state.segments.partition_point(|held| held.start <= from);
        let segments = state.segments.iter().skip(after.saturating_sub(1)).cloned().collect();
        Ok(Snapshot { segments, range: OffsetRange::new(from, held.end), held })
    }

    /// The segment that fills.
    pub(crate) fn filling(&self) -> Arc<Held> {
        self.state.lock().segments.back().expect("there is always a segment that fills").clone()
    }

    /// How many segments there are, and how many of them wait to be published.
    pub(crate) fn segment_counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.segments.len(), state.segments.len() - 1 - state.published.len())
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
    pub(crate) fn roll(&self, next: Arc<Segment>, budget: &Arc<Budget>) -> (Arc<Held>, OffsetRange) {
        let mut state = self.state.lock();
        let frozen = state.segments.back().expect("there is always a segment that fills").clone();
        let range = OffsetRange::new(frozen.start, state.consumed);
        assert!(!range.is_empty(), "a cut covers at least one offset");
        frozen.charge.freeze();
        state.segments.push_back(Arc::new(Held { segment: next, start: range.end, charge: budget.open() }));
        (frozen, range)
    }

    /// Takes note that the head lists the oldest segment that waited.
    pub(crate) fn published(&self, flushed_to: Offset, now: Instant) {
        {
            let mut state = self.state.lock();
            state.published.push_back(now);
            let next = state.segments.get(state.published.len()).map(|held| held.start);
            assert_eq!(next, Some(flushed_to), "heads list segments in their order");
        }
        self.flushed.send_replace(flushed_to);
    }

    /// Lets published segments go: those older than the grace period, or, when memory is short, all.
    pub(crate) fn evict(&self, grace: Duration, is_short: bool, now: Instant) {
        let mut gone = Vec::new();
        let mut state = self.state.lock();
        while let Some(published) = state.published.front() {
            if !is_short && now.duration_since(*published) < grace {
                break;
            }
            state.published.pop_front();
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

    /// True when the segment that fills must be cut for a flush, and everything asked for was consumed.
    pub(crate) fn is_flush_due(&self) -> bool {
        let state = self.state.lock();
        let (start, wanted) = (state.segments.back().map(|held| held.start), self.flush_to.load(Ordering::Relaxed));
        start.is_some_and(|start| start.value() < wanted) && wanted <= state.consumed.value()
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

    pub(crate) fn end(&self) {
        self.is_serving.store(false, Ordering::Release);
        self.ended.cancel();
    }

    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl State {
    fn start(&self) -> Offset {
        self.segments.front().expect("there is always a segment that fills").start
    }
}
