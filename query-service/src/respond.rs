//! Bodies and their headers.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, text_response};

/// A JSON answer from its bytes.
pub(crate) fn json(body: Vec<u8>) -> Response {
    json_with(StatusCode::OK, body)
}

/// A JSON answer of some status.
pub(crate) fn json_with(status: StatusCode, body: Vec<u8>) -> Response {
    let content_type = HeaderValue::from_static("application/json; charset=UTF-8");
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// A JSON answer from a value.
pub(crate) fn json_value(value: &impl Serialize) -> Result<Response, Error> {
    let mut body = serde_json::to_vec(value).map_err(|e| Error::Internal(e.to_string()))?;
    body.push(b'\n');
    Ok(json(body))
}

/// A JSON answer from an object; with what a person should know about it, when there is something.
pub(crate) fn json_with_warnings(mut object: Value, warnings: Vec<String>) -> Result<Response, Error> {
    if !warnings.is_empty() {
        object["warnings"] = warnings.into();
    }
    json_value(&object)
}

/// What an unknown path is answered with. The routers of this crate leave the fallback to whoever merges them.
pub async fn not_found() -> Response {
    text_response(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}
