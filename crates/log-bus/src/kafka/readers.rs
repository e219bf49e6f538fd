//! Reads of partitions at several offsets at once.
//!
//! [`LogBus::fetch`](crate::LogBus::fetch) pulls, but librdkafka fetches ahead. *Cursors* connect the two. A cursor is
//! one partition in one Kafka client, with the queue of records that the client fetched ahead. A fetch that begins where
//! an earlier one ended takes that cursor and finds its records in the queue, without a request to a broker. One client
//! can read a partition only at one offset. A second reader of the partition gets a cursor in another client; all
//! partitions share these clients.
//!
//! ```text
//! fetch(partition, from) ── a cursor at `from`? ─ yes ─▶ its queue ─▶ records
//!                              │ no
//!                              └─ an idle or new cursor ─▶ get the bounds (out of range?) ─▶ assign ─▶ its queue
//! ```
//!
//! * A queue wakes its reader when a record arrives. Nothing polls, and no partition needs a thread.
//! * A queue is bounded in bytes (`fetch_bytes_max`), so a reader that stops does not cost more than that.
//! * Cursors that are not used for a while are dropped, and clients without cursors are closed.
//! * A cancelled fetch leaves its cursor at an unknown offset. The next fetch repositions the cursor.
//! * A partition may end with offsets that hold no record, such as transaction markers. A reader must pass them to reach
//!   the end. When a queue runs empty, the reader gets the bounds once; if the end is further on, the next fetch
//!   repositions the cursor. An end reported below the known end does not yet prove a gap: the replica that answers the
//!   fetch may be behind the one that answered with the bounds. This happens for a moment with a new leader, with a
//!   leader that does not know yet that it was replaced, and with a follower. Therefore the reader must see the early
//!   end several times, with fresh cluster metadata in between ([`GAP_LOOKS`]).

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use model::{Offset, OffsetRange, PartitionId, TimestampNs};
use parking_lot::Mutex;
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::client::{Context, drop_client, nanos, unavailable};
use super::config::KafkaConfig;
use super::metrics::Metrics;
use super::offsets::Offsets;
use crate::{FetchLimits, Fetched, LogError, LogRecord, Watermarks};

/// A cursor that was not used for this long may be repositioned for another reader.
const FRESH: Duration = Duration::from_secs(5);
/// A cursor that was not used for this long is dropped.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(30);
/// Number of sightings after which a gap in the offsets is believed.
const GAP_LOOKS: u32 = 3;
/// The wait for a record after an early end.
const LATE_MAX: Duration = Duration::from_secs(1);
/// An upper bound for the wait of a fetch, so that deadlines do not overflow.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// One Kafka client that reads records.
pub(super) struct ReaderClient {
    consumer: Arc<StreamConsumer<Context>>,
    /// Ends the task that serves the client's events. The task closes the client, since it holds it longest.
    _serving: DropGuard,
    _listening: DropGuard,
}

impl ReaderClient {
    fn new(config: &KafkaConfig, context: Context) -> Result<Self, LogError> {
        let (settings, ended, dropped) = (config.reader(), context.closed.child_token(), CancellationToken::new());
        let consumer: StreamConsumer<Context> =
            settings.create_with_context(context.clone()).map_err(|error| unavailable("a client", &error))?;
        let consumer = Arc::new(consumer);
        context.listen(settings, ended.clone());
        // Serves the client's own events: errors, statistics, tokens. Records arrive through the queues.
        let (serving, token) = (consumer.clone(), dropped.clone());
        context.event_tasks.spawn("events of a reader", async move {
            loop {
                tokio::select! {
                    biased;
                    () = token.cancelled() => break,
                    event = serving.recv() => match event {
                        Ok(message) => tracing::error!(
                            partition = message.partition(),
                            offset = message.offset(),
                            "a record did not arrive through its queue"
                        ),
                        Err(error) => tracing::debug!(%error, "a reader's Kafka client reported an error"),
                    },
                }
            }
            drop_client(serving);
        });
        Ok(Self { consumer, _serving: dropped.drop_guard(), _listening: ended.drop_guard() })
    }

    pub(super) fn consumer(&self) -> Arc<StreamConsumer<Context>> {
        self.consumer.clone()
    }
}

/// One partition in one client.
struct Cursor {
    partition: PartitionId,
    topic: Arc<str>,
    /// The offset at which the next fetch can continue. `None` if it is unknown or the cursor is not assigned.
    next: Option<Offset>,
    assigned: bool,
    /// A record that was fetched but did not fit into the previous fetch.
    pending: Option<LogRecord>,
    /// True when the end directly follows the last record, as the bounds confirmed.
    end_checked: bool,
    /// Number of times the end was reached since the last record.
    ends: u32,
    gap: Option<Gap>,
    used: Instant,
    queue: StreamPartitionQueue<Context>,
    /// Last, so that its client outlives the queue.
    client: Arc<ReaderClient>,
}

impl Cursor {
    fn new(client: Arc<ReaderClient>, topic: Arc<str>, partition: PartitionId) -> Result<Self, LogError> {
        // Split off before the partition is assigned, so that no record goes to the client's main queue.
        let queue = client.consumer.split_partition_queue(&topic, partition.index() as i32);
        let queue = queue.ok_or_else(|| LogError::Unavailable("a client has no queue for a partition".to_owned()))?;
        Ok(Self {
            partition,
            topic,
            next: None,
            assigned: false,
            pending: None,
            end_checked: false,
            ends: 0,
            gap: None,
            used: Instant::now(),
            queue,
            client,
        })
    }

    fn list(&self, offset: KafkaOffset) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, self.partition.index() as i32, offset)?;
        Ok(list)
    }

    fn unassign(&mut self) -> Result<(), KafkaError> {
        self.next = None;
        self.pending = None;
        if self.assigned {
            self.client.consumer.incremental_unassign(&self.list(KafkaOffset::Invalid)?)?;
            self.assigned = false;
        }
        Ok(())
    }

    /// Repositions the cursor. librdkafka drops what it had fetched ahead, since each assignment has a version.
    fn assign(&mut self, from: Offset) -> Result<(), LogError> {
        let assign = |cursor: &mut Self| {
            cursor.unassign()?;
            cursor.client.consumer.incremental_assign(&cursor.list(KafkaOffset::Offset(from.value()))?)
        };
        assign(self).map_err(|error| unavailable("reading", &error))?;
        self.assigned = true;
        self.end_checked = false;
        self.ends = 0;
        Ok(())
    }

    /// Notes that the partition seems to end at `from`, although its bounds just said that it ends at `end`. Returns the
    /// offset to continue at once the gap is certain.
    fn pass_gap(&mut self, from: Offset, end: Offset, pause: Duration) -> Option<Offset> {
        let now = Instant::now();
        let new = || Gap { range: OffsetRange::new(from, end), looks: 0, looked: now - pause };
        let mut gap = self.gap.take().filter(|gap| gap.range.start == from).unwrap_or_else(new);
        if now.duration_since(gap.looked) >= pause {
            (gap.looks, gap.looked) = (gap.looks + 1, now);
        }
        let passed = (gap.looks >= GAP_LOOKS).then_some(gap.range.end);
        self.gap = Some(gap).filter(|_| passed.is_none());
        passed
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        if let Err(error) = self.unassign() {
            tracing::debug!(partition = %self.partition, %error, "cannot unassign a cursor");
        }
    }
}

/// A range of offsets that seems to hold no record.
struct Gap {
    range: OffsetRange,
    looks: u32,
    looked: Instant,
}

/// The cursors of one partition.
#[derive(Default)]
struct PartitionCursors {
    idle: Vec<Cursor>,
    /// The client numbers of the cursors in use.
    busy: Vec<usize>,
}

/// All cursors of a log, and the clients behind them.
pub(super) struct Readers {
    config: KafkaConfig,
    topic: Arc<str>,
    context: Context,
    metrics: Arc<Metrics>,
    offsets: Offsets,
    /// The first client. It is never closed and also looks up offsets.
    first: Arc<ReaderClient>,
    clients: Mutex<Vec<Weak<ReaderClient>>>,
    cursors: Mutex<HashMap<PartitionId, PartitionCursors>>,
    /// Notified when a cursor is returned.
    returned: Notify,
}

/// A cursor in use. It is returned when this is dropped.
struct BorrowedCursor<'a> {
    readers: &'a Readers,
    cursor: Option<Cursor>,
    partition: PartitionId,
    client: usize,
    /// The offset at which the next fetch can continue. `None` after a cancelled fetch.
    next: Option<Offset>,
}

impl Drop for BorrowedCursor<'_> {
    fn drop(&mut self) {
        let mut cursors = self.readers.cursors.lock();
        let partition_cursors = cursors.entry(self.partition).or_default();
        partition_cursors.busy.retain(|client| *client != self.client);
        if let Some(mut cursor) = self.cursor.take() {
            cursor.next = self.next;
            cursor.used = Instant::now();
            partition_cursors.idle.push(cursor);
        }
        drop(cursors);
        self.readers.returned.notify_waiters();
    }
}

impl Readers {
    pub(super) fn new(config: &KafkaConfig, context: Context, metrics: Arc<Metrics>) -> Result<Self, LogError> {
        let first = Arc::new(ReaderClient::new(config, context.of("reader"))?);
        let topic: Arc<str> = config.topic.as_str().into();
        let offsets =
            Offsets { consumer: first.consumer(), topic: topic.clone(), patience: config.request_timeout.get() };
        Ok(Self {
            config: config.clone(),
            topic,
            context,
            metrics,
            offsets,
            clients: Mutex::new(vec![Arc::downgrade(&first)]),
            first,
            cursors: Mutex::default(),
            returned: Notify::new(),
        })
    }

    pub(super) fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// The number of a client.
    fn number_of(&self, client: &Arc<ReaderClient>) -> usize {
        let clients = self.clients.lock();
        clients.iter().position(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(client))).unwrap_or(usize::MAX)
    }

    fn client(&self, number: usize) -> Result<Arc<ReaderClient>, LogError> {
        if number == 0 {
            return Ok(self.first.clone());
        }
        let mut clients = self.clients.lock();
        if clients.len() <= number {
            clients.resize_with(number + 1, Weak::new);
        }
        if let Some(client) = clients[number].upgrade() {
            return Ok(client);
        }
        let client = Arc::new(ReaderClient::new(&self.config, self.context.of("reader"))?);
        clients[number] = Arc::downgrade(&client);
        Ok(client)
    }

    /// Borrows the best idle cursor for a read at `from`, or a new one. Returns `None` if all are in use.
    fn take(&self, partition: PartitionId, from: Offset) -> Result<Option<BorrowedCursor<'_>>, LogError> {
        let mut cursors = self.cursors.lock();
        let partition_cursors = cursors.entry(partition).or_default();
        let position = |matches: &dyn Fn(&Cursor) -> bool| partition_cursors.idle.iter().position(matches);
        let reusable = position(&|cursor| cursor.next == Some(from))
            .or_else(|| position(&|cursor| cursor.next.is_none() || cursor.used.elapsed() > FRESH));
        let room = partition_cursors.idle.len() + partition_cursors.busy.len() < self.config.readers_max;
        let oldest = || (0..partition_cursors.idle.len()).min_by_key(|i| partition_cursors.idle[*i].used);
        let borrowed = match reusable.or_else(|| if room { None } else { oldest() }) {
            Some(index) => {
                let cursor = partition_cursors.idle.swap_remove(index);
                let client = self.number_of(&cursor.client);
                BorrowedCursor { readers: self, next: None, partition, client, cursor: Some(cursor) }
            }
            None if room => {
                let used: Vec<usize> =
                    partition_cursors.idle.iter().map(|cursor| self.number_of(&cursor.client)).collect();
                let free =
                    (0..self.config.readers_max).find(|n| !used.contains(n) && !partition_cursors.busy.contains(n));
                let Some(client) = free else { return Ok(None) };
                let cursor = Cursor::new(self.client(client)?, self.topic.clone(), partition)?;
                BorrowedCursor { readers: self, next: None, partition, client, cursor: Some(cursor) }
            }
            None => return Ok(None),
        };
        partition_cursors.busy.push(borrowed.client);
        Ok(Some(borrowed))
    }

    /// Fetches records from `from` on. After [`LogError::OutOfRange`] the caller checks that the topic is still the
    /// same.
    pub(super) async fn fetch(
        &self,
        partition: PartitionId,
        from: Offset,
        limits: FetchLimits,
    ) -> Result<Fetched, LogError> {
        let deadline = Instant::now() + limits.wait_max.min(WAIT_MAX);
        let mut borrowed = loop {
            let mut returned = std::pin::pin!(self.returned.notified());
            returned.as_mut().enable();
            if let Some(borrowed) = self.take(partition, from)? {
                break borrowed;
            }
            if timeout_at(deadline, returned).await.is_err() {
                return Ok(Fetched { records: Vec::new(), next: from });
            }
        };
        let Some(mut cursor) = borrowed.cursor.take() else {
            return Err(LogError::Unavailable("a cursor is missing".to_owned()));
        };
        // If the fetch fails or is cancelled, the cursor is dropped and not returned: its offset is unknown.
        let fetched = self.read(&mut cursor, from, limits, deadline).await?;
        borrowed.next = cursor.next;
        borrowed.cursor = Some(cursor);
        self.metrics.fetched.inc_by(fetched.records.len() as u64);
        self.metrics.fetched_bytes.inc_by(fetched.records.iter().map(|record| record.payload.len() as u64).sum());
        Ok(fetched)
    }

    async fn read(
        &self,
        cursor: &mut Cursor,
        from: Offset,
        limits: FetchLimits,
        mut deadline: Instant,
    ) -> Result<Fetched, LogError> {
        let partition = cursor.partition;
        let wait_until = deadline;
        let mut next = from;
        let mut known_end = None;
        if cursor.next != Some(from) {
            let bounds = self.in_range(partition, from).await?;
            cursor.assign(from)?;
            self.metrics.repositioned.inc();
            known_end = Some(bounds.end);
            if bounds.end > from {
                // A fetch returns at least one record if there is one, so wait for it.
                deadline = deadline.max(Instant::now() + self.config.request_timeout.get());
            }
        }
        cursor.next = None;
        let mut records: Vec<LogRecord> = Vec::new();
        let mut bytes = 0;
        if let Some(record) = cursor.pending.take() {
            bytes += record.payload.len();
            next = record.offset.next();
            records.push(record);
        }
        loop {
            let event = if records.is_empty() {
                match timeout_at(deadline, cursor.queue.recv()).await {
                    Ok(event) => event,
                    Err(_) => break,
                }
            } else if bytes >= limits.bytes_max {
                break;
            } else {
                match cursor.queue.recv().now_or_never() {
                    Some(event) => event,
                    None => break,
                }
            };
            match event {
                Ok(message) if message.offset() < next.value() => {}
                Ok(message) => {
                    (cursor.ends, cursor.end_checked, cursor.gap) = (0, false, None);
                    let record = record(&message);
                    bytes += record.payload.len();
                    if !records.is_empty() && bytes > limits.bytes_max {
                        cursor.pending = Some(record);
                        break;
                    }
                    next = record.offset.next();
                    records.push(record);
                }
                Err(KafkaError::PartitionEOF(_)) => {
                    cursor.ends += 1;
                    if !records.is_empty() {
                        break;
                    }
                    if let Some(end) = known_end.take().filter(|end| *end > next) {
                        let pause = 2 * self.config.metadata_refresh.get();
                        match cursor.pass_gap(next, end, pause) {
                            Some(passed) => (next, deadline) = (passed, deadline.min(Instant::now())),
                            None => deadline = deadline.min(wait_until.max(Instant::now() + LATE_MAX)),
                        }
                    }
                }
                Err(error) if records.is_empty() => return Err(self.failed(partition, next, &error).await),
                Err(error) => {
                    // The records before the error are good. The next fetch repositions the cursor and meets the error
                    // again if it lasts.
                    tracing::debug!(%partition, %error, "a fetch ended early");
                    return Ok(Fetched { records, next });
                }
            }
        }
        cursor.next = Some(next);
        if records.is_empty() && next == from && cursor.ends > 0 && (!cursor.end_checked || cursor.ends > 1) {
            // The queue ran empty. Usually this is the end. If not, offsets without records precede the end. If Kafka
            // does not answer, the next fetch tries again.
            if let Ok(held) = self.offsets.watermarks(partition).await {
                (cursor.end_checked, cursor.ends) = (true, 1);
                if held.end != next || held.first > next {
                    cursor.next = None;
                }
            }
        }
        Ok(Fetched { records, next })
    }

    async fn in_range(&self, partition: PartitionId, from: Offset) -> Result<Watermarks, LogError> {
        let held = self.offsets.watermarks(partition).await?;
        if from < held.first || from > held.end {
            return Err(LogError::OutOfRange { partition, asked: from, held });
        }
        Ok(held)
    }

    /// The error to report for an error of a cursor.
    async fn failed(&self, partition: PartitionId, next: Offset, error: &KafkaError) -> LogError {
        use RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange};
        if let Some(AutoOffsetReset | OffsetOutOfRange) = error.rdkafka_error_code() {
            // Retention passed the reader, or the topic was recreated.
            if let Err(error) = self.in_range(partition, next).await {
                return error;
            }
        }
        self.context.doubt.notify_one();
        unavailable("reading", error)
    }

    /// Drops cursors that were not used for `idle_max`.
    pub(super) fn drop_idle(&self, idle_max: Duration) {
        let mut count = 0;
        // Dropped under the lock: a new cursor of the same partition and client would share librdkafka's queue with the
        // old one.
        self.cursors.lock().retain(|_, partition_cursors| {
            partition_cursors.idle.retain(|cursor| cursor.used.elapsed() < idle_max);
            count += partition_cursors.idle.len() + partition_cursors.busy.len();
            !partition_cursors.idle.is_empty() || !partition_cursors.busy.is_empty()
        });
        self.metrics.cursors.set(count as i64);
        self.metrics
            .reader_clients
            .set(self.clients.lock().iter().filter(|client| client.strong_count() > 0).count() as i64);
    }
}

fn record(message: &BorrowedMessage<'_>) -> LogRecord {
    LogRecord {
        offset: Offset::new(message.offset()),
        append_time: TimestampNs::from_nanos(nanos(message.timestamp().to_millis().unwrap_or(0))),
        // Copied, since librdkafka's buffer holds the whole response of the broker and must not outlive its client.
        key: message.key().map_or_else(Bytes::new, Bytes::copy_from_slice),
        payload: message.payload().map_or_else(Bytes::new, Bytes::copy_from_slice),
    }
}

#[cfg(test)]
mod tests;
