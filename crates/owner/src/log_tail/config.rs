//! Settings of reading tails from the log.

use limits::{ByteSize, PromDuration};
use serde::{Deserialize, Serialize};

/// Larger chunks would only be freed later.
const CHUNK_BYTES_MAX: usize = 8 << 20;

/// Settings of [`crate::LogTail`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogTailConfig {
    /// Memory limit for the tail of one partition that nobody serves. A query that needs more fails with a text that
    /// says so. The tail grows until a consumer serves the partition again.
    pub bytes_max: ByteSize,
    /// Memory limit for all tails together. The least recently used ones are evicted first.
    pub total_bytes_max: ByteSize,
    /// Size of one fetch.
    pub fetch_bytes: ByteSize,
    /// A tail that is not read for this long is evicted. A longer time takes more memory, and saves fetching it again.
    pub idle_max: PromDuration,
    /// Number of scans that run at once; 0 means one per processor. Further scans wait.
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
    /// Lists every setting that cannot work.
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

    /// The size of a chunk: memory is freed chunk by chunk.
    pub(crate) fn chunk_bytes(&self) -> usize {
        CHUNK_BYTES_MAX.min(self.bytes_max.as_usize() / 32).max(1)
    }
}
