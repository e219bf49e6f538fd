//! Settings of the builder.

use std::time::Duration;

use limits::{ByteSize, PromDuration};
use runtime::Backoff;
use serde::{Deserialize, Serialize};

/// Settings of the builder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Number of cuts that are encoded at once; 0 means one less than the number of processors, but at least one. Each
    /// takes one processor and about 20 MB in addition to the cut.
    pub encoding_threads: usize,
    /// Number of tries of an upload before the cut goes back to the consumer, which tries again later.
    pub put_attempts: usize,
    /// Longest pause before the second try of an upload. It doubles with each further try.
    pub put_backoff: PromDuration,
    /// Longest pause between tries.
    pub put_backoff_max: PromDuration,
    /// Ask builder processes for blocks, if there are any; the owner makes the blocks it does not get. If off, owners make
    /// all blocks. That costs less processor time in total, but takes it from the processes that serve reads.
    pub remote: bool,
    /// How long a builder process may take for a block.
    pub remote_timeout: PromDuration,
    /// zstd level for lines. A higher level makes blocks smaller and encoding slower.
    pub line_zstd_level: i32,
    /// Bytes of lines in a full block. Only the metric `loki_ingester_chunk_utilization` uses it.
    pub full_block_bytes: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            encoding_threads: 0,
            put_attempts: 8,
            put_backoff: PromDuration::from(Duration::from_millis(100)),
            put_backoff_max: PromDuration::from(Duration::from_secs(5)),
            remote: true,
            remote_timeout: PromDuration::from(Duration::from_secs(30)),
            line_zstd_level: block::BlockOptions::default().line_zstd_level,
            full_block_bytes: ByteSize::from_mb(48),
        }
    }
}

impl Config {
    /// Lists every setting that cannot work.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.put_attempts == 0 {
            problems.push("put_attempts must be at least 1".to_owned());
        }
        if !(1..=22).contains(&self.line_zstd_level) {
            problems.push(format!("line_zstd_level must be from 1 to 22, not {}", self.line_zstd_level));
        }
        problems
    }

    pub(crate) fn encoding_threads(&self, processors: usize) -> usize {
        if self.encoding_threads > 0 { self.encoding_threads } else { processors.saturating_sub(1).max(1) }
    }

    /// The tries of an upload.
    pub(crate) fn put_schedule(&self) -> Backoff {
        let attempts = u32::try_from(self.put_attempts).unwrap_or(u32::MAX);
        Backoff { attempts, first: self.put_backoff.get(), max: self.put_backoff_max.get() }
    }
}
