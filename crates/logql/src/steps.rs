//! The evaluation steps of a metric query, and counting over windows without looking at each window.
//!
//! An entry at `ts` lies in the windows of the steps `t` with `t - offset - range < ts <= t - offset`: a run of
//! neighbouring steps. So each entry adds to two places of an array of differences, and a running sum over it at the
//! end yields every window exactly.

use serde::{Deserialize, Serialize};

/// Steps and the window of one range aggregation; all in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    /// The first step.
    pub(crate) start: i64,
    /// From step to step; more than 0.
    pub(crate) step: i64,
    /// How many steps there are.
    pub(crate) steps: u32,
    /// A window's length.
    pub(crate) range: i64,
    /// How far before its step a window ends.
    pub(crate) offset: i64,
}

/// A half-open run of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepRun {
    pub(crate) from: u32,
    pub(crate) to: u32,
}

impl Windows {
    /// When step `i` is.
    pub(crate) fn at(&self, i: u32) -> i64 {
        self.start.saturating_add(self.step.saturating_mul(i64::from(i)))
    }

    /// The half-open range of entries that may lie in a window.
    pub(crate) fn entries(&self) -> (i64, i64) {
        if self.steps == 0 {
            return (0, 0);
        }
        let first = self.start.saturating_sub(self.offset).saturating_sub(self.range).saturating_add(1);
        let last = self.at(self.steps - 1).saturating_sub(self.offset);
        (first, last.saturating_add(1))
    }

    /// The steps in whose windows `ts` lies.
    pub(crate) fn run_of(&self, ts: i64) -> StepRun {
        let bound = |t: i64| -> u32 {
            let distance = i128::from(t) - i128::from(self.start);
            let step = i128::from(self.step);
            let steps = (distance + step - 1).div_euclid(step).clamp(0, i128::from(self.steps));
            u32::try_from(steps).unwrap_or(self.steps)
        };
        let from = bound(ts.saturating_add(self.offset));
        let to = bound(ts.saturating_add(self.offset).saturating_add(self.range));
        StepRun { from, to }
    }
}

/// Remembers in which run of steps the last entry lay, and for which times that holds.
#[derive(Clone, Debug)]
pub(crate) struct RunCache {
    windows: Windows,
    valid_from: i64,
    valid_to: i64,
    run: StepRun,
}

impl RunCache {
    pub(crate) fn new(windows: Windows) -> Self {
        Self { windows, valid_from: 0, valid_to: 0, run: StepRun { from: 0, to: 0 } }
    }

    /// The steps in whose windows `ts` lies.
    #[inline]
    pub(crate) fn run_of(&mut self, ts: i64) -> StepRun {
        if !(self.valid_from <= ts && ts < self.valid_to) {
            self.look_up(ts);
        }
        self.run
    }

    /// True when the run found last holds for `ts` too.
    #[inline]
    pub(crate) fn holds(&self, ts: i64) -> bool {
        self.valid_from <= ts && ts < self.valid_to
    }

    fn look_up(&mut self, ts: i64) {
        let w = &self.windows;
        self.run = w.run_of(ts);
        // `from` stays while `t(from - 1) < ts + offset <= t(from)`, `to` while `t(to - 1) < ts + offset + range <= t(to)`.
        let StepRun { from, to } = self.run;
        let (mut valid_from, mut valid_to) = (i64::MIN, i64::MAX);
        let mut bound = |step: u32, shift: i64| {
            if step > 0 {
                valid_from = valid_from.max(w.at(step - 1).saturating_sub(shift).saturating_add(1));
            }
            if step < w.steps {
                valid_to = valid_to.min(w.at(step).saturating_sub(shift).saturating_add(1));
            }
        };
        bound(from, w.offset);
        bound(to, w.offset.saturating_add(w.range));
        (self.valid_from, self.valid_to) = (valid_from, valid_to);
    }
}

/// An array of differences over steps; the running sum gives a value for each step. Few entries are kept as a list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Differences {
    few: Vec<(u32, i64)>,
    all: Vec<i64>,
}

impl Differences {
    /// Adds `weight` to every step of a run.
    #[inline]
    pub(crate) fn add(&mut self, run: StepRun, weight: u64, steps: u32) {
        let weight = i64::try_from(weight).unwrap_or(i64::MAX);
        if run.from >= run.to {
            return;
        }
        if self.all.is_empty() {
            self.add_few(run.from, weight, steps);
            if run.to < steps {
                self.add_few(run.to, -weight, steps);
            }
        } else {
            self.all[run.from as usize] += weight;
            if run.to < steps {
                self.all[run.to as usize] -= weight;
            }
        }
    }

    fn add_few(&mut self, step: u32, weight: i64, steps: u32) {
        if !self.all.is_empty() {
            if let Some(slot) = self.all.get_mut(step as usize) {
                *slot += weight;
            }
            return;
        }
        if let Some((_, known)) = self.few.iter_mut().rev().take(4).find(|(s, _)| *s == step) {
            *known += weight;
            return;
        }
        self.few.push((step, weight));
        if self.few.len() > steps as usize / 2 + 8 {
            self.compact();
            if self.few.len() > steps as usize / 4 {
                let mut all = vec![0; steps as usize];
                for (step, weight) in std::mem::take(&mut self.few) {
                    if let Some(slot) = all.get_mut(step as usize) {
                        *slot += weight;
                    }
                }
                self.all = all;
            }
        }
    }

    fn compact(&mut self) {
        self.few.sort_unstable_by_key(|(step, _)| *step);
        self.few.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 += later.1;
            }
            same
        });
    }

    /// Whether this is an array over so many steps.
    pub(crate) fn fits(&self, steps: u32) -> bool {
        (self.all.is_empty() || self.all.len() == steps as usize) && self.few.iter().all(|(step, _)| *step < steps)
    }

    /// Adds another array.
    pub(crate) fn merge(&mut self, other: Self, steps: u32) {
        if !other.all.is_empty() && self.all.is_empty() {
            let few = std::mem::replace(self, other).few;
            few.into_iter().for_each(|(step, weight)| self.add_few(step, weight, steps));
            return;
        }
        for (slot, weight) in self.all.iter_mut().zip(&other.all) {
            *slot += weight;
        }
        other.few.into_iter().for_each(|(step, weight)| self.add_few(step, weight, steps));
    }

    /// The value of each step.
    pub(crate) fn sums(mut self, steps: u32) -> Vec<u64> {
        let mut sums = vec![0i64; steps as usize];
        if self.all.is_empty() {
            self.compact();
            for (step, weight) in self.few {
                if let Some(slot) = sums.get_mut(step as usize) {
                    *slot = weight;
                }
            }
        } else {
            sums.iter_mut().zip(&self.all).for_each(|(sum, weight)| *sum = *weight);
        }
        let mut sum = 0;
        let running = |weight: &i64| {
            sum += *weight;
            u64::try_from(sum).unwrap_or(0)
        };
        sums.iter().map(running).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_are_exact(
            mut times in proptest::collection::vec(-50i64..200, 0..60),
            sorted: bool,
            start in -20i64..20,
            step in 1i64..30,
            steps in 0u32..40,
            range in 1i64..60,
            offset in -30i64..30,
            split in 0usize..60,
        ) {
            if sorted {
                times.sort_unstable();
            }
            let windows = Windows { start, step, steps, range, offset };
            let inside = |ts: i64, i: u32| { let t = windows.at(i) - offset; t - range < ts && ts <= t };
            let naive: Vec<u64> = (0..steps).map(|i| times.iter().filter(|ts| inside(**ts, i)).count() as u64).collect();
            let (mut one, mut two) = (Differences::default(), Differences::default());
            let mut cache = RunCache::new(windows);
            for (n, ts) in times.iter().enumerate() {
                let part = if n < split { &mut one } else { &mut two };
                let run = cache.run_of(*ts);
                prop_assert_eq!(run, windows.run_of(*ts));
                part.add(run, 1, steps);
                let (first, end) = windows.entries();
                prop_assert!(run.from >= run.to || (first <= *ts && *ts < end));
            }
            one.merge(two, steps);
            prop_assert_eq!(one.sums(steps), naive);
        }
    }
}
