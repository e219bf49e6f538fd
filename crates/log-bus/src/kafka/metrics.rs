//! Every metric of the log on Kafka.

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use rdkafka::statistics::Statistics;

/// Counters, gauges and histograms of one [`KafkaLog`](super::KafkaLog).
#[derive(Debug)]
pub(super) struct Metrics {
    /// Records that are durable, their bytes, and how long that took.
    pub(super) produced: IntCounter,
    pub(super) produced_bytes: IntCounter,
    pub(super) produce_seconds: Histogram,
    /// Appends that failed. Label: `reason`: `too_large`, `queue_full`, `timeout`, `refused`.
    pub(super) produce_errors: IntCounterVec,
    /// Times that librdkafka numbered the records of a producer anew.
    pub(super) producer_epochs: IntCounter,
    /// Records that were handed to readers, and their bytes.
    pub(super) fetched: IntCounter,
    pub(super) fetched_bytes: IntCounter,
    /// Times that a reader began elsewhere than where the one before ended: a question to the broker and a new request.
    pub(super) repositioned: IntCounter,
    /// Places where partitions are being read, and the clients that serve them.
    pub(super) cursors: IntGauge,
    pub(super) lanes: IntGauge,
    /// Errors that librdkafka told of. Label: `client`.
    pub(super) client_errors: IntCounterVec,
    /// Partitions that this process should own by its group, and how often that changed.
    pub(super) assigned: IntGauge,
    pub(super) rebalances: IntCounter,
    pub(super) members_replaced: IntCounter,
    pub(super) partitions: IntGauge,
    /// From librdkafka, each 5 s. Labels: `client`, and `broker` where it says so.
    queue_messages: IntGaugeVec,
    queue_bytes: IntGaugeVec,
    round_trip_seconds: GaugeVec,
    sent_bytes: IntGaugeVec,
    received_bytes: IntGaugeVec,
}

impl Metrics {
    /// Makes all of them, and makes them visible if there is a registry.
    pub(super) fn new(registry: Option<&Registry>) -> Result<Self, prometheus::Error> {
        let register = Register(registry);
        let buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let (client, broker) = (&["client"][..], &["client", "broker"][..]);
        Ok(Self {
            produced: register.counter("produced_records_total", "Records that Kafka has.")?,
            produced_bytes: register.counter("produced_bytes_total", "Payload of the records that Kafka has.")?,
            produce_seconds: register.histogram("produce_seconds", "From append to acknowledged.", buckets)?,
            produce_errors: register.counters(
                "produce_errors_total",
                "Appends that failed, by reason.",
                &["reason"],
            )?,
            producer_epochs: register.counter(
                "producer_epochs_total",
                "Times that a producer numbered its records anew; one that was not answered may be in the log twice.",
            )?,
            fetched: register.counter("fetched_records_total", "Records handed to readers.")?,
            fetched_bytes: register.counter("fetched_bytes_total", "Payload of the records handed to readers.")?,
            repositioned: register.counter("repositioned_total", "Reads that began where none had ended.")?,
            cursors: register.gauge("cursors", "Places where partitions are being read.")?,
            lanes: register.gauge("reader_clients", "Kafka clients that read records.")?,
            client_errors: register.counters("client_errors_total", "Errors librdkafka told of.", client)?,
            assigned: register.gauge("assigned_partitions", "Partitions this process should own by its group.")?,
            members_replaced: register
                .counter("members_replaced_total", "Clients of this process in the group that did nothing any more.")?,
            rebalances: register.counter("rebalances_total", "Changes of what this process should own.")?,
            partitions: register.gauge("partitions", "Partitions of the log's topic.")?,
            queue_messages: register.gauges(
                "client_queue_messages",
                "Messages and events that wait in a client.",
                client,
            )?,
            queue_bytes: register.gauges("client_queue_bytes", "Bytes that wait in a producer.", client)?,
            round_trip_seconds: register.float_gauges(
                "broker_round_trip_seconds",
                "99th percentile of a broker's answers over the last seconds; of fetches, the wait for records too.",
                broker,
            )?,
            sent_bytes: register.gauges("client_sent_bytes", "Bytes a client sent since it was made.", client)?,
            received_bytes: register.gauges(
                "client_received_bytes",
                "Bytes a client received since it was made.",
                client,
            )?,
        })
    }

    /// What librdkafka tells about one client.
    pub(super) fn statistics(&self, client: &str, statistics: &Statistics) {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.queue_messages.with_label_values(&[client]).set(signed(statistics.msg_cnt) + statistics.replyq);
        self.queue_bytes.with_label_values(&[client]).set(signed(statistics.msg_size));
        self.sent_bytes.with_label_values(&[client]).set(statistics.tx_bytes);
        self.received_bytes.with_label_values(&[client]).set(statistics.rx_bytes);
        for broker in statistics.brokers.values().filter(|broker| broker.nodeid >= 0) {
            if let Some(window) = broker.rtt.as_ref().filter(|window| window.cnt > 0) {
                let seconds = window.p99 as f64 / 1e6;
                self.round_trip_seconds.with_label_values(&[client, &broker.nodeid.to_string()]).set(seconds);
            }
        }
    }
}

/// Makes metrics under our prefix.
struct Register<'a>(Option<&'a Registry>);

impl Register<'_> {
    fn visible<C: prometheus::core::Collector + Clone + 'static>(&self, metric: C) -> Result<C, prometheus::Error> {
        if let Some(registry) = self.0 {
            registry.register(Box::new(metric.clone()))?;
        }
        Ok(metric)
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("millrace_kafka_{name}"), help)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.visible(IntCounter::with_opts(Self::opts(name, help))?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.visible(IntCounterVec::new(Self::opts(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.visible(IntGauge::with_opts(Self::opts(name, help))?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.visible(IntGaugeVec::new(Self::opts(name, help), labels)?)
    }

    fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.visible(GaugeVec::new(Self::opts(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram, prometheus::Error> {
        let opts = HistogramOpts { common_opts: Self::opts(name, help), buckets };
        self.visible(Histogram::with_opts(opts)?)
    }
}
