//! What an operator turns.

use std::num::NonZeroUsize;
use std::time::Duration;

use limits::{ByteSize, PromDuration};
use serde::{Deserialize, Serialize};

/// What a consumer is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It leads the partitions that are assigned to it: answers for them, and makes blocks of them.
    #[default]
    Lead,
    /// It reads along the partitions that are assigned to it and answers for them, and never leads one. For a second
    /// consumer group: more readers, or readers in another zone.
    Follow,
}

/// Settings of the consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `lead` or `follow`.
    pub mode: Mode,
    /// A cut is made when a partition's open segment takes this much memory. Larger cuts make larger blocks, which
    /// pack better and are fewer, and lengthen the replay after a crash.
    pub cut_bytes: ByteSize,
    /// A cut is made when the oldest record of a partition's open segment has been there this long.
    pub cut_age: PromDuration,
    /// The memory that all segments may take together: filling, being published, and kept for readers. At this cap
    /// fetching stops until blocks are written; the log is the buffer.
    pub memory_bytes: ByteSize,
    /// From this share of `memory_bytes` on, in percent, segments are cut early and published ones are let go at once.
    pub pressure_percent: u8,
    /// How many cuts of a partition may wait to be published while the next one fills. With more, a store that was
    /// slow for a while is caught up with sooner; the memory is bounded by `memory_bytes` anyway.
    pub waiting_cuts_max: NonZeroUsize,
    /// How long a published segment stays in memory, unless memory is short. A reader that planned with an older
    /// head needs it; one that comes too late plans again. Longer costs memory at full speed.
    pub published_grace: PromDuration,
    /// How many bytes are fetched at once from a partition.
    pub fetch_bytes: ByteSize,
    /// How long a fetch waits for the first record. Longer saves requests; new records end the wait at once.
    pub fetch_wait: PromDuration,
    /// How many scans run at once; 0 means twice the number of cores. More wait.
    pub scans_max: usize,
    /// The pause after the log or the store failed. It doubles up to `retry_pause_max`.
    pub retry_pause: PromDuration,
    /// No pause is longer.
    pub retry_pause_max: PromDuration,
    /// A partition that another process took is taken back after this time if it is still assigned to this one, and
    /// the other one is gone.
    pub fenced_pause: PromDuration,
    /// How long cuts are still tried to be published after shutdown was asked for. What is left is read again from
    /// the log at the next start.
    pub shutdown_grace: PromDuration,
    /// How often a process that does not lead a partition looks into its head, to let go of what is in blocks. More
    /// often frees memory sooner, and costs a request to the store each time.
    pub head_poll: PromDuration,
    /// A partition that another process leads is read into memory before it is taken over, for this long at most.
    /// Longer gives a slow reader the time to catch up; meanwhile the other one makes the blocks.
    pub warm_max: PromDuration,
    /// How long a partition that another process has taken over is still held for readers that have not heard of it.
    /// Longer costs memory.
    pub drain_grace: PromDuration,
    /// A partition that was given away and that nobody takes is told about after this time. It is led on meanwhile, and
    /// after. What another process took, and does not answer for, is held no longer than this.
    pub handoff_max: PromDuration,
    /// How long other processes have to take over partitions after shutdown was asked for. Then what is still led is
    /// cut and published. The process must be given this and the time to publish before it is killed.
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
    /// Every setting that cannot work, in words.
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
            "handoff_max_at_shutdown must be shorter than shutdown_grace: what nobody takes over must be published after it",
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
