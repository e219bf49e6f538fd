//! Sends entries on, batch by batch, each after the one before it was acknowledged.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Labels, Needs, Offset, PartitionId, TenantId, TimestampNs};
use schemas::record::{Record, StreamSlice};

use super::{Amount, Error, PartitionState, Position, Progress, run::Shared};

/// What an entry counts beside its texts.
const ENTRY_BYTES: usize = 32;

/// Entries that are sent together, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The same for a repeat of this batch, and for nothing else.
    pub id: String,
    /// Where the entries come from.
    pub partition: PartitionId,
    /// The streams that they are of.
    pub streams: Vec<BatchStream>,
    /// The entries.
    pub entries: Vec<Entry>,
    /// About how many bytes they are.
    pub bytes: usize,
}

/// A stream of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchStream {
    /// Whose it is in the log.
    pub tenant: TenantId,
    /// Its labels.
    pub labels: Labels,
}

/// An entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which of the batch's streams it is of.
    pub stream: usize,
    /// Its time.
    pub ts: TimestampNs,
    /// Its line; any bytes.
    pub line: Bytes,
    /// Its structured metadata, by name.
    pub metadata: Vec<(String, String)>,
    /// The record that it came in.
    pub offset: Offset,
}

/// Why a batch was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// Not now; it may have been taken all the same. Send it again, after this long at least.
    Again {
        /// What went wrong.
        reason: String,
        /// What the target asked for.
        after: Duration,
    },
    /// Not ever.
    Refused(String),
}

/// Where entries are sent.
#[async_trait]
pub trait Target: Send + Sync {
    /// Answers when the batch is safe there.
    async fn send(&self, batch: &Batch) -> Result<(), SendError>;

    /// Whether batches go one after the other, also those of different partitions.
    fn is_sequential(&self) -> bool {
        false
    }

    /// How far a sequential target has come, to be kept with the state: what lies behind was not acknowledged.
    fn position(&self) -> Option<u64> {
        None
    }
}

pub(crate) async fn partition(shared: &Shared, place: usize, state: PartitionState) -> Result<(), Error> {
    let (_, id) = shared.job().await;
    let mut sender =
        Sender { shared, place, id, partition: state.partition, begins: state.at, batch: Collected::default() };
    let outcome = sender.run(&state).await;
    if matches!(outcome, Err(Error::Stopped)) && sender.batch.entries.is_empty() {
        // Nothing waits: what was passed need not be read again.
        sender.acknowledged(sender.begins, 0).await?;
    }
    outcome
}

/// What is collected for the next batch, and what was read for it.
#[derive(Default)]
struct Collected {
    streams: Vec<BatchStream>,
    entries: Vec<Entry>,
    bytes: usize,
    read: Amount,
    undecodable: u64,
}

struct Sender<'a> {
    shared: &'a Shared,
    place: usize,
    id: String,
    partition: PartitionId,
    /// Where the batch that is collected begins.
    begins: Position,
    batch: Collected,
}

impl Sender<'_> {
    async fn run(&mut self, state: &PartitionState) -> Result<(), Error> {
        let range = model::OffsetRange::new(state.at.offset(), state.range.end);
        let mut records = self.shared.records(self.partition, range);
        while let Some(found) = records.next().await? {
            for record in found {
                if self.shared.stop.is_cancelled() {
                    return Err(Error::Stopped);
                }
                let done = if record.offset.value() == state.at.next { state.at.entries } else { 0 };
                if self.shared.wanted.tenants.wants_key(&record.key) {
                    match Record::decode(record.payload) {
                        Ok(decoded) => self.add_record(record.offset, &decoded, done).await?,
                        Err(_) => self.batch.undecodable += 1,
                    }
                }
                if self.batch.entries.is_empty() {
                    self.begins = Position::at(record.offset.next());
                }
            }
        }
        self.flush(Position::at(state.range.end)).await
    }

    /// Adds the wanted entries of a record but the first `done` ones, which were sent before.
    async fn add_record(&mut self, offset: Offset, record: &Record, done: u64) -> Result<(), Error> {
        if !self.shared.wanted.tenants.wants(record.tenant()) {
            return Ok(());
        }
        self.batch.read.records += u64::from(done == 0);
        let mut passed = 0;
        for slice in record.streams() {
            let entries = slice.len() as u64;
            if self.shared.wanted.wants_stream(slice.labels()) && passed + entries > done {
                self.add_slice(offset, record.tenant(), &slice, passed, done).await?;
            }
            passed += entries;
        }
        Ok(())
    }

    /// `before` is how many entries of the record lie before the slice.
    async fn add_slice(
        &mut self,
        offset: Offset,
        tenant: &TenantId,
        slice: &StreamSlice,
        before: u64,
        done: u64,
    ) -> Result<(), Error> {
        let columns = slice.batch(offset, &Needs::everything());
        let label_bytes: usize = slice.labels().iter().map(|(name, value)| name.len() + value.len() + 6).sum();
        let lines = columns.lines.content().expect("a slice hands on the lines it was asked for");
        let mut stream = None;
        for row in 0..columns.len() {
            let place = before + row as u64;
            if place < done || !self.shared.wanted.wants_time(columns.timestamps[row]) {
                continue;
            }
            let values =
                columns.metadata.iter().filter_map(|c| Some((c.name.to_string(), c.values.get(row)?.to_owned())));
            let mut metadata: Vec<(String, String)> = values.collect();
            metadata.sort_unstable();
            let bounds = lines.offsets();
            let line = lines.data().slice(bounds[row] as usize..bounds[row + 1] as usize);
            let pairs: usize = metadata.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
            let bytes = ENTRY_BYTES + line.len() + pairs;
            let with_labels = if stream.is_none() { bytes + label_bytes } else { bytes };
            if !self.batch.entries.is_empty() && self.batch.bytes + with_labels > self.shared.options.batch_bytes_max {
                self.flush(Position { next: offset.value(), entries: place }).await?;
                stream = None;
            }
            let batch = &mut self.batch;
            let stream = *stream.get_or_insert_with(|| {
                batch.bytes += label_bytes;
                let known = batch.streams.iter().position(|s| s.labels == *slice.labels() && s.tenant == *tenant);
                known.unwrap_or_else(|| {
                    batch.streams.push(BatchStream { tenant: tenant.clone(), labels: slice.labels().clone() });
                    batch.streams.len() - 1
                })
            });
            batch.bytes += bytes;
            batch.read.entries += 1;
            batch.read.line_bytes += line.len() as u64;
            let ts = TimestampNs::from_nanos(columns.timestamps[row]);
            batch.entries.push(Entry { stream, ts, line, metadata, offset });
        }
        Ok(())
    }

    /// Sends what was collected, if anything; everything before `ends` is done then.
    async fn flush(&mut self, ends: Position) -> Result<(), Error> {
        if self.batch.entries.is_empty() {
            return self.acknowledged(ends, 0).await;
        }
        if self.shared.stop.is_cancelled() {
            return Err(Error::Stopped);
        }
        let batch = Batch {
            id: format!("{}-{}-{}.{}", self.id, self.partition, self.begins.next, self.begins.entries),
            partition: self.partition,
            streams: std::mem::take(&mut self.batch.streams),
            entries: std::mem::take(&mut self.batch.entries),
            bytes: std::mem::take(&mut self.batch.bytes),
        };
        self.deliver(&batch).await?;
        Progress::add(&self.shared.components.progress.steps, 1);
        Progress::add(&self.shared.components.progress.entries, batch.entries.len() as u64);
        self.acknowledged(ends, 1).await
    }

    async fn deliver(&self, batch: &Batch) -> Result<(), Error> {
        let Some(target) = &self.shared.components.target else {
            return Err(Error::Job("there is no target to send to".to_owned()));
        };
        let failed = |reason| Error::Target { partition: self.partition, batch: batch.id.clone(), reason };
        let retry = self.shared.options.retry;
        let mut failures = 0;
        loop {
            // Not ended by a stop: whether it was acknowledged must be known.
            match target.send(batch).await {
                Ok(()) => return Ok(()),
                Err(SendError::Refused(reason)) => return Err(failed(reason)),
                Err(SendError::Again { reason, after }) => {
                    failures += 1;
                    if failures >= retry.attempts {
                        return Err(failed(format!("gave up after {failures} tries: {reason}")));
                    }
                    tracing::debug!(batch = batch.id, reason, "a batch was not taken; trying again");
                    Progress::add(&self.shared.components.progress.retries, 1);
                    retry.pause_at_least(failures, after, &self.shared.stop).await?;
                }
            }
        }
    }

    /// Everything before `ends` is done, in so many batches.
    async fn acknowledged(&mut self, ends: Position, batches: u64) -> Result<(), Error> {
        self.begins = ends;
        let collected = std::mem::take(&mut self.batch);
        self.shared
            .note(self.place, |state| {
                state.at = ends;
                state.read += collected.read;
                state.undecodable += collected.undecodable;
                state.steps += batches;
            })
            .await
    }
}
