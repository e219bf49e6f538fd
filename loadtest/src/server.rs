//! A Millrace server as a child process, to be started, killed and started again on the same data.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::http::Client;

/// Settings for many small cuts and journal files, so that kills hit all of their steps often.
pub(crate) const SMALL_CUTS: [(&str, &str); 5] = [
    ("CONSUMER__CUT_BYTES", "256KB"),
    ("CONSUMER__CUT_AGE", "400ms"),
    ("CONSUMER__PUBLISHED_GRACE", "200ms"),
    ("LOG__SEGMENT_SIZE", "1MB"),
    ("LOG__RETENTION_PERIOD", "1s"),
];

/// How to start a server.
pub(crate) struct ServerSpec {
    pub(crate) binary: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) port: u16,
    /// `MILLRACE_…` settings.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) log_file: PathBuf,
}

/// A running server. Dropping it kills it.
pub(crate) struct Server {
    child: Child,
    pub(crate) started: Instant,
}

impl ServerSpec {
    /// A server of `binary` on a free port, with its data and log under `folder`.
    pub(crate) fn new(binary: PathBuf, folder: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(
            binary.exists(),
            "{} does not exist: build it first (cargo build -p millrace)",
            binary.display()
        );
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (data_dir, log_file) = (folder.join("data"), folder.join("server.log"));
        Ok(Self { binary, data_dir, port, settings: Vec::new(), log_file })
    }

    pub(crate) fn set(&mut self, name: &str, value: impl ToString) {
        self.settings.push((format!("MILLRACE_{name}"), value.to_string()));
    }

    pub(crate) fn client(&self, timeout: Duration) -> Client {
        Client::new(format!("http://127.0.0.1:{}", self.port), timeout)
    }

    pub(crate) fn start(&self) -> anyhow::Result<Server> {
        let log = std::fs::File::options().create(true).append(true).open(&self.log_file)?;
        let mut command = Command::new(&self.binary);
        command.arg("--data-dir").arg(&self.data_dir).arg("--http").arg(format!("127.0.0.1:{}", self.port));
        command.envs(self.settings.iter().map(|(n, v)| (n, v))).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {}", self.binary.display()))?;
        Ok(Server { child, started })
    }

    /// Waits until a query is answered; says how long after the start that was.
    pub(crate) fn wait_ready(&self, server: &mut Server, limit: Duration) -> anyhow::Result<Duration> {
        let client = self.client(Duration::from_secs(10));
        loop {
            if let Ok(answer) = client.get("/loki/api/v1/labels", "probe", &[])
                && answer.is_success()
            {
                return Ok(server.started.elapsed());
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended by itself ({status}); see {}", self.log_file.display());
            }
            if server.started.elapsed() > limit {
                bail!("the server did not answer within {limit:?}; see {}", self.log_file.display());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for a clean end.
    pub(crate) fn stop(mut self, limit: Duration) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("a child has a pid")?;
        kill_process(pid, Signal::TERM)?;
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(status.success(), "the server ended with {status} after SIGTERM");
                return Ok(());
            }
            if asked.elapsed() > limit {
                bail!("the server did not end within {limit:?} after SIGTERM");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The `millrace` binary beside this one.
pub(crate) fn default_binary() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe()?;
    Ok(me.parent().context("this binary lies in a folder")?.join("millrace"))
}
