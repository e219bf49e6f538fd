//! How often something is tried, and the pauses between tries.

use std::time::Duration;

use model::Random;

/// A schedule of tries: their number, and pauses that double up to a bound. Pauses are of random length, so that
/// processes that failed together do not try together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Number of tries in all. At least one is made.
    pub attempts: u32,
    /// The longest pause before the second try; the bound doubles with each further try.
    pub first: Duration,
    /// The bound grows no longer than this.
    pub max: Duration,
}

impl Backoff {
    /// The pause after this many failures in a row, counted from 1: a quarter to all of the bound, or nothing before
    /// the first failure.
    ///
    /// At least a quarter, since a pause of nothing would not be one.
    pub fn pause(&self, failures: u32, random: &dyn Random) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let bound = self.first.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(self.max);
        bound.mul_f64(0.25 + 0.75 * random.fraction())
    }

    /// True when another try may follow this many failures.
    pub fn allows_another(&self, failures: u32) -> bool {
        failures < self.attempts
    }
}

#[cfg(test)]
mod tests {
    use model::SeededRandom;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound() {
        let backoff = Backoff { attempts: 3, first: Duration::from_millis(100), max: Duration::from_secs(1) };
        let random = SeededRandom::new(1);
        let check = |failures: u32, bound_ms: u64| {
            for _ in 0..100 {
                let pause = backoff.pause(failures, &random);
                let bound = Duration::from_millis(bound_ms);
                assert!(pause >= bound / 4 && pause <= bound, "{failures}: {pause:?}");
            }
        };
        check(0, 0);
        check(1, 100);
        check(2, 200);
        check(4, 800);
        check(5, 1000);
        check(u32::MAX, 1000);
        assert!(backoff.allows_another(2) && !backoff.allows_another(3));
    }
}
