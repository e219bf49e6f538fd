//! Every metric of the builder. "Chunk" is Loki's word for what a block is here: the names are Loki's, so that its
//! dashboards go on working.

use std::time::Duration;

use catalogue::{BlockEntry, Lost};
use cut::{Cut, CutReason};
use model::{PartitionId, TimestampNs};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets};
use telemetry::StageCpu;

/// Counters and histograms of the builder.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// CPU time from a cut to the bytes of its block.
    pub(crate) encode_cpu: StageCpu,
    /// Blocks by why they were cut: `full`, `max_age`, `pressure`, `forced`, `not_owned`.
    chunks_flushed: IntCounterVec,
    /// From the first record consumed to the head that lists the block.
    chunk_age: Histogram,
    chunk_size: Histogram,
    /// Bytes of lines, of the bytes a full cut has.
    chunk_utilization: Histogram,
    chunk_entries: Histogram,
    /// From the earliest to the latest entry.
    chunk_bounds: Histogram,
    raw_bytes: IntCounter,
    block_bytes: IntCounter,
    quarantined: IntCounter,
    /// CPU time on one thread.
    pub(crate) encode_seconds: Histogram,
    pub(crate) put_seconds: Histogram,
    pub(crate) head_seconds: Histogram,
    /// Requests to the store that failed and were tried again.
    pub(crate) retries: IntCounter,
    /// Blocks that no head will list: their maker was fenced.
    pub(crate) orphans: IntCounter,
    /// Blocks asked of builder processes, by `outcome`: `made`, `failed` and made here, or `differs`: another block than
    /// the owner's rows would make, so that the owner read the log again.
    pub(crate) remote_builds: IntCounterVec,
    /// Cuts that are being encoded now.
    pub(crate) encoding: IntGauge,
    /// Offsets that retention removed before they were read, when a lead is taken. Label: `partition`.
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
            Opts::new("loki_ingester_chunks_flushed_total", "Blocks written, by why they were cut."),
            &["reason"],
        )?;
        registry.register(Box::new(chunks_flushed.clone()))?;
        for reason in [CutReason::Full, CutReason::MaxAge, CutReason::Pressure, CutReason::Forced, CutReason::NotOwned]
        {
            chunks_flushed.with_label_values(&[reason.as_str()]);
        }
        let remote_builds = IntCounterVec::new(
            Opts::new("millrace_builder_remote_builds_total", "Blocks asked of builder processes, by outcome."),
            &["outcome"],
        )?;
        registry.register(Box::new(remote_builds.clone()))?;
        let lost_offsets = IntCounterVec::new(
            Opts::new(
                "millrace_lost_offsets_total",
                "Offsets that the log's retention removed before they were read; the head lists the ranges.",
            ),
            &["partition"],
        )?;
        registry.register(Box::new(lost_offsets.clone()))?;
        let encoding = IntGauge::new("millrace_builder_encoding", "Cuts that are being encoded now.")?;
        registry.register(Box::new(encoding.clone()))?;
        let seconds = || vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        Ok(Self {
            encode_cpu: StageCpu::register(registry, "encode")?,
            chunks_flushed,
            chunk_age: histogram(
                "loki_ingester_chunk_age_seconds",
                "Age of a block's oldest record when it was written.",
                vec![60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 36000.0, 43200.0, 57600.0],
            )?,
            chunk_size: histogram(
                "loki_ingester_chunk_size_bytes",
                "Size of a block.",
                exponential_buckets(20_000.0, 2.0, 10)?,
            )?,
            chunk_utilization: histogram(
                "loki_ingester_chunk_utilization",
                "Bytes of a block's lines, as a share of what a full cut holds.",
                vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            )?,
            chunk_entries: histogram(
                "loki_ingester_chunk_entries",
                "Entries in a block.",
                exponential_buckets(200.0, 2.0, 9)?,
            )?,
            chunk_bounds: histogram(
                "loki_ingester_chunk_bounds_hours",
                "Hours from a block's earliest to its latest entry.",
                (1..=8).map(f64::from).collect(),
            )?,
            raw_bytes: counter("millrace_builder_line_bytes_total", "Bytes of lines put into blocks, before packing.")?,
            block_bytes: counter("millrace_builder_block_bytes_total", "Bytes of blocks that heads list.")?,
            quarantined: counter(
                "millrace_builder_quarantined_records_total",
                "Records put into blocks as they were, since they could not be decoded.",
            )?,
            encode_seconds: histogram("millrace_builder_encode_seconds", "Time to encode a block.", seconds())?,
            put_seconds: histogram(
                "millrace_builder_put_seconds",
                "Time to upload a block, retries included.",
                seconds(),
            )?,
            head_seconds: histogram(
                "millrace_builder_head_seconds",
                "Time to list a block in its head, retries included.",
                seconds(),
            )?,
            retries: counter(
                "millrace_builder_store_retries_total",
                "Requests to the object store that failed and were tried again.",
            )?,
            orphans: counter(
                "millrace_builder_orphaned_blocks_total",
                "Blocks that no head will list, since another process leads the partition.",
            )?,
            remote_builds,
            encoding,
            lost_offsets,
        })
    }

    /// Takes note of what was recorded as lost when the lead of a partition was taken, if anything.
    pub(crate) fn lost<'a>(&self, partition: PartitionId, lost: impl Iterator<Item = &'a Lost>) {
        for Lost { range, .. } in lost {
            let offsets = u64::try_from(range.end.value() - range.start.value()).unwrap_or(0);
            self.lost_offsets.with_label_values(&[&partition.to_string()]).inc_by(offsets);
        }
    }

    /// Takes note of a block that a head lists now.
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
