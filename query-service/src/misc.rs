//! Small endpoints.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::{error::Error, request::Request, respond, service::QueryService};

/// The version of Loki that this API emulates. Grafana enables features by it.
const EMULATED_VERSION: &str = "3.8.0";

/// The limits that Logs Drilldown asks for.
const DRILLDOWN_LIMITS: [&str; 18] = [
    "discover_log_levels",
    "discover_service_name",
    "log_level_fields",
    "max_entries_limit_per_query",
    "max_line_size_truncate",
    "max_query_bytes_read",
    "max_query_length",
    "max_query_lookback",
    "max_query_range",
    "max_query_series",
    "metric_aggregation_enabled",
    "otlp_config",
    "pattern_persistence_enabled",
    "query_timeout",
    "retention_period",
    "retention_stream",
    "volume_enabled",
    "volume_max_series",
];

/// `/loki/api/v1/status/buildinfo`
pub(crate) async fn build_info() -> Result<Response, Error> {
    respond::json_value(&json!({
        "version": EMULATED_VERSION,
        "revision": option_env!("MILLRACE_REVISION").unwrap_or("unknown"),
        "branch": "main",
        "buildUser": concat!("millrace-", env!("CARGO_PKG_VERSION")),
        "buildDate": option_env!("MILLRACE_BUILD_DATE").unwrap_or("unknown"),
        "goVersion": "",
    }))
}

/// `/loki/api/v1/format_query`
pub(crate) async fn format_query(request: Request) -> Result<Response, Error> {
    let (status, answer) = match logql::format_query(request.params.get("query")) {
        Ok(text) => (StatusCode::OK, json!({"status": "success", "data": text})),
        Err(error) => (StatusCode::BAD_REQUEST, json!({"status": "invalid-query", "error": error.to_string()})),
    };
    Ok(respond::json_with(status, answer.to_string().into_bytes()))
}

/// `/loki/api/v1/drilldown-limits`
pub(crate) async fn drilldown_limits(
    State(service): State<Arc<QueryService>>,
    request: Request,
) -> Result<Response, Error> {
    let limits = service.limits(request.tenant()?);
    let all = serde_json::to_value(&*limits).map_err(|e| Error::Internal(e.to_string()))?;
    let shown: Map<String, Value> =
        DRILLDOWN_LIMITS.iter().filter_map(|name| Some(((*name).to_owned(), all.get(name)?.clone()))).collect();
    respond::json_value(&json!({"limits": shown, "pattern_ingester_enabled": false, "version": EMULATED_VERSION}))
}

/// `/config/tenant/v1/limits`
pub(crate) async fn tenant_limits(
    State(service): State<Arc<QueryService>>,
    request: Request,
) -> Result<Response, Error> {
    let limits = service.limits(request.tenant()?);
    let text = serde_yaml_ng::to_string(&*limits).map_err(|e| Error::Internal(e.to_string()))?;
    let mut response = Response::new(text.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// `POST /flush`
pub(crate) async fn flush(State(service): State<Arc<QueryService>>) -> Result<StatusCode, Error> {
    service.owner.flush().await.map_err(Error::Flush)?;
    Ok(StatusCode::NO_CONTENT)
}
