//! The edges of windows divide time into cells.
//!
//! A window begins and ends at an edge. All rows between two neighbouring edges are in the same windows, so a series
//! needs only one state per cell. The value of a window is computed from the cells inside it:
//!
//! ```text
//! windows end:         |           |           |        every step
//! windows begin:    |           |           |           the same, one range earlier
//! cells:            |0 |   1    |2 |   3    |4 |
//! ```
//!
//! Edges of one kind are whole steps apart, and cells are numbered from the epoch. Two queries whose starts differ by
//! whole steps therefore have the same cells and can reuse each other's states.

use crate::steps::Windows;

/// If there are more cells than this, the cells that are in every window are merged into one. Other queries cannot
/// reuse such a grid.
const CELLS_MAX: i128 = 16_384;

/// The cells of one range aggregation. A cell includes its upper edge and excludes its lower edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    windows: Windows,
    /// Windows end at whole steps from here.
    end_phase: i128,
    /// Windows begin at whole steps from here.
    start_phase: i128,
    /// The number of the first cell that is in a window.
    base: i128,
    /// The cells of the first window, numbered from `base`.
    first_window: (i128, i128),
    /// The first and last of the cells that are in every window and were merged into one, numbered from `base`.
    core: Option<(i128, i128)>,
    cells: u32,
}

/// A cell and the times that belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Counted from 0; negative before the first cell.
    number: i128,
    /// The last nanosecond before the cell.
    after: i128,
    /// The last nanosecond of the cell.
    until: i128,
    /// Whether the cell is between windows.
    is_gap: bool,
}

impl Grid {
    pub(crate) fn new(windows: Windows) -> Self {
        let step = i128::from(windows.step);
        let range = i128::from(windows.range);
        let first_end = i128::from(windows.start) - i128::from(windows.offset);
        let last_end = first_end + step * i128::from(windows.steps.saturating_sub(1));
        let mut grid = Self {
            windows,
            end_phase: first_end.rem_euclid(step),
            start_phase: (first_end - range).rem_euclid(step),
            base: 0,
            first_window: (0, 0),
            core: None,
            cells: 0,
        };
        if windows.steps == 0 || range <= 0 {
            return grid;
        }
        grid.base = grid.edges_before(first_end - range + 1);
        grid.first_window = (0, grid.edges_before(first_end) - grid.base);
        let mut cells = grid.edges_before(last_end) - grid.base + 1;
        if cells > CELLS_MAX && last_end - range < first_end {
            let from = grid.edges_before(last_end - range + 1) - grid.base;
            let to = grid.first_window.1;
            grid.core = Some((from, to));
            cells -= to - from;
        }
        grid.cells = u32::try_from(cells).unwrap_or(u32::MAX);
        grid
    }

    pub(crate) fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Returns the number of cells.
    pub(crate) fn cells(&self) -> u32 {
        self.cells
    }

    /// Returns the number of the first cell, counted from the epoch.
    pub(crate) fn base(&self) -> i128 {
        self.base
    }

    /// Returns a key that does not depend on where the query begins and ends. Grids with equal keys number their cells
    /// the same way from the epoch.
    pub(crate) fn key(&self) -> String {
        let Windows { start, step, steps, range, offset } = self.windows;
        match self.core {
            None => format!("step {step} at {} and {}", self.end_phase, self.start_phase),
            Some(_) => format!("{steps} steps of {step} from {start}, range {range}, offset {offset}"),
        }
    }

    /// Returns the number of edges before `t`, counted from the epoch.
    fn edges_before(&self, t: i128) -> i128 {
        let step = i128::from(self.windows.step);
        let of = |phase: i128| (t - phase + step - 1).div_euclid(step);
        if self.end_phase == self.start_phase { of(self.end_phase) } else { of(self.end_phase) + of(self.start_phase) }
    }

    fn place(&self, t: i128) -> Place {
        let (step, range) = (i128::from(self.windows.step), i128::from(self.windows.range));
        let edge_at_or_after = |phase: i128| phase + (t - phase + step - 1).div_euclid(step) * step;
        let (end, start) = (edge_at_or_after(self.end_phase), edge_at_or_after(self.start_phase));
        let number = self.edges_before(t) - self.base;
        let mut place = Place { number, after: end.max(start) - step, until: end.min(start), is_gap: t <= end - range };
        if let Some((from, to)) = self.core {
            if (from..=to).contains(&number) {
                let first_end = i128::from(self.windows.start) - i128::from(self.windows.offset);
                let last_end = first_end + step * i128::from(self.windows.steps - 1);
                place = Place { number: from, after: last_end - range, until: first_end, is_gap: false };
            } else if number > to {
                place.number -= to - from;
            }
        }
        place
    }

    /// Returns the half-open range of cells in a step's window.
    pub(crate) fn window(&self, step: u32) -> (u32, u32) {
        let edges = if self.end_phase == self.start_phase { 1 } else { 2 };
        let shift = i128::from(step) * edges;
        let number = |number: i128| {
            let number = match self.core {
                Some((from, to)) if number > to => number - (to - from),
                Some((from, _)) => number.min(from),
                None => number,
            };
            u32::try_from(number).unwrap_or(u32::MAX).min(self.cells)
        };
        if self.cells == 0 {
            return (0, 0);
        }
        (number(self.first_window.0 + shift), number(self.first_window.1 + shift).saturating_add(1).min(self.cells))
    }

    /// Whether two times, and so all times between them, are in the same cell. All times before the first cell count as
    /// one cell, as do all times after the last.
    pub(crate) fn is_one_cell(&self, first: i64, last: i64) -> bool {
        let number = |t: i64| self.place(i128::from(t)).number.clamp(-1, i128::from(self.cells));
        number(first) == number(last)
    }

    /// Returns a cursor that finds cells fast if successive times are close together.
    pub(crate) fn cursor(&self) -> CellCursor<'_> {
        CellCursor { grid: self, valid_from: 0, valid_to: 0, cell: None }
    }
}

/// Caches the last cell and the times that belong to it.
#[derive(Clone, Debug)]
pub(crate) struct CellCursor<'g> {
    grid: &'g Grid,
    valid_from: i64,
    /// Exclusive.
    valid_to: i64,
    cell: Option<u32>,
}

impl CellCursor<'_> {
    /// Returns the cell of `ts`, or `None` if `ts` is in no window.
    #[inline]
    pub(crate) fn cell(&mut self, ts: i64) -> Option<u32> {
        if !self.holds(ts) {
            self.look_up(ts);
        }
        self.cell
    }

    /// Returns true if `ts` is in the last cell found.
    #[inline]
    pub(crate) fn holds(&self, ts: i64) -> bool {
        self.valid_from <= ts && ts < self.valid_to
    }

    fn look_up(&mut self, ts: i64) {
        let place = self.grid.place(i128::from(ts));
        let bound = |t: i128| i64::try_from(t + 1).unwrap_or(if t < 0 { i64::MIN } else { i64::MAX });
        (self.valid_from, self.valid_to) = (bound(place.after), bound(place.until));
        let number = u32::try_from(place.number).ok().filter(|number| *number < self.grid.cells);
        self.cell = number.filter(|_| !place.is_gap);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cell_lies_in_the_windows_of_its_times(
            mut times in proptest::collection::vec(-50i64..200, 0..60),
            is_sorted: bool,
            start in -20i64..20,
            step in 1i64..30,
            steps in 0u32..40,
            range in 0i64..60,
            offset in -30i64..30,
        ) {
            if is_sorted {
                times.sort_unstable();
            }
            let windows = Windows { start, step, steps, range, offset };
            let grid = Grid::new(windows);
            let mut cursor = grid.cursor();
            for ts in &times {
                let inside = |i: &u32| { let t = windows.at(*i) - offset; t - range < *ts && *ts <= t };
                let expected: Vec<u32> = (0..steps).filter(inside).collect();
                let cell = cursor.cell(*ts);
                let has = |i: &u32| { let (from, to) = grid.window(*i); cell.is_some_and(|c| from <= c && c < to) };
                let found: Vec<u32> = (0..steps).filter(has).collect();
                prop_assert_eq!(found, expected);
                prop_assert_eq!(cell, grid.cursor().cell(*ts));
            }
        }

        #[test]
        fn long_ranges_have_few_cells(
            times in proptest::collection::vec(0i64..1_000_000, 0..60),
            start in 500_000i64..500_100,
            step in 1i64..5,
            steps in 1u32..40,
            range in 200_000i64..900_000,
        ) {
            let windows = Windows { start, step, steps, range, offset: 0 };
            let grid = Grid::new(windows);
            prop_assert!(grid.cells() <= 4 * steps + 1, "{}", grid.cells());
            let mut cursor = grid.cursor();
            for ts in &times {
                let cell = cursor.cell(*ts);
                for i in 0..steps {
                    let end = windows.at(i);
                    let (from, to) = grid.window(i);
                    let is_inside = end - range < *ts && *ts <= end;
                    prop_assert_eq!(cell.is_some_and(|c| from <= c && c < to), is_inside);
                }
            }
        }

        #[test]
        fn whole_steps_later_cells_are_the_same(
            start in -1000i64..1000,
            step in 1i64..30,
            range in 1i64..60,
            offset in -30i64..30,
            later in -20i64..20,
            ts in -1000i64..1000,
        ) {
            let grid = |start: i64| Grid::new(Windows { start, step, steps: 50, range, offset });
            let (a, b) = (grid(start), grid(start + later * step));
            prop_assert_eq!(a.key(), b.key());
            let number = |grid: &Grid| grid.cursor().cell(ts).map(|cell| grid.base() + i128::from(cell));
            if let (Some(a), Some(b)) = (number(&a), number(&b)) {
                prop_assert_eq!(a, b);
            }
            let other = grid(start + 1);
            prop_assert_eq!(other.key() == a.key(), step == 1);
        }
    }

    #[test]
    fn extreme_times() {
        for start in [i64::MIN, -1, 0, i64::MAX] {
            for range in [1, i64::MAX] {
                for offset in [i64::MIN, 0, i64::MAX] {
                    let grid = Grid::new(Windows { start, step: 7, steps: 3, range, offset });
                    for ts in [i64::MIN, 0, i64::MAX] {
                        let cell = grid.cursor().cell(ts);
                        assert!(cell.is_none_or(|cell| cell < grid.cells()));
                    }
                }
            }
        }
    }
}
