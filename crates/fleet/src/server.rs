//! The RPC's server: an [`Owner`] of this process, for others.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::{Stream, stream};
use logql::{Params, Query, QueryError};
use owner::{Owner, OwnerError, TailBatch, TailStream};
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use crate::proto;
use crate::proto::query_server::{Query as QueryRpc, QueryServer};
use crate::wire;

const PATH: &str = "/millrace.query.v1.Query/{method}";
/// The largest message of either direction. An answer is one partial result; requests are small.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// How many prepared queries are remembered: one query asks about each partition, within moments.
const PREPARED_MAX: usize = 32;
/// How many batches of a tail travel in one message.
const BATCHES_MAX: usize = 64;
/// How often a tail without rows shows that it is there. The way to a reader that is gone without a word breaks by it.
const TAIL_BEAT: Duration = Duration::from_secs(5);

/// Serves the query RPC for the owner of this process. Not for a [`crate::Fleet`]: two of them would ask one another.
///
/// A question whose asker goes away is dropped, and with it the scan.
#[derive(Clone)]
pub struct OwnerServer {
    owner: Arc<dyn Owner>,
    prepared: Arc<Mutex<VecDeque<Arc<Query>>>>,
}

impl OwnerServer {
    /// A server for this owner.
    pub fn new(owner: Arc<dyn Owner>) -> Self {
        Self { owner, prepared: Arc::default() }
    }

    /// Its routes, to be merged with those of the port.
    pub fn into_router(self) -> Router {
        let service = QueryServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Router::new().route_service(PATH, service)
    }

    /// A query is prepared once for all its partitions.
    fn prepare(&self, text: &str, params: Params) -> Result<Arc<Query>, QueryError> {
        let is_same = |query: &&Arc<Query>| query.text() == text && *query.params() == params;
        if let Some(query) = self.prepared.lock().iter().find(is_same) {
            return Ok(query.clone());
        }
        let query = Arc::new(Query::prepare(text, params)?);
        let mut prepared = self.prepared.lock();
        prepared.truncate(PREPARED_MAX - 1);
        prepared.push_front(query.clone());
        Ok(query)
    }
}

#[tonic::async_trait]
impl QueryRpc for OwnerServer {
    async fn scan(&self, request: Request<proto::ScanRequest>) -> Result<Response<proto::ScanReply>, Status> {
        let request = wire::read_scan_request(request.into_inner(), |text, params| self.prepare(text, params))?;
        let outcome = match request {
            Ok(request) => self.owner.scan(request).await,
            Err(error) => Err(error.into()),
        };
        written(move || wire::scan_reply(outcome)).await
    }

    async fn streams(&self, request: Request<proto::StreamsRequest>) -> Result<Response<proto::StreamsReply>, Status> {
        let request = wire::read_streams_request(request.into_inner())?;
        let outcome = self.owner.streams(request).await;
        written(move || wire::streams_reply(outcome)).await
    }

    type TailStream = Pin<Box<dyn Stream<Item = Result<proto::TailReply, Status>> + Send>>;

    async fn tail(&self, request: Request<proto::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let tail = self.owner.tail(wire::read_tail_request(request.get_ref())?);
        let replies = stream::unfold(tail, async |mut tail| Some((next_reply(&mut tail).await?, tail)));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn flush(&self, _: Request<proto::FlushRequest>) -> Result<Response<proto::FlushReply>, Status> {
        let error: Option<OwnerError> = self.owner.flush().await.err();
        Ok(Response::new(proto::FlushReply { error: error.map(wire::sent_error) }))
    }

    async fn held(&self, _: Request<proto::HeldRequest>) -> Result<Response<proto::HeldReply>, Status> {
        Ok(Response::new(wire::held_reply(&*self.owner)))
    }
}

/// Writes a reply on a thread of its own: a partial result may have megabytes.
async fn written<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<Response<T>, Status> {
    let written = tokio::task::spawn_blocking(work).await;
    let reply = written.map_err(|error| Status::internal(format!("writing an answer failed: {error}")))?;
    reply.map(Response::new)
}

/// What has come since the last reply, or a sign of life; `None` at the end of the tail.
async fn next_reply(tail: &mut TailStream) -> Option<Result<proto::TailReply, Status>> {
    let mut batches: Vec<TailBatch> = Vec::new();
    match timeout(TAIL_BEAT, tail.recv()).await {
        Ok(Some(batch)) => batches.push(batch),
        Ok(None) => return None,
        Err(_) => {}
    }
    while !batches.is_empty() && batches.len() < BATCHES_MAX {
        let Some(batch) = tail.try_recv() else { break };
        batches.push(batch);
    }
    let batches: Result<Vec<_>, Status> = batches.iter().map(wire::tail_batch).collect();
    Some(batches.map(|batches| proto::TailReply { batches, dropped: tail.dropped() }))
}
