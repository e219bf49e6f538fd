//! The evaluation steps of a metric query, and the window of each.
//!
//! The window of a step `t` holds the entries with `t - offset - range < ts <= t - offset`.

/// Steps and windows of one range aggregation. All times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    /// The first step.
    pub(crate) start: i64,
    /// The distance between steps; greater than 0.
    pub(crate) step: i64,
    /// Number of steps.
    pub(crate) steps: u32,
    /// A window's length.
    pub(crate) range: i64,
    /// How far before its step a window ends.
    pub(crate) offset: i64,
}

impl Windows {
    /// Returns the time of step `i`.
    pub(crate) fn at(&self, i: u32) -> i64 {
        self.start.saturating_add(self.step.saturating_mul(i64::from(i)))
    }

    /// Returns the half-open time range that covers all windows.
    pub(crate) fn entries(&self) -> (i64, i64) {
        if self.steps == 0 {
            return (0, 0);
        }
        let first = self.start.saturating_sub(self.offset).saturating_sub(self.range).saturating_add(1);
        let last = self.at(self.steps - 1).saturating_sub(self.offset);
        (first, last.saturating_add(1))
    }
}
