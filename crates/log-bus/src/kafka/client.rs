//! What all librdkafka clients share: where their logs, errors and statistics go, and what their errors mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use runtime::Tasks;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use crate::LogError;

/// Receives the callbacks of one client. Clients of one log share everything but their pulse and epoch.
#[derive(Clone)]
pub(super) struct Context {
    /// The name of the client: a metric label.
    pub(super) client: &'static str,
    pub(super) metrics: Option<Arc<Metrics>>,
    /// Notified by errors that may mean that the topic was deleted or recreated. The log's watcher then checks the
    /// topic.
    pub(super) doubt: Arc<Notify>,
    pulse: Pulse,
    /// The producer's epoch in the latest statistics.
    epoch: Arc<AtomicI64>,
    /// Cancelled when a client that cannot be replaced has died.
    pub(super) silent: CancellationToken,
    /// The background tasks of the log. They end when `closed` is cancelled, and closing the log waits for them.
    pub(super) tasks: Tasks,
    pub(super) closed: CancellationToken,
    /// The tasks that serve the events of reader clients. Each ends when its client is dropped, with the log or before.
    pub(super) event_tasks: Tasks,
}

impl Context {
    pub(super) fn quiet(client: &'static str) -> Self {
        Self::new(client, None)
    }

    pub(super) fn new(client: &'static str, metrics: Option<Arc<Metrics>>) -> Self {
        Self {
            client,
            metrics,
            doubt: Arc::default(),
            pulse: Pulse::default(),
            epoch: Arc::default(),
            silent: CancellationToken::new(),
            tasks: Tasks::new("the log on Kafka"),
            closed: CancellationToken::new(),
            event_tasks: Tasks::new("the readers of the log on Kafka"),
        }
    }

    /// The context of another client of the same log.
    pub(super) fn of(&self, client: &'static str) -> Self {
        Self { client, pulse: Pulse::default(), epoch: Arc::default(), ..self.clone() }
    }

    /// The pulse of this context's client.
    pub(super) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Watches the pulse of this context's client until `ended`, and cancels [`Context::silent`] if the client dies.
    /// `settings` are the client's.
    pub(super) fn listen(&self, settings: ClientConfig, ended: CancellationToken) {
        let (pulse, silent, client) = (self.pulse(), self.silent.clone(), self.client);
        self.tasks.spawn("client pulse", async move {
            if ended.run_until_cancelled(pulse.silent(&settings, SILENCE_MAX)).await.is_some() {
                tracing::error!(client, silence_max = ?SILENCE_MAX, "a Kafka client has stopped working");
                silent.cancel();
            }
        });
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
        let client = self.client;
        // librdkafka logs an error whenever a broker is away. That needs no immediate action, so it is a warning here.
        match level {
            Emerg | Alert | Critical | Error | Warning => {
                tracing::warn!(target: "librdkafka", client, facility, "{message}");
            }
            Notice | Info => tracing::debug!(target: "librdkafka", client, facility, "{message}"),
            Debug => tracing::trace!(target: "librdkafka", client, facility, "{message}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.pulse.beat();
        if let Some(metrics) = &self.metrics {
            metrics.statistics(self.client, &statistics);
            // The first epoch of a producer is 0; it is -1 until the broker has assigned one.
            let epoch = statistics.eos.map_or(0, |eos| eos.producer_epoch);
            let before = self.epoch.fetch_max(epoch, Ordering::Relaxed);
            if let Ok(raised @ 1..) = u64::try_from(epoch - before) {
                tracing::warn!(
                    client = self.client,
                    epoch,
                    "a Kafka producer renumbered its records (ADR 12): some may be in the log twice"
                );
                metrics.producer_epochs.inc_by(raised);
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // Not an error: a reader reached the end of a partition.
            Some(RDKafkaErrorCode::PartitionEOF) => return,
            Some(code) if is_doubtful(code) => self.doubt.notify_one(),
            _ => {}
        }
        if let Some(metrics) = &self.metrics {
            metrics.client_errors.with_label_values(&[self.client]).inc();
        }
        tracing::debug!(target: "librdkafka", client = self.client, %error, "{reason}");
    }
}

impl ConsumerContext for Context {}

/// The sign of life of a client: librdkafka's main thread emits statistics at a fixed interval. That thread can stop
/// for good when brokers die and come back (ADR 7).
#[derive(Clone, Default)]
pub(super) struct Pulse(Arc<AtomicBool>);

impl Pulse {
    fn beat(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Waits until the client has been silent for `silence_max`. Only time in which this process runs counts, so a
    /// paused process does not look silent. Never returns for a client that is configured to emit no statistics.
    pub(super) async fn silent(self, client: &ClientConfig, silence_max: Duration) {
        if client.get("statistics.interval.ms") == Some("0") {
            return std::future::pending().await;
        }
        let mut tick = tokio::time::interval(silence_max / SILENT_TICKS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent = 0;
        while silent <= SILENT_TICKS {
            tick.tick().await;
            silent = if self.0.swap(false, Ordering::Relaxed) { 0 } else { silent + 1 };
        }
    }
}

/// Number of checks of a pulse within the silence that is allowed.
const SILENT_TICKS: u32 = 10;

/// The longest allowed silence of a client that is not a group member: six statistics intervals.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// True for errors that can mean that the topic was deleted or recreated.
pub(super) fn is_doubtful(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        AutoOffsetReset, OffsetOutOfRange, UnknownPartition, UnknownTopic, UnknownTopicId, UnknownTopicOrPartition,
    };
    matches!(
        code,
        AutoOffsetReset | OffsetOutOfRange | UnknownPartition | UnknownTopic | UnknownTopicId | UnknownTopicOrPartition
    )
}

/// The error for an operation that Kafka could not do now.
pub(super) fn unavailable(what: &str, error: &KafkaError) -> LogError {
    let reason = match error.rdkafka_error_code() {
        Some(code) => format!("{code}"),
        None => error.to_string(),
    };
    LogError::Unavailable(format!("{what}: {reason}"))
}

/// Runs a blocking call of librdkafka on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match on_blocking_thread(work).await {
        Ok(done) => done,
        Err(error) => Err(LogError::Unavailable(format!("a request to Kafka did not finish: {error}"))),
    }
}

/// Drops a client, which closes it if this was the last reference. Must be called within a tokio runtime.
pub(super) fn drop_client<T: Send + 'static>(client: T) {
    drop(on_blocking_thread(move || drop(client)));
}

#[expect(
    clippy::disallowed_methods,
    reason = "librdkafka's calls block, and closing a client that has stopped working may block for ever (ADR 7), so \
              nobody waits for it"
)]
fn on_blocking_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}

/// Converts Kafka's times, which are whole milliseconds.
pub(super) fn nanos(millis: i64) -> i64 {
    millis.saturating_mul(1_000_000)
}

/// The pause after this many failures in a row: 200 ms after the first, doubling up to 5 s.
pub(super) fn pause(failures: u32) -> Duration {
    Duration::from_millis(100).saturating_mul(1 << failures.min(6)).min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_is_silent_when_its_pulse_stops() {
        let second = Duration::from_secs(1);
        let (pulse, mut settings) = (Pulse::default(), ClientConfig::new());
        let beating = pulse.clone();
        let beats = tokio::spawn(async move {
            for _ in 0..100 {
                beating.beat();
                sleep(second * 5).await;
            }
        });
        let heard = pulse.clone().silent(&settings, second * 30);
        assert!(timeout(second * 490, heard).await.is_err(), "it beats");
        beats.abort();
        let heard = pulse.clone().silent(&settings, second * 30);
        assert!(timeout(second * 40, heard).await.is_ok(), "it is silent");
        settings.set("statistics.interval.ms", "0");
        assert!(timeout(second * 10_000, pulse.silent(&settings, second * 30)).await.is_err(), "it never beats");
    }
}
