//! One process of a role: its port, its clock, and whether it runs.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::{layout::Layout, probe::is_ready, role::Role, warden::Warden};
use crate::process::{Process, free_port};

/// A process of a role, running or not.
pub(crate) struct Node {
    pub(crate) role: Role,
    pub(crate) id: String,
    port: u16,
    zone: String,
    log_file: PathBuf,
    /// File with the offset of the process's wall clock in milliseconds. The process reads it every second.
    clock_file: PathBuf,
    process: Option<Process>,
    paused: bool,
}

impl Node {
    pub(super) fn new(layout: &Layout, role: Role, index: usize) -> anyhow::Result<Self> {
        let id = format!("{role}-{index}");
        let clocks = layout.folder.join("clocks");
        fs::create_dir_all(&clocks)?;
        Ok(Self {
            role,
            port: free_port()?,
            zone: format!("zone-{}", index % 2),
            log_file: layout.logs().join(format!("{id}.log")),
            clock_file: clocks.join(&id),
            process: None,
            paused: false,
            id,
        })
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    pub(crate) fn start(&mut self, layout: &Layout, warden: &Warden) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.id);
        let mut command = Command::new(&layout.binary);
        command.arg(self.role.command()).arg("--config").arg(layout.config_file());
        command.args(["--http", &format!("127.0.0.1:{}", self.port)]);
        command.envs(layout.environment.iter().map(|(n, v)| (n, v)));
        command.env("MILLRACE_CLUSTER__NAME", &self.id);
        command.env("MILLRACE_CLUSTER__ZONE", &self.zone);
        command.env("MILLRACE_CLUSTER__ADVERTISE_ADDRESS", format!("127.0.0.1:{}", self.port));
        command.env("MILLRACE_TEST_CLOCK_OFFSET_FILE", &self.clock_file);
        match self.role {
            Role::Consumer => {
                command.env("MILLRACE_KAFKA__INSTANCE_ID", &self.id);
            }
            Role::Follower => {
                command.env("MILLRACE_KAFKA__INSTANCE_ID", &self.id).env("MILLRACE_CONSUMER__MODE", "follow");
            }
            Role::Gateway | Role::Builder | Role::QueryService => {}
        }
        let process = Process::start(command, &self.log_file)?;
        warden.watch(&self.id, process.pid())?;
        self.process = Some(process);
        self.paused = false;
        Ok(())
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&mut self, warden: &Warden) -> anyhow::Result<()> {
        self.paused = false;
        if let Some(process) = self.process.take() {
            process.kill()?;
        }
        warden.forget(&self.id)
    }

    /// Sends SIGTERM and waits. Returns how long the exit took.
    pub(crate) fn terminate(&mut self, warden: &Warden, limit: Duration) -> anyhow::Result<Duration> {
        if self.paused {
            self.resume()?;
        }
        let process = self.process.take().with_context(|| format!("{} does not run", self.id))?;
        let took = process.stop(limit).with_context(|| self.id.clone());
        warden.forget(&self.id)?;
        took
    }

    /// Sends SIGSTOP.
    pub(crate) fn pause(&mut self) -> anyhow::Result<()> {
        self.process.as_ref().with_context(|| format!("{} does not run", self.id))?.signal(Signal::STOP)?;
        self.paused = true;
        Ok(())
    }

    /// Sends SIGCONT.
    pub(crate) fn resume(&mut self) -> anyhow::Result<()> {
        self.paused = false;
        match &self.process {
            Some(process) => process.signal(Signal::CONT),
            None => Ok(()),
        }
    }

    /// Shifts the process's wall clock.
    pub(crate) fn set_clock_offset(&self, millis: i64) -> anyhow::Result<()> {
        // The rename makes the change atomic, so the process never reads half a number.
        let beside = self.clock_file.with_extension("new");
        fs::write(&beside, millis.to_string())?;
        fs::rename(beside, &self.clock_file)?;
        Ok(())
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.runs() && is_ready(&self.address())
    }

    /// Returns how the process ended, if it ended by itself. It can then be started again.
    pub(crate) fn ended_by_itself(&mut self, warden: &Warden) -> anyhow::Result<Option<String>> {
        let Some(process) = &mut self.process else { return Ok(None) };
        let Some(status) = process.ended()? else { return Ok(None) };
        self.process = None;
        self.paused = false;
        warden.forget(&self.id)?;
        Ok(Some(format!("{} ended by itself ({status}); see {}", self.id, self.log_file.display())))
    }
}
