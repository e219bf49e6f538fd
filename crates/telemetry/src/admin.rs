//! Endpoints for operators (spec/http-api 14). None needs a tenant.

use axum::{
    Router,
    extract::{Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use prometheus::{Registry, TextEncoder};
use serde::Deserialize;

use crate::{LogLevel, Readiness};

/// Where the endpoints get their content from.
#[derive(Clone)]
pub struct AdminState {
    /// For `/metrics`.
    pub registry: Registry,
    /// For `/ready` and `/services`.
    pub readiness: Readiness,
    /// For `/config`.
    pub config: ConfigPages,
    /// For `/log_level`. `None` when something else set up logging, as in tests.
    pub log_level: Option<LogLevel>,
}

/// The settings as YAML.
#[derive(Clone, Debug, Default)]
pub struct ConfigPages {
    /// The settings in force.
    pub current: String,
    /// The defaults.
    pub defaults: String,
    /// The settings that differ from the defaults.
    pub diff: String,
}

/// `/metrics`, `/ready`, `/config`, `/services`, `/log_level`.
pub fn admin_router(state: AdminState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/config", get(config))
        .route("/services", get(services))
        .route("/log_level", get(log_level).post(set_log_level))
        .with_state(state)
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

async fn metrics(State(state): State<AdminState>) -> Response {
    match TextEncoder::new().encode_to_string(&state.registry.gather()) {
        Ok(body) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(state): State<AdminState>) -> Response {
    match state.readiness.check() {
        Ok(()) => text("ready\n".into()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn services(State(state): State<AdminState>) -> Response {
    text(state.readiness.list())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigQuery {
    mode: String,
}

async fn config(State(state): State<AdminState>, Query(query): Query<ConfigQuery>) -> Response {
    match query.mode.as_str() {
        "" => text(state.config.current),
        "diff" => text(state.config.diff),
        "defaults" => text(state.config.defaults),
        other => (StatusCode::BAD_REQUEST, format!("mode {other:?} is neither diff nor defaults\n")).into_response(),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LevelQuery {
    log_level: String,
}

fn level_answer(status: StatusCode, word: &str, message: String) -> Response {
    let body = serde_json::json!({"status": word, "message": message}).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn log_level(State(state): State<AdminState>) -> Response {
    let level = state.log_level.map_or_else(|| "unknown".to_owned(), |l| l.get());
    level_answer(StatusCode::OK, "success", format!("Current log level is {level}"))
}

/// The level is a parameter of the URL, or of a form.
async fn set_log_level(State(state): State<AdminState>, Query(query): Query<LevelQuery>, body: String) -> Response {
    let from_form = body.split('&').find_map(|pair| pair.strip_prefix("log_level=")).unwrap_or_default();
    let level = if query.log_level.is_empty() { from_form } else { &query.log_level };
    let Some(handle) = state.log_level else {
        return level_answer(StatusCode::NOT_IMPLEMENTED, "failed", "this process does not own its logging".into());
    };
    match handle.set(level) {
        Ok(()) => level_answer(StatusCode::OK, "success", format!("Log level set to {level}")),
        Err(error) => level_answer(StatusCode::BAD_REQUEST, "failed", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn pages() {
        let readiness = Readiness::default();
        let service = readiness.service("query");
        let registry = Registry::new();
        crate::register_process_metrics(&registry, "1.2.3").expect("new");
        let config = ConfigPages { current: "a: 1\n".into(), defaults: "a: 0\n".into(), diff: "a: 1\n".into() };
        let router = admin_router(AdminState { registry, readiness, config, log_level: None });
        let ask = async |path: &str| {
            let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
            let answer = router.clone().oneshot(request).await.expect("infallible");
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        assert_eq!(ask("/ready").await.0, 503);
        service.set(crate::ServiceState::Running);
        assert_eq!(ask("/ready").await, (200, "ready\n".into()));
        assert_eq!(ask("/services").await.1, "query => Running\n");
        assert_eq!(ask("/config?mode=defaults").await.1, "a: 0\n");
        assert_eq!(ask("/config?mode=x").await.0, 400);
        let (_, metrics) = ask("/metrics").await;
        assert!(metrics.contains("version=\"1.2.3\"") && metrics.contains("process_cpu_seconds_total"), "{metrics}");
    }
}
