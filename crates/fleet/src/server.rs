//! The server of the RPC: offers the [`Owner`] of this process to other processes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::{Stream, stream};
use logql::{Params, Query, QueryError};
use owner::{Owner, OwnerError, TailBatch, TailStream};
use parking_lot::Mutex;
use runtime::{Processors, Share};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use crate::proto;
use crate::proto::query_server::{Query as QueryRpc, QueryServer};
use crate::wire;

const PATH: &str = "/millrace.query.v1.Query/{method}";
/// The largest message of either direction. An answer is one partial result; requests are small.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Number of prepared queries that are kept. One query asks about each partition within a short time.
const PREPARED_MAX: usize = 32;
/// Most batches of a tail in one message.
const BATCHES_MAX: usize = 64;
/// How often a tail without rows sends an empty message. Sending it also finds out that a reader is gone.
const TAIL_BEAT: Duration = Duration::from_secs(5);

/// Serves the query RPC for the owner of this process. It must not serve a [`crate::Fleet`]: two of them would ask each
/// other.
///
/// If a client goes away, its request is dropped, and with it the scan.
#[derive(Clone)]
pub struct OwnerServer {
    owner: Arc<dyn Owner>,
    prepared: Arc<Mutex<VecDeque<Arc<Query>>>>,
    encoders: Share,
}

impl OwnerServer {
    /// A server for this owner, which encodes answers on these processors.
    pub fn new(owner: Arc<dyn Owner>, processors: &Processors) -> Self {
        Self { owner, prepared: Arc::default(), encoders: processors.share("rpc_encode", 0) }
    }

    /// The routes, to merge into the router of the port.
    pub fn into_router(self) -> Router {
        let service = QueryServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Router::new().route_service(PATH, service)
    }

    /// Prepares a query once for all its partitions.
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

    /// Encodes a reply. A partial result may have megabytes.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let reply = self.encoders.run(work).await.map_err(|lost| Status::internal(lost.to_string()))?;
        reply.map(Response::new)
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
        self.write(move || wire::scan_reply(outcome)).await
    }

    async fn streams(&self, request: Request<proto::StreamsRequest>) -> Result<Response<proto::StreamsReply>, Status> {
        let request = wire::read_streams_request(request.into_inner())?;
        let outcome = self.owner.streams(request).await;
        self.write(move || wire::streams_reply(outcome)).await
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

/// The batches since the last reply, or an empty reply as a sign of life. `None` at the end of the tail.
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
