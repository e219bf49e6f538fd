//! The log of one machine: a journal in a folder.
//!
//! All partitions share one journal, a row of segment files. Appends queue to a thread that writes all that wait,
//! syncs once and answers ([`writer`]); nothing is visible or acknowledged before its sync has ended. The newest
//! records stay in memory as the very buffers that were appended; older ones are read from the files, checked by their
//! checksums.
//!
//! ```text
//! append → queue (bounded in bytes) → batch → write + fdatasync → index, cache → answers, waiting fetches
//! fetch  → cache, or else segment file
//! ```
//!
//! *Start.* The last segment is read whole. A torn end is cut off: a write that was under way and that nobody was
//! answered. Every frame says where its commit batch began; since a batch is written only after the one before was
//! synced, a broken frame *before* a later batch was durable once, and the log refuses to open. Nothing is skipped.
//!
//! *Failure.* A failed write or sync stops the log for good ([`LogError::Stopped`]); it is never retried, since the system may
//! have dropped what it could not write. What was acknowledged can still be fetched. Start the process again.
//!
//! *Retention* removes whole segments from the front, by age and size, by default only what the readers committed
//! ([`LocalLogConfig::retain_uncommitted`]). The segment that is being written is never removed.
//!
//! Append times never go back, even when the clock does. This is a log for one machine: when its disk is lost, so is
//! what was not in blocks yet.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Clock, Offset, PartitionId, SystemClock, TenantId, TimestampNs};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Duration, Instant};

use crate::{Assignment, FetchLimits, Fetched, LogBus, LogError, LogId, Watermarks};

mod config;
mod folder;
mod frame;
mod segment;
mod state;
#[cfg(test)]
mod tests;
mod view;
mod walk;
mod writer;

pub use config::LocalLogConfig;
pub use view::LocalLogView;

use folder::{Identity, unusable};
use segment::{Segment, SegmentHeader};
use state::{Found, State};
use writer::{Active, Command, Disk, MachineDisk, Pending, Writer};

/// The journal of one machine.
pub struct LocalLog {
    shared: Arc<Shared>,
    queue: Sender<Command>,
    permits: Arc<Semaphore>,
    config: LocalLogConfig,
    writer: Mutex<Option<JoinHandle<()>>>,
    assigned: AtomicBool,
    /// One commit at a time, so that the file gets the newest state.
    committing: Arc<tokio::sync::Mutex<()>>,
}

/// What the writer and the readers share.
struct Shared {
    id: LogId,
    state: Mutex<State>,
    /// Rings when a partition gets records.
    arrivals: Vec<Notify>,
    permits: Arc<Semaphore>,
    /// Held until the log is closed or dropped.
    lock: Mutex<Option<folder::Lock>>,
}

/// Figures of a log, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalLogStats {
    /// Segment files.
    pub segments: usize,
    /// Bytes of all segment files.
    pub journal_bytes: u64,
    /// Bytes of records in memory.
    pub cache_bytes: usize,
    /// Bytes of records on their way to the disk.
    pub queue_bytes: usize,
    /// Records appended since the start.
    pub appended_records: u64,
    /// Their payload.
    pub appended_bytes: u64,
    /// Syncs since the start; records per sync say how well commits are grouped.
    pub syncs: u64,
    /// CPU time that the writer's thread has used.
    pub writer_cpu: Duration,
}

/// Up to where the journal is on the disk for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The segment that is being written.
    pub segment: u64,
    /// Bytes of it that were synced.
    pub bytes: u64,
}

impl Shared {
    /// Ends all appends and all waits.
    fn stop(&self, reason: &str) {
        self.state.lock().stopped.get_or_insert_with(|| reason.to_owned());
        self.permits.close();
        for arrival in &self.arrivals {
            arrival.notify_waiters();
        }
    }

    fn stopped(&self) -> LogError {
        LogError::Stopped(self.state.lock().stopped.clone().unwrap_or_else(|| "it was closed".to_owned()))
    }
}

impl LocalLog {
    /// Opens the log in `config.folder`, or makes one. Reads the last segment, so it takes some tenths of a second at
    /// worst; call it before the async work begins, or on a blocking thread.
    ///
    /// # Errors
    /// [`LogError::Open`] when the folder cannot be used, is in use, or `config` asks for fewer partitions than there are;
    /// [`LogError::Damaged`] when what was durable is not as it was written.
    pub fn open(config: LocalLogConfig) -> Result<Self, LogError> {
        Self::open_with(config, Arc::new(SystemClock))
    }

    /// As [`LocalLog::open`], with a clock.
    ///
    /// # Errors
    /// As [`LocalLog::open`].
    pub fn open_with(config: LocalLogConfig, clock: Arc<dyn Clock>) -> Result<Self, LogError> {
        Self::open_on(config, clock, Box::new(MachineDisk))
    }

    fn open_on(config: LocalLogConfig, clock: Arc<dyn Clock>, disk: Box<dyn Disk>) -> Result<Self, LogError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(unusable(&config.folder, problems.join("; ")));
        }
        let lock = folder::lock(&config.folder)?;
        let (identity, segments) = match Identity::read(&config.folder)? {
            Some(identity) => reopen(&config, identity)?,
            None => create(&config, clock.now())?,
        };
        let committed = folder::read_committed(&config.folder, identity.partitions);
        let last_time = segments.iter().rev().find_map(|segment| segment.index.times).map(|(_, last)| last);
        let Some(last) = segments.back() else {
            return Err(unusable(&config.folder, "there is no segment"));
        };
        let active = Active::of(last);
        let ends: Vec<Offset> = last.index.partitions.iter().map(|partition| partition.next).collect();
        let last_time = last_time.unwrap_or(last.header.start_time).max(last.header.start_time);

        let permits = Arc::new(Semaphore::new(config.queue_bytes_max));
        let shared = Arc::new(Shared {
            id: LogId(identity.log_id),
            state: Mutex::new(State::new(segments, committed, config.cache_bytes)),
            arrivals: ends.iter().map(|_| Notify::new()).collect(),
            permits: Arc::clone(&permits),
            lock: Mutex::new(Some(lock)),
        });
        let (queue, commands) = mpsc::channel();
        let writer = Writer {
            shared: Arc::clone(&shared),
            config: config.clone(),
            clock,
            queue: commands,
            disk,
            active,
            counts: vec![0; ends.len()],
            ends,
            last_time,
        };
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| unusable(&config.folder, format!("cannot start the writer's thread: {error}")))?;
        Ok(Self {
            shared,
            queue,
            permits,
            config,
            writer: Mutex::new(Some(thread)),
            assigned: AtomicBool::new(false),
            committing: Arc::default(),
        })
    }

    /// Makes durable and answers what was appended before, then closes the log and gives the folder free. Later
    /// appends, and fetches that would have to wait, get [`LogError::Stopped`]; what is there can still be fetched.
    pub async fn close(&self) {
        let _ = self.queue.send(Command::Close);
        let thread = self.writer.lock().take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.shared.lock.lock().take();
    }

    /// Removes now what retention allows; answers how many segments. It happens by itself, too.
    ///
    /// # Errors
    /// [`LogError::Stopped`].
    pub async fn enforce_retention(&self) -> Result<usize, LogError> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Command::Retain(reply)).map_err(|_| self.shared.stopped())?;
        answer.await.map_err(|_| self.shared.stopped())
    }

    /// Figures for metrics.
    pub fn stats(&self) -> LocalLogStats {
        let state = self.shared.state.lock();
        LocalLogStats {
            segments: state.segments.len(),
            journal_bytes: state.segments.iter().map(|segment| segment.index.bytes).sum(),
            cache_bytes: state.cache_bytes(),
            queue_bytes: self.config.queue_bytes_max - self.permits.available_permits(),
            appended_records: state.appended_records,
            appended_bytes: state.appended_bytes,
            syncs: state.syncs,
            writer_cpu: state.writer_cpu,
        }
    }

    /// Up to where the journal is durable. What was acknowledged lies before.
    pub fn synced(&self) -> Synced {
        let state = self.shared.state.lock();
        let last = state.segments.back();
        last.map_or(Synced { segment: 0, bytes: 0 }, |segment| Synced {
            segment: segment.header.sequence,
            bytes: segment.index.bytes,
        })
    }
}

impl Drop for LocalLog {
    fn drop(&mut self) {
        let _ = self.queue.send(Command::Close);
        if let Some(thread) = self.writer.lock().take() {
            // At most one batch's sync; then the folder is free for the next opener.
            let _ = thread.join();
        }
    }
}

/// Makes a new log: first its first segment, then the file `log`, with which it exists.
fn create(config: &LocalLogConfig, now: TimestampNs) -> Result<(Identity, VecDeque<Segment>), LogError> {
    let folder = &config.folder;
    let io = |error: std::io::Error| unusable(folder, error.to_string());
    for sequence in folder::segments(folder).map_err(io)? {
        // A start that was interrupted leaves an empty first segment. Anything else is someone's data.
        let path = segment::segment_path(folder, sequence);
        let leftover =
            sequence == 1 && Segment::load(folder, 1, config.partitions, false).is_ok_and(|l| l.segment.is_empty());
        if !leftover {
            return Err(unusable(folder, format!("it holds {} but no file 'log'; restore that file", path.display())));
        }
        std::fs::remove_file(&path).map_err(io)?;
        let _ = std::fs::remove_file(path.with_extension("idx"));
    }
    let identity = Identity { log_id: uuid::Uuid::new_v4().simple().to_string(), partitions: config.partitions };
    let header = SegmentHeader {
        log_id: identity.log_id.clone(),
        sequence: 1,
        salt: writer::random_salt(),
        base: vec![Offset::ZERO; config.partitions as usize],
        start_time: now,
    };
    let segment = Segment::create(folder, header, config.partitions).map_err(io)?;
    identity.write(folder).map_err(io)?;
    tracing::info!(folder = %folder.display(), log_id = identity.log_id, partitions = identity.partitions, "made a new local log");
    Ok((identity, VecDeque::from([segment])))
}

/// Reads what is there.
fn reopen(config: &LocalLogConfig, mut identity: Identity) -> Result<(Identity, VecDeque<Segment>), LogError> {
    let folder = &config.folder;
    let io = |error: std::io::Error| unusable(folder, error.to_string());
    if config.partitions < identity.partitions {
        let reason = format!(
            "it has {} partitions and {} are configured; partitions can be added, not removed",
            identity.partitions, config.partitions
        );
        return Err(unusable(folder, reason));
    }
    if config.partitions > identity.partitions {
        identity.partitions = config.partitions;
        identity.write(folder).map_err(io)?;
    }
    let sequences = folder::segments(folder).map_err(io)?;
    let Some(last) = sequences.last().copied() else {
        return Err(unusable(
            folder,
            "all its segments are gone; restore the folder from a copy, or remove it to begin a new log",
        ));
    };
    let mut segments: VecDeque<Segment> = VecDeque::new();
    let mut torn_bytes = 0;
    for sequence in sequences {
        let loaded = Segment::load(folder, sequence, identity.partitions, sequence == last)?;
        torn_bytes += loaded.torn_bytes;
        check_follows(folder, &identity, segments.back(), &loaded.segment)?;
        segments.push_back(loaded.segment);
    }
    // The last one is written on from its end.
    if let Some(active) = segments.back() {
        use std::io::{Seek, SeekFrom};
        (&*active.file).seek(SeekFrom::Start(active.index.bytes)).map_err(io)?;
    }
    let bytes: u64 = segments.iter().map(|segment| segment.index.bytes).sum();
    tracing::info!(
        folder = %folder.display(), log_id = identity.log_id, segments = segments.len(), bytes, torn_bytes,
        "opened the local log"
    );
    Ok((identity, segments))
}

/// Checks that `next` continues where `before` ends.
fn check_follows(folder: &Path, identity: &Identity, before: Option<&Segment>, next: &Segment) -> Result<(), LogError> {
    let path = next.path.display();
    if next.header.log_id != identity.log_id {
        return Err(unusable(folder, format!("{path} belongs to another log; remove what was mixed into this folder")));
    }
    let Some(before) = before else { return Ok(()) };
    let in_sequence = before.header.sequence + 1 == next.header.sequence;
    let mut ends = before.index.partitions.iter().map(|partition| partition.next).enumerate();
    if in_sequence && ends.all(|(p, end)| end == next.header.base(p)) {
        return Ok(());
    }
    let reason = format!(
        "{path} does not continue where {} ends: a file is missing or was changed. Restore the folder from a copy, or \
         move it aside to begin a new log (what was not in blocks is lost then)",
        before.path.display()
    );
    Err(unusable(folder, reason))
}

#[async_trait]
impl LogBus for LocalLog {
    fn log_id(&self) -> &LogId {
        &self.shared.id
    }

    fn partition_count(&self) -> u32 {
        self.shared.arrivals.len() as u32
    }

    async fn append(&self, partition: PartitionId, key: &TenantId, payload: Bytes) -> Result<Offset, LogError> {
        let (bytes, bytes_max) = (payload.len(), self.config.record_bytes_max);
        if bytes > bytes_max {
            return Err(LogError::TooLarge { bytes, bytes_max });
        }
        let count = self.partition_count();
        if partition.index() >= count {
            return Err(LogError::NoPartition { partition, count });
        }
        let key = Bytes::copy_from_slice(key.as_str().as_bytes());
        let body_crc = frame::body_crc(&key, &payload);
        // Small records count as a kilobyte, so that their number is bounded, too.
        let share = bytes.max(1024).min(self.config.queue_bytes_max) as u32;
        let permit = Arc::clone(&self.permits).acquire_many_owned(share).await.map_err(|_| self.shared.stopped())?;
        let (reply, answer) = oneshot::channel();
        let pending = Pending { partition: partition.index(), key, payload, body_crc, reply, permit };
        self.queue.send(Command::Append(pending)).map_err(|_| self.shared.stopped())?;
        answer.await.map_err(|_| self.shared.stopped())?
    }

    async fn fetch(&self, partition: PartitionId, from: Offset, limits: FetchLimits) -> Result<Fetched, LogError> {
        let deadline = Instant::now().checked_add(limits.wait_max);
        let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(24 * 3600));
        let count = self.partition_count();
        let arrivals = self.shared.arrivals.get(partition.index() as usize);
        let arrivals = arrivals.ok_or(LogError::NoPartition { partition, count })?;

        loop {
            // Listen before looking, so that nothing arrives in between.
            let mut arrival = std::pin::pin!(arrivals.notified());
            arrival.as_mut().enable();
            let (found, stopped) = {
                let state = self.shared.state.lock();
                (state.find(partition, from, limits)?, state.stopped.clone())
            };
            match found {
                Found::Records(fetched) => return Ok(fetched),
                Found::File(read) => {
                    let fetched = blocking(move || read.fetch(from, limits)).await?;
                    if !fetched.records.is_empty() {
                        return Ok(fetched);
                    }
                    // The index promised a record, and the file holds none: it was changed under our hands.
                    let reason = "a segment holds fewer records than its index says".to_owned();
                    return Err(LogError::Unavailable(reason));
                }
                Found::Nothing => {}
            }
            if let Some(reason) = stopped {
                return Err(LogError::Stopped(reason));
            }
            let arrived = tokio::time::timeout_at(deadline, arrival).await;
            if arrived.is_err() {
                return Ok(Fetched { records: Vec::new(), next: from });
            }
        }
    }

    async fn watermarks(&self, partition: PartitionId) -> Result<Watermarks, LogError> {
        self.shared.state.lock().held(partition)
    }

    async fn offset_at(&self, partition: PartitionId, time: TimestampNs) -> Result<Option<Offset>, LogError> {
        let reads = {
            let state = self.shared.state.lock();
            state.held(partition)?;
            state.find_time(partition, time)
        };
        blocking(move || {
            for read in reads {
                if let Some(offset) = read.offset_at(time)? {
                    return Ok(Some(offset));
                }
            }
            Ok(None)
        })
        .await
    }

    async fn assignment(&self) -> Result<Assignment, LogError> {
        if !self.assigned.swap(true, Ordering::AcqRel) {
            return Ok(Assignment::Assigned((0..self.partition_count()).map(PartitionId::new).collect()));
        }
        // One machine has all partitions for good.
        std::future::pending().await
    }

    async fn commit(&self, partition: PartitionId, offset: Offset) -> Result<(), LogError> {
        let guard = Arc::clone(&self.committing).lock_owned().await;
        if self.shared.lock.lock().is_none() {
            // The folder may be another's by now.
            return Err(self.shared.stopped());
        }
        let committed = {
            let mut state = self.shared.state.lock();
            state.held(partition)?;
            state.committed[partition.index() as usize] = Some(offset);
            state.committed.clone()
        };
        let folder = self.config.folder.clone();
        blocking(move || {
            let written = folder::write_committed(&folder, &committed);
            drop(guard);
            written.map_err(|error| LogError::Unavailable(format!("cannot write the committed offsets: {error}")))
        })
        .await
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        let state = self.shared.state.lock();
        state.held(partition)?;
        Ok(state.committed[partition.index() as usize])
    }
}

/// Runs what reads or writes files where it holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(LogError::Unavailable(format!("reading the log failed: {error}"))))
}
