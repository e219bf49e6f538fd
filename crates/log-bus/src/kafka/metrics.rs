//! The metrics of the log on Kafka.

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use rdkafka::statistics::Statistics;

/// The metrics of one [`KafkaLog`](super::KafkaLog).
#[derive(Debug)]
pub(super) struct Metrics {
    /// Number of acknowledged records, their payload bytes, and the time of their appends.
    pub(super) produced: IntCounter,
    pub(super) produced_bytes: IntCounter,
    pub(super) produce_seconds: Histogram,
    /// Number of failed appends. Label `reason`: `too_large`, `queue_full`, `timeout`, `refused`.
    pub(super) produce_errors: IntCounterVec,
    /// Number of times that librdkafka renumbered the records of a producer.
    pub(super) producer_epochs: IntCounter,
    /// Number of records returned to readers, and their payload bytes.
    pub(super) fetched: IntCounter,
    pub(super) fetched_bytes: IntCounter,
    /// Number of times that a cursor was repositioned, which costs a request for the bounds and a new fetch.
    pub(super) repositioned: IntCounter,
    /// Number of cursors, and of the clients that serve them.
    pub(super) cursors: IntGauge,
    pub(super) reader_clients: IntGauge,
    /// Number of errors that librdkafka reported. Label: `client`.
    pub(super) client_errors: IntCounterVec,
    /// Number of partitions that the group assigned to this process, and of changes of the assignment.
    pub(super) assigned: IntGauge,
    pub(super) rebalances: IntCounter,
    pub(super) members_replaced: IntCounter,
    pub(super) partitions: IntGauge,
    /// From librdkafka's statistics, every 5 s. Label `client`; `round_trip_seconds` also has `broker`.
    queue_messages: IntGaugeVec,
    queue_bytes: IntGaugeVec,
    round_trip_seconds: GaugeVec,
    sent_bytes: IntGaugeVec,
    received_bytes: IntGaugeVec,
}

impl Metrics {
    /// Creates all metrics, and registers them if there is a registry.
    pub(super) fn new(registry: Option<&Registry>) -> Result<Self, prometheus::Error> {
        let register = Register(registry);
        let buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let (client, broker) = (&["client"][..], &["client", "broker"][..]);
        Ok(Self {
            produced: register
                .counter("produced_records_total", "Number of records whose append Kafka acknowledged.")?,
            produced_bytes: register.counter("produced_bytes_total", "Payload bytes of the acknowledged records.")?,
            produce_seconds: register.histogram(
                "produce_seconds",
                "Seconds from the append of a record to its acknowledgement.",
                buckets,
            )?,
            produce_errors: register.counters(
                "produce_errors_total",
                "Number of failed appends, by reason.",
                &["reason"],
            )?,
            producer_epochs: register.counter(
                "producer_epochs_total",
                "Number of times a producer renumbered its records; unacknowledged ones may be in the log twice.",
            )?,
            fetched: register.counter("fetched_records_total", "Number of records returned to readers.")?,
            fetched_bytes: register.counter("fetched_bytes_total", "Payload bytes of records returned to readers.")?,
            repositioned: register
                .counter("repositioned_total", "Number of reads that could not continue where an earlier one ended.")?,
            cursors: register.gauge("cursors", "Number of offsets at which partitions are being read.")?,
            reader_clients: register.gauge("reader_clients", "Number of Kafka clients that read records.")?,
            client_errors: register.counters(
                "client_errors_total",
                "Number of errors that librdkafka reported, by client.",
                client,
            )?,
            assigned: register
                .gauge("assigned_partitions", "Number of partitions that the group assigned to this process.")?,
            members_replaced: register.counter(
                "members_replaced_total",
                "Number of group clients of this process that stopped working and were replaced.",
            )?,
            rebalances: register
                .counter("rebalances_total", "Number of changes of the partitions assigned to this process.")?,
            partitions: register.gauge("partitions", "Number of partitions of the log's topic.")?,
            queue_messages: register.gauges(
                "client_queue_messages",
                "Number of messages and events queued in a Kafka client.",
                client,
            )?,
            queue_bytes: register.gauges("client_queue_bytes", "Bytes queued in a producer.", client)?,
            round_trip_seconds: register.float_gauges(
                "broker_round_trip_seconds",
                "Seconds until a broker answers, 99th percentile of the last seconds. Includes the wait of fetches.",
                broker,
            )?,
            sent_bytes: register.gauges("client_sent_bytes", "Bytes a client sent since it was created.", client)?,
            received_bytes: register.gauges(
                "client_received_bytes",
                "Bytes a client received since it was created.",
                client,
            )?,
        })
    }

    /// Takes over librdkafka's statistics of one client.
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

/// Creates metrics with Millrace's prefix.
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
