//! What a part is.

use std::pin::Pin;

use axum::Router;
use control::Role as ControlRole;
use tokio_util::sync::CancellationToken;

/// A kind of part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartKind {
    /// Takes pushes.
    Gateway,
    /// Owns partitions, and makes blocks of them.
    Consumer,
    /// Makes blocks for owners in other processes.
    Builder,
    /// Answers queries.
    QueryService,
    /// Turns everything that is in the log into blocks, then ends the process.
    FlushAndEnd,
}

impl PartKind {
    /// What other processes call a process with this part.
    pub(crate) fn control_role(self, follows: bool) -> Option<ControlRole> {
        match self {
            Self::Gateway => Some(ControlRole::Gateway),
            Self::Consumer if follows => Some(ControlRole::Follower),
            Self::Consumer => Some(ControlRole::Consumer),
            Self::Builder => Some(ControlRole::Builder),
            Self::QueryService => Some(ControlRole::QueryService),
            Self::FlushAndEnd => None,
        }
    }
}

/// When a background task is told to end. Later phases end after earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Requests, and what they need. On the local log it ends before [`Phase::Consuming`], with Kafka after it.
    Serving,
    /// Owning partitions.
    Consuming,
    /// Telling other processes about this one.
    Membership,
}

/// A service of this process: what it answers, what it does in the background, and what a person should know of it.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) router: Router,
    pub(crate) tasks: Vec<BackgroundTask>,
    /// Says after the start what can be done at this URL.
    pub(crate) greeting: Option<fn(url: &str) -> String>,
}

/// A task that runs until its token is cancelled. When it ends before, the process ends, too.
pub(crate) struct BackgroundTask {
    pub(crate) name: &'static str,
    pub(crate) phase: Phase,
    pub(crate) run: Box<dyn FnOnce(CancellationToken) -> TaskFuture + Send>,
}

type TaskFuture = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

impl Part {
    pub(super) fn new(name: &'static str, router: Router) -> Self {
        Self { name, router, tasks: Vec::new(), greeting: None }
    }

    /// Adds a background task.
    pub(super) fn with_task<F>(
        mut self,
        name: &'static str,
        phase: Phase,
        run: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.push(BackgroundTask { name, phase, run: Box::new(|token| Box::pin(run(token))) });
        self
    }
}
