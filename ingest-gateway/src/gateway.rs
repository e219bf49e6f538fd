//! The gateway: one request from its body to the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use control::Control;
use dashmap::DashMap;
use limits::Overrides;
use log_bus::LogBus;
use model::{Clock, PartitionId, ReadToken, TenantError, TenantId, TenantIds};
use runtime::{Processors, Share};
use tokio_util::sync::CancellationToken;

use crate::append::Appender;
use crate::breaker::{Breaker, Way};
use crate::bucket::Rate;
use crate::budget::{Budget, Reservation};
use crate::intake::{Intake, Outcome, PushContext};
use crate::labels_cache::LabelsCache;
use crate::metrics::{Metrics, RequestLabels};
use crate::partitions::Partitions;
use crate::protocol::{BodyFormat, Decoding, Protocol};
use crate::refusal::Refusal;
use crate::route::Route;
use crate::rules::Rules;
use crate::tenants::{Tenant, Tenants, streams_max};
use crate::{Config, Error, sharding, unpack};

/// How often rates are measured.
const MEASURE_PERIOD: Duration = Duration::from_secs(1);

/// Idle streams are forgotten and gauges are brought up to date every so many measurements.
const HOUSEKEEPING_EVERY: u32 = 15;

/// What the gateway works with.
#[derive(Clone)]
pub struct Components {
    /// Where records go.
    pub log: Arc<dyn LogBus>,
    /// Every tenant's limits.
    pub overrides: Arc<Overrides>,
    /// Arrival times, age limits and rates go by it.
    pub clock: Arc<dyn Clock>,
    /// Who else is there. With it gateways share limits by what each of them gets; without, by `gateway_count`.
    pub control: Option<Arc<Control>>,
    /// Large bodies are decoded here.
    pub processors: Processors,
    /// Where the gateway's metrics are registered.
    pub metrics: prometheus::Registry,
}

/// A running gateway. Its [`router`](Gateway::router) takes pushes; [`run`](Gateway::run) keeps house.
pub struct Gateway {
    pub(crate) config: Arc<Config>,
    pub(crate) log: Arc<dyn LogBus>,
    pub(crate) overrides: Arc<Overrides>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) control: Option<Arc<Control>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) appender: Appender,
    pub(crate) tenants: Tenants,
    pub(crate) no_auth_tenant: TenantId,
    pub(crate) budget: Arc<Budget>,
    routing: DashMap<TenantId, TenantRouting>,
    labels_cache: LabelsCache,
    /// At most one large body decodes per core; more would only slow all of them down.
    large_bodies: Share,
}

/// What was computed for a tenant, and the inputs that tell whether it is still current.
#[derive(Clone)]
struct TenantRouting {
    rules: Arc<Rules>,
    route: Arc<Route>,
    partition_count: u32,
    shards: u32,
}

/// One request as a transport hands it over.
pub(crate) struct Arrival {
    pub(crate) tenant: TenantId,
    /// The name that the client gave its batch. It is stored; repeats are not dropped.
    pub(crate) batch_id: Option<String>,
    /// A label of metrics: one of a few names.
    pub(crate) agent: &'static str,
    pub(crate) format: BodyFormat,
    pub(crate) body: Bytes,
    /// Memory that is reserved for the body.
    pub(crate) reservation: Reservation,
}

/// What became of a request. Its records, if there are any, are durable.
pub(crate) struct Receipt {
    /// What a read must reach to see the records.
    pub(crate) token: Option<ReadToken>,
    /// What was not stored, and why.
    pub(crate) refusal: Option<Refusal>,
}

impl Gateway {
    /// A gateway over these components.
    ///
    /// # Errors
    /// When the settings make no sense, or a metric's name is taken.
    pub fn new(config: Config, components: Components) -> Result<Arc<Self>, Error> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(Error::Config(problems));
        }
        let no_auth_tenant = TenantId::new(&config.no_auth_tenant).map_err(|e| Error::Config(vec![e.to_string()]))?;
        let metrics = Arc::new(Metrics::new(&components.metrics)?);
        let partition_count = components.log.partition_count();
        let partitions = Arc::new(Partitions::new(partition_count, config.new_partition_delay.get()));
        let appender = Appender {
            log: components.log.clone(),
            breaker: Breaker::new(config.breaker_failures, config.breaker_probe.get()),
            clock: components.clock.clone(),
            metrics: metrics.clone(),
            partitions: partitions.clone(),
            timeout: config.append_timeout.get(),
            token: ReadToken::new(&components.log.log_id().0),
        };
        Ok(Arc::new(Self {
            budget: Budget::new(config.inflight_bytes_max.as_usize()),
            config: Arc::new(config),
            log: components.log,
            overrides: components.overrides,
            clock: components.clock,
            control: components.control,
            metrics,
            partitions,
            appender,
            tenants: Tenants::default(),
            no_auth_tenant,
            routing: DashMap::new(),
            labels_cache: LabelsCache::default(),
            large_bodies: components.processors.share("decode", 0),
        }))
    }

    /// Takes a request: decodes its body, appends the records, and returns when all of them are durable.
    ///
    /// Every transport ends here; [`Gateway::admit`] comes before the body is read.
    pub(crate) async fn take(self: &Arc<Self>, protocol: &dyn Protocol, arrival: Arrival) -> Receipt {
        let Arrival { tenant, batch_id, agent, format, body, reservation } = arrival;
        self.count_inflight();
        let mut request = DecodeRequest { tenant: tenant.clone(), batch_id, format, body, reservation };
        let is_large = request.body.len() > self.config.offload_bytes_min.as_usize();
        let decoded = if is_large {
            let this = self.clone();
            // The reservation comes back with the outcome: it lasts until the records are durable.
            let work = move || this.decode(&mut request).map(|outcome| (outcome, request.reservation));
            self.large_bodies.run(work).await.unwrap_or_else(|lost| {
                tracing::error!(error = %lost, "decoding a request failed");
                Err(Refusal::internal())
            })
        } else {
            self.decode(&mut request).map(|outcome| (outcome, request.reservation))
        };
        let (Outcome { records, refusal, tally }, reservation) = match decoded {
            Ok(decoded) => decoded,
            Err(refusal) => return self.turn_away(refusal),
        };
        let labels = RequestLabels {
            tenant: &tenant,
            retention_hours: self.overrides.for_tenant(&tenant).retention_period.get().as_secs() / 3600,
            format: protocol.format(),
            content_type: format.content_type,
            content_encoding: format.content_encoding,
            agent,
        };
        self.metrics.request(&labels, &tally);
        let appended = match records.is_empty() {
            true => Ok(None),
            false => self.appender.append(&tenant, records).await.map(Some),
        };
        drop(reservation);
        let token = match appended {
            Ok(token) => token,
            Err(refusal) => return self.turn_away(refusal),
        };
        self.count_inflight();
        if let Some(refusal) = &refusal {
            self.count_refusal(refusal);
        }
        Receipt { token, refusal }
    }

    /// Refuses a request before its body is read while the log is known not to work.
    pub(crate) fn admit(&self) -> Result<(), Refusal> {
        self.appender.admit()
    }

    /// The receipt of a request of which nothing was stored.
    pub(crate) fn turn_away(&self, refusal: Refusal) -> Receipt {
        self.count_inflight();
        self.count_refusal(&refusal);
        Receipt { token: None, refusal: Some(refusal) }
    }

    /// The one tenant of a push, from the value of its `X-Scope-OrgID`.
    pub(crate) fn tenant(&self, header: Option<&str>) -> Result<TenantId, Refusal> {
        if !self.config.auth_enabled {
            return Ok(self.no_auth_tenant.clone());
        }
        let tenants = TenantIds::from_header(header).map_err(|error| match error {
            TenantError::Missing => Refusal::new(401, error.to_string()),
            _ => Refusal::malformed(error),
        })?;
        tenants.single().cloned().ok_or_else(|| Refusal::malformed("multiple org IDs present"))
    }

    /// Measures rates, follows the log and other gateways, forgets idle streams and keeps gauges up to date, until
    /// `shutdown`; then it says that this process leaves, if that is nothing but a gateway. Requests are served
    /// without it, by the limits' fixed parts and the partitions of the start.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut measurements = 0u32;
        while shutdown.run_until_cancelled(tokio::time::sleep(MEASURE_PERIOD)).await.is_some() {
            self.measure(Instant::now());
            measurements = measurements.wrapping_add(1);
            if measurements.is_multiple_of(HOUSEKEEPING_EVERY) {
                self.tenants.sweep(self.clock.now(), self.config.stream_idle_timeout.get());
                self.routing.retain(|tenant, _| self.tenants.contains(tenant));
                self.metrics.tenants(self.tenants.active());
                self.count_inflight();
            }
        }
        self.say_leaving();
    }

    fn count_inflight(&self) {
        self.metrics.inflight(self.budget.used());
    }

    fn count_refusal(&self, refusal: &Refusal) {
        if refusal.status == 503 {
            self.metrics.unavailable();
        }
    }

    /// The rules and partitions of a tenant. They are computed again when its limits, its rate or the log changed.
    fn routing_of(&self, name: &TenantId, tenant: &Tenant) -> TenantRouting {
        let limits = self.overrides.for_tenant(name);
        let partition_count = self.partitions.in_use();
        let shards = match tenant.shards.load(Ordering::Relaxed) {
            0 => sharding::at_first(&limits, &self.config, partition_count),
            measured => measured,
        };
        let cached = self.routing.get(name).filter(|cached| Arc::ptr_eq(&cached.rules.limits, &limits));
        let is_current = |cached: &TenantRouting| (cached.partition_count, cached.shards) == (partition_count, shards);
        let rules = match cached.as_deref() {
            Some(cached) if is_current(cached) => return cached.clone(),
            Some(cached) => cached.rules.clone(),
            None => Arc::new(Rules::new(limits)),
        };
        // Inserting while this borrows the map would deadlock.
        drop(cached);
        let route = Arc::new(Route::new(name, (0..partition_count).map(PartitionId::new), shards));
        let routing = TenantRouting { rules, route, partition_count, shards };
        self.routing.insert(name.clone(), routing.clone());
        routing
    }

    /// The tenant's partitions without those that fail now.
    fn route_now(&self, tenant: &TenantId, routing: &TenantRouting) -> Result<Arc<Route>, Refusal> {
        let count = routing.partition_count;
        Ok(match self.appender.breaker.way(routing.route.partitions(), count, Instant::now()) {
            Way::Straight => routing.route.clone(),
            Way::Through(partition) => Arc::new(Route::only(tenant, partition)),
            Way::Around(open) => {
                let working = (0..count).map(PartitionId::new).filter(|p| !open.contains(p));
                Arc::new(Route::new(tenant, working, routing.shards))
            }
            Way::Nowhere => {
                let since = self.appender.breaker.failing_since();
                return Err(since.map_or_else(Refusal::unavailable, Refusal::log_unavailable));
            }
        })
    }

    fn intake(&self, name: &TenantId, batch_id: Option<String>) -> Result<Intake, Refusal> {
        let tenant = self.tenants.get(name);
        let routing = self.routing_of(name, &tenant);
        let limits = &routing.rules.limits;
        let share = tenant.share().unwrap_or(1.0 / f64::from(self.config.gateway_count.max(1)));
        Ok(Intake::new(PushContext {
            config: self.config.clone(),
            tenant_id: name.clone(),
            route: self.route_now(name, &routing)?,
            rate: Rate::of_tenant(limits, share),
            streams_max: streams_max(limits, share),
            tenant,
            rules: routing.rules,
            now: self.clock.now(),
            batch_id,
        }))
    }

    fn decode(&self, request: &mut DecodeRequest) -> Result<Outcome, Refusal> {
        let _cpu = self.metrics.decode_cpu.start();
        let DecodeRequest { tenant, batch_id, format, body, reservation } = request;
        let body = unpack::unpack(format.packing, std::mem::take(body), &self.config, reservation)?;
        let mut intake = self.intake(tenant, batch_id.take())?;
        let mut decoding =
            Decoding { intake: &mut intake, config: &self.config, reservation, labels_cache: &self.labels_cache };
        (format.decode)(body, &mut decoding)?;
        Ok(intake.finish())
    }
}

/// What decoding takes of an [`Arrival`].
struct DecodeRequest {
    tenant: TenantId,
    batch_id: Option<String>,
    format: BodyFormat,
    body: Bytes,
    reservation: Reservation,
}

#[cfg(test)]
mod tests;
