//! What every role needs around its work: metrics, logs, traces, admin endpoints, an HTTP server and shutdown.
//!
//! - [`init_tracing`]: logs on standard error (for people or as JSON), spans to an OTLP endpoint when one is set;
//! - [`observe_requests`]: the request metrics of Loki's dashboards, a span for each request with the caller's W3C trace
//!   context as parent, and panics answered with 500;
//! - [`admin_router`]: `/metrics`, `/ready`, `/config`, `/services`, `/log_level`;
//! - [`serve`]: HTTP/1 and HTTP/2 on one port until shutdown, then drained;
//! - [`StageCpu`]: CPU time by stage of the pipeline.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own what they start"))]

mod admin;
mod context;
mod readiness;
mod requests;
mod serve;
mod shutdown;
mod stage;
mod tracing_setup;

pub use admin::{AdminState, ConfigPages, admin_router};
pub use context::{inject_context, parent_context};
pub use readiness::{Readiness, ServiceHandle, ServiceState};
pub use requests::{RequestMetrics, observe_requests};
pub use serve::{ServeConfig, ServeError, serve};
pub use shutdown::shutdown_signal;
pub use stage::{StageCpu, StageTimer};
pub use tracing_setup::{LogFormat, LogLevel, TelemetryError, TracingConfig, TracingGuard, init_tracing};

use prometheus::{GaugeVec, Opts, Registry, process_collector::ProcessCollector};

/// Registers the metrics of the process as a whole: `loki_build_info` and `process_*`.
///
/// # Errors
/// When they are registered already.
pub fn register_process_metrics(registry: &Registry, version: &str) -> Result<(), prometheus::Error> {
    let labels = ["version", "revision", "branch", "goversion", "goos", "goarch", "tags"];
    let build = GaugeVec::new(Opts::new("loki_build_info", "Version of this process, as labels; always 1."), &labels)?;
    build
        .with_label_values(&[
            version,
            "unknown",
            "unknown",
            "none",
            std::env::consts::OS,
            std::env::consts::ARCH,
            "millrace",
        ])
        .set(1.0);
    registry.register(Box::new(build))?;
    registry.register(Box::new(ProcessCollector::for_self()))
}
