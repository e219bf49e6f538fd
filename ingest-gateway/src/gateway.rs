//! The gateway: one request from its body to the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use bytes::Bytes;
use control::Control;
use dashmap::DashMap;
use limits::Overrides;
use log_bus::LogBus;
use model::{Clock, PartitionId, ReadToken, TenantId};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::append::refused;
use crate::body::{self, Packing, UNAVAILABLE};
use crate::breaker::{Breaker, Unavailable, Way};
use crate::bucket::Rate;
use crate::budget::{Budget, Reservation};
use crate::intake::{Context, Intake, Outcome, Refusal, Rules};
use crate::metrics::{Metrics, Seen};
use crate::partitions::Partitions;
use crate::protobuf::LabelTexts;
use crate::route::Route;
use crate::tenants::{Tenant, Tenants, streams_max};
use crate::{Config, Error, http, json, legacy, otlp, protobuf, sharding};

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
    pub(crate) metrics: Metrics,
    pub(crate) partitions: Partitions,
    pub(crate) breaker: Breaker,
    pub(crate) tenants: Tenants,
    /// A token of this log that asks for nothing.
    pub(crate) token: ReadToken,
    no_auth_tenant: TenantId,
    budget: Arc<Budget>,
    rules: DashMap<TenantId, Known>,
    label_texts: Arc<LabelTexts>,
    /// Large bodies decode at once as there are cores: more would only take longer, all of them.
    decoders: Arc<Semaphore>,
}

/// What is worked out for a tenant, and from what.
#[derive(Clone)]
struct Known {
    rules: Arc<Rules>,
    route: Arc<Route>,
    partition_count: u32,
    shards: u32,
}

/// What a body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Json,
    LegacyJson,
    SnappyProtobuf,
    OtlpProtobuf,
    OtlpJson,
}

/// What is known of a request before its body is looked at.
pub(crate) struct Arrival {
    pub(crate) tenant: TenantId,
    pub(crate) batch_id: Option<String>,
    pub(crate) content: Content,
    pub(crate) packing: Packing,
}

/// What became of a request whose records, if there are any, are durable.
pub(crate) struct Stored {
    /// What a read must reach to see them.
    pub(crate) token: Option<ReadToken>,
    /// What was not stored, and why.
    pub(crate) refusal: Option<Refusal>,
}

/// Records made from a request, and the memory reserved for it until they are durable.
pub(crate) struct Decoded {
    outcome: Outcome,
    _reservation: Reservation,
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
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Ok(Arc::new(Self {
            metrics: Metrics::new(&components.metrics)?,
            budget: Budget::new(config.inflight_bytes_max.as_usize()),
            partitions: Partitions::new(components.log.partition_count(), config.new_partition_delay.get()),
            breaker: Breaker::new(config.breaker_failures, config.breaker_probe.get()),
            token: ReadToken::new(&components.log.log_id().0),
            config: Arc::new(config),
            log: components.log,
            overrides: components.overrides,
            clock: components.clock,
            control: components.control,
            no_auth_tenant,
            tenants: Tenants::default(),
            rules: DashMap::new(),
            label_texts: Arc::default(),
            decoders: Arc::new(Semaphore::new(cores)),
        }))
    }

    /// The routes: Loki's push (also the old one), OTLP logs over HTTP and over gRPC.
    pub fn router(self: &Arc<Self>) -> Router {
        http::router(self)
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
                self.rules.retain(|tenant, _| self.tenants.contains(tenant));
                self.metrics.tenants(self.tenants.active());
                self.count_inflight();
            }
        }
        self.say_leaving();
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(crate) fn no_auth_tenant(&self) -> &TenantId {
        &self.no_auth_tenant
    }

    pub(crate) fn count_inflight(&self) {
        self.metrics.inflight(self.budget.used());
    }

    /// Counts an answer that says "come back later".
    pub(crate) fn count_refusal(&self, refusal: &Refusal) {
        if refusal.status == 503 {
            self.metrics.unavailable();
        }
    }

    pub(crate) fn retention_hours(&self, tenant: &TenantId) -> u64 {
        self.overrides.for_tenant(tenant).retention_period.get().as_secs() / 3600
    }

    /// The rules and partitions of a tenant, worked out again when its limits, the log or its rate changed.
    fn known(&self, name: &TenantId, tenant: &Tenant) -> Known {
        let limits = self.overrides.for_tenant(name);
        let partition_count = self.partitions.in_use();
        let shards = match tenant.shards.load(Ordering::Relaxed) {
            0 => sharding::at_first(&limits, &self.config, partition_count),
            measured => measured,
        };
        let known = self.rules.get(name).filter(|known| Arc::ptr_eq(&known.rules.limits, &limits));
        let is_current = |known: &Known| (known.partition_count, known.shards) == (partition_count, shards);
        let rules = match known.as_deref() {
            Some(known) if is_current(known) => return known.clone(),
            Some(known) => known.rules.clone(),
            None => Arc::new(Rules::new(limits)),
        };
        // The map must not be held while it is written to.
        drop(known);
        let route = Arc::new(Route::new(name, (0..partition_count).map(PartitionId::new), shards));
        let known = Known { rules, route, partition_count, shards };
        self.rules.insert(name.clone(), known.clone());
        known
    }

    /// The tenant's partitions, but for those that do not work now.
    fn route_now(&self, tenant: &TenantId, known: &Known) -> Result<Arc<Route>, Refusal> {
        let count = known.partition_count;
        Ok(match self.breaker.way(known.route.partitions(), count, Instant::now()) {
            Way::Straight => known.route.clone(),
            Way::Through(partition) => Arc::new(Route::only(tenant, partition)),
            Way::Around(open) => {
                let working = (0..count).map(PartitionId::new).filter(|p| !open.contains(p));
                Arc::new(Route::new(tenant, working, known.shards))
            }
            Way::Nowhere => {
                return Err(refused(self.breaker.failing_since().map(|since| Unavailable { since })));
            }
        })
    }

    fn intake(&self, name: &TenantId, batch_id: Option<String>) -> Result<Intake, Refusal> {
        let tenant = self.tenants.get(name);
        let known = self.known(name, &tenant);
        let limits = &known.rules.limits;
        let share = tenant.share().unwrap_or(1.0 / f64::from(self.config.gateway_count.max(1)));
        Ok(Intake::new(Context {
            config: self.config.clone(),
            tenant_id: name.clone(),
            route: self.route_now(name, &known)?,
            rate: Rate::of_tenant(limits, share),
            streams_max: streams_max(limits, share),
            tenant,
            rules: known.rules,
            now: self.clock.now(),
            batch_id,
        }))
    }

    /// Decodes a body; a large one away from the threads that serve connections.
    pub(crate) async fn decode(
        self: &Arc<Self>,
        arrival: Arrival,
        body: Bytes,
        mut reservation: Reservation,
    ) -> Result<Decoded, Refusal> {
        self.count_inflight();
        let is_large = body.len() > self.config.offload_bytes_min.as_usize();
        let this = self.clone();
        self.offload(is_large, move || {
            let outcome = this.decode_here(&arrival, body, &mut reservation)?;
            Ok(Decoded { outcome, _reservation: reservation })
        })
        .await
    }

    /// As [`Gateway::decode`], for a message that gRPC already decoded.
    pub(crate) async fn convert(
        self: &Arc<Self>,
        tenant: &TenantId,
        batch_id: Option<String>,
        message: ExportLogsServiceRequest,
        reservation: Reservation,
    ) -> Result<Decoded, Refusal> {
        let is_large = message.encoded_len() > self.config.offload_bytes_min.as_usize();
        let (this, tenant) = (self.clone(), tenant.clone());
        self.offload(is_large, move || {
            let _cpu = this.metrics.decode_cpu.start();
            let mut intake = this.intake(&tenant, batch_id)?;
            otlp::convert(&message, &mut intake)?;
            Ok(Decoded { outcome: intake.finish(), _reservation: reservation })
        })
        .await
    }

    async fn offload<T: Send + 'static>(
        &self,
        is_large: bool,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        if !is_large {
            return work();
        }
        let permit = self.decoders.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Refusal::new(503, UNAVAILABLE))?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.unwrap_or_else(|e| {
            tracing::error!(error = %e, "decoding a request failed");
            Err(Refusal::new(500, "the request could not be decoded"))
        })
    }

    fn decode_here(&self, arrival: &Arrival, body: Bytes, reservation: &mut Reservation) -> Result<Outcome, Refusal> {
        let _cpu = self.metrics.decode_cpu.start();
        let config = &*self.config;
        let unpacked = body::unpack(arrival.packing, body, config, reservation)?;
        let mut intake = self.intake(&arrival.tenant, arrival.batch_id.clone())?;
        match arrival.content {
            Content::Json | Content::LegacyJson | Content::OtlpJson => {
                if unpacked.len() > config.max_decompressed_size.as_usize() {
                    let (bytes, bytes_max) = (unpacked.len(), config.max_decompressed_size.bytes());
                    let text = format!(
                        "request body too large: decompressed message size too large than max ({bytes} vs {bytes_max})"
                    );
                    return Err(Refusal::new(413, text));
                }
                // The records made from it are about as large.
                reservation.grow(unpacked.len())?;
            }
            Content::SnappyProtobuf | Content::OtlpProtobuf => {}
        }
        match arrival.content {
            Content::Json => json::decode(&unpacked, &mut intake)?,
            Content::LegacyJson => legacy::decode(&unpacked, &mut intake)?,
            Content::SnappyProtobuf => {
                let message = body::unpack_snappy(&unpacked, config, reservation)?;
                reservation.grow(message.len())?;
                protobuf::decode(&message, &self.label_texts, &mut intake)?;
            }
            Content::OtlpProtobuf => {
                reservation.grow(unpacked.len().saturating_mul(2))?;
                let message =
                    ExportLogsServiceRequest::decode(unpacked).map_err(|e| Refusal::new(400, e.to_string()))?;
                otlp::convert(&message, &mut intake)?;
            }
            Content::OtlpJson => {
                let message: ExportLogsServiceRequest =
                    serde_json::from_slice(&unpacked).map_err(|e| Refusal::new(400, e.to_string()))?;
                otlp::convert(&message, &mut intake)?;
            }
        }
        Ok(intake.finish())
    }

    /// Appends the records; answers when all of them are durable.
    pub(crate) async fn store(&self, seen: &Seen<'_>, decoded: Decoded) -> Result<Stored, Refusal> {
        let Outcome { records, refusal, tally } = decoded.outcome;
        self.metrics.request(seen, &tally);
        let token = if records.is_empty() { None } else { Some(self.append(seen.tenant, records).await?) };
        Ok(Stored { token, refusal })
    }
}

#[cfg(test)]
mod tests;
