//! Settings of the consumer.

use std::num::NonZeroUsize;
use std::time::Duration;

use limits::{ByteSize, PromDuration};
use serde::{Deserialize, Serialize};

/// The purpose of a consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Leads its partitions: answers for them, and makes blocks of them.
    #[default]
    Lead,
    /// Reads its partitions to answer for them, and never leads one. For a second consumer group: more readers, or
    /// readers in another zone.
    Follow,
}

/// Settings of the consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `lead` or `follow`.
    pub mode: Mode,
    /// A partition's filling segment is cut at this size in memory. Larger cuts make fewer and larger blocks, which pack
    /// better, and lengthen the replay after a crash.
    pub cut_bytes: ByteSize,
    /// A partition's filling segment is cut when its oldest record is this old.
    pub cut_age: PromDuration,
    /// Memory limit for all segments: filling, being published, and kept for readers. At this limit fetching stops until
    /// blocks are written; the log is the buffer.
    pub memory_bytes: ByteSize,
    /// From this percentage of `memory_bytes` on, segments are cut early, and published ones are evicted at once.
    pub pressure_percent: u8,
    /// Number of cuts of a partition that may wait to be published while the next segment fills. With more, the consumer
    /// stops later while the store is slow; `memory_bytes` still bounds the memory.
    pub waiting_cuts_max: NonZeroUsize,
    /// How long a published segment stays in memory, unless memory is short. Readers that planned with an older head need
    /// it; a reader that comes too late plans again. A longer time costs memory.
    pub published_grace: PromDuration,
    /// Size of one fetch from a partition.
    pub fetch_bytes: ByteSize,
    /// How long a fetch waits for the first record. New records end the wait at once. A longer time saves requests.
    pub fetch_wait: PromDuration,
    /// Number of scans that run at once; 0 means twice the number of processors. Further scans wait. The process's pool of
    /// processors also bounds them.
    pub scans_max: usize,
    /// The longest pause after the first failure of the log or the store. It doubles up to `retry_pause_max`.
    pub retry_pause: PromDuration,
    /// Longest pause between tries.
    pub retry_pause_max: PromDuration,
    /// A partition that another process took is taken back after this time, if it is still assigned to this process and
    /// the other process is gone.
    pub fenced_pause: PromDuration,
    /// How long publishing is retried during shutdown. The next start reads unpublished rows from the log again.
    pub shutdown_grace: PromDuration,
    /// How often a process reads the head of a partition that it does not lead, to evict rows that are in blocks. A
    /// shorter period frees memory sooner and costs more requests to the store.
    pub head_poll: PromDuration,
    /// A partition that another process leads is read into memory before it is taken over, for at most this long. A longer
    /// time helps a slow reader to catch up; the other process makes the blocks meanwhile.
    pub warm_max: PromDuration,
    /// How long a partition is held after another process has taken it over, for readers that have not heard of that yet.
    /// A longer time costs memory.
    pub drain_grace: PromDuration,
    /// After this time, a warning is logged if no process takes a revoked partition; this process goes on leading it. A
    /// partition that another process took but does not answer for is held no longer than this.
    pub handoff_max: PromDuration,
    /// How long shutdown waits for other processes to take over partitions. After that, this process cuts and publishes
    /// what it still leads. The grace period before a kill must cover both.
    pub handoff_max_at_shutdown: PromDuration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Lead,
            cut_bytes: ByteSize::from_mb(48),
            cut_age: Duration::from_secs(180).into(),
            memory_bytes: ByteSize::from_mb(160),
            pressure_percent: 75,
            waiting_cuts_max: NonZeroUsize::new(2).expect("2 is not 0"),
            published_grace: Duration::from_secs(10).into(),
            fetch_bytes: ByteSize::from_mb(2),
            fetch_wait: Duration::from_millis(500).into(),
            scans_max: 0,
            retry_pause: Duration::from_millis(100).into(),
            retry_pause_max: Duration::from_secs(5).into(),
            fenced_pause: Duration::from_secs(30).into(),
            shutdown_grace: Duration::from_secs(20).into(),
            head_poll: Duration::from_secs(1).into(),
            warm_max: Duration::from_secs(30).into(),
            drain_grace: Duration::from_secs(10).into(),
            handoff_max: Duration::from_secs(120).into(),
            handoff_max_at_shutdown: Duration::from_secs(10).into(),
        }
    }
}

impl Config {
    /// Lists every setting that cannot work.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        require(!self.cut_bytes.is_zero(), "cut_bytes must not be 0");
        require(!self.fetch_bytes.is_zero(), "fetch_bytes must not be 0");
        require(self.memory_bytes > self.fetch_bytes, "memory_bytes must be larger than fetch_bytes");
        require((1..=100).contains(&self.pressure_percent), "pressure_percent must be from 1 to 100");
        require(!Duration::from(self.cut_age).is_zero(), "cut_age must not be 0");
        require(!Duration::from(self.retry_pause).is_zero(), "retry_pause must not be 0");
        require(!Duration::from(self.head_poll).is_zero(), "head_poll must not be 0");
        require(
            self.handoff_max_at_shutdown.get() < self.shutdown_grace.get(),
            "handoff_max_at_shutdown must be shorter than shutdown_grace: partitions that no process takes over are published after it",
        );
        problems
    }

    pub(crate) fn scans_max(&self, processors: usize) -> usize {
        if self.scans_max > 0 { self.scans_max } else { processors * 2 }
    }

    pub(crate) fn pressure_bytes(&self) -> usize {
        self.memory_bytes.as_usize() / 100 * usize::from(self.pressure_percent)
    }
}
