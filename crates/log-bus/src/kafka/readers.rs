//! Reading partitions at several places at once.
//!
//! [`LogBus::fetch`](crate::LogBus::fetch) pulls; librdkafka fetches ahead. Between the two stand *cursors*: a cursor is one partition in
//! one client, with the queue of what was fetched ahead of it. A fetch that begins where the one before ended takes its
//! cursor and finds its records there, with no question to a broker. One client can hold a partition only once; a
//! second reader of it gets a cursor in another client (a *lane*), which all partitions share.
//!
//! ```text
//! fetch(partition, from) ── cursor at `from`?  ── yes ─▶ its queue ─▶ records
//!                              │ no
//!                              └─ idle, or new ─▶ ask for the bounds (out of range?) ─▶ assign at `from` ─▶ its queue
//! ```
//!
//! * A queue wakes its reader when something comes in; nothing is polled and no thread waits per partition.
//! * A queue is bounded in bytes (`fetch_bytes_max`); a reader that stops costs no more than that.
//! * Cursors that nobody used for a while are given up, and lanes without cursors with them.
//! * A fetch that is cancelled leaves its cursor at an unknown place; the next one begins anew there.
//! * Offsets without records at the end of a partition (markers of transactions) are passed, so that a reader that waits for
//!   the end reaches it: when a queue ran empty, the bounds are asked once; if the end lies further on, the next fetch begins
//!   anew. That the end is reported without a record before it proves nothing yet: who answers the fetch may be behind
//!   who told the bounds, as a new leader, one that does not know yet that it was replaced, or a follower is for a moment. So it must be seen
//!   several times, with the cluster's metadata learned anew in between ([`GAP_LOOKS`]).

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
use tokio_util::sync::CancellationToken;

use super::client::{Context, nanos, unavailable};
use super::config::KafkaConfig;
use super::metrics::Metrics;
use super::offsets::Offsets;
use crate::{FetchLimits, Fetched, LogError, LogRecord, Watermarks};

/// A cursor that was not used for so long may be taken by a reader of another place.
const FRESH: Duration = Duration::from_secs(5);
/// A cursor that was not used for so long is given up.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(30);
/// Offsets without records are believed after so many looks.
const GAP_LOOKS: u32 = 3;
/// So long a record is waited for after the end was met too early.
const LATE_MAX: Duration = Duration::from_secs(1);
/// Nobody waits for longer.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// One client that reads records.
pub(super) struct Lane {
    consumer: Arc<StreamConsumer<Context>>,
    ended: CancellationToken,
}

impl Lane {
    fn new(config: &KafkaConfig, context: Context) -> Result<Self, LogError> {
        let (settings, ended) = (config.reader(), CancellationToken::new());
        let consumer: StreamConsumer<Context> =
            settings.create_with_context(context.clone()).map_err(|error| unavailable("a client", &error))?;
        let consumer = Arc::new(consumer);
        context.listen(settings, ended.clone());
        // The client's own events are served here: errors, statistics, tokens. Records come through the queues.
        let (serving, token) = (consumer.clone(), ended.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = token.cancelled() => break,
                    event = serving.recv() => match event {
                        Ok(message) => tracing::error!(
                            partition = message.partition(),
                            offset = message.offset(),
                            "a record came in beside its queue"
                        ),
                        Err(error) => tracing::debug!(%error, "reader"),
                    },
                }
            }
            // Closing a client waits for its threads.
            tokio::task::spawn_blocking(move || drop(serving));
        });
        Ok(Self { consumer, ended })
    }

    pub(super) fn consumer(&self) -> Arc<StreamConsumer<Context>> {
        self.consumer.clone()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

/// One partition in one lane.
struct Cursor {
    partition: PartitionId,
    topic: Arc<str>,
    /// Where the next record comes from; none when it is not known, or not assigned.
    next: Option<Offset>,
    assigned: bool,
    /// Fetched, and too large for the fetch before.
    pending: Option<LogRecord>,
    /// The end was reached after the last record, and nothing lies between.
    end_checked: bool,
    /// Times the end was reached since the last record.
    ends: u32,
    gap: Option<Gap>,
    used: Instant,
    queue: StreamPartitionQueue<Context>,
    /// Last, so that its client outlives the queue.
    lane: Arc<Lane>,
}

impl Cursor {
    fn new(lane: Arc<Lane>, topic: Arc<str>, partition: PartitionId) -> Result<Self, LogError> {
        // Before it is assigned, so that no record goes elsewhere.
        let queue = lane.consumer.split_partition_queue(&topic, partition.index() as i32);
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
            lane,
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
            self.lane.consumer.incremental_unassign(&self.list(KafkaOffset::Invalid)?)?;
            self.assigned = false;
        }
        Ok(())
    }

    /// Begins anew at `from`. What was fetched ahead is dropped: librdkafka counts versions of an assignment.
    fn assign(&mut self, from: Offset) -> Result<(), LogError> {
        let assign = |cursor: &mut Self| {
            cursor.unassign()?;
            cursor.lane.consumer.incremental_assign(&cursor.list(KafkaOffset::Offset(from.value()))?)
        };
        assign(self).map_err(|error| unavailable("reading", &error))?;
        self.assigned = true;
        self.end_checked = false;
        self.ends = 0;
        Ok(())
    }

    /// The end was met at `from`, below the end that was told just before. Where to go on, when there is a gap for sure.
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
            tracing::debug!(partition = %self.partition, %error, "a cursor cannot be given up");
        }
    }
}

/// Offsets that seem to hold no record.
struct Gap {
    range: OffsetRange,
    looks: u32,
    looked: Instant,
}

/// What one partition is read through.
#[derive(Default)]
struct Places {
    idle: Vec<Cursor>,
    /// The lanes of cursors in use.
    busy: Vec<usize>,
}

/// All cursors of a log.
pub(super) struct Readers {
    config: KafkaConfig,
    topic: Arc<str>,
    context: Context,
    metrics: Arc<Metrics>,
    offsets: Offsets,
    /// The first lane. It stays, and also asks all questions.
    first: Arc<Lane>,
    lanes: Mutex<Vec<Weak<Lane>>>,
    places: Mutex<HashMap<PartitionId, Places>>,
    /// A cursor was put back.
    returned: Notify,
}

/// A cursor in use; goes back when dropped.
struct Held<'a> {
    readers: &'a Readers,
    cursor: Option<Cursor>,
    partition: PartitionId,
    lane: usize,
    /// Where it goes on; what a fetch that was given up leaves is unknown.
    next: Option<Offset>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut places = self.readers.places.lock();
        let place = places.entry(self.partition).or_default();
        place.busy.retain(|lane| *lane != self.lane);
        if let Some(mut cursor) = self.cursor.take() {
            cursor.next = self.next;
            cursor.used = Instant::now();
            place.idle.push(cursor);
        }
        drop(places);
        self.readers.returned.notify_waiters();
    }
}

impl Readers {
    pub(super) fn new(config: &KafkaConfig, context: Context, metrics: Arc<Metrics>) -> Result<Self, LogError> {
        let first = Arc::new(Lane::new(config, context.of("reader"))?);
        let topic: Arc<str> = config.topic.as_str().into();
        let offsets =
            Offsets { consumer: first.consumer(), topic: topic.clone(), patience: config.request_timeout.get() };
        Ok(Self {
            config: config.clone(),
            topic,
            context,
            metrics,
            offsets,
            lanes: Mutex::new(vec![Arc::downgrade(&first)]),
            first,
            places: Mutex::default(),
            returned: Notify::new(),
        })
    }

    pub(super) fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// Which lane of a partition's cursors this is.
    fn number_of(&self, lane: &Arc<Lane>) -> usize {
        let lanes = self.lanes.lock();
        lanes.iter().position(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(lane))).unwrap_or(usize::MAX)
    }

    fn lane(&self, number: usize) -> Result<Arc<Lane>, LogError> {
        if number == 0 {
            return Ok(self.first.clone());
        }
        let mut lanes = self.lanes.lock();
        if lanes.len() <= number {
            lanes.resize_with(number + 1, Weak::new);
        }
        if let Some(lane) = lanes[number].upgrade() {
            return Ok(lane);
        }
        let lane = Arc::new(Lane::new(&self.config, self.context.of("reader"))?);
        lanes[number] = Arc::downgrade(&lane);
        Ok(lane)
    }

    /// The best cursor for reading from `from` that is free, or a new one; none when all are in use.
    fn take(&self, partition: PartitionId, from: Offset) -> Result<Option<Held<'_>>, LogError> {
        let mut places = self.places.lock();
        let place = places.entry(partition).or_default();
        let at = |wanted: &dyn Fn(&Cursor) -> bool| place.idle.iter().position(wanted);
        let found = at(&|cursor| cursor.next == Some(from))
            .or_else(|| at(&|cursor| cursor.next.is_none() || cursor.used.elapsed() > FRESH));
        let room = place.idle.len() + place.busy.len() < self.config.readers_max;
        let oldest = || (0..place.idle.len()).min_by_key(|i| place.idle[*i].used);
        let held = match found.or_else(|| if room { None } else { oldest() }) {
            Some(index) => {
                let cursor = place.idle.swap_remove(index);
                let lane = self.number_of(&cursor.lane);
                Held { readers: self, next: None, partition, lane, cursor: Some(cursor) }
            }
            None if room => {
                let used: Vec<usize> = place.idle.iter().map(|cursor| self.number_of(&cursor.lane)).collect();
                let free = (0..self.config.readers_max).find(|n| !used.contains(n) && !place.busy.contains(n));
                let Some(lane) = free else { return Ok(None) };
                let cursor = Cursor::new(self.lane(lane)?, self.topic.clone(), partition)?;
                Held { readers: self, next: None, partition, lane, cursor: Some(cursor) }
            }
            None => return Ok(None),
        };
        place.busy.push(held.lane);
        Ok(Some(held))
    }

    /// Records from `from` on. What is out of range is told as such; the caller makes sure that the topic is still
    /// the same.
    pub(super) async fn fetch(
        &self,
        partition: PartitionId,
        from: Offset,
        limits: FetchLimits,
    ) -> Result<Fetched, LogError> {
        let deadline = Instant::now() + limits.wait_max.min(WAIT_MAX);
        let mut held = loop {
            let mut returned = std::pin::pin!(self.returned.notified());
            returned.as_mut().enable();
            if let Some(held) = self.take(partition, from)? {
                break held;
            }
            if timeout_at(deadline, returned).await.is_err() {
                return Ok(Fetched { records: Vec::new(), next: from });
            }
        };
        let Some(mut cursor) = held.cursor.take() else {
            return Err(LogError::Unavailable("a cursor is missing".to_owned()));
        };
        // From here on `held` puts back what it is given; a cursor that is dropped is given up, which is right when a
        // fetch is cancelled or fails.
        let fetched = self.read(&mut cursor, from, limits, deadline).await?;
        held.next = cursor.next;
        held.cursor = Some(cursor);
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
        let wanted = deadline;
        let mut next = from;
        let mut known_end = None;
        if cursor.next != Some(from) {
            let bounds = self.in_range(partition, from).await?;
            cursor.assign(from)?;
            self.metrics.repositioned.inc();
            known_end = Some(bounds.end);
            if bounds.end > from {
                // There is something, and one record at least is given when there is one.
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
                            None => deadline = deadline.min(wanted.max(Instant::now() + LATE_MAX)),
                        }
                    }
                }
                Err(error) if records.is_empty() => return Err(self.failed(partition, next, &error).await),
                Err(error) => {
                    // What came before it is good; the next fetch begins anew and meets the error again, or not.
                    tracing::debug!(%partition, %error, "reading");
                    return Ok(Fetched { records, next });
                }
            }
        }
        cursor.next = Some(next);
        if records.is_empty() && next == from && cursor.ends > 0 && (!cursor.end_checked || cursor.ends > 1) {
            // The queue ran empty. Usually that is the end; if not, offsets without records lie before it.
            // When Kafka does not answer, it is asked again after the next fetch.
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

    /// What an error of a cursor means.
    async fn failed(&self, partition: PartitionId, next: Offset, error: &KafkaError) -> LogError {
        use RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange};
        if let Some(AutoOffsetReset | OffsetOutOfRange) = error.rdkafka_error_code() {
            // Retention passed the reader, or the topic is another one.
            if let Err(error) = self.in_range(partition, next).await {
                return error;
            }
        }
        self.context.doubt.notify_one();
        unavailable("reading", error)
    }

    /// Gives up cursors that nobody used for so long.
    pub(super) fn give_up_idle(&self, idle_max: Duration) {
        let mut count = 0;
        // Given up under the lock: a new cursor of the same partition and lane shares librdkafka's queue with the old one.
        self.places.lock().retain(|_, place| {
            place.idle.retain(|cursor| cursor.used.elapsed() < idle_max);
            count += place.idle.len() + place.busy.len();
            !place.idle.is_empty() || !place.busy.is_empty()
        });
        self.metrics.cursors.set(count as i64);
        self.metrics.lanes.set(self.lanes.lock().iter().filter(|lane| lane.strong_count() > 0).count() as i64);
    }
}

fn record(message: &BorrowedMessage<'_>) -> LogRecord {
    LogRecord {
        offset: Offset::new(message.offset()),
        append_time: TimestampNs::from_nanos(nanos(message.timestamp().to_millis().unwrap_or(0))),
        // Copied, since librdkafka's own buffer holds a whole answer of the broker and goes with its client.
        key: message.key().map_or_else(Bytes::new, Bytes::copy_from_slice),
        payload: message.payload().map_or_else(Bytes::new, Bytes::copy_from_slice),
    }
}

#[cfg(test)]
mod tests;
