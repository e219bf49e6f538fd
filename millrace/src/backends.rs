//! Opens the log, the object store and the control topic that the settings name.
//!
//! ```text
//! kafka.brokers empty     journal of this machine      else   Apache Kafka
//! store.s3.bucket empty   folder store/                else   S3
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use log_bus::{KafkaControl, KafkaLog, LocalLog, LogBus, LogError};
use object_store::{FolderStore, ObjectStore, S3Store, SelfTestError, StoreError};
use prometheus::Registry;
use settings::Settings;
use tokio::time::Instant;

use crate::log_metrics::LogMetrics;

/// How long a start waits for Kafka and S3. All of an installation is often started at once.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two tries.
const START_PAUSE: Duration = Duration::from_secs(2);

/// The log of this process.
pub(crate) enum Log {
    /// The journal, which only this process uses.
    Local(Arc<LocalLog>),
    /// A topic, which many processes share.
    Kafka(Arc<KafkaLog>),
}

impl Log {
    /// Opens or connects to the log that the settings name.
    pub(crate) async fn open(settings: &Settings, metrics: Option<&Registry>) -> anyhow::Result<Self> {
        if settings.kafka.is_set() {
            let connect = || KafkaLog::connect(settings.kafka_config(), metrics);
            return Ok(Self::Kafka(patiently("Kafka", log_may_come, connect).await?));
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

    /// Completes pending appends to the journal, or ends the background tasks of the log on Kafka.
    pub(crate) async fn close(&self) {
        match self {
            Self::Local(log) => log.close().await,
            Self::Kafka(log) => log.close().await,
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

/// Like [`connect_store`], but tests that the store supports what Millrace needs, such as conditional puts.
pub(crate) async fn open_store(settings: &Settings, metrics: &Registry) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let store = connect_store(settings, Some(metrics)).await?;
    let test = || object_store::self_test(store.as_ref());
    patiently("the object store", store_may_come, test).await.context("the object store cannot be used")?;
    Ok(store)
}

/// The control topic that the settings name.
pub(crate) async fn open_control(settings: &Settings) -> anyhow::Result<Arc<KafkaControl>> {
    let config = settings.kafka_config();
    Ok(patiently("the control topic", log_may_come, || KafkaControl::connect(&config)).await?)
}

/// Tries again while the failure may pass by itself.
async fn patiently<T, E: std::fmt::Display>(
    what: &str,
    may_pass: fn(&E) -> bool,
    open: impl AsyncFn() -> Result<T, E>,
) -> Result<T, E> {
    let until = Instant::now() + START_PATIENCE;
    loop {
        match open().await {
            Err(error) if may_pass(&error) && Instant::now() < until => {
                tracing::warn!(%error, "waiting for {what}");
                tokio::time::sleep(START_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

fn log_may_come(error: &LogError) -> bool {
    matches!(error, LogError::Unavailable(_))
}

/// A put whose answer was lost may have succeeded, so its retry may find the object. The next test uses another key.
fn store_may_come(error: &SelfTestError) -> bool {
    matches!(error, SelfTestError::Failed { error: StoreError::Unavailable { .. } | StoreError::Precondition(_), .. })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use object_store::{Effect, Fault, Faults, MemoryStore};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_failures_that_may_pass_but_not_for_ever() {
        let tries = AtomicU32::new(0);
        let fails = |times: u32| {
            let tries = &tries;
            tries.store(0, Ordering::Relaxed);
            async move || match tries.fetch_add(1, Ordering::Relaxed) {
                n if n < times => Err(LogError::Unavailable("not yet".to_owned())),
                n => Ok(n),
            }
        };
        assert!(matches!(patiently("it", log_may_come, fails(3)).await, Ok(3)));
        let began = Instant::now();
        assert!(patiently("it", log_may_come, fails(u32::MAX)).await.is_err());
        assert!((START_PATIENCE..START_PATIENCE + 2 * START_PAUSE).contains(&began.elapsed()));
        let refused = patiently("it", log_may_come, async || Err::<(), _>(LogError::Stopped("for good".to_owned())));
        assert!(matches!(refused.await, Err(LogError::Stopped(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_loses_replies_for_a_while_passes_in_the_end() {
        let store = Faults::new(Arc::new(MemoryStore::new()), 1);
        store.add(Fault { times: Some(3), ..Fault::always(Effect::ErrorAfter) });
        let test = || object_store::self_test(&store);
        patiently("the store", store_may_come, test).await.unwrap();
    }
}
