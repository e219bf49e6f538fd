//! Sets up logs and spans.

use std::{backtrace::BacktraceStatus, io::IsTerminal as _, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    filter::{FilterFn, LevelFilter},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Logfmt,
    /// For machines.
    Json,
}

/// What to log and where to send spans.
#[derive(Clone, Debug, Default)]
pub struct TracingConfig {
    /// A level (`info`), or directives by target (`info,hyper=warn`).
    pub level: String,
    /// How log lines look.
    pub format: LogFormat,
    /// Base address of an OTLP/HTTP receiver, such as `http://127.0.0.1:4318`; spans go to `/v1/traces` there.
    pub otlp_endpoint: Option<String>,
}

/// Why telemetry could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The log level is unknown.
    #[error("log level {0:?} is none of error, warn, info, debug, trace (or directives such as info,hyper=warn)")]
    Level(String),
    /// The exporter of spans cannot be created.
    #[error("spans cannot be exported to {endpoint}: {reason}")]
    Export {
        /// The receiver.
        endpoint: String,
        /// The exporter's error.
        reason: String,
    },
    /// Tracing is set up already.
    #[error("tracing is set up already")]
    Twice,
}

/// Changes the level while the process runs. Clones act on the same level.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// The level in force.
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Sets a new level.
    ///
    /// # Errors
    /// When `level` is unknown.
    pub fn set(&self, level: &str) -> Result<(), TelemetryError> {
        let filter = filter(level)?;
        self.0.reload(filter).map_err(|_| TelemetryError::Level(level.to_owned()))
    }
}

/// Keeps the exporter alive. Dropping it sends the spans that still wait.
#[derive(Debug)]
pub struct TracingGuard {
    level: LogLevel,
    provider: Option<SdkTracerProvider>,
}

impl TracingGuard {
    /// The handle for `/log_level`.
    pub fn level(&self) -> LogLevel {
        self.level.clone()
    }
}

impl Drop for TracingGuard {
    fn drop(&mut self) {
        if let Some(provider) = &self.provider
            && let Err(error) = provider.shutdown_with_timeout(Duration::from_secs(3))
        {
            // Logging may have ended.
            #[expect(clippy::print_stderr, reason = "the exporter is gone, and this is the last thing to say")]
            {
                eprintln!("the last spans could not be sent: {error}");
            }
        }
    }
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let bad = || TelemetryError::Level(level.to_owned());
    let words = ["error", "warn", "info", "debug", "trace"];
    // The parser takes a bare word that is no level for the name of a target.
    let plausible = level.contains(['=', ',']) || words.contains(&level.to_ascii_lowercase().as_str());
    if !plausible {
        return Err(bad());
    }
    EnvFilter::builder().parse(level).map_err(|_| bad())
}

/// Sends the logs of the process to standard error and, if configured, its spans to an OTLP receiver. Call it once.
///
/// # Errors
/// When the level is unknown, the exporter cannot be created, or tracing is set up already.
pub fn init_tracing(config: &TracingConfig) -> Result<TracingGuard, TelemetryError> {
    let provider = config.otlp_endpoint.as_deref().map(span_exporter).transpose()?;
    let (subscriber, level) = subscriber(config, provider.as_ref())?;
    subscriber.try_init().map_err(|_| TelemetryError::Twice)?;
    log_panics();
    Ok(TracingGuard { level, provider })
}

/// The subscriber, and the handle that changes the log level. The level does not apply to exported spans, so traces are
/// complete whatever is logged.
fn subscriber(
    config: &TracingConfig,
    provider: Option<&SdkTracerProvider>,
) -> Result<(impl tracing::Subscriber + Send + Sync + 'static, LogLevel), TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter(&config.level)?);
    let ansi = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).with_target(false);
    let lines = match config.format {
        LogFormat::Logfmt => lines.boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).boxed(),
    };
    let spans = provider.map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("millrace"));
        layer.with_filter(FilterFn::new(is_exported).with_max_level_hint(LevelFilter::DEBUG))
    });
    Ok((tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans), LogLevel(handle)))
}

/// Spans and their events from `info` up; our own crates' spans from `debug` up.
fn is_exported(metadata: &tracing::Metadata<'_>) -> bool {
    let is_ours = metadata.is_span() && metadata.target().starts_with("millrace");
    *metadata.level() <= if is_ours { tracing::Level::DEBUG } else { tracing::Level::INFO }
}

/// Logs panics like other errors, with their location, so that every line on standard error has the configured format.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(message, place, backtrace, thread = std::thread::current().name(), "a thread panicked");
    }));
}

/// An exporter that sends spans in batches from its own thread.
fn span_exporter(endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(BlockingClient(ureq::Agent::config_builder().http_status_as_error(false).build().into()))
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(Duration::from_secs(10))
        .build()
        .map_err(|e| TelemetryError::Export { endpoint: endpoint.to_owned(), reason: e.to_string() })?;
    let resource = Resource::builder().with_attribute(KeyValue::new("service.name", "millrace")).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// A blocking HTTP client. The exporter calls it on its own thread.
#[derive(Debug)]
struct BlockingClient(ureq::Agent);

#[async_trait]
impl HttpClient for BlockingClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let mut sent = self.0.post(parts.uri.to_string());
        for (name, value) in &parts.headers {
            sent = sent.header(name, value);
        }
        let mut answer = sent.send(body.as_ref())?;
        let body = answer.body_mut().read_to_vec()?;
        Ok(Response::builder().status(answer.status()).body(body.into())?)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use prost::Message as _;

    use super::*;

    #[test]
    fn levels() {
        assert!(filter("info").is_ok() && filter("WARN").is_ok() && filter("info,hyper=warn").is_ok());
        assert!(filter("loud").is_err() && filter("").is_err());
    }

    /// Outgoing requests of a handler continue the caller's trace, whatever the log level.
    #[tokio::test]
    async fn a_trace_passes_through() {
        use axum::{Router, body::Body, routing::get};
        use http::{HeaderMap, Request};
        use http_body_util::BodyExt as _;
        use tower::ServiceExt as _;

        let provider = SdkTracerProvider::builder().build();
        let config = TracingConfig { level: "warn".into(), ..TracingConfig::default() };
        let (subscriber, level) = subscriber(&config, Some(&provider)).expect("a level");
        let _guard = tracing::subscriber::set_default(subscriber);
        let handler = async || {
            let mut outgoing = HeaderMap::new();
            crate::inject_context(&mut outgoing);
            outgoing.get("traceparent").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
        };
        let metrics = crate::RequestMetrics::register(&prometheus::Registry::new()).expect("new");
        let router = crate::observe_requests(Router::new().route("/", get(handler)), metrics);
        let incoming = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let request = Request::builder().uri("/").header("traceparent", incoming).body(Body::empty()).expect("valid");
        let answer = router.oneshot(request).await.expect("infallible");
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        let outgoing = String::from_utf8_lossy(&body);
        let parts: Vec<&str> = outgoing.split('-').collect();
        assert_eq!((parts.len(), parts[1], parts[3]), (4, "4bf92f3577b34da6a3ce929d0e0e4736", "01"), "{outgoing}");
        assert_ne!(parts[2], "00f067aa0ba902b7", "our span is the parent of what we call");
        level.set("info,hyper=warn").expect("directives");
        assert!(level.get().contains("hyper=warn"), "{}", level.get());
        assert!(level.set("loud").is_err());
    }

    /// Reads one HTTP request and answers 200. Returns the request line and the body.
    fn receive(listener: &TcpListener) -> (String, Vec<u8>) {
        let (mut stream, _) = listener.accept().expect("a request");
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let n = stream.read(&mut buffer).expect("readable");
            seen.extend_from_slice(&buffer[..n]);
            let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "))
                .map_or(0, |l| l.trim().parse().expect("length"));
            if seen.len() >= end + 4 + length {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("writable");
                return (head.lines().next().unwrap_or_default().to_owned(), seen[end + 4..].to_vec());
            }
        }
    }

    #[test]
    fn spans_reach_an_otlp_receiver() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let receiver = std::thread::spawn(move || receive(&listener));
        let provider = span_exporter(&endpoint).expect("an exporter");
        // Spans must be exported although only errors are logged.
        let config = TracingConfig { level: "error".into(), ..TracingConfig::default() };
        let (subscriber, _) = subscriber(&config, Some(&provider)).expect("a level");
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug_span!("a push", tenant = "t").in_scope(|| {});
            tracing::debug_span!(target: "hyper", "another's detail").in_scope(|| {});
        });
        provider.shutdown().expect("sent");
        let (request, body) = receiver.join().expect("received");
        assert_eq!(request, "post /v1/traces http/1.1");
        let decoded = ExportTraceServiceRequest::decode(body.as_slice()).expect("OTLP");
        let spans = &decoded.resource_spans[0].scope_spans[0].spans;
        assert_eq!(spans.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["a push"]);
    }
}
