//! The metrics of the builder. Names that begin with `loki_` are Loki's, so that its dashboards work. "Chunk" is Loki's
//! word for a block.

use std::time::Duration;

use catalogue::{BlockEntry, Lost};
use cut::{Cut, CutReason};
use model::{PartitionId, TimestampNs};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets};
use telemetry::StageCpu;

/// The metrics of the builder.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// CPU time to encode cuts.
    pub(crate) encode_cpu: StageCpu,
    /// Label: `reason`: `full`, `max_age`, `pressure`, `forced`, `not_owned`.
    chunks_flushed: IntCounterVec,
    chunk_age: Histogram,
    chunk_size: Histogram,
    chunk_utilization: Histogram,
    chunk_entries: Histogram,
    chunk_bounds: Histogram,
    raw_bytes: IntCounter,
    block_bytes: IntCounter,
    quarantined: IntCounter,
    pub(crate) encode_seconds: Histogram,
    pub(crate) put_seconds: Histogram,
    pub(crate) head_seconds: Histogram,
    pub(crate) retries: IntCounter,
    pub(crate) orphans: IntCounter,
    /// Label: `outcome`: `made`, `failed` (this process made the block), or `differs` (the block did not have the owner's
    /// rows, and the owner read the log again).
    pub(crate) remote_builds: IntCounterVec,
    pub(crate) encoding: IntGauge,
    /// Counted when a lead is taken. Label: `partition`.
    lost_offsets: IntCounterVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let chunks_flushed = IntCounterVec::new(
            Opts::new("loki_ingester_chunks_flushed_total", "Number of written blocks, by the reason of their cut."),
            &["reason"],
        )?;
        registry.register(Box::new(chunks_flushed.clone()))?;
        for reason in [CutReason::Full, CutReason::MaxAge, CutReason::Pressure, CutReason::Forced, CutReason::NotOwned]
        {
            chunks_flushed.with_label_values(&[reason.as_str()]);
        }
        let remote_builds = IntCounterVec::new(
            Opts::new("millrace_builder_remote_builds_total", "Number of requests to builder processes, by outcome."),
            &["outcome"],
        )?;
        registry.register(Box::new(remote_builds.clone()))?;
        let lost_offsets = IntCounterVec::new(
            Opts::new(
                "millrace_lost_offsets_total",
                "Number of offsets that retention removed before they were read; the head lists the ranges.",
            ),
            &["partition"],
        )?;
        registry.register(Box::new(lost_offsets.clone()))?;
        let encoding = IntGauge::new("millrace_builder_encoding", "Number of cuts that are being encoded.")?;
        registry.register(Box::new(encoding.clone()))?;
        let seconds = || vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        Ok(Self {
            encode_cpu: StageCpu::register(registry, "encode")?,
            chunks_flushed,
            chunk_age: histogram(
                "loki_ingester_chunk_age_seconds",
                "Seconds from consuming a block's first record to listing the block.",
                vec![60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 36000.0, 43200.0, 57600.0],
            )?,
            chunk_size: histogram(
                "loki_ingester_chunk_size_bytes",
                "Bytes of a block.",
                exponential_buckets(20_000.0, 2.0, 10)?,
            )?,
            chunk_utilization: histogram(
                "loki_ingester_chunk_utilization",
                "Bytes of a block's lines, relative to a full block.",
                vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            )?,
            chunk_entries: histogram(
                "loki_ingester_chunk_entries",
                "Number of entries in a block.",
                exponential_buckets(200.0, 2.0, 9)?,
            )?,
            chunk_bounds: histogram(
                "loki_ingester_chunk_bounds_hours",
                "Hours from a block's earliest to its latest entry.",
                (1..=8).map(f64::from).collect(),
            )?,
            raw_bytes: counter(
                "millrace_builder_line_bytes_total",
                "Number of bytes of lines in listed blocks, before compression.",
            )?,
            block_bytes: counter("millrace_builder_block_bytes_total", "Number of bytes of listed blocks.")?,
            quarantined: counter(
                "millrace_builder_quarantined_records_total",
                "Number of records that are in blocks as they were, because they could not be decoded.",
            )?,
            encode_seconds: histogram("millrace_builder_encode_seconds", "Seconds to encode a block.", seconds())?,
            put_seconds: histogram(
                "millrace_builder_put_seconds",
                "Seconds to upload a block, including retries.",
                seconds(),
            )?,
            head_seconds: histogram(
                "millrace_builder_head_seconds",
                "Seconds to list a block in its head, including retries.",
                seconds(),
            )?,
            retries: counter(
                "millrace_builder_store_retries_total",
                "Number of uploads that failed and were tried again.",
            )?,
            orphans: counter(
                "millrace_builder_orphaned_blocks_total",
                "Number of blocks that no head will list, because another process leads the partition.",
            )?,
            remote_builds,
            encoding,
            lost_offsets,
        })
    }

    /// Counts the ranges that were recorded as lost when a lead was taken.
    pub(crate) fn lost<'a>(&self, partition: PartitionId, lost: impl Iterator<Item = &'a Lost>) {
        for Lost { range, .. } in lost {
            let offsets = u64::try_from(range.end.value() - range.start.value()).unwrap_or(0);
            self.lost_offsets.with_label_values(&[&partition.to_string()]).inc_by(offsets);
        }
    }

    /// Counts a block that a head lists now.
    pub(crate) fn published(&self, cut: &Cut, block: &BlockEntry, now: TimestampNs, line_bytes_full: u64) {
        let hour = Duration::from_secs(3600);
        self.chunks_flushed.with_label_values(&[cut.reason.as_str()]).inc();
        self.chunk_age.observe(now.since(cut.opened).as_secs_f64());
        self.chunk_size.observe(block.bytes as f64);
        self.chunk_utilization.observe(block.line_bytes as f64 / line_bytes_full.max(1) as f64);
        self.chunk_entries.observe(block.rows as f64);
        if let Some(time) = block.time {
            self.chunk_bounds.observe(time.end.since(time.start).as_secs_f64() / hour.as_secs_f64());
        }
        self.raw_bytes.inc_by(block.line_bytes);
        self.block_bytes.inc_by(block.bytes);
        self.quarantined.inc_by(block.quarantined);
    }
}
