//! The client of the RPC: one connection per process, opened at its first use.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use control::View;
use http::HeaderMap;
use owner::{OwnerError, ScanReply, ScanRequest, StreamsReply, StreamsRequest, TailRequest};
use parking_lot::Mutex;
use runtime::Share;
use tokio::time::{Instant, timeout};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::Config;
use crate::proto;
use crate::proto::query_client::QueryClient;
use crate::wire;

/// Bytes that a process may send before this side has read them: enough for one connection to fill a fast network.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Answers from this size on are decoded in a turn of the processors, not on an async thread.
const LARGE_BYTES: usize = 256 << 10;

/// The processes that were asked, as far as they still exist.
#[derive(Debug)]
pub(crate) struct Clients {
    config: Config,
    decoders: Share,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
}

/// Another process. All requests to it share one connection, which is opened again when it breaks.
#[derive(Debug)]
pub(crate) struct Peer {
    address: String,
    config: Config,
    decoders: Share,
    client: QueryClient<Channel>,
    /// Set when the process was silent or unreachable lately.
    suspect_until: Mutex<Option<Instant>>,
}

impl Clients {
    /// `decoders` are the turns to decode large answers.
    pub(crate) fn new(config: Config, decoders: Share) -> Self {
        Self { config, decoders, peers: Mutex::default() }
    }

    /// The process at an address of the view.
    pub(crate) fn get(&self, address: &str, view: &View) -> Result<Arc<Peer>, OwnerError> {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(address) {
            return Ok(peer.clone());
        }
        let peer = Arc::new(Peer::new(address, &self.config, &self.decoders)?);
        // Forgets processes that are gone, whenever a new one comes.
        let known: HashSet<&str> = view.processes().filter_map(|process| process.rpc.as_deref()).collect();
        peers.retain(|address, _| known.contains(address.as_str()));
        peers.insert(address.to_owned(), peer.clone());
        Ok(peer)
    }
}

impl Peer {
    fn new(address: &str, config: &Config, decoders: &Share) -> Result<Self, OwnerError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| OwnerError::Unavailable(format!("{address:?} is not an address: {error}")))?
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
        Ok(Self {
            address: address.to_owned(),
            config: config.clone(),
            decoders: decoders.clone(),
            client,
            suspect_until: Mutex::default(),
        })
    }

    /// True while other processes should be asked first.
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
        self.read(is_large, move || wire::read_scan_reply(reply, &request)).await
    }

    pub(crate) async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError> {
        let message = traced(wire::streams_request(&request));
        let reply = self.client.clone().streams(message).await.map_err(|status| self.failed(&status))?.into_inner();
        self.note_answer();
        let is_large = prost::Message::encoded_len(&reply) >= LARGE_BYTES;
        self.read(is_large, move || wire::read_streams_reply(reply)).await
    }

    pub(crate) async fn flush(&self) -> Result<(), OwnerError> {
        let message = traced(proto::FlushRequest {});
        let reply = self.client.clone().flush(message).await.map_err(|status| self.failed(&status))?.into_inner();
        self.note_answer();
        reply.error.map_or(Ok(()), |error| Err(wire::read_error(error)))
    }

    /// Opens a live tail. When this returns, the other process follows the log for it.
    pub(crate) async fn tail(&self, request: &TailRequest) -> Result<Streaming<proto::TailReply>, OwnerError> {
        let message = traced(wire::tail_request(request));
        Ok(self.client.clone().tail(message).await.map_err(|status| self.failed(&status))?.into_inner())
    }

    /// Asks whether the process is alive. One that does not answer in time is a suspect for a while.
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

    /// Decodes an answer.
    async fn read<T: Send + 'static>(
        &self,
        is_large: bool,
        work: impl FnOnce() -> Result<T, OwnerError> + Send + 'static,
    ) -> Result<T, OwnerError> {
        if !is_large {
            return work();
        }
        self.decoders.run(work).await.unwrap_or_else(|lost| Err(OwnerError::Unavailable(lost.to_string())))
    }
}

/// A request that carries the current trace.
fn traced<T>(message: T) -> Request<T> {
    let mut headers = HeaderMap::new();
    telemetry::inject_context(&mut headers);
    let mut request = Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    request
}
