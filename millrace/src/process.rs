//! A server process: its role's parts are made once, served on one port, and ended in order.
//!
//! ```text
//! bind ─▶ Components::open ─▶ parts::make ─▶ serve ─▶ a signal, or a part that ended ─▶ stop in phases
//! ```
//!
//! On the local log, requests end first, then the consumer makes its last cut, then the log closes. With Kafka, the
//! consumer hands its partitions over while the process still answers; then requests end; the control topic hears of
//! it last.

use std::{io, io::Write as _, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use axum::Router;
use settings::Settings;
use telemetry::{
    AdminState, ConfigPages, LogLevel, RequestMetrics, ServeConfig, ServiceState, admin_router, observe_requests,
    serve, shutdown_signal,
};
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    components::Components,
    parts::{self, BackgroundTask, Part, Phase},
    roles::Role,
};

/// Runs a role until a signal ends it, its work is done, or a part fails for good.
pub(crate) async fn run(role: &'static Role, settings: Settings) -> anyhow::Result<()> {
    let guard = telemetry::init_tracing(&settings.tracing_config())?;
    // The port comes first: if it is taken, a person must know before the log is opened.
    let address = settings.http();
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: another process has this port, or the address is not this machine's; choose with --http HOST:PORT")
    })?;
    // Signals count from here on, because the start may wait for Kafka and S3.
    let mut signal = Box::pin(shutdown_signal());
    let process = tokio::select! {
        biased;
        signal = &mut signal => return Ok(signal?),
        process = Process::start(role, settings, listener.local_addr()?, guard.level()) => process?,
    };
    process.greet(&listener)?;
    process.run(listener, signal).await
}

/// A process that has its parts, and does not serve yet.
struct Process {
    role: &'static Role,
    components: Components,
    parts: Vec<Part>,
    router: Router,
}

impl Process {
    async fn start(
        role: &'static Role,
        settings: Settings,
        address: SocketAddr,
        log_level: LogLevel,
    ) -> anyhow::Result<Self> {
        let components = Components::open(role, settings, address).await?;
        let mut parts = parts::make(role.parts(&components.settings), &components).await?;
        let config = ConfigPages {
            current: components.settings.to_yaml()?,
            defaults: Settings::default().to_yaml()?,
            diff: components.settings.diff_yaml()?,
        };
        let mut router = admin_router(AdminState {
            registry: components.registry.clone(),
            readiness: components.readiness.clone(),
            config,
            log_level: Some(log_level),
        });
        for part in &mut parts {
            router = router.merge(std::mem::take(&mut part.router));
        }
        let metrics = RequestMetrics::register(&components.registry)?;
        let router = observe_requests(router.fallback(query_service::not_found), metrics);
        Ok(Self { role, components, parts, router })
    }

    /// Tells a person on standard output where to push, where to query, and what to try next.
    fn greet(&self, listener: &TcpListener) -> anyhow::Result<()> {
        let url = format!("http://{}", listener.local_addr()?);
        let places = self.components.settings.places();
        let mut text = format!("Millrace {} keeps its data in {places}\n", env!("CARGO_PKG_VERSION"));
        for greeting in self.parts.iter().filter_map(|part| part.greeting) {
            text += &greeting(&url);
        }
        text += self.role.next_steps;
        // If nobody reads standard output, the process serves all the same.
        let _ = io::stdout().write_all(text.as_bytes());
        Ok(())
    }

    /// Serves until a signal or the end of a part, then stops.
    async fn run(self, listener: TcpListener, signal: impl Future<Output = io::Result<()>>) -> anyhow::Result<()> {
        let Self { components, parts, router, .. } = self;
        let grace = components.settings.server.graceful_shutdown_timeout.get();
        let mut tasks = PhaseTasks::default();
        tasks.spawn(http_server(listener, router, &components, grace / 2));
        components.readiness.service("http").set(ServiceState::Running);
        for part in parts {
            tracing::debug!(part = part.name, "starting");
            part.tasks.into_iter().for_each(|task| tasks.spawn(task));
        }

        let log = components.log.bus();
        let failure = tokio::select! {
            signal = signal => signal.err().map(anyhow::Error::from),
            error = log.failed() => Some(anyhow::Error::from(error).context("the log cannot be used any more")),
            Some(ended) = tasks.serving.tasks.join_next() => failure_of(ended),
            Some(ended) = tasks.consuming.tasks.join_next() => failure_of(ended),
        };
        components.readiness.stop();
        let stopped = tokio::time::timeout(grace, stop(&components, tasks)).await;
        match (failure, stopped) {
            (Some(error), _) | (None, Ok(Err(error))) => Err(error),
            (None, Ok(Ok(()))) => Ok(()),
            (None, Err(_)) => {
                tracing::warn!(
                    ?grace,
                    "did not finish within the grace period; the rest is in the log and is read again at the next start"
                );
                Ok(())
            }
        }
    }
}

fn http_server(listener: TcpListener, router: Router, components: &Components, grace: Duration) -> BackgroundTask {
    let registry = components.registry.clone();
    let config = ServeConfig { grace, ..ServeConfig::default() };
    let run = async move |token| Ok(serve(listener, router, &registry, config, token).await?);
    BackgroundTask { name: "http server", phase: Phase::Serving, run: Box::new(|token| Box::pin(run(token))) }
}

/// Ends the phases in order.
async fn stop(components: &Components, mut tasks: PhaseTasks) -> anyhow::Result<()> {
    let order = match components.control {
        Some(_) => [&mut tasks.consuming, &mut tasks.serving, &mut tasks.membership],
        None => [&mut tasks.serving, &mut tasks.consuming, &mut tasks.membership],
    };
    let mut failure = None;
    for phase in order {
        failure = phase.end().await.or(failure);
    }
    components.log.close().await;
    tracing::info!("stopped");
    failure.map_or(Ok(()), Err)
}

/// The background tasks of a process, by the phase in which they end.
#[derive(Default)]
struct PhaseTasks {
    serving: TaskSet,
    consuming: TaskSet,
    membership: TaskSet,
}

/// Tasks that end together. Each returns its name.
#[derive(Default)]
struct TaskSet {
    token: CancellationToken,
    tasks: JoinSet<anyhow::Result<&'static str>>,
}

impl PhaseTasks {
    fn spawn(&mut self, task: BackgroundTask) {
        let BackgroundTask { name, phase, run } = task;
        let set = match phase {
            Phase::Serving => &mut self.serving,
            Phase::Consuming => &mut self.consuming,
            Phase::Membership => &mut self.membership,
        };
        let task = run(set.token.clone());
        set.tasks.spawn(async move { task.await.map(|()| name) });
    }
}

impl TaskSet {
    /// Cancels the tasks and waits for all of them. Returns the last failure among them.
    async fn end(&mut self) -> Option<anyhow::Error> {
        self.token.cancel();
        let mut failure = None;
        while let Some(ended) = self.tasks.join_next().await {
            failure = failure_of(ended).or(failure);
        }
        failure
    }
}

/// The error with which a task ended.
fn failure_of(ended: Result<anyhow::Result<&'static str>, JoinError>) -> Option<anyhow::Error> {
    match ended {
        Ok(Ok(task)) => {
            tracing::debug!(task, "ended");
            None
        }
        Ok(Err(error)) => Some(error),
        Err(panicked) => Some(anyhow::Error::from(panicked)),
    }
}
