//! An S3 server in this process, with faults on demand.
//!
//! Objects are files of a folder: [`s3s_fs`] stores them, made atomic here. Requests are `http://host/bucket/key`
//! or `http://bucket.localhost/key`, signed with [`S3Server::access_key`] and [`S3Server::secret_key`].
//!
//! Faults are set through [`S3Server::faults`], or by another process over HTTP on the same port, without signature:
//! `POST /__faults` with [`FaultSettings`] as JSON replaces all of them (what is not named is well again), and
//! `GET /__faults` answers `{"settings": …, "counts": …}`. That path works also while the server is "down".
//!
//! ```text
//! request ──▶ down? cut ──▶ slow? wait ──▶ error? 500 or 503 ──▶ carried out, whole ──▶ reply lost? cut or 500 ──▶ answer
//! ```

mod backend;
mod faults;
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

const ACCESS_KEY: &str = "testbed";
const SECRET_KEY: &str = "testbed-secret";

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    bucket: String,
    faults: Arc<S3Faults>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl S3Server {
    /// Starts a server on a free port. It keeps its objects in `folder` and makes `bucket` there.
    ///
    /// # Errors
    /// When the folder cannot be used, or the name is none of a bucket.
    pub fn start(folder: &Path, bucket: &str) -> anyhow::Result<Self> {
        Self::start_on(0, folder, bucket)
    }

    /// As [`S3Server::start`], on this port of 127.0.0.1.
    ///
    /// # Errors
    /// As [`S3Server::start`], and when the port is taken.
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

    /// The URL for clients that name the bucket in the path.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL for clients that put the bucket before the host. They must reach `*.localhost`, which not every resolver
    /// knows.
    pub fn virtual_host_endpoint(&self) -> String {
        format!("http://localhost:{}", self.address.port())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bucket that was made.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The access key that it knows.
    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// Its secret.
    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// What goes wrong on purpose.
    pub fn faults(&self) -> &S3Faults {
        &self.faults
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server shows in the tests that asked it.
            let _ = thread.join();
        }
    }
}
