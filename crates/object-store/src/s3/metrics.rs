//! Metrics of the S3 store.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::breaker::Standing;
use super::failure::Failure;

/// The requests that are made, as label values of `operation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
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

impl Request {
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

/// Counters of requests, and how many are in flight. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    /// Every request to the server by `operation` and `outcome`: `ok`, `not_found`, `precondition`, `conflict`,
    /// `throttled`, `server_error`, `timeout`, `transport`, `denied`, `refused` (by the breaker, without asking), `other`.
    requests: IntCounterVec,
    seconds: HistogramVec,
    /// Requests that were tried again, by `operation`.
    retries: IntCounterVec,
    pub(super) sent_bytes: IntCounter,
    pub(super) received_bytes: IntCounter,
    pub(super) in_flight: IntGauge,
    pub(super) waiting: IntGauge,
    /// 0 closed, 1 a probe is on its way, 2 open.
    breaker: IntGauge,
    opened: IntCounter,
}

impl Metrics {
    /// Makes them, and registers them where there is a registry.
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
        let seconds =
            HistogramOpts::new("millrace_object_store_request_seconds", "Time of requests to the object store.");
        let seconds = HistogramVec::new(seconds.buckets(buckets), &["operation"])?;
        register(registry, &seconds)?;
        let metrics = Self {
            requests: by(
                "millrace_object_store_requests_total",
                "Requests to the object store, by operation and outcome. Each try counts.",
                &["operation", "outcome"],
            )?,
            seconds,
            retries: by(
                "millrace_object_store_retries_total",
                "Requests to the object store that failed and were tried again.",
                &["operation"],
            )?,
            sent_bytes: counter("millrace_object_store_sent_bytes_total", "Bytes of objects sent, each try counted.")?,
            received_bytes: counter("millrace_object_store_received_bytes_total", "Bytes of objects received.")?,
            in_flight: gauge("millrace_object_store_requests_in_flight", "Requests to the object store in flight.")?,
            waiting: gauge(
                "millrace_object_store_requests_waiting",
                "Requests that wait because concurrency_max are in flight.",
            )?,
            breaker: gauge(
                "millrace_object_store_breaker_state",
                "0: requests pass. 1: one request tries whether the object store is back. 2: requests fail at once.",
            )?,
            opened: counter(
                "millrace_object_store_breaker_opened_total",
                "How often the breaker opened after failures in a row.",
            )?,
        };
        for request in Request::ALL {
            metrics.requests.with_label_values(&[request.as_str(), "ok"]);
            metrics.retries.with_label_values(&[request.as_str()]);
        }
        Ok(metrics)
    }

    pub(super) fn ended(&self, request: Request, seconds: f64, failure: Option<&Failure>) {
        self.counted(request, failure);
        self.timer(request).observe(seconds);
    }

    pub(super) fn counted(&self, request: Request, failure: Option<&Failure>) {
        let outcome = failure.map_or("ok", Failure::outcome);
        self.requests.with_label_values(&[request.as_str(), outcome]).inc();
    }

    pub(super) fn retried(&self, request: Request) {
        self.retries.with_label_values(&[request.as_str()]).inc();
    }

    pub(super) fn breaker(&self, standing: Standing, opened: bool) {
        self.breaker.set(standing as i64);
        if opened {
            self.opened.inc();
        }
    }

    fn timer(&self, request: Request) -> Histogram {
        self.seconds.with_label_values(&[request.as_str()])
    }
}

fn register<C>(registry: Option<&Registry>, collector: &C) -> Result<(), prometheus::Error>
where
    C: prometheus::core::Collector + Clone + 'static,
{
    registry.map_or(Ok(()), |registry| registry.register(Box::new(collector.clone())))
}
