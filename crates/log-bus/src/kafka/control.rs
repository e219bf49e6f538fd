//! The control topic on Kafka: one partition, minutes of retention.
//!
//! It may be deleted at any time. Who reads notices that by silence, an error, or because nothing can be published, makes
//! it anew and goes on with other clients: librdkafka keeps the leader epochs of the topic that was, takes lower ones of
//! its successor for outdated metadata (`rd_kafka_toppar_leader_update` in `rdkafka_topic.c`, 2.12), and so may never
//! learn who leads it.

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

use super::client::{Context, blocking, nanos, unavailable};
use super::config::KafkaConfig;
use super::topic::{Admin, Wanted};
use super::{checked, delivery_error};
use crate::{ControlBus, ControlRecord, LogError};

/// What is older is not read by a process that joins.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Every process publishes more often than this, this one too: a topic that is silent for so long is looked at.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Clients that still do not work after so many looks are replaced, whatever the reason: a new one may have learned of
/// the topic that was, from a broker that was late itself.
const LOOKS_MAX: u32 = 3;

/// The control topic on Kafka.
pub struct KafkaControl {
    topic: String,
    wanted: Wanted,
    admin: Arc<Admin>,
    producer: RwLock<FutureProducer<Context>>,
    /// Whether the last message could not be published.
    mute: AtomicBool,
    config: KafkaConfig,
    reading: Mutex<Reading>,
}

struct Reading {
    consumer: Arc<StreamConsumer<Context>>,
    /// The topic that is being read; none when it must be looked at first.
    topic: Option<TopicId>,
    /// When it was last heard of, or looked at. Kept here, since waits for the next message are given up often.
    heard: Instant,
    looked: Instant,
    /// How often it was looked at, for silence or muteness, since all was well.
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
    /// Makes or checks the topic. Blocks nothing; needs a tokio runtime.
    ///
    /// # Errors
    /// [`LogError::Open`] when settings or the topic cannot be used, [`LogError::Unavailable`] when Kafka does not answer.
    pub async fn connect(config: &KafkaConfig) -> Result<Arc<Self>, LogError> {
        let config = checked(config)?;
        let wanted = Wanted::control(&config);
        let admin = Admin::new(&config)?;
        admin.ensure(&wanted).await?;
        let now = Instant::now();
        let reading = Reading { consumer: reader(&config)?, topic: None, heard: now, looked: now, looks: 0 };
        Ok(Arc::new(Self {
            topic: wanted.name.clone(),
            wanted,
            admin,
            producer: RwLock::new(producer(&config)?),
            mute: AtomicBool::new(false),
            config,
            reading: Mutex::new(reading),
        }))
    }

    /// Makes sure that the topic there is now is the one that is being read and written.
    async fn look(&self, reading: &mut Reading) -> Result<(), LogError> {
        reading.looked = Instant::now();
        reading.heard = reading.looked;
        let id = match self.admin.find(&self.topic).await? {
            Some(found) => found.id,
            None => self.admin.ensure(&self.wanted).await?.id,
        };
        match reading.topic {
            Some(known) if known != id => {
                tracing::warn!(topic = self.topic, "the control topic was made anew; going on with the new one");
                self.renew_clients(reading)?;
            }
            Some(_) if reading.looks > LOOKS_MAX => {
                let mute = self.mute.load(Ordering::Relaxed);
                tracing::warn!(topic = self.topic, mute, "the control topic does not work; trying other clients");
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
        // Closing a client blocks.
        tokio::task::spawn_blocking(move || drop((consumer, producer)));
        reading.looks = 0;
        Ok(())
    }

    /// Where the last minute begins.
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
                // Nothing in the last minute: what comes next. Clocks that are apart only cost a moment of not knowing.
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
                Ok(Err((error, _))) => Err(delivery_error(&error, payload.len(), self.wanted.bytes_max())),
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
            // Others may be heard well while this process cannot be.
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
                    tracing::debug!(%error, "the control topic");
                    // Most errors pass by themselves; the pause keeps a lasting one from making this loop spin.
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
