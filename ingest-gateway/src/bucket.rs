//! Token buckets, kept as one number each.

use std::sync::atomic::{AtomicI64, Ordering};

use limits::{ByteSize, Limits, RateStrategy};
use model::TimestampNs;

/// A rate with room for bursts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Bytes a second.
    pub(crate) bytes: f64,
    /// Bytes at once.
    pub(crate) burst: f64,
}

/// How full a bucket is. Instead of tokens it holds the time at which the bucket would be full again (as the generic
/// cell rate algorithm does), so nothing has to be refilled. The time comes from the caller, so tests decide it.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    full_at: AtomicI64,
}

const SECOND: f64 = 1e9;

impl Rate {
    /// What all requests of a tenant may bring; `None` when there is no limit.
    pub(crate) fn of_tenant(limits: &Limits, gateway_count: u32) -> Option<Self> {
        let share = match limits.ingestion_rate_strategy {
            RateStrategy::Global => f64::from(gateway_count.max(1)),
            RateStrategy::Local => 1.0,
        };
        let mb = f64::from(1u32 << 20);
        let (bytes, burst) = (limits.ingestion_rate_mb * mb / share, limits.ingestion_burst_size_mb * mb);
        (bytes > 0.0).then_some(Self { bytes, burst })
    }

    /// What one stream may bring; `None` when there is no limit.
    pub(crate) fn of_stream(limits: &Limits) -> Option<Self> {
        let float = |size: ByteSize| size.bytes() as f64;
        let (bytes, burst) = (float(limits.per_stream_rate_limit), float(limits.per_stream_rate_limit_burst));
        (bytes > 0.0).then_some(Self { bytes, burst })
    }
}

impl Bucket {
    /// Takes `bytes` out of the bucket, or nothing when it does not hold as many.
    pub(crate) fn take(&self, rate: Rate, bytes: usize, now: TimestampNs) -> bool {
        let now = now.nanos();
        let nanos = |bytes: f64| (bytes / rate.bytes * SECOND).min(1e18) as i64;
        let (cost, room) = (nanos(bytes as f64), nanos(rate.burst));
        let filled = |full_at: i64| {
            let full_at = full_at.max(now).saturating_add(cost);
            (full_at.saturating_sub(now) <= room).then_some(full_at)
        };
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, filled).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_and_refills() {
        let rate = Rate { bytes: 100.0, burst: 250.0 };
        let bucket = Bucket::default();
        let check = |at_ms: i64, bytes: usize, expected: bool| {
            let found = bucket.take(rate, bytes, TimestampNs::from_millis(1_000_000 + at_ms));
            assert_eq!(found, expected, "{bytes} bytes at {at_ms}");
        };
        check(0, 251, false);
        check(0, 250, true);
        check(0, 1, false);
        check(500, 51, false);
        check(500, 50, true);
        check(100_000, 251, false);
        check(100_000, 250, true);
        check(100_000, 0, true);
    }

    #[test]
    fn rates() {
        let limits = Limits { ingestion_rate_mb: 4.0, ..Limits::default() };
        assert_eq!(Rate::of_tenant(&limits, 2).map(|r| r.bytes), Some(2_097_152.0));
        let local = Limits { ingestion_rate_strategy: RateStrategy::Local, ..limits.clone() };
        assert_eq!(Rate::of_tenant(&local, 2).map(|r| (r.bytes, r.burst)), Some((4_194_304.0, 6_291_456.0)));
        assert_eq!(Rate::of_tenant(&Limits { ingestion_rate_mb: 0.0, ..limits }, 1), None);
        assert_eq!(Rate::of_stream(&Limits::default()).map(|r| r.bytes), Some(3_145_728.0));
    }
}
