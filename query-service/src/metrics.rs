//! Every metric of the query service.

use std::time::Duration;

use model::TenantId;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};

use crate::{error::Error, stats::AnswerStats};

/// The metrics of one service.
pub(crate) struct Metrics {
    latency: HistogramVec,
    bytes_per_second: HistogramVec,
    bytes_total: IntCounterVec,
    downloaded_blocks_total: IntCounter,
    duration: HistogramVec,
    queue: Histogram,
    /// Number of queries refused because of `blocked_queries`. Label: `user`, the tenant.
    blocked: IntCounterVec,
    /// Number of open tails.
    pub(crate) tail_active: IntGauge,
    /// Number of streams with entries in open tails.
    pub(crate) tail_active_streams: IntGauge,
    /// Bytes of frames sent to tails.
    pub(crate) tail_bytes: IntCounter,
    /// Number of entries that tails dropped because their client was too slow.
    pub(crate) tail_dropped: IntCounter,
}

/// The labels of a query's metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryLabels {
    /// `metric`, `filter` (entries that a stage filters), `limited` (entries without a filter), `labels`, `series`,
    /// `stats`, or `volume`.
    pub(crate) kind: &'static str,
    /// `range` or `instant`.
    pub(crate) range: &'static str,
}

impl Metrics {
    /// Makes and registers all of them.
    pub(crate) fn new(registry: &Registry) -> Result<Self, Error> {
        let metrics = Self::build().map_err(|e| Error::Start(format!("metrics: {e}")))?;
        metrics.register(registry).map_err(|e| Error::Start(format!("metrics: {e}")))?;
        Ok(metrics)
    }

    fn build() -> Result<Self, prometheus::Error> {
        let seconds = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0];
        let labels = ["status_code", "type", "range"];
        let rate_labels = ["status_code", "type", "range", "latency_type", "sharded"];
        Ok(Self {
            latency: HistogramVec::new(
                HistogramOpts::new("loki_logql_querystats_latency_seconds", "Seconds from a query to its answer.")
                    .buckets(seconds.clone()),
                &labels,
            )?,
            bytes_per_second: HistogramVec::new(
                HistogramOpts::new(
                    "loki_logql_querystats_bytes_processed_per_seconds",
                    "Bytes that a query processed per second.",
                )
                .buckets(exponential_buckets(1e6, 2.0, 16)?),
                &rate_labels,
            )?,
            bytes_total: IntCounterVec::new(
                Opts::new(
                    "loki_logql_querystats_bytes_processed_total",
                    "Bytes of lines and metadata that queries processed.",
                ),
                &["tenant"],
            )?,
            downloaded_blocks_total: IntCounter::new(
                "loki_logql_querystats_downloaded_chunk_total",
                "Number of blocks that queries read rows of.",
            )?,
            duration: HistogramVec::new(
                HistogramOpts::new("logql_query_duration_seconds", "Seconds of reading and evaluating a query.")
                    .buckets(seconds.clone()),
                &["query_type"],
            )?,
            queue: Histogram::with_opts(
                HistogramOpts::new(
                    "loki_query_scheduler_queue_duration_seconds",
                    "Seconds that queries waited to run.",
                )
                .buckets(seconds),
            )?,
            blocked: IntCounterVec::new(
                Opts::new("loki_blocked_queries", "Number of queries refused by policy."),
                &["user"],
            )?,
            tail_active: IntGauge::new("loki_querier_tail_active", "Number of open tails.")?,
            tail_active_streams: IntGauge::new(
                "loki_querier_tail_active_streams",
                "Number of streams with entries in open tails.",
            )?,
            tail_bytes: IntCounter::new("loki_querier_tail_bytes_total", "Bytes of frames sent to tails.")?,
            tail_dropped: IntCounter::new(
                "millrace_query_tail_dropped_entries_total",
                "Number of entries dropped because a tail's client was too slow.",
            )?,
        })
    }

    fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.latency.clone()))?;
        registry.register(Box::new(self.bytes_per_second.clone()))?;
        registry.register(Box::new(self.bytes_total.clone()))?;
        registry.register(Box::new(self.downloaded_blocks_total.clone()))?;
        registry.register(Box::new(self.duration.clone()))?;
        registry.register(Box::new(self.queue.clone()))?;
        registry.register(Box::new(self.blocked.clone()))?;
        registry.register(Box::new(self.tail_active.clone()))?;
        registry.register(Box::new(self.tail_active_streams.clone()))?;
        registry.register(Box::new(self.tail_bytes.clone()))?;
        registry.register(Box::new(self.tail_dropped.clone()))
    }

    /// Counts one query.
    pub(crate) fn record(
        &self,
        tenant: &TenantId,
        labels: QueryLabels,
        status: u16,
        took: Duration,
        stats: &AnswerStats,
    ) {
        let status = status.to_string();
        self.latency.with_label_values(&[status.as_str(), labels.kind, labels.range]).observe(took.as_secs_f64());
        // Loki's boundary.
        let latency = if took < Duration::from_secs(10) { "fast" } else { "slow" };
        let rate = stats.bytes_per_second() as f64;
        let rate_labels = [status.as_str(), labels.kind, labels.range, latency, "false"];
        self.bytes_per_second.with_label_values(&rate_labels).observe(rate);
        self.bytes_total.with_label_values(&[tenant.as_str()]).inc_by(stats.read.bytes);
        self.downloaded_blocks_total.inc_by(stats.read.blocks_read);
        self.duration.with_label_values(&[labels.kind]).observe(stats.exec_time.as_secs_f64());
        self.queue.observe(stats.queue_time.as_secs_f64());
    }

    /// Counts a query refused by policy.
    pub(crate) fn record_blocked(&self, tenant: &TenantId) {
        self.blocked.with_label_values(&[tenant.as_str()]).inc();
    }
}
