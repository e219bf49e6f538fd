//! Reads the contents of a block, from the store or from memory.

use std::{collections::BTreeSet, ops::Range};

use block::{BlockError, BlockIndex, BlockScan, Step, quarantined};
use bytes::Bytes;
use catalogue::{BlockEntry, TenantEntry};
use model::{Needs, Offset, OffsetRange, TenantId};
use object_store::{ObjectKey, ObjectStore, StoreError};
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

impl From<BlockError> for BlockReadError {
    fn from(error: BlockError) -> Self {
        Self::Damaged(error.to_string())
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
        let key = ObjectKey::new(&entry.key).map_err(|error| BlockReadError::Damaged(error.to_string()))?;
        let tail = entry.bytes.saturating_sub(entry.tail_bytes)..entry.bytes;
        let mut data = self.get_ranges(&key, std::slice::from_ref(&tail)).await?;
        let index = BlockIndex::open(entry.bytes, data.pop().unwrap_or_default())?;
        check_provenance(&index, entry.range)?;
        let mut scan = ContentsScan::new(&index, wanted, range);
        loop {
            let needed;
            let work = self.work.run(move || {
                let needed = scan.advance();
                (scan, needed)
            });
            (scan, needed) = work.await.map_err(|lost| Error::Lost(lost.to_string()))?;
            let Some(ranges) = needed? else { break };
            let data = self.get_ranges(&key, &ranges).await?;
            scan.scan.supply(ranges, data)?;
        }
        let mut contents = scan.contents;
        if with_quarantine {
            let file = self.get_ranges(&key, std::slice::from_ref(&(0..entry.bytes))).await?.pop().unwrap_or_default();
            contents.undecodable = set_aside(&index, &file, range)?;
        }
        Ok(BlockContents { contents, tenants: tenants_of(&index, wanted) })
    }

    async fn get_ranges(&self, key: &ObjectKey, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockReadError> {
        let mut failures = 0;
        loop {
            let getting = self.store.get_ranges(key, ranges);
            let outcome = self.retries.stop.run_until_cancelled(getting).await.ok_or(Error::Stopped)?;
            return Err(match outcome {
                Ok(data) => return Ok(data),
                Err(StoreError::Unavailable { .. }) if self.retries.allows_another(failures + 1) => {
                    failures += 1;
                    Progress::add(&self.progress.retries, 1);
                    self.retries.pause(failures).await?;
                    continue;
                }
                Err(StoreError::NotFound(_)) => BlockReadError::Gone,
                Err(error @ StoreError::Range { .. }) => BlockReadError::Damaged(error.to_string()),
                Err(source) => BlockReadError::Failed(Error::Store { key: key.to_string(), source }),
            });
        }
    }
}

/// Reads the contents of a block in memory.
pub(crate) fn read_bytes(file: &Bytes, range: OffsetRange) -> Result<BlockContents, BlockError> {
    let index = BlockIndex::open(file.len() as u64, file.clone())?;
    let wanted = Selection::everything();
    let mut scan = ContentsScan::new(&index, &wanted, range);
    while let Some(ranges) = scan.advance()? {
        let piece = |r: &Range<u64>| file.slice(r.start as usize..r.end as usize);
        let data = ranges.iter().map(piece).collect();
        scan.scan.supply(ranges, data)?;
    }
    let mut contents = scan.contents;
    contents.undecodable = set_aside(&index, file, range)?;
    Ok(BlockContents { contents, tenants: tenants_of(&index, &wanted) })
}

/// A scan of a block, and the contents read so far.
struct ContentsScan {
    scan: BlockScan,
    /// For each selected tenant, the end of its streams.
    owners: Vec<(u32, TenantId)>,
    wanted: Selection,
    range: OffsetRange,
    contents: Contents,
}

impl ContentsScan {
    fn new(index: &BlockIndex, wanted: &Selection, range: OffsetRange) -> Self {
        let (mut ordinals, mut owners) = (Vec::new(), Vec::new());
        for tenant in index.tenants().filter(|tenant| wanted.tenants.wants(tenant.tenant)) {
            let of_time = |ordinal: &u32| {
                let stream = index.stream(*ordinal);
                stream.is_some_and(|s| {
                    wanted.wants_stream(s.labels) && wanted.time.is_none_or(|time| time.overlaps(&s.time))
                })
            };
            ordinals.extend(tenant.streams.clone().filter(of_time));
            owners.push((tenant.streams.end, tenant.tenant.clone()));
        }
        let columns = Needs::everything();
        let scan = BlockScan::whole(index, ordinals, columns);
        Self { scan, owners, wanted: wanted.clone(), range, contents: Contents::default() }
    }

    /// Works until bytes are needed. `None` at the end of the scan.
    fn advance(&mut self) -> Result<Option<Vec<Range<u64>>>, BlockError> {
        loop {
            match self.scan.next()? {
                Step::NeedsData(ranges) => return Ok(Some(ranges)),
                Step::Done => return Ok(None),
                Step::Batch(batch) => {
                    let stream = self.scan.stream().unwrap_or_default();
                    let owner = self.owners.partition_point(|(end, _)| *end <= stream);
                    if let Some((_, tenant)) = self.owners.get(owner) {
                        self.contents.add_batch(tenant, &batch, &self.wanted, Some(self.range));
                    }
                }
            }
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

fn set_aside(index: &BlockIndex, file: &Bytes, range: OffsetRange) -> Result<BTreeSet<Offset>, BlockError> {
    let records = quarantined(index, file)?;
    Ok(records.into_iter().map(|record| record.offset).filter(|offset| range.contains(*offset)).collect())
}
