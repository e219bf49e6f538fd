//! The control topic on Kafka: one partition, minutes of retention.
//!
//! The topic may be deleted at any time. A reader notices this by silence, by an error, or because nothing can be
//! published. It then recreates the topic and replaces its Kafka clients. The old clients may never learn who leads the
//! new topic: librdkafka keeps the leader epochs of the deleted topic and treats the lower epochs of its successor as
//! outdated metadata (`rd_kafka_toppar_leader_update` in `rdkafka_topic.c`, 2.12).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kafka_topic_id::TopicId;
use model::{Clock, SystemClock, TimestampNs};
use parking_lot::RwLock;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::client::{Context, blocking, drop_client, nanos, unavailable};
use super::config::KafkaConfig;
use super::topic::{Admin, TopicSpec};
use super::{checked, delivery_error};
use crate::{ControlBus, ControlRecord, LogError};

/// A process that joins does not read older messages.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The silence after which the topic is checked. Every process publishes more often than this, including this one.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Number of checks after which clients that still do not work are replaced, whatever the reason. Even new clients may
/// know the deleted topic, from a broker that was outdated itself.
const LOOKS_MAX: u32 = 3;

/// The control topic on Kafka.
pub struct KafkaControl {
    topic: String,
    spec: TopicSpec,
    admin: Arc<Admin>,
    producer: RwLock<FutureProducer<Context>>,
    /// True when the last message could not be published.
    mute: AtomicBool,
    config: KafkaConfig,
    reading: Mutex<Reading>,
}

struct Reading {
    consumer: Arc<StreamConsumer<Context>>,
    /// The topic that is being read. `None` if the topic must be checked first.
    topic: Option<TopicId>,
    /// The time of the last message or check. Kept here, since callers often cancel their wait for the next message.
    heard: Instant,
    looked: Instant,
    /// Number of checks because of silence, or because publishing failed, since everything last worked.
    looks: u32,
}

fn producer(config: &KafkaConfig) -> Result<FutureProducer<Context>, LogError> {
    let producer = config.control_producer().create_with_context(Context::quiet("control"));
    producer.map_err(|error| unavailable("the control topic", &error))
}

fn reader(config: &KafkaConfig) -> Result<Arc<StreamConsumer<Context>>, LogError> {
    let consumer = config.control_reader().create_with_context(Context::quiet("control"));
    consumer.map(Arc::new).map_err(|error| unavailable("the control topic", &error))
}

impl KafkaControl {
    /// Creates or checks the topic. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`LogError::Open`] if the settings or the topic cannot be used, [`LogError::Unavailable`] if Kafka does not answer.
    pub async fn connect(config: &KafkaConfig) -> Result<Arc<Self>, LogError> {
        let config = checked(config)?;
        let spec = TopicSpec::control(&config);
        let admin = Admin::new(&config)?;
        admin.ensure(&spec).await?;
        let now = Instant::now();
        let reading = Reading { consumer: reader(&config)?, topic: None, heard: now, looked: now, looks: 0 };
        Ok(Arc::new(Self {
            topic: spec.name.clone(),
            spec,
            admin,
            producer: RwLock::new(producer(&config)?),
            mute: AtomicBool::new(false),
            config,
            reading: Mutex::new(reading),
        }))
    }

    /// Checks that the topic is still the one that is being read and written. If not, continues with the new one.
    async fn look(&self, reading: &mut Reading) -> Result<(), LogError> {
        reading.looked = Instant::now();
        reading.heard = reading.looked;
        let id = match self.admin.find(&self.topic).await? {
            Some(found) => found.id,
            None => self.admin.ensure(&self.spec).await?.id,
        };
        match reading.topic {
            Some(known) if known != id => {
                tracing::warn!(topic = self.topic, "the control topic was recreated; continuing with the new one");
                self.renew_clients(reading)?;
            }
            Some(_) if reading.looks > LOOKS_MAX => {
                let mute = self.mute.load(Ordering::Relaxed);
                tracing::warn!(
                    topic = self.topic,
                    mute,
                    "the control topic does not work; replacing its Kafka clients"
                );
                self.renew_clients(reading)?;
            }
            Some(_) => return Ok(()),
            None => {}
        }
        reading.topic = None;
        let from = self.start(&reading.consumer).await?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, 0, from).map_err(|error| unavailable("the control topic", &error))?;
        reading.consumer.assign(&list).map_err(|error| unavailable("the control topic", &error))?;
        reading.topic = Some(id);
        Ok(())
    }

    fn renew_clients(&self, reading: &mut Reading) -> Result<(), LogError> {
        let consumer = std::mem::replace(&mut reading.consumer, reader(&self.config)?);
        let producer = std::mem::replace(&mut *self.producer.write(), producer(&self.config)?);
        drop_client((consumer, producer));
        reading.looks = 0;
        Ok(())
    }

    /// The offset at which the last minute begins.
    async fn start(&self, consumer: &Arc<StreamConsumer<Context>>) -> Result<KafkaOffset, LogError> {
        let since = SystemClock.now().millis().saturating_sub(REMEMBERED.as_millis() as i64).max(0);
        let (consumer, topic) = (consumer.clone(), self.topic.clone());
        blocking(move || {
            let mut list = TopicPartitionList::new();
            let asked = list
                .add_partition_offset(&topic, 0, KafkaOffset::Offset(since))
                .and_then(|()| consumer.offsets_for_times(list, Duration::from_secs(3)))
                .map_err(|error| unavailable("the control topic", &error))?;
            let elements = asked.elements();
            Ok(match elements.first().map(|element| element.offset()) {
                Some(offset @ KafkaOffset::Offset(_)) => offset,
                // There was no message in the last minute, so start with the next one. Clocks that differ only delay
                // what this process learns.
                _ => KafkaOffset::End,
            })
        })
        .await
    }
}

#[async_trait]
impl ControlBus for KafkaControl {
    async fn publish(&self, key: &str, payload: Bytes) -> Result<(), LogError> {
        let record = FutureRecord::to(&self.topic).partition(0).key(key).payload(&payload[..]);
        let sent = self.producer.read().send_result(record);
        let published = match sent {
            Ok(sent) => match sent.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err((error, _))) => Err(delivery_error(&error, payload.len(), self.spec.bytes_max())),
                Err(_) => Err(LogError::Unavailable("the control topic: the client was closed".to_owned())),
            },
            Err((error, _)) => Err(unavailable("the control topic", &error)),
        };
        self.mute.store(matches!(published, Err(LogError::Unavailable(_))), Ordering::Relaxed);
        published
    }

    async fn next(&self) -> Result<ControlRecord, LogError> {
        let mut reading = self.reading.lock().await;
        if reading.topic.is_none() {
            self.look(&mut reading).await?;
        }
        loop {
            // Messages of others may still arrive although this process cannot publish.
            if self.mute.load(Ordering::Relaxed) && reading.looked.elapsed() >= SILENCE_MAX {
                reading.looks += 1;
                self.look(&mut reading).await?;
            }
            let consumer = reading.consumer.clone();
            match timeout_at(reading.heard + SILENCE_MAX, consumer.recv()).await {
                Ok(Ok(message)) => {
                    reading.heard = Instant::now();
                    if !self.mute.load(Ordering::Relaxed) {
                        reading.looks = 0;
                    }
                    return Ok(ControlRecord {
                        key: message.key().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default(),
                        payload: message.payload().map_or_else(Bytes::new, Bytes::copy_from_slice),
                        append_time: TimestampNs::from_nanos(nanos(message.timestamp().to_millis().unwrap_or(0))),
                    });
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "cannot read the control topic");
                    // Most errors pass by themselves. The pause keeps a lasting one from turning this into a busy loop.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    self.look(&mut reading).await?;
                }
                Err(_) => {
                    reading.looks += 1;
                    self.look(&mut reading).await?;
                }
            }
        }
    }
}
