//! Requests and answers: tenant, kind of body, statuses. What is inside a body is the decoders' business.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::post};
use futures_util::StreamExt;
use model::TenantId;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use prost::Message;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataValue;

use crate::body::{self, Packing};
use crate::budget::Reservation;
use crate::gateway::{Arrival, Content, Gateway, Stored};
use crate::intake::Refusal;
use crate::metrics::Seen;

const TENANT_HEADER: &str = "x-scope-orgid";
const BATCH_ID_HEADER: &str = "x-millrace-batch-id";
/// Tells what a later read must reach to see what this push wrote.
const TOKEN_HEADER: &str = "x-millrace-token";
const BATCH_ID_BYTES_MAX: usize = 128;
const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/{method}";

/// The routes of the gateway.
pub(crate) fn router(gateway: &Arc<Gateway>) -> Router {
    let bytes_max = gateway.config().max_decompressed_size.as_usize();
    let logs = LogsServiceServer::new(OtlpGrpc(gateway.clone()))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(bytes_max);
    let grpc = Router::new()
        .route_service(GRPC_PATH, logs)
        .layer(middleware::from_fn_with_state(gateway.clone(), count_grpc_bytes));
    Router::new()
        .route("/loki/api/v1/push", post(push))
        .route("/api/prom/push", post(push_legacy))
        .route("/otlp/v1/logs", post(push_otlp))
        .with_state(gateway.clone())
        .merge(grpc)
}

async fn push(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    respond(&gateway, take(&gateway, request, Dialect::Loki).await, plain)
}

async fn push_legacy(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    respond(&gateway, take(&gateway, request, Dialect::Legacy).await, plain)
}

async fn push_otlp(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    respond(&gateway, take(&gateway, request, Dialect::Otlp).await, otlp_status)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Loki,
    Legacy,
    Otlp,
}

async fn take(gateway: &Arc<Gateway>, request: Request, dialect: Dialect) -> Result<Stored, Refusal> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let tenant = tenant(gateway, headers)?;
    let kind = match dialect {
        Dialect::Otlp => otlp_kind(headers)?,
        Dialect::Loki | Dialect::Legacy => loki_kind(headers, dialect)?,
    };
    let batch_id = batch_id(headers)?;
    gateway.admit()?;
    let told_bytes = text(headers, header::CONTENT_LENGTH).parse().ok();
    let mut reservation = gateway.budget().reserve();
    let body = body::read(body, told_bytes, gateway.config(), &mut reservation).await?;
    let arrival = Arrival { tenant: tenant.clone(), batch_id, content: kind.content, packing: kind.packing };
    let decoded = gateway.decode(arrival, body, reservation).await?;
    let seen = Seen {
        tenant: &tenant,
        retention_hours: gateway.retention_hours(&tenant),
        format: if dialect == Dialect::Otlp { "otlp" } else { "loki" },
        content_type: kind.content_type,
        content_encoding: kind.content_encoding,
        agent: agent(headers),
    };
    gateway.store(&seen, decoded).await
}

/// What a body is, and how it is packed.
struct Kind {
    content: Content,
    packing: Packing,
    content_type: &'static str,
    content_encoding: &'static str,
}

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
}

/// The media type without its parameters.
fn media_type(headers: &HeaderMap) -> &str {
    text(headers, header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim()
}

fn loki_kind(headers: &HeaderMap, dialect: Dialect) -> Result<Kind, Refusal> {
    let encoding = text(headers, header::CONTENT_ENCODING);
    let (packing, content_encoding) = match encoding {
        "" => (Packing::Plain, ""),
        // Says nothing beyond what the media type says.
        "snappy" => (Packing::Plain, "snappy"),
        "gzip" => (Packing::Gzip, "gzip"),
        "deflate" => (Packing::Deflate, "deflate"),
        "zstd" => (Packing::Zstd, "zstd"),
        other => return Err(Refusal::new(400, format!("Content-Encoding {other:?} not supported"))),
    };
    let media_type = media_type(headers);
    let is_token = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    if media_type.is_empty() {
        return Err(Refusal::new(400, "mime: no media type"));
    }
    if !media_type.split('/').all(is_token) {
        return Err(Refusal::new(400, format!("mime: {media_type:?} is not a media type")));
    }
    let is_json = media_type.eq_ignore_ascii_case(JSON);
    let content = match (is_json, dialect) {
        (true, Dialect::Legacy) => Content::LegacyJson,
        (true, _) => Content::Json,
        (false, _) => Content::SnappyProtobuf,
    };
    Ok(Kind { content, packing, content_type: if is_json { JSON } else { PROTOBUF }, content_encoding })
}

fn otlp_kind(headers: &HeaderMap) -> Result<Kind, Refusal> {
    let media_type = media_type(headers);
    let (content, content_type) = match media_type {
        PROTOBUF => (Content::OtlpProtobuf, PROTOBUF),
        JSON => (Content::OtlpJson, JSON),
        other => return Err(Refusal::new(400, format!("content type: {other} is not supported"))),
    };
    let (packing, content_encoding) = match text(headers, header::CONTENT_ENCODING) {
        "" => (Packing::Plain, ""),
        "gzip" => (Packing::Gzip, "gzip"),
        "zstd" => (Packing::Zstd, "zstd"),
        "lz4" => (Packing::Lz4, "lz4"),
        other => {
            let text = format!("unsupported content encoding {other}: only gzip, lz4 and zstd are supported");
            return Err(Refusal::new(400, text));
        }
    };
    Ok(Kind { content, packing, content_type, content_encoding })
}

/// The one tenant of a push.
fn tenant(gateway: &Gateway, headers: &HeaderMap) -> Result<TenantId, Refusal> {
    if !gateway.config().auth_enabled {
        return Ok(gateway.no_auth_tenant().clone());
    }
    tenant_of(&String::from_utf8_lossy(headers.get(TENANT_HEADER).map_or(&[], HeaderValue::as_bytes)))
}

fn tenant_of(header: &str) -> Result<TenantId, Refusal> {
    let mut names = header.split('|');
    let refused = |e: model::TenantError| match e {
        model::TenantError::Missing => Refusal::new(401, e.to_string()),
        _ => Refusal::new(400, e.to_string()),
    };
    let first = TenantId::new(names.next().unwrap_or_default()).map_err(refused)?;
    for name in names {
        if TenantId::new(name).map_err(refused)? != first {
            return Err(Refusal::new(400, "multiple org IDs present"));
        }
    }
    Ok(first)
}

fn batch_id(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(BATCH_ID_HEADER) else { return Ok(None) };
    let is_fine = |id: &&str| id.len() <= BATCH_ID_BYTES_MAX;
    match value.to_str().ok().map(str::trim).filter(is_fine) {
        Some("") => Ok(None),
        Some(id) => Ok(Some(id.to_owned())),
        None => Err(Refusal::new(400, "X-Millrace-Batch-Id must be at most 128 visible ASCII characters")),
    }
}

/// A few names, so that clients cannot make up label values.
fn agent(headers: &HeaderMap) -> &'static str {
    const AGENTS: [&str; 9] =
        ["promtail", "alloy", "fluent-bit", "fluentd", "vector", "loki-logback", "otel", "python", "millrace"];
    let agent = text(headers, header::USER_AGENT).to_ascii_lowercase();
    AGENTS.into_iter().find(|name| agent.contains(name)).unwrap_or("other")
}

fn respond(gateway: &Gateway, result: Result<Stored, Refusal>, refused: fn(&Refusal) -> Response) -> Response {
    gateway.count_inflight();
    let Stored { token, refusal } = result.unwrap_or_else(|refusal| Stored { token: None, refusal: Some(refusal) });
    let mut response = match refusal {
        None => StatusCode::NO_CONTENT.into_response(),
        Some(refusal) => refuse(gateway, &refusal, refused),
    };
    // Also where a part was refused: the rest is stored.
    if let Some(token) = token.and_then(|token| HeaderValue::try_from(token.to_string()).ok()) {
        response.headers_mut().insert(TOKEN_HEADER, token);
    }
    response
}

fn refuse(gateway: &Gateway, refusal: &Refusal, refused: fn(&Refusal) -> Response) -> Response {
    gateway.count_refusal(refusal);
    let mut response = if refusal.status == 401 { plain(refusal) } else { refused(refusal) };
    if matches!(refusal.status, 429 | 503) {
        let seconds = gateway.config().retry_after.get().as_secs_f64().ceil().max(1.0) as u64;
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn status(refusal: &Refusal) -> StatusCode {
    StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn plain(refusal: &Refusal) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status(refusal), headers, format!("{}\n", refusal.text)).into_response()
}

/// `google.rpc.Status`, of which OTLP clients show the message.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
}

fn otlp_status(refusal: &Refusal) -> Response {
    // Exporters give up on 500 and come again on 503.
    let status = if refusal.status == 500 { StatusCode::SERVICE_UNAVAILABLE } else { status(refusal) };
    let body = RpcStatus { message: refusal.text.clone() }.encode_to_vec();
    (status, [(header::CONTENT_TYPE, "application/octet-stream")], body).into_response()
}

/// Counts the bytes of a gRPC body while they come in; the service reserves again for what it makes of them.
async fn count_grpc_bytes(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let mut reservation: Reservation = gateway.budget().reserve();
    let counted = body.into_data_stream().map(move |data| {
        let data = data?;
        reservation.grow(data.len()).map_err(|_| axum::Error::new(std::io::Error::other(body::UNAVAILABLE)))?;
        Ok::<_, axum::Error>(data)
    });
    next.run(Request::from_parts(parts, Body::from_stream(counted))).await
}

/// OTLP logs over gRPC.
struct OtlpGrpc(Arc<Gateway>);

#[tonic::async_trait]
impl LogsService for OtlpGrpc {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        let (metadata, _, message) = request.into_parts();
        let headers = metadata.into_headers();
        let result = self.take(&headers, message).await;
        self.0.count_inflight();
        let Stored { token, refusal } = result.unwrap_or_else(|refusal| Stored { token: None, refusal: Some(refusal) });
        let token = token.and_then(|token| MetadataValue::try_from(token.to_string()).ok());
        let Some(refusal) = refusal else {
            let mut response = tonic::Response::new(ExportLogsServiceResponse::default());
            token.map(|token| response.metadata_mut().insert(TOKEN_HEADER, token));
            return Ok(response);
        };
        self.0.count_refusal(&refusal);
        let mut status = grpc_status(&refusal);
        token.map(|token| status.metadata_mut().insert(TOKEN_HEADER, token));
        Err(status)
    }
}

impl OtlpGrpc {
    async fn take(&self, headers: &HeaderMap, message: ExportLogsServiceRequest) -> Result<Stored, Refusal> {
        let gateway = &self.0;
        let tenant = tenant(gateway, headers)?;
        gateway.admit()?;
        let mut reservation = gateway.budget().reserve();
        reservation.grow(message.encoded_len().saturating_mul(2))?;
        let seen = Seen {
            tenant: &tenant,
            retention_hours: gateway.retention_hours(&tenant),
            format: "otlp",
            content_type: "application/grpc",
            content_encoding: "",
            agent: agent(headers),
        };
        let decoded = gateway.convert(&tenant, batch_id(headers)?, message, reservation).await?;
        gateway.store(&seen, decoded).await
    }
}

fn grpc_status(refusal: &Refusal) -> tonic::Status {
    let text = refusal.text.clone();
    match refusal.status {
        401 => tonic::Status::unauthenticated(text),
        413 => tonic::Status::resource_exhausted(text),
        // Exporters come again on this one; on `resource exhausted` most of them drop the data.
        429 | 500..=599 => tonic::Status::unavailable(text),
        _ => tonic::Status::invalid_argument(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants() {
        let check = |header: &str, expected: Result<&str, (u16, &str)>| {
            let found = tenant_of(header);
            let found = found.as_ref().map(TenantId::as_str).map_err(|r| (r.status, r.text.as_str()));
            assert_eq!(found, expected, "{header:?}");
        };
        check("a", Ok("a"));
        check("a|a", Ok("a"));
        check("a:k=v", Ok("a"));
        check("", Err((401, "no org id")));
        check("a|b", Err((400, "multiple org IDs present")));
        check("a/b", Err((400, "tenant ID 'a/b' contains unsupported character '/'")));
        check("..", Err((400, "tenant ID is '.' or '..'")));
    }
}
