//! What a read costs.

use std::{ops::AddAssign, time::Duration};

/// What a read costs. The stats of a read are the sum of those of its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Lines that a scan looked at, in memory and blocks. Lines that several scans of a query share count for each.
    pub lines: u64,
    /// Bytes of lines and metadata that a scan looked at, counted like `lines`.
    pub bytes: u64,
    /// The part of `bytes` that is structured metadata.
    pub metadata_bytes: u64,
    /// Lines that passed the pipeline.
    pub post_filter_lines: u64,
    /// The part of `lines` that was in memory.
    pub memory_lines: u64,
    /// The part of `bytes` that was in memory.
    pub memory_bytes: u64,
    /// Partitions whose owners were asked.
    pub partitions: u64,
    /// Blocks that a head lists with rows of the tenant in the query's time.
    pub blocks_listed: u64,
    /// Blocks with streams that match.
    pub blocks_read: u64,
    /// Streams that match, counted once for each block.
    pub block_streams: u64,
    /// Bytes fetched from the store.
    pub fetched_bytes: u64,
    /// Requests to the store.
    pub fetches: u64,
    /// Time spent waiting for the store, summed over parallel reads.
    pub fetch_time: Duration,
    /// Block indexes found in the cache.
    pub index_hits: u64,
    /// Block indexes asked for.
    pub index_requests: u64,
    /// Bytes of block indexes fetched.
    pub index_bytes: u64,
    /// Scanned blocks. Each is a piece of work of its own.
    pub subqueries: u64,
}

impl AddAssign<&Self> for ReadStats {
    fn add_assign(&mut self, other: &Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.metadata_bytes += other.metadata_bytes;
        self.post_filter_lines += other.post_filter_lines;
        self.memory_lines += other.memory_lines;
        self.memory_bytes += other.memory_bytes;
        self.partitions += other.partitions;
        self.blocks_listed += other.blocks_listed;
        self.blocks_read += other.blocks_read;
        self.block_streams += other.block_streams;
        self.fetched_bytes += other.fetched_bytes;
        self.fetches += other.fetches;
        self.fetch_time += other.fetch_time;
        self.index_hits += other.index_hits;
        self.index_requests += other.index_requests;
        self.index_bytes += other.index_bytes;
        self.subqueries += other.subqueries;
    }
}
