//! Settings of the log on Kafka, and librdkafka's settings derived from them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use limits::{ByteSize, PromDuration};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use serde::{Deserialize, Serialize};

/// Settings of the log on Kafka.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// Addresses of some brokers, `host:port` separated by commas; the clients learn the others from them. Empty means
    /// that Kafka is not used.
    pub brokers: String,
    /// The topic that holds the log.
    pub topic: String,
    /// The topic on which processes announce their state. Empty means the log's topic plus `-control`.
    pub control_topic: String,
    /// The group of consumers that share the partitions. Offsets are committed for this group. Followers that read the
    /// same partitions in another zone use a group of their own.
    pub group: String,
    /// The name of this process in the group (`group.instance.id`), for example the pod's name. A named process that
    /// returns within `session_timeout` keeps its partitions. Without a name, each start causes a rebalance. Names must
    /// be unique: if two processes have the same name, the group shuts out the older one. Only valid with the classic
    /// protocol.
    pub instance_id: String,
    /// The protocol by which the group assigns partitions to members.
    pub group_protocol: GroupProtocol,
    /// After this silence the group gives a process's partitions to others. A shorter time-out means a shorter wait
    /// after a crash, but may also move partitions when a process was only slow. With the `consumer` protocol, the
    /// brokers' `group.consumer.session.timeout.ms` applies instead.
    pub session_timeout: PromDuration,
    /// How long an append waits for others to share its request. A longer wait makes larger requests and costs latency.
    /// Appends to a partition that already has a request in flight wait for its answer anyway and share the next one.
    pub linger: PromDuration,
    /// The compression of records in flight and in Kafka: `none`, `lz4` or `zstd`. Appending costs about 0.6, 1.8 and
    /// 4.2 CPU seconds per GB; fetching costs 0.4, 0.5 and 1.5 (debug build; `tests/kafka/speed.rs`).
    pub compression: Compression,
    /// Creates topics that do not exist. If this is off, they must exist. Their settings are checked in any case.
    pub create_topics: bool,
    /// Number of partitions with which the log's topic is created. More partitions spread the work over more processes,
    /// but each costs every consumer memory and makes blocks smaller. They can be added later in Kafka, but not removed.
    pub partitions: u32,
    /// Number of brokers that hold each record of a topic that is created.
    pub replication_factor: u16,
    /// Number of brokers that must have a record before it is acknowledged. Topics are created with it, and a topic with
    /// a lower value is refused. With one less than `replication_factor`, the loss of one broker neither loses
    /// acknowledged records nor stops appends.
    pub min_insync_replicas: u16,
    /// How long Kafka keeps records of a topic that is created.
    pub retention: PromDuration,
    /// A topic that keeps records for a shorter time is refused: a consumer that is away for longer would lose
    /// acknowledged records.
    pub retention_min: PromDuration,
    /// The largest record. The topic must take slightly larger messages (`max.message.bytes`). Kafka's default is enough
    /// for this default.
    pub record_bytes_max: ByteSize,
    /// An append that is not durable after this time fails. If the record was still queued, it is not in the log. If it
    /// was in flight, it cannot be withdrawn: it becomes durable once Kafka is back.
    pub delivery_timeout: PromDuration,
    /// The time-out of all other requests to brokers. With its defaults, Kafka replaces a dead broker after nine
    /// seconds; a time-out longer than that makes reads late instead of failed.
    pub request_timeout: PromDuration,
    /// The interval at which partitions and the topic's id are checked. New partitions are noticed within this time.
    pub metadata_refresh: PromDuration,
    /// The most bytes of appends that wait for Kafka. Further appends fail at once.
    pub queue_bytes_max: ByteSize,
    /// Number of bytes to fetch ahead for each partition that is read; one fetch may exceed it. More bytes help to read
    /// an old log over a slow network, but a process may read dozens of partitions.
    pub fetch_bytes_max: ByteSize,
    /// The most offsets at which one partition is read at once. Further readers wait. Each offset after the first needs
    /// the connections and threads of another Kafka client while it is used; all partitions share these clients.
    pub readers_max: usize,
    /// Settings of librdkafka under its own names, for TLS and SASL: `security.protocol`, `ssl.ca.location`,
    /// `sasl.mechanisms`, `sasl.username`, `sasl.password` and so on. They override the settings above. Their values
    /// are never shown. Kerberos (GSSAPI) and OAuth are not built in.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "redacted")]
    pub properties: BTreeMap<String, String>,
}

/// The protocol of a consumer group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// The members assign partitions among themselves (cooperative-sticky). Every version of Kafka supports it.
    #[default]
    Classic,
    /// The broker assigns partitions (KIP-848, Kafka 4.0 and later).
    Consumer,
}

/// The compression of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// No compression.
    None,
    /// LZ4: fast.
    #[default]
    Lz4,
    /// Zstandard: small.
    Zstd,
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            topic: "millrace".to_owned(),
            control_topic: String::new(),
            group: "millrace".to_owned(),
            instance_id: String::new(),
            group_protocol: GroupProtocol::Classic,
            session_timeout: PromDuration::from_secs(10),
            linger: PromDuration::from_millis(5),
            compression: Compression::Lz4,
            create_topics: true,
            partitions: 16,
            replication_factor: 3,
            min_insync_replicas: 2,
            retention: PromDuration::from_hours(7 * 24),
            retention_min: PromDuration::from_hours(24),
            record_bytes_max: ByteSize::from_kb(960),
            delivery_timeout: PromDuration::from_secs(10),
            request_timeout: PromDuration::from_secs(10),
            metadata_refresh: PromDuration::from_secs(5),
            queue_bytes_max: ByteSize::from_mb(64),
            fetch_bytes_max: ByteSize::from_mb(2),
            readers_max: 8,
            properties: BTreeMap::new(),
        }
    }
}

/// Shows no value of a property, since any of them may be a password.
fn redacted<S: serde::Serializer>(properties: &BTreeMap<String, String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(properties.keys().map(|name| (name, "<redacted>")))
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Uses serde's output, which has all fields and redacts passwords.
        match serde_yaml_ng::to_string(self) {
            Ok(text) => write!(f, "KafkaConfig {{ {} }}", text.trim_end().replace('\n', ", ")),
            Err(_) => f.write_str("KafkaConfig { .. }"),
        }
    }
}

/// An upper bound of what a record adds to a request beside its payload: its key, its header, its batch's header, and the
/// growth of bytes that cannot be compressed.
const RECORD_OVERHEAD: u64 = 64 << 10;

impl KafkaConfig {
    /// True if Kafka is used.
    pub fn is_set(&self) -> bool {
        !self.brokers.is_empty()
    }

    /// The name of the control topic.
    pub fn control_topic(&self) -> String {
        match self.control_topic.as_str() {
            "" => format!("{}-control", self.topic),
            name => name.to_owned(),
        }
    }

    /// The largest message the topic must take.
    pub(super) fn message_bytes_max(&self) -> u64 {
        self.record_bytes_max.bytes() + RECORD_OVERHEAD
    }

    /// Describes every invalid setting.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.is_set() {
            return problems;
        }
        let mut require = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        let letters = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_topic = |name: &str| {
            !name.is_empty() && name.len() <= 150 && name.chars().all(letters) && !name.chars().all(|c| c == '.')
        };
        require(is_topic(&self.topic), "topic: must be 1 to 150 letters, digits, dots, dashes or underscores");
        require(
            is_topic(&self.control_topic()),
            "control_topic: must be at most 150 letters, digits, dots, dashes or underscores",
        );
        require(self.topic != self.control_topic(), "control_topic: must not be the log's topic");
        require(!self.group.is_empty(), "group: must not be empty");
        require(
            self.instance_id.is_empty() || self.group_protocol == GroupProtocol::Classic,
            "instance_id: with group_protocol consumer a named member cannot leave its group at once: leave it empty",
        );
        require(
            !self.instance_id.contains(|c| !letters(c)) && self.instance_id.len() <= 249,
            "instance_id: must be at most 249 letters, digits, dots, dashes or underscores",
        );
        let between =
            |duration: PromDuration, least: Duration, most: Duration| (least..=most).contains(&duration.get());
        let (ms, s, hour) = (Duration::from_millis, Duration::from_secs, Duration::from_secs(3600));
        require(between(self.session_timeout, s(1), hour), "session_timeout: must be 1s to 1h");
        require(between(self.linger, ms(0), s(10)), "linger: must be at most 10s");
        require(between(self.delivery_timeout, ms(100), hour), "delivery_timeout: must be 100ms to 1h");
        require(self.delivery_timeout.get() > self.linger.get(), "delivery_timeout: must be longer than linger");
        require(between(self.request_timeout, ms(100), hour), "request_timeout: must be 100ms to 1h");
        require(between(self.metadata_refresh, ms(100), hour), "metadata_refresh: must be 100ms to 1h");
        require(self.retention.get() >= self.retention_min.get(), "retention: must not be shorter than retention_min");
        require((1..=10_000).contains(&self.partitions), "partitions: must be 1 to 10000");
        require((1..=32).contains(&self.replication_factor), "replication_factor: must be 1 to 32");
        require(
            (1..=self.replication_factor).contains(&self.min_insync_replicas),
            "min_insync_replicas: must be 1 to replication_factor",
        );
        let (kb, mb) = (ByteSize::from_kb, ByteSize::from_mb);
        require((kb(16)..=mb(256)).contains(&self.record_bytes_max), "record_bytes_max: must be 16KB to 256MB");
        require(
            (self.record_bytes_max..=mb(2000)).contains(&self.queue_bytes_max),
            "queue_bytes_max: must be at least record_bytes_max, and at most 2000MB",
        );
        require((kb(64)..=mb(512)).contains(&self.fetch_bytes_max), "fetch_bytes_max: must be 64KB to 512MB");
        require((1..=64).contains(&self.readers_max), "readers_max: must be 1 to 64");
        require(
            !self.properties.contains_key("client.rack"),
            "properties: client.rack must not be set: it lets replicas answer that are behind the leader",
        );
        problems
    }

    /// The settings that all clients share.
    fn client(&self, role: &str) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set_log_level(RDKafkaLogLevel::Info);
        client.set("bootstrap.servers", &self.brokers);
        client.set("client.id", format!("millrace-{role}"));
        // Reconnect to a broker soon after it is back, and look for a partition's new leader soon.
        client.set("reconnect.backoff.ms", "50");
        client.set("reconnect.backoff.max.ms", "1000");
        client.set("retry.backoff.ms", "50");
        client.set("retry.backoff.max.ms", "500");
        client.set("topic.metadata.refresh.interval.ms", self.metadata_refresh.get().as_millis().to_string());
        client.set("topic.metadata.refresh.fast.interval.ms", "50");
        client.set("socket.keepalive.enable", "true");
        client.set("socket.nagle.disable", "true");
        client.set("statistics.interval.ms", "5000");
        client
    }

    /// The settings that all clients in a consumer group share. Millrace commits offsets itself.
    fn consumer(&self, role: &str, group: &str, offset_reset: &str) -> ClientConfig {
        let mut client = self.client(role);
        client.set("group.id", group);
        client.set("enable.auto.commit", "false");
        client.set("enable.auto.offset.store", "false");
        client.set("auto.offset.reset", offset_reset);
        client
    }

    fn with_properties(&self, mut client: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        client
    }

    /// The settings of the client that appends to the log.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut client = self.client("producer");
        client.set("enable.idempotence", "true");
        client.set("acks", "all");
        client.set("max.in.flight.requests.per.connection", "5");
        client.set("linger.ms", self.linger.get().as_millis().to_string());
        client.set("compression.type", self.compression.name());
        // No time-out: when a record times out, librdkafka renumbers all others, and a record that was written but not
        // yet acknowledged is written twice (ADR 12). Callers stop waiting after `delivery_timeout`.
        client.set("message.timeout.ms", "0");
        // A request to a broker that hangs times out early enough for a try with the next leader.
        let request = self.request_timeout.get().min(self.delivery_timeout.get() / 2);
        client.set("request.timeout.ms", request.as_millis().to_string());
        client.set("socket.timeout.ms", (request.as_millis() + 1000).to_string());
        client.set("message.max.bytes", self.message_bytes_max().to_string());
        client.set("batch.size", self.message_bytes_max().to_string());
        client.set("queue.buffering.max.kbytes", (self.queue_bytes_max.bytes().div_ceil(1024)).to_string());
        // The queue is bounded in bytes, not in messages.
        client.set("queue.buffering.max.messages", "1000000");
        self.with_properties(client)
    }

    /// The settings of clients that read records and make requests about partitions and offsets.
    pub(super) fn reader(&self) -> ClientConfig {
        let mut client = self.consumer("reader", &self.group, "error");
        let fetch = self.fetch_bytes_max.bytes();
        let at_once = (fetch / 2).max(64 << 10);
        client.set("enable.partition.eof", "true");
        client.set("isolation.level", "read_uncommitted");
        client.set("fetch.min.bytes", "1");
        // A request that waits at a broker delays partitions that are added meanwhile.
        client.set("fetch.wait.max.ms", "100");
        client.set("fetch.message.max.bytes", at_once.to_string());
        // One response holds several partitions.
        client.set("fetch.max.bytes", (at_once * 8).max(self.message_bytes_max()).to_string());
        let largest = (at_once * 8).max(self.message_bytes_max()) + (1 << 20);
        client.set("receive.message.max.bytes", largest.max(100_000_000).to_string());
        client.set("queued.max.messages.kbytes", (fetch / 1024).to_string());
        client.set("queued.min.messages", "100000");
        // The pause before a partition whose queue was full is fetched again.
        client.set("fetch.queue.backoff.ms", "2");
        client.set("fetch.error.backoff.ms", "50");
        // A healthy broker answers a reader at once, so a connection that hangs is closed.
        let socket = self.request_timeout.get().min(Duration::from_secs(5)) + Duration::from_secs(1);
        client.set("socket.timeout.ms", socket.as_millis().to_string());
        self.with_properties(client)
    }

    /// The settings of the client that is a member of the group and reads nothing.
    pub(super) fn member(&self) -> ClientConfig {
        let mut client = self.consumer("member", &self.group, "latest");
        client.set("queued.max.messages.kbytes", "64");
        // Statistics are the client's sign of life, so there must be several per session.
        let statistics = (self.session_timeout.get().as_millis() / 4).clamp(100, 5000);
        client.set("statistics.interval.ms", statistics.to_string());
        match self.group_protocol {
            GroupProtocol::Classic => {
                let session = self.session_timeout.get().as_millis();
                client.set("partition.assignment.strategy", "cooperative-sticky");
                client.set("session.timeout.ms", session.to_string());
                // A member learns about a rebalance from its heartbeats.
                client.set("heartbeat.interval.ms", (session / 4).clamp(100, 1000).to_string());
                if !self.instance_id.is_empty() {
                    client.set("group.instance.id", &self.instance_id);
                }
            }
            GroupProtocol::Consumer => {
                client.set("group.protocol", "consumer");
            }
        }
        // In a rebalance the other members wait this long for one that does not take part.
        let poll = self.session_timeout.get().max(Duration::from_secs(60));
        client.set("max.poll.interval.ms", poll.as_millis().to_string());
        self.with_properties(client)
    }

    /// The settings of the client that creates and describes topics.
    pub(super) fn admin(&self) -> ClientConfig {
        let mut client = self.client("admin");
        client.set("statistics.interval.ms", "0");
        self.with_properties(client)
    }

    /// The settings of the client that publishes to the control topic. A message that cannot be sent soon is dropped.
    pub(super) fn control_producer(&self) -> ClientConfig {
        let mut client = self.client("control-producer");
        client.set("acks", "1");
        client.set("linger.ms", "0");
        client.set("message.timeout.ms", "3000");
        client.set("request.timeout.ms", "2000");
        client.set("socket.timeout.ms", "5000");
        client.set("queue.buffering.max.kbytes", "16384");
        self.with_properties(client)
    }

    /// The settings of the client that reads the control topic.
    pub(super) fn control_reader(&self) -> ClientConfig {
        let mut client = self.consumer("control-reader", &format!("{}-control", self.group), "earliest");
        client.set("fetch.wait.max.ms", "100");
        client.set("fetch.error.backoff.ms", "100");
        client.set("queued.max.messages.kbytes", "4096");
        self.with_properties(client)
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::config::FromClientConfig;
    use rdkafka::consumer::BaseConsumer;
    use rdkafka::producer::BaseProducer;

    use super::*;

    fn set() -> KafkaConfig {
        KafkaConfig { brokers: "127.0.0.1:1".to_owned(), ..KafkaConfig::default() }
    }

    #[test]
    fn problems() {
        let check = |change: fn(&mut KafkaConfig), expected: &[&str]| {
            let mut config = set();
            change(&mut config);
            let problems = config.problems();
            let begins: Vec<&str> = problems.iter().map(|text| text.split(':').next().unwrap()).collect();
            assert_eq!(begins, expected, "{problems:?}");
        };
        check(|_| {}, &[]);
        check(|c| c.topic = "a b".into(), &["topic", "control_topic"]);
        check(|c| c.control_topic = c.topic.clone(), &["control_topic"]);
        check(|c| c.min_insync_replicas = 4, &["min_insync_replicas"]);
        check(|c| c.retention = PromDuration::from_hours(1), &["retention"]);
        check(|c| c.delivery_timeout = PromDuration::ZERO, &["delivery_timeout", "delivery_timeout"]);
        check(|c| c.record_bytes_max = ByteSize::from_mb(100), &["queue_bytes_max"]);
        check(|c| _ = c.properties.insert("client.rack".into(), "a".into()), &["properties"]);
        check(
            |c| {
                c.instance_id = "pod-1".into();
                c.group_protocol = GroupProtocol::Consumer;
            },
            &["instance_id"],
        );
        // Without brokers Kafka is not used, so its settings are not checked.
        check(|c| (c.brokers, c.topic) = (String::new(), String::new()), &[]);
    }

    #[test]
    fn librdkafka_takes_the_settings() {
        for group_protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
            for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
                let mut config = KafkaConfig { group_protocol, compression, ..set() };
                if group_protocol == GroupProtocol::Classic {
                    config.instance_id = "pod-1".to_owned();
                }
                assert!(config.problems().is_empty());
                for producer in [config.producer(), config.control_producer()] {
                    BaseProducer::from_config(&producer).unwrap();
                }
                for consumer in [config.reader(), config.member(), config.control_reader()] {
                    BaseConsumer::from_config(&consumer).unwrap();
                }
            }
        }
    }

    #[test]
    fn properties_reach_librdkafka_and_are_never_shown() {
        let mut config = set();
        config.properties.insert("sasl.password".into(), "secret-1".into());
        config.properties.insert("linger.ms".into(), "77".into());
        assert_eq!(config.producer().get("linger.ms"), Some("77"));
        assert_eq!(config.member().get("sasl.password"), Some("secret-1"));
        let shown = format!("{config:?}{}", serde_yaml_ng::to_string(&config).unwrap());
        assert!(!shown.contains("secret-1"), "{shown}");
        assert!(shown.contains("sasl.password"), "{shown}");
        config.properties.insert("no.such.setting".into(), "1".into());
        assert!(BaseProducer::from_config(&config.producer()).is_err());
    }

    #[test]
    fn reads_and_writes_yaml() {
        let text = serde_yaml_ng::to_string(&KafkaConfig::default()).unwrap();
        assert_eq!(serde_yaml_ng::from_str::<KafkaConfig>(&text).unwrap(), KafkaConfig::default(), "{text}");
        assert!(serde_yaml_ng::from_str::<KafkaConfig>("topics: x").is_err());
    }
}
