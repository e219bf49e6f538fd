//! Topics are made, or checked, before they are used.
//!
//! Everything that is wrong with a topic is said at once, each with what it is, what it must be and how to change it.

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

/// How long a topic that was just made may take until it can be used.
const CREATION_MAX: Duration = Duration::from_secs(15);

/// What a topic must be like.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    partitions: u32,
    replication_factor: u16,
    /// Of how many brokers each must have a record before it is acknowledged; none where losing records is no harm.
    min_insync_replicas: Option<u16>,
    retention: Duration,
    retention_min: Duration,
    message_bytes_max: Option<u64>,
    /// Which setting of ours names it.
    setting: &'static str,
}

/// A topic as it was found.
pub(super) struct Found {
    pub(super) id: TopicId,
    pub(super) partitions: u32,
    /// The least number of any partition.
    replicas: usize,
}

impl Wanted {
    /// The log.
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

    /// The control topic: what is minutes old is forgotten.
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

    /// The largest message it takes; Kafka's own default where nothing is wanted.
    pub(super) fn bytes_max(&self) -> usize {
        usize::try_from(self.message_bytes_max.unwrap_or(1_048_588)).unwrap_or(usize::MAX)
    }

    fn new_topic<'a>(&'a self, values: &'a [(&'static str, String)]) -> NewTopic<'a> {
        let partitions = i32::try_from(self.partitions).unwrap_or(i32::MAX);
        let replication = TopicReplication::Fixed(i32::from(self.replication_factor));
        let topic = NewTopic::new(&self.name, partitions, replication);
        values.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
    }

    /// The settings it is made with.
    fn values(&self) -> Vec<(&'static str, String)> {
        let mut values = vec![
            // Kafka's retention and its look-ups by time go by this.
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", self.retention.as_millis().to_string()),
            ("unclean.leader.election.enable", "false".to_owned()),
        ];
        if let Some(replicas) = self.min_insync_replicas {
            values.push(("min.insync.replicas", replicas.to_string()));
        } else {
            // Small segments: only whole ones are forgotten.
            values.push(("segment.ms", self.retention.as_millis().to_string()));
            values.push(("segment.bytes", (16 << 20).to_string()));
        }
        if let Some(bytes) = self.message_bytes_max {
            values.push(("max.message.bytes", bytes.to_string()));
        }
        values
    }

    /// Everything that is wrong with the settings it has, and what is worth a warning.
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
            let wanted = self.retention.as_millis().to_string();
            must("retention.ms", is.to_string(), format!("at least {least} (kafka.retention_min)"), &wanted);
        }
        if let (Some(is), Some(least)) = (number("max.message.bytes"), self.message_bytes_max)
            && is.unsigned_abs() < least
        {
            let must_be = format!("at least {least} (kafka.record_bytes_max and 64KB for what goes with a record)");
            must("max.message.bytes", is.to_string(), must_be, &least.to_string());
        }
        if let Some(least) = self.min_insync_replicas {
            if of("unclean.leader.election.enable").is_some_and(|is| is == "true") {
                let why = "false (what was acknowledged could get lost)".into();
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
                odd.push(format!("min.insync.replicas is as many as there are replicas ({replicas}): nothing can be appended while one broker is away"));
            }
            if let Some(is) = number("retention.bytes").filter(|is| *is >= 0) {
                odd.push(format!("retention.bytes is {is}: records may go before retention.ms says so"));
            }
            if replicas < usize::from(self.replication_factor) {
                odd.push(format!(
                    "it has {replicas} replicas, kafka.replication_factor is {}",
                    self.replication_factor
                ));
            }
        }
        (wrong, odd)
    }
}

/// An administrator: makes and describes topics.
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

    /// Makes the topic if it is not there and may be made, and checks it.
    pub(super) async fn ensure(self: &Arc<Self>, wanted: &Wanted) -> Result<Found, LogError> {
        let began = Instant::now();
        let mut created = false;
        loop {
            let found = self.find(&wanted.name).await?;
            match found {
                Some(found) => {
                    self.check(wanted, &found).await?;
                    return Ok(found);
                }
                None if created && began.elapsed() < CREATION_MAX => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                None if created => {
                    let reason = format!("topic {} was made and cannot be seen", wanted.name);
                    return Err(LogError::Unavailable(reason));
                }
                None => {
                    self.create(wanted).await?;
                    created = true;
                }
            }
        }
    }

    /// The topic as it is now; none when it does not exist or is not ready.
    pub(super) async fn find(self: &Arc<Self>, topic: &str) -> Result<Option<Found>, LogError> {
        let (this, topic) = (self.clone(), topic.to_owned());
        blocking(move || {
            let client = this.client.inner();
            let Some(seen) = see(client, &topic, this.patience)? else { return Ok(None) };
            match topic_id(client, &topic, seen.broker, this.patience) {
                Ok(id) => Ok(Some(Found { id, partitions: seen.partitions, replicas: seen.replicas })),
                Err(TopicIdError::NoTopic(_)) => Ok(None),
                Err(error @ TopicIdError::NoId(_)) => Err(this.refused(&topic, error.to_string())),
                Err(error @ TopicIdError::Kafka { .. }) => Err(LogError::Unavailable(error.to_string())),
            }
        })
        .await
    }

    /// How many partitions a topic has now; none when it does not exist.
    pub(super) async fn partitions(self: &Arc<Self>, topic: &str) -> Result<Option<u32>, LogError> {
        let (this, topic) = (self.clone(), topic.to_owned());
        blocking(move || Ok(see(this.client.inner(), &topic, this.patience)?.map(|seen| seen.partitions))).await
    }

    fn refused(&self, topic: &str, reason: String) -> LogError {
        LogError::Open { folder: format!("topic {topic} of Kafka at {}", self.brokers), reason }
    }

    async fn create(&self, wanted: &Wanted) -> Result<(), LogError> {
        let Wanted { name, setting, .. } = wanted;
        if !self.create {
            let reason = format!("the topic does not exist ({setting}): make it, or set kafka.create_topics");
            return Err(self.refused(name, reason));
        }
        let values = wanted.values();
        let results = self.client.create_topics([&wanted.new_topic(&values)], &self.options()).await;
        let results = results.map_err(|error| unavailable("making the topic", &error))?;
        match results.into_iter().next() {
            Some(Ok(_)) => {
                tracing::info!(topic = name, partitions = wanted.partitions, "made a topic");
                Ok(())
            }
            // Another process was faster.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code @ RDKafkaErrorCode::InvalidReplicationFactor))) => Err(self.refused(
                name,
                format!(
                    "it cannot be made with {} replicas ({code}): set kafka.replication_factor to at most the number of brokers",
                    wanted.replication_factor
                ),
            )),
            Some(Err((_, code @ (RDKafkaErrorCode::RequestTimedOut | RDKafkaErrorCode::NotController)))) => {
                Err(LogError::Unavailable(format!("making topic {name}: {code}")))
            }
            Some(Err((_, code))) => Err(self.refused(name, format!("it cannot be made: {code}"))),
            None => Err(LogError::Unavailable(format!("making topic {name}: no answer"))),
        }
    }

    async fn check(&self, wanted: &Wanted, found: &Found) -> Result<(), LogError> {
        let name = wanted.name.as_str();
        if found.partitions < wanted.partitions {
            tracing::warn!(
                topic = name,
                partitions = found.partitions,
                setting = wanted.partitions,
                "the topic has fewer partitions than kafka.partitions; they can be raised with kafka-topics.sh"
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
            // Not everybody may read them, and appending works without.
            Err(reason) => {
                tracing::warn!(topic = name, reason, "the topic's settings cannot be read and are not checked");
                return Ok(());
            }
        };
        let value_of = |name: &str| resource.get(name).and_then(|entry| entry.value.clone());
        let (wrong, odd) = wanted.complaints(&value_of, found.replicas);
        for text in odd {
            tracing::warn!(topic = name, "{text}");
        }
        if wrong.is_empty() { Ok(()) } else { Err(self.refused(name, wrong.join("; "))) }
    }
}

/// What metadata say of a topic.
struct Seen {
    partitions: u32,
    replicas: usize,
    /// Who said so, and so is there.
    broker: Option<i32>,
}

/// Asks for a topic's metadata; none when it does not exist.
fn see(client: &Client<Context>, topic: &str, patience: Duration) -> Result<Option<Seen>, LogError> {
    let metadata = client.fetch_metadata(Some(topic), patience).map_err(|error| unavailable("metadata", &error))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
        Some(code) => return Err(unavailable("metadata", &KafkaError::MetadataFetch(code))),
    }
    // A topic that is being made has no partitions for a moment.
    let Some(replicas) = found.partitions().iter().map(|partition| partition.replicas().len()).min() else {
        return Ok(None);
    };
    let partitions = u32::try_from(found.partitions().len()).unwrap_or(u32::MAX);
    // A connection that was made from the settings has no number yet.
    let said = Some(metadata.orig_broker_id()).filter(|id| *id >= 0);
    let broker = said.or_else(|| metadata.brokers().first().map(|broker| broker.id()));
    Ok(Some(Seen { partitions, replicas, broker }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn complaints_name_the_setting_its_value_and_the_remedy() {
        let config = KafkaConfig { brokers: "b".into(), ..KafkaConfig::default() };
        let check = |wanted: &Wanted, changes: &[(&str, &str)], replicas: usize, wrong: &[&str], odd: &[&str]| {
            let mut values: BTreeMap<String, String> =
                wanted.values().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            values.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
            let found = wanted.complaints(&|name| values.get(name).cloned(), replicas);
            let matches = |found: &[String], expected: &[&str]| {
                found.len() == expected.len() && found.iter().zip(expected).all(|(text, begin)| text.starts_with(begin))
            };
            assert!(matches(&found.0, wrong) && matches(&found.1, odd), "{found:#?}");
            for text in found.0.iter().filter(|text| !text.contains("replicas and must")) {
                assert!(text.contains("kafka-configs.sh"), "{text}");
            }
        };
        let log = Wanted::log(&config);
        check(&log, &[], 3, &[], &[]);
        check(&log, &[], 2, &[], &["min.insync.replicas is as many", "it has 2 replicas"]);
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
        let control = Wanted::control(&config);
        check(&control, &[("min.insync.replicas", "1")], 1, &[], &[]);
        check(&control, &[("message.timestamp.type", "CreateTime")], 3, &["message.timestamp.type"], &[]);
    }

    #[test]
    fn the_default_record_fits_into_kafkas_default() {
        assert!(KafkaConfig::default().message_bytes_max() <= 1_048_588);
    }
}
