//! The metrics of the S3 store.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::breaker::BreakerState;
use super::failure::AttemptFailure;

/// The kinds of requests: the values of the metric label `operation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    Get,
    Head,
    Put,
    Delete,
    List,
    CreateUpload,
    UploadPart,
    CompleteUpload,
    AbortUpload,
}

impl RequestKind {
    const ALL: [Self; 9] = [
        Self::Get,
        Self::Head,
        Self::Put,
        Self::Delete,
        Self::List,
        Self::CreateUpload,
        Self::UploadPart,
        Self::CompleteUpload,
        Self::AbortUpload,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::List => "list",
            Self::CreateUpload => "create_upload",
            Self::UploadPart => "upload_part",
            Self::CompleteUpload => "complete_upload",
            Self::AbortUpload => "abort_upload",
        }
    }
}

/// The metrics of one store. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    /// Number of requests by `operation` and `outcome`: `ok`, `not_found`, `precondition`, `conflict`, `throttled`,
    /// `server_error`, `timeout`, `transport`, `denied`, `other`. Two outcomes are not sent: `refused` (by the breaker)
    /// and `crowded` (no permit in time).
    requests: IntCounterVec,
    seconds: HistogramVec,
    /// Number of retries, by `operation`.
    retries: IntCounterVec,
    pub(super) sent_bytes: IntCounter,
    pub(super) received_bytes: IntCounter,
    pub(super) in_flight: IntGauge,
    pub(super) waiting: IntGauge,
    /// 0 closed, 1 a probe is in flight, 2 open.
    breaker: IntGauge,
    opened: IntCounter,
}

impl Metrics {
    /// Creates the metrics, and registers them if there is a registry.
    pub(super) fn new(registry: Option<&Registry>) -> Result<Self, prometheus::Error> {
        let by = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            register(registry, &counters)?;
            Ok::<_, prometheus::Error>(counters)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            register(registry, &counter)?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            register(registry, &gauge)?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let seconds = HistogramOpts::new(
            "millrace_object_store_request_seconds",
            "Seconds that a request to the object store takes.",
        );
        let seconds = HistogramVec::new(seconds.buckets(buckets), &["operation"])?;
        register(registry, &seconds)?;
        let metrics = Self {
            requests: by(
                "millrace_object_store_requests_total",
                "Number of requests to the object store, by operation and outcome. Each try counts.",
                &["operation", "outcome"],
            )?,
            seconds,
            retries: by(
                "millrace_object_store_retries_total",
                "Number of retries of requests to the object store, by operation.",
                &["operation"],
            )?,
            sent_bytes: counter(
                "millrace_object_store_sent_bytes_total",
                "Bytes of objects sent to the object store. Each try counts.",
            )?,
            received_bytes: counter(
                "millrace_object_store_received_bytes_total",
                "Bytes of objects received from the object store.",
            )?,
            in_flight: gauge(
                "millrace_object_store_requests_in_flight",
                "Number of requests to the object store in flight.",
            )?,
            waiting: gauge(
                "millrace_object_store_requests_waiting",
                "Number of requests that wait because concurrency_max are in flight.",
            )?,
            breaker: gauge(
                "millrace_object_store_breaker_state",
                "State of the circuit breaker. 0: requests pass. 1: one request tests the store. 2: requests fail at once.",
            )?,
            opened: counter(
                "millrace_object_store_breaker_opened_total",
                "Number of times the circuit breaker opened after failures in a row.",
            )?,
        };
        for request in RequestKind::ALL {
            metrics.requests.with_label_values(&[request.as_str(), "ok"]);
            metrics.retries.with_label_values(&[request.as_str()]);
        }
        Ok(metrics)
    }

    pub(super) fn ended(&self, request: RequestKind, seconds: f64, failure: Option<&AttemptFailure>) {
        self.counted(request, failure);
        self.timer(request).observe(seconds);
    }

    pub(super) fn counted(&self, request: RequestKind, failure: Option<&AttemptFailure>) {
        let outcome = failure.map_or("ok", AttemptFailure::outcome);
        self.requests.with_label_values(&[request.as_str(), outcome]).inc();
    }

    pub(super) fn retried(&self, request: RequestKind) {
        self.retries.with_label_values(&[request.as_str()]).inc();
    }

    pub(super) fn breaker(&self, state: BreakerState, opened: bool) {
        self.breaker.set(state as i64);
        if opened {
            self.opened.inc();
        }
    }

    fn timer(&self, request: RequestKind) -> Histogram {
        self.seconds.with_label_values(&[request.as_str()])
    }
}

fn register<C>(registry: Option<&Registry>, collector: &C) -> Result<(), prometheus::Error>
where
    C: prometheus::core::Collector + Clone + 'static,
{
    registry.map_or(Ok(()), |registry| registry.register(Box::new(collector.clone())))
}
