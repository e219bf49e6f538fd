//! What an operator turns.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`LocalLog`](super::LocalLog).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLogConfig {
    /// The log's folder. It is made when it does not exist; one process at a time may use it.
    pub folder: PathBuf,
    /// How many partitions there are. One machine needs few: they share one journal and one sync, and each only
    /// spreads the work behind it over threads. May be raised later, never lowered.
    pub partitions: u32,
    /// A segment file is closed when it would grow above this. Retention removes whole segments, so larger ones are
    /// removed later; smaller ones cost more files and syncs.
    pub segment_bytes: u64,
    /// Segments whose newest record is older than this may be removed. The segment that is being written never is, so
    /// up to [`LocalLogConfig::segment_bytes`] stay for longer.
    pub retention_age: Duration,
    /// When the journal is larger than this, its oldest segments may be removed.
    pub retention_bytes: u64,
    /// Retention removes a segment only when each of its records lies below the committed offset of its partition,
    /// that is, is in blocks. A journal that nobody reads then grows past the limits above until the disk is full;
    /// set this to `false` for Kafka's way, where retention passes a slow reader.
    pub retain_uncommitted: bool,
    /// How often retention looks. It also looks whenever a segment is closed.
    pub retention_interval: Duration,
    /// The largest record that is taken.
    pub record_bytes_max: usize,
    /// The newest records are kept in memory up to this many bytes: a reader that keeps up never reads a file.
    pub cache_bytes: usize,
    /// Appends wait for their turn when this many bytes are on their way to the disk.
    pub queue_bytes_max: usize,
    /// At most about this many bytes are written and synced at once.
    pub batch_bytes_max: usize,
    /// For tests: skips one to three offsets after every so many records of a partition, since Kafka has such holes.
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

    /// Every setting that cannot work, in words.
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
