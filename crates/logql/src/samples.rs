//! Range aggregations of unwrapped values.

use crate::{ast::RangeOp, plan::RangeNode};

/// One value and when it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    ts: i64,
    value: f64,
}

/// The value of each step whose window is not empty.
pub(crate) fn points(node: &RangeNode, mut samples: Vec<(i64, u64)>) -> Vec<(u32, f64)> {
    // Equal times in a fixed order, whoever found them.
    samples.sort_unstable();
    let samples: Vec<Point> = samples.into_iter().map(|(ts, bits)| Point { ts, value: f64::from_bits(bits) }).collect();
    let windows = &node.windows;
    let mut points = Vec::new();
    let (mut from, mut to) = (0, 0);
    for step in 0..windows.steps {
        let end = windows.at(step).saturating_sub(windows.offset);
        let start = end.saturating_sub(windows.range);
        while samples.get(to).is_some_and(|p| p.ts <= end) {
            to += 1;
        }
        while samples.get(from).is_some_and(|p| p.ts <= start) {
            from += 1;
        }
        if from < to {
            points.push((step, aggregate(node, &samples[from..to], start, end)));
        }
    }
    points
}

/// The value of one window `(start, end]`, which is not empty.
fn aggregate(node: &RangeNode, window: &[Point], start: i64, end: i64) -> f64 {
    let values = || window.iter().map(|p| p.value);
    let seconds = node.windows.range as f64 / 1e9;
    match node.op {
        RangeOp::Rate => values().sum::<f64>() / seconds,
        RangeOp::SumOverTime => values().sum(),
        RangeOp::AvgOverTime => mean(values()),
        RangeOp::MinOverTime => values().fold(f64::NAN, f64::min),
        RangeOp::MaxOverTime => values().fold(f64::NAN, f64::max),
        RangeOp::StdvarOverTime => variance(values()),
        RangeOp::StddevOverTime => variance(values()).sqrt(),
        RangeOp::QuantileOverTime => quantile(node.parameter, values().collect()),
        RangeOp::FirstOverTime => window.first().map_or(f64::NAN, |p| p.value),
        RangeOp::LastOverTime => window.last().map_or(f64::NAN, |p| p.value),
        RangeOp::RateCounter => rate_counter(window, start, end),
        RangeOp::CountOverTime | RangeOp::BytesRate | RangeOp::BytesOverTime | RangeOp::AbsentOverTime => {
            window.len() as f64
        }
    }
}

/// A running mean that does not overflow; infinities as in Prometheus.
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

/// The population's variance (Welford).
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

fn quantile(q: f64, mut values: Vec<f64>) -> f64 {
    if q.is_nan() || values.is_empty() {
        return f64::NAN;
    }
    if !(0.0..=1.0).contains(&q) {
        return if q < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    // NaN counts as the smallest.
    values.sort_unstable_by(|a, b| b.is_nan().cmp(&a.is_nan()).then(a.total_cmp(b)));
    let rank = q * (values.len() - 1) as f64;
    let below = rank.floor() as usize;
    let above = (below + 1).min(values.len() - 1);
    let weight = rank - rank.floor();
    values[below] * (1.0 - weight) + values[above] * weight
}

/// As `rate` of Prometheus: the increase, extrapolated to the window's ends where the first and last values are near.
fn rate_counter(window: &[Point], start: i64, end: i64) -> f64 {
    let [first, .., last] = window else { return 0.0 };
    let falls = window.windows(2).filter(|p| p[1].value < p[0].value).map(|p| p[0].value).sum::<f64>();
    let increase = last.value - first.value + falls;
    let seconds = |from: i64, to: i64| (to.saturating_sub(from)) as f64 / 1e9;
    let covered = seconds(first.ts, last.ts);
    let mean = covered / (window.len() - 1) as f64;
    let mut to_start = seconds(start, first.ts);
    let mut to_end = seconds(last.ts, end);
    if to_start >= 1.1 * mean {
        to_start = mean / 2.0;
    }
    if increase > 0.0 && first.value >= 0.0 {
        to_start = to_start.min(covered * first.value / increase);
    }
    if to_end >= 1.1 * mean {
        to_end = mean / 2.0;
    }
    increase * (covered + to_start + to_end) / covered / seconds(start, end)
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
        same(quantile(0.5, vec![3.0, 1.0, 2.0]), 2.0);
        same(quantile(0.25, vec![1.0, 2.0]), 1.25);
        same(quantile(0.99, vec![7.0]), 7.0);
        same(quantile(1.5, vec![7.0]), INF);
        let window: Vec<Point> =
            [(75, 30.0), (105, 90.0)].map(|(s, value)| Point { ts: s * 1_000_000_000, value }).to_vec();
        same(rate_counter(&window, 45_000_000_000, 105_000_000_000), 1.5);
        same(rate_counter(&window[..1], 45_000_000_000, 105_000_000_000), 0.0);
    }
}
