//! Mean and variance of a list of values.

/// Computes a running mean, which does not overflow. Treats infinities like Prometheus.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let mut mean = 0.0f64;
    for (n, value) in values.enumerate() {
        if mean.is_infinite() && (value == mean || value.is_finite()) {
            continue;
        }
        let count = (n + 1) as f64;
        mean += value / count - mean / count;
    }
    mean
}

/// Computes the population variance with Welford's algorithm.
pub(crate) fn variance(values: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        let delta = value - mean;
        mean += delta / count;
        squares += delta * (value - mean);
    }
    squares / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        const INF: f64 = f64::INFINITY;
        let same = |found: f64, expected: f64| {
            assert!(found == expected || (found.is_nan() && expected.is_nan()), "{found} {expected}")
        };
        same(mean([1.0, 2.0, 6.0].into_iter()), 3.0);
        same(mean([1.0, INF, 2.0].into_iter()), INF);
        same(mean([INF, -INF].into_iter()), f64::NAN);
        same(mean([INF, f64::NAN].into_iter()), f64::NAN);
        same(variance([1.0, 3.0].into_iter()), 1.0);
        same(variance([1.0, INF].into_iter()), f64::NAN);
    }
}
