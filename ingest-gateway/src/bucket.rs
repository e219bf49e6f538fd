//! Rates of bytes: `governor`'s cell rate algorithm, told the time by the caller.
//!
//! A rate may change with every take (a gateway's part of a tenant's rate does, each second): what was used up stays
//! used up.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use limits::{ByteSize, Limits, RateStrategy};
use model::TimestampNs;
use parking_lot::Mutex;

/// A rate with room for bursts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Bytes a second.
    pub(crate) bytes: f64,
    /// Bytes at once.
    pub(crate) burst: f64,
}

/// How much of a rate is used up. The time comes from the caller, so tests decide it.
///
/// It costs 88 bytes for each tenant and each active stream, and nothing on the heap; 100 000 streams take 9 MB. The
/// lock makes the caller's time and the check one step. It is held for some nanoseconds, and hardly ever contended:
/// entries of one stream seldom come in two requests at once.
#[derive(Debug, Default)]
pub(crate) struct Bucket(Mutex<Option<Limiter>>);

const _: () = assert!(size_of::<Bucket>() <= 88, "one for each active stream");

/// A limiter, its rate now, since when it has that rate, and the cells that had come back by then.
#[derive(Debug)]
struct Limiter {
    rate: Rate,
    since: TimestampNs,
    start: u64,
    cells: RateLimiter<NotKeyed, InMemoryState, CellClock, NoOpMiddleware<Nanos>>,
}

/// A clock whose unit is the time that one cell takes to come back, counted from the first request. When the rate
/// changes it runs on from where it is, at another speed.
///
/// `governor` counts in whole units of its clock. Were that nanoseconds, a rate of 3 MB/s would have 317 ns a byte
/// in place of 317.89, and faster ones would be off by far more. Counted in cells every rate is exact.
#[derive(Debug)]
struct CellClock(Cell<u64>);

const SECOND: f64 = 1e9;

impl Rate {
    /// What all requests of a tenant may bring; `None` when there is no limit.
    /// `share` is this gateway's part of what all gateways take together.
    pub(crate) fn of_tenant(limits: &Limits, share: f64) -> Option<Self> {
        let share = match limits.ingestion_rate_strategy {
            RateStrategy::Global => share,
            RateStrategy::Local => 1.0,
        };
        let mb = f64::from(1u32 << 20);
        let (bytes, burst) = (limits.ingestion_rate_mb * mb * share, limits.ingestion_burst_size_mb * mb);
        (bytes > 0.0).then_some(Self { bytes, burst })
    }

    /// What one stream may bring; `None` when there is no limit.
    pub(crate) fn of_stream(limits: &Limits) -> Option<Self> {
        let float = |size: ByteSize| size.bytes() as f64;
        let (bytes, burst) = (float(limits.per_stream_rate_limit), float(limits.per_stream_rate_limit_burst));
        (bytes > 0.0).then_some(Self { bytes, burst })
    }

    /// A cell is this power of two of bytes: one byte up to 4 GiB/s and bursts of 4 GiB, above it so many that 32
    /// bits hold the burst, and 63 bits the cells of 68 years.
    fn cell_bits(self) -> u32 {
        let largest = self.bytes.max(self.burst) as u64;
        (u64::BITS - largest.leading_zeros()).saturating_sub(u32::BITS)
    }

    /// How many cells hold `bytes`; `None` when 32 bits cannot say it.
    fn cells(self, bytes: u64) -> Option<u32> {
        u32::try_from(bytes.div_ceil(1 << self.cell_bits())).ok()
    }

    /// How many cells come back in `nanos`; none when these are negative because the clock went back.
    fn cells_in(self, nanos: i64) -> u64 {
        let cells_per_second = self.bytes.min(u64::MAX as f64) / (1u64 << self.cell_bits()) as f64;
        ((nanos as f64 * cells_per_second / SECOND) as u64).min(i64::MAX as u64)
    }
}

impl Bucket {
    /// Takes `bytes` out of the bucket, or nothing when it does not hold as many. A bucket is full when it is first
    /// used, and again when the rate is another one than before.
    pub(crate) fn take(&self, rate: Rate, bytes: usize, now: TimestampNs) -> bool {
        if bytes as f64 > rate.burst {
            return false;
        }
        let Some(cells) = rate.cells(bytes as u64) else { return false };
        let Some(cells) = NonZeroU32::new(cells) else { return true };
        let mut limiter = self.0.lock();
        if let Some(limiter) = limiter.as_mut()
            && (limiter.rate == rate || limiter.change(rate, now))
        {
            return limiter.take(cells, now);
        }
        limiter.insert(Limiter::new(rate, now)).take(cells, now)
    }
}

impl Limiter {
    fn new(rate: Rate, now: TimestampNs) -> Self {
        let burst = rate.cells(rate.burst as u64).and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
        let unit = Quota::with_period(Duration::from_nanos(1)).expect("the period is not zero");
        let cells = RateLimiter::direct_with_clock(unit.allow_burst(burst), CellClock(Cell::new(0)));
        Self { rate, since: now, start: 0, cells }
    }

    /// Goes on at this rate. False when that takes another limiter: the burst is in its quota.
    #[cold]
    fn change(&mut self, rate: Rate, now: TimestampNs) -> bool {
        if self.rate.burst != rate.burst || self.rate.cell_bits() != rate.cell_bits() {
            return false;
        }
        (self.start, self.since, self.rate) = (self.cells_at(now), now, rate);
        true
    }

    fn cells_at(&self, now: TimestampNs) -> u64 {
        self.start.saturating_add(self.rate.cells_in(now.nanos().saturating_sub(self.since.nanos())))
    }

    fn take(&self, cells: NonZeroU32, now: TimestampNs) -> bool {
        self.cells.clock().0.set(self.cells_at(now));
        // The outer error: more than the burst, which no time brings back.
        matches!(self.cells.check_n(cells), Ok(Ok(())))
    }
}

impl Clock for CellClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.get())
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
        assert_eq!(Rate::of_tenant(&limits, 0.5).map(|r| r.bytes), Some(2_097_152.0));
        let local = Limits { ingestion_rate_strategy: RateStrategy::Local, ..limits.clone() };
        assert_eq!(Rate::of_tenant(&local, 0.5).map(|r| (r.bytes, r.burst)), Some((4_194_304.0, 6_291_456.0)));
        assert_eq!(Rate::of_tenant(&Limits { ingestion_rate_mb: 0.0, ..limits }, 1.0), None);
        assert_eq!(Rate::of_stream(&Limits::default()).map(|r| r.bytes), Some(3_145_728.0));
    }

    const START: TimestampNs = TimestampNs::from_secs(1_790_000_000);

    fn after(ms: u64) -> TimestampNs {
        START.plus(Duration::from_millis(ms))
    }

    #[test]
    fn a_changed_rate_is_followed() {
        let (bucket, slow) = (Bucket::default(), Rate { bytes: 100.0, burst: 250.0 });
        let fast = Rate { bytes: 1000.0, ..slow };
        assert!(bucket.take(slow, 250, START) && !bucket.take(slow, 11, after(100)));
        // Ten came back slowly; from now on it is a hundred in the same time.
        assert!(bucket.take(fast, 10, after(100)) && !bucket.take(fast, 1, after(100)));
        assert!(!bucket.take(fast, 101, after(200)) && bucket.take(fast, 100, after(200)));
        // What went by counts at the rate it had.
        assert!(!bucket.take(slow, 101, after(300)) && bucket.take(slow, 100, after(300)));
        assert!(!bucket.take(slow, 11, after(400)) && bucket.take(slow, 10, after(400)));
        // Whatever it changes to and how often, nothing is given twice.
        for i in 0..1000 {
            assert!(!bucket.take(Rate { bytes: 100.0 + f64::from(i), ..slow }, 1, after(400)), "{i}");
        }
        let none = Rate { bytes: 100.0, burst: 0.0 };
        assert!(!bucket.take(none, 1, after(400)) && bucket.take(none, 0, after(400)));
    }

    #[test]
    fn from_bytes_to_petabytes_a_second() {
        let check = |bytes: f64, burst: f64, cell_bits: u32| {
            let (rate, bucket) = (Rate { bytes, burst }, Bucket::default());
            assert_eq!(rate.cell_bits(), cell_bits, "{rate:?}");
            let (all, cell) = (burst as usize, 1usize << cell_bits);
            assert!(!bucket.take(rate, all.saturating_add(4096 * cell), START), "{rate:?}: more than the burst");
            assert!(bucket.take(rate, all, START), "{rate:?}: the burst");
            assert!(!bucket.take(rate, cell, START), "{rate:?}: empty");
            let second = bytes as usize;
            assert!(!bucket.take(rate, second, after(999)), "{rate:?}: a bit less than a second");
            assert!(bucket.take(rate, second, after(1000)), "{rate:?}: a second's bytes");
        };
        check(3.0, 3.0, 0);
        check(3_145_728.0, 15_728_640.0, 0);
        check(4_294_967_295.0, 4_294_967_295.0, 0);
        check(4_294_967_296.0, 4_294_967_296.0, 1);
        check(1e11, 5e11, 7);
        check(2f64.powi(50), 2f64.powi(50), 19);
        // Limits nobody means to reach: years later there still is room.
        for bytes in [1e18, 1e30, f64::INFINITY] {
            let (rate, bucket) = (Rate { bytes, burst: bytes }, Bucket::default());
            let years = Duration::from_secs(60 * 365 * 86_400);
            let times = [START, after(1), after(1000), START.plus(years)];
            assert!(times.into_iter().all(|now| bucket.take(rate, 1 << 40, now)), "{bytes}");
        }
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let (bucket, rate) = (Bucket::default(), Rate { bytes: 100.0, burst: 250.0 });
        assert!(bucket.take(rate, 200, after(10_000)));
        assert!(!bucket.take(rate, 51, START) && bucket.take(rate, 50, START) && !bucket.take(rate, 1, after(10_000)));
    }

    proptest::proptest! {
        /// Any mix of requests gets what a plain count of bytes would give it, to the byte.
        #[test]
        fn admits_the_rate_exactly(
            bytes in 1_000u32..50_000_000,
            burst in 1_000u32..50_000_000,
            requests in proptest::collection::vec((0u64..2_000, 1usize..5_000_000), 1..200),
        ) {
            let rate = Rate { bytes: f64::from(bytes), burst: f64::from(burst) };
            let (bucket, mut ms) = (Bucket::default(), 0u64);
            // In thousandths of a byte, which is what comes in a millisecond.
            let full = i64::from(burst) * 1000;
            let mut held = full;
            for (pause, size) in requests {
                ms += pause;
                held = (held + pause as i64 * i64::from(bytes)).min(full);
                let found = bucket.take(rate, size, after(ms));
                let cost = size as i64 * 1000;
                // Fractions of a byte may be counted a little earlier or later than here.
                proptest::prop_assert!(found == (cost <= held) || held.abs_diff(cost) < 2000, "{ms} ms, {size} bytes");
                held -= if found { cost } else { 0 };
            }
        }
    }
}
