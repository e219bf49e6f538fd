//! Appends the records of a request to the log: either all of them are durable, or the client is told to try again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use log_bus::{LogBus, LogError};
use model::{Clock, Offset, PartitionId, ReadToken, TenantId};

use crate::breaker::{Breaker, Change, Unavailable};
use crate::metrics::Metrics;
use crate::partitions::Partitions;
use crate::refusal::Refusal;

/// Appends records and tells the breaker what came of it.
pub(crate) struct Appender {
    pub(crate) log: Arc<dyn LogBus>,
    pub(crate) breaker: Breaker,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) partitions: Arc<Partitions>,
    /// The longest time that the log may take for a request.
    pub(crate) timeout: Duration,
    /// A token of this log without any offset.
    pub(crate) token: ReadToken,
}

/// An append under way. If it is dropped before its end (the request timed out, or its client went away), it counts
/// as failed, provided that it had waited for long.
struct Attempt<'a> {
    appender: &'a Appender,
    partition: PartitionId,
    bytes: usize,
    started: Instant,
    was_counted: bool,
    is_over: bool,
}

impl Appender {
    /// Refuses a request while the log is known not to work. Called before a body is read.
    pub(crate) fn admit(&self) -> Result<(), Refusal> {
        self.breaker.admit(Instant::now()).map_err(|Unavailable { since }| Refusal::log_unavailable(since))
    }

    /// Appends the records. Returns when all of them are durable, with the offsets that a later read must reach.
    pub(crate) async fn append(
        &self,
        tenant: &TenantId,
        records: Vec<(PartitionId, Bytes)>,
    ) -> Result<ReadToken, Refusal> {
        let (started, count) = (Instant::now(), records.len());
        let appends = join_all(records.into_iter().map(|(at, payload)| self.append_one(tenant, at, payload)));
        let Ok(results) = tokio::time::timeout(self.timeout, appends).await else {
            tracing::error!(%tenant, timeout = ?self.timeout, "the log did not answer in time");
            return Err(Refusal::unavailable());
        };
        self.metrics.appended(count, started.elapsed().as_secs_f64());
        let mut token = self.token.clone();
        for result in results {
            match result {
                Ok((partition, offset)) => token.add(partition, offset.next()),
                Err(e @ LogError::TooLarge { .. }) => {
                    return Err(Refusal::too_large_body(e));
                }
                // The client will repeat the whole request, so records that are durable may appear twice.
                Err(e) => {
                    tracing::error!(%tenant, error = %e, "records could not be appended");
                    return Err(Refusal::unavailable());
                }
            }
        }
        Ok(token)
    }

    /// Appends one record, once. Only if its partition does not exist is another one tried: after any other failure the
    /// record may still be in the log.
    async fn append_one(
        &self,
        tenant: &TenantId,
        partition: PartitionId,
        payload: Bytes,
    ) -> Result<(PartitionId, Offset), LogError> {
        match self.attempt(tenant, partition, payload.clone()).await {
            Err(LogError::NoPartition { count, .. }) if count > 0 => {
                let other = PartitionId::new(partition.index() % count);
                Ok((other, self.attempt(tenant, other, payload).await?))
            }
            result => Ok((partition, result?)),
        }
    }

    async fn attempt(&self, tenant: &TenantId, partition: PartitionId, payload: Bytes) -> Result<Offset, LogError> {
        let attempt = Attempt {
            appender: self,
            partition,
            bytes: payload.len(),
            started: Instant::now(),
            was_counted: self.breaker.begin(partition),
            is_over: false,
        };
        let result = self.log.append(partition, tenant, payload).await;
        attempt.end(&result);
        result
    }

    fn note(&self, partition: PartitionId, change: Change) {
        match change {
            Change::None => return,
            Change::PartitionOpened => {
                tracing::warn!(%partition, "appends to a partition fail; others take its records");
            }
            Change::PartitionClosed => tracing::info!(%partition, "a partition takes records again"),
            Change::LogOpened => {
                self.metrics.breaker_opened();
                tracing::error!("the log is unavailable: pushes are answered 503 until an append succeeds");
            }
            Change::LogClosed => tracing::info!("the log is available again"),
        }
        let (is_open, partitions) = self.breaker.open();
        self.metrics.breaker(is_open, partitions);
    }
}

impl Attempt<'_> {
    fn end(mut self, result: &Result<Offset, LogError>) {
        self.is_over = true;
        let (appender, partition) = (self.appender, self.partition);
        appender.metrics.append(partition, self.bytes, result.is_ok());
        match result {
            Ok(_) => appender.note(partition, appender.breaker.succeeded(partition)),
            // Neither says that the partition fails: the record is too large, or the partition does not exist yet.
            Err(LogError::TooLarge { .. } | LogError::NoPartition { .. }) => {
                appender.breaker.abandoned(partition, self.was_counted);
            }
            Err(_) => self.failed(),
        }
    }

    fn failed(&self) {
        let (appender, now) = (self.appender, Instant::now());
        let (count, at) = (appender.partitions.in_use(), appender.clock.now());
        let change = appender.breaker.failed(self.partition, self.was_counted, count, now, at);
        appender.note(self.partition, change);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Clients often give up before our timeout. The breaker must still notice a log that never answers.
        if self.started.elapsed() >= self.appender.timeout / 3 {
            self.appender.metrics.append(self.partition, self.bytes, false);
            self.failed();
        } else {
            self.appender.breaker.abandoned(self.partition, self.was_counted);
        }
    }
}
