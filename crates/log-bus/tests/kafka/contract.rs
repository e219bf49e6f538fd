//! The contract suite over the log on Kafka.

use std::sync::Arc;

use async_trait::async_trait;
use millrace_log_bus::contract::{LogFactory, check};
use millrace_log_bus::{Compression, KafkaConfig, KafkaLog, LogBus};
use model::PartitionId;
use parking_lot::Mutex;
use testbed::kafka::KafkaCluster;

use super::{broker, config, connect};

struct KafkaLogs {
    broker: Arc<KafkaCluster>,
    settings: fn(&mut KafkaConfig),
    made: Mutex<Vec<(String, KafkaConfig)>>,
}

impl KafkaLogs {
    fn config_of(&self, log: &Arc<dyn LogBus>) -> KafkaConfig {
        let made = self.made.lock();
        made.iter().find(|(id, _)| *id == log.log_id().0).unwrap().1.clone()
    }
}

#[async_trait]
impl LogFactory for KafkaLogs {
    async fn fresh(&self, partitions: u32) -> Arc<dyn LogBus> {
        let mut config = config(&self.broker.bootstrap(), partitions);
        (self.settings)(&mut config);
        let log = connect(&config).await;
        self.made.lock().push((log.log_id().0.clone(), config));
        log
    }

    async fn reopen(&self, log: Arc<dyn LogBus>) -> Option<Arc<dyn LogBus>> {
        let config = self.config_of(&log);
        drop(log);
        Some(KafkaLog::connect(config, None).await.unwrap())
    }

    async fn trim(&self, log: &Arc<dyn LogBus>, partition: PartitionId) {
        let config = self.config_of(log);
        let end = log.watermarks(partition).await.unwrap().end;
        let admin = self.broker.admin().unwrap();
        admin.delete_records(&config.topic, partition.index() as i32, end.value() / 2).await.unwrap();
    }

    fn record_bytes_max(&self) -> usize {
        KafkaConfig::default().record_bytes_max.as_usize()
    }
}

async fn check_with(settings: fn(&mut KafkaConfig)) {
    check(&KafkaLogs { broker: broker(), settings, made: Mutex::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract() {
    check_with(|_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_with_one_reader_little_memory_and_zstd() {
    check_with(|config| {
        config.readers_max = 1;
        config.fetch_bytes_max = limits::ByteSize::from_kb(64);
        config.compression = Compression::Zstd;
    })
    .await;
}
