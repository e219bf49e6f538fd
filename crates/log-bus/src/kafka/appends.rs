//! Appends: one request of each partition at a time.
//!
//! ```text
//! append ─▶ the partition's lane ─▶ a flight: all that waits, up to one request ─▶ librdkafka ─▶ Kafka
//!                                   the next one when each of its records is answered
//! ```
//!
//! librdkafka could have five requests of a partition on their way. When the first fails and the second meets a broker
//! that misses the first, it numbers the records of *all* partitions anew; one that was written and not answered is written
//! twice then (ADR 12). With one flight there is no second. What waits meanwhile goes together in the next: the slower
//! Kafka is, the larger its requests are. And what still waits when its time is over is certainly not in the log.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use model::{PartitionId, TenantId};
use parking_lot::{Mutex, RwLock};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::client::Context;
use super::config::KafkaConfig;
use crate::LogError;

/// A flight has so many records at most: fewer than librdkafka's requests may have (`batch.num.messages`).
const RECORDS_MAX: usize = 1000;

/// What a record costs in a request beside its key and payload, at most: librdkafka counts 36 bytes
/// (`RD_KAFKAP_MESSAGE_V2_MAX_OVERHEAD` in `rdkafka_proto.h`, 2.12) and 61 once for the batch. Too much here only makes
/// flights smaller.
const RECORD_OVERHEAD: usize = 100;

/// Offset of an appended record.
pub(super) type Appended = Result<i64, KafkaError>;

/// Appends through one idempotent producer.
pub(super) struct Appends {
    sender: Arc<Sender>,
    /// By partition.
    lanes: Mutex<Vec<Option<mpsc::UnboundedSender<Waiting>>>>,
    /// Bytes of payload that may wait or be on their way.
    room: Arc<Semaphore>,
    closed: CancellationToken,
    _close: DropGuard,
}

/// A record that waits for its flight.
struct Waiting {
    key: TenantId,
    payload: Bytes,
    /// No flight takes it after this.
    until: Instant,
    answer: oneshot::Sender<Appended>,
    room: OwnedSemaphorePermit,
}

/// A record on its way.
struct Departed {
    answer: oneshot::Sender<Appended>,
    delivery: Result<DeliveryFuture, KafkaError>,
    _room: OwnedSemaphorePermit,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.key.as_str().len() + self.payload.len() + RECORD_OVERHEAD
    }

    /// Nobody waits for it any more, and it is nowhere yet.
    fn is_over(&self, now: Instant) -> bool {
        self.answer.is_closed() || self.until <= now
    }
}

/// What all lanes share.
struct Sender {
    config: KafkaConfig,
    context: Context,
    /// Replaced when librdkafka gives it up for good.
    producer: RwLock<Producer>,
}

/// One client that appends.
struct Producer {
    client: FutureProducer<Context>,
    _listening: DropGuard,
}

impl Appends {
    pub(super) fn new(config: &KafkaConfig, context: &Context) -> Result<Self, LogError> {
        let producer = RwLock::new(Producer::new(config, context)?);
        let closed = CancellationToken::new();
        Ok(Self {
            lanes: Mutex::default(),
            room: Arc::new(Semaphore::new(config.queue_bytes_max.as_usize().min(Semaphore::MAX_PERMITS))),
            _close: closed.clone().drop_guard(),
            closed,
            sender: Arc::new(Sender { config: config.clone(), context: context.clone(), producer }),
        })
    }

    /// Appends a record, and gives its offset. One that fails may be in the log all the same, and is not if the queue is full.
    pub(super) async fn append(&self, partition: PartitionId, key: &TenantId, payload: Bytes) -> Appended {
        let full = || KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
        let bytes = u32::try_from(payload.len()).map_err(|_| full())?;
        let room = self.room.clone().try_acquire_many_owned(bytes).map_err(|_| full())?;
        let wait_max = self.sender.config.delivery_timeout.get();
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + wait_max;
        self.hand_over(partition, Waiting { key: key.clone(), payload, until, answer, room });
        match tokio::time::timeout_at(until.into(), answered).await {
            Ok(Ok(appended)) => appended,
            Ok(Err(_)) => Err(KafkaError::Canceled),
            Err(_) => Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut)),
        }
    }

    fn hand_over(&self, partition: PartitionId, waiting: Waiting) {
        let mut lanes = self.lanes.lock();
        let index = partition.index() as usize;
        if lanes.len() <= index {
            lanes.resize_with(index + 1, || None);
        }
        let lane = lanes[index].get_or_insert_with(|| {
            let (lane, records) = mpsc::unbounded_channel();
            let flying = self.sender.clone().fly(partition, records);
            tokio::spawn(self.closed.clone().run_until_cancelled_owned(flying));
            lane
        });
        // A lane ends with `self`.
        let _ = lane.send(waiting);
    }

    /// A producer that met a fatal error takes no more records; another one does.
    pub(super) fn renew_after(&self, error: &KafkaError) {
        self.sender.renew_after(error);
    }
}

impl Sender {
    /// One flight after the other.
    async fn fly(self: Arc<Self>, partition: PartitionId, mut records: mpsc::UnboundedReceiver<Waiting>) {
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
            let mut flight = vec![first];
            while flight.len() < RECORDS_MAX
                && let Ok(record) = records.try_recv()
            {
                bytes += record.bytes();
                if bytes > bytes_max {
                    next = Some(record);
                    break;
                }
                flight.push(record);
            }
            let now = Instant::now();
            flight.retain(|record| !record.is_over(now));
            for Departed { answer, delivery, _room } in self.depart(partition, flight) {
                let appended = match delivery {
                    Ok(delivery) => match delivery.await {
                        Ok(delivered) => delivered.map(|delivered| delivered.offset).map_err(|(error, _)| error),
                        Err(_) => Err(KafkaError::Canceled),
                    },
                    Err(error) => Err(error),
                };
                // Who asked may have given up.
                let _ = answer.send(appended);
            }
        }
    }

    /// Hands a flight to librdkafka. Within `linger` of its first record, so that all become one request; this waits
    /// for nothing.
    fn depart(&self, partition: PartitionId, flight: Vec<Waiting>) -> Vec<Departed> {
        let producer = self.producer.read();
        let departed = flight.into_iter().map(|waiting| {
            let record = FutureRecord::to(&self.config.topic)
                .partition(partition.index() as i32)
                .key(waiting.key.as_str())
                .payload(&waiting.payload[..]);
            // librdkafka copies the record before this returns.
            let delivery = producer.client.send_result(record).map_err(|(error, _)| error);
            Departed { answer: waiting.answer, delivery, _room: waiting.room }
        });
        departed.collect()
    }

    fn renew_after(&self, error: &KafkaError) {
        let mut producer = self.producer.write();
        let fatal = rdkafka::producer::Producer::client(&producer.client).fatal_error();
        let Some((code, reason)) = fatal else { return };
        tracing::warn!(%error, %code, reason, "the producer is renewed");
        match Producer::new(&self.config, &self.context) {
            Ok(new) => {
                let old = std::mem::replace(&mut *producer, new);
                tokio::task::spawn_blocking(move || drop(old));
            }
            Err(error) => tracing::error!(%error, "there is no new producer"),
        }
    }
}

impl Producer {
    fn new(config: &KafkaConfig, context: &Context) -> Result<Self, LogError> {
        let (settings, context, ended) = (config.producer(), context.of("producer"), CancellationToken::new());
        let client = settings.create_with_context(context.clone()).map_err(|error| LogError::Open {
            folder: format!("Kafka at {}", config.brokers),
            reason: error.to_string(),
        })?;
        context.listen(settings, ended.clone());
        Ok(Self { client, _listening: ended.drop_guard() })
    }
}
