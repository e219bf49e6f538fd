//! A child process with a log file. It can be killed, paused, stopped and waited for.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A running child process. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    pub(crate) started: Instant,
    pub(crate) log_file: PathBuf,
}

impl Process {
    /// Starts a command whose output is appended to a log file.
    pub(crate) fn start(mut command: Command, log_file: &Path) -> anyhow::Result<Self> {
        let log = std::fs::File::options().create(true).append(true).open(log_file)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child, started, log_file: log_file.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the exit status, if the process has ended.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        signal_pid(self.pid(), signal)
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM and waits for a clean exit. Returns how long that took.
    pub(crate) fn stop(mut self, limit: Duration) -> anyhow::Result<Duration> {
        self.signal(Signal::TERM)?;
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(
                    status.success(),
                    "the process ended with {status} after SIGTERM; see {}",
                    self.log_file.display()
                );
                return Ok(asked.elapsed());
            }
            if asked.elapsed() > limit {
                bail!("the process did not end within {limit:?} after SIGTERM; see {}", self.log_file.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process by its pid.
pub(crate) fn signal_pid(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process has a number above 0")?;
    kill_process(pid, signal).with_context(|| format!("process {pid:?} takes no signal"))
}

/// Returns the path of the `millrace` binary beside this one.
pub(crate) fn default_binary() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe()?;
    let binary = me.parent().context("this binary lies in a folder")?.join("millrace");
    anyhow::ensure!(binary.exists(), "{} does not exist: build it first (cargo build -p millrace)", binary.display());
    Ok(binary)
}

/// Returns a free port that no outgoing connection takes while its server is down.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    testbed::free_ports(1)?.pop().context("one port was asked for")
}
