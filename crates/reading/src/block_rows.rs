//! Reads all rows of one block, for callers that process blocks without a query: replay and verification.
//!
//! Unlike a query, which plans again if a block cannot be read, these reads retry while the store is unavailable.

use std::ops::Range;

use block::{BlockError, BlockIndex, BlockScan, QuarantinedRecord, Step};
use bytes::Bytes;
use model::{Batch, Needs, Random};
use object_store::{ObjectKey, ObjectStore, StoreError};
use runtime::{Backoff, Share};

use crate::{error::Error, index_cache::BlockAddress};

/// Receives the rows of a block on a processor.
pub trait RowVisitor: Send + 'static {
    /// Takes some rows of one stream, which has this ordinal in the block. Rows of a stream come in the order of time and
    /// offset; streams come in the order of their ordinals.
    fn visit(&mut self, stream: u32, rows: &Batch);
}

impl<F: FnMut(u32, &Batch) + Send + 'static> RowVisitor for F {
    fn visit(&mut self, stream: u32, rows: &Batch) {
        self(stream, rows);
    }
}

/// Reads blocks whole, with retries.
pub struct WholeBlocks<'a> {
    /// The store of the blocks.
    pub store: &'a dyn ObjectStore,
    /// Rows are decoded and visited here.
    pub processors: &'a Share,
    /// How often, and with which pauses, a request to the store is tried while the store is unavailable.
    pub backoff: Backoff,
    /// Decides the length of pauses.
    pub random: &'a dyn Random,
    /// Called before each retry.
    pub on_retry: &'a (dyn Fn() + Sync),
}

impl WholeBlocks<'_> {
    /// Opens a block by one read of its tail.
    ///
    /// # Errors
    /// [`Error::is_block_gone`] if there is no such object, [`Error::is_block_damaged`] if its bytes are not those of a
    /// block, and others if the store fails.
    pub async fn open(&self, address: &BlockAddress) -> Result<BlockIndex, Error> {
        let tail = address.bytes.saturating_sub(address.tail_bytes)..address.bytes;
        let tail = self.fetch_one(address, tail).await?;
        BlockIndex::open(address.bytes, tail).map_err(|source| address.damaged(source))
    }

    /// Passes all rows of these streams (ordinals of `index`, which is that of the block) to `visitor`, and returns it.
    ///
    /// Cancel safe: a piece of work that runs goes on to its end, and then nothing more is read.
    ///
    /// # Errors
    /// As [`WholeBlocks::open`].
    pub async fn rows<V: RowVisitor>(
        &self,
        address: &BlockAddress,
        index: &BlockIndex,
        streams: Vec<u32>,
        needs: Needs,
        visitor: V,
    ) -> Result<V, Error> {
        let mut scan = RowScan { scan: BlockScan::whole(index, streams, needs), visitor };
        loop {
            let missing;
            (scan, missing) = self
                .processors
                .run(move || {
                    let missing = scan.advance();
                    (scan, missing)
                })
                .await?;
            let Some(ranges) = missing.map_err(|source| address.damaged(source))? else { return Ok(scan.visitor) };
            let data = self.fetch(address, &ranges).await?;
            scan.scan.supply(ranges, data).map_err(|source| address.damaged(source))?;
        }
    }

    /// The records in the block that could not be decoded when it was built. Fetches the whole block.
    ///
    /// # Errors
    /// As [`WholeBlocks::open`].
    pub async fn quarantined(
        &self,
        address: &BlockAddress,
        index: &BlockIndex,
    ) -> Result<Vec<QuarantinedRecord>, Error> {
        let file = self.fetch_one(address, 0..address.bytes).await?;
        block::quarantined(index, &file).map_err(|source| address.damaged(source))
    }

    async fn fetch_one(&self, address: &BlockAddress, range: Range<u64>) -> Result<Bytes, Error> {
        let mut data = self.fetch(address, std::slice::from_ref(&range)).await?;
        Ok(data.pop().unwrap_or_default())
    }

    async fn fetch(&self, address: &BlockAddress, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, Error> {
        let failed = |source| Error::Fetch { key: address.key.clone(), source };
        let key = ObjectKey::new(&address.key).map_err(failed)?;
        let mut failures = 0;
        loop {
            match self.store.get_ranges(&key, ranges).await {
                Ok(data) => return Ok(data),
                Err(error @ StoreError::Unavailable { .. }) => {
                    failures += 1;
                    if !self.backoff.allows_another(failures) {
                        return Err(failed(error));
                    }
                    (self.on_retry)();
                    tokio::time::sleep(self.backoff.pause(failures, self.random)).await;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// Passes all rows of these streams of a block that is in memory to `visitor`, and returns it. Computes in place.
///
/// # Errors
/// When the block is damaged.
pub fn rows_in_memory<V: RowVisitor>(
    file: &Bytes,
    index: &BlockIndex,
    streams: Vec<u32>,
    needs: Needs,
    visitor: V,
) -> Result<V, BlockError> {
    let mut scan = RowScan { scan: BlockScan::whole(index, streams, needs), visitor };
    while let Some(ranges) = scan.advance()? {
        let data = ranges.iter().map(|range| file.slice(range.start as usize..range.end as usize)).collect();
        scan.scan.supply(ranges, data)?;
    }
    Ok(scan.visitor)
}

struct RowScan<V> {
    scan: BlockScan,
    visitor: V,
}

impl<V: RowVisitor> RowScan<V> {
    /// Visits rows until bytes are missing. `None` at the end.
    fn advance(&mut self) -> Result<Option<Vec<Range<u64>>>, BlockError> {
        loop {
            match self.scan.next()? {
                Step::NeedsData(ranges) => return Ok(Some(ranges)),
                Step::Done => return Ok(None),
                Step::Batch(batch) => self.visitor.visit(self.scan.stream().unwrap_or_default(), &batch),
            }
        }
    }
}

#[cfg(test)]
mod tests;
