//! Pushes over HTTP: the router, headers, bodies and answers. What a body holds is the business of its protocol.

mod body;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::post};

use crate::gateway::{Arrival, Gateway, Receipt};
use crate::grpc;
use crate::headers::{self, TOKEN_HEADER, agent, batch_id, tenant};
use crate::protocol::{Answer, Protocol};
use crate::protocols::PROTOCOLS;
use crate::refusal::Refusal;

impl Gateway {
    /// The routes: every push protocol under its path, and OTLP logs over gRPC.
    pub fn router(self: &Arc<Self>) -> Router {
        router(self, PROTOCOLS).merge(grpc::router(self))
    }
}

fn router(gateway: &Arc<Gateway>, protocols: &'static [&dyn Protocol]) -> Router {
    let mut router = Router::new();
    for protocol in protocols {
        let push =
            async move |State(gateway): State<Arc<Gateway>>, request: Request| push(&gateway, *protocol, request).await;
        router = router.route(protocol.path(), post(push));
    }
    router.with_state(gateway.clone())
}

async fn push(gateway: &Arc<Gateway>, protocol: &dyn Protocol, request: Request) -> Response {
    let receipt = match read(gateway, protocol, request).await {
        Ok(arrival) => gateway.take(protocol, arrival).await,
        Err(refusal) => gateway.turn_away(refusal),
    };
    respond(gateway, protocol, receipt)
}

async fn read(gateway: &Gateway, protocol: &dyn Protocol, request: Request) -> Result<Arrival, Refusal> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let tenant = tenant(gateway, headers)?;
    let content_encoding = headers::text(headers, header::CONTENT_ENCODING);
    let format = protocol.body_format(headers::media_type(headers), content_encoding)?;
    let (batch_id, agent) = (batch_id(headers)?, agent(headers));
    gateway.admit()?;
    let told_bytes = headers::text(headers, header::CONTENT_LENGTH).parse().ok();
    let mut reservation = gateway.budget.reserve();
    let body = body::read(body, told_bytes, &gateway.config, &mut reservation).await?;
    Ok(Arrival { tenant, batch_id, agent, format, body, reservation })
}

fn respond(gateway: &Gateway, protocol: &dyn Protocol, receipt: Receipt) -> Response {
    let answer = match &receipt.refusal {
        None => protocol.success(),
        // A request without a tenant is refused in the same way whatever its protocol.
        Some(refusal) if refusal.status == 401 => Answer::text(refusal),
        Some(refusal) => protocol.refusal(refusal),
    };
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, answer.body).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    if let Some(content_type) = answer.content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if receipt.refusal.is_some() {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    if matches!(status.as_u16(), 429 | 503) {
        let seconds = gateway.config.retry_after.get().as_secs_f64().ceil().max(1.0) as u64;
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    // A refused part does not matter here: the rest is stored.
    if let Some(token) = receipt.token.and_then(|token| HeaderValue::try_from(token.to_string()).ok()) {
        headers.insert(TOKEN_HEADER, token);
    }
    response
}

#[cfg(test)]
mod tests;
