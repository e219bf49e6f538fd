//! The metrics of the consumer. Names that begin with `loki_` are Loki's, whose word for a segment is "chunk".

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use telemetry::StageCpu;

/// The metrics of the consumer.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// CPU time to decode records into memory.
    pub(crate) consume_cpu: StageCpu,
    /// Label: `tenant`.
    pub(crate) memory_streams: IntGaugeVec,
    pub(crate) memory_chunks: IntGauge,
    /// A stream counts once in each segment that holds it. Label: `tenant`.
    pub(crate) streams_created: IntCounterVec,
    pub(crate) streams_removed: IntCounterVec,
    pub(crate) flush_queue_length: IntGauge,
    /// Label: `partition`.
    pub(crate) records: IntCounterVec,
    pub(crate) entries: IntCounterVec,
    pub(crate) record_bytes: IntCounterVec,
    pub(crate) quarantined: IntCounterVec,
    /// Label: `partition`.
    pub(crate) lag_seconds: GaugeVec,
    /// Label: `partition`.
    pub(crate) leading: IntGaugeVec,
    pub(crate) memory_bytes: IntGauge,
    /// From 0 to 1. At 1 fetching stops.
    pub(crate) memory_fill: Gauge,
    pub(crate) full_stops: IntCounter,
    pub(crate) cut_seconds: Histogram,
    /// Label: `from`: `log`, `store`.
    pub(crate) retries: IntCounterVec,
    pub(crate) fenced: IntCounter,
    pub(crate) warm_seconds: Histogram,
    pub(crate) scan_seconds: Histogram,
    pub(crate) scans_running: IntGauge,
    pub(crate) not_held: IntCounter,
    pub(crate) tails: IntGauge,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let register = Register(registry);
        let seconds = || vec![0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        let (tenant, partition) = (&["tenant"][..], &["partition"][..]);
        Ok(Self {
            consume_cpu: StageCpu::register(registry, "consume")?,
            memory_streams: register.gauges(
                "loki_ingester_memory_streams",
                "Number of streams in filling segments.",
                tenant,
            )?,
            memory_chunks: register.gauge("loki_ingester_memory_chunks", "Number of segments in memory.")?,
            streams_created: register.counters(
                "loki_ingester_streams_created_total",
                "Number of streams added to segments.",
                tenant,
            )?,
            streams_removed: register.counters(
                "loki_ingester_streams_removed_total",
                "Number of streams of ended segments.",
                tenant,
            )?,
            flush_queue_length: register
                .gauge("loki_ingester_flush_queue_length", "Number of cuts that wait to be published.")?,
            records: register.counters("millrace_consumer_records_total", "Number of consumed records.", partition)?,
            entries: register.counters("millrace_consumer_entries_total", "Number of consumed entries.", partition)?,
            record_bytes: register.counters(
                "millrace_consumer_record_bytes_total",
                "Number of bytes of consumed records.",
                partition,
            )?,
            quarantined: register.counters(
                "millrace_consumer_quarantined_records_total",
                "Number of records that could not be decoded and were set aside.",
                partition,
            )?,
            lag_seconds: register.float_gauges(
                "millrace_consumer_lag_seconds",
                "Seconds since the last consumed record was appended, or 0 when everything is consumed.",
                partition,
            )?,
            leading: register.gauges(
                "millrace_consumer_leading",
                "1 while this process leads the partition.",
                partition,
            )?,
            memory_bytes: register
                .gauge("millrace_consumer_memory_bytes", "Estimated bytes of memory of all segments.")?,
            memory_fill: register.float_gauge(
                "millrace_consumer_memory_fill_ratio",
                "Share of the memory limit that segments take; at 1 fetching stops.",
            )?,
            full_stops: register.counter(
                "millrace_consumer_memory_full_total",
                "Number of times that fetching stopped because memory was full.",
            )?,
            cut_seconds: register.histogram(
                "millrace_consumer_cut_seconds",
                "Seconds from the end of a segment to the head that lists it.",
                seconds(),
            )?,
            retries: register.counters(
                "millrace_consumer_retries_total",
                "Number of failed requests to the log or the store that are tried again.",
                &["from"],
            )?,
            fenced: register.counter(
                "millrace_consumer_fenced_total",
                "Number of times that another process took a lead from this one.",
            )?,
            warm_seconds: register.histogram(
                "millrace_consumer_warm_seconds",
                "Seconds from the start of reading a partition to taking its lead.",
                seconds(),
            )?,
            scan_seconds: register.histogram(
                "millrace_consumer_scan_seconds",
                "Seconds to scan the memory of one partition for one query.",
                seconds(),
            )?,
            scans_running: register.gauge("millrace_consumer_scans_running", "Number of scans that run now.")?,
            not_held: register.counter(
                "millrace_consumer_not_held_total",
                "Number of requests for rows that were evicted because they are in blocks; the reader plans again.",
            )?,
            tails: register.gauge("millrace_consumer_tails", "Number of open live tails.")?,
        })
    }
}

struct Register<'a>(&'a Registry);

impl Register<'_> {
    fn put<M: prometheus::core::Collector + Clone + 'static>(&self, metric: M) -> Result<M, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.put(IntGauge::new(name, help)?)
    }

    fn float_gauge(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.put(Gauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.put(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.put(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.put(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.put(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram, prometheus::Error> {
        self.put(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?)
    }
}
