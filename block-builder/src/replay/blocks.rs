//! Reads the contents of a block, from the store or from memory.

use std::collections::BTreeSet;

use block::{BlockError, BlockIndex, QuarantinedRecord, quarantined};
use bytes::Bytes;
use catalogue::{BlockEntry, TenantEntry};
use model::{Batch, Needs, Offset, OffsetRange, TenantId};
use object_store::{ObjectStore, StoreError};
use reading::{BlockAddress, RowVisitor, WholeBlocks, rows_in_memory};
use runtime::Share;
use thiserror::Error;

use super::{Error, Progress, Selection, contents::Contents, retries::Retries};

/// The selected entries of a block, and the tenants that its own index lists.
#[derive(Debug, Default)]
pub(crate) struct BlockContents {
    pub(crate) contents: Contents,
    /// The selected tenants, as a head lists them.
    pub(crate) tenants: Vec<TenantEntry>,
}

/// Why a block could not be read.
#[derive(Debug, Error)]
pub(crate) enum BlockReadError {
    /// The object no longer exists.
    #[error("the block is gone")]
    Gone,
    /// The object is not a valid block, or not the one that the head lists.
    #[error("{0}")]
    Damaged(String),
    /// The store failed, or the replay was stopped.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<reading::Error> for BlockReadError {
    fn from(error: reading::Error) -> Self {
        match error {
            gone if gone.is_block_gone() => Self::Gone,
            reading::Error::Block { source, .. } => Self::Damaged(source.to_string()),
            reading::Error::Fetch { source, .. } if matches!(source, StoreError::Range { .. }) => {
                Self::Damaged(source.to_string())
            }
            reading::Error::Fetch { key, source } => Self::Failed(Error::Store { key, source }),
            other => Self::Failed(Error::Lost(other.to_string())),
        }
    }
}

/// Reads contents of blocks from the store.
#[derive(Clone, Copy)]
pub(crate) struct BlockContentsReader<'a> {
    pub(crate) store: &'a dyn ObjectStore,
    pub(crate) retries: &'a Retries,
    pub(crate) work: &'a Share,
    pub(crate) progress: &'a Progress,
}

impl BlockContentsReader<'_> {
    /// Reads the selected entries of a block with offsets in `range`, and with `with_quarantine` the offsets of quarantined
    /// records.
    pub(crate) async fn read(
        &self,
        entry: &BlockEntry,
        wanted: &Selection,
        range: OffsetRange,
        with_quarantine: bool,
    ) -> Result<BlockContents, BlockReadError> {
        let reading = self.read_without_stopping(entry, wanted, range, with_quarantine);
        self.retries.stop.run_until_cancelled(reading).await.ok_or(Error::Stopped)?
    }

    async fn read_without_stopping(
        &self,
        entry: &BlockEntry,
        wanted: &Selection,
        range: OffsetRange,
        with_quarantine: bool,
    ) -> Result<BlockContents, BlockReadError> {
        let blocks = WholeBlocks {
            store: self.store,
            processors: self.work,
            backoff: self.retries.schedule,
            random: &*self.retries.random,
            on_retry: &|| Progress::add(&self.progress.retries, 1),
        };
        let address = BlockAddress::from(entry);
        let index = blocks.open(&address).await?;
        check_provenance(&index, entry.range)?;
        let (streams, collector) = ContentsCollector::new(&index, wanted, range);
        let mut contents = blocks.rows(&address, &index, streams, Needs::everything(), collector).await?.contents;
        if with_quarantine {
            contents.undecodable = offsets_in(blocks.quarantined(&address, &index).await?, range);
        }
        Ok(BlockContents { contents, tenants: tenants_of(&index, wanted) })
    }
}

/// Reads the contents of a block in memory.
pub(crate) fn read_bytes(file: &Bytes, range: OffsetRange) -> Result<BlockContents, BlockError> {
    let index = BlockIndex::open(file.len() as u64, file.clone())?;
    let wanted = Selection::everything();
    let (streams, collector) = ContentsCollector::new(&index, &wanted, range);
    let mut contents = rows_in_memory(file, &index, streams, Needs::everything(), collector)?.contents;
    contents.undecodable = offsets_in(quarantined(&index, file)?, range);
    Ok(BlockContents { contents, tenants: tenants_of(&index, &wanted) })
}

/// Collects the selected rows of a block.
struct ContentsCollector {
    /// For each selected tenant, the end of its streams.
    owners: Vec<(u32, TenantId)>,
    wanted: Selection,
    range: OffsetRange,
    contents: Contents,
}

impl ContentsCollector {
    /// Returns the streams to read as well.
    fn new(index: &BlockIndex, wanted: &Selection, range: OffsetRange) -> (Vec<u32>, Self) {
        let (mut streams, mut owners) = (Vec::new(), Vec::new());
        for tenant in index.tenants().filter(|tenant| wanted.tenants.wants(tenant.tenant)) {
            let is_selected = |ordinal: &u32| {
                let stream = index.stream(*ordinal);
                stream.is_some_and(|s| {
                    wanted.wants_stream(s.labels) && wanted.time.is_none_or(|time| time.overlaps(&s.time))
                })
            };
            streams.extend(tenant.streams.clone().filter(is_selected));
            owners.push((tenant.streams.end, tenant.tenant.clone()));
        }
        (streams, Self { owners, wanted: wanted.clone(), range, contents: Contents::default() })
    }
}

impl RowVisitor for ContentsCollector {
    fn visit(&mut self, stream: u32, rows: &Batch) {
        let owner = self.owners.partition_point(|(end, _)| *end <= stream);
        if let Some((_, tenant)) = self.owners.get(owner) {
            self.contents.add_batch(tenant, rows, &self.wanted, Some(self.range));
        }
    }
}

fn check_provenance(index: &BlockIndex, range: OffsetRange) -> Result<(), BlockReadError> {
    let found = index.provenance().range;
    if found == range {
        return Ok(());
    }
    Err(BlockReadError::Damaged(format!("the head lists it with offsets {range}, but the block itself has {found}")))
}

fn tenants_of(index: &BlockIndex, wanted: &Selection) -> Vec<TenantEntry> {
    let tenants = index.tenants().filter(|tenant| wanted.tenants.wants(tenant.tenant));
    tenants
        .map(|t| TenantEntry {
            tenant: t.tenant.clone(),
            row_groups: t.row_groups,
            rows: t.rows,
            line_bytes: t.line_bytes,
            streams: t.streams.end - t.streams.start,
            time: t.time,
        })
        .collect()
}

fn offsets_in(records: Vec<QuarantinedRecord>, range: OffsetRange) -> BTreeSet<Offset> {
    records.into_iter().map(|record| record.offset).filter(|offset| range.contains(*offset)).collect()
}
