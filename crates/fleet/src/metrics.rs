//! Every metric of asking other processes.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};

/// Counters and histograms.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Questions to one holder. Labels: `request`: `scan`, `streams`, `flush`; `outcome`: `answered`, `not_held`,
    /// `not_leading`, `query`, `deadline`, `unavailable`, `stopped`, `removed`, `short` (did not reach what was asked for).
    pub(crate) requests: IntCounterVec,
    /// Questions that the log was read for, since no holder answered.
    pub(crate) fallbacks: IntCounter,
    /// Holders asked since the one before was silent.
    pub(crate) hedges: IntCounter,
    /// Silent processes that did not say that they are alive.
    pub(crate) probes_failed: IntCounter,
    /// From the question to the answer, whoever gave it. Label: `request`.
    pub(crate) seconds: HistogramVec,
    /// Live tails that are open.
    pub(crate) tails: IntGauge,
    /// Rows that tails did not pass on since another holder had delivered them.
    pub(crate) tail_repeated: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = Opts::new("millrace_fleet_requests_total", "Questions to holders of partitions, by outcome.");
        let seconds =
            HistogramOpts::new("millrace_fleet_seconds", "Time from a question about a partition to its answer.")
                .buckets(vec![0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        let metrics = Self {
            requests: IntCounterVec::new(requests, &["request", "outcome"])?,
            fallbacks: IntCounter::new(
                "millrace_fleet_fallbacks_total",
                "Questions that the log was read for, since no holder answered.",
            )?,
            hedges: IntCounter::new("millrace_fleet_hedges_total", "Holders asked since the one before was silent.")?,
            probes_failed: IntCounter::new(
                "millrace_fleet_probes_failed_total",
                "Silent holders that did not say that they are alive.",
            )?,
            seconds: HistogramVec::new(seconds, &["request"])?,
            tails: IntGauge::new("millrace_fleet_tails", "Live tails that are open.")?,
            tail_repeated: IntCounter::new(
                "millrace_fleet_tail_repeated_rows_total",
                "Live rows left out since another holder had delivered them.",
            )?,
        };
        let all: [Box<dyn Collector>; 7] = [
            Box::new(metrics.requests.clone()),
            Box::new(metrics.fallbacks.clone()),
            Box::new(metrics.hedges.clone()),
            Box::new(metrics.probes_failed.clone()),
            Box::new(metrics.seconds.clone()),
            Box::new(metrics.tails.clone()),
            Box::new(metrics.tail_repeated.clone()),
        ];
        all.into_iter().try_for_each(|metric| registry.register(metric))?;
        Ok(metrics)
    }
}
