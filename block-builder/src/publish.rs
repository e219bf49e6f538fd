//! From a cut to a head that lists it: encode, upload, compare-and-swap, commit.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use block::{BlockOptions, EncodedBlock};
use bytes::Bytes;
use catalogue::{BlockEntry, CatalogueError, Heads, Leadership, LogBounds, TenantEntry, block_key};
use control::Control;
use cut::{Cut, CutError, CutReason, CutSink, Flushed, Lead, Published};
use log_bus::LogBus;
use model::{Clock, Offset, OffsetRange, PartitionId, TimestampNs};
use object_store::{ObjectKey, ObjectStore, PutCondition, StoreError};
use tokio::sync::Semaphore;

use crate::assemble::assemble;
use crate::remote::{self, NotBuilt, Remotes, Totals};
use crate::{Config, Error, encode, metrics::Metrics};

/// What the builder works with.
#[derive(Clone)]
pub struct Components {
    /// Where blocks go.
    pub store: Arc<dyn ObjectStore>,
    /// The heads of the log's partitions, in the same store.
    pub heads: Heads,
    /// The log: told what is in blocks, as advice.
    pub log: Arc<dyn LogBus>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Takes the metrics.
    pub metrics: prometheus::Registry,
    /// This process, in words for people; heads say who leads.
    pub owner: String,
    /// Who else is there: builders in processes of their own are asked for blocks. None on one machine.
    pub control: Option<Arc<Control>>,
}

/// Turns cuts into blocks. See the crate's documentation.
pub struct Builder(Arc<Shared>);

struct Shared {
    config: Config,
    components: Components,
    options: BlockOptions,
    metrics: Metrics,
    encoders: Semaphore,
    remotes: Option<Remotes>,
}

/// The lead of one partition.
struct BuilderLead {
    shared: Arc<Shared>,
    leadership: Leadership,
    /// A block that is in the store while its head could not be written. The same cut does not get a second one.
    uploaded: Option<BlockEntry>,
}

impl Builder {
    /// A builder.
    ///
    /// # Errors
    /// When a setting cannot work, or the metrics are registered already.
    pub fn new(config: Config, components: Components) -> Result<Arc<Self>, Error> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(Error::Config(problems.join("; ")));
        }
        let metrics = Metrics::register(&components.metrics)?;
        let options = BlockOptions { line_zstd_level: config.line_zstd_level, ..BlockOptions::default() };
        let encoders = Semaphore::new(config.encoding_threads());
        let control = components.control.clone().filter(|_| config.remote);
        let remotes = control.map(|control| Remotes::new(control, config.remote_timeout.get()));
        Ok(Arc::new(Self(Arc::new(Shared { config, components, options, metrics, encoders, remotes }))))
    }

    /// The routes of the build RPC: makes blocks for owners in other processes.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        remote::router(self.clone(), self.0.config.encoding_threads() + 1)
    }

    pub(crate) fn log_id(&self) -> &str {
        self.0.components.heads.log_id()
    }

    pub(crate) fn log(&self) -> &dyn LogBus {
        self.0.components.log.as_ref()
    }

    pub(crate) fn now(&self) -> TimestampNs {
        self.0.components.clock.now()
    }

    /// Makes the block of a cut here and puts it into the store.
    pub(crate) async fn upload(&self, cut: &Cut) -> Result<BlockEntry, CutError> {
        self.0.upload(cut).await
    }
}

#[async_trait]
impl CutSink for Builder {
    async fn acquire(&self, partition: PartitionId, log: OffsetRange) -> Result<Box<dyn Lead>, CutError> {
        let Components { heads, owner, .. } = &self.0.components;
        let bounds = LogBounds { first: log.start, end: Some(log.end) };
        let nothing = OffsetRange::new(log.start, log.start);
        let before = heads.read_shared(partition).await.map_err(|error| cut_error(partition, nothing, &error))?;
        let lost_before = before.map_or(0, |(head, _)| head.lost.len());
        match heads.acquire(partition, owner, bounds).await {
            Ok(leadership) => {
                self.0.metrics.lost(partition, leadership.head().lost.iter().skip(lost_before));
                Ok(Box::new(BuilderLead { shared: self.0.clone(), leadership, uploaded: None }))
            }
            Err(error @ CatalogueError::LogBehindHead { .. }) => {
                Err(CutError::LogBehind { partition, reason: error.to_string() })
            }
            Err(error) => Err(cut_error(partition, nothing, &error)),
        }
    }

    async fn flushed_to(&self, partition: PartitionId) -> Result<Option<Flushed>, CutError> {
        let nothing = OffsetRange::new(Offset::ZERO, Offset::ZERO);
        let found = self.0.components.heads.read_shared(partition).await;
        let found = found.map_err(|error| cut_error(partition, nothing, &error))?;
        Ok(found.map(|(head, _)| Flushed { flushed_to: head.flushed_to, epoch: head.epoch }))
    }
}

#[async_trait]
impl Lead for BuilderLead {
    fn flushed_to(&self) -> Offset {
        self.leadership.flushed_to()
    }

    fn epoch(&self) -> u64 {
        self.leadership.epoch()
    }

    async fn publish(&mut self, cut: &Cut) -> Result<Published, CutError> {
        let (shared, partition) = (self.shared.clone(), cut.partition);
        assert_eq!(partition, self.leadership.partition(), "a cut is published by the leader of its partition");
        let entry = match self.uploaded.take() {
            Some(entry) if entry.range == cut.range => Some(entry),
            _ if cut.is_empty() => None,
            _ => Some(shared.make_block(cut).await?),
        };
        self.uploaded.clone_from(&entry);

        let started = Instant::now();
        let outcome = self.leadership.publish(cut.range, entry.clone()).await;
        shared.metrics.head_seconds.observe(started.elapsed().as_secs_f64());
        if let Err(error) = outcome {
            if matches!(error, CatalogueError::Fenced { .. }) && entry.is_some() {
                shared.metrics.orphans.inc();
            }
            return Err(cut_error(partition, cut.range, &error));
        }
        self.uploaded = None;

        let now = shared.components.clock.now();
        if let Some(entry) = &entry {
            shared.metrics.published(cut, entry, now, shared.config.full_block_bytes.bytes());
        }
        // Advice for lag tools and the local log's retention: the head is the truth, so a failure is no failure.
        if let Err(error) = shared.components.log.commit(partition, cut.range.end).await {
            tracing::warn!(%partition, offset = %cut.range.end, %error, "cannot commit; the head is ahead of the committed offset");
        }
        let block_bytes = entry.as_ref().map_or(0, |entry| entry.bytes);
        let rows = entry.as_ref().map_or(0, |entry| entry.rows);
        tracing::debug!(%partition, range = %cut.range, reason = cut.reason.as_str(), rows, block_bytes, "cut published");
        Ok(Published { flushed_to: cut.range.end, block_bytes })
    }
}

impl Shared {
    /// Has a block made of a cut and put into the store: by a builder, when there is one and the cut is worth the way.
    /// Not at the end of a lead, when time is short and the rows are at hand. No head lists it yet.
    async fn make_block(self: &Arc<Self>, cut: &Cut) -> Result<BlockEntry, CutError> {
        if let Some(remotes) = &self.remotes
            && cut.reason != CutReason::NotOwned
        {
            match remotes.build(self.components.heads.log_id(), cut).await {
                Some(Ok(entry)) => {
                    self.metrics.remote_builds.with_label_values(&["made"]).inc();
                    return Ok(entry);
                }
                Some(Err(NotBuilt::Failed(reason))) => {
                    self.metrics.remote_builds.with_label_values(&["failed"]).inc();
                    tracing::info!(partition = %cut.partition, range = %cut.range, reason, "no block from a builder; making it here");
                }
                Some(Err(NotBuilt::Differs { made, address })) => {
                    self.metrics.remote_builds.with_label_values(&["differs"]).inc();
                    return self.read_again(cut, made, &address).await;
                }
                None => {}
            }
        }
        self.upload(cut).await
    }

    /// A builder and this owner have read different things from one range of the log. What a third reading says twice is
    /// listed; no row may get lost by a defect of a reader.
    async fn read_again(self: &Arc<Self>, cut: &Cut, made: Totals, address: &str) -> Result<BlockEntry, CutError> {
        let (partition, range, held) = (cut.partition, cut.range, Totals::of(cut));
        let unavailable = |reason: String| CutError::Unavailable { partition, range, reason };
        let segment = assemble(self.components.log.as_ref(), partition, range).await;
        let segment = segment.map_err(|error| unavailable(format!("reading it again: {error}")))?;
        let again = Cut { segment, ..cut.clone() };
        let read = Totals::of(&again);
        tracing::error!(%partition, %range, builder = address, ?made, ?held, ?read,
            "a builder and this owner have read different things from the log; it was read again");
        if read != made && read != held {
            return Err(unavailable(format!(
                "three readings differ: {made:?} by a builder, {held:?} and {read:?} here"
            )));
        }
        self.upload(&again).await
    }

    /// Encodes a cut and puts it into the store.
    async fn upload(self: &Arc<Self>, cut: &Cut) -> Result<BlockEntry, CutError> {
        let block = self.encode(cut).await?;
        let started = Instant::now();
        let log_id = self.components.heads.log_id();
        let key = block_key(log_id, cut.partition, cut.range).map_err(|e| cut_error(cut.partition, cut.range, &e))?;
        let outcome = self.put(&key, &block.bytes).await;
        self.metrics.put_seconds.observe(started.elapsed().as_secs_f64());
        outcome.map_err(|error| cut_error(cut.partition, cut.range, &CatalogueError::Store(error)))?;
        Ok(entry(&key, block))
    }

    async fn encode(self: &Arc<Self>, cut: &Cut) -> Result<EncodedBlock, CutError> {
        let failed = |reason: String| CutError::Failed { partition: cut.partition, range: cut.range, reason };
        let _permit = self.encoders.acquire().await.map_err(|closed| failed(closed.to_string()))?;
        self.metrics.encoding.inc();
        let (shared, job) = (self.clone(), cut.clone());
        let started = Instant::now();
        let encoded = tokio::task::spawn_blocking(move || {
            let _cpu = shared.metrics.encode_cpu.start();
            let created = shared.components.clock.now();
            encode(&job, shared.components.heads.log_id(), created, &shared.options)
        })
        .await;
        self.metrics.encoding.dec();
        self.metrics.encode_seconds.observe(started.elapsed().as_secs_f64());
        // A panic is a broken invariant: the cut stays in the log, and a person must look.
        encoded.map_err(|panic| failed(panic.to_string()))?.map_err(|error| failed(error.to_string()))
    }

    /// Uploads under a key that was never used, a bounded number of times.
    async fn put(&self, key: &ObjectKey, bytes: &Bytes) -> Result<(), StoreError> {
        let mut attempt = 0;
        loop {
            tokio::time::sleep(self.config.pause(attempt)).await;
            let outcome = self.components.store.put(key, bytes.clone(), PutCondition::IfAbsent).await;
            attempt += 1;
            match outcome {
                Ok(_) => return Ok(()),
                // The key is ours alone: an earlier try went through, and its reply got lost.
                Err(StoreError::Precondition(_)) if attempt > 1 => return Ok(()),
                Err(error @ StoreError::Unavailable { .. }) if attempt < self.config.put_attempts => {
                    self.metrics.retries.inc();
                    tracing::debug!(key = key.as_str(), attempt, %error, "upload failed; trying again");
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// What a head lists of a block.
pub(crate) fn entry(key: &ObjectKey, block: EncodedBlock) -> BlockEntry {
    let summary = block.summary;
    let tenants = summary.tenants.into_iter().map(|t| TenantEntry {
        tenant: t.tenant,
        row_groups: t.row_groups,
        rows: t.rows,
        line_bytes: t.line_bytes,
        streams: t.streams,
        time: t.time,
    });
    BlockEntry {
        key: key.as_str().to_owned(),
        bytes: summary.bytes,
        tail_bytes: summary.tail_bytes,
        range: summary.offsets,
        rows: summary.rows,
        line_bytes: summary.line_bytes,
        time: summary.time,
        tenants: tenants.collect(),
        quarantined: summary.quarantined,
    }
}

/// What the consumer should do about an error of the store or the head.
fn cut_error(partition: PartitionId, range: OffsetRange, error: &CatalogueError) -> CutError {
    let reason = error.to_string();
    match error {
        CatalogueError::Fenced { .. } => CutError::Fenced { partition, reason },
        // A condition that fails again and again is others changing the head at the same moment.
        CatalogueError::Store(StoreError::Unavailable { .. } | StoreError::Precondition(_)) => {
            CutError::Unavailable { partition, range, reason }
        }
        _ => CutError::Failed { partition, range, reason },
    }
}
