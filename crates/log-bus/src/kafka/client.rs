//! What all clients of librdkafka share: where their logs, errors and statistics go, and what their errors mean here.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use tokio::sync::Notify;

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
}

impl Context {
    pub(super) fn quiet(client: &'static str) -> Self {
        Self { client, metrics: None, doubt: Arc::default() }
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
        if let Some(metrics) = &self.metrics {
            metrics.statistics(self.client, &statistics);
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
