//! Settings of reading.

use std::time::Duration;

use runtime::Processors;

/// Settings of a [`Reader`](crate::Reader). Services that read have them among their own settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of pieces of work of all reads that may run on processors at a time; 0 means one for each processor. More
    /// only makes reads take turns more often.
    pub cpu_permits: usize,
    /// Number of blocks that one query reads at a time; 0 means two for each processor permit, so that some wait for
    /// the store while others compute. A larger number takes more memory and hides a slow store.
    pub blocks_parallel: usize,
    /// Bytes of block indexes kept in memory. Opening a block whose index is not cached costs one read of its tail.
    pub index_cache_bytes: u64,
    /// Largest age of a head that a plan is made from. An old head is never wrong: memory serves more, or answers that
    /// it cannot, and the read plans again. A smaller age costs more reads of the object store.
    pub head_age_max: Duration,
    /// How long the store may take to answer before plans use the last heads that were read. This way recent rows can
    /// be read during an outage of the store.
    pub head_wait_max: Duration,
    /// How long a read waits for owners to answer and to consume what it asks for. Then it fails.
    pub strong_wait_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cpu_permits: 0,
            blocks_parallel: 0,
            index_cache_bytes: 256 << 20,
            head_age_max: Duration::from_secs(1),
            head_wait_max: Duration::from_secs(2),
            strong_wait_max: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Everything that is wrong with these settings, each with the setting's name.
    pub fn problems(&self) -> Vec<String> {
        let durations = [("head_wait_max", self.head_wait_max), ("strong_wait_max", self.strong_wait_max)];
        let zero = durations.iter().filter(|(_, duration)| duration.is_zero());
        zero.map(|(name, _)| format!("{name} must not be 0")).collect()
    }

    /// Number of processor permits, with the default worked out.
    fn cpu_permits(&self, processors: &Processors) -> usize {
        if self.cpu_permits == 0 { processors.count() } else { self.cpu_permits }
    }

    /// Number of parallel blocks, with the default worked out.
    pub(crate) fn blocks_parallel(&self, processors: &Processors) -> usize {
        if self.blocks_parallel == 0 { self.cpu_permits(processors) * 2 } else { self.blocks_parallel }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    #[test]
    fn problems_are_named() {
        assert_eq!(Config::default().problems(), [""; 0]);
        let wrong = Config { head_wait_max: Duration::ZERO, strong_wait_max: Duration::ZERO, ..Config::default() };
        assert_eq!(wrong.problems(), ["head_wait_max must not be 0", "strong_wait_max must not be 0"]);
    }

    #[test]
    fn parallel_blocks() {
        let processors = Processors::new(NonZeroUsize::new(3).expect("not 0"));
        let check = |cpu_permits: usize, blocks_parallel: usize, expected: usize| {
            let config = Config { cpu_permits, blocks_parallel, ..Config::default() };
            assert_eq!(config.blocks_parallel(&processors), expected);
        };
        check(0, 0, 6);
        check(2, 0, 4);
        check(2, 1, 1);
    }
}
