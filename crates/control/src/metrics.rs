//! Every metric of the control topic's use.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Counters and gauges.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Messages that the topic took from this process.
    pub(crate) published: IntCounter,
    /// Messages read, own ones and unreadable ones included.
    pub(crate) read: IntCounter,
    /// Label: `kind`: `publish` and `read` (the topic could not be used), `unreadable`, `newer_version` (messages).
    pub(crate) errors: IntCounterVec,
    /// Processes in the view, own included.
    pub(crate) processes: IntGauge,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let published = IntCounter::new("millrace_control_published_total", "Messages told to other processes.")?;
        let read = IntCounter::new("millrace_control_read_total", "Messages of processes that were read.")?;
        let errors = Opts::new("millrace_control_errors_total", "What went wrong with the control topic.");
        let errors = IntCounterVec::new(errors, &["kind"])?;
        let processes = IntGauge::new("millrace_control_processes", "Processes that are taken for alive.")?;
        for metric in [
            Box::new(published.clone()) as Box<dyn prometheus::core::Collector>,
            Box::new(read.clone()),
            Box::new(errors.clone()),
            Box::new(processes.clone()),
        ] {
            registry.register(metric)?;
        }
        for kind in ["publish", "read", "unreadable", "newer_version"] {
            errors.with_label_values(&[kind]);
        }
        Ok(Self { published, read, errors, processes })
    }
}
