//! The metrics of the control topic.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Counters and gauges.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Number of messages that this process published.
    pub(crate) published: IntCounter,
    /// Number of messages read, including own and unreadable ones.
    pub(crate) read: IntCounter,
    /// Label `kind`: `publish` and `read` (the topic could not be used), `unreadable`, `newer_version` (messages).
    pub(crate) errors: IntCounterVec,
    /// Number of processes in the view, including this one.
    pub(crate) processes: IntGauge,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let published = IntCounter::new(
            "millrace_control_published_total",
            "Number of messages that this process published on the control topic.",
        )?;
        let read = IntCounter::new("millrace_control_read_total", "Number of messages read from the control topic.")?;
        let errors = Opts::new("millrace_control_errors_total", "Number of errors of the control topic, by kind.");
        let errors = IntCounterVec::new(errors, &["kind"])?;
        let processes = IntGauge::new(
            "millrace_control_processes",
            "Number of processes that count as alive, including this one.",
        )?;
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
