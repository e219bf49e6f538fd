//! Responses: bodies and their headers.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, text_response};

/// A response with this JSON.
pub(crate) fn json(body: Vec<u8>) -> Response {
    json_with(StatusCode::OK, body)
}

/// A response with this status and JSON.
pub(crate) fn json_with(status: StatusCode, body: Vec<u8>) -> Response {
    let content_type = HeaderValue::from_static("application/json; charset=UTF-8");
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// A response with this value as JSON.
pub(crate) fn json_value(value: &impl Serialize) -> Result<Response, Error> {
    let mut body = serde_json::to_vec(value).map_err(|e| Error::Internal(e.to_string()))?;
    body.push(b'\n');
    Ok(json(body))
}

/// A response with this object as JSON, to which the warnings are added if there are any.
pub(crate) fn json_with_warnings(mut object: Value, warnings: Vec<String>) -> Result<Response, Error> {
    if !warnings.is_empty() {
        object["warnings"] = warnings.into();
    }
    json_value(&object)
}

/// The response to unknown paths. The routers of this crate have no fallback; the caller that merges them adds this one.
pub async fn not_found() -> Response {
    text_response(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}
