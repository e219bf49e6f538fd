//! What a scan has looked at.

use serde::{Deserialize, Serialize};

/// Counts of a scan, added up over batches and partials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanStats {
    /// Rows inside the scan's range of time.
    pub lines: u64,
    /// Bytes of their lines; 0 where the scan needs neither lines nor their lengths.
    pub bytes: u64,
    /// Bytes of the structured-metadata values that came with them, as far as the scan asked for them.
    pub metadata_bytes: u64,
    /// Rows that passed the pipeline. Rows that could not matter any more (a full log query) are not counted.
    pub post_filter_lines: u64,
}

impl ScanStats {
    /// Adds the counts of another scan.
    pub fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.metadata_bytes += other.metadata_bytes;
        self.post_filter_lines += other.post_filter_lines;
    }
}
