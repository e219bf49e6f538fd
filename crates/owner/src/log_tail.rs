//! Answers from the log itself, for partitions that nobody serves: the missing tail is read into segments and scanned
//! as an owner would.
//!
//! ```text
//! scan, streams ─▶ end of the log, asked now ─▶ one reader a partition: fetch ─▶ decode ─▶ chunks ─▶ scan on a thread
//!                                                              ▲                       │
//!                                                              └── bytes, kept for the next read
//! ```
//!
//! What was read stays for the next read, which fetches only what came meanwhile. A partition's rows lie in chunks that
//! follow one another; a reader takes those it needs, and scans without any lock.
//!
//! Invariants: an answer holds every record of `[from, end)`, `end` being the log's end asked after the request came,
//! or there is none; bytes kept for one partition, and in all, are bounded. Where the bounds are met the answer is
//! [`OwnerError::Unavailable`] with a text that says so, never a short one.

mod config;
mod kept;
mod metrics;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use log_bus::{FetchLimits, LogBus, LogError, Watermarks};
use model::{Offset, OffsetRange, PartitionId};
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

pub use config::LogTailConfig;

use crate::segments::{Abandoned, SegmentRows};
use crate::{OwnerError, ScanReply, ScanRequest, StreamsReply, StreamsRequest, Where};
use kept::{Kept, View};
use metrics::Metrics;

/// The pause before the log is asked again for what it does not have yet.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long one fetch waits for records that the log has: not long, since it has them.
const FETCH_WAIT: Duration = Duration::from_millis(500);

type Slot = Arc<tokio::sync::Mutex<Kept>>;

/// Reads the tails of partitions from the log. One for a process.
pub struct LogTail {
    me: Weak<Self>,
    config: LogTailConfig,
    log: Arc<dyn LogBus>,
    metrics: Metrics,
    /// The lock of a slot is held while its partition is read, so that each record is fetched once.
    slots: Mutex<BTreeMap<PartitionId, Slot>>,
    scans: Arc<Semaphore>,
    /// Lets go of what nobody asks for any more; runs only while something is kept.
    sweeper: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl LogTail {
    /// Reads this log. Nothing happens until somebody asks.
    pub fn new(config: LogTailConfig, log: Arc<dyn LogBus>) -> Arc<Self> {
        let scans = Arc::new(Semaphore::new(config.scans_max()));
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            config,
            log,
            metrics: Metrics::default(),
            slots: Mutex::default(),
            scans,
            sweeper: Mutex::default(),
        })
    }

    /// Shows how much is read from the log.
    ///
    /// # Errors
    /// When metrics of the same names are registered already.
    pub fn register(&self, registry: &prometheus::Registry) -> Result<(), prometheus::Error> {
        self.metrics.register(registry)
    }

    /// As [`crate::Owner::scan`], of any partition of the log.
    ///
    /// # Errors
    /// [`OwnerError::Removed`] when retention took records from [`Where::from`] on, [`OwnerError::Unavailable`] when
    /// the log cannot be read or the tail is too large, [`OwnerError::Deadline`] when that takes too long,
    /// [`OwnerError::Query`] when the query itself fails.
    pub async fn scan(&self, request: ScanRequest) -> Result<ScanReply, OwnerError> {
        let ScanRequest { at, query } = request;
        let work = move |rows: &SegmentRows<'_>, flag: &AtomicBool| rows.scan_all(&query, flag);
        let (partials, held) = self.read(at, work).await?;
        Ok(ScanReply { partials: partials?, held })
    }

    /// As [`crate::Owner::streams`], of any partition of the log.
    ///
    /// # Errors
    /// As [`LogTail::scan`].
    pub async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError> {
        let StreamsRequest { at, matchers, time } = request;
        let work = move |rows: &SegmentRows<'_>, flag: &AtomicBool| rows.streams(&matchers, time, flag);
        let (streams, held) = self.read(at, work).await?;
        Ok(StreamsReply { streams, held })
    }

    async fn read<T: Send + 'static>(
        &self,
        at: Where,
        work: impl FnOnce(&SegmentRows<'_>, &AtomicBool) -> T + Send + 'static,
    ) -> Result<(T, OffsetRange), OwnerError> {
        let started = Instant::now();
        let outcome = self.view(&at).await;
        let tenant = at.tenant;
        self.metrics.count(&outcome);
        let view = outcome?;
        let stopped = |why: &dyn std::fmt::Display| OwnerError::Stopped(format!("no scan can be started: {why}"));
        let permit = self.scans.clone().acquire_owned().await.map_err(|closed| stopped(&closed))?;
        let held = view.held;
        let abandoned = Abandoned::default();
        let flag = abandoned.flag();
        let done = tokio::task::spawn_blocking(move || {
            let rows = SegmentRows { segments: view.segments().collect(), offsets: view.range, tenant: &tenant };
            let found = work(&rows, &flag);
            drop(permit);
            found
        });
        let found = done.await.map_err(|panic| stopped(&panic))?;
        drop(abandoned);
        self.metrics.seconds.observe(started.elapsed().as_secs_f64());
        Ok((found, held))
    }

    /// Everything from `from` to the log's end, read as far as it is not here yet.
    async fn view(&self, at: &Where) -> Result<View, OwnerError> {
        let &Where { partition, from, deadline, .. } = at;
        let log = self.bounds(at).await?;
        let slot = self.slot(partition);
        self.start_sweeper();
        let Ok(mut kept) = timeout_at(deadline, slot.lock_owned()).await else {
            return Err(OwnerError::Deadline { partition, consumed: from, wanted: log.end });
        };
        if !kept.reaches(from) {
            if from < log.first {
                return Err(OwnerError::Removed { partition, range: OffsetRange::new(from, log.first) });
            }
            kept.restart(from);
        }
        kept.used(from, Instant::now());
        self.extend(&mut kept, at, log.end).await?;
        Ok(kept.view(from))
    }

    fn slot(&self, partition: PartitionId) -> Slot {
        let empty = || Arc::new(tokio::sync::Mutex::new(Kept::empty(self.config.chunk_bytes(), &self.metrics.bytes)));
        self.slots.lock().entry(partition).or_insert_with(empty).clone()
    }

    /// What the log holds now. Waits while it ends below what is wanted: a broker that has just taken over may be behind
    /// what its predecessor told.
    async fn bounds(&self, at: &Where) -> Result<Watermarks, OwnerError> {
        let &Where { partition, from, at_least, deadline, .. } = at;
        let least = at_least.unwrap_or(from).max(from);
        let mut consumed = from;
        while let Ok(asked) = timeout_at(deadline, self.log.watermarks(partition)).await {
            let log = asked.map_err(unavailable)?;
            if least <= log.end {
                return Ok(log);
            }
            consumed = log.end;
            if timeout_at(deadline, sleep(RETRY_PAUSE)).await.is_err() {
                break;
            }
        }
        Err(OwnerError::Deadline { partition, consumed, wanted: least })
    }

    /// Fetches up to `end`. What was fetched stays when this fails, or is dropped half-way.
    async fn extend(&self, kept: &mut Kept, at: &Where, end: Offset) -> Result<(), OwnerError> {
        let &Where { partition, from, deadline, .. } = at;
        let (limit, total) = (self.config.bytes_max.bytes(), self.config.total_bytes_max.bytes());
        let fits = |bytes: u64| bytes <= limit && self.bytes_in_all() <= total;
        while kept.next() < end {
            self.make_room(kept, at, end)?;
            let next = kept.next();
            let limits = FetchLimits { bytes_max: self.config.fetch_bytes.as_usize(), wait_max: FETCH_WAIT };
            let Ok(fetched) = timeout_at(deadline, self.log.fetch(partition, next, limits)).await else {
                return Err(OwnerError::Deadline { partition, consumed: next, wanted: end });
            };
            match fetched {
                Ok(fetched) => kept.take(fetched, fits, &self.metrics.fetched_bytes).await,
                Err(LogError::OutOfRange { held, .. }) if next < held.first => {
                    return Err(OwnerError::Removed { partition, range: OffsetRange::new(from, held.first) });
                }
                Err(error) => return Err(unavailable(error)),
            }
            if kept.next() == next {
                sleep(RETRY_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Refuses to fetch more than may be kept; lets go of others' rows, those first that were not asked for the longest.
    fn make_room(&self, kept: &mut Kept, at: &Where, end: Offset) -> Result<(), OwnerError> {
        let fetch = self.config.fetch_bytes.bytes();
        let (limit, total) = (self.config.bytes_max.bytes(), self.config.total_bytes_max.bytes());
        if kept.bytes() + fetch > limit {
            kept.trim();
        }
        if kept.bytes() + fetch > limit {
            return Err(OwnerError::Unavailable(too_large(kept, at, end, limit)));
        }
        if self.bytes_in_all() + fetch > total {
            kept.trim();
            self.let_go(|| self.bytes_in_all() + fetch <= total);
        }
        if self.bytes_in_all() + fetch > total {
            return Err(OwnerError::Unavailable(format!(
                "partition {} is served by nobody, and tails of the log that are read now take {} already (limit: \
                 log_tail.total_bytes_max, {}); wait until consumers serve their partitions again, run fewer queries at \
                 once, or raise the limit",
                at.partition,
                human(self.bytes_in_all()),
                human(total)
            )));
        }
        Ok(())
    }

    /// What all tails take, those included that are only scanned any more.
    fn bytes_in_all(&self) -> u64 {
        u64::try_from(self.metrics.bytes.get()).unwrap_or(0)
    }

    /// Lets go of what is not read now until `enough`: first of rows that heads list by now, then of whole partitions.
    fn let_go(&self, enough: impl Fn() -> bool) {
        let slots: Vec<_> = self.slots.lock().values().cloned().collect();
        // A slot that is locked is being read: it is in use, and so is the caller's own.
        let mut idle: Vec<OwnedMutexGuard<Kept>> = slots.into_iter().filter_map(|s| s.try_lock_owned().ok()).collect();
        idle.sort_by_key(|kept| kept.last_used());
        for kept in &mut idle {
            kept.trim();
        }
        for kept in &mut idle {
            if enough() {
                break;
            }
            kept.clear();
        }
    }

    fn start_sweeper(&self) {
        let mut sweeper = self.sweeper.lock();
        if sweeper.is_some() {
            return;
        }
        let (me, pause) = (self.me.clone(), self.config.idle_max.get() / 2);
        *sweeper = Some(tokio::spawn(async move {
            loop {
                sleep(pause).await;
                let Some(tails) = me.upgrade() else { return };
                if tails.sweep() {
                    return;
                }
            }
        }));
    }

    /// Lets go of what was not asked for lately. True when nothing is left: then the sweeper ends.
    fn sweep(&self) -> bool {
        // Locked in this order: whoever adds a slot looks for the sweeper afterwards.
        let mut sweeper = self.sweeper.lock();
        let mut slots = self.slots.lock();
        let (now, idle_max) = (Instant::now(), self.config.idle_max.get());
        slots.retain(|_, slot| match slot.try_lock() {
            Ok(mut kept) if now.duration_since(kept.last_used()) >= idle_max => {
                kept.clear();
                // Somebody may be about to lock it.
                Arc::strong_count(slot) > 1
            }
            Ok(mut kept) => {
                kept.trim();
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

/// Says how large a tail is that may not be read, and what helps.
fn too_large(kept: &Kept, at: &Where, end: Offset, limit: u64) -> String {
    let (bytes, next) = (kept.bytes(), kept.next());
    let span = |range: OffsetRange| range.end.value().saturating_sub(range.start.value()).max(1) as f64;
    let read = OffsetRange::new(kept.start(), next);
    let estimate = bytes as f64 / span(read) * span(OffsetRange::new(kept.start(), end));
    format!(
        "partition {} is served by nobody, and its tail in the log is too large to be read for a query: offsets {} are \
         about {} (limit: log_tail.bytes_max, {}); wait until a consumer serves the partition again, or raise the limit",
        at.partition,
        OffsetRange::new(at.from, end),
        human(estimate as u64),
        human(limit)
    )
}

fn human(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / f64::from(1 << 20))
}
