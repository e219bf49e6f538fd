//! Every metric of the consumer. Names that begin with `loki_` are Loki's; "chunk" is its word for what a segment is here.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use telemetry::StageCpu;

/// Counters, gauges and histograms of the consumer.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// CPU time from a fetched record to rows in memory.
    pub(crate) consume_cpu: StageCpu,
    /// Streams in the segments that fill. Label: `tenant`.
    pub(crate) memory_streams: IntGaugeVec,
    /// Segments in memory.
    pub(crate) memory_chunks: IntGauge,
    /// Streams that came into a segment, and that left with it; one that goes on is counted in each segment. Label: `tenant`.
    pub(crate) streams_created: IntCounterVec,
    pub(crate) streams_removed: IntCounterVec,
    /// Cuts that wait to be published.
    pub(crate) flush_queue_length: IntGauge,
    /// Label: `partition`.
    pub(crate) records: IntCounterVec,
    pub(crate) entries: IntCounterVec,
    pub(crate) record_bytes: IntCounterVec,
    pub(crate) quarantined: IntCounterVec,
    /// How long ago the last record consumed was appended; 0 when all is consumed. Label: `partition`.
    pub(crate) lag_seconds: GaugeVec,
    /// 1 while this process leads the partition. Label: `partition`.
    pub(crate) leading: IntGaugeVec,
    pub(crate) memory_bytes: IntGauge,
    /// 0 to 1; at 1 fetching stops.
    pub(crate) memory_fill: Gauge,
    /// Times that fetching stopped since memory was full.
    pub(crate) full_stops: IntCounter,
    /// From the end of a segment to the head that lists it.
    pub(crate) cut_seconds: Histogram,
    /// Label: `from`: `log`, `store`.
    pub(crate) retries: IntCounterVec,
    pub(crate) fenced: IntCounter,
    /// From the moment that a partition is held to its lead.
    pub(crate) warm_seconds: Histogram,
    pub(crate) scan_seconds: Histogram,
    pub(crate) scans_running: IntGauge,
    /// Answers that a reader must plan again for, since it came too late.
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
                "Streams in the segments that fill.",
                tenant,
            )?,
            memory_chunks: register.gauge("loki_ingester_memory_chunks", "Segments in memory.")?,
            streams_created: register.counters(
                "loki_ingester_streams_created_total",
                "Streams that came into a segment.",
                tenant,
            )?,
            streams_removed: register.counters(
                "loki_ingester_streams_removed_total",
                "Streams that left with their segment.",
                tenant,
            )?,
            flush_queue_length: register
                .gauge("loki_ingester_flush_queue_length", "Cuts that wait to be published.")?,
            records: register.counters("millrace_consumer_records_total", "Records consumed.", partition)?,
            entries: register.counters("millrace_consumer_entries_total", "Entries consumed.", partition)?,
            record_bytes: register.counters(
                "millrace_consumer_record_bytes_total",
                "Bytes of records consumed.",
                partition,
            )?,
            quarantined: register.counters(
                "millrace_consumer_quarantined_records_total",
                "Records that could not be decoded and were set aside.",
                partition,
            )?,
            lag_seconds: register.float_gauges(
                "millrace_consumer_lag_seconds",
                "How long ago the last record consumed was appended; 0 when all is consumed.",
                partition,
            )?,
            leading: register.gauges(
                "millrace_consumer_leading",
                "1 while this process leads the partition.",
                partition,
            )?,
            memory_bytes: register.gauge("millrace_consumer_memory_bytes", "Memory that segments take, estimated.")?,
            memory_fill: register.float_gauge(
                "millrace_consumer_memory_fill_ratio",
                "Memory that segments take, of the cap at which fetching stops.",
            )?,
            full_stops: register
                .counter("millrace_consumer_memory_full_total", "Times that fetching stopped since memory was full.")?,
            cut_seconds: register.histogram(
                "millrace_consumer_cut_seconds",
                "From the end of a segment to the head that lists it.",
                seconds(),
            )?,
            retries: register.counters(
                "millrace_consumer_retries_total",
                "Requests to the log or the store that failed and are tried again.",
                &["from"],
            )?,
            fenced: register
                .counter("millrace_consumer_fenced_total", "Times that another process took a partition away.")?,
            warm_seconds: register.histogram(
                "millrace_consumer_warm_seconds",
                "From the moment that a partition is read to its lead.",
                seconds(),
            )?,
            scan_seconds: register.histogram(
                "millrace_consumer_scan_seconds",
                "Time to scan the memory of one partition for one query.",
                seconds(),
            )?,
            scans_running: register.gauge("millrace_consumer_scans_running", "Scans that run now.")?,
            not_held: register.counter(
                "millrace_consumer_not_held_total",
                "Requests for offsets that are in blocks by now; the reader plans again.",
            )?,
            tails: register.gauge("millrace_consumer_tails", "Live tails.")?,
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
