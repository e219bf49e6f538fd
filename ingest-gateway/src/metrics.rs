//! Every metric of the gateway, under the name Loki's dashboards know.

use std::collections::BTreeSet;

use model::{PartitionId, TenantId};
use parking_lot::Mutex;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use telemetry::StageCpu;

use crate::tally::Tally;
use crate::tenants::Active;

/// Labels: `tenant`, `retention_hours`, `is_internal_stream` (always `false`), `policy` (always empty), `format`
/// (`loki` or `otlp`); `reason` is a [`Reason`](crate::refusal::Reason); `partition` is a number; `status` is `success` or `failure`.
pub(crate) struct Metrics {
    /// CPU time from a whole body to records.
    pub(crate) decode_cpu: StageCpu,
    bytes_received: IntCounterVec,
    lines_received: IntCounterVec,
    metadata_bytes_received: IntCounterVec,
    discarded_samples: IntCounterVec,
    discarded_bytes: IntCounterVec,
    mutated_samples: IntCounterVec,
    mutated_bytes: IntCounterVec,
    lag_ms: IntCounterVec,
    push_stats: IntCounterVec,
    appends: IntCounterVec,
    append_latency: Histogram,
    sent_bytes: IntCounter,
    records_per_request: Histogram,
    bytes_per_line: Histogram,
    inflight_bytes: IntGauge,
    inflight_bytes_high: IntGauge,
    unavailable: IntCounter,
    active_streams: IntGaugeVec,
    tenant_partitions: IntGaugeVec,
    partitions: IntGauge,
    breaker_open: IntGauge,
    breaker_opened: IntCounter,
    partitions_failing: IntGauge,
    shown_tenants: Mutex<BTreeSet<TenantId>>,
}

/// The labels under which a request is counted.
pub(crate) struct RequestLabels<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) retention_hours: u64,
    pub(crate) format: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) content_encoding: &'static str,
    pub(crate) agent: &'a str,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let received = ["tenant", "retention_hours", "is_internal_stream", "policy", "format"];
        let discarded = ["reason", "tenant", "retention_hours", "policy", "format"];
        let active_streams = IntGaugeVec::new(
            Opts::new("millrace_gateway_active_streams", "Streams that count against the stream limits."),
            &["tenant"],
        )?;
        registry.register(Box::new(active_streams.clone()))?;
        let tenant_partitions = IntGaugeVec::new(
            Opts::new("millrace_gateway_tenant_partitions", "Partitions that a tenant's streams are spread over."),
            &["tenant"],
        )?;
        registry.register(Box::new(tenant_partitions.clone()))?;
        Ok(Self {
            decode_cpu: StageCpu::register(registry, "decode")?,
            bytes_received: counters(
                "loki_distributor_bytes_received_total",
                "Bytes of lines and metadata that passed validation.",
                &received,
            )?,
            lines_received: counters(
                "loki_distributor_lines_received_total",
                "Lines that passed validation.",
                &["tenant", "is_internal_stream", "policy", "format"],
            )?,
            metadata_bytes_received: counters(
                "loki_distributor_structured_metadata_bytes_received_total",
                "Bytes of structured metadata that passed validation.",
                &received,
            )?,
            discarded_samples: counters("loki_discarded_samples_total", "Lines that were refused.", &discarded)?,
            discarded_bytes: counters("loki_discarded_bytes_total", "Bytes that were refused.", &discarded)?,
            mutated_samples: counters("loki_mutated_samples_total", "Lines that were cut.", &["reason", "tenant"])?,
            mutated_bytes: counters("loki_mutated_bytes_total", "Bytes that were cut off.", &["reason", "tenant"])?,
            lag_ms: counters(
                "loki_distributor_lag_ms_total",
                "How old the first entry of each pushed stream was when it came.",
                &["tenant", "userAgent", "format"],
            )?,
            push_stats: counters(
                "loki_distributor_push_stats_count",
                "Push requests by how they were encoded.",
                &["tenant", "content_type", "content_encoding", "content_version", "format"],
            )?,
            appends: counters(
                "loki_distributor_kafka_appends_total",
                "Records appended to the log.",
                &["partition", "status"],
            )?,
            append_latency: histogram(
                "loki_distributor_kafka_latency_seconds",
                "How long the log took to make a request's records durable.",
                prometheus::exponential_buckets(0.0005, 2.0, 16)?,
            )?,
            sent_bytes: counter("loki_distributor_kafka_sent_bytes_total", "Bytes of records appended to the log.")?,
            records_per_request: histogram(
                "loki_distributor_kafka_records_per_write_request",
                "Records a push request became.",
                prometheus::exponential_buckets(1.0, 2.0, 8)?,
            )?,
            bytes_per_line: histogram(
                "loki_bytes_per_line",
                "Mean bytes of the lines of a request.",
                prometheus::exponential_buckets(1.0, 8.0, 8)?,
            )?,
            inflight_bytes: gauge("millrace_gateway_inflight_bytes", "Bytes of all requests in flight.")?,
            inflight_bytes_high: gauge(
                "loki_distributor_inflight_bytes_high_watermark",
                "The most bytes that were in flight.",
            )?,
            unavailable: counter(
                "millrace_gateway_unavailable_total",
                "Requests that got 503: too many bytes were in flight, or the log could not take them.",
            )?,
            active_streams,
            tenant_partitions,
            partitions: gauge("millrace_gateway_partitions", "Partitions of the log that records are sent to.")?,
            breaker_open: gauge(
                "millrace_gateway_log_breaker_open",
                "1 while the log counts as unavailable and pushes are refused at once, else 0.",
            )?,
            breaker_opened: counter(
                "millrace_gateway_log_breaker_opened_total",
                "How often the log was found to be unavailable.",
            )?,
            partitions_failing: gauge(
                "millrace_gateway_partitions_failing",
                "Partitions that records are led around since appends to them failed.",
            )?,
            shown_tenants: Mutex::default(),
        })
    }

    /// A request whose records are durable, or that was refused.
    pub(crate) fn request(&self, request: &RequestLabels<'_>, tally: &Tally) {
        let (tenant, format) = (request.tenant.as_str(), request.format);
        let hours = request.retention_hours.to_string();
        let received = [tenant, &hours, "false", "", format];
        if tally.entries > 0 {
            let bytes = tally.line_bytes + tally.metadata_bytes;
            self.bytes_received.with_label_values(&received).inc_by(bytes);
            self.metadata_bytes_received.with_label_values(&received).inc_by(tally.metadata_bytes);
            self.lines_received.with_label_values(&[tenant, "false", "", format]).inc_by(tally.entries);
            self.bytes_per_line.observe(tally.line_bytes as f64 / tally.entries as f64);
            self.lag_ms.with_label_values(&[tenant, request.agent, format]).inc_by(tally.lag_ms);
        }
        let encoded = [tenant, request.content_type, request.content_encoding, "", format];
        self.push_stats.with_label_values(&encoded).inc();
        for (reason, entries, bytes) in tally.discards.iter() {
            let labels = [reason.as_str(), tenant, &hours, "", format];
            self.discarded_samples.with_label_values(&labels).inc_by(entries);
            self.discarded_bytes.with_label_values(&labels).inc_by(bytes);
        }
        for (reason, entries, bytes) in tally.mutations.iter() {
            self.mutated_samples.with_label_values(&[reason.as_str(), tenant]).inc_by(entries);
            self.mutated_bytes.with_label_values(&[reason.as_str(), tenant]).inc_by(bytes);
        }
    }

    pub(crate) fn append(&self, partition: PartitionId, bytes: usize, is_durable: bool) {
        let status = if is_durable { "success" } else { "failure" };
        self.appends.with_label_values(&[partition.to_string().as_str(), status]).inc();
        if is_durable {
            self.sent_bytes.inc_by(bytes as u64);
        }
    }

    pub(crate) fn appended(&self, records: usize, seconds: f64) {
        self.records_per_request.observe(records as f64);
        self.append_latency.observe(seconds);
    }

    pub(crate) fn inflight(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.inflight_bytes.set(bytes);
        if bytes > self.inflight_bytes_high.get() {
            self.inflight_bytes_high.set(bytes);
        }
    }

    pub(crate) fn unavailable(&self) {
        self.unavailable.inc();
    }

    pub(crate) fn partitions(&self, count: u32) {
        self.partitions.set(count.into());
    }

    pub(crate) fn breaker(&self, is_open: bool, partitions_failing: usize) {
        self.breaker_open.set(is_open.into());
        self.partitions_failing.set(partitions_failing as i64);
    }

    pub(crate) fn breaker_opened(&self) {
        self.breaker_opened.inc();
    }

    /// Shows what tenants have, and no longer shows those that have nothing.
    pub(crate) fn tenants(&self, active: Vec<Active>) {
        let mut shown = self.shown_tenants.lock();
        let now: BTreeSet<TenantId> = active.iter().map(|active| active.tenant.clone()).collect();
        for gone in shown.difference(&now) {
            // It was shown before, so it is there to be removed.
            let _ = self.active_streams.remove_label_values(&[gone.as_str()]);
            let _ = self.tenant_partitions.remove_label_values(&[gone.as_str()]);
        }
        for Active { tenant, streams, shards } in active {
            self.active_streams.with_label_values(&[tenant.as_str()]).set(i64::try_from(streams).unwrap_or(i64::MAX));
            self.tenant_partitions.with_label_values(&[tenant.as_str()]).set(shards.into());
        }
        *shown = now;
    }
}
