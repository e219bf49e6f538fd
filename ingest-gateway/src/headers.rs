//! What the headers of a push say, over HTTP and over gRPC.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use model::{TENANT_HEADER, TenantId};

use crate::gateway::Gateway;
use crate::refusal::Refusal;

/// Tells what a later read must reach to see what this push wrote.
pub(crate) const TOKEN_HEADER: &str = "x-millrace-token";

const BATCH_ID_HEADER: &str = "x-millrace-batch-id";
const BATCH_ID_BYTES_MAX: usize = 128;

/// The value of a header; empty when it is absent or not text.
pub(crate) fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
}

/// The media type without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    text(headers, header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim()
}

pub(crate) fn tenant(gateway: &Gateway, headers: &HeaderMap) -> Result<TenantId, Refusal> {
    let value = headers.get(TENANT_HEADER).map(HeaderValue::as_bytes).map(String::from_utf8_lossy);
    gateway.tenant(value.as_deref())
}

/// The name that the client gave its batch.
pub(crate) fn batch_id(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(BATCH_ID_HEADER) else { return Ok(None) };
    let is_short = |id: &&str| id.len() <= BATCH_ID_BYTES_MAX;
    match value.to_str().ok().map(str::trim).filter(is_short) {
        Some("") => Ok(None),
        Some(id) => Ok(Some(id.to_owned())),
        None => Err(Refusal::malformed("X-Millrace-Batch-Id must be at most 128 visible ASCII characters")),
    }
}

/// The sending program, as a label of metrics. Only known names are used, so that clients cannot make up values.
pub(crate) fn agent(headers: &HeaderMap) -> &'static str {
    const AGENTS: [&str; 9] =
        ["promtail", "alloy", "fluent-bit", "fluentd", "vector", "loki-logback", "otel", "python", "millrace"];
    let agent = text(headers, header::USER_AGENT).to_ascii_lowercase();
    AGENTS.into_iter().find(|name| agent.contains(name)).unwrap_or("other")
}
