//! Publishes cuts: makes the block, lists it by compare-and-swap of the head, and commits the offset.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use catalogue::{BlockEntry, CatalogueError, Leadership, LogBounds};
use cut::{Cut, CutError, CutReason, CutSink, Flushed, Lead, Published};
use model::{Offset, OffsetRange, PartitionId};

use crate::assemble::assemble;
use crate::remote::{CutTotals, NotBuilt, RemoteBuilders};
use crate::upload::{Uploader, cut_error};
use crate::{Components, Config, Error, service};

/// Turns cuts into blocks. See the crate's documentation.
pub struct Builder {
    maker: Arc<BlockMaker>,
}

/// Makes the block of a cut, here or in a builder process.
struct BlockMaker {
    uploader: Arc<Uploader>,
    remote: Option<RemoteBuilders>,
}

/// The lead of one partition.
struct BuilderLead {
    maker: Arc<BlockMaker>,
    leadership: Leadership,
    /// A block that is in the store while its head could not be written. The next try lists it instead of making a
    /// second one.
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
        let control = components.control.clone().filter(|_| config.remote);
        let remote = control.map(|control| RemoteBuilders::new(control, config.remote_timeout.get()));
        let uploader = Arc::new(Uploader::new(config, components)?);
        Ok(Arc::new(Self { maker: Arc::new(BlockMaker { uploader, remote }) }))
    }

    /// The routes of the build RPC, which makes blocks for owners in other processes.
    pub fn router(&self) -> axum::Router {
        let uploader = &self.maker.uploader;
        let encoding_threads = uploader.config.encoding_threads(uploader.components.processors.count());
        service::router(uploader.clone(), encoding_threads + 1)
    }
}

#[async_trait]
impl CutSink for Builder {
    async fn acquire(&self, partition: PartitionId, log: OffsetRange) -> Result<Box<dyn Lead>, CutError> {
        let uploader = &self.maker.uploader;
        let Components { heads, owner, .. } = &uploader.components;
        let bounds = LogBounds { first: log.start, end: Some(log.end) };
        let nothing = OffsetRange::new(log.start, log.start);
        let before = heads.read_shared(partition).await.map_err(|error| cut_error(partition, nothing, &error))?;
        let lost_before = before.map_or(0, |(head, _)| head.lost.len());
        match heads.acquire(partition, owner, bounds).await {
            Ok(leadership) => {
                uploader.metrics.lost(partition, leadership.head().lost.iter().skip(lost_before));
                Ok(Box::new(BuilderLead { maker: self.maker.clone(), leadership, uploaded: None }))
            }
            Err(error @ CatalogueError::LogBehindHead { .. }) => {
                Err(CutError::LogBehind { partition, reason: error.to_string() })
            }
            Err(error) => Err(cut_error(partition, nothing, &error)),
        }
    }

    async fn flushed_to(&self, partition: PartitionId) -> Result<Option<Flushed>, CutError> {
        let nothing = OffsetRange::new(Offset::ZERO, Offset::ZERO);
        let head = self.maker.uploader.components.heads.read_shared(partition).await;
        let head = head.map_err(|error| cut_error(partition, nothing, &error))?;
        Ok(head.map(|(head, _)| Flushed { flushed_to: head.flushed_to, epoch: head.epoch }))
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
        let (maker, partition) = (self.maker.clone(), cut.partition);
        let Uploader { config, components, metrics, .. } = &*maker.uploader;
        assert_eq!(partition, self.leadership.partition(), "a cut is published by the leader of its partition");
        let entry = match self.uploaded.take() {
            Some(entry) if entry.range == cut.range => Some(entry),
            _ if cut.is_empty() => None,
            _ => Some(maker.make_block(cut).await?),
        };
        self.uploaded.clone_from(&entry);

        let started = Instant::now();
        let outcome = self.leadership.publish(cut.range, entry.clone()).await;
        metrics.head_seconds.observe(started.elapsed().as_secs_f64());
        if let Err(error) = outcome {
            if matches!(error, CatalogueError::Fenced { .. }) && entry.is_some() {
                metrics.orphans.inc();
            }
            return Err(cut_error(partition, cut.range, &error));
        }
        self.uploaded = None;

        if let Some(entry) = &entry {
            metrics.published(cut, entry, components.clock.now(), config.full_block_bytes.bytes());
        }
        // Lag tools and the local log's retention use the committed offset. The head is the truth, so the cut is
        // published even if this fails.
        if let Err(error) = components.log.commit(partition, cut.range.end).await {
            tracing::warn!(%partition, offset = %cut.range.end, %error, "cannot commit; the head is ahead of the committed offset");
        }
        let block_bytes = entry.as_ref().map_or(0, |entry| entry.bytes);
        let rows = entry.as_ref().map_or(0, |entry| entry.rows);
        tracing::debug!(%partition, range = %cut.range, reason = cut.reason.as_str(), rows, block_bytes, "cut published");
        Ok(Published { flushed_to: cut.range.end, block_bytes })
    }
}

impl BlockMaker {
    /// Makes the block of a cut and puts it into the store. No head lists it yet.
    ///
    /// A builder process makes it if there is one. At the end of a lead the owner makes it: time is short, and it has the
    /// rows in memory.
    async fn make_block(&self, cut: &Cut) -> Result<BlockEntry, CutError> {
        let Uploader { components, metrics, .. } = &*self.uploader;
        if let Some(remote) = &self.remote
            && cut.reason != CutReason::NotOwned
        {
            match remote.build(components.heads.log_id(), cut).await {
                Some(Ok(entry)) => {
                    metrics.remote_builds.with_label_values(&["made"]).inc();
                    return Ok(entry);
                }
                Some(Err(NotBuilt::Failed(reason))) => {
                    metrics.remote_builds.with_label_values(&["failed"]).inc();
                    tracing::info!(partition = %cut.partition, range = %cut.range, reason, "no block from a builder; making it here");
                }
                Some(Err(NotBuilt::Differs { made, address })) => {
                    metrics.remote_builds.with_label_values(&["differs"]).inc();
                    return self.read_again(cut, made, &address).await;
                }
                None => {}
            }
        }
        self.uploader.upload(cut).await
    }

    /// Decides between a builder and this owner, which have read different records from one range of the log: reads the
    /// range a third time, and uploads the block that two readings agree on. A reader's defect must not lose rows.
    async fn read_again(&self, cut: &Cut, made: CutTotals, address: &str) -> Result<BlockEntry, CutError> {
        let (partition, range, held) = (cut.partition, cut.range, CutTotals::of(cut));
        let unavailable = |reason: String| CutError::Unavailable { partition, range, reason };
        let segment = assemble(&*self.uploader.components.log, partition, range).await;
        let segment = segment.map_err(|error| unavailable(format!("reading it again: {error}")))?;
        let again = Cut { segment, ..cut.clone() };
        let read = CutTotals::of(&again);
        tracing::error!(%partition, %range, builder = address, ?made, ?held, ?read,
            "a builder and this owner have read different things from the log; it was read again");
        if read != made && read != held {
            return Err(unavailable(format!(
                "three readings differ: {made:?} by a builder, {held:?} and {read:?} here"
            )));
        }
        self.uploader.upload(&again).await
    }
}
