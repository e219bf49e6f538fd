//! Shared by the tests of the S3 store: settings for a test server, and a server with scripted answers.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::{
    fmt,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use millrace_object_store::{
    ObjectKey, S3Config, S3Store, StoreError,
    s3::{S3Error, Secret},
};
use testbed::s3::S3Server;
use tokio::task::JoinSet;

/// Settings for a test server, with short pauses.
pub(crate) fn config(endpoint: &str, bucket: &str) -> S3Config {
    S3Config {
        bucket: bucket.to_owned(),
        endpoint: endpoint.to_owned(),
        region: "eu-central-1".to_owned(),
        path_style: true,
        access_key_id: "testbed".to_owned(),
        secret_access_key: Secret::new("testbed-secret"),
        backoff: Duration::from_millis(2).into(),
        backoff_max: Duration::from_millis(20).into(),
        attempts_max: 12,
        attempt_timeout: Duration::from_secs(20).into(),
        breaker_failures: 0,
        concurrency_max: NonZeroUsize::new(32).unwrap(),
        ..S3Config::default()
    }
}

pub(crate) fn config_of(server: &S3Server) -> S3Config {
    S3Config {
        access_key_id: server.access_key().to_owned(),
        secret_access_key: Secret::new(server.secret_key()),
        ..config(&server.endpoint(), server.bucket())
    }
}

pub(crate) async fn connect(config: &S3Config) -> S3Store {
    S3Store::connect(config, None).await.expect("the settings are valid")
}

pub(crate) fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// The reason of an [`StoreError::Unavailable`].
pub(crate) fn reason<T: fmt::Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Unavailable { reason, .. }) => reason,
        other => panic!("not unavailable: {other:?}"),
    }
}

pub(crate) fn problem<T: fmt::Debug>(answer: Result<T, S3Error>) -> String {
    answer.expect_err("the settings are invalid").to_string()
}

/// A request that the server received.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// An answer of the script.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Status(u16, Vec<(&'static str, String)>, Bytes),
    /// The head announces the whole body, but the connection is cut after `sent` bytes.
    BreaksOff {
        body: Bytes,
        sent: usize,
    },
    Cut,
    Hang,
    /// Another answer after a delay.
    After(Duration, Box<Reply>),
}

impl Reply {
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let body = format!("<Error><Code>{code}</Code><Message>as the script says</Message></Error>");
        Self::Status(status, vec![("x-amz-request-id", "REQ1".to_owned())], Bytes::from(body))
    }

    /// The answer to a successful put or upload of a part.
    pub(crate) fn etag(etag: &str) -> Self {
        Self::Status(200, vec![("etag", format!("\"{etag}\""))], Bytes::new())
    }

    pub(crate) fn object(etag: &str, body: impl Into<Bytes>) -> Self {
        Self::Status(200, vec![("etag", format!("\"{etag}\""))], body.into())
    }

    pub(crate) fn part_of(etag: &str, all: &[u8], first: usize, last: usize) -> Self {
        let last = last.min(all.len() - 1);
        let range = format!("bytes {first}-{last}/{}", all.len());
        let headers = vec![("etag", format!("\"{etag}\"")), ("content-range", range)];
        Self::Status(206, headers, Bytes::copy_from_slice(&all[first..=last]))
    }

    pub(crate) fn xml(body: impl Into<Bytes>) -> Self {
        Self::Status(200, vec![("content-type", "application/xml".to_owned())], body.into())
    }
}

type Script = dyn Fn(usize, &Seen) -> Reply + Send + Sync;

/// A server that answers with a script and keeps the requests. The script gets the number of earlier requests.
pub(crate) struct Scripted {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    flight: Arc<Mutex<Flight>>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flight {
    now: usize,
    most: usize,
}

impl Scripted {
    pub(crate) async fn start(script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        let script: Arc<Script> = Arc::new(script);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let flight: Arc<Mutex<Flight>> = Arc::default();
        let mut tasks = JoinSet::new();
        let (all, flights) = (seen.clone(), flight.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, seen, flight) = (script.clone(), all.clone(), flights.clone());
                connections.spawn(async move {
                    let service =
                        service_fn(move |request| answer(script.clone(), seen.clone(), flight.clone(), request));
                    let connection = Builder::new(TokioExecutor::new()).http1_only();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, seen, flight, _tasks: tasks }
    }

    pub(crate) fn config(&self) -> S3Config {
        config(&format!("http://{}", self.address), "bucket")
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The methods and query parameters of all requests, in order.
    pub(crate) fn story(&self) -> Vec<String> {
        let query = |query: &str| {
            let parts = query.split('&').map(|part| part.split('=').next().unwrap_or_default());
            parts.filter(|part| !part.is_empty() && *part != "x-id").collect::<Vec<_>>().join("&")
        };
        self.seen().iter().map(|seen| format!("{} {}", seen.method, query(&seen.query)).trim().to_owned()).collect()
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.flight.lock().unwrap().most
    }
}

#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

async fn answer(
    script: Arc<Script>,
    seen: Arc<Mutex<Vec<Seen>>>,
    flight: Arc<Mutex<Flight>>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Cut>>, Cut> {
    {
        let mut flight = flight.lock().unwrap();
        flight.now += 1;
        flight.most = flight.most.max(flight.now);
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let one = Seen {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body,
    };
    let mut reply = {
        let mut seen = seen.lock().unwrap();
        seen.push(one.clone());
        script(seen.len() - 1, &one)
    };
    if let Reply::After(delay, then) = reply {
        tokio::time::sleep(delay).await;
        reply = *then;
    }
    flight.lock().unwrap().now -= 1;
    match reply {
        Reply::Status(status, headers, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            let body = http_body_util::Full::new(body).map_err(|never| match never {});
            Ok(response.body(BoxBody::new(body)).unwrap())
        }
        Reply::BreaksOff { body, sent } => {
            let length = body.len();
            let frames = [Ok(Frame::data(body.slice(..sent))), Err(Cut)];
            let body = BoxBody::new(StreamBody::new(stream::iter(frames)));
            Ok(Response::builder().header("etag", "\"e\"").header("content-length", length).body(body).unwrap())
        }
        Reply::Cut => Err(Cut),
        Reply::Hang => std::future::pending().await,
        Reply::After(..) => panic!("a script may only delay an answer once"),
    }
}
