//! The metrics of requests to other processes.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};

/// The metrics of the fleet.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Labels: `request`: `scan`, `streams`, `flush`; `outcome`: `answered`, `not_held`,
    /// `not_leading`, `query`, `deadline`, `unavailable`, `stopped`, `removed`, `short` (did not reach what was asked for).
    pub(crate) requests: IntCounterVec,
    pub(crate) fallbacks: IntCounter,
    pub(crate) hedges: IntCounter,
    pub(crate) probes_failed: IntCounter,
    /// Label: `request`.
    pub(crate) seconds: HistogramVec,
    pub(crate) tails: IntGauge,
    pub(crate) tail_repeated: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests =
            Opts::new("millrace_fleet_requests_total", "Number of requests to holders of partitions, by outcome.");
        let seconds =
            HistogramOpts::new("millrace_fleet_seconds", "Seconds from a request about a partition to its answer.")
                .buckets(vec![0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        let metrics = Self {
            requests: IntCounterVec::new(requests, &["request", "outcome"])?,
            fallbacks: IntCounter::new(
                "millrace_fleet_fallbacks_total",
                "Number of requests answered from the log, because no holder answered.",
            )?,
            hedges: IntCounter::new(
                "millrace_fleet_hedges_total",
                "Number of holders asked because the one before was silent.",
            )?,
            probes_failed: IntCounter::new(
                "millrace_fleet_probes_failed_total",
                "Number of silent holders that did not answer a probe.",
            )?,
            seconds: HistogramVec::new(seconds, &["request"])?,
            tails: IntGauge::new("millrace_fleet_tails", "Number of open live tails.")?,
            tail_repeated: IntCounter::new(
                "millrace_fleet_tail_repeated_rows_total",
                "Number of live rows left out, because another holder had delivered them.",
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
