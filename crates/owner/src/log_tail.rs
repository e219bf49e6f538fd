//! Answers from the log itself, for partitions that nobody serves: reads the missing tail into segments and scans them
//! as an owner would.
//!
//! ```text
//! scan, streams ─▶ ask for the log's end ─▶ one reader per partition: fetch ─▶ decode ─▶ chunks ─▶ scan on a thread
//!                                                              ▲                           │
//!                                                              └── kept for the next read ─┘
//! ```
//!
//! The next read finds what the last one fetched, and fetches only newer records. The rows of a partition lie in chunks
//! that follow one another. A reader takes the chunks it needs and scans them without a lock.
//!
//! Invariants: an answer holds every record of `[from, end)`, where `end` is the log's end asked for after the request
//! arrived; otherwise there is no answer. The bytes kept for one partition, and for all of them, are bounded. If a bound
//! is met, the answer is [`OwnerError::Unavailable`] with a text that says so, never an incomplete one.

mod config;
mod metrics;
mod partition_tail;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use log_bus::{FetchLimits, LogBus, LogError, Watermarks};
use model::{Offset, OffsetRange, PartitionId};
use parking_lot::Mutex;
use runtime::{Abandoned, Processors, Share, Task, Tasks};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, timeout_at};

pub use config::LogTailConfig;

use crate::segments::SegmentRows;
use crate::{OwnerError, ScanReply, ScanRequest, StreamsReply, StreamsRequest, Where};
use metrics::Metrics;
use partition_tail::{PartitionTail, TailView};

/// The pause before the log is asked again for records that it does not have yet.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long one fetch waits for records. The log has them already, so a short time is enough.
const FETCH_WAIT: Duration = Duration::from_millis(500);

type Slot = Arc<tokio::sync::Mutex<PartitionTail>>;

/// Reads the tails of partitions from the log. A process has one of it.
pub struct LogTail {
    me: Weak<Self>,
    config: LogTailConfig,
    log: Arc<dyn LogBus>,
    metrics: Metrics,
    /// A reader locks the slot of its partition, so that each record is fetched once.
    slots: Mutex<BTreeMap<PartitionId, Slot>>,
    scans: Share,
    tasks: Tasks,
    /// Evicts rows that nobody asks for any more. Runs only while something is kept.
    sweeper: Mutex<Option<Task<()>>>,
}

impl LogTail {
    /// A reader of this log, which scans on these processors. It does nothing until it is asked.
    pub fn new(config: LogTailConfig, log: Arc<dyn LogBus>, processors: &Processors) -> Arc<Self> {
        let scans = processors.share("log_tail", config.scans_max);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            config,
            log,
            metrics: Metrics::default(),
            slots: Mutex::default(),
            scans,
            tasks: Tasks::new("log_tail"),
            sweeper: Mutex::default(),
        })
    }

    /// Shows the metrics.
    ///
    /// # Errors
    /// When metrics of the same names are registered already.
    pub fn register(&self, registry: &prometheus::Registry) -> Result<(), prometheus::Error> {
        self.metrics.register(registry)
    }

    /// As [`crate::Owner::scan`], for any partition of the log.
    ///
    /// # Errors
    /// [`OwnerError::Removed`] when retention removed records from [`Where::from`] on, [`OwnerError::Unavailable`] when
    /// the log cannot be read or the tail is too large, [`OwnerError::Deadline`] when that takes too long,
    /// [`OwnerError::Query`] when the query itself fails.
    pub async fn scan(&self, request: ScanRequest) -> Result<ScanReply, OwnerError> {
        let ScanRequest { at, query } = request;
        let work = move |rows: &SegmentRows<'_>, abandoned: &Abandoned| rows.scan_all(&query, abandoned);
        let (partials, held) = self.read(at, work).await?;
        Ok(ScanReply { partials: partials?, held })
    }

    /// As [`crate::Owner::streams`], for any partition of the log.
    ///
    /// # Errors
    /// As [`LogTail::scan`].
    pub async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError> {
        let StreamsRequest { at, matchers, time } = request;
        let work = move |rows: &SegmentRows<'_>, abandoned: &Abandoned| rows.streams(&matchers, time, abandoned);
        let (streams, held) = self.read(at, work).await?;
        Ok(StreamsReply { streams, held })
    }

    async fn read<T: Send + 'static>(
        &self,
        at: Where,
        work: impl FnOnce(&SegmentRows<'_>, &Abandoned) -> T + Send + 'static,
    ) -> Result<(T, OffsetRange), OwnerError> {
        let started = Instant::now();
        let outcome = self.view(&at).await;
        let tenant = at.tenant;
        self.metrics.count(&outcome);
        let view = outcome?;
        let held = view.held;
        let abandoned = Abandoned::default();
        let _abandon = abandoned.on_drop();
        let scan = self.scans.run(move || {
            let rows = SegmentRows { segments: view.segments().collect(), offsets: view.range, tenant: &tenant };
            work(&rows, &abandoned)
        });
        let answer = scan.await.map_err(|lost| OwnerError::Stopped(lost.to_string()))?;
        self.metrics.seconds.observe(started.elapsed().as_secs_f64());
        Ok((answer, held))
    }

    /// Everything from `from` to the log's end. Fetches what is not kept yet.
    async fn view(&self, at: &Where) -> Result<TailView, OwnerError> {
        let &Where { partition, from, deadline, .. } = at;
        let log = self.bounds(at).await?;
        let slot = self.slot(partition);
        self.start_sweeper();
        let Ok(mut tail) = timeout_at(deadline, slot.lock_owned()).await else {
            return Err(OwnerError::Deadline { partition, consumed: from, wanted: log.end });
        };
        if !tail.reaches(from) {
            if from < log.first {
                return Err(OwnerError::Removed { partition, range: OffsetRange::new(from, log.first) });
            }
            tail.restart(from);
        }
        tail.used(from, Instant::now());
        self.extend(&mut tail, at, log.end).await?;
        Ok(tail.view(from))
    }

    fn slot(&self, partition: PartitionId) -> Slot {
        let empty =
            || Arc::new(tokio::sync::Mutex::new(PartitionTail::empty(self.config.chunk_bytes(), &self.metrics.bytes)));
        self.slots.lock().entry(partition).or_insert_with(empty).clone()
    }

    /// The offsets that the log holds now. Waits while it ends below what is wanted: a broker that has just taken over
    /// may lag behind what its predecessor reported.
    async fn bounds(&self, at: &Where) -> Result<Watermarks, OwnerError> {
        let &Where { partition, from, at_least, deadline, .. } = at;
        let wanted = at_least.unwrap_or(from).max(from);
        let mut consumed = from;
        while let Ok(asked) = timeout_at(deadline, self.log.watermarks(partition)).await {
            let log = asked.map_err(unavailable)?;
            if wanted <= log.end {
                return Ok(log);
            }
            consumed = log.end;
            if timeout_at(deadline, sleep(RETRY_PAUSE)).await.is_err() {
                break;
            }
        }
        Err(OwnerError::Deadline { partition, consumed, wanted })
    }

    /// Fetches up to `end`. If this fails, or the future is dropped half-way, the records fetched so far are kept.
    async fn extend(&self, tail: &mut PartitionTail, at: &Where, end: Offset) -> Result<(), OwnerError> {
        let &Where { partition, from, deadline, .. } = at;
        let (limit, total) = (self.config.bytes_max.bytes(), self.config.total_bytes_max.bytes());
        let fits = |bytes: u64| bytes <= limit && self.bytes_in_all() <= total;
        while tail.next() < end {
            self.make_room(tail, at, end)?;
            let next = tail.next();
            let limits = FetchLimits { bytes_max: self.config.fetch_bytes.as_usize(), wait_max: FETCH_WAIT };
            let Ok(fetched) = timeout_at(deadline, self.log.fetch(partition, next, limits)).await else {
                return Err(OwnerError::Deadline { partition, consumed: next, wanted: end });
            };
            match fetched {
                Ok(fetched) => tail.take(fetched, fits, &self.metrics.fetched_bytes).await,
                Err(LogError::OutOfRange { held, .. }) if next < held.first => {
                    return Err(OwnerError::Removed { partition, range: OffsetRange::new(from, held.first) });
                }
                Err(error) => return Err(unavailable(error)),
            }
            if tail.next() == next {
                sleep(RETRY_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Evicts rows of other partitions, least recently used first, until another fetch fits the limits.
    ///
    /// # Errors
    /// When it does not fit even then.
    fn make_room(&self, tail: &mut PartitionTail, at: &Where, end: Offset) -> Result<(), OwnerError> {
        let fetch = self.config.fetch_bytes.bytes();
        let (limit, total) = (self.config.bytes_max.bytes(), self.config.total_bytes_max.bytes());
        if tail.bytes() + fetch > limit {
            tail.trim();
        }
        if tail.bytes() + fetch > limit {
            return Err(OwnerError::Unavailable(too_large(tail, at, end, limit)));
        }
        if self.bytes_in_all() + fetch > total {
            tail.trim();
            self.evict_until(|| self.bytes_in_all() + fetch <= total);
        }
        if self.bytes_in_all() + fetch > total {
            return Err(OwnerError::Unavailable(format!(
                "nobody serves partition {}, and the tails that other queries read from the log take {} already (limit: \
                 log_tail.total_bytes_max, {}); wait until consumers serve their partitions again, run fewer queries at \
                 once, or raise the limit",
                at.partition,
                human(self.bytes_in_all()),
                human(total)
            )));
        }
        Ok(())
    }

    /// The bytes of all tails, including evicted chunks that are still being scanned.
    fn bytes_in_all(&self) -> u64 {
        u64::try_from(self.metrics.bytes.get()).unwrap_or(0)
    }

    /// Evicts tails that are not being read until there is room: first the rows that heads list by now, then whole
    /// partitions.
    fn evict_until(&self, is_enough: impl Fn() -> bool) {
        let slots: Vec<_> = self.slots.lock().values().cloned().collect();
        // A locked slot is being read. So is the caller's own.
        let mut idle: Vec<OwnedMutexGuard<PartitionTail>> =
            slots.into_iter().filter_map(|slot| slot.try_lock_owned().ok()).collect();
        idle.sort_by_key(|tail| tail.last_used());
        for tail in &mut idle {
            tail.trim();
        }
        for tail in &mut idle {
            if is_enough() {
                break;
            }
            tail.clear();
        }
    }

    fn start_sweeper(&self) {
        let mut sweeper = self.sweeper.lock();
        if sweeper.is_some() {
            return;
        }
        let (me, pause) = (self.me.clone(), self.config.idle_max.get() / 2);
        *sweeper = Some(self.tasks.spawn("sweeper", async move {
            loop {
                sleep(pause).await;
                let Some(tails) = me.upgrade() else { return };
                if tails.sweep() {
                    return;
                }
            }
        }));
    }

    /// Evicts tails that were not read for [`LogTailConfig::idle_max`]. Returns true when nothing is left; then the
    /// sweeper ends.
    fn sweep(&self) -> bool {
        // The sweeper is locked first: readers add a slot and then look at the sweeper.
        let mut sweeper = self.sweeper.lock();
        let mut slots = self.slots.lock();
        let (now, idle_max) = (Instant::now(), self.config.idle_max.get());
        slots.retain(|_, slot| match slot.try_lock() {
            Ok(mut tail) if now.duration_since(tail.last_used()) >= idle_max => {
                tail.clear();
                // A reader that has a clone is about to lock the slot.
                Arc::strong_count(slot) > 1
            }
            Ok(mut tail) => {
                tail.trim();
                true
            }
            Err(_) => true,
        });
        if slots.is_empty() {
            *sweeper = None;
        }
        slots.is_empty()
    }
}

impl Drop for LogTail {
    fn drop(&mut self) {
        if let Some(sweeper) = self.sweeper.get_mut() {
            sweeper.abort();
        }
    }
}

fn unavailable(error: LogError) -> OwnerError {
    OwnerError::Unavailable(error.to_string())
}

/// The text for a tail that exceeds its limit: how large it is, and what helps.
fn too_large(tail: &PartitionTail, at: &Where, end: Offset, limit: u64) -> String {
    let (bytes, next) = (tail.bytes(), tail.next());
    let span = |range: OffsetRange| range.end.value().saturating_sub(range.start.value()).max(1) as f64;
    let read = OffsetRange::new(tail.start(), next);
    let estimate = bytes as f64 / span(read) * span(OffsetRange::new(tail.start(), end));
    format!(
        "nobody serves partition {}, and its tail in the log is too large to read for a query: offsets {} are about {} \
         (limit: log_tail.bytes_max, {}); wait until a consumer serves the partition again, or raise the limit",
        at.partition,
        OffsetRange::new(at.from, end),
        human(estimate as u64),
        human(limit)
    )
}

fn human(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / f64::from(1 << 20))
}
