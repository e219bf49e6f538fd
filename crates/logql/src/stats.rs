//! Statistics of a scan.

use serde::{Deserialize, Serialize};

/// Counts of a scan, added up over batches and partials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanStats {
    /// Number of rows in the scan's time range.
    pub lines: u64,
    /// Bytes of their lines; 0 if the scan needs neither lines nor their lengths.
    pub bytes: u64,
    /// Bytes of their structured-metadata values, as far as the scan needs them.
    pub metadata_bytes: u64,
    /// Number of rows that passed the pipeline. Once a log query has reached its limit, rows that cannot change the
    /// answer are not counted.
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
