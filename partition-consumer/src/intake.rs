//! Fetches a partition from the log into memory, turn by turn, in every phase.
//!
//! ```text
//! log ─▶ fetch ─▶ decode ─▶ the segment that fills ─▶ memory
//!          ▲                        │
//!          └──── stops at the cap ──┘
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use control::PartitionRole;
use cut::{Flushed, SegmentWriter};
use log_bus::{FetchLimits, Fetched, LogError};
use model::{Offset, OffsetRange, PartitionId};
use schemas::record::Record;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::Error;
use crate::memory::{LeadStatus, MemorySegment, OpenedAt, PartitionMemory};
use crate::state::{ConsumerState, RetryPauses};

/// How often ages, grace periods and memory are checked.
const TICK: Duration = Duration::from_millis(100);

/// After decoding this many bytes, the task yields to others on its thread.
const YIELD_BYTES: usize = 256 << 10;

/// A process that does not lead ends a segment at this fraction of the cut size, so that rows below a newer head can be
/// evicted in smaller pieces.
const READ_ALONG_PARTS: usize = 4;

type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Fetched, LogError>> + Send + 'a>>;

/// Fetches a partition and fills its segments for as long as it is held here.
pub(crate) struct Intake<'a> {
    pub(crate) state: &'a Arc<ConsumerState>,
    pub(crate) partition: PartitionId,
    label: String,
    pub(crate) memory: Arc<PartitionMemory>,
    /// The epoch of the latest known lead, of this process or another.
    pub(crate) head_epoch: u64,
    writer: SegmentWriter,
    filling: Arc<MemorySegment>,
    next: Offset,
    /// The log's end at the start. Until it is reached, answers could lack acknowledged rows.
    warm_to: Offset,
    is_stopped_at_cap: bool,
    tick: Interval,
    pauses: RetryPauses<'a>,
    not_before: Instant,
    /// Kept between turns, so that a tick does not restart a slow fetch.
    fetch: Option<Fetching<'a>>,
}

/// How a turn ended.
pub(crate) enum IntakeTurn<T> {
    /// The caller's future is ready.
    Woken(T),
    /// Records came, time passed, or the log failed in a way that another try may cure.
    Went,
    /// Retention removed the record to fetch next.
    Overtaken,
}

impl<'a> Intake<'a> {
    /// Begins to hold a partition at the head's flushed-to offset. `warm_to` is the log's end.
    pub(crate) fn new(state: &'a Arc<ConsumerState>, partition: PartitionId, head: Flushed, warm_to: Offset) -> Self {
        let writer = SegmentWriter::new();
        let start = head.flushed_to;
        let memory = PartitionMemory::new(partition, start, writer.segment().clone(), &state.budget);
        memory.set_lead_status(LeadStatus { role: PartitionRole::Warming, leads: false, epoch: head.epoch });
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        state.register(&memory);
        Self {
            state,
            partition,
            label: partition.to_string(),
            filling: memory.filling(),
            memory,
            head_epoch: head.epoch,
            writer,
            next: start,
            warm_to,
            is_stopped_at_cap: false,
            tick,
            pauses: state.retry_pauses(),
            not_before: Instant::now(),
            fetch: None,
        }
    }

    /// Everything below this offset is consumed.
    pub(crate) fn consumed(&self) -> Offset {
        self.next
    }

    /// The bytes of the filling segment, 0 while it is empty, and when its first record came.
    pub(crate) fn filling(&self) -> (usize, Option<OpenedAt>) {
        (if self.writer.is_empty() { 0 } else { self.writer.bytes() }, self.filling.opened.get().copied())
    }

    /// Changes the lead status, and publishes a change.
    pub(crate) fn set_lead_status(&self, role: PartitionRole, leads: bool, epoch: u64) {
        if self.memory.set_lead_status(LeadStatus { role, leads, epoch }) {
            self.state.metrics.leading.with_label_values(&[&self.label]).set(i64::from(leads));
            self.state.publish();
            self.note_warm();
        }
    }

    /// Waits for records and takes them in, or for `woken`, or until the next tick. `woken` is dropped if something else
    /// comes first.
    ///
    /// # Errors
    /// When the log cannot be used any more.
    pub(crate) async fn turn<T>(&mut self, woken: impl Future<Output = T>) -> Result<IntakeTurn<T>, Error> {
        self.state.report_memory();
        self.memory.evict(self.state.config.published_grace.get(), self.state.budget.is_short(), Instant::now());
        self.note_warm();
        if self.may_fetch() && Instant::now() >= self.not_before && self.fetch.is_none() {
            let config = &self.state.config;
            let limits = FetchLimits { bytes_max: config.fetch_bytes.as_usize(), wait_max: config.fetch_wait.get() };
            self.fetch = Some(self.state.components.log.fetch(self.partition, self.next, limits));
        }
        let Self { fetch, tick, state, is_stopped_at_cap, .. } = self;
        let waiting = fetch.is_some();
        let fetched = tokio::select! {
            biased;
            value = woken => return Ok(IntakeTurn::Woken(value)),
            () = state.budget.released(), if *is_stopped_at_cap => return Ok(IntakeTurn::Went),
            // Dropping a fetch half-way loses nothing: reading has no effect.
            fetched = async { fetch.as_mut().expect("the branch is off without").await }, if waiting => fetched,
            _ = tick.tick() => return Ok(IntakeTurn::Went),
        };
        self.fetch = None;
        match fetched {
            Ok(fetched) => {
                self.pauses.reset();
                self.take(fetched).await;
                Ok(IntakeTurn::Went)
            }
            Err(error) => {
                self.not_before = Instant::now() + self.pauses.next();
                self.fetch_failed(error)
            }
        }
    }

    fn fetch_failed<T>(&self, error: LogError) -> Result<IntakeTurn<T>, Error> {
        let partition = self.partition;
        match error {
            LogError::Unavailable(reason) => {
                self.state.metrics.retries.with_label_values(&["log"]).inc();
                tracing::warn!(%partition, reason, "cannot fetch; trying again");
                Ok(IntakeTurn::Went)
            }
            LogError::OutOfRange { asked, held, .. } if asked < held.first => Ok(IntakeTurn::Overtaken),
            // The offset lies above the log's end: either the log was truncated, or the broker lags. A process that
            // does not lead keeps trying; taking the lead checks which it is.
            LogError::OutOfRange { asked, held, .. } if !self.memory.lead_status().leads => {
                tracing::warn!(%partition, %asked, end = %held.end, "the log ends below what is in blocks; trying again");
                Ok(IntakeTurn::Went)
            }
            source => Err(Error::Log { partition, source }),
        }
    }

    /// False at the memory cap. A partition that is led elsewhere stops fetching earlier, when memory is short, so that
    /// there is always room for partitions whose cuts free memory. Counts each stop.
    fn may_fetch(&mut self) -> bool {
        let (budget, leads) = (&self.state.budget, self.memory.lead_status().leads);
        let has_room = if leads { budget.has_room() } else { !budget.is_short() };
        if !has_room && !self.is_stopped_at_cap {
            self.state.metrics.full_stops.inc();
            tracing::debug!(partition = %self.partition, held = budget.held(), leads, "memory is full; fetching stops");
        }
        self.is_stopped_at_cap = !has_room;
        has_room
    }

    /// Takes records in, in order. Each becomes visible as a whole.
    async fn take(&mut self, fetched: Fetched) {
        let metrics = &self.state.metrics;
        let mut since_yield = 0;
        let (mut entries, mut bytes, count) = (0, 0, fetched.records.len());
        let appended_last = fetched.records.last().map(|record| record.append_time);
        for record in fetched.records {
            debug_assert!(record.offset >= self.next, "the log answers from where it was asked");
            if record.offset < self.next {
                continue;
            }
            self.filling
                .opened
                .get_or_init(|| OpenedAt { at: Instant::now(), time: self.state.components.clock.now() });
            let payload_bytes = record.payload.len();
            let cpu = metrics.consume_cpu.start();
            let mut live = None;
            let appended = match Record::decode(record.payload.clone()) {
                Ok(decoded) => {
                    entries += decoded.entry_count() as u64;
                    let appended = self.writer.append(record.offset, &decoded);
                    if appended.streams_new > 0 {
                        let tenant = decoded.tenant().as_str();
                        metrics.memory_streams.with_label_values(&[tenant]).add(appended.streams_new as i64);
                        metrics.streams_created.with_label_values(&[tenant]).inc_by(appended.streams_new as u64);
                    }
                    live = Some(decoded);
                    appended
                }
                Err(error) => {
                    metrics.quarantined.with_label_values(&[&self.label]).inc();
                    tracing::error!(partition = %self.partition, offset = %record.offset, %error,
                        "a record cannot be decoded; it is kept as it is");
                    self.writer.quarantine(record.offset, record.payload, error.to_string())
                }
            };
            drop(cpu);
            self.filling.charge.add(appended.bytes);
            self.next = record.offset.next();
            self.memory.advance(self.next);
            if let Some(decoded) = live.filter(|_| self.memory.is_serving()) {
                self.state.tails.offer(self.partition, record.offset, &decoded);
            }
            bytes += payload_bytes as u64;
            since_yield += payload_bytes;
            if since_yield >= YIELD_BYTES {
                since_yield = 0;
                tokio::task::yield_now().await;
            }
        }
        // There may be a gap after the last record.
        self.next = self.next.max(fetched.next);
        self.memory.advance(self.next);
        let label = &[self.label.as_str()];
        metrics.records.with_label_values(label).inc_by(count as u64);
        metrics.entries.with_label_values(label).inc_by(entries);
        metrics.record_bytes.with_label_values(label).inc_by(bytes);
        let lag = appended_last.map_or(Duration::ZERO, |time| self.state.components.clock.now().since(time));
        metrics.lag_seconds.with_label_values(label).set(lag.as_secs_f64());
        self.note_warm();
        let is_large = self.writer.bytes() >= self.state.config.cut_bytes.as_usize() / READ_ALONG_PARTS;
        if is_large && !self.memory.lead_status().leads {
            self.roll();
        }
    }

    /// Begins to serve once everything is consumed that the log held at the start. On the log of one machine only the
    /// leader serves.
    fn note_warm(&self) {
        let may_serve = self.memory.lead_status().leads || self.state.peers.can_exist();
        if self.warm_to <= self.next && may_serve && !self.memory.is_serving() {
            self.memory.serve();
            self.state.tails.serve(&self.memory);
            self.state.publish();
            tracing::info!(partition = %self.partition, consumed = %self.next, "serving a partition");
        }
    }

    /// Takes in a head that another process has moved: rows below it may be evicted. If it lies above everything
    /// consumed, memory starts again there.
    pub(crate) fn note_head(&mut self, head: Flushed) {
        self.head_epoch = self.head_epoch.max(head.epoch);
        if head.flushed_to > self.next {
            self.jump(head.flushed_to);
            return;
        }
        self.memory.flushed_to(head.flushed_to, Instant::now());
        // A filling segment cannot be evicted. Ended here, it can be as soon as a head passes its end.
        if head.flushed_to > self.filling.start && !self.writer.is_empty() {
            self.roll();
        }
    }

    /// Prepares to cut from `flushed_to`, the flushed-to offset of the lead that was just taken.
    pub(crate) fn begin_lead(&mut self, flushed_to: Offset) {
        if flushed_to > self.next {
            self.jump(flushed_to);
            return;
        }
        self.memory.flushed_to(flushed_to, Instant::now());
        // No row of the segment will be cut, so no cut would ever free it.
        if flushed_to == self.next && flushed_to > self.filling.start {
            self.roll();
        }
    }

    /// Ends the filling segment, which must cover at least one offset, and begins the next one.
    pub(crate) fn roll(&mut self) -> (Arc<MemorySegment>, OffsetRange) {
        let next = SegmentWriter::new();
        let rolled = self.memory.roll(next.segment().clone());
        self.fill(next);
        rolled
    }

    fn jump(&mut self, to: Offset) {
        tracing::info!(partition = %self.partition, from = %self.next, %to, "blocks hold more than was consumed; going on after them");
        let next = SegmentWriter::new();
        self.memory.jump(to, next.segment().clone());
        self.next = to;
        self.fetch = None;
        self.not_before = Instant::now();
        self.fill(next);
    }

    fn fill(&mut self, next: SegmentWriter) {
        self.count_streams_out();
        self.writer = next;
        self.filling = self.memory.filling();
        debug_assert!(
            Arc::ptr_eq(&self.filling.segment, self.writer.segment()),
            "the segment that fills is the writer's"
        );
    }

    fn count_streams_out(&self) {
        let metrics = &self.state.metrics;
        for (tenant, streams) in self.writer.streams_by_tenant() {
            let label = &[tenant.as_str()];
            metrics.memory_streams.with_label_values(label).sub(streams as i64);
            metrics.streams_removed.with_label_values(label).inc_by(streams as u64);
        }
    }
}

/// However the task ends, readers must not wait for more rows.
impl Drop for Intake<'_> {
    fn drop(&mut self) {
        self.memory.end();
        self.state.tails.end(self.partition, self.next);
        self.state.deregister(&self.memory);
        self.count_streams_out();
        self.state.metrics.leading.with_label_values(&[&self.label]).set(0);
    }
}
