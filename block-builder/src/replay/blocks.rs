//! What a block holds, read from the store or from memory.

use std::{collections::BTreeSet, ops::Range};

use block::{BlockError, BlockIndex, BlockScan, Step, quarantined};
use bytes::Bytes;
use catalogue::{BlockEntry, TenantEntry};
use model::{Needs, Offset, OffsetRange, TenantId};
use object_store::{ObjectKey, ObjectStore, StoreError};
use runtime::Share;
use thiserror::Error;

use super::{Error, Progress, Selection, contents::Contents, retries::Retries};

/// The wanted entries of a block, and what its own table says of their tenants.
#[derive(Debug, Default)]
pub(crate) struct BlockContents {
    pub(crate) contents: Contents,
    /// As a head lists them; only wanted ones.
    pub(crate) tenants: Vec<TenantEntry>,
}

/// Why a block could not be read.
#[derive(Debug, Error)]
pub(crate) enum BlockReadError {
    /// There is no such object any more.
    #[error("the block is gone")]
    Gone,
    /// The bytes are not those of the block.
    #[error("{0}")]
    Damaged(String),
    /// The store failed, or somebody asked to stop.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<BlockError> for BlockReadError {
    fn from(error: BlockError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// What reading blocks needs.
#[derive(Clone, Copy)]
pub(crate) struct BlockReader<'a> {
    pub(crate) store: &'a dyn ObjectStore,
    pub(crate) retries: &'a Retries,
    pub(crate) work: &'a Share,
    pub(crate) progress: &'a Progress,
}

impl BlockReader<'_> {
    /// Reads what is wanted of a block, of records in `range`. With `with_quarantine`, also which records were set aside.
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
        let mut scan = Scan::new(&index, wanted, range);
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

/// Everything that a block in memory holds.
pub(crate) fn read_bytes(file: &Bytes, range: OffsetRange) -> Result<BlockContents, BlockError> {
    let index = BlockIndex::open(file.len() as u64, file.clone())?;
    let wanted = Selection::everything();
    let mut scan = Scan::new(&index, &wanted, range);
    while let Some(ranges) = scan.advance()? {
        let piece = |r: &Range<u64>| file.slice(r.start as usize..r.end as usize);
        let data = ranges.iter().map(piece).collect();
        scan.scan.supply(ranges, data)?;
    }
    let mut contents = scan.contents;
    contents.undecodable = set_aside(&index, file, range)?;
    Ok(BlockContents { contents, tenants: tenants_of(&index, &wanted) })
}

/// A scan and what it found so far.
struct Scan {
    scan: BlockScan,
    /// The last stream of each wanted tenant, and the tenant.
    owners: Vec<(u32, TenantId)>,
    wanted: Selection,
    range: OffsetRange,
    contents: Contents,
}

impl Scan {
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

    /// Works until bytes are needed; none at the end.
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
    Err(BlockReadError::Damaged(format!("the head says that it holds {range}, the block itself says {found}")))
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
