//! Connections, faults and the control endpoint.

use std::{
    fmt,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{
    Body, HttpError,
    auth::SimpleAuth,
    host::MultiDomain,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use serde_json::json;
use tokio::{
    sync::{RwLock, oneshot},
    task::JoinSet,
};

use super::{
    backend::Backend,
    faults::{Blow, FaultSettings, S3Faults},
    keys::{ACCESS_KEY, SECRET_KEY},
};

const CONTROL_PATH: &str = "/__faults";
/// Time limit for changes in progress when the server stops.
const END_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Server {
    shared: Arc<Shared>,
    lock: Arc<RwLock<()>>,
}

struct Shared {
    service: S3Service,
    faults: Arc<S3Faults>,
    requests: AtomicU64,
}

/// An error that cuts the connection.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut on purpose")
    }
}

impl std::error::Error for Cut {}

impl Server {
    pub(super) fn new(folder: &Path, address: SocketAddr, faults: Arc<S3Faults>) -> anyhow::Result<Self> {
        let lock = Arc::new(RwLock::new(()));
        let files = FileSystem::new(folder);
        let files = files.map_err(|error| anyhow::anyhow!("opening {}: {error:?}", folder.display()))?;
        let root = folder.canonicalize()?;
        let backend = Backend { files, root, lock: lock.clone(), faults: faults.clone() };
        let mut builder = S3ServiceBuilder::new(backend);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let hosts = [address.to_string(), format!("localhost:{}", address.port())];
        builder.set_host(MultiDomain::new(hosts).context("naming the hosts")?);
        let shared = Shared { service: builder.build(), faults, requests: AtomicU64::new(0) };
        Ok(Self { shared: Arc::new(shared), lock })
    }

    pub(super) async fn run(self, listener: TcpListener, mut stopped: oneshot::Receiver<()>) {
        let listener = tokio::net::TcpListener::from_std(listener).expect("the listener does not block");
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut stopped => break,
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Without this, the parts of a reply wait for each other's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve_connection(self.shared.clone(), stream));
                }
                // For example, no file descriptor is free. Clients that leave free some.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        drop(connections);
        let _ = tokio::time::timeout(END_WAIT, self.lock.write()).await;
    }
}

async fn serve_connection(shared: Arc<Shared>, stream: tokio::net::TcpStream) {
    let service = service_fn(move |request| shared.clone().answer(request));
    // Clients cut connections, and so do injected faults. This is no error.
    let _ = Builder::new(TokioExecutor::new()).http1_only().serve_connection(TokioIo::new(stream), service).await;
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        if request.uri().path() == CONTROL_PATH {
            return Ok(self.control(request).await);
        }
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let verdict = self.faults.judge(request.method().as_str());
        if verdict.blow == Some(Blow::Refuse) {
            return Err(Cut);
        }
        tokio::time::sleep(verdict.delay).await;
        let mut response = match verdict.blow {
            Some(Blow::Error) => {
                refuse(request, error_answer(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")).await
            }
            Some(Blow::SlowDown) => refuse(request, error_answer(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")).await,
            blow => {
                // A task of its own completes the request even if the client goes away.
                let carry_out = tokio::spawn(self.clone().carry_out(request));
                let response = carry_out.await.map_err(|_| Cut)?.map_err(|_| Cut)?;
                match blow {
                    Some(Blow::CutReply) => return Err(Cut),
                    Some(Blow::ReplaceReply) => error_answer(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
                    _ => response,
                }
            }
        };
        if let Ok(id) = HeaderValue::from_str(&format!("TESTBED{id:09}")) {
            response.headers_mut().insert("x-amz-request-id", id);
        }
        Ok(response)
    }

    async fn carry_out(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
        self.service.call(request.map(Body::from)).await
    }

    async fn control(&self, request: Request<Incoming>) -> Response<Body> {
        match *request.method() {
            Method::GET => {}
            Method::POST | Method::PUT => {
                let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                match serde_json::from_slice::<FaultSettings>(&body) {
                    Ok(settings) => self.faults.set(settings),
                    Err(error) => return text(StatusCode::BAD_REQUEST, "text/plain", error.to_string()),
                }
            }
            _ => return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET or POST".to_owned()),
        }
        let (settings, counts) = (self.faults.settings(), self.faults.counts());
        text(StatusCode::OK, "application/json", json!({ "settings": settings, "counts": counts }).to_string())
    }
}

/// Reads the whole request, so that the client gets to read the reply.
async fn refuse(request: Request<Incoming>, answer: Response<Body>) -> Response<Body> {
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    answer
}

fn error_answer(status: StatusCode, code: &str) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>injected by the testbed</Message></Error>"
    );
    text(status, "application/xml", xml)
}

fn text(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };

    use super::super::{FaultSettings, S3Server};

    /// Returns the status line and the body of the reply to one request, or an empty text if the connection was cut.
    fn ask(server: &S3Server, method: &str, path: &str, body: &str) -> (String, String) {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let (length, host) = (body.len(), server.address());
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }

    #[test]
    fn faults_over_http() {
        let folder = tempfile::tempdir().unwrap();
        let server = S3Server::start(folder.path(), "millrace-test").unwrap();
        let unsigned = |method: &str| ask(&server, method, "/millrace-test/a", "").0;
        assert_eq!(unsigned("GET"), "HTTP/1.1 403 Forbidden");

        let (status, body) = ask(&server, "POST", "/__faults", r#"{"error_share": 1, "methods": ["PUT"]}"#);
        assert_eq!(status, "HTTP/1.1 200 OK", "{body}");
        assert_eq!(server.faults().settings().error_share, 1.0);
        assert_eq!(unsigned("PUT"), "HTTP/1.1 500 Internal Server Error");
        assert_eq!(unsigned("PUT"), "HTTP/1.1 503 Service Unavailable");
        assert_eq!(unsigned("GET"), "HTTP/1.1 403 Forbidden");

        ask(&server, "POST", "/__faults", r#"{"lose_reply_share": 1}"#);
        assert_eq!(unsigned("GET"), "", "cut");
        ask(&server, "POST", "/__faults", r#"{"down": true}"#);
        assert_eq!(unsigned("GET"), "", "cut");
        let (status, body) = ask(&server, "GET", "/__faults", "");
        assert_eq!(status, "HTTP/1.1 200 OK");
        let told: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(told["settings"]["down"], true);
        assert_eq!(told["counts"]["requests"], 6);
        assert_eq!(told["counts"]["refused"], 1);
        assert_eq!(told["counts"]["errors"], 1);

        let (status, body) = ask(&server, "POST", "/__faults", r#"{"dwon": true}"#);
        assert_eq!(status, "HTTP/1.1 400 Bad Request");
        assert!(body.contains("dwon"), "{body}");
        ask(&server, "POST", "/__faults", "{}");
        assert_eq!(server.faults().settings(), FaultSettings::default());
        assert_eq!(ask(&server, "DELETE", "/__faults", "").0, "HTTP/1.1 405 Method Not Allowed");
    }

    #[test]
    fn a_port_is_free_again_after_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let port = S3Server::start(folder.path(), "millrace-test").unwrap().address().port();
        let again = S3Server::start_on(port, folder.path(), "millrace-test").unwrap();
        assert_eq!(again.endpoint(), format!("http://127.0.0.1:{port}"));
        assert!(S3Server::start_on(port, folder.path(), "millrace-test").is_err(), "the port is taken");
        assert!(S3Server::start(folder.path(), "No Bucket").is_err());
    }
}
