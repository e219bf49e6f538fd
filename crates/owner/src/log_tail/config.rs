//! What an operator turns.

use limits::{ByteSize, PromDuration};
use serde::{Deserialize, Serialize};

/// Larger pieces would only be freed later.
const CHUNK_BYTES_MAX: usize = 8 << 20;

/// Settings of [`crate::LogTail`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogTailConfig {
    /// The memory that the tail of one partition may take while nobody serves it. A query that would need more fails
    /// with a text that says so. Without any consumer a tail grows until one is back.
    pub bytes_max: ByteSize,
    /// The memory that all tails may take together. Those not asked for the longest make room first.
    pub total_bytes_max: ByteSize,
    /// How many bytes are fetched at once.
    pub fetch_bytes: ByteSize,
    /// What nobody asked for during this time is let go. Longer saves reading it again.
    pub idle_max: PromDuration,
    /// How many scans run at once; 0 means as many as there are processors. More wait.
    pub scans_max: usize,
}

impl Default for LogTailConfig {
    fn default() -> Self {
        Self {
            bytes_max: ByteSize::from_mb(256),
            total_bytes_max: ByteSize::from_mb(1024),
            fetch_bytes: ByteSize::from_mb(2),
            idle_max: PromDuration::from_secs(60),
            scans_max: 0,
        }
    }
}

impl LogTailConfig {
    /// Every setting that cannot work, in words.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        require(!self.fetch_bytes.is_zero(), "log_tail.fetch_bytes must not be 0");
        require(self.bytes_max > self.fetch_bytes, "log_tail.bytes_max must be larger than log_tail.fetch_bytes");
        require(self.total_bytes_max >= self.bytes_max, "log_tail.total_bytes_max must be at least log_tail.bytes_max");
        require(!self.idle_max.is_zero(), "log_tail.idle_max must not be 0");
        problems
    }

    /// The size of the pieces that memory is freed in.
    pub(crate) fn chunk_bytes(&self) -> usize {
        CHUNK_BYTES_MAX.min(self.bytes_max.as_usize() / 32).max(1)
    }

    /// Scans at once, with the default worked out.
    pub(crate) fn scans_max(&self) -> usize {
        match self.scans_max {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            set => set,
        }
    }
}
