//! The RPC's client: one connection for each process, made when it is first used.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use control::View;
use http::HeaderMap;
use owner::{OwnerError, ScanReply, ScanRequest, StreamsReply, StreamsRequest, TailRequest};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::Config;
use crate::proto;
use crate::proto::query_client::QueryClient;
use crate::wire;

/// What may be under way to us before we have read it: enough for one connection to fill a fast network.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// From this size on an answer is read on a thread of its own.
const LARGE_BYTES: usize = 256 << 10;

/// The processes that were asked lately.
#[derive(Debug)]
pub(crate) struct Clients {
    config: Config,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
}

/// One process. All who ask it share one connection, which is made anew when it breaks.
#[derive(Debug)]
pub(crate) struct Peer {
    address: String,
    config: Config,
    client: QueryClient<Channel>,
    /// It was silent or out of reach lately.
    suspect_until: Mutex<Option<Instant>>,
}

impl Clients {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, peers: Mutex::default() }
    }

    /// The process at an address of the view.
    pub(crate) fn get(&self, address: &str, view: &View) -> Result<Arc<Peer>, OwnerError> {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(address) {
            return Ok(peer.clone());
        }
        let peer = Arc::new(Peer::new(address, &self.config)?);
        // A new process is the time to forget those that are gone.
        let known: HashSet<&str> = view.processes().filter_map(|process| process.rpc.as_deref()).collect();
        peers.retain(|address, _| known.contains(address.as_str()));
        peers.insert(address.to_owned(), peer.clone());
        Ok(peer)
    }
}

impl Peer {
    fn new(address: &str, config: &Config) -> Result<Self, OwnerError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| OwnerError::Unavailable(format!("{address:?} is no address: {error}")))?
            .connect_timeout(config.connect_timeout.get())
            .http2_keep_alive_interval(config.keep_alive.get())
            .keep_alive_timeout(config.keep_alive_timeout.get())
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let client = QueryClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(config.message_bytes_max.as_usize())
            .max_encoding_message_size(config.message_bytes_max.as_usize());
        Ok(Self { address: address.to_owned(), config: config.clone(), client, suspect_until: Mutex::default() })
    }

    /// True while it should be asked after others.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect_until.lock().is_some_and(|until| Instant::now() < until)
    }

    fn suspect(&self) {
        *self.suspect_until.lock() = Some(Instant::now() + self.config.suspect_for.get());
    }

    fn note_answer(&self) {
        *self.suspect_until.lock() = None;
    }

    fn failed(&self, status: &Status) -> OwnerError {
        if status.code() == Code::Unavailable {
            self.suspect();
        }
        OwnerError::Unavailable(format!("{}: {}: {}", self.address, status.code(), status.message()))
    }

    pub(crate) async fn scan(&self, request: ScanRequest) -> Result<ScanReply, OwnerError> {
        let message = traced(wire::scan_request(&request));
        let reply = self.client.clone().scan(message).await.map_err(|status| self.failed(&status))?.into_inner();
        self.note_answer();
        let is_large = prost::Message::encoded_len(&reply) >= LARGE_BYTES;
        read(is_large, move || wire::read_scan_reply(reply, &request)).await
    }

    pub(crate) async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError> {
        let message = traced(wire::streams_request(&request));
        let reply = self.client.clone().streams(message).await.map_err(|status| self.failed(&status))?.into_inner();
        self.note_answer();
        let is_large = prost::Message::encoded_len(&reply) >= LARGE_BYTES;
        read(is_large, move || wire::read_streams_reply(reply)).await
    }

    pub(crate) async fn flush(&self) -> Result<(), OwnerError> {
        let message = traced(proto::FlushRequest {});
        let reply = self.client.clone().flush(message).await.map_err(|status| self.failed(&status))?.into_inner();
        self.note_answer();
        reply.error.map_or(Ok(()), |error| Err(wire::read_error(error)))
    }

    /// Opens a live tail. When this returns, the other side follows.
    pub(crate) async fn tail(&self, request: &TailRequest) -> Result<Streaming<proto::TailReply>, OwnerError> {
        let message = traced(wire::tail_request(request));
        Ok(self.client.clone().tail(message).await.map_err(|status| self.failed(&status))?.into_inner())
    }

    /// Whether it says within the time for it that it is alive. One that does not is a suspect for a while.
    pub(crate) async fn is_alive(&self) -> bool {
        let patience = self.config.probe_timeout.get() / if self.is_suspect() { 10 } else { 1 };
        let asked = timeout(patience, self.client.clone().held(Request::new(proto::HeldRequest {}))).await;
        let is_alive = matches!(asked, Ok(Ok(_)));
        if is_alive {
            self.note_answer()
        } else {
            self.suspect()
        }
        is_alive
    }
}

/// A request that carries the trace it belongs to.
fn traced<T>(message: T) -> Request<T> {
    let mut headers = HeaderMap::new();
    telemetry::inject_context(&mut headers);
    let mut request = Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    request
}

async fn read<T: Send + 'static>(
    is_large: bool,
    work: impl FnOnce() -> Result<T, OwnerError> + Send + 'static,
) -> Result<T, OwnerError> {
    if !is_large {
        return work();
    }
    let read = tokio::task::spawn_blocking(work).await;
    read.unwrap_or_else(|error| Err(OwnerError::Unavailable(format!("reading an answer failed: {error}"))))
}
