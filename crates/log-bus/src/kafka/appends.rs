//! Appends: at most one request per partition is in flight.
//!
//! ```text
//! append ─▶ the partition's queue ─▶ one batch: all that waits, up to one request ─▶ librdkafka ─▶ Kafka
//!                                    the next batch leaves when every record of this one is answered
//! ```
//!
//! librdkafka can keep five requests of a partition in flight. If the first fails and the second reaches a broker that
//! has not seen the first, librdkafka renumbers the records of *all* partitions. A record that was written but not yet
//! acknowledged is then written twice (ADR 12). With one request in flight this cannot happen. Records that wait
//! meanwhile leave together in the next batch, so batches grow when Kafka is slow. A record that times out while it is
//! still queued is certainly not in the log.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use model::{PartitionId, TenantId};
use parking_lot::{Mutex, RwLock};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::client::{Context, drop_client};
use super::config::KafkaConfig;
use crate::LogError;

/// The most records in a batch. Must be below librdkafka's limit for one request (`batch.num.messages`).
const RECORDS_MAX: usize = 1000;

/// An upper bound of what a record adds to a request beside its key and payload. librdkafka counts 36 bytes per record
/// (`RD_KAFKAP_MESSAGE_V2_MAX_OVERHEAD` in `rdkafka_proto.h`, 2.12) and 61 per request. A larger value only makes
/// batches smaller.
const RECORD_OVERHEAD: usize = 100;

/// The offset of an appended record.
pub(super) type Appended = Result<i64, KafkaError>;

/// Appends through one idempotent producer.
pub(super) struct Appends {
    sender: Arc<Sender>,
    /// The queue of each partition that was appended to, by partition number.
    queues: Mutex<Vec<Option<mpsc::UnboundedSender<QueuedRecord>>>>,
    /// Bytes of payload that may be queued or in flight.
    room: Arc<Semaphore>,
    closed: CancellationToken,
    _close: DropGuard,
}

/// A record that waits for its batch.
struct QueuedRecord {
    key: TenantId,
    payload: Bytes,
    /// After this time no batch takes the record.
    until: Instant,
    answer: oneshot::Sender<Appended>,
    room: OwnedSemaphorePermit,
}

/// A record that was handed to librdkafka.
struct SentRecord {
    answer: oneshot::Sender<Appended>,
    delivery: Result<DeliveryFuture, KafkaError>,
    _room: OwnedSemaphorePermit,
}

impl QueuedRecord {
    fn bytes(&self) -> usize {
        self.key.as_str().len() + self.payload.len() + RECORD_OVERHEAD
    }

    /// True when the caller has stopped waiting. The record was not sent yet, so it can be dropped.
    fn is_abandoned(&self, now: Instant) -> bool {
        self.answer.is_closed() || self.until <= now
    }
}

/// The part that the queues of all partitions share.
struct Sender {
    config: KafkaConfig,
    context: Context,
    /// Replaced when librdkafka reports a fatal error.
    producer: RwLock<Producer>,
}

/// One Kafka client that appends.
struct Producer {
    client: FutureProducer<Context>,
    _listening: DropGuard,
}

impl Appends {
    pub(super) fn new(config: &KafkaConfig, context: &Context) -> Result<Self, LogError> {
        let producer = RwLock::new(Producer::new(config, context)?);
        let closed = context.closed.child_token();
        Ok(Self {
            queues: Mutex::default(),
            room: Arc::new(Semaphore::new(config.queue_bytes_max.as_usize().min(Semaphore::MAX_PERMITS))),
            _close: closed.clone().drop_guard(),
            closed,
            sender: Arc::new(Sender { config: config.clone(), context: context.clone(), producer }),
        })
    }

    /// Appends a record and returns its offset. After an error the record may still be in the log, unless the queue was
    /// full.
    pub(super) async fn append(&self, partition: PartitionId, key: &TenantId, payload: Bytes) -> Appended {
        let full = || KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
        let bytes = u32::try_from(payload.len()).map_err(|_| full())?;
        let room = self.room.clone().try_acquire_many_owned(bytes).map_err(|_| full())?;
        let wait_max = self.sender.config.delivery_timeout.get();
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + wait_max;
        self.enqueue(partition, QueuedRecord { key: key.clone(), payload, until, answer, room });
        match tokio::time::timeout_at(until.into(), answered).await {
            Ok(Ok(appended)) => appended,
            Ok(Err(_)) => Err(KafkaError::Canceled),
            Err(_) => Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut)),
        }
    }

    fn enqueue(&self, partition: PartitionId, record: QueuedRecord) {
        let mut queues = self.queues.lock();
        let index = partition.index() as usize;
        if queues.len() <= index {
            queues.resize_with(index + 1, || None);
        }
        let queue = queues[index].get_or_insert_with(|| {
            let (queue, records) = mpsc::unbounded_channel();
            let sending = self.sender.clone().send_batches(partition, records);
            self.sender.context.tasks.spawn("appends", self.closed.clone().run_until_cancelled_owned(sending));
            queue
        });
        // The receiver lives until the log is closed; then the answer's sender is dropped with the record.
        let _ = queue.send(record);
    }

    /// Replaces the producer if librdkafka reported a fatal error: it takes no more records.
    pub(super) fn renew_after(&self, error: &KafkaError) {
        self.sender.renew_after(error);
    }
}

impl Sender {
    /// Sends the queued records of a partition, one batch after the other.
    async fn send_batches(self: Arc<Self>, partition: PartitionId, mut records: mpsc::UnboundedReceiver<QueuedRecord>) {
        let bytes_max = self.config.message_bytes_max() as usize;
        let mut next = None;
        loop {
            let Some(first) = (match next.take() {
                Some(left) => Some(left),
                None => records.recv().await,
            }) else {
                return;
            };
            let mut bytes = first.bytes();
            let mut batch = vec![first];
            while batch.len() < RECORDS_MAX
                && let Ok(record) = records.try_recv()
            {
                bytes += record.bytes();
                if bytes > bytes_max {
                    next = Some(record);
                    break;
                }
                batch.push(record);
            }
            let now = Instant::now();
            batch.retain(|record| !record.is_abandoned(now));
            for SentRecord { answer, delivery, _room } in self.send(partition, batch) {
                let appended = match delivery {
                    Ok(delivery) => match delivery.await {
                        Ok(delivered) => delivered.map(|delivered| delivered.offset).map_err(|(error, _)| error),
                        Err(_) => Err(KafkaError::Canceled),
                    },
                    Err(error) => Err(error),
                };
                // The caller may have stopped waiting.
                let _ = answer.send(appended);
            }
        }
    }

    /// Hands a batch to librdkafka without waiting. All its records arrive there within `linger` of the first, so they
    /// leave in one request.
    fn send(&self, partition: PartitionId, batch: Vec<QueuedRecord>) -> Vec<SentRecord> {
        let producer = self.producer.read();
        let sent = batch.into_iter().map(|queued| {
            let record = FutureRecord::to(&self.config.topic)
                .partition(partition.index() as i32)
                .key(queued.key.as_str())
                .payload(&queued.payload[..]);
            // librdkafka copies the record before this returns.
            let delivery = producer.client.send_result(record).map_err(|(error, _)| error);
            SentRecord { answer: queued.answer, delivery, _room: queued.room }
        });
        sent.collect()
    }

    fn renew_after(&self, error: &KafkaError) {
        let mut producer = self.producer.write();
        let fatal = rdkafka::producer::Producer::client(&producer.client).fatal_error();
        let Some((code, reason)) = fatal else { return };
        tracing::warn!(%error, %code, reason, "replacing the Kafka producer after a fatal error");
        match Producer::new(&self.config, &self.context) {
            Ok(new) => drop_client(std::mem::replace(&mut *producer, new)),
            Err(error) => tracing::error!(%error, "cannot make a new Kafka producer"),
        }
    }
}

impl Producer {
    fn new(config: &KafkaConfig, context: &Context) -> Result<Self, LogError> {
        let (settings, context, ended) = (config.producer(), context.of("producer"), context.closed.child_token());
        let client = settings.create_with_context(context.clone()).map_err(|error| LogError::Open {
            folder: format!("Kafka at {}", config.brokers),
            reason: error.to_string(),
        })?;
        context.listen(settings, ended.clone());
        Ok(Self { client, _listening: ended.drop_guard() })
    }
}
