//! The thread that writes: takes all appends that wait, writes them at once, syncs once, answers.
//!
//! ```text
//! queue → batch (offsets, time) → one vectored write → one fdatasync → visible to readers → answers
//! ```
//!
//! While a sync runs the next batch collects; nothing waits for company. A write or sync that fails stops the log for
//! good: after a failed sync the system may have dropped what was written and say yes to the next one.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use model::{Clock, Offset, TimestampNs};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::frame::{FrameHeader, HEADER_BYTES};
use super::segment::{Segment, SegmentHeader};
use super::{LocalLogConfig, Shared, folder};
use crate::{LogError, LogRecord};

/// Bodies up to this size are copied beside their header: shorter vectors cost less than the copy.
const COPY_BYTES_MAX: usize = 2 << 10;
/// The system takes no longer vectors.
const SLICES_MAX: usize = 1024;

/// A record on its way to the disk.
pub(super) struct Pending {
    pub(super) partition: u32,
    pub(super) key: Bytes,
    pub(super) payload: Bytes,
    pub(super) body_crc: u32,
    pub(super) reply: oneshot::Sender<Result<Offset, LogError>>,
    /// Its share of the queue, given back when it is answered.
    pub(super) permit: OwnedSemaphorePermit,
}

impl Pending {
    fn frame_bytes(&self) -> u64 {
        (HEADER_BYTES + self.key.len() + self.payload.len()) as u64
    }
}

/// What the writer is asked to do.
pub(super) enum Command {
    Append(Pending),
    /// Removes what retention allows now; answers how many segments.
    Retain(oneshot::Sender<usize>),
    /// Ends the thread after all that came before.
    Close,
}

/// The two things a disk does. Tests supply one that fails.
pub(super) trait Disk: Send {
    fn write(&mut self, file: &File, slices: &mut [IoSlice<'_>]) -> io::Result<()>;
    fn sync(&mut self, file: &File) -> io::Result<()>;
}

/// The machine's.
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

/// The state of the thread.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) config: LocalLogConfig,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) queue: Receiver<Command>,
    pub(super) disk: Box<dyn Disk>,
    pub(super) active: Active,
    /// Where each partition continues.
    pub(super) ends: Vec<Offset>,
    /// Records appended per partition by this process, to know when to inject a hole.
    pub(super) counts: Vec<u64>,
    pub(super) last_time: TimestampNs,
}

/// The segment that is being written.
pub(super) struct Active {
    pub(super) file: Arc<File>,
    pub(super) sequence: u64,
    pub(super) salt: u32,
    pub(super) position: u64,
    pub(super) empty: bool,
}

impl Active {
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
    /// Works until it is told to close, or fails.
    pub(super) fn run(mut self) {
        let reason = loop {
            match self.queue.recv_timeout(self.config.retention_interval) {
                Ok(Command::Append(first)) => {
                    let (batch, then) = self.collect(first);
                    if let Err((error, batch)) = self.commit(batch) {
                        let reason = format!("writing failed: {error}");
                        tracing::error!(%error, folder = %self.config.folder.display(), "the local log stops for good");
                        self.shared.stop(&reason);
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
        self.shared.stop(&reason);
        while let Ok(command) = self.queue.try_recv() {
            if let Command::Append(pending) = command {
                answer_all(vec![pending], &reason);
            }
        }
    }

    /// Takes what waits behind `first`, up to another command or a full batch.
    fn collect(&self, first: Pending) -> (Vec<Pending>, Option<Command>) {
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

    /// Makes a batch durable, then visible, then answers it. On failure gives the batch back, unanswered.
    fn commit(&mut self, batch: Vec<Pending>) -> Result<(), (io::Error, Vec<Pending>)> {
        let bytes: u64 = batch.iter().map(Pending::frame_bytes).sum();
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

    /// Gives each record its offset.
    fn number(&mut self, batch: &[Pending]) -> Vec<FrameHeader> {
        let mut headers = Vec::with_capacity(batch.len());
        for pending in batch {
            let p = pending.partition as usize;
            let hole = self.config.gap_every.map_or(0, |every| {
                let count = self.counts[p];
                if count > 0 && count.is_multiple_of(every) { 1 + (count / every % 3) as i64 } else { 0 }
            });
            let offset = Offset::new(self.ends[p].value() + hole);
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

    fn publish(&mut self, batch: Vec<Pending>, headers: &[FrameHeader]) {
        let mut replies = Vec::with_capacity(batch.len());
        let mut touched = vec![false; self.ends.len()];
        let mut state = self.shared.state.lock();
        for (pending, header) in batch.into_iter().zip(headers) {
            if let Some(segment) = state.segments.back_mut() {
                segment.index.note(header, self.active.position);
            }
            self.active.position += header.frame_bytes();
            touched[header.partition as usize] = true;
            let Pending { key, payload, .. } = pending;
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
        for (arrival, _) in self.shared.arrivals.iter().zip(touched).filter(|(_, touched)| *touched) {
            arrival.notify_waiters();
        }
        for (reply, offset, permit) in replies {
            // Before the answer: who was answered no longer counts.
            drop(permit);
            // Who no longer waits does not need to know.
            let _ = reply.send(Ok(offset));
        }
    }

    /// Closes the active segment and begins the next.
    fn roll(&mut self) -> io::Result<()> {
        let full = self.shared.state.lock().segments.back().cloned();
        if let Some(full) = full {
            full.write_index(&self.config.folder);
        }
        let header = SegmentHeader {
            log_id: self.shared.id.0.clone(),
            sequence: self.active.sequence + 1,
            salt: random_salt(),
            base: self.ends.clone(),
            start_time: self.last_time,
        };
        let segment = Segment::create(&self.config.folder, header, self.ends.len() as u32)?;
        self.active = Active::of(&segment);
        self.shared.state.lock().segments.push_back(segment);
        self.retain();
        Ok(())
    }

    fn answer_retain(&mut self, reply: oneshot::Sender<usize>) {
        let removed = self.retain();
        let _ = reply.send(removed);
    }

    /// Removes the oldest segments as far as the settings allow; answers how many. What cannot be removed now is tried
    /// again later.
    fn retain(&mut self) -> usize {
        let now = self.clock.now();
        let age_max = self.config.retention_age;
        let mut removed = 0;
        loop {
            let state = self.shared.state.lock();
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
            // First the name, then the memory of it: a failure leaves the log as it was. One at a time, each durable,
            // so that a crash leaves no hole.
            if let Err(error) = remove_segment(&self.config.folder, path.to_path_buf()) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a log segment, will try again");
                break;
            }
            self.shared.state.lock().forget_oldest_segment();
            removed += 1;
        }
        removed
    }
}

fn remove_segment(folder: &std::path::Path, path: PathBuf) -> io::Result<()> {
    match std::fs::remove_file(path.with_extension("idx")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::remove_file(path)?;
    folder::sync_folder(folder)
}

/// Lays the batch out for one write: headers, keys and small payloads together, large payloads as they are.
fn frames<'a>(batch: &'a [Pending], headers: &[FrameHeader], salt: u32, scratch: &'a mut Vec<u8>) -> Vec<IoSlice<'a>> {
    let is_large = |pending: &Pending| pending.payload.len() > COPY_BYTES_MAX;
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

fn answer_all(batch: Vec<Pending>, reason: &str) {
    for pending in batch {
        let _ = pending.reply.send(Err(LogError::Stopped(reason.to_owned())));
    }
}

/// Four bytes nobody can guess.
pub(super) fn random_salt() -> u32 {
    let (salt, ..) = uuid::Uuid::new_v4().as_fields();
    salt
}
