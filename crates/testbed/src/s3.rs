//! An S3 server in this process that can inject faults.
//!
//! [`s3s_fs`] stores objects as files in a folder; this module makes its operations atomic. Requests go to
//! `http://host/bucket/key` or `http://bucket.localhost/key`, signed with [`S3Server::access_key`] and
//! [`S3Server::secret_key`].
//!
//! Faults are set through [`S3Server::faults`], or by another process over HTTP on the same port, without a signature:
//! `POST /__faults` with [`FaultSettings`] as JSON replaces all settings (missing ones get their defaults), and
//! `GET /__faults` answers `{"settings": …, "counts": …}`. This path also works while the server is "down".
//!
//! ```text
//! request ──▶ down? cut ──▶ slow? wait ──▶ error? 500 or 503 ──▶ carried out, whole ──▶ reply lost? cut or 500 ──▶ answer
//! ```

mod backend;
mod faults;
mod keys;
mod serve;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    thread,
};

use anyhow::{Context, ensure};
use tokio::sync::oneshot;

pub use faults::{FaultCounts, FaultSettings, S3Faults};
use keys::{ACCESS_KEY, SECRET_KEY};

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    bucket: String,
    faults: Arc<S3Faults>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl S3Server {
    /// Starts a server on a free port. It keeps its objects in `folder` and creates `bucket` there.
    ///
    /// # Errors
    /// If the folder cannot be used, or the bucket's name is invalid.
    pub fn start(folder: &Path, bucket: &str) -> anyhow::Result<Self> {
        Self::start_on(0, folder, bucket)
    }

    /// Like [`S3Server::start`], on this port of 127.0.0.1.
    ///
    /// # Errors
    /// Like [`S3Server::start`], and if the port is taken.
    pub fn start_on(port: u16, folder: &Path, bucket: &str) -> anyhow::Result<Self> {
        ensure!(s3s::path::check_bucket_name(bucket), "{bucket:?} is no name of a bucket");
        let path = folder.join(bucket);
        std::fs::create_dir_all(&path).with_context(|| format!("making the folder {}", path.display()))?;
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("listening on port {port}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let faults = Arc::new(S3Faults::default());
        let server = serve::Server::new(folder, address, faults.clone())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("s3-server".to_owned()).spawn(move || {
            runtime.block_on(server.run(listener, stopped));
            runtime.shutdown_background();
        })?;
        Ok(Self { address, bucket: bucket.to_owned(), faults, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the URL for clients that put the bucket into the path.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the URL for clients that put the bucket before the host. They must resolve `*.localhost`, which not every
    /// resolver does.
    pub fn virtual_host_endpoint(&self) -> String {
        format!("http://localhost:{}", self.address.port())
    }

    /// Returns the address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the name of the bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Returns the access key.
    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// Returns the secret key.
    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// Returns the faults that the server injects.
    pub fn faults(&self) -> &S3Faults {
        &self.faults
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If the server panicked, the requests of the test have failed already.
            let _ = thread.join();
        }
    }
}
