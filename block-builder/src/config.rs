//! What an operator turns.

use std::time::Duration;

use limits::{ByteSize, PromDuration};
use runtime::Backoff;
use serde::{Deserialize, Serialize};

/// Settings of the builder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many cuts are encoded at once; 0 means one less than there are cores, and at least one. Each takes one core
    /// and some 20 MB beside the cut itself.
    pub encoding_threads: usize,
    /// How often an upload is tried before the cut goes back to the consumer, which tries again later.
    pub put_attempts: usize,
    /// The pause before the second try of an upload. Each further pause is twice as long.
    pub put_backoff: PromDuration,
    /// No pause between tries is longer.
    pub put_backoff_max: PromDuration,
    /// Ask builder processes for blocks where there are some; the owner makes those that it does not get. Off: every
    /// owner makes its blocks itself, which costs less processor time in all, but at the place where reads are served.
    pub remote: bool,
    /// How long a builder may take for a block.
    pub remote_timeout: PromDuration,
    /// zstd level of lines. Raising it makes blocks smaller and costs CPU while cuts are encoded.
    pub line_zstd_level: i32,
    /// Bytes of lines that make a block "full": `loki_ingester_chunk_utilization` is relative to it. Has no other effect.
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
    /// Every setting that cannot work, in words.
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
