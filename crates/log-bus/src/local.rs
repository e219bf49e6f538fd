//! The log of one machine: a journal in a folder.
//!
//! All partitions share one journal, a sequence of segment files. Appends queue for a thread that writes all waiting
//! records, syncs once and acknowledges them ([`writer`]). Nothing is visible or acknowledged before its sync has
//! finished. The newest records stay in memory in the buffers in which they were appended. Older ones are read from the
//! files and verified by their checksums.
//!
//! ```text
//! append → queue (bounded in bytes) → batch → write + fdatasync → index, cache → acknowledgements, waiting fetches
//! fetch  → cache, or else segment file
//! ```
//!
//! *Start.* The last segment is read completely. If it ends in a torn write, that write was never acknowledged and is cut
//! off. Every frame says where its commit batch began, and a batch is written only after the previous one was synced.
//! So a broken frame *before* a later batch was durable once: the log is damaged and refuses to open. Nothing is skipped.
//!
//! *Failure.* A failed write or sync stops the log for good ([`LogError::Stopped`]). It is never retried, since the
//! system may have dropped the data it could not write. Acknowledged records can still be fetched. Restart the process.
//!
//! *Retention* removes whole segments from the front, by age and size. By default it only removes records that the
//! readers committed ([`LocalLogConfig::retain_uncommitted`]). It never removes the active segment.
//!
//! Append times never go back, even when the clock does. The log lives on one machine: if the disk is lost, all records
//! that are not in blocks yet are lost too.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Clock, Offset, PartitionId, Random, SystemClock, SystemRandom, TenantId, TimestampNs};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Duration, Instant};

use crate::{Assignment, FetchLimits, Fetched, LogBus, LogError, LogId, Watermarks};

mod config;
mod folder;
mod frame;
mod journal;
mod opening;
mod segment;
mod state;
#[cfg(test)]
mod tests;
mod view;
mod walk;
mod writer;

pub use config::LocalLogConfig;
pub use view::LocalLogView;

use folder::{blocking, unusable};
use journal::Journal;
use state::{DurableState, FileRead, RecordSource};
use writer::{ActiveSegment, Command, Disk, MachineDisk, PendingAppend, Writer};

/// The journal of one machine.
pub struct LocalLog {
    journal: Arc<Journal>,
    queue: Sender<Command>,
    permits: Arc<Semaphore>,
    config: LocalLogConfig,
    writer: Mutex<Option<JoinHandle<()>>>,
    assigned: AtomicBool,
    /// Serializes commits, so that the file ends up with the newest state.
    committing: Arc<tokio::sync::Mutex<()>>,
}

/// Statistics of a log, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalLogStats {
    /// Number of segment files.
    pub segments: usize,
    /// Bytes of all segment files.
    pub journal_bytes: u64,
    /// Bytes of records in memory.
    pub cache_bytes: usize,
    /// Bytes of records that are queued or being written.
    pub queue_bytes: usize,
    /// Number of records appended since the start.
    pub appended_records: u64,
    /// Payload bytes appended since the start.
    pub appended_bytes: u64,
    /// Number of syncs since the start. The number of records per sync shows how well appends are grouped.
    pub syncs: u64,
    /// CPU time that the writer's thread has used.
    pub writer_cpu: Duration,
}

/// The position up to which the journal is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The active segment.
    pub segment: u64,
    /// Number of its bytes that were synced.
    pub bytes: u64,
}

impl LocalLog {
    /// Opens the log in `config.folder`, or creates it. Reads the last segment, which takes some tenths of a second at
    /// worst: call this before async work begins, or on a blocking thread.
    ///
    /// # Errors
    /// [`LogError::Open`] if the folder cannot be used or is in use, or if `config` has fewer partitions than the log;
    /// [`LogError::Damaged`] if durable data is not as it was written.
    pub fn open(config: LocalLogConfig) -> Result<Self, LogError> {
        Self::open_with(config, Arc::new(SystemClock), Arc::new(SystemRandom))
    }

    /// Like [`LocalLog::open`], with the caller's clock and randomness. The latter names the log and salts its segments.
    ///
    /// # Errors
    /// As [`LocalLog::open`].
    pub fn open_with(config: LocalLogConfig, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Result<Self, LogError> {
        Self::open_on(config, clock, random, Box::new(MachineDisk))
    }

    /// Opens a view of the log in `folder`: what it holds now, even while another process uses it.
    ///
    /// # Errors
    /// [`LogError::Open`] if there is no log; [`LogError::Damaged`] if durable data is not as it was written.
    pub fn open_view(folder: impl Into<PathBuf>) -> Result<LocalLogView, LogError> {
        LocalLogView::open(&folder.into())
    }

    fn open_on(
        config: LocalLogConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        disk: Box<dyn Disk>,
    ) -> Result<Self, LogError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(unusable(&config.folder, problems.join("; ")));
        }
        let lock = folder::lock(&config.folder)?;
        let (identity, segments) = opening::open(&config, clock.now(), random.as_ref())?;
        let committed = folder::read_committed(&config.folder, identity.partitions);
        let last_time = segments.iter().rev().find_map(|segment| segment.index.times).map(|(_, last)| last);
        let Some(last) = segments.back() else {
            return Err(unusable(&config.folder, "it holds no segment"));
        };
        let active = ActiveSegment::of(last);
        let ends: Vec<Offset> = last.index.partitions.iter().map(|partition| partition.next).collect();
        let last_time = last_time.unwrap_or(last.header.start_time).max(last.header.start_time);

        let permits = Arc::new(Semaphore::new(config.queue_bytes_max));
        let journal = Arc::new(Journal {
            id: LogId(identity.log_id),
            state: Mutex::new(DurableState::new(segments, committed, config.cache_bytes)),
            arrivals: ends.iter().map(|_| Notify::new()).collect(),
            permits: Arc::clone(&permits),
            random,
            lock: Mutex::new(Some(lock)),
        });
        let (queue, commands) = mpsc::channel();
        let writer = Writer {
            journal: Arc::clone(&journal),
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
            journal,
            queue,
            permits,
            config,
            writer: Mutex::new(Some(thread)),
            assigned: AtomicBool::new(false),
            committing: Arc::default(),
        })
    }

    /// Completes all earlier appends, then closes the log and releases the folder. Later appends, and fetches that would
    /// have to wait, fail with [`LogError::Stopped`]. Existing records can still be fetched.
    pub async fn close(&self) {
        let _ = self.queue.send(Command::Close);
        let thread = self.writer.lock().take();
        if let Some(thread) = thread {
            let _ = blocking(move || {
                let _ = thread.join();
                Ok(())
            })
            .await;
        }
        self.journal.lock.lock().take();
    }

    /// Applies retention now and returns the number of removed segments. The log also does this by itself at an interval.
    ///
    /// # Errors
    /// [`LogError::Stopped`].
    pub async fn enforce_retention(&self) -> Result<usize, LogError> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Command::Retain(reply)).map_err(|_| self.journal.stopped())?;
        answer.await.map_err(|_| self.journal.stopped())
    }

    /// Statistics for metrics.
    pub fn stats(&self) -> LocalLogStats {
        let state = self.journal.state.lock();
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

    /// The position up to which the journal is durable. Every acknowledged record is before it.
    pub fn synced(&self) -> Synced {
        let state = self.journal.state.lock();
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
            // Takes at most one batch's sync. Then the folder is free and can be opened again.
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl LogBus for LocalLog {
    fn log_id(&self) -> &LogId {
        &self.journal.id
    }

    fn partition_count(&self) -> u32 {
        self.journal.arrivals.len() as u32
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
        // Small records count as a kilobyte, which also bounds the number of records in the queue.
        let share = bytes.max(1024).min(self.config.queue_bytes_max) as u32;
        let permit = Arc::clone(&self.permits).acquire_many_owned(share).await.map_err(|_| self.journal.stopped())?;
        let (reply, answer) = oneshot::channel();
        let pending = PendingAppend { partition: partition.index(), key, payload, body_crc, reply, permit };
        self.queue.send(Command::Append(pending)).map_err(|_| self.journal.stopped())?;
        answer.await.map_err(|_| self.journal.stopped())?
    }

    async fn fetch(&self, partition: PartitionId, from: Offset, limits: FetchLimits) -> Result<Fetched, LogError> {
        let deadline = Instant::now().checked_add(limits.wait_max);
        let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(24 * 3600));
        let count = self.partition_count();
        let arrivals = self.journal.arrivals.get(partition.index() as usize);
        let arrivals = arrivals.ok_or(LogError::NoPartition { partition, count })?;

        loop {
            // Listen before looking, so that no record is missed in between.
            let mut arrival = std::pin::pin!(arrivals.notified());
            arrival.as_mut().enable();
            let (source, stopped) = {
                let state = self.journal.state.lock();
                (state.find(partition, from, limits)?, state.stopped.clone())
            };
            match source {
                RecordSource::Cache(fetched) => return Ok(fetched),
                RecordSource::File(read) => {
                    let fetched = blocking(move || read.fetch(from, limits)).await?;
                    if !fetched.records.is_empty() {
                        return Ok(fetched);
                    }
                    // The file was changed while the log was open.
                    let reason = "a segment holds fewer records than its index says".to_owned();
                    return Err(LogError::Unavailable(reason));
                }
                RecordSource::Nothing => {}
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
        self.journal.state.lock().held(partition)
    }

    async fn offset_at(&self, partition: PartitionId, time: TimestampNs) -> Result<Option<Offset>, LogError> {
        let reads = {
            let state = self.journal.state.lock();
            state.held(partition)?;
            state.find_time(partition, time)
        };
        blocking(move || FileRead::first_offset_at(&reads, time)).await
    }

    async fn assignment(&self) -> Result<Assignment, LogError> {
        if !self.assigned.swap(true, Ordering::AcqRel) {
            return Ok(Assignment::Assigned((0..self.partition_count()).map(PartitionId::new).collect()));
        }
        // The process owns all partitions for good.
        std::future::pending().await
    }

    async fn commit(&self, partition: PartitionId, offset: Offset) -> Result<(), LogError> {
        let guard = Arc::clone(&self.committing).lock_owned().await;
        if self.journal.lock.lock().is_none() {
            // Another process may own the folder by now.
            return Err(self.journal.stopped());
        }
        let committed = {
            let mut state = self.journal.state.lock();
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
        let state = self.journal.state.lock();
        state.held(partition)?;
        Ok(state.committed[partition.index() as usize])
    }
}
