//! Settings of the local log.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`LocalLog`](super::LocalLog).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLogConfig {
    /// The log's folder. It is created if it does not exist. Only one process at a time can use it.
    pub folder: PathBuf,
    /// Number of partitions. One machine needs only a few: they share one journal and one sync, so more partitions only
    /// spread the later work over more threads. Partitions can be added later, but not removed.
    pub partitions: u32,
    /// The largest size of a segment file. Retention removes whole segments, so it removes records later if segments are
    /// larger. Smaller segments cost more files and syncs.
    pub segment_bytes: u64,
    /// Segments whose newest record is older than this may be removed. The active segment is never removed, so up to
    /// [`LocalLogConfig::segment_bytes`] are kept for longer.
    pub retention_age: Duration,
    /// If the journal is larger than this, its oldest segments may be removed.
    pub retention_bytes: u64,
    /// If true, retention removes a segment only when all its records are below the committed offsets of their
    /// partitions, which means that they are in blocks. A journal that nothing reads then grows past the limits above
    /// until the disk is full. If false, retention may remove records before a slow reader has read them, as in Kafka.
    pub retain_uncommitted: bool,
    /// The interval of retention. Retention also runs whenever a segment is full.
    pub retention_interval: Duration,
    /// The largest record.
    pub record_bytes_max: usize,
    /// The newest records stay in memory up to this many bytes, so a reader that keeps up never reads a file.
    pub cache_bytes: usize,
    /// Further appends wait when this many bytes are queued or being written.
    pub queue_bytes_max: usize,
    /// About how many bytes are written and synced at once, at most.
    pub batch_bytes_max: usize,
    /// For tests: skips one to three offsets each time a partition got this many records, since Kafka has such gaps.
    pub gap_every: Option<u64>,
}

impl LocalLogConfig {
    /// The defaults, for a log in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            partitions: 4,
            segment_bytes: 128 << 20,
            retention_age: Duration::from_secs(7 * 24 * 3600),
            retention_bytes: 16 << 30,
            retain_uncommitted: true,
            retention_interval: Duration::from_secs(30),
            record_bytes_max: 4 << 20,
            cache_bytes: 64 << 20,
            queue_bytes_max: 64 << 20,
            batch_bytes_max: 16 << 20,
            gap_every: None,
        }
    }

    /// Describes every invalid setting.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        require((1..=4096).contains(&self.partitions), "partitions must be 1 to 4096");
        require(self.segment_bytes >= 4096, "segment_bytes must be at least 4 KiB");
        require((1..=1 << 30).contains(&self.record_bytes_max), "record_bytes_max must be 1 byte to 1 GiB");
        require(
            (self.record_bytes_max..=u32::MAX as usize / 2).contains(&self.queue_bytes_max),
            "queue_bytes_max must be at least record_bytes_max and below 2 GiB",
        );
        require(self.batch_bytes_max >= 1, "batch_bytes_max must be at least 1");
        require(!self.retention_interval.is_zero(), "retention_interval must not be zero");
        require(self.gap_every != Some(0), "gap_every must not be zero");
        problems
    }
}
