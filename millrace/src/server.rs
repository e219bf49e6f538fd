//! The server roles: components made once, handed to each service, and ended in order.
//!
//! ```text
//! all            gateway + consumer + builder + query service on one port
//! gateway        pushes → log
//! consumer       log → memory → blocks; answers query services over gRPC
//! query-service  log → memory of owners, blocks → answers
//! builder        makes blocks for owners that ask
//! ```
//!
//! With Kafka every role runs in as many processes as one likes. The local log belongs to one process at a time, so one
//! role runs on it at a time; every role but the gateway therefore brings the consumer with it, and `builder` turns all
//! that the log holds into blocks and ends.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::Router;
use block_builder::Builder;
use catalogue::{Head, Heads};
use control::Control;
use fleet::{Fleet, OwnerServer};
use ingest_gateway::Gateway;
use limits::Overrides;
use log_bus::LogId;
use model::{Clock, SystemRandom};
use object_store::ObjectStore;
use owner::{LogTail, Owner};
use partition_consumer::Consumer;
use prometheus::Registry;
use query_service::{Consistency, QueryService};
use runtime::Processors;
use telemetry::{
    AdminState, ConfigPages, LogLevel, Readiness, RequestMetrics, ServeConfig, ServiceState, TracingConfig,
    admin_router, observe_requests, register_process_metrics, serve, shutdown_signal,
};
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock, cluster,
    parts::{self, Log},
    settings::Settings,
};

/// Which parts of the pipeline a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    All,
    Gateway,
    Consumer,
    Builder,
    QueryService,
}

impl Role {
    pub(crate) fn takes_pushes(self) -> bool {
        matches!(self, Self::All | Self::Gateway)
    }

    pub(crate) fn answers(self) -> bool {
        matches!(self, Self::All | Self::QueryService)
    }

    /// Whether partitions may be owned here.
    pub(crate) fn consumes(self, settings: &Settings) -> bool {
        match self {
            Self::All | Self::Consumer => true,
            Self::Gateway => false,
            Self::Builder | Self::QueryService => !settings.kafka.is_set(),
        }
    }

    /// Whether owners in other processes may ask for blocks here.
    pub(crate) fn builds_for_others(self, settings: &Settings) -> bool {
        self == Self::Builder && settings.kafka.is_set()
    }

    /// Whether the role ends by itself, when its work is done.
    fn ends(self, settings: &Settings) -> bool {
        self == Self::Builder && !settings.kafka.is_set()
    }
}

/// Runs a role until a signal ends it, or a part fails for good.
pub(crate) async fn run(role: Role, settings: Settings) -> anyhow::Result<()> {
    let guard = telemetry::init_tracing(&tracing_config(&settings)?)?;
    // Bound first: a port that is taken must be said before the log is opened.
    let address = settings.http();
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: another process has this port, or the address is not this machine's; choose with --http HOST:PORT")
    })?;
    // Listened for from here on: a start may wait for Kafka and S3.
    let mut signal = Box::pin(shutdown_signal());
    let process = tokio::select! {
        biased;
        signal = &mut signal => return Ok(signal?),
        process = Process::start(role, settings, listener.local_addr()?, guard.level()) => process?,
    };
    process.say_hello(&listener)?;
    process.run(listener, signal).await
}

fn tracing_config(settings: &Settings) -> anyhow::Result<TracingConfig> {
    let format = serde_yaml_ng::from_str(&settings.server.log_format).map_err(|_| {
        anyhow::anyhow!("server.log_format: {:?} is neither logfmt nor json", settings.server.log_format)
    })?;
    let endpoint = &settings.tracing.otlp_endpoint;
    Ok(TracingConfig {
        level: settings.server.log_level.clone(),
        format,
        otlp_endpoint: (!endpoint.is_empty()).then(|| endpoint.clone()),
    })
}

/// What services are made of.
struct Base {
    role: Role,
    settings: Settings,
    registry: Registry,
    clock: Arc<dyn Clock>,
    overrides: Arc<Overrides>,
    log: Log,
    store: Arc<dyn ObjectStore>,
    heads: Arc<Heads>,
    /// All heavy work of the process takes its turns here.
    processors: Processors,
    /// What the processes of an installation tell one another; none on one machine.
    control: Option<Arc<Control>>,
}

/// The services of a process; which there are depends on its role.
#[derive(Default)]
struct Services {
    builder: Option<Arc<Builder>>,
    consumer: Option<Arc<Consumer>>,
    gateway: Option<Arc<Gateway>>,
    query: Option<Arc<QueryService>>,
    fleet: Option<Arc<Fleet>>,
}

/// A process that has its parts, and does not serve yet.
struct Process {
    base: Base,
    services: Services,
    readiness: Readiness,
    router: Router,
}

impl Base {
    async fn open(role: Role, settings: Settings, address: SocketAddr) -> anyhow::Result<Self> {
        let registry = Registry::new();
        register_process_metrics(&registry, env!("CARGO_PKG_VERSION"))?;
        let clock = clock::system();
        let overrides = Arc::new(Overrides::load(settings.limits_config.clone(), settings.runtime_config.files())?);
        let log = Log::open(&settings, Some(&registry)).await?;
        let store = parts::open_store(&settings, &registry).await?;
        let heads = Arc::new(Heads::new(store.clone(), &log.bus().log_id().0)?);
        let control = match &log {
            Log::Local(_) => None,
            Log::Kafka(_) => {
                let topic = parts::open_control(&settings).await?;
                let state = cluster::first_state(role, &settings, address);
                Some(Control::new(settings.cluster.control.clone(), state, topic, &registry)?)
            }
        };
        let processors = Processors::of_machine();
        processors.register(&registry)?;
        Ok(Self { role, settings, registry, clock, overrides, log, store, heads, processors, control })
    }

    fn builder(&self) -> anyhow::Result<Arc<Builder>> {
        let owner = match &self.control {
            Some(control) => control.id().to_owned(),
            None => format!("millrace pid {}", std::process::id()),
        };
        let components = block_builder::Components {
            log: self.log.bus(),
            store: self.store.clone(),
            heads: self.heads.as_ref().clone(),
            clock: self.clock.clone(),
            random: Arc::new(SystemRandom),
            processors: self.processors.clone(),
            metrics: self.registry.clone(),
            owner,
            // A process that builds for others asks nobody.
            control: self.control.clone().filter(|_| !self.role.builds_for_others(&self.settings)),
        };
        Ok(Builder::new(self.settings.builder.clone(), components)?)
    }

    fn consumer(&self, builder: &Arc<Builder>) -> anyhow::Result<Arc<Consumer>> {
        let components = partition_consumer::Components {
            log: self.log.bus(),
            blocks: builder.clone(),
            clock: self.clock.clone(),
            random: Arc::new(SystemRandom),
            processors: self.processors.clone(),
            metrics: self.registry.clone(),
            control: self.control.clone(),
        };
        Ok(Consumer::new(self.settings.consumer.clone(), components)?)
    }

    fn gateway(&self) -> anyhow::Result<Arc<Gateway>> {
        let components = ingest_gateway::Components {
            log: self.log.bus(),
            overrides: self.overrides.clone(),
            clock: self.clock.clone(),
            metrics: self.registry.clone(),
            control: self.control.clone(),
            processors: self.processors.clone(),
        };
        Ok(Gateway::new(self.settings.gateway.clone(), components)?)
    }

    /// Owners in this process and in others.
    fn fleet(&self, control: &Arc<Control>, local: Option<Arc<dyn Owner>>) -> anyhow::Result<Arc<Fleet>> {
        let log = self.log.bus();
        let tail = LogTail::new(self.settings.querier.log_tail.clone(), log.clone(), &self.processors);
        tail.register(&self.registry)?;
        let components = fleet::Components {
            control: control.clone(),
            local,
            log,
            tail,
            processors: self.processors.clone(),
            metrics: self.registry.clone(),
        };
        Ok(Fleet::new(self.settings.cluster.fleet.clone(), components)?)
    }

    async fn query(&self, owner: Arc<dyn Owner>) -> anyhow::Result<Arc<QueryService>> {
        let components = query_service::Components {
            owner,
            older_heads: older_heads(&self.store, self.log.bus().log_id()).await?,
            heads: self.heads.clone(),
            store: self.store.clone(),
            processors: self.processors.clone(),
            // Asking the local log for its ends costs nothing.
            consistency_default: self.control.is_none().then_some(Consistency::Strong),
            overrides: self.overrides.clone(),
            clock: self.clock.clone(),
            metrics: self.registry.clone(),
        };
        Ok(QueryService::new(self.settings.querier.clone(), components)?)
    }

    async fn services(&self) -> anyhow::Result<Services> {
        let mut services = Services::default();
        if self.role.consumes(&self.settings) || self.role.builds_for_others(&self.settings) {
            services.builder = Some(self.builder()?);
        }
        if let Some(builder) = services.builder.as_ref().filter(|_| self.role.consumes(&self.settings)) {
            services.consumer = Some(self.consumer(builder)?);
        }
        if self.role.takes_pushes() {
            services.gateway = Some(self.gateway()?);
        }
        if self.role.answers() {
            let local = services.consumer.clone().map(|consumer| consumer as Arc<dyn Owner>);
            let owner: Arc<dyn Owner> = match (&self.control, local) {
                (Some(control), local) => {
                    let fleet = self.fleet(control, local)?;
                    services.fleet = Some(fleet.clone());
                    fleet
                }
                (None, Some(local)) => local,
                (None, None) => anyhow::bail!("nobody owns partitions on the local log"),
            };
            services.query = Some(self.query(owner).await?);
        }
        Ok(services)
    }
}

impl Process {
    async fn start(role: Role, settings: Settings, address: SocketAddr, log_level: LogLevel) -> anyhow::Result<Self> {
        let base = Base::open(role, settings, address).await?;
        let services = base.services().await?;
        let readiness = Readiness::default();
        let config = ConfigPages {
            current: base.settings.to_yaml()?,
            defaults: Settings::default().to_yaml()?,
            diff: base.settings.diff_yaml()?,
        };
        let registry = base.registry.clone();
        let admin = AdminState { registry, readiness: readiness.clone(), config, log_level: Some(log_level) };
        let mut router = admin_router(admin);
        if let Some(gateway) = &services.gateway {
            router = router.merge(gateway.router());
        }
        if let Some(query) = &services.query {
            router = router.merge(query.router());
        }
        if let Some(consumer) = services.consumer.as_ref().filter(|_| base.control.is_some()) {
            router = router.merge(OwnerServer::new(consumer.clone(), &base.processors).into_router());
        }
        if let Some(builder) = services.builder.as_ref().filter(|_| role.builds_for_others(&base.settings)) {
            router = router.merge(builder.router());
        }
        let metrics = RequestMetrics::register(&base.registry)?;
        let router = observe_requests(router.fallback(query_service::not_found), metrics);
        Ok(Self { base, services, readiness, router })
    }

    /// Where to push, where to ask, what to try next; on standard output, for a person.
    fn say_hello(&self, listener: &TcpListener) -> anyhow::Result<()> {
        use std::io::Write as _;
        let url = format!("http://{}", listener.local_addr()?);
        let mut text =
            format!("Millrace {} keeps its data in {}\n", env!("CARGO_PKG_VERSION"), self.base.settings.places());
        if self.services.gateway.is_some() {
            text += &format!(
                "\n  push     {url}/loki/api/v1/push   (Promtail, Alloy, Fluent Bit, Vector)\n           \
                 {url}/otlp               (OpenTelemetry over HTTP; over gRPC: {})\n",
                listener.local_addr()?
            );
        }
        if self.services.query.is_some() {
            text += &format!("  query    {url}               (a Grafana data source of type Loki)\n");
        }
        if self.base.role == Role::All {
            text += "\n  next     make demo        in a second terminal, ships this machine's own logs, or by hand:\n           \
                     echo hello | millrace push --label app=try\n           \
                     millrace query '{app=\"try\"}'\n           \
                     millrace tail '{app=\"try\"}'\n\n  Ctrl-C stops it; what was acknowledged is kept.\n";
        }
        // Nobody may be reading; that is no reason not to serve.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(())
    }

    /// Serves until a signal, then: no new work, drain, cut, close.
    async fn run(self, listener: TcpListener, signal: impl Future<Output = io::Result<()>>) -> anyhow::Result<()> {
        let mut running = Running::default();
        let grace = self.base.settings.server.graceful_shutdown_timeout.get();
        // Before the first request can ask whether all is ready.
        let consumer_state = self.services.consumer.is_some().then(|| self.readiness.service("consumer"));
        self.serve(listener, &mut running, grace / 2);
        if let (Some(consumer), Some(ready)) = (self.services.consumer.clone(), consumer_state) {
            running.consume(consumer, ready);
        }
        self.keep_house(&mut running)?;
        let ends = self.base.role.ends(&self.base.settings);
        if ends {
            self.build_everything().await?;
        }

        let log = self.base.log.bus();
        let failure = tokio::select! {
            () = std::future::ready(()), if ends => None,
            signal = signal => signal.err().map(anyhow::Error::from),
            error = log.failed() => Some(anyhow::Error::from(error).context("the log cannot be used any more")),
            ended = running.parts.join_next() => failure_of(ended),
            Some(ended) = running.consumers.join_next() => failure_of(Some(ended)),
        };
        self.readiness.stop();
        let stopped = tokio::time::timeout(grace, self.stop(running)).await;
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

    fn serve(&self, listener: TcpListener, running: &mut Running, grace: Duration) {
        let (router, registry, token) = (self.router.clone(), self.base.registry.clone(), running.serving.clone());
        let config = ServeConfig { grace, ..ServeConfig::default() };
        running.parts.spawn(async move {
            serve(listener, router, &registry, config, token).await?;
            Ok("http server")
        });
        self.readiness.service("http").set(ServiceState::Running);
    }

    fn keep_house(&self, running: &mut Running) -> anyhow::Result<()> {
        if let Some(control) = self.base.control.clone() {
            let token = running.telling.clone();
            running.tellers.spawn(async move {
                control.run(token).await;
                Ok("control topic")
            });
        }
        if let Some(gateway) = self.services.gateway.clone() {
            let token = running.serving.clone();
            running.parts.spawn(async move {
                gateway.run(token).await;
                Ok("gateway")
            });
        }
        let (overrides, token) = (self.base.overrides.clone(), running.serving.clone());
        let period = self.base.settings.runtime_config.period.get();
        self.watch_reloads()?;
        running.parts.spawn(async move {
            overrides.watch(period, token.clone()).await;
            token.cancelled().await;
            Ok("limits")
        });
        Ok(())
    }

    /// On one machine: requests first, then the consumer's last cut, then the log. Among others: the consumer hands its
    /// partitions over while it still answers, then requests end, and the control topic hears of it last.
    async fn stop(&self, mut running: Running) -> anyhow::Result<()> {
        let mut failure = None;
        if self.base.control.is_some() {
            running.consuming.cancel();
            failure = finish(&mut running.consumers).await.or(failure);
        }
        running.serving.cancel();
        if let Some(query) = &self.services.query {
            query.stop().await;
        }
        if let Some(fleet) = &self.services.fleet {
            fleet.stop().await;
        }
        failure = finish(&mut running.parts).await.or(failure);
        running.consuming.cancel();
        failure = finish(&mut running.consumers).await.or(failure);
        running.telling.cancel();
        failure = finish(&mut running.tellers).await.or(failure);
        self.base.log.close().await;
        tracing::info!("stopped");
        failure.map_or(Ok(()), Err)
    }

    /// The builder's whole work on the local log: everything in it becomes blocks.
    async fn build_everything(&self) -> anyhow::Result<()> {
        let consumer = self.services.consumer.as_ref().context("on the local log a builder consumes")?;
        caught_up(consumer).await;
        consumer.flush().await.context("not everything could be made into blocks")
    }

    fn watch_reloads(&self) -> anyhow::Result<()> {
        let gauge = prometheus::IntGauge::new(
            "loki_runtime_config_last_reload_successful",
            "Whether the last reload of the runtime configuration worked.",
        )?;
        self.base.registry.register(Box::new(gauge.clone()))?;
        self.base.overrides.on_reload(move |good| gauge.set(i64::from(good)));
        Ok(())
    }
}

/// The heads of all logs in the store but the current one. There are some when the log was lost or moved away.
async fn older_heads(store: &Arc<dyn ObjectStore>, current: &LogId) -> anyhow::Result<Vec<Arc<Head>>> {
    let mut older = Vec::new();
    for log_id in catalogue::log_ids(store.as_ref()).await?.into_iter().filter(|id| *id != current.0) {
        older.extend(Heads::new(store.clone(), &log_id)?.all().await?);
        tracing::warn!(
            log_id,
            "the store holds blocks of another log; queries read them too. What that log held and was not in blocks yet is \
             not here: if the log's folder was moved away by mistake, stop and bring it back"
        );
    }
    Ok(older)
}

/// Waits until every partition is served.
async fn caught_up(consumer: &Consumer) {
    while !consumer.is_ready() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Tasks that run as long as the process; each says its name when it ends well.
type Parts = JoinSet<anyhow::Result<&'static str>>;

/// Everything that runs, by when it is told to end.
#[derive(Default)]
struct Running {
    /// Requests, and what they need.
    serving: CancellationToken,
    parts: Parts,
    /// Owning partitions.
    consuming: CancellationToken,
    consumers: Parts,
    /// Telling others.
    telling: CancellationToken,
    tellers: Parts,
}

impl Running {
    fn consume(&mut self, consumer: Arc<Consumer>, ready: telemetry::ServiceHandle) {
        ready.set(ServiceState::Starting("reading the log".into()));
        let (token, watched, stop) = (self.consuming.clone(), consumer.clone(), self.serving.clone());
        self.consumers
            .spawn(async move { consumer.run(token).await.context("the consumer failed").map(|()| "consumer") });
        self.parts.spawn(async move {
            if stop.run_until_cancelled(caught_up(&watched)).await.is_some() {
                ready.set(ServiceState::Running);
                stop.cancelled().await;
            }
            Ok("readiness")
        });
    }
}

/// Waits for all of `parts`; the last failure among them.
async fn finish(parts: &mut Parts) -> Option<anyhow::Error> {
    let mut failure = None;
    while let Some(ended) = parts.join_next().await {
        failure = failure_of(Some(ended)).or(failure);
    }
    failure
}

/// The error a part ended with, if it did not end well.
fn failure_of(ended: Option<Result<anyhow::Result<&'static str>, JoinError>>) -> Option<anyhow::Error> {
    match ended? {
        Ok(Ok(part)) => {
            tracing::debug!(part, "ended");
            None
        }
        Ok(Err(error)) => Some(error),
        Err(panicked) => Some(anyhow::Error::from(panicked)),
    }
}
