//! The server roles: components made once, handed to each service, and ended in order.
//!
//! ```text
//! all            gateway + consumer + builder + query service on one port
//! gateway        pushes → log
//! consumer       log → memory → blocks
//! query-service  log → memory, blocks → answers
//! builder        log → blocks, then ends
//! ```
//!
//! The local log belongs to one process at a time, so one role runs on it at a time; every role but the gateway
//! therefore brings the consumer and the builder with it.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::Router;
use block_builder::Builder;
use catalogue::{Head, Heads};
use ingest_gateway::Gateway;
use limits::Overrides;
use log_bus::{LocalLog, LogBus, LogId};
use model::{Clock, SystemClock};
use object_store::{FolderStore, ObjectStore};
use partition_consumer::Consumer;
use prometheus::Registry;
use query_service::QueryService;
use telemetry::{
    AdminState, ConfigPages, LogLevel, Readiness, RequestMetrics, ServeConfig, ServiceState, TracingConfig,
    admin_router, observe_requests, register_process_metrics, serve, shutdown_signal,
};
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{log_metrics::LogMetrics, settings::Settings};

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
    fn takes_pushes(self) -> bool {
        matches!(self, Self::All | Self::Gateway)
    }

    fn consumes(self) -> bool {
        self != Self::Gateway
    }

    fn answers(self) -> bool {
        matches!(self, Self::All | Self::QueryService)
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
    let process = Process::start(role, settings, guard.level()).await?;
    process.say_hello(&listener)?;
    process.run(listener).await
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

/// A process that has its parts, and does not serve yet.
struct Process {
    role: Role,
    settings: Settings,
    registry: Registry,
    readiness: Readiness,
    log: Arc<LocalLog>,
    overrides: Arc<Overrides>,
    consumer: Option<Arc<Consumer>>,
    gateway: Option<Arc<Gateway>>,
    query: Option<Arc<QueryService>>,
    router: Router,
}

impl Process {
    async fn start(role: Role, settings: Settings, log_level: LogLevel) -> anyhow::Result<Self> {
        let registry = Registry::new();
        register_process_metrics(&registry, env!("CARGO_PKG_VERSION"))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let readiness = Readiness::default();
        let overrides = Arc::new(Overrides::load(settings.limits_config.clone(), settings.runtime_config.files())?);

        let log = Arc::new(LocalLog::open(settings.local_log())?);
        registry.register(Box::new(LogMetrics::new(log.clone())?))?;
        let bus: Arc<dyn LogBus> = log.clone();
        let store: Arc<dyn ObjectStore> = Arc::new(FolderStore::open(settings.store_folder())?);
        object_store::self_test(store.as_ref()).await.context("the object store cannot be used")?;
        let heads = Arc::new(Heads::new(store.clone(), &bus.log_id().0)?);

        let consumer = if role.consumes() {
            let components = block_builder::Components {
                log: bus.clone(),
                store: store.clone(),
                heads: heads.as_ref().clone(),
                clock: clock.clone(),
                metrics: registry.clone(),
                owner: format!("millrace pid {}", std::process::id()),
            };
            let builder = Builder::new(settings.builder.clone(), components)?;
            let components = partition_consumer::Components {
                log: bus.clone(),
                blocks: builder,
                clock: clock.clone(),
                metrics: registry.clone(),
            };
            Some(Consumer::new(settings.consumer.clone(), components)?)
        } else {
            None
        };
        let gateway = role.takes_pushes().then(|| {
            let components = ingest_gateway::Components {
                log: bus.clone(),
                overrides: overrides.clone(),
                clock: clock.clone(),
                metrics: registry.clone(),
            };
            Gateway::new(settings.gateway.clone(), components)
        });
        let gateway = gateway.transpose()?;
        let query = match &consumer {
            Some(consumer) if role.answers() => {
                let components = query_service::Components {
                    owner: consumer.clone(),
                    older_heads: older_heads(&store, bus.log_id()).await?,
                    heads,
                    store,
                    // Here the log is local.
                    consistency_default: Some(query_service::Consistency::Strong),
                    overrides: overrides.clone(),
                    clock,
                    metrics: registry.clone(),
                };
                Some(QueryService::new(settings.querier.clone(), components)?)
            }
            _ => None,
        };

        let config = ConfigPages {
            current: settings.to_yaml()?,
            defaults: Settings::default().to_yaml()?,
            diff: settings.diff_yaml()?,
        };
        let admin =
            AdminState { registry: registry.clone(), readiness: readiness.clone(), config, log_level: Some(log_level) };
        let mut router = admin_router(admin);
        if let Some(gateway) = &gateway {
            router = router.merge(gateway.router());
        }
        if let Some(query) = &query {
            router = router.merge(query.router());
        }
        let router = observe_requests(router.fallback(query_service::not_found), RequestMetrics::register(&registry)?);
        Ok(Self { role, settings, registry, readiness, log, overrides, consumer, gateway, query, router })
    }

    /// Where to push, where to ask, what to try next; on standard output, for a person.
    fn say_hello(&self, listener: &TcpListener) -> anyhow::Result<()> {
        use std::io::Write as _;
        let url = format!("http://{}", listener.local_addr()?);
        let folder = &self.settings.common.path_prefix;
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let mut text = format!("Millrace {} keeps its data in {}\n", env!("CARGO_PKG_VERSION"), folder.display());
        if self.gateway.is_some() {
            text += &format!(
                "\n  push     {url}/loki/api/v1/push   (Promtail, Alloy, Fluent Bit, Vector)\n           \
                 {url}/otlp               (OpenTelemetry over HTTP; over gRPC: {})\n",
                listener.local_addr()?
            );
        }
        if self.query.is_some() {
            text += &format!("  query    {url}               (a Grafana data source of type Loki)\n");
        }
        if self.role == Role::All {
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
    async fn run(self, listener: TcpListener) -> anyhow::Result<()> {
        let (serving, consuming) = (CancellationToken::new(), CancellationToken::new());
        let (mut parts, mut consumers) = (Parts::new(), Parts::new());
        let grace = self.settings.server.graceful_shutdown_timeout.get();

        // Before the first request can ask whether all is ready.
        let consumer_state = self.consumer.is_some().then(|| self.readiness.service("consumer"));
        let (router, registry, token) = (self.router.clone(), self.registry.clone(), serving.clone());
        let config = ServeConfig { grace: grace / 2, ..ServeConfig::default() };
        parts.spawn(async move {
            serve(listener, router, &registry, config, token).await?;
            Ok("http server")
        });
        let http = self.readiness.service("http");
        http.set(ServiceState::Running);
        if let (Some(consumer), Some(ready)) = (self.consumer.clone(), consumer_state) {
            let token = consuming.clone();
            ready.set(ServiceState::Starting("reading the log".into()));
            let (watched, stop) = (consumer.clone(), serving.clone());
            consumers
                .spawn(async move { consumer.run(token).await.context("the consumer failed").map(|()| "consumer") });
            parts.spawn(async move {
                if stop.run_until_cancelled(caught_up(&watched)).await.is_some() {
                    ready.set(ServiceState::Running);
                    stop.cancelled().await;
                }
                Ok("readiness")
            });
        }
        if let Some(gateway) = self.gateway.clone() {
            let token = serving.clone();
            parts.spawn(async move {
                gateway.run(token).await;
                Ok("gateway")
            });
        }
        let (overrides, token) = (self.overrides.clone(), serving.clone());
        let period = self.settings.runtime_config.period.get();
        self.watch_reloads()?;
        parts.spawn(async move {
            overrides.watch(period, token.clone()).await;
            token.cancelled().await;
            Ok("limits")
        });
        if self.role == Role::Builder {
            self.build_everything().await?;
            serving.cancel();
        }

        let failure = tokio::select! {
            signal = shutdown_signal(), if self.role != Role::Builder => signal.err().map(anyhow::Error::from),
            ended = parts.join_next() => failure_of(ended),
            Some(ended) = consumers.join_next() => failure_of(Some(ended)),
        };
        self.readiness.stop();
        let stopped = tokio::time::timeout(grace, self.stop(parts, consumers, &serving, &consuming)).await;
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

    /// Requests first, then the consumer's last cut, then the log.
    async fn stop(
        &self,
        mut parts: Parts,
        mut consumers: Parts,
        serving: &CancellationToken,
        consuming: &CancellationToken,
    ) -> anyhow::Result<()> {
        serving.cancel();
        if let Some(query) = &self.query {
            query.stop().await;
        }
        let mut failure = None;
        while let Some(ended) = parts.join_next().await {
            failure = failure_of(Some(ended)).or(failure);
        }
        consuming.cancel();
        while let Some(ended) = consumers.join_next().await {
            failure = failure_of(Some(ended)).or(failure);
        }
        self.log.close().await;
        tracing::info!("stopped");
        failure.map_or(Ok(()), Err)
    }

    /// The builder's whole work: everything in the log becomes blocks.
    async fn build_everything(&self) -> anyhow::Result<()> {
        use owner::Owner as _;
        let consumer = self.consumer.as_ref().context("a builder consumes")?;
        caught_up(consumer).await;
        consumer.flush().await.context("not everything could be made into blocks")
    }

    fn watch_reloads(&self) -> anyhow::Result<()> {
        let gauge = prometheus::IntGauge::new(
            "loki_runtime_config_last_reload_successful",
            "Whether the last reload of the runtime configuration worked.",
        )?;
        self.registry.register(Box::new(gauge.clone()))?;
        self.overrides.on_reload(move |good| gauge.set(i64::from(good)));
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
