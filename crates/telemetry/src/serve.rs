//! Serves a router over HTTP/1 and HTTP/2 without TLS.

use std::{io, time::Duration};

use axum::{Router, extract::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use prometheus::{IntGauge, Opts, Registry};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

/// Time limits of the HTTP server.
#[derive(Clone, Copy, Debug)]
pub struct ServeConfig {
    /// How long a client may take to send the head of a request.
    pub header_timeout: Duration,
    /// How long running requests may take after shutdown began.
    pub grace: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self { header_timeout: Duration::from_secs(30), grace: Duration::from_secs(10) }
    }
}

/// Why serving failed.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The metrics are registered already.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// Serves until `shutdown` is cancelled, then stops listening and waits for running requests within the grace period.
///
/// # Errors
/// When a listener of the same registry is served already.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    registry: &Registry,
    config: ServeConfig,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let opts = Opts::new("loki_tcp_connections", "Number of open connections.").const_label("protocol", "http");
    let connections = IntGauge::with_opts(opts)?;
    registry.register(Box::new(connections.clone()))?;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(config.header_timeout);
    builder.http2().timer(TokioTimer::new()).adaptive_window(true);
    let graceful = GracefulShutdown::new();
    let (tasks, cut_off) = (TaskTracker::new(), CancellationToken::new());
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        // Responses are small, and a client waits for each.
        let _ = stream.set_nodelay(true);
        let router = router.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| router.clone().oneshot(request));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        let (open, cut_off) = (Open::enter(&connections), cut_off.clone());
        tasks.spawn(async move {
            let _open = open;
            // A client that disconnects is not our failure.
            if let Some(Err(error)) = cut_off.run_until_cancelled(connection).await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(config.grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(left = connections.get(), "requests did not finish within the grace period and are cut off");
        cut_off.cancel();
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Counts a connection while it is open, even if its task panics.
struct Open(IntGauge);

impl Open {
    fn enter(connections: &IntGauge) -> Self {
        connections.inc();
        Self(connections.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Pauses after errors that would repeat at once, such as running out of file descriptors.
async fn pause_after(error: &io::Error) {
    let of_client =
        [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionRefused];
    if !of_client.contains(&error.kind()) {
        tracing::error!(%error, "cannot accept connections");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_running_request_finishes_after_shutdown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/slow", listener.local_addr().expect("bound"));
        let started = std::sync::Arc::new(tokio::sync::Notify::new());
        let (told, registry, shutdown) = (started.clone(), Registry::new(), CancellationToken::new());
        let slow = async move || {
            told.notify_one();
            tokio::time::sleep(Duration::from_millis(200)).await;
            "done"
        };
        let router = Router::new().route("/slow", get(slow));
        let token = shutdown.clone();
        let server =
            tokio::spawn(async move { serve(listener, router, &registry, ServeConfig::default(), token).await });
        let client =
            tokio::task::spawn_blocking(move || ureq::get(&url).call().and_then(|mut a| a.body_mut().read_to_string()));
        started.notified().await;
        shutdown.cancel();
        assert_eq!(client.await.expect("joined").expect("answered"), "done");
        server.await.expect("joined").expect("served");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn requests_beyond_the_grace_period_are_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/never", listener.local_addr().expect("bound"));
        let started = std::sync::Arc::new(tokio::sync::Notify::new());
        let (told, registry, shutdown) = (started.clone(), Registry::new(), CancellationToken::new());
        let never = async move || {
            told.notify_one();
            std::future::pending::<()>().await;
        };
        let router = Router::new().route("/never", get(never));
        let (token, gauges) = (shutdown.clone(), registry.clone());
        let config = ServeConfig { grace: Duration::from_millis(50), ..ServeConfig::default() };
        let server = tokio::spawn(async move { serve(listener, router, &registry, config, token).await });
        let client = tokio::task::spawn_blocking(move || ureq::get(&url).call().map(|_| ()));
        started.notified().await;
        let open = || gauges.gather()[0].get_metric()[0].get_gauge().get_value();
        assert_eq!(open(), 1.0);
        shutdown.cancel();
        server.await.expect("joined").expect("served");
        assert!(client.await.expect("joined").is_err());
        assert_eq!(open(), 0.0);
    }
}
