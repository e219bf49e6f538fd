//! Range aggregations that need every value of a window: quantiles, and rates of counters.

use crate::{ast::RangeOp, exact::ExactSum, grid::Grid};

/// One value and its time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    ts: i64,
    value: f64,
}

/// Returns the value of each step whose window is not empty. `parameter` is the quantile.
pub(crate) fn points(op: RangeOp, parameter: f64, grid: &Grid, mut samples: Vec<(i64, u64)>) -> Vec<(u32, f64)> {
    // Sort by value too, so that the result does not depend on the order in which scans found the samples.
    samples.sort_unstable();
    let samples: Vec<Sample> =
        samples.into_iter().map(|(ts, bits)| Sample { ts, value: f64::from_bits(bits) }).collect();
    match op {
        RangeOp::RateCounter => {
            let mut falls = Falls::default();
            windows(grid, &samples, &mut falls, |falls, window, start, end| {
                rate_counter(window, falls.sum(), start, end)
            })
        }
        _ => {
            let mut ranks = Ranks::new(&samples);
            windows(grid, &samples, &mut ranks, |ranks, window, _, _| ranks.quantile(parameter, window.len()))
        }
    }
}

/// The running state of a window whose ends only move forward.
trait Window {
    /// Adds sample `at`. `is_first` is true if the window was empty.
    fn enter(&mut self, samples: &[Sample], at: usize, is_first: bool);

    /// Removes sample `at`. `is_last` is true if the window is empty afterwards.
    fn leave(&mut self, samples: &[Sample], at: usize, is_last: bool);
}

fn windows<W: Window>(
    grid: &Grid,
    samples: &[Sample],
    known: &mut W,
    value: impl Fn(&W, &[Sample], i64, i64) -> f64,
) -> Vec<(u32, f64)> {
    let windows = grid.windows();
    let mut points = Vec::new();
    let (mut from, mut to) = (0, 0);
    for step in 0..windows.steps {
        let end = windows.at(step).saturating_sub(windows.offset);
        let start = end.saturating_sub(windows.range);
        while samples.get(to).is_some_and(|sample| sample.ts <= end) {
            known.enter(samples, to, from == to);
            to += 1;
        }
        while from < to && samples[from].ts <= start {
            from += 1;
            known.leave(samples, from - 1, from == to);
        }
        if from < to {
            points.push((step, value(known, &samples[from..to], start, end)));
        }
    }
    points
}

/// The number of values of each rank in a window, as a Fenwick tree over ranks.
struct Ranks {
    /// All values in order; NaN first.
    values: Vec<f64>,
    /// The rank of each sample, from 1.
    ranks: Vec<u32>,
    /// Item `i` holds the count of the ranks `(i - lowest bit of i, i]`.
    tree: Vec<u32>,
}

impl Ranks {
    fn new(samples: &[Sample]) -> Self {
        let mut order: Vec<u32> = (0..).take(samples.len()).collect();
        let value = |at: u32| samples[at as usize].value;
        order.sort_unstable_by(|a, b| {
            let (a, b) = (value(*a), value(*b));
            b.is_nan().cmp(&a.is_nan()).then(a.total_cmp(&b))
        });
        let mut ranks = vec![0; samples.len()];
        (1..).zip(&order).for_each(|(rank, at)| ranks[*at as usize] = rank);
        Self { values: order.into_iter().map(value).collect(), ranks, tree: vec![0; samples.len() + 1] }
    }

    fn add(&mut self, at: usize, change: impl Fn(&mut u32)) {
        let mut node = self.ranks[at] as usize;
        while let Some(count) = self.tree.get_mut(node) {
            change(count);
            node += node & node.wrapping_neg();
        }
    }

    /// Returns the value at position `below` of the sorted window, counted from 0.
    fn nth(&self, mut below: usize) -> f64 {
        let mut rank = 0;
        let mut stride = self.values.len().next_power_of_two();
        while stride > 0 {
            if let Some(count) = self.tree.get(rank + stride).filter(|count| **count as usize <= below) {
                below -= *count as usize;
                rank += stride;
            }
            stride /= 2;
        }
        self.values.get(rank).copied().unwrap_or(f64::NAN)
    }

    fn quantile(&self, q: f64, count: usize) -> f64 {
        if q.is_nan() || count == 0 {
            return f64::NAN;
        }
        if !(0.0..=1.0).contains(&q) {
            return if q < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
        }
        let rank = q * (count - 1) as f64;
        let below = rank.floor() as usize;
        let above = (below + 1).min(count - 1);
        let weight = rank - rank.floor();
        self.nth(below) * (1.0 - weight) + self.nth(above) * weight
    }
}

impl Window for Ranks {
    fn enter(&mut self, _samples: &[Sample], at: usize, _is_first: bool) {
        self.add(at, |count| *count += 1);
    }

    fn leave(&mut self, _samples: &[Sample], at: usize, _is_last: bool) {
        self.add(at, |count| *count -= 1);
    }
}

/// The values that a counter had before its resets.
#[derive(Default)]
struct Falls {
    finite: ExactSum,
    /// Number of resets from infinity.
    infinite: usize,
}

impl Falls {
    /// Returns the previous value if the counter was reset at sample `at`.
    fn before(samples: &[Sample], at: usize) -> Option<f64> {
        let before = samples[at - 1].value;
        (samples[at].value < before).then_some(before)
    }

    fn sum(&self) -> f64 {
        if self.infinite > 0 { f64::INFINITY } else { self.finite.total() }
    }
}

impl Window for Falls {
    fn enter(&mut self, samples: &[Sample], at: usize, is_first: bool) {
        if is_first {
            return;
        }
        match Self::before(samples, at) {
            Some(f64::INFINITY) => self.infinite += 1,
            Some(before) => self.finite.add(before),
            None => {}
        }
    }

    fn leave(&mut self, samples: &[Sample], at: usize, is_last: bool) {
        if is_last {
            return;
        }
        match Self::before(samples, at + 1) {
            Some(f64::INFINITY) => self.infinite -= 1,
            Some(before) => self.finite.add(-before),
            None => {}
        }
    }
}

/// Like Prometheus's `rate`: the increase, extrapolated to an end of the window if the first or last value is near it.
fn rate_counter(window: &[Sample], falls: f64, start: i64, end: i64) -> f64 {
    let [first, .., last] = window else { return 0.0 };
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
    use crate::steps::Windows;

    fn at_once(op: RangeOp, parameter: f64, range: i64, samples: &[(i64, f64)]) -> Option<f64> {
        let second = 1_000_000_000;
        let end = samples.last().map_or(0, |(ts, _)| *ts);
        let windows = Windows { start: end * second, step: 1, steps: 1, range: range * second, offset: 0 };
        let samples = samples.iter().map(|(ts, value)| (ts * second, value.to_bits())).collect();
        points(op, parameter, &Grid::new(windows), samples).first().map(|(_, value)| *value)
    }

    #[test]
    fn quantiles() {
        let check = |q: f64, values: &[f64], expected: f64| {
            let samples: Vec<(i64, f64)> = (0..).zip(values.iter().copied()).collect();
            let found = at_once(RangeOp::QuantileOverTime, q, 100, &samples).unwrap_or(f64::NAN);
            assert!(found == expected || (found.is_nan() && expected.is_nan()), "{q} of {values:?}: {found}");
        };
        check(0.5, &[3.0, 1.0, 2.0], 2.0);
        check(0.25, &[1.0, 2.0], 1.25);
        check(0.99, &[7.0], 7.0);
        check(1.5, &[7.0], f64::INFINITY);
        check(-1.0, &[7.0], f64::NEG_INFINITY);
        check(f64::NAN, &[7.0], f64::NAN);
        check(1.0, &[3.0, f64::NAN, 1.0], 3.0);
        check(0.0, &[3.0, f64::NAN, 1.0], f64::NAN);
        check(0.5, &[], f64::NAN);
    }

    #[test]
    fn counters() {
        let rate = |samples: &[(i64, f64)]| at_once(RangeOp::RateCounter, 0.0, 60, samples);
        assert_eq!(rate(&[(75, 30.0), (105, 90.0)]), Some(1.5));
        assert_eq!(rate(&[(75, 30.0)]), Some(0.0));
        // The counter was reset in between, so it rose by 10. The first value is 30 s after the window's start.
        assert_eq!(rate(&[(60, 0.0), (90, 30.0), (120, 10.0)]), Some(10.0 * 60.0 / 30.0 / 60.0));
    }
}
