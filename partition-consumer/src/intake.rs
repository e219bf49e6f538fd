//! One lead of one partition: from taking it, through fetching and cutting, to giving it up.
//!
//! ```text
//! acquire ─▶ F ─▶ fetch ─▶ decode ─▶ segment ──cut──▶ publisher (another task) ─▶ head
//!                   ▲                    │
//!                   └── stops at the cap ┘
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use cut::{Cut, CutError, CutReason, Lead, SegmentWriter};
use log_bus::{FetchLimits, Fetched, LogError};
use model::{Offset, OffsetRange, PartitionId, TimestampNs};
use schemas::record::Record;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::config::Backoff;
use crate::consumer::Shared;
use crate::memory::{Held, PartitionMemory};
use crate::publisher::{Halt, Job, publish_all};

/// How often ages, grace periods and memory are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Decoding this much is a reason to let other tasks of the thread run.
const YIELD_BYTES: usize = 256 << 10;

/// How a lead ended, when not for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The partition goes away from here, or the process stops.
    Asked,
    /// Another process took the lead.
    Fenced,
    /// Retention removed what was to be fetched next; the next lead records that as lost.
    Overtaken,
}

/// Leads a partition, again and again, until `token` is cancelled.
///
/// Dropping the future drops everything at once, as a crash does; what was not published is read again.
pub(crate) async fn own(shared: Arc<Shared>, partition: PartitionId, token: CancellationToken) -> Result<(), Error> {
    loop {
        let Some(taken) = take_lead(&shared, partition, &token).await? else { return Ok(()) };
        match lead_once(&shared, partition, taken, &token).await? {
            Ended::Asked => return Ok(()),
            Ended::Overtaken => {}
            Ended::Fenced => {
                shared.metrics.fenced.inc();
                tokio::select! {
                    biased;
                    () = token.cancelled() => return Ok(()),
                    () = tokio::time::sleep(shared.config.fenced_pause.into()) => {}
                }
            }
        }
    }
}

/// A lead, and where the log ended when it was taken.
struct Taken {
    lead: Box<dyn Lead>,
    log_end: Offset,
}

/// Takes the lead, however long the store is away; `None` when `token` was cancelled first.
async fn take_lead(shared: &Shared, partition: PartitionId, token: &CancellationToken) -> Result<Option<Taken>, Error> {
    let mut backoff = Backoff::new(&shared.config);
    let mut was_behind = false;
    while !token.is_cancelled() {
        match shared.components.log.watermarks(partition).await {
            Ok(held) => match shared.components.blocks.acquire(partition, OffsetRange::new(held.first, held.end)).await
            {
                Ok(lead) => return Ok(Some(Taken { lead, log_end: held.end })),
                // What was flushed may have been appended after the log was asked.
                Err(CutError::LogBehind { .. }) if !was_behind => was_behind = true,
                Err(error @ (CutError::Unavailable { .. } | CutError::Fenced { .. })) => {
                    shared.metrics.retries.with_label_values(&["store"]).inc();
                    tracing::warn!(%partition, %error, "cannot take the lead of a partition; trying again");
                }
                Err(error) => return Err(error.into()),
            },
            Err(LogError::Unavailable(reason)) => {
                shared.metrics.retries.with_label_values(&["log"]).inc();
                tracing::warn!(%partition, reason, "cannot ask the log; trying again");
            }
            Err(source) => return Err(Error::Log { partition, source }),
        }
        tokio::select! {
            biased;
            () = token.cancelled() => {}
            () = tokio::time::sleep(backoff.pause()) => {}
        }
    }
    Ok(None)
}

async fn lead_once(
    shared: &Arc<Shared>,
    partition: PartitionId,
    Taken { lead, log_end }: Taken,
    token: &CancellationToken,
) -> Result<Ended, Error> {
    let start = lead.flushed_to();
    tracing::info!(%partition, epoch = lead.epoch(), from = %start, to = %log_end, "consuming a partition");
    let mut intake = Intake::new(shared, partition, start, log_end);
    let (jobs, queue) = mpsc::channel(shared.config.waiting_cuts_max.get());
    // In a set, so that it goes when this future is dropped, and is waited for when it is not.
    let mut publisher = JoinSet::new();
    publisher.spawn(publish_all(shared.clone(), intake.memory.clone(), lead, queue, token.clone()));
    shared.register(&intake.memory);
    let ended = intake.run(&jobs, token).await;
    drop(jobs);
    let halted = match publisher.join_next().await {
        Some(Ok(outcome)) => outcome,
        Some(Err(panic)) => {
            Err(Halt::Failed(CutError::Failed { partition, range: intake.memory.held(), reason: panic.to_string() }))
        }
        None => Ok(()),
    };
    drop(intake);
    match (ended, halted) {
        (_, Err(Halt::Failed(error))) => Err(error.into()),
        (Err(error), _) => Err(error),
        (Ok(_), Err(Halt::Fenced)) => Ok(Ended::Fenced),
        (Ok(_), Err(Halt::GaveUp)) => Ok(Ended::Asked),
        (Ok(ended), Ok(())) => Ok(ended),
    }
}

/// The one who fetches and fills.
struct Intake<'a> {
    shared: &'a Arc<Shared>,
    partition: PartitionId,
    label: String,
    memory: Arc<PartitionMemory>,
    writer: SegmentWriter,
    filling: Arc<Held>,
    /// When the first record of the segment that fills was consumed.
    opened: Option<TimestampNs>,
    next: Offset,
    /// Answers before this would lack what was acknowledged: the log's end when the lead was taken.
    warm_to: Offset,
    is_stopped_at_cap: bool,
}

/// What ends the intake.
enum Step {
    Go,
    End(Ended),
}

impl<'a> Intake<'a> {
    fn new(shared: &'a Arc<Shared>, partition: PartitionId, start: Offset, warm_to: Offset) -> Self {
        let writer = SegmentWriter::new();
        let memory = PartitionMemory::new(partition, start, writer.segment().clone(), &shared.budget);
        let filling = memory.filling();
        let label = partition.to_string();
        shared.metrics.leading.with_label_values(&[&label]).set(1);
        let (opened, is_stopped_at_cap) = (None, false);
        Self { shared, partition, label, memory, writer, filling, opened, next: start, warm_to, is_stopped_at_cap }
    }

    /// Fills and cuts until it is asked to end, and then cuts what is left.
    async fn run(&mut self, jobs: &mpsc::Sender<Job>, token: &CancellationToken) -> Result<Ended, Error> {
        self.note_warm();
        let outcome = self.consume(jobs, token).await;
        // Whatever was consumed is published, also when the log has failed. When the publisher is gone the
        // channel is closed, and nobody can.
        if self.memory.held().end > self.filling.start
            && let Ok(slot) = jobs.reserve().await
        {
            slot.send(self.cut(CutReason::NotOwned));
        }
        outcome
    }

    async fn consume(&mut self, jobs: &mpsc::Sender<Job>, token: &CancellationToken) -> Result<Ended, Error> {
        let (shared, memory) = (self.shared, self.memory.clone());
        let log = &shared.components.log;
        let limits =
            FetchLimits { bytes_max: shared.config.fetch_bytes.as_usize(), wait_max: shared.config.fetch_wait.into() };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::new(&shared.config);
        let mut not_before = Instant::now();
        // Kept over turns of the loop: a slow fetch must not begin anew with each tick.
        let mut fetch = None;
        loop {
            if token.is_cancelled() {
                return Ok(Ended::Asked);
            }
            if jobs.is_closed() {
                // The publisher says why.
                return Ok(Ended::Fenced);
            }
            self.housekeeping();
            if let Some(reason) = self.cut_due() {
                // With too many cuts under way this waits, and nothing is fetched: the log is the buffer.
                let slot = tokio::select! {
                    biased;
                    () = token.cancelled() => continue,
                    slot = jobs.reserve() => slot,
                };
                if let Ok(slot) = slot {
                    slot.send(self.cut(reason));
                }
                continue;
            }
            let may_fetch = self.may_fetch() && Instant::now() >= not_before;
            if may_fetch && fetch.is_none() {
                fetch = Some(log.fetch(self.partition, self.next, limits));
            }
            let waiting = fetch.is_some();
            tokio::select! {
                biased;
                () = token.cancelled() => {}
                () = jobs.closed() => {}
                () = memory.flush_wanted() => {}
                () = shared.budget.released(), if self.is_stopped_at_cap => {}
                // Dropping a fetch in mid-flight, at the end, loses nothing: reading has no effect.
                fetched = async { fetch.as_mut().expect("the branch is off without").await }, if waiting => {
                    fetch = None;
                    match fetched {
                        Ok(fetched) => {
                            backoff.reset();
                            self.take(fetched).await;
                        }
                        Err(error) => {
                            if let Step::End(ended) = self.fetch_failed(error)? {
                                return Ok(ended);
                            }
                            not_before = Instant::now() + backoff.pause();
                        }
                    }
                }
                _ = tick.tick() => {}
            }
        }
    }

    fn fetch_failed(&self, error: LogError) -> Result<Step, Error> {
        match error {
            LogError::Unavailable(reason) => {
                self.shared.metrics.retries.with_label_values(&["log"]).inc();
                tracing::warn!(partition = %self.partition, reason, "cannot fetch; trying again");
                Ok(Step::Go)
            }
            LogError::OutOfRange { asked, held, .. } if asked < held.first => {
                tracing::error!(partition = %self.partition, %asked, first = %held.first,
                    "retention has passed this consumer: records were removed before they were read");
                Ok(Step::End(Ended::Overtaken))
            }
            // Above the end: the log was truncated. The next lead would see that too; stop here.
            source => Err(Error::Log { partition: self.partition, source }),
        }
    }

    /// False at the cap. Counts each time that it becomes so.
    fn may_fetch(&mut self) -> bool {
        let has_room = self.shared.budget.has_room();
        if !has_room && !self.is_stopped_at_cap {
            self.shared.metrics.full_stops.inc();
            tracing::debug!(partition = %self.partition, held = self.shared.budget.held(), "memory is full; fetching stops");
        }
        self.is_stopped_at_cap = !has_room;
        has_room
    }

    /// Takes records in, in order; each is visible as a whole at once.
    async fn take(&mut self, fetched: Fetched) {
        let metrics = &self.shared.metrics;
        let mut since_yield = 0;
        let (mut entries, mut bytes, count) = (0, 0, fetched.records.len());
        let appended_last = fetched.records.last().map(|record| record.append_time);
        for record in fetched.records {
            debug_assert!(record.offset >= self.next, "the log answers from where it was asked");
            if record.offset < self.next {
                continue;
            }
            self.opened.get_or_insert_with(|| self.shared.components.clock.now());
            let payload_bytes = record.payload.len();
            let cpu = metrics.consume_cpu.start();
            let appended = match Record::decode(record.payload.clone()) {
                Ok(decoded) => {
                    entries += decoded.entry_count() as u64;
                    let appended = self.writer.append(record.offset, &decoded);
                    if appended.streams_new > 0 {
                        let tenant = decoded.tenant().as_str();
                        metrics.memory_streams.with_label_values(&[tenant]).add(appended.streams_new as i64);
                        metrics.streams_created.with_label_values(&[tenant]).inc_by(appended.streams_new as u64);
                    }
                    if self.memory.is_serving() {
                        self.shared.tails.offer(self.partition, record.offset, &decoded);
                    }
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
            bytes += payload_bytes as u64;
            since_yield += payload_bytes;
            if since_yield >= YIELD_BYTES {
                since_yield = 0;
                tokio::task::yield_now().await;
            }
        }
        // Behind the last record there may be gaps.
        self.next = self.next.max(fetched.next);
        self.memory.advance(self.next);
        self.note_warm();
        let label = &[self.label.as_str()];
        metrics.records.with_label_values(label).inc_by(count as u64);
        metrics.entries.with_label_values(label).inc_by(entries);
        metrics.record_bytes.with_label_values(label).inc_by(bytes);
        let lag = appended_last.map_or(Duration::ZERO, |time| self.shared.components.clock.now().since(time));
        metrics.lag_seconds.with_label_values(label).set(lag.as_secs_f64());
    }

    /// Begins to serve when all is consumed that the log held when the lead was taken.
    fn note_warm(&self) {
        if self.warm_to <= self.next && !self.memory.is_serving() {
            self.memory.serve();
            tracing::info!(partition = %self.partition, consumed = %self.next, "serving a partition");
        }
    }

    /// Whether to cut now, and why.
    fn cut_due(&self) -> Option<CutReason> {
        let (shared, bytes) = (self.shared, self.writer.bytes());
        if self.memory.is_flush_due() {
            return Some(CutReason::Forced);
        }
        if self.writer.is_empty() {
            return None;
        }
        if bytes >= shared.config.cut_bytes.as_usize() {
            return Some(CutReason::Full);
        }
        let age = self.opened.map_or(Duration::ZERO, |opened| shared.components.clock.now().since(opened));
        if age >= shared.config.cut_age.into() {
            return Some(CutReason::MaxAge);
        }
        // Cutting helps only when nothing of this partition is on its way to the store already.
        let is_idle = self.memory.segment_counts().1 == 0;
        (shared.budget.is_short() && is_idle && shared.budget.is_large(bytes)).then_some(CutReason::Pressure)
    }

    /// Ends the segment that fills and begins the next one.
    fn cut(&mut self, reason: CutReason) -> Job {
        let next = SegmentWriter::new();
        let (frozen, range) = self.memory.roll(next.segment().clone(), &self.shared.budget);
        self.count_streams_out();
        let segment = std::mem::replace(&mut self.writer, next).freeze();
        debug_assert!(Arc::ptr_eq(&segment, &frozen.segment), "the segment that fills is the writer's");
        self.filling = self.memory.filling();
        let opened = self.opened.take().unwrap_or_else(|| self.shared.components.clock.now());
        let cut = Cut { partition: self.partition, range, segment, reason, opened };
        tracing::debug!(partition = %self.partition, %range, reason = reason.as_str(), "cut");
        Job { cut, frozen: Instant::now() }
    }

    fn count_streams_out(&self) {
        let metrics = &self.shared.metrics;
        for (tenant, streams) in self.writer.streams_by_tenant() {
            let label = &[tenant.as_str()];
            metrics.memory_streams.with_label_values(label).sub(streams as i64);
            metrics.streams_removed.with_label_values(label).inc_by(streams as u64);
        }
    }

    fn housekeeping(&self) {
        let (shared, memory) = (self.shared, &self.memory);
        memory.evict(shared.config.published_grace.into(), shared.budget.is_short(), Instant::now());
        shared.report_memory();
    }
}

/// However the lead ends, nobody waits for more of it.
impl Drop for Intake<'_> {
    fn drop(&mut self) {
        self.memory.end();
        self.shared.deregister(&self.memory);
        self.count_streams_out();
        self.shared.metrics.leading.with_label_values(&[&self.label]).set(0);
    }
}
