//! The two things that everything stands on, opened once: the log and the object store.
//!
//! ```text
//! kafka.brokers empty     journal of this machine      else   Apache Kafka
//! store.s3.bucket empty   folder store/                else   S3
//! ```

use std::sync::Arc;

use anyhow::Context as _;
use log_bus::{KafkaLog, LocalLog, LogBus};
use object_store::{FolderStore, ObjectStore, S3Store};
use prometheus::Registry;

use crate::{log_metrics::LogMetrics, settings::Settings};

/// The log of this process.
pub(crate) enum Log {
    /// The journal, which belongs to this process.
    Local(Arc<LocalLog>),
    /// A topic, shared with others.
    Kafka(Arc<KafkaLog>),
}

impl Log {
    /// Opens or connects to the log that the settings name.
    pub(crate) async fn open(settings: &Settings, metrics: Option<&Registry>) -> anyhow::Result<Self> {
        if settings.kafka.is_set() {
            return Ok(Self::Kafka(KafkaLog::connect(settings.kafka_config(), metrics).await?));
        }
        let log = Arc::new(LocalLog::open(settings.local_log())?);
        if let Some(registry) = metrics {
            registry.register(Box::new(LogMetrics::new(log.clone())?))?;
        }
        Ok(Self::Local(log))
    }

    pub(crate) fn bus(&self) -> Arc<dyn LogBus> {
        match self {
            Self::Local(log) => log.clone(),
            Self::Kafka(log) => log.clone(),
        }
    }

    /// Writes what waits.
    pub(crate) async fn close(&self) {
        match self {
            Self::Local(log) => log.close().await,
            // Every append was waited for by the one who asked for it.
            Self::Kafka(_) => {}
        }
    }
}

/// The object store that the settings name.
pub(crate) async fn connect_store(
    settings: &Settings,
    metrics: Option<&Registry>,
) -> anyhow::Result<Arc<dyn ObjectStore>> {
    if settings.uses_s3() {
        return Ok(Arc::new(S3Store::connect(&settings.store.s3, metrics).await?));
    }
    Ok(Arc::new(FolderStore::open(settings.store_folder())?))
}

/// As [`connect_store`]; refuses a store that does not keep what a store must promise.
pub(crate) async fn open_store(settings: &Settings, metrics: &Registry) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let store = connect_store(settings, Some(metrics)).await?;
    object_store::self_test(store.as_ref()).await.context("the object store cannot be used")?;
    Ok(store)
}
