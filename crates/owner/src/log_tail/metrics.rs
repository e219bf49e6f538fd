//! The metrics of reading tails from the log.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::OwnerError;

/// Metrics count from the start. They are shown once they are [registered](Metrics::register).
pub(crate) struct Metrics {
    /// Label: `result`: `ok`, `removed` (retention was faster), `deadline`, `unavailable`.
    reads: IntCounterVec,
    pub(crate) fetched_bytes: IntCounter,
    /// Includes evicted chunks that are still being scanned.
    pub(crate) bytes: IntGauge,
    pub(crate) seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let make = || {
            Ok::<_, prometheus::Error>(Self {
                reads: IntCounterVec::new(
                    Opts::new(
                        "millrace_query_log_tail_reads_total",
                        "Number of reads from the log for partitions that nobody serves, by result.",
                    ),
                    &["result"],
                )?,
                fetched_bytes: IntCounter::new(
                    "millrace_query_log_tail_fetched_bytes_total",
                    "Number of bytes of records fetched from the log for queries.",
                )?,
                bytes: IntGauge::new(
                    "millrace_query_log_tail_bytes",
                    "Bytes of memory that tails read from the log take.",
                )?,
                seconds: Histogram::with_opts(
                    HistogramOpts::new(
                        "millrace_query_log_tail_seconds",
                        "Seconds from a request to its answer from the log.",
                    )
                    .buckets(buckets),
                )?,
            })
        };
        make().expect("names, labels and buckets are constants that are valid")
    }
}

impl Metrics {
    pub(crate) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.reads.clone()))?;
        registry.register(Box::new(self.fetched_bytes.clone()))?;
        registry.register(Box::new(self.bytes.clone()))?;
        registry.register(Box::new(self.seconds.clone()))
    }

    /// Counts one read by its outcome.
    pub(crate) fn count<T>(&self, outcome: &Result<T, OwnerError>) {
        let result = match outcome {
            Ok(_) => "ok",
            Err(OwnerError::Removed { .. }) => "removed",
            Err(OwnerError::Deadline { .. }) => "deadline",
            Err(_) => "unavailable",
        };
        self.reads.with_label_values(&[result]).inc();
    }
}
