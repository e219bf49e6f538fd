//! A layer around all routes: metrics under Loki's names, a span for each request, and an answer when a handler panics.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use futures_util::FutureExt as _;
use http::{StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntGaugeVec, Opts, Registry};
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::parent_context;

/// Buckets of `loki_request_duration_seconds`, in seconds (spec/metrics 1).
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0];
/// Buckets of the message sizes, in bytes.
const BYTES: [f64; 8] = [1e6, 2.5e6, 5e6, 1e7, 2.5e7, 5e7, 1e8, 2.5e8];

/// Metrics of requests.
#[derive(Clone, Debug)]
pub struct RequestMetrics {
    /// `method, route, status_code, ws`
    seconds: HistogramVec,
    /// `method, route`
    request_bytes: HistogramVec,
    /// `method, route`
    response_bytes: HistogramVec,
    /// `method, route`
    inflight: IntGaugeVec,
    panics: IntCounter,
}

impl RequestMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let route = ["method", "route"];
        let all = ["method", "route", "status_code", "ws"];
        let seconds = histogram("loki_request_duration_seconds", "Seconds spent serving requests.", &SECONDS, &all)?;
        let request_bytes = histogram("loki_request_message_bytes", "Bytes of request bodies.", &BYTES, &route)?;
        let response_bytes = histogram("loki_response_message_bytes", "Bytes of response bodies.", &BYTES, &route)?;
        let inflight =
            IntGaugeVec::new(Opts::new("loki_inflight_requests", "Number of requests being served."), &route)?;
        registry.register(Box::new(inflight.clone()))?;
        let panics = IntCounter::new("loki_panic_total", "Number of requests whose handler panicked.")?;
        registry.register(Box::new(panics.clone()))?;
        Ok(Self { seconds, request_bytes, response_bytes, inflight, panics })
    }
}

/// Puts the layer around `router`.
pub fn observe_requests(router: Router, metrics: RequestMetrics) -> Router {
    router.layer(from_fn_with_state(metrics, observe))
}

async fn observe(State(metrics): State<RequestMetrics>, request: Request, next: Next) -> Response {
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| "notfound".to_owned(), |p| route_name(p.as_str()));
    let method = request.method().as_str().to_owned();
    let is_websocket =
        request.headers().get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let span = tracing::debug_span!("request", %method, %route, status = tracing::field::Empty);
    // Fails only without an exporter, and then no trace needs a parent.
    let _ = span.set_parent(parent_context(request.headers()));
    let labels = [method.as_str(), route.as_str()];
    if let Some(bytes) = request.body().size_hint().exact() {
        metrics.request_bytes.with_label_values(&labels).observe(bytes as f64);
    }
    let inflight = InFlight::enter(metrics.inflight.with_label_values(&labels));
    let began = Instant::now();
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    let response = response.unwrap_or_else(|_| {
        metrics.panics.inc();
        tracing::error!(%method, %route, "a request panicked; it was answered with 500");
        let mut answer = Response::new(Body::from("internal error\n"));
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer
    });
    span.record("status", response.status().as_u16());
    let finish = Finish { metrics, method, route, is_websocket, status: response.status(), began, bytes: 0, inflight };
    count_body(response, finish)
}

/// Recorded when the last byte of a response was sent, or its client has disconnected.
struct Finish {
    metrics: RequestMetrics,
    method: String,
    route: String,
    is_websocket: bool,
    status: StatusCode,
    began: Instant,
    bytes: u64,
    #[expect(dead_code, reason = "held until the response is complete")]
    inflight: InFlight,
}

impl Finish {
    fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        let took: Duration = self.began.elapsed();
        let websocket = if self.is_websocket { "true" } else { "false" };
        let labels = [self.method.as_str(), &self.route, self.status.as_str(), websocket];
        self.metrics.seconds.with_label_values(&labels).observe(took.as_secs_f64());
        let labels = [self.method.as_str(), &self.route];
        self.metrics.response_bytes.with_label_values(&labels).observe(self.bytes as f64);
    }
}

fn count_body(response: Response, mut finish: Finish) -> Response {
    // A response without a body, such as that to an upgrade, is complete now.
    if response.body().is_end_stream() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let body = body.map_frame(move |frame| {
        // A method call makes the closure capture all of `finish`, so that it is dropped with the body.
        finish.add(frame.data_ref().map_or(0, |data| data.len()));
        frame
    });
    Response::from_parts(parts, Body::new(body))
}

struct InFlight(prometheus::IntGauge);

impl InFlight {
    fn enter(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The label of a route: its template without braces, with `_` for `/`. gRPC methods keep their full path.
fn route_name(template: &str) -> String {
    let is_grpc = template.trim_start_matches('/').split('/').next().is_some_and(|service| service.contains('.'));
    if is_grpc {
        return template.to_owned();
    }
    template.trim_matches('/').replace(['{', '}', '*'], "").replace('/', "_")
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    #[test]
    fn route_names() {
        let check = |template: &str, expected: &str| assert_eq!(route_name(template), expected);
        check("/loki/api/v1/push", "loki_api_v1_push");
        check("/loki/api/v1/label/{name}/values", "loki_api_v1_label_name_values");
        check("/ready", "ready");
        check("/a.b.LogsService/Export", "/a.b.LogsService/Export");
    }

    async fn panics() -> &'static str {
        panic!("on purpose")
    }

    #[tokio::test]
    async fn counts_requests_and_answers_panics() {
        let registry = Registry::new();
        let metrics = RequestMetrics::register(&registry).expect("new");
        let router = Router::new().route("/a/{b}", get(async || "hello")).route("/p", get(panics));
        let router = observe_requests(router, metrics.clone());
        let ask = async |path: &str| {
            let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
            let answer = router.clone().oneshot(request).await.expect("infallible");
            let status = answer.status().as_u16();
            (status, answer.into_body().collect().await.expect("a body").to_bytes())
        };
        assert_eq!(ask("/a/x").await, (200, "hello".into()));
        assert_eq!(ask("/p").await.0, 500);
        let seconds = |route: &str, status: &str| {
            metrics.seconds.with_label_values(&["GET", route, status, "false"]).get_sample_count()
        };
        assert_eq!((seconds("a_b", "200"), seconds("p", "500"), metrics.panics.get()), (1, 1, 1));
        assert_eq!(metrics.response_bytes.with_label_values(&["GET", "a_b"]).get_sample_sum(), 5.0);
        assert_eq!(metrics.inflight.with_label_values(&["GET", "a_b"]).get(), 0);
    }
}
