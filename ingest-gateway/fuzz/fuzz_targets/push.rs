//! Any body, as any kind: the gateway answers a status that a push may have, and never panics.
//! The first byte chooses path, media type and packing; the rest is the body.
#![no_main]

use std::sync::{Arc, LazyLock};

use axum::{Router, body::Body, http::Request};
use libfuzzer_sys::fuzz_target;
use millrace_ingest_gateway::{Components, Config, Gateway};
use millrace_limits::{Limits, Overrides};
use millrace_log_bus::MemoryLog;
use millrace_model::SystemClock;
use tower::ServiceExt;

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"));

fn router() -> Router {
    let components = Components {
        log: Arc::new(MemoryLog::new(2)),
        overrides: Arc::new(Overrides::new(Limits::default())),
        clock: Arc::new(SystemClock),
        control: None,
        processors: millrace_runtime::Processors::default(),
        metrics: prometheus::Registry::new(),
    };
    Gateway::new(Config::default(), components).expect("default settings are right").router()
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else { return };
    let path = ["/loki/api/v1/push", "/otlp/v1/logs", "/api/prom/push"][usize::from(kind & 3) % 3];
    let media_type = ["application/json", "application/x-protobuf"][usize::from(kind >> 2 & 1)];
    let packing = ["", "gzip", "deflate", "zstd"][usize::from(kind >> 3 & 3)];
    let mut request = Request::post(path).header("Content-Type", media_type);
    if !packing.is_empty() {
        request = request.header("Content-Encoding", packing);
    }
    let request = request.body(Body::from(body.to_vec())).expect("a request");
    let response = RUNTIME.block_on(router().oneshot(request)).expect("routes do not fail");
    assert!(matches!(response.status().as_u16(), 204 | 400 | 413 | 422 | 429), "{}", response.status());
});
