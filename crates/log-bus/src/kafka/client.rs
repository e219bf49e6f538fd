//! What all clients of librdkafka share: where their logs, errors and statistics go, and what their errors mean here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use crate::LogError;

/// Receives what a client has to say.
#[derive(Clone)]
pub(super) struct Context {
    /// Which client: a metric's label.
    pub(super) client: &'static str,
    pub(super) metrics: Option<Arc<Metrics>>,
    /// Told when something is odd with a topic, so that somebody looks whether it is still the same.
    pub(super) doubt: Arc<Notify>,
    pulse: Pulse,
    /// The epoch of a producer when it was last looked at.
    epoch: Arc<AtomicI64>,
    /// Cancelled when a client does nothing any more that nobody replaces.
    pub(super) silent: CancellationToken,
}

impl Context {
    pub(super) fn quiet(client: &'static str) -> Self {
        Self::new(client, None)
    }

    pub(super) fn new(client: &'static str, metrics: Option<Arc<Metrics>>) -> Self {
        let (doubt, silent) = (Arc::default(), CancellationToken::new());
        Self { client, metrics, doubt, pulse: Pulse::default(), epoch: Arc::default(), silent }
    }

    /// For another client of the same log.
    pub(super) fn of(&self, client: &'static str) -> Self {
        Self { client, pulse: Pulse::default(), epoch: Arc::default(), ..self.clone() }
    }

    /// The pulse of the client that has this.
    pub(super) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Tells when the client that has this, and those settings, does nothing any more, for as long as it is not `ended`.
    pub(super) fn listen(&self, settings: ClientConfig, ended: CancellationToken) {
        let (pulse, silent, client) = (self.pulse(), self.silent.clone(), self.client);
        tokio::spawn(async move {
            if ended.run_until_cancelled(pulse.silent(&settings, SILENCE_MAX)).await.is_some() {
                tracing::error!(client, silence_max = ?SILENCE_MAX, "a Kafka client does nothing any more");
                silent.cancel();
            }
        });
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
        let client = self.client;
        // A broker that is away is an error to librdkafka each time, and nothing a person must act on at once.
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
            // Producers begin with epoch 0; before they know it, it is -1.
            let epoch = statistics.eos.map_or(0, |eos| eos.producer_epoch);
            let before = self.epoch.fetch_max(epoch, Ordering::Relaxed);
            if let Ok(raised @ 1..) = u64::try_from(epoch - before) {
                tracing::warn!(
                    client = self.client,
                    epoch,
                    "records were numbered anew (ADR 12): some may be in the log twice"
                );
                metrics.producer_epochs.inc_by(raised);
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // No error: the end of a partition was reached.
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

/// Shows that a client lives: librdkafka's main thread gives statistics from time to time. It can stop for good when
/// brokers die and come back (ADR 7).
#[derive(Clone, Default)]
pub(super) struct Pulse(Arc<AtomicBool>);

impl Pulse {
    fn beat(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Waits until the client has been silent for so long. Goes by time in which this process runs: one that is paused is
    /// not silent. Never ends for a client that is set to give no statistics.
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

/// How often a client is listened to within the time that it may be silent.
const SILENT_TICKS: u32 = 10;

/// Clients that are not members of the group may be silent for so long: six times what they should be.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// True for errors that also come when a topic was deleted or made anew.
pub(super) fn is_doubtful(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        AutoOffsetReset, OffsetOutOfRange, UnknownPartition, UnknownTopic, UnknownTopicId, UnknownTopicOrPartition,
    };
    matches!(
        code,
        AutoOffsetReset | OffsetOutOfRange | UnknownPartition | UnknownTopic | UnknownTopicId | UnknownTopicOrPartition
    )
}

/// Kafka cannot do it now.
pub(super) fn unavailable(what: &str, error: &KafkaError) -> LogError {
    let reason = match error.rdkafka_error_code() {
        Some(code) => format!("{code}"),
        None => error.to_string(),
    };
    LogError::Unavailable(format!("{what}: {reason}"))
}

/// Runs what blocks where it may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(LogError::Unavailable(format!("a question to Kafka was given up: {error}"))),
    }
}

/// Kafka's times are whole milliseconds.
pub(super) fn nanos(millis: i64) -> i64 {
    millis.saturating_mul(1_000_000)
}

/// The pause before something that failed is tried again, growing from a tenth of a second to five.
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
