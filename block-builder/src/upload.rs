//! Makes the block of a cut and puts it into the store. No head lists the block yet.

use std::time::Instant;

use block::{BlockOptions, EncodedBlock};
use bytes::Bytes;
use catalogue::{BlockEntry, CatalogueError, TenantEntry, block_key};
use cut::{Cut, CutError};
use model::{OffsetRange, PartitionId};
use object_store::{ObjectKey, PutCondition, StoreError};
use runtime::Share;

use crate::{Components, Config, Error, encode, metrics::Metrics};

/// Encodes cuts and uploads their blocks.
pub(crate) struct Uploader {
    pub(crate) config: Config,
    pub(crate) components: Components,
    pub(crate) metrics: Metrics,
    options: BlockOptions,
    encoders: Share,
}

impl Uploader {
    /// # Errors
    /// When the metrics are registered already.
    pub(crate) fn new(config: Config, components: Components) -> Result<Self, Error> {
        let encoding_threads = config.encoding_threads(components.processors.count());
        Ok(Self {
            metrics: Metrics::register(&components.metrics)?,
            options: BlockOptions { line_zstd_level: config.line_zstd_level, ..BlockOptions::default() },
            encoders: components.processors.share("encode", encoding_threads),
            config,
            components,
        })
    }

    /// Encodes a cut and puts its block into the store.
    pub(crate) async fn upload(&self, cut: &Cut) -> Result<BlockEntry, CutError> {
        let block = self.encode(cut).await?;
        let started = Instant::now();
        let log_id = self.components.heads.log_id();
        let key = block_key(log_id, cut.partition, cut.range).map_err(|e| cut_error(cut.partition, cut.range, &e))?;
        let outcome = self.put(&key, &block.bytes).await;
        self.metrics.put_seconds.observe(started.elapsed().as_secs_f64());
        outcome.map_err(|error| cut_error(cut.partition, cut.range, &CatalogueError::Store(error)))?;
        Ok(block_entry(&key, block))
    }

    async fn encode(&self, cut: &Cut) -> Result<EncodedBlock, CutError> {
        let failed = |reason: String| CutError::Failed { partition: cut.partition, range: cut.range, reason };
        let turn = self.encoders.turn().await;
        self.metrics.encoding.inc();
        let (job, options, encode_cpu) = (cut.clone(), self.options.clone(), self.metrics.encode_cpu.clone());
        let (heads, clock) = (self.components.heads.clone(), self.components.clock.clone());
        let started = Instant::now();
        let encoded = turn
            .run(move || {
                let _cpu = encode_cpu.start();
                encode(&job, heads.log_id(), clock.now(), &options)
            })
            .await;
        self.metrics.encoding.dec();
        self.metrics.encode_seconds.observe(started.elapsed().as_secs_f64());
        // A panic is a broken invariant: the cut stays in the log, and a person must look.
        encoded.map_err(|lost| failed(lost.to_string()))?.map_err(|error| failed(error.to_string()))
    }

    /// Uploads under a key that was never used, a bounded number of times.
    async fn put(&self, key: &ObjectKey, bytes: &Bytes) -> Result<(), StoreError> {
        let backoff = self.config.put_schedule();
        let mut failures = 0;
        loop {
            tokio::time::sleep(backoff.pause(failures, &*self.components.random)).await;
            match self.components.store.put(key, bytes.clone(), PutCondition::IfAbsent).await {
                Ok(_) => return Ok(()),
                // Nobody else uses the key: an earlier try succeeded, and its reply was lost.
                Err(StoreError::Precondition(_)) if failures > 0 => return Ok(()),
                Err(error @ StoreError::Unavailable { .. }) if backoff.allows_another(failures + 1) => {
                    failures += 1;
                    self.metrics.retries.inc();
                    tracing::debug!(key = key.as_str(), failures, %error, "upload failed; trying again");
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The entry of a block in a head.
pub(crate) fn block_entry(key: &ObjectKey, block: EncodedBlock) -> BlockEntry {
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

/// Converts an error of the store or the head into one that tells the consumer what to do.
pub(crate) fn cut_error(partition: PartitionId, range: OffsetRange, error: &CatalogueError) -> CutError {
    let reason = error.to_string();
    match error {
        CatalogueError::Fenced { .. } => CutError::Fenced { partition, reason },
        // A condition that fails again and again means that others change the head at the same moment.
        CatalogueError::Store(StoreError::Unavailable { .. } | StoreError::Precondition(_)) => {
            CutError::Unavailable { partition, range, reason }
        }
        _ => CutError::Failed { partition, range, reason },
    }
}
