//! The gateway: one request from its body to the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use bytes::Bytes;
use dashmap::DashMap;
use futures_util::future::join_all;
use limits::Overrides;
use log_bus::{LogBus, LogError};
use model::{Clock, PartitionId, TenantId};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::body::{self, Packing, UNAVAILABLE};
use crate::budget::{Budget, Reservation};
use crate::intake::{Context, Intake, Outcome, Refusal, Rules};
use crate::metrics::{Metrics, Seen};
use crate::protobuf::LabelTexts;
use crate::tenants::Tenants;
use crate::{Config, Error, http, json, legacy, otlp, protobuf};

/// How often idle streams are forgotten and gauges are brought up to date.
const HOUSEKEEPING_PERIOD: Duration = Duration::from_secs(15);

/// What the gateway works with.
#[derive(Clone)]
pub struct Components {
    /// Where records go.
    pub log: Arc<dyn LogBus>,
    /// Every tenant's limits.
    pub overrides: Arc<Overrides>,
    /// Arrival times, age limits and rates go by it.
    pub clock: Arc<dyn Clock>,
    /// Where the gateway's metrics are registered.
    pub metrics: prometheus::Registry,
}

/// A running gateway. Its [`router`](Gateway::router) takes pushes; [`run`](Gateway::run) keeps house.
pub struct Gateway {
    config: Arc<Config>,
    log: Arc<dyn LogBus>,
    overrides: Arc<Overrides>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    no_auth_tenant: TenantId,
    budget: Arc<Budget>,
    tenants: Tenants,
    rules: DashMap<TenantId, Arc<Rules>>,
    label_texts: Arc<LabelTexts>,
    /// Large bodies decode at once as there are cores: more would only take longer, all of them.
    decoders: Arc<Semaphore>,
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
            config: Arc::new(config),
            log: components.log,
            overrides: components.overrides,
            clock: components.clock,
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

    /// Forgets idle streams and keeps gauges up to date until `shutdown`. Requests are served without it.
    pub async fn run(&self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(HOUSEKEEPING_PERIOD) => {}
            }
            self.tenants.sweep(self.clock.now(), self.config.stream_idle_timeout.get());
            self.rules.retain(|tenant, _| self.tenants.contains(tenant));
            self.metrics.streams(self.tenants.active());
            self.count_inflight();
        }
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

    fn rules(&self, tenant: &TenantId) -> Arc<Rules> {
        let limits = self.overrides.for_tenant(tenant);
        if let Some(known) = self.rules.get(tenant).filter(|known| Arc::ptr_eq(&known.limits, &limits)) {
            return known.clone();
        }
        let rules = Arc::new(Rules::new(limits, tenant, self.log.partition_count(), &self.config));
        self.rules.insert(tenant.clone(), rules.clone());
        rules
    }

    fn intake(&self, tenant: &TenantId, batch_id: Option<String>) -> Intake {
        Intake::new(Context {
            config: self.config.clone(),
            tenant_id: tenant.clone(),
            tenant: self.tenants.get(tenant),
            rules: self.rules(tenant),
            now: self.clock.now(),
            batch_id,
        })
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
            let mut intake = this.intake(&tenant, batch_id);
            let rules = this.rules(&tenant);
            otlp::convert(&message, &rules.otlp, &mut intake)?;
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
        let mut intake = self.intake(&arrival.tenant, arrival.batch_id.clone());
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
                self.convert_into(&message, arrival, &mut intake)?;
            }
            Content::OtlpJson => {
                let message: ExportLogsServiceRequest =
                    serde_json::from_slice(&unpacked).map_err(|e| Refusal::new(400, e.to_string()))?;
                self.convert_into(&message, arrival, &mut intake)?;
            }
        }
        Ok(intake.finish())
    }

    fn convert_into(
        &self,
        message: &ExportLogsServiceRequest,
        arrival: &Arrival,
        intake: &mut Intake,
    ) -> Result<(), Refusal> {
        otlp::convert(message, &self.rules(&arrival.tenant).otlp, intake)
    }

    /// Appends the records; answers when all of them are durable.
    pub(crate) async fn store(&self, seen: &Seen<'_>, decoded: Decoded) -> Result<(), Refusal> {
        let Outcome { records, refusal, tally } = decoded.outcome;
        self.metrics.request(seen, &tally);
        if !records.is_empty() {
            self.append(seen.tenant, records).await?;
        }
        refusal.map_or(Ok(()), Err)
    }

    async fn append(&self, tenant: &TenantId, records: Vec<(PartitionId, Bytes)>) -> Result<(), Refusal> {
        let (started, count) = (Instant::now(), records.len());
        let appends = join_all(records.into_iter().map(async |(partition, payload)| {
            let bytes = payload.len();
            let result = self.log.append(partition, tenant, payload).await;
            self.metrics.append(partition, bytes, result.is_ok());
            result
        }));
        let results = match tokio::time::timeout(self.config.append_timeout.get(), appends).await {
            Ok(results) => results,
            Err(_) => {
                tracing::error!(%tenant, timeout = %self.config.append_timeout, "the log did not answer in time");
                return Err(Refusal::new(503, UNAVAILABLE));
            }
        };
        self.metrics.appended(count, started.elapsed().as_secs_f64());
        // A client repeats the whole request then: what was durable of it may appear twice.
        match results.into_iter().find_map(Result::err) {
            None => Ok(()),
            Some(e @ LogError::TooLarge { .. }) => Err(Refusal::new(413, format!("request body too large: {e}"))),
            Some(e) => {
                tracing::error!(%tenant, error = %e, "records could not be appended");
                Err(Refusal::new(503, UNAVAILABLE))
            }
        }
    }
}
