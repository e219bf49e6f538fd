//! Administration of topics for tests.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::KafkaCluster;

const PATIENCE: Duration = Duration::from_secs(20);

/// Creates, changes and deletes topics and records.
pub struct KafkaAdmin {
    client: AdminClient<DefaultClientContext>,
}

/// Options of a topic.
#[derive(Clone, Debug)]
pub struct TopicOptions {
    /// Number of partitions.
    pub partitions: i32,
    /// Number of replicas; -1 is the brokers' default.
    pub replication: i32,
    /// The topic's settings, by Kafka's names.
    pub settings: Vec<(String, String)>,
}

impl Default for TopicOptions {
    fn default() -> Self {
        let settings = vec![("message.timestamp.type".to_owned(), "LogAppendTime".to_owned())];
        Self { partitions: 1, replication: -1, settings }
    }
}

impl KafkaCluster {
    /// Returns an administrator of this cluster.
    ///
    /// # Errors
    /// If the client cannot be created.
    pub fn admin(&self) -> Result<KafkaAdmin> {
        KafkaAdmin::new(&self.bootstrap())
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

impl KafkaAdmin {
    /// Returns an administrator of the cluster with these brokers.
    ///
    /// # Errors
    /// If the client cannot be created.
    pub fn new(bootstrap: &str) -> Result<Self> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("reconnect.backoff.max.ms", "500");
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        Ok(Self { client: config.create()? })
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// If Kafka refuses.
    pub async fn create_topic(&self, topic: &str, what: &TopicOptions) -> Result<()> {
        let mut new = NewTopic::new(topic, what.partitions, TopicReplication::Fixed(what.replication));
        for (name, value) in &what.settings {
            new = new.set(name, value);
        }
        let results = self.client.create_topics([&new], &options()).await?;
        check(results.into_iter().map(|result| result.map(|_| ())))
    }

    /// Deletes a topic and all its records.
    ///
    /// # Errors
    /// If Kafka refuses.
    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        let results = self.client.delete_topics(&[topic], &options()).await?;
        check(results.into_iter().map(|result| result.map(|_| ())))
    }

    /// Increases the number of partitions of a topic.
    ///
    /// # Errors
    /// If Kafka refuses.
    pub async fn grow_topic(&self, topic: &str, partitions: usize) -> Result<()> {
        let results = self.client.create_partitions([&NewPartitions::new(topic, partitions)], &options()).await?;
        check(results.into_iter().map(|result| result.map(|_| ())))
    }

    /// Replaces the settings of a topic. All other settings fall back to the brokers' defaults.
    ///
    /// # Errors
    /// If Kafka refuses.
    pub async fn set_topic(&self, topic: &str, settings: &[(&str, &str)]) -> Result<()> {
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in settings {
            alter = alter.set(name, value);
        }
        let results = self.client.alter_configs([&alter], &options()).await?;
        check(results.into_iter().map(|result| result.map(|_| ()).map_err(|(_, code)| ((), code))))
    }

    /// Deletes the records of a partition below an offset, as retention does.
    ///
    /// # Errors
    /// If Kafka refuses.
    pub async fn delete_records(&self, topic: &str, partition: i32, below: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(below))?;
        let results = self.client.delete_records(&list, &options()).await?;
        results.elements().iter().try_for_each(|element| Ok(element.error()?))
    }

    /// Returns the leader of each partition of a topic, or `None` for a partition without a leader.
    ///
    /// # Errors
    /// If Kafka does not answer.
    pub fn leaders(&self, topic: &str) -> Result<Vec<Option<i32>>> {
        let metadata = self.client.inner().fetch_metadata(Some(topic), PATIENCE)?;
        let topic = metadata.topics().first().context("there is no such topic")?;
        ensure!(topic.error().is_none(), "{}: {:?}", topic.name(), topic.error());
        let mut partitions: Vec<_> = topic.partitions().iter().collect();
        partitions.sort_by_key(|partition| partition.id());
        Ok(partitions.iter().map(|partition| Some(partition.leader()).filter(|leader| *leader >= 0)).collect())
    }

    /// Waits until each partition of a topic has a leader, and returns the leaders. A broker may learn of a topic some time
    /// after another broker created it.
    ///
    /// # Errors
    /// If a partition has no leader in time.
    pub async fn all_leaders(&self, topic: &str) -> Result<Vec<i32>> {
        let began = Instant::now();
        loop {
            let leaders = self.leaders(topic);
            if let Ok(known) = &leaders
                && let Some(all) = known.iter().copied().collect::<Option<Vec<i32>>>()
                && !all.is_empty()
            {
                return Ok(all);
            }
            ensure!(began.elapsed() < PATIENCE, "not all partitions of {topic} have a leader: {leaders:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn check<N: std::fmt::Debug>(
    results: impl Iterator<Item = Result<(), (N, rdkafka::types::RDKafkaErrorCode)>>,
) -> Result<()> {
    for result in results {
        result.map_err(|(name, code)| anyhow::anyhow!("{name:?}: {code}"))?;
    }
    Ok(())
}
