//! How many partitions a tenant is spread over: few keep its rows together, its rate asks for more.

use std::time::{Duration, Instant};

use limits::Limits;

use crate::Config;

/// What decides over a tenant's partitions now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Bytes a second over all gateways.
    pub(crate) rate: f64,
    /// How many partitions are in use.
    pub(crate) partitions: u32,
}

/// The number of a tenant's partitions over time. It grows at once and shrinks late: every change spreads the
/// tenant's rows further.
#[derive(Debug, Default)]
pub(crate) struct Sharding {
    shards: u32,
    /// Since when half would do, and the most that was needed since then.
    low: Option<(Instant, u32)>,
}

/// How many partitions a tenant has that no rate was measured of yet, or whose limit says it.
pub(crate) fn at_first(limits: &Limits, config: &Config, partitions: u32) -> u32 {
    match limits.ingestion_partitions_tenant_shard_size {
        0 => config.shards_min.min(partitions),
        told => told.min(partitions),
    }
    .max(1)
}

impl Sharding {
    /// The number for this demand. A tenant's limit, when set, is the answer.
    pub(crate) fn update(&mut self, demand: Demand, limits: &Limits, config: &Config, now: Instant) -> u32 {
        let least = at_first(limits, config, demand.partitions);
        if limits.ingestion_partitions_tenant_shard_size > 0 {
            *self = Self::default();
            return least;
        }
        let target = config.partition_rate_target.bytes().max(1) as f64;
        let wanted = (demand.rate / target).ceil() as u32;
        self.follow(wanted.clamp(least, demand.partitions.max(least)), config.shards_shrink_after.get(), now);
        self.shards
    }

    fn follow(&mut self, wanted: u32, shrink_after: Duration, now: Instant) {
        if wanted >= self.shards || wanted > self.shards / 2 {
            self.shards = self.shards.max(wanted);
            self.low = None;
            return;
        }
        let (since, most) = self.low.unwrap_or((now, 0));
        let most = most.max(wanted);
        if now.saturating_duration_since(since) >= shrink_after {
            (self.shards, self.low) = (most, None);
        } else {
            self.low = Some((since, most));
        }
    }
}

#[cfg(test)]
mod tests {
    use limits::ByteSize;

    use super::*;

    const MB: f64 = 1_048_576.0;

    #[test]
    fn grows_at_once_and_shrinks_late() {
        let config = Config { partition_rate_target: ByteSize::from_mb(4), shards_min: 2, ..Config::default() };
        let (limits, start, mut sharding) = (Limits::default(), Instant::now(), Sharding::default());
        let mut check = |minute: u64, rate: f64, partitions: u32, expected: u32| {
            let now = start + Duration::from_secs(60 * minute);
            let found = sharding.update(Demand { rate, partitions }, &limits, &config, now);
            assert_eq!(found, expected, "minute {minute}, {rate} bytes/s");
        };
        check(0, 0.0, 16, 2);
        check(1, 8.0 * MB, 16, 2);
        check(1, 8.1 * MB, 16, 3);
        check(2, 40.0 * MB, 16, 10);
        check(3, 1000.0 * MB, 16, 16);
        // More than half: it stays.
        for minute in 4..30 {
            check(minute, 36.0 * MB, 16, 16);
        }
        // Half and less for ten minutes, with the most that was needed in them.
        check(30, 20.0 * MB, 16, 16);
        check(35, 28.0 * MB, 16, 16);
        check(39, 1.0 * MB, 16, 16);
        check(40, 1.0 * MB, 16, 7);
        // A rush starts the wait again.
        check(41, 1.0 * MB, 16, 7);
        check(50, 20.0 * MB, 16, 7);
        check(52, 1.0 * MB, 16, 7);
        check(61, 1.0 * MB, 16, 7);
        check(62, 1.0 * MB, 16, 2);
        check(63, 1000.0 * MB, 1, 2);
    }

    #[test]
    fn first_numbers() {
        let check = |told: u32, partitions: u32, expected: u32| {
            let limits = Limits { ingestion_partitions_tenant_shard_size: told, ..Limits::default() };
            let config = Config { shards_min: 4, ..Config::default() };
            assert_eq!(at_first(&limits, &config, partitions), expected);
            let demand = Demand { rate: 0.0, partitions };
            assert_eq!(Sharding::default().update(demand, &limits, &config, Instant::now()), expected);
        };
        check(0, 16, 4);
        check(0, 3, 3);
        check(0, 0, 1);
        check(1, 16, 1);
        check(7, 16, 7);
        check(99, 16, 16);
    }

    #[test]
    fn a_limit_counts_whatever_the_rate() {
        let limits = Limits { ingestion_partitions_tenant_shard_size: 3, ..Limits::default() };
        let demand = Demand { rate: 1e12, partitions: 16 };
        assert_eq!(Sharding::default().update(demand, &limits, &Config::default(), Instant::now()), 3);
    }
}
