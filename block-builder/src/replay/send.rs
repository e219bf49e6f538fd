//! Sends entries on, batch by batch. Each batch follows the acknowledgement of the previous one.

use model::{Needs, Offset, PartitionId, TenantId, TimestampNs};
use schemas::record::{Record, StreamSlice};

use super::{
    Amount, Batch, BatchStream, Entry, Error, PartitionState, Position, Progress, SendError, context::ReplayContext,
};

/// Bytes that an entry counts in addition to its line and metadata.
const ENTRY_BYTES: usize = 32;

pub(crate) async fn partition(context: &ReplayContext, place: usize, state: PartitionState) -> Result<(), Error> {
    let (_, id) = context.job().await;
    let mut sender =
        Sender { context, place, id, partition: state.partition, begins: state.at, batch: Collected::default() };
    let outcome = sender.run(&state).await;
    if matches!(outcome, Err(Error::Stopped)) && sender.batch.entries.is_empty() {
        // No entry is unsent, so that a resumed replay need not read these records again.
        sender.acknowledged(sender.begins, 0).await?;
    }
    outcome
}

/// The next batch as far as it is collected, and how much was read for it.
#[derive(Default)]
struct Collected {
    streams: Vec<BatchStream>,
    entries: Vec<Entry>,
    bytes: usize,
    read: Amount,
    undecodable: u64,
}

struct Sender<'a> {
    context: &'a ReplayContext,
    place: usize,
    id: String,
    partition: PartitionId,
    /// The position where the collected batch begins.
    begins: Position,
    batch: Collected,
}

impl Sender<'_> {
    async fn run(&mut self, state: &PartitionState) -> Result<(), Error> {
        let range = model::OffsetRange::new(state.at.offset(), state.range.end);
        let mut records = self.context.records(self.partition, range);
        while let Some(found) = records.next().await? {
            for record in found {
                if self.context.stop.is_cancelled() {
                    return Err(Error::Stopped);
                }
                let done = if record.offset.value() == state.at.next { state.at.entries } else { 0 };
                if self.context.selection.tenants.wants_key(&record.key) {
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

    /// Adds the selected entries of a record, except the first `done` entries, which were sent before.
    async fn add_record(&mut self, offset: Offset, record: &Record, done: u64) -> Result<(), Error> {
        if !self.context.selection.tenants.wants(record.tenant()) {
            return Ok(());
        }
        self.batch.read.records += u64::from(done == 0);
        let mut passed = 0;
        for slice in record.streams() {
            let entries = slice.len() as u64;
            if self.context.selection.wants_stream(slice.labels()) && passed + entries > done {
                self.add_slice(offset, record.tenant(), &slice, passed, done).await?;
            }
            passed += entries;
        }
        Ok(())
    }

    /// Adds the selected entries of a slice. `before` is the number of entries of the record before the slice.
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
            if place < done || !self.context.selection.wants_time(columns.timestamps[row]) {
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
            if !self.batch.entries.is_empty() && self.batch.bytes + with_labels > self.context.options.batch_bytes_max {
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

    /// Sends the collected entries, if there are any. After that everything before `ends` is done.
    async fn flush(&mut self, ends: Position) -> Result<(), Error> {
        if self.batch.entries.is_empty() {
            return self.acknowledged(ends, 0).await;
        }
        if self.context.stop.is_cancelled() {
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
        Progress::add(&self.context.components.progress.steps, 1);
        Progress::add(&self.context.components.progress.entries, batch.entries.len() as u64);
        self.acknowledged(ends, 1).await
    }

    async fn deliver(&self, batch: &Batch) -> Result<(), Error> {
        let Some(target) = &self.context.components.target else {
            return Err(Error::Job("there is no target to send to".to_owned()));
        };
        let failed = |reason| Error::Target { partition: self.partition, batch: batch.id.clone(), reason };
        let retries = &self.context.retries;
        let mut failures = 0;
        loop {
            // A stop does not interrupt this: the state must say whether the batch was acknowledged.
            match target.send(batch).await {
                Ok(()) => return Ok(()),
                Err(SendError::Refused(reason)) => return Err(failed(reason)),
                Err(SendError::Again { reason, after }) => {
                    failures += 1;
                    if !retries.allows_another(failures) {
                        return Err(failed(format!("gave up after {failures} tries: {reason}")));
                    }
                    tracing::debug!(batch = batch.id, reason, "a batch was not taken; trying again");
                    Progress::add(&self.context.components.progress.retries, 1);
                    retries.pause_at_least(failures, after).await?;
                }
            }
        }
    }

    /// Notes that everything before `ends` is done, after `batches` more batches.
    async fn acknowledged(&mut self, ends: Position, batches: u64) -> Result<(), Error> {
        self.begins = ends;
        let collected = std::mem::take(&mut self.batch);
        self.context
            .note(self.place, |state| {
                state.at = ends;
                state.read += collected.read;
                state.undecodable += collected.undecodable;
                state.steps += batches;
            })
            .await
    }
}
