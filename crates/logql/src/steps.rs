//! The evaluation steps of a metric query, and the window of each.
//!
//! The window of a step `t` holds the entries with `t - offset - range < ts <= t - offset`.

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
}
