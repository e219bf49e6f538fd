//! A Millrace server as a child process. It can be started, killed and started again on the same data.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::bail;

use crate::{
    http::Client,
    process::{Process, free_port},
};

/// Settings that make many small cuts, so that kills often hit each of their steps.
pub(crate) const SMALL_CUTS: [(&str, &str); 3] =
    [("CONSUMER__CUT_BYTES", "256KB"), ("CONSUMER__CUT_AGE", "400ms"), ("CONSUMER__PUBLISHED_GRACE", "200ms")];

/// Settings that make many small journal files, for the same reason.
pub(crate) const SMALL_JOURNAL: [(&str, &str); 2] = [("LOG__SEGMENT_SIZE", "1MB"), ("LOG__RETENTION_PERIOD", "1s")];

/// How to start a server.
pub(crate) struct ServerSpec {
    pub(crate) binary: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) port: u16,
    /// `MILLRACE_…` settings.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) log_file: PathBuf,
}

impl ServerSpec {
    /// A server of `binary` on a free port, with its data and log under `folder`.
    pub(crate) fn new(binary: PathBuf, folder: &Path) -> anyhow::Result<Self> {
        let (data_dir, log_file) = (folder.join("data"), folder.join("server.log"));
        Ok(Self { binary, data_dir, port: free_port()?, settings: Vec::new(), log_file })
    }

    pub(crate) fn set(&mut self, name: &str, value: impl ToString) {
        self.settings.push((format!("MILLRACE_{name}"), value.to_string()));
    }

    pub(crate) fn client(&self, timeout: Duration) -> Client {
        Client::new(format!("http://127.0.0.1:{}", self.port), timeout)
    }

    pub(crate) fn start(&self) -> anyhow::Result<Process> {
        let mut command = Command::new(&self.binary);
        command.arg("--data-dir").arg(&self.data_dir).arg("--http").arg(format!("127.0.0.1:{}", self.port));
        command.envs(self.settings.iter().map(|(n, v)| (n, v)));
        Process::start(command, &self.log_file)
    }

    /// Waits until the server answers a query. Returns the time since its start.
    pub(crate) fn wait_ready(&self, server: &mut Process, limit: Duration) -> anyhow::Result<Duration> {
        let client = self.client(Duration::from_secs(10));
        loop {
            if let Ok(answer) = client.get("/loki/api/v1/labels", "probe", &[])
                && answer.is_success()
            {
                return Ok(server.started.elapsed());
            }
            if let Some(status) = server.ended()? {
                bail!("the server ended by itself ({status}); see {}", self.log_file.display());
            }
            if server.started.elapsed() > limit {
                bail!("the server did not answer within {limit:?}; see {}", self.log_file.display());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
