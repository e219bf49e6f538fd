//! Topics are created or checked before they are used.
//!
//! A check reports every problem at once: the setting, its value, the value it must have, and how to change it.

use std::sync::Arc;
use std::time::Duration;

use kafka_topic_id::{TopicId, TopicIdError, topic_id};
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::Instant;

use super::client::{Context, blocking, unavailable};
use super::config::KafkaConfig;
use crate::LogError;

/// The longest wait until a topic that was just created can be used.
const CREATION_MAX: Duration = Duration::from_secs(15);

/// The requirements for a topic, and the settings to create it with.
#[derive(Clone, Debug)]
pub(super) struct TopicSpec {
    pub(super) name: String,
    partitions: u32,
    replication_factor: u16,
    /// Number of brokers that must have a record before it is acknowledged. `None` if records may get lost.
    min_insync_replicas: Option<u16>,
    retention: Duration,
    retention_min: Duration,
    message_bytes_max: Option<u64>,
    /// The Millrace setting that names the topic.
    setting: &'static str,
}

/// An existing topic.
pub(super) struct TopicInfo {
    pub(super) id: TopicId,
    pub(super) partitions: u32,
    /// The number of replicas of the partition that has the fewest.
    replicas: usize,
}

impl TopicSpec {
    /// The spec of the log's topic.
    pub(super) fn log(config: &KafkaConfig) -> Self {
        Self {
            name: config.topic.clone(),
            partitions: config.partitions,
            replication_factor: config.replication_factor,
            min_insync_replicas: Some(config.min_insync_replicas),
            retention: config.retention.get(),
            retention_min: config.retention_min.get(),
            message_bytes_max: Some(config.message_bytes_max()),
            setting: "kafka.topic",
        }
    }

    /// The spec of the control topic, which keeps messages for minutes only.
    pub(super) fn control(config: &KafkaConfig) -> Self {
        Self {
            name: config.control_topic(),
            partitions: 1,
            replication_factor: config.replication_factor,
            min_insync_replicas: None,
            retention: Duration::from_secs(600),
            retention_min: Duration::from_secs(60),
            message_bytes_max: None,
            setting: "kafka.control_topic",
        }
    }

    /// The largest message that the topic takes: the spec's, or else Kafka's default.
    pub(super) fn bytes_max(&self) -> usize {
        usize::try_from(self.message_bytes_max.unwrap_or(1_048_588)).unwrap_or(usize::MAX)
    }

    fn new_topic<'a>(&'a self, values: &'a [(&'static str, String)]) -> NewTopic<'a> {
        let partitions = i32::try_from(self.partitions).unwrap_or(i32::MAX);
        let replication = TopicReplication::Fixed(i32::from(self.replication_factor));
        let topic = NewTopic::new(&self.name, partitions, replication);
        values.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
    }

    /// The settings with which the topic is created.
    fn values(&self) -> Vec<(&'static str, String)> {
        let mut values = vec![
            // Kafka's retention and its look-ups by time use this timestamp.
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", self.retention.as_millis().to_string()),
            ("unclean.leader.election.enable", "false".to_owned()),
        ];
        if let Some(replicas) = self.min_insync_replicas {
            values.push(("min.insync.replicas", replicas.to_string()));
        } else {
            // Small segments, since Kafka only removes whole ones.
            values.push(("segment.ms", self.retention.as_millis().to_string()));
            values.push(("segment.bytes", (16 << 20).to_string()));
        }
        if let Some(bytes) = self.message_bytes_max {
            values.push(("max.message.bytes", bytes.to_string()));
        }
        values
    }

    /// Compares the topic's settings with the spec. Returns the problems that make it unusable, and those that deserve a
    /// warning.
    fn complaints(&self, of: &dyn Fn(&str) -> Option<String>, replicas: usize) -> (Vec<String>, Vec<String>) {
        let (mut wrong, mut odd) = (Vec::new(), Vec::new());
        let number = |name: &str| of(name).and_then(|value| value.parse::<i64>().ok());
        let name = &self.name;
        let change = |setting: &str, value: &str| {
            format!(
                "change it with `kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {setting}={value}`"
            )
        };
        let mut must = |setting: &str, is: String, must_be: String, value: &str| {
            wrong.push(format!("{setting} is {is} and must be {must_be}: {}", change(setting, value)));
        };
        if let Some(is) = of("message.timestamp.type").filter(|is| is != "LogAppendTime") {
            must("message.timestamp.type", is, "LogAppendTime".into(), "LogAppendTime");
        }
        if let Some(is) = of("cleanup.policy").filter(|is| is != "delete") {
            must("cleanup.policy", is, "delete (compaction removes records)".into(), "delete");
        }
        if let Some(is) = number("retention.ms").filter(|is| *is >= 0)
            && (is.unsigned_abs() as u128) < self.retention_min.as_millis()
        {
            let least = self.retention_min.as_millis().to_string();
            let retention = self.retention.as_millis().to_string();
            must("retention.ms", is.to_string(), format!("at least {least} (kafka.retention_min)"), &retention);
        }
        if let (Some(is), Some(least)) = (number("max.message.bytes"), self.message_bytes_max)
            && is.unsigned_abs() < least
        {
            let must_be = format!("at least {least} (kafka.record_bytes_max plus 64KB of overhead)");
            must("max.message.bytes", is.to_string(), must_be, &least.to_string());
        }
        if let Some(least) = self.min_insync_replicas {
            if of("unclean.leader.election.enable").is_some_and(|is| is == "true") {
                let why = "false (acknowledged records could get lost)".into();
                must("unclean.leader.election.enable", "true".into(), why, "false");
            }
            let in_sync = number("min.insync.replicas");
            if let Some(is) = in_sync.filter(|is| *is < i64::from(least)) {
                let must_be = format!("at least {least} (kafka.min_insync_replicas)");
                must("min.insync.replicas", is.to_string(), must_be, &least.to_string());
            }
            if replicas < usize::from(least) {
                wrong.push(format!(
                    "its partitions have {replicas} replicas and must have at least {least} (kafka.min_insync_replicas): \
                     add replicas with `kafka-reassign-partitions.sh`"
                ));
            } else if in_sync.is_some_and(|is| replicas > 1 && is >= replicas as i64) {
                odd.push(format!(
                    "min.insync.replicas is as high as the number of replicas ({replicas}): nothing can be appended \
                     while one broker is away"
                ));
            }
            if let Some(is) = number("retention.bytes").filter(|is| *is >= 0) {
                odd.push(format!("retention.bytes is {is}: Kafka may remove records before retention.ms has passed"));
            }
            if replicas < usize::from(self.replication_factor) {
                odd.push(format!(
                    "it has {replicas} replicas, but kafka.replication_factor is {}",
                    self.replication_factor
                ));
            }
        }
        (wrong, odd)
    }
}

/// A Kafka client that creates and describes topics.
pub(super) struct Admin {
    client: AdminClient<Context>,
    brokers: String,
    create: bool,
    patience: Duration,
}

impl Admin {
    pub(super) fn new(config: &KafkaConfig) -> Result<Arc<Self>, LogError> {
        let client = config.admin().create_with_context(Context::quiet("admin")).map_err(|error| LogError::Open {
            folder: format!("Kafka at {}", config.brokers),
            reason: error.to_string(),
        })?;
        Ok(Arc::new(Self {
            client,
            brokers: config.brokers.clone(),
            create: config.create_topics,
            patience: config.request_timeout.get(),
        }))
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.patience)).operation_timeout(Some(self.patience))
    }

    /// Checks the topic. Creates it first if it does not exist and the settings allow it.
    pub(super) async fn ensure(self: &Arc<Self>, spec: &TopicSpec) -> Result<TopicInfo, LogError> {
        let began = Instant::now();
        let mut created = false;
        loop {
            let found = self.find(&spec.name).await?;
            match found {
                Some(found) => {
                    self.check(spec, &found).await?;
                    return Ok(found);
                }
                None if created && began.elapsed() < CREATION_MAX => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                None if created => {
                    let reason = format!("topic {} was created but is still not visible", spec.name);
                    return Err(LogError::Unavailable(reason));
                }
                None => {
                    self.create(spec).await?;
                    created = true;
                }
            }
        }
    }

    /// Looks up the topic. Returns `None` if it does not exist or is not ready.
    pub(super) async fn find(self: &Arc<Self>, topic: &str) -> Result<Option<TopicInfo>, LogError> {
        let (this, topic) = (self.clone(), topic.to_owned());
        blocking(move || {
            let client = this.client.inner();
            let Some(metadata) = topic_metadata(client, &topic, this.patience)? else { return Ok(None) };
            match topic_id(client, &topic, metadata.broker, this.patience) {
                Ok(id) => Ok(Some(TopicInfo { id, partitions: metadata.partitions, replicas: metadata.replicas })),
                Err(TopicIdError::NoTopic(_)) => Ok(None),
                Err(error @ TopicIdError::NoId(_)) => Err(this.refused(&topic, error.to_string())),
                Err(error @ TopicIdError::Kafka { .. }) => Err(LogError::Unavailable(error.to_string())),
            }
        })
        .await
    }

    /// The number of partitions that a topic has now. `None` if it does not exist.
    pub(super) async fn partitions(self: &Arc<Self>, topic: &str) -> Result<Option<u32>, LogError> {
        let (this, topic) = (self.clone(), topic.to_owned());
        blocking(move || Ok(topic_metadata(this.client.inner(), &topic, this.patience)?.map(|found| found.partitions)))
            .await
    }

    fn refused(&self, topic: &str, reason: String) -> LogError {
        LogError::Open { folder: format!("topic {topic} of Kafka at {}", self.brokers), reason }
    }

    async fn create(&self, spec: &TopicSpec) -> Result<(), LogError> {
        let TopicSpec { name, setting, .. } = spec;
        if !self.create {
            let reason = format!("the topic does not exist ({setting}): create it, or set kafka.create_topics");
            return Err(self.refused(name, reason));
        }
        let values = spec.values();
        let results = self.client.create_topics([&spec.new_topic(&values)], &self.options()).await;
        let results = results.map_err(|error| unavailable("creating the topic", &error))?;
        match results.into_iter().next() {
            Some(Ok(_)) => {
                tracing::info!(topic = name, partitions = spec.partitions, "created a topic");
                Ok(())
            }
            // Another process created it at the same time.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code @ RDKafkaErrorCode::InvalidReplicationFactor))) => Err(self.refused(
                name,
                format!(
                    "it cannot be created with {} replicas ({code}): set kafka.replication_factor to at most the number of brokers",
                    spec.replication_factor
                ),
            )),
            Some(Err((_, code @ (RDKafkaErrorCode::RequestTimedOut | RDKafkaErrorCode::NotController)))) => {
                Err(LogError::Unavailable(format!("creating topic {name}: {code}")))
            }
            Some(Err((_, code))) => Err(self.refused(name, format!("it cannot be created: {code}"))),
            None => Err(LogError::Unavailable(format!("creating topic {name}: no answer"))),
        }
    }

    async fn check(&self, spec: &TopicSpec, found: &TopicInfo) -> Result<(), LogError> {
        let name = spec.name.as_str();
        if found.partitions < spec.partitions {
            tracing::warn!(
                topic = name,
                partitions = found.partitions,
                setting = spec.partitions,
                "the topic has fewer partitions than kafka.partitions; add partitions with kafka-topics.sh"
            );
        }
        let asked = self.client.describe_configs([&ResourceSpecifier::Topic(name)], &self.options()).await;
        let described: Result<ConfigResource, String> = match asked.map(|results| results.into_iter().next()) {
            Ok(Some(Ok(resource))) => Ok(resource),
            Ok(Some(Err(code))) => Err(code.to_string()),
            Ok(None) => Err("no answer".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let resource = match described {
            Ok(resource) => resource,
            // Kafka may not let this client read them. Appends work all the same.
            Err(reason) => {
                tracing::warn!(topic = name, reason, "cannot read the topic's settings, so they are not checked");
                return Ok(());
            }
        };
        let value_of = |name: &str| resource.get(name).and_then(|entry| entry.value.clone());
        let (wrong, odd) = spec.complaints(&value_of, found.replicas);
        for text in odd {
            tracing::warn!(topic = name, "{text}");
        }
        if wrong.is_empty() { Ok(()) } else { Err(self.refused(name, wrong.join("; "))) }
    }
}

/// A topic according to Kafka's metadata.
struct TopicMetadata {
    partitions: u32,
    replicas: usize,
    /// The broker that answered, which is therefore up.
    broker: Option<i32>,
}

/// Requests a topic's metadata. Returns `None` if the topic does not exist.
fn topic_metadata(
    client: &Client<Context>,
    topic: &str,
    patience: Duration,
) -> Result<Option<TopicMetadata>, LogError> {
    let metadata = client.fetch_metadata(Some(topic), patience).map_err(|error| unavailable("metadata", &error))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
        Some(code) => return Err(unavailable("metadata", &KafkaError::MetadataFetch(code))),
    }
    // A topic that is being created has no partitions for a moment.
    let Some(replicas) = found.partitions().iter().map(|partition| partition.replicas().len()).min() else {
        return Ok(None);
    };
    let partitions = u32::try_from(found.partitions().len()).unwrap_or(u32::MAX);
    // A connection to an address from the settings does not know its broker's id yet.
    let answered = Some(metadata.orig_broker_id()).filter(|id| *id >= 0);
    let broker = answered.or_else(|| metadata.brokers().first().map(|broker| broker.id()));
    Ok(Some(TopicMetadata { partitions, replicas, broker }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn complaints_name_the_setting_its_value_and_the_remedy() {
        let config = KafkaConfig { brokers: "b".into(), ..KafkaConfig::default() };
        let check = |spec: &TopicSpec, changes: &[(&str, &str)], replicas: usize, wrong: &[&str], odd: &[&str]| {
            let mut values: BTreeMap<String, String> =
                spec.values().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            values.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
            let found = spec.complaints(&|name| values.get(name).cloned(), replicas);
            let matches = |found: &[String], expected: &[&str]| {
                found.len() == expected.len() && found.iter().zip(expected).all(|(text, begin)| text.starts_with(begin))
            };
            assert!(matches(&found.0, wrong) && matches(&found.1, odd), "{found:#?}");
            for text in found.0.iter().filter(|text| !text.contains("replicas and must")) {
                assert!(text.contains("kafka-configs.sh"), "{text}");
            }
        };
        let log = TopicSpec::log(&config);
        check(&log, &[], 3, &[], &[]);
        check(&log, &[], 2, &[], &["min.insync.replicas is as high", "it has 2 replicas"]);
        check(&log, &[], 1, &["its partitions have 1 replicas"], &["it has 1 replicas"]);
        check(&log, &[("retention.bytes", "1000"), ("retention.ms", "-1")], 3, &[], &["retention.bytes is 1000"]);
        check(
            &log,
            &[
                ("message.timestamp.type", "CreateTime"),
                ("cleanup.policy", "compact,delete"),
                ("retention.ms", "1000"),
                ("max.message.bytes", "1000000"),
                ("unclean.leader.election.enable", "true"),
                ("min.insync.replicas", "1"),
            ],
            3,
            &[
                "message.timestamp.type is CreateTime and must be LogAppendTime",
                "cleanup.policy is compact,delete and must be delete",
                "retention.ms is 1000 and must be at least 86400000",
                "max.message.bytes is 1000000 and must be at least 1048576",
                "unclean.leader.election.enable is true and must be false",
                "min.insync.replicas is 1 and must be at least 2",
            ],
            &[],
        );
        let control = TopicSpec::control(&config);
        check(&control, &[("min.insync.replicas", "1")], 1, &[], &[]);
        check(&control, &[("message.timestamp.type", "CreateTime")], 3, &["message.timestamp.type"], &[]);
    }

    #[test]
    fn the_default_record_fits_into_kafkas_default() {
        assert!(KafkaConfig::default().message_bytes_max() <= 1_048_588);
    }
}
