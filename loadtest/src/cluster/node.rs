//! One process of a role: its port, settings, clock, and whether it runs.

use std::{fmt, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::{Layout, is_ready, warden::Warden};
use crate::process::{Process, free_port};

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    Gateway,
    Consumer,
    /// A consumer that follows partitions in a group of its own and never leads one.
    Follower,
    Builder,
    QueryService,
}

impl Role {
    /// In the order in which they start; they end in the opposite one.
    pub(crate) const ALL: [Self; 5] =
        [Self::Builder, Self::Consumer, Self::Follower, Self::QueryService, Self::Gateway];

    /// The command of the binary.
    fn command(self) -> &'static str {
        if self == Self::Follower { Self::Consumer.name() } else { self.name() }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Consumer => "consumer",
            Self::Follower => "follower",
            Self::Builder => "builder",
            Self::QueryService => "query-service",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A process of a role that runs, or can.
pub(crate) struct Node {
    pub(crate) role: Role,
    pub(crate) id: String,
    port: u16,
    zone: String,
    log_file: PathBuf,
    /// Milliseconds that its wall clock is off, as a text; it reads the file again each second.
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

    /// SIGKILL.
    pub(crate) fn kill(&mut self, warden: &Warden) -> anyhow::Result<()> {
        self.paused = false;
        if let Some(process) = self.process.take() {
            process.kill()?;
        }
        warden.forget(&self.id)
    }

    /// SIGTERM; says how long the end took.
    pub(crate) fn terminate(&mut self, warden: &Warden, limit: Duration) -> anyhow::Result<Duration> {
        if self.paused {
            self.resume()?;
        }
        let process = self.process.take().with_context(|| format!("{} does not run", self.id))?;
        let took = process.stop(limit).with_context(|| self.id.clone());
        warden.forget(&self.id)?;
        took
    }

    /// SIGSTOP.
    pub(crate) fn pause(&mut self) -> anyhow::Result<()> {
        self.process.as_ref().with_context(|| format!("{} does not run", self.id))?.signal(Signal::STOP)?;
        self.paused = true;
        Ok(())
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self) -> anyhow::Result<()> {
        self.paused = false;
        match &self.process {
            Some(process) => process.signal(Signal::CONT),
            None => Ok(()),
        }
    }

    /// Puts its wall clock off by so much.
    pub(crate) fn set_clock_offset(&self, millis: i64) -> anyhow::Result<()> {
        // In one step, so that it never reads half a number.
        let beside = self.clock_file.with_extension("new");
        fs::write(&beside, millis.to_string())?;
        fs::rename(beside, &self.clock_file)?;
        Ok(())
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.runs() && is_ready(&self.address())
    }

    /// How it ended by itself, when it did. It can be started again then.
    pub(crate) fn ended_by_itself(&mut self, warden: &Warden) -> anyhow::Result<Option<String>> {
        let Some(process) = &mut self.process else { return Ok(None) };
        let Some(status) = process.ended()? else { return Ok(None) };
        self.process = None;
        self.paused = false;
        warden.forget(&self.id)?;
        Ok(Some(format!("{} ended by itself ({status}); see {}", self.id, self.log_file.display())))
    }
}
