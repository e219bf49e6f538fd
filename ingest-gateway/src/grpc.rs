//! OTLP logs over gRPC. A call carries the same message as OTLP over HTTP, and it is decoded by the same code: tonic
//! only unpacks the frame, since a large message must not be decoded on an async thread.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::{Router, routing::post};
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::server::{Grpc, UnaryService};

use crate::gateway::{Arrival, Gateway, Receipt};
use crate::headers::{TOKEN_HEADER, agent, batch_id, tenant};
use crate::protocols::Otlp;
use crate::refusal::Refusal;

const PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// The route of OTLP's log service.
pub(crate) fn router(gateway: &Arc<Gateway>) -> Router {
    Router::new().route(PATH, post(call)).with_state(gateway.clone())
}

async fn call(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let mut grpc = Grpc::new(MessageBytes)
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(gateway.config.max_decompressed_size.as_usize());
    let request = with_counted_body(&gateway, request);
    grpc.unary(Export(gateway), request).await.map(Body::new)
}

/// Reserves memory for a body while it comes in. What is made of it is reserved by the decoder.
fn with_counted_body(gateway: &Gateway, request: Request) -> Request {
    let mut reservation = gateway.budget.reserve();
    request.map(|body| {
        Body::from_stream(body.into_data_stream().map(move |data| {
            let data = data?;
            reservation
                .grow(data.len())
                .map_err(|exhausted| axum::Error::new(std::io::Error::other(Refusal::from(exhausted).text)))?;
            Ok::<_, axum::Error>(data)
        }))
    })
}

/// The method `Export`.
struct Export(Arc<Gateway>);

impl UnaryService<Bytes> for Export {
    type Response = ();
    type Future = BoxFuture<'static, Result<tonic::Response<()>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let gateway = self.0.clone();
        Box::pin(async move {
            let (metadata, _, message) = request.into_parts();
            let receipt = match arrival(&gateway, &metadata.into_headers(), message) {
                Ok(arrival) => gateway.take(&Otlp, arrival).await,
                Err(refusal) => gateway.turn_away(refusal),
            };
            respond(receipt)
        })
    }
}

fn arrival(gateway: &Gateway, headers: &HeaderMap, body: Bytes) -> Result<Arrival, Refusal> {
    let tenant = tenant(gateway, headers)?;
    gateway.admit()?;
    let (batch_id, agent) = (batch_id(headers)?, agent(headers));
    // Nothing is reserved for the body itself: it is gone once its message is decoded, before the records are made.
    let reservation = gateway.budget.reserve();
    Ok(Arrival { tenant, batch_id, agent, format: Otlp::GRPC, body, reservation })
}

fn respond(receipt: Receipt) -> Result<tonic::Response<()>, tonic::Status> {
    let token = receipt.token.and_then(|token| MetadataValue::try_from(token.to_string()).ok());
    match receipt.refusal {
        None => {
            let mut response = tonic::Response::new(());
            token.map(|token| response.metadata_mut().insert(TOKEN_HEADER, token));
            Ok(response)
        }
        Some(refusal) => {
            let mut status = status(&refusal);
            token.map(|token| status.metadata_mut().insert(TOKEN_HEADER, token));
            Err(status)
        }
    }
}

fn status(refusal: &Refusal) -> tonic::Status {
    let text = refusal.text.clone();
    match refusal.status {
        401 => tonic::Status::unauthenticated(text),
        413 => tonic::Status::resource_exhausted(text),
        // Exporters repeat a request on `unavailable`; on `resource exhausted` most of them drop the data.
        429 | 500..=599 => tonic::Status::unavailable(text),
        _ => tonic::Status::invalid_argument(text),
    }
}

/// Hands messages over as they come. The only answer is an empty message.
struct MessageBytes;

impl Codec for MessageBytes {
    type Encode = ();
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for MessageBytes {
    type Item = ();
    type Error = tonic::Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        Ok(())
    }
}

impl Decoder for MessageBytes {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
