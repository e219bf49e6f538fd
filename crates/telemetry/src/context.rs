//! W3C trace context (`traceparent`, `tracestate`) in and out.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

struct Incoming<'a>(&'a HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Outgoing<'a>(&'a mut HeaderMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (key.parse::<HeaderName>(), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

/// The caller's trace context, which becomes the parent of a span. Empty when the headers hold none.
pub fn parent_context(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract(&Incoming(headers))
}

/// Writes the current span's context into the headers of an outgoing request.
pub fn inject_context(headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(&tracing::Span::current().context(), &mut Outgoing(headers));
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceContextExt as _;

    use super::*;

    #[test]
    fn reads_and_writes_a_traceparent() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut headers = HeaderMap::new();
        assert!(!parent_context(&headers).span().span_context().is_valid());
        headers.insert("traceparent", HeaderValue::from_static(text));
        let context = parent_context(&headers);
        assert_eq!(context.span().span_context().trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let mut out = HeaderMap::new();
        TraceContextPropagator::new().inject_context(&context, &mut Outgoing(&mut out));
        assert_eq!(out["traceparent"], text);
        headers.insert("traceparent", HeaderValue::from_static("nonsense"));
        assert!(!parent_context(&headers).span().span_context().is_valid());
    }
}
