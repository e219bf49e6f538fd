//! The writer's thread: takes all waiting appends, writes them at once, syncs once and acknowledges them.
//!
//! ```text
//! queue → batch (offsets, time) → one vectored write → one fdatasync → visible to readers → acknowledgements
//! ```
//!
//! The next batch forms while a sync runs, so no append waits just to share a batch. A failed write or sync stops the
//! log for good: after a failed sync the system may have dropped the data and still report success for the next sync.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use model::{Clock, Offset, TimestampNs};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::config::LocalLogConfig;
use super::frame::{FrameHeader, HEADER_BYTES};
use super::journal::Journal;
use super::segment::{self, Segment, SegmentHeader};
use crate::{LogError, LogRecord};

/// Payloads up to this size are copied next to their header: the copy costs less than another slice of the write.
const COPY_BYTES_MAX: usize = 2 << 10;
/// The most slices that the system takes in one write.
const SLICES_MAX: usize = 1024;

/// An append that was not written yet.
pub(super) struct PendingAppend {
    pub(super) partition: u32,
    pub(super) key: Bytes,
    pub(super) payload: Bytes,
    pub(super) body_crc: u32,
    pub(super) reply: oneshot::Sender<Result<Offset, LogError>>,
    /// The record's share of the queue, released when the append is answered.
    pub(super) permit: OwnedSemaphorePermit,
}

impl PendingAppend {
    fn frame_bytes(&self) -> u64 {
        (HEADER_BYTES + self.key.len() + self.payload.len()) as u64
    }
}

/// A command for the writer.
pub(super) enum Command {
    Append(PendingAppend),
    /// Applies retention and answers with the number of removed segments.
    Retain(oneshot::Sender<usize>),
    /// Ends the thread after all earlier commands.
    Close,
}

/// The disk operations of the writer. Tests supply a disk that fails.
pub(super) trait Disk: Send {
    fn write(&mut self, file: &File, slices: &mut [IoSlice<'_>]) -> io::Result<()>;
    fn sync(&mut self, file: &File) -> io::Result<()>;
}

/// The real disk.
pub(super) struct MachineDisk;

impl Disk for MachineDisk {
    fn write(&mut self, mut file: &File, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut left = slices;
        while !left.is_empty() {
            let count = left.len().min(SLICES_MAX);
            match file.write_vectored(&left[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// The state of the writer's thread.
pub(super) struct Writer {
    pub(super) journal: Arc<Journal>,
    pub(super) config: LocalLogConfig,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) queue: Receiver<Command>,
    pub(super) disk: Box<dyn Disk>,
    pub(super) active: ActiveSegment,
    /// The next offset of each partition.
    pub(super) ends: Vec<Offset>,
    /// Number of records appended per partition by this process, which decides when to inject a gap.
    pub(super) counts: Vec<u64>,
    pub(super) last_time: TimestampNs,
}

/// The segment that is being written.
pub(super) struct ActiveSegment {
    pub(super) file: Arc<File>,
    pub(super) sequence: u64,
    pub(super) salt: u32,
    pub(super) position: u64,
    pub(super) empty: bool,
}

impl ActiveSegment {
    pub(super) fn of(segment: &Segment) -> Self {
        Self {
            file: Arc::clone(&segment.file),
            sequence: segment.header.sequence,
            salt: segment.header.salt,
            position: segment.index.bytes,
            empty: segment.is_empty(),
        }
    }
}

/// CPU time that this thread has used.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl Writer {
    /// Runs until the log is closed or fails.
    pub(super) fn run(mut self) {
        let reason = loop {
            match self.queue.recv_timeout(self.config.retention_interval) {
                Ok(Command::Append(first)) => {
                    let (batch, then) = self.collect(first);
                    if let Err((error, batch)) = self.commit(batch) {
                        let reason = format!("writing failed: {error}");
                        tracing::error!(%error, folder = %self.config.folder.display(), "the local log stops for good");
                        self.journal.stop(&reason);
                        answer_all(batch, &reason);
                        break reason;
                    }
                    match then {
                        Some(Command::Close) => break "it was closed".to_owned(),
                        Some(Command::Retain(reply)) => self.answer_retain(reply),
                        Some(Command::Append(_)) | None => {}
                    }
                }
                Ok(Command::Retain(reply)) => self.answer_retain(reply),
                Err(RecvTimeoutError::Timeout) => {
                    self.retain();
                }
                Ok(Command::Close) | Err(RecvTimeoutError::Disconnected) => break "it was closed".to_owned(),
            }
        };
        self.journal.stop(&reason);
        while let Ok(command) = self.queue.try_recv() {
            if let Command::Append(pending) = command {
                answer_all(vec![pending], &reason);
            }
        }
    }

    /// Takes the appends that wait after `first`, up to another command or a full batch.
    fn collect(&self, first: PendingAppend) -> (Vec<PendingAppend>, Option<Command>) {
        let mut bytes = first.frame_bytes();
        let mut batch = vec![first];
        while bytes < self.config.batch_bytes_max as u64 {
            match self.queue.try_recv() {
                Ok(Command::Append(pending)) => {
                    bytes += pending.frame_bytes();
                    batch.push(pending);
                }
                Ok(other) => return (batch, Some(other)),
                Err(_) => break,
            }
        }
        (batch, None)
    }

    /// Makes a batch durable, then visible, then acknowledges it. On failure returns the batch unanswered.
    fn commit(&mut self, batch: Vec<PendingAppend>) -> Result<(), (io::Error, Vec<PendingAppend>)> {
        let bytes: u64 = batch.iter().map(PendingAppend::frame_bytes).sum();
        if !self.active.empty
            && self.active.position + bytes > self.config.segment_bytes
            && let Err(error) = self.roll()
        {
            return Err((error, batch));
        }
        self.last_time = self.last_time.max(self.clock.now());
        let headers = self.number(&batch);
        let mut scratch = Vec::new();
        let mut slices = frames(&batch, &headers, self.active.salt, &mut scratch);
        let written = self.disk.write(&self.active.file, &mut slices);
        if let Err(error) = written.and_then(|()| self.disk.sync(&self.active.file)) {
            return Err((error, batch));
        }
        self.publish(batch, &headers);
        Ok(())
    }

    /// Assigns an offset to each record.
    fn number(&mut self, batch: &[PendingAppend]) -> Vec<FrameHeader> {
        let mut headers = Vec::with_capacity(batch.len());
        for pending in batch {
            let p = pending.partition as usize;
            let gap = self.config.gap_every.map_or(0, |every| {
                let count = self.counts[p];
                if count > 0 && count.is_multiple_of(every) { 1 + (count / every % 3) as i64 } else { 0 }
            });
            let offset = Offset::new(self.ends[p].value() + gap);
            self.ends[p] = offset.next();
            self.counts[p] += 1;
            headers.push(FrameHeader {
                key_bytes: pending.key.len() as u16,
                payload_bytes: pending.payload.len() as u32,
                body_crc: pending.body_crc,
                partition: pending.partition,
                offset,
                append_time: self.last_time,
                batch_start: self.active.position,
            });
        }
        headers
    }

    fn publish(&mut self, batch: Vec<PendingAppend>, headers: &[FrameHeader]) {
        let mut replies = Vec::with_capacity(batch.len());
        let mut touched = vec![false; self.ends.len()];
        let mut state = self.journal.state.lock();
        for (pending, header) in batch.into_iter().zip(headers) {
            if let Some(segment) = state.segments.back_mut() {
                segment.index.note(header, self.active.position);
            }
            self.active.position += header.frame_bytes();
            touched[header.partition as usize] = true;
            let PendingAppend { key, payload, .. } = pending;
            state.publish(
                header.partition,
                LogRecord { offset: header.offset, append_time: header.append_time, key, payload },
            );
            replies.push((pending.reply, header.offset, pending.permit));
        }
        state.syncs += 1;
        state.writer_cpu = thread_cpu();
        state.trim_cache();
        drop(state);
        self.active.empty = false;
        for (arrival, _) in self.journal.arrivals.iter().zip(touched).filter(|(_, touched)| *touched) {
            arrival.notify_waiters();
        }
        for (reply, offset, permit) in replies {
            // Released before the acknowledgement, so that an acknowledged record no longer counts as queued.
            drop(permit);
            // The caller may have stopped waiting.
            let _ = reply.send(Ok(offset));
        }
    }

    /// Closes the active segment and begins the next.
    fn roll(&mut self) -> io::Result<()> {
        let full = self.journal.state.lock().segments.back().cloned();
        if let Some(full) = full {
            full.write_index(&self.config.folder);
        }
        let header = SegmentHeader {
            log_id: self.journal.id.0.clone(),
            sequence: self.active.sequence + 1,
            salt: segment::random_salt(self.journal.random.as_ref()),
            base: self.ends.clone(),
            start_time: self.last_time,
        };
        let segment = Segment::create(&self.config.folder, header, self.ends.len() as u32)?;
        self.active = ActiveSegment::of(&segment);
        self.journal.state.lock().segments.push_back(segment);
        self.retain();
        Ok(())
    }

    fn answer_retain(&mut self, reply: oneshot::Sender<usize>) {
        let removed = self.retain();
        let _ = reply.send(removed);
    }

    /// Removes the oldest segments as far as the settings allow and returns their number. If one cannot be removed now,
    /// the next call tries again.
    fn retain(&mut self) -> usize {
        let now = self.clock.now();
        let age_max = self.config.retention_age;
        let mut removed = 0;
        loop {
            let state = self.journal.state.lock();
            let journal_bytes: u64 = state.segments.iter().map(|segment| segment.index.bytes).sum();
            let Some(oldest) = state.segments.front().filter(|_| state.segments.len() > 1) else { break };
            let aged = oldest.index.times.is_none_or(|(_, last)| now.since(last) > age_max);
            if !aged && journal_bytes <= self.config.retention_bytes {
                break;
            }
            let base_then_next =
                oldest.index.partitions.iter().enumerate().map(|(p, i)| (oldest.header.base(p), i.next));
            let committed = base_then_next
                .zip(&state.committed)
                .all(|((base, next), committed)| base == next || committed.is_some_and(|committed| committed >= next));
            if self.config.retain_uncommitted && !committed {
                break;
            }
            let path = Arc::clone(&oldest.path);
            drop(state);
            // Remove the file before the entry in memory, so that a failure leaves the log as it was. Remove one segment
            // at a time, durably, so that a crash leaves no gap in the sequence.
            if let Err(error) = segment::remove(&self.config.folder, &path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a log segment; will try again");
                break;
            }
            self.journal.state.lock().forget_oldest_segment();
            removed += 1;
        }
        removed
    }
}

/// Lays out a batch for one write: headers, keys and small payloads are copied together, large payloads are not copied.
fn frames<'a>(
    batch: &'a [PendingAppend],
    headers: &[FrameHeader],
    salt: u32,
    scratch: &'a mut Vec<u8>,
) -> Vec<IoSlice<'a>> {
    let is_large = |pending: &PendingAppend| pending.payload.len() > COPY_BYTES_MAX;
    let mut cuts = Vec::new();
    for (pending, header) in batch.iter().zip(headers) {
        scratch.extend_from_slice(&header.encode(salt));
        scratch.extend_from_slice(&pending.key);
        if is_large(pending) {
            cuts.push(scratch.len());
        } else {
            scratch.extend_from_slice(&pending.payload);
        }
    }
    let mut slices = Vec::with_capacity(2 * cuts.len() + 1);
    let mut from = 0;
    for (pending, cut) in batch.iter().filter(|pending| is_large(pending)).zip(cuts) {
        slices.push(IoSlice::new(&scratch[from..cut]));
        slices.push(IoSlice::new(&pending.payload));
        from = cut;
    }
    if from < scratch.len() {
        slices.push(IoSlice::new(&scratch[from..]));
    }
    slices
}

fn answer_all(batch: Vec<PendingAppend>, reason: &str) {
    for pending in batch {
        let _ = pending.reply.send(Err(LogError::Stopped(reason.to_owned())));
    }
}
