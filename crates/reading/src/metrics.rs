//! Every metric of reading.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::goal::Consistency;

/// The metrics of one [`Reader`](crate::Reader). Clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    /// Number of requests that read rows. Label: `consistency`: `strong`, `eventual`.
    reads: IntCounterVec,
    /// Seconds from the start of a read that asks for offsets (strong, or with a read token) until all owners have
    /// answered and reached them.
    pub(crate) strong_wait_seconds: Histogram,
    /// Number of plans made again. Label: `reason`: `not_held` (memory evicted rows), `block_gone`, `removed` (by the
    /// log's retention), `not_leading` (no process serves a partition), `behind` (not consumed far enough),
    /// `unavailable`.
    plans_again: IntCounterVec,
    /// Number of heads that could not be read again, so that a plan used an older one.
    pub(crate) heads_stale: IntCounter,
    /// Number of ranges that an answer lacks because retention removed them and no head lists them. The answer has a
    /// warning.
    pub(crate) removed_ranges: IntCounter,
    /// Bytes of block indexes in memory.
    pub(crate) index_cache_bytes: IntGauge,
}

impl Metrics {
    /// Makes and registers all of them.
    ///
    /// # Errors
    /// When metrics of the same names are registered already.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let seconds = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let metrics = Self {
            reads: IntCounterVec::new(
                Opts::new("millrace_query_reads_total", "Number of requests that read rows, by consistency."),
                &["consistency"],
            )?,
            strong_wait_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "millrace_query_strong_wait_seconds",
                    "Seconds until owners had answered for all offsets that a strong read asks for.",
                )
                .buckets(seconds),
            )?,
            plans_again: IntCounterVec::new(
                Opts::new("millrace_query_plans_again_total", "Number of plans made again, by reason."),
                &["reason"],
            )?,
            heads_stale: IntCounter::new(
                "millrace_query_heads_stale_total",
                "Number of heads that could not be read again; plans used older ones.",
            )?,
            removed_ranges: IntCounter::new(
                "millrace_query_removed_ranges_total",
                "Number of ranges that answers lack, with a warning: retention removed them and no head lists them.",
            )?,
            index_cache_bytes: IntGauge::new("millrace_query_index_cache_bytes", "Bytes of block indexes in memory.")?,
        };
        registry.register(Box::new(metrics.reads.clone()))?;
        registry.register(Box::new(metrics.strong_wait_seconds.clone()))?;
        registry.register(Box::new(metrics.plans_again.clone()))?;
        registry.register(Box::new(metrics.heads_stale.clone()))?;
        registry.register(Box::new(metrics.removed_ranges.clone()))?;
        registry.register(Box::new(metrics.index_cache_bytes.clone()))?;
        Ok(metrics)
    }

    /// Counts a request.
    pub(crate) fn count_read(&self, consistency: Consistency) {
        self.reads.with_label_values(&[consistency.as_str()]).inc();
    }

    /// Counts a plan that is made again.
    pub(crate) fn count_plan_again(&self, reason: &str) {
        self.plans_again.with_label_values(&[reason]).inc();
    }
}
