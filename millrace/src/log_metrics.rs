//! Metrics of the local log, read when they are scraped.

use std::sync::Arc;

use log_bus::LocalLog;
use prometheus::{
    Counter, IntGauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Exports [`LocalLog::stats`].
pub(crate) struct LogMetrics {
    log: Arc<LocalLog>,
    segments: IntGauge,
    journal_bytes: IntGauge,
    cache_bytes: IntGauge,
    queue_bytes: IntGauge,
    appended_records: Counter,
    appended_bytes: Counter,
    syncs: Counter,
    writer_cpu: Counter,
}

impl LogMetrics {
    pub(crate) fn new(log: Arc<LocalLog>) -> Result<Self, prometheus::Error> {
        let cpu = Opts::new("millrace_stage_cpu_seconds_total", "CPU-seconds spent, by stage of the pipeline.");
        Ok(Self {
            log,
            segments: IntGauge::new("millrace_log_segments", "Number of journal files.")?,
            journal_bytes: IntGauge::new("millrace_log_journal_bytes", "Bytes of all journal files.")?,
            cache_bytes: IntGauge::new("millrace_log_cache_bytes", "Bytes of the newest records kept in memory.")?,
            queue_bytes: IntGauge::new("millrace_log_queue_bytes", "Bytes of records that wait to be written.")?,
            appended_records: Counter::new("millrace_log_appended_records_total", "Number of appended records.")?,
            appended_bytes: Counter::new("millrace_log_appended_bytes_total", "Bytes of appended records.")?,
            syncs: Counter::new(
                "millrace_log_syncs_total",
                "Number of journal syncs; each makes many records durable.",
            )?,
            writer_cpu: Counter::with_opts(cpu.const_label("stage", "append"))?,
        })
    }

    fn metrics(&self) -> [&dyn Collector; 8] {
        [
            &self.segments,
            &self.journal_bytes,
            &self.cache_bytes,
            &self.queue_bytes,
            &self.appended_records,
            &self.appended_bytes,
            &self.syncs,
            &self.writer_cpu,
        ]
    }
}

impl Collector for LogMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.metrics().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = self.log.stats();
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.segments.set(gauge(stats.segments as u64));
        self.journal_bytes.set(gauge(stats.journal_bytes));
        self.cache_bytes.set(gauge(stats.cache_bytes as u64));
        self.queue_bytes.set(gauge(stats.queue_bytes as u64));
        let counters = [
            (&self.appended_records, stats.appended_records as f64),
            (&self.appended_bytes, stats.appended_bytes as f64),
            (&self.syncs, stats.syncs as f64),
            (&self.writer_cpu, stats.writer_cpu.as_secs_f64()),
        ];
        for (counter, now) in counters {
            // The log keeps the count; the counter follows it.
            counter.inc_by((now - counter.get()).max(0.0));
        }
        self.metrics().into_iter().flat_map(Collector::collect).collect()
    }
}
