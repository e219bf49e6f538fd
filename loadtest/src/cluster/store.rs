//! The S3 server as a process of its own, and control over its faults.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use testbed::s3::{FaultSettings, S3Server};

use super::{layout::BUCKET, warden::Warden};
use crate::{http::Client, process::Process};

/// The endpoint and keys of the server, which it writes to a file.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Access {
    pub(super) endpoint: String,
    pub(super) access_key: String,
    pub(super) secret_key: String,
}

/// Arguments of `loadtest s3`, which [`StoreServer`] starts.
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// Folder of the objects
    #[arg(long)]
    folder: PathBuf,
    /// Port on 127.0.0.1; 0 picks a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Write the endpoint and the keys to this file once the server listens
    #[arg(long)]
    access: Option<PathBuf>,
}

/// Serves until the process is killed.
pub(crate) fn serve_store(args: &StoreArgs) -> anyhow::Result<()> {
    let server = S3Server::start_on(args.port, &args.folder, BUCKET)?;
    let (access_key, secret_key) = (server.access_key().to_owned(), server.secret_key().to_owned());
    let access = Access { endpoint: server.endpoint(), access_key, secret_key };
    println!("bucket {BUCKET} at {}", access.endpoint);
    if let Some(file) = &args.access {
        // The rename makes the change atomic for readers.
        let beside = file.with_extension("new");
        fs::write(&beside, serde_json::to_vec(&access)?)?;
        fs::rename(beside, file)?;
    }
    loop {
        thread::park();
    }
}

/// A running S3 server.
pub(crate) struct StoreServer {
    process: Process,
    pub(super) access: Access,
}

impl StoreServer {
    pub(super) fn start(folder: &Path, log_file: &Path, warden: &Warden) -> anyhow::Result<Self> {
        let file = folder.join("access.json");
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("s3").arg("--folder").arg(folder.join("buckets")).arg("--access").arg(&file);
        fs::create_dir_all(folder.join("buckets"))?;
        let mut process = Process::start(command, log_file)?;
        warden.watch("s3", process.pid())?;
        let began = Instant::now();
        while !file.exists() {
            if let Some(status) = process.ended()? {
                bail!("the S3 server ended with {status}; see {}", log_file.display());
            }
            ensure!(began.elapsed() < Duration::from_secs(30), "the S3 server does not start");
            thread::sleep(Duration::from_millis(10));
        }
        let access = serde_json::from_slice(&fs::read(&file)?)?;
        Ok(Self { process, access })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Replaces the faults that the server injects. The default injects none.
    pub(crate) fn set_faults(&self, faults: &FaultSettings) -> anyhow::Result<()> {
        let client = Client::new(self.access.endpoint.clone(), Duration::from_secs(10));
        let answer = client.post("/__faults", "probe", &[], &serde_json::to_vec(faults)?)?;
        ensure!(answer.is_success(), "the S3 server answered {}: {}", answer.status, answer.text());
        Ok(())
    }

    /// Returns the server's counts of requests and of injected faults.
    pub(crate) fn fault_counts(&self) -> anyhow::Result<serde_json::Value> {
        let client = Client::new(self.access.endpoint.clone(), Duration::from_secs(10));
        let mut answer = client.get("/__faults", "probe", &[])?.json()?;
        answer.get_mut("counts").map(serde_json::Value::take).context("the S3 server tells no counts")
    }
}
