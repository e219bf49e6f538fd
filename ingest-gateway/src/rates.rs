//! How fast bytes come: means that forget.

use std::collections::HashMap;

use control::{Role, View};
use model::TenantId;

/// Rates look back over about this many seconds: long enough to be steady, short enough to follow a rush.
const WINDOW_SECONDS: f64 = 10.0;

/// Slower tenants are not told to other gateways: what a gateway may misjudge by them is less than this a second.
const TOLD_RATE_MIN: u64 = 1 << 10;

/// So many tenants are told, the fastest: messages of the control topic stay small.
const TOLD_TENANTS_MAX: usize = 1000;

/// A rate after `bytes` more came within `seconds`: an exponentially weighted mean.
pub(crate) fn updated(rate: f64, bytes: u64, seconds: f64) -> f64 {
    if seconds <= 0.0 {
        return rate;
    }
    let kept = (-seconds / WINDOW_SECONDS).exp();
    rate * kept + bytes as f64 / seconds * (1.0 - kept)
}

/// What the other gateways told of themselves.
#[derive(Debug, Default)]
pub(crate) struct Others<'a> {
    /// How many there are.
    pub(crate) gateways: u32,
    rates: HashMap<&'a TenantId, u64>,
}

impl<'a> Others<'a> {
    /// All gateways of `view` that stay, but the one named `own_id`.
    pub(crate) fn of(view: &'a View, own_id: &str) -> Self {
        let mut others = Self::default();
        for gateway in view.with_role(Role::Gateway).filter(|g| g.id != own_id && !g.leaving) {
            others.gateways += 1;
            for (tenant, rate) in &gateway.rates {
                let sum = others.rates.entry(tenant).or_default();
                *sum = sum.saturating_add(*rate);
            }
        }
        others
    }

    /// What they take of a tenant, bytes a second.
    pub(crate) fn rate(&self, tenant: &TenantId) -> f64 {
        self.rates.get(tenant).map_or(0.0, |rate| *rate as f64)
    }

    /// The part of a tenant's limits that this gateway may give out: that of its traffic it gets, and never less than
    /// a fair part's half, so that there is room where traffic comes next. With nothing measured, the fair part.
    ///
    /// All gateways together give out at most one and a half times the limit, and that only when most traffic comes
    /// to few of them while the others' parts, which they hardly get, are asked for in full.
    pub(crate) fn own_share(&self, tenant: &TenantId, own_rate: f64) -> f64 {
        let fair = 1.0 / f64::from(self.gateways.saturating_add(1));
        let all = own_rate + self.rate(tenant);
        if all < 1.0 { fair } else { (own_rate / all).max(fair / 2.0) }
    }
}

/// Which rates to tell: those of the fastest tenants.
pub(crate) fn to_tell(mut rates: Vec<(TenantId, u64)>) -> impl Iterator<Item = (TenantId, u64)> {
    rates.retain(|(_, rate)| *rate >= TOLD_RATE_MIN);
    if rates.len() > TOLD_TENANTS_MAX {
        rates.select_nth_unstable_by_key(TOLD_TENANTS_MAX, |(_, rate)| std::cmp::Reverse(*rate));
        rates.truncate(TOLD_TENANTS_MAX);
    }
    rates.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow() {
        let after = |mut rate: f64, per_second: u64, seconds: u32| {
            (0..seconds).for_each(|_| rate = updated(rate, per_second, 1.0));
            rate as u64
        };
        assert_eq!((after(0.0, 1000, 1), after(0.0, 1000, 10)), (95, 632));
        assert!((999..=1000).contains(&after(0.0, 1000, 100)));
        assert_eq!((after(1000.0, 1000, 50), after(1000.0, 0, 10), after(1000.0, 0, 100)), (1000, 367, 0));
        // However often it is looked at.
        let twice = updated(updated(0.0, 500, 0.5), 500, 0.5);
        assert!((twice - updated(0.0, 1000, 1.0)).abs() < 1e-6);
        assert_eq!(updated(7.0, 100, 0.0), 7.0);
    }

    #[test]
    fn shares() {
        let tenant = TenantId::new("t").unwrap();
        let check = |gateways, others_rate, own_rate, expected: f64| {
            let others = Others { gateways, rates: HashMap::from([(&tenant, others_rate)]) };
            let share = others.own_share(&tenant, own_rate);
            assert!((share - expected).abs() < 1e-9, "{gateways} {others_rate} {own_rate}: {share}");
        };
        check(0, 0, 0.0, 1.0);
        check(0, 0, 1e6, 1.0);
        check(3, 0, 0.0, 0.25);
        check(3, 0, 1e6, 1.0);
        check(3, 3_000_000, 1e6, 0.25);
        check(1, 1_000_000, 3e6, 0.75);
        check(1, 1_000_000, 0.0, 0.25);
        check(3, 1_000_000, 10.0, 0.125);
    }

    proptest::proptest! {
        /// The parts of all gateways are at least the whole and at most one and a half.
        #[test]
        fn shares_sum_up(rates in proptest::collection::vec(0u64..10_000_000, 1..20)) {
            let tenant = TenantId::new("t").unwrap();
            let sum: u64 = rates.iter().sum();
            proptest::prop_assume!(sum > 100);
            let share = |own: &u64| {
                let others = Others { gateways: rates.len() as u32 - 1, rates: HashMap::from([(&tenant, sum - own)]) };
                others.own_share(&tenant, *own as f64)
            };
            let shares: f64 = rates.iter().map(share).sum();
            proptest::prop_assert!((0.999..=1.5).contains(&shares), "{rates:?}: {shares}");
        }
    }

    #[test]
    fn the_fastest_are_told() {
        let tenant = |i: u64| TenantId::new(&format!("t{i}")).unwrap();
        let told: HashMap<_, _> = to_tell((0..5000).map(|i| (tenant(i), i)).collect()).collect();
        assert_eq!((told.len(), told.values().min()), (1000, Some(&4000)));
        let told: Vec<_> = to_tell(vec![(tenant(1), 1023), (tenant(2), 1024)]).collect();
        assert_eq!(told, [(tenant(2), 1024)]);
    }
}
