//! A request's records into the log: all of them durable, or the client is told to come again.

use std::time::Instant;

use bytes::Bytes;
use futures_util::future::join_all;
use log_bus::LogError;
use model::{Offset, PartitionId, ReadToken, TenantId};

use crate::body::UNAVAILABLE;
use crate::breaker::{Change, Unavailable};
use crate::gateway::Gateway;
use crate::intake::Refusal;
use crate::times;

/// One append while it is under way. Dropped before its end (the request timed out, or its client went away) it
/// counts as failed when it had waited for long.
struct Attempt<'a> {
    gateway: &'a Gateway,
    partition: PartitionId,
    bytes: usize,
    started: Instant,
    was_counted: bool,
    is_over: bool,
}

impl Gateway {
    /// Whether the log is worth a try now; asked before a body is read.
    pub(crate) fn admit(&self) -> Result<(), Refusal> {
        self.breaker.admit(Instant::now()).map_err(|unavailable| refused(Some(unavailable)))
    }

    /// Appends the records; answers when all of them are durable with the offsets that a later read must reach.
    pub(crate) async fn append(
        &self,
        tenant: &TenantId,
        records: Vec<(PartitionId, Bytes)>,
    ) -> Result<ReadToken, Refusal> {
        let (started, count) = (Instant::now(), records.len());
        let appends = join_all(records.into_iter().map(|(at, payload)| self.append_one(tenant, at, payload)));
        let Ok(results) = tokio::time::timeout(self.config.append_timeout.get(), appends).await else {
            tracing::error!(%tenant, timeout = %self.config.append_timeout, "the log did not answer in time");
            return Err(Refusal::new(503, UNAVAILABLE));
        };
        self.metrics.appended(count, started.elapsed().as_secs_f64());
        let mut token = self.token.clone();
        for result in results {
            match result {
                Ok((partition, offset)) => token.add(partition, offset.next()),
                Err(e @ LogError::TooLarge { .. }) => {
                    return Err(Refusal::new(413, format!("request body too large: {e}")));
                }
                // A client repeats the whole request then: what was durable of it may appear twice.
                Err(e) => {
                    tracing::error!(%tenant, error = %e, "records could not be appended");
                    return Err(Refusal::new(503, UNAVAILABLE));
                }
            }
        }
        Ok(token)
    }

    /// Appends one record, once. Only a partition that is not there is replaced by another: every other failure may
    /// be that of the answer, not of the append.
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
            gateway: self,
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
        let (gateway, partition) = (self.gateway, self.partition);
        gateway.metrics.append(partition, self.bytes, result.is_ok());
        match result {
            Ok(_) => gateway.note(partition, gateway.breaker.succeeded(partition)),
            // The record's fault, or a partition that the log does not have yet.
            Err(LogError::TooLarge { .. } | LogError::NoPartition { .. }) => {
                gateway.breaker.abandoned(partition, self.was_counted);
            }
            Err(_) => self.failed(),
        }
    }

    fn failed(&self) {
        let (gateway, now) = (self.gateway, Instant::now());
        let (count, at) = (gateway.partitions.in_use(), gateway.clock.now());
        let change = gateway.breaker.failed(self.partition, self.was_counted, count, now, at);
        gateway.note(self.partition, change);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Clients give up sooner than we do; a log that only ever loses its clients must be noticed too.
        if self.started.elapsed() >= self.gateway.config.append_timeout.get() / 3 {
            self.gateway.metrics.append(self.partition, self.bytes, false);
            self.failed();
        } else {
            self.gateway.breaker.abandoned(self.partition, self.was_counted);
        }
    }
}

/// The answer while the log is known not to work.
pub(crate) fn refused(unavailable: Option<Unavailable>) -> Refusal {
    let Some(Unavailable { since }) = unavailable else { return Refusal::new(503, UNAVAILABLE) };
    let since = times::rfc3339(since);
    Refusal::new(503, format!("the log has been unavailable since {since}; nothing was stored, try again later"))
}
