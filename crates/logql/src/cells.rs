//! One state per cell of a series, and the windows computed from them.

use serde::{Deserialize, Serialize};

use crate::grid::Grid;

/// The aggregate of a cell's rows. Merging is associative and commutative. The default is the state of no rows.
pub(crate) trait State: Clone + Default {
    /// Whether [`State::remove`] undoes a merge, so that a sliding window need not merge all its cells again.
    const CAN_REMOVE: bool = false;

    /// Returns true if no row was added.
    fn is_empty(&self) -> bool;

    /// Adds the rows of another state.
    fn merge(&mut self, other: &Self);

    /// Removes the rows of a state that was merged before.
    fn remove(&mut self, _other: &Self) {}

    /// Whether a received state is valid.
    fn fits(&self) -> bool {
        true
    }
}

/// The states of a series' cells. Sparse while few of them have rows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cells<T> {
    /// Number and state of the cells with rows, ascending. Empty if `all` is not.
    few: Vec<(u32, T)>,
    /// The states of all cells, or empty.
    all: Vec<T>,
}

impl<T: State> Cells<T> {
    /// Returns the state of a cell. `cells` is the number of all cells.
    #[inline]
    pub(crate) fn at(&mut self, cell: u32, cells: u32) -> &mut T {
        if self.all.is_empty() && self.few.last().is_none_or(|(last, _)| *last != cell) {
            return self.find(cell, cells);
        }
        if self.all.is_empty() {
            let last = self.few.len() - 1;
            return &mut self.few[last].1;
        }
        &mut self.all[cell as usize]
    }

    fn find(&mut self, cell: u32, cells: u32) -> &mut T {
        let is_last = self.few.last().is_none_or(|(last, _)| *last < cell);
        let found =
            if is_last { Err(self.few.len()) } else { self.few.binary_search_by_key(&cell, |(number, _)| *number) };
        match found {
            Ok(at) => &mut self.few[at].1,
            Err(_) if self.few.len() >= cells as usize / 2 + 8 => {
                self.spread(cells);
                &mut self.all[cell as usize]
            }
            Err(at) => {
                self.few.insert(at, (cell, T::default()));
                &mut self.few[at].1
            }
        }
    }

    fn spread(&mut self, cells: u32) {
        self.all = vec![T::default(); cells as usize];
        for (cell, state) in std::mem::take(&mut self.few) {
            if let Some(slot) = self.all.get_mut(cell as usize) {
                *slot = state;
            }
        }
    }

    /// Whether the states are valid for this number of cells.
    pub(crate) fn fits(&self, cells: u32) -> bool {
        let few_fit =
            self.few.is_sorted_by(|(a, _), (b, _)| a < b) && self.few.last().is_none_or(|(last, _)| *last < cells);
        let all_fit = self.all.is_empty() || (self.all.len() == cells as usize && self.few.is_empty());
        few_fit && all_fit && self.few.iter().map(|(_, state)| state).chain(&self.all).all(State::fits)
    }

    /// Adds the states of the same cells.
    pub(crate) fn merge(&mut self, mut other: Self, cells: u32) {
        if !other.all.is_empty() && self.all.is_empty() {
            std::mem::swap(self, &mut other);
        }
        if !self.all.is_empty() {
            for (slot, state) in self.all.iter_mut().zip(&other.all) {
                slot.merge(state);
            }
            other.few.iter().for_each(|(cell, state)| self.at(*cell, cells).merge(state));
            return;
        }
        let mine = std::mem::take(&mut self.few);
        self.few.reserve(mine.len().max(other.few.len()));
        let (mut mine, mut theirs) = (mine.into_iter().peekable(), other.few.into_iter().peekable());
        loop {
            let next = match (mine.peek(), theirs.peek()) {
                (Some(a), Some(b)) if a.0 == b.0 => {
                    let next = mine.next();
                    next.zip(theirs.next()).map(|((cell, mut state), (_, other))| {
                        state.merge(&other);
                        (cell, state)
                    })
                }
                (Some(a), Some(b)) if a.0 < b.0 => mine.next(),
                (Some(_), None) => mine.next(),
                _ => theirs.next(),
            };
            let Some(next) = next else { break };
            self.few.push(next);
        }
        if self.few.len() > cells as usize / 2 + 8 {
            self.spread(cells);
        }
    }

    /// Gives every cell the number that `renumber` returns, and drops cells for which it returns `None`. `renumber`
    /// must keep the order.
    pub(crate) fn move_cells(&mut self, renumber: impl Fn(u32) -> Option<u32>) {
        let moved = |(cell, state): (u32, T)| Some((renumber(cell)?, state));
        self.few = std::mem::take(self).into_list().into_iter().filter_map(moved).collect();
    }

    fn into_list(self) -> Vec<(u32, T)> {
        let all = (0..).zip(self.all).filter(|(_, state)| !state.is_empty());
        self.few.into_iter().filter(|(_, state)| !state.is_empty()).chain(all).collect()
    }

    /// Returns the value of each step whose window has rows.
    ///
    /// Each cell is merged a constant number of times, no matter how many windows it is in. A cell that leaves a window
    /// is removed from the merged state. For states that cannot do that, the merges of the window's front are
    /// precomputed.
    pub(crate) fn points(self, grid: &Grid, value: impl Fn(&T) -> f64) -> Vec<(u32, f64)> {
        let cells = self.into_list();
        let mut points = Vec::new();
        let mut window = Sliding::default();
        for step in 0..grid.windows().steps {
            let (from, to) = grid.window(step);
            window.slide(&cells, from, to);
            if window.from < window.to {
                points.push((step, value(&window.state())));
            } else if window.from == cells.len() {
                break;
            }
        }
        points
    }
}

/// The merged state of a run of cells whose ends only move forward.
#[derive(Default)]
struct Sliding<T> {
    from: usize,
    to: usize,
    /// For each cell of the front, the merge from that cell to the end of the front. The last cell comes first.
    front: Vec<T>,
    /// The merge of the cells after the front, or of all cells if the state supports removal.
    back: T,
}

impl<T: State> Sliding<T> {
    fn slide(&mut self, cells: &[(u32, T)], from: u32, to: u32) {
        while let Some((_, state)) = cells.get(self.to).filter(|(cell, _)| *cell < to) {
            self.back.merge(state);
            self.to += 1;
        }
        while self.from < self.to
            && let Some((_, state)) = cells.get(self.from).filter(|(cell, _)| *cell < from)
        {
            self.from += 1;
            if T::CAN_REMOVE {
                self.back.remove(state);
            } else if self.front.pop().is_none() {
                // The front is used up: the cells at the back become the front, and this one leaves.
                self.turn(&cells[self.from..self.to]);
            }
        }
    }

    fn turn(&mut self, cells: &[(u32, T)]) {
        let mut merged = T::default();
        for (_, state) in cells.iter().rev() {
            merged.merge(state);
            self.front.push(merged.clone());
        }
        self.back = T::default();
    }

    fn state(&self) -> std::borrow::Cow<'_, T> {
        match self.front.last() {
            None => std::borrow::Cow::Borrowed(&self.back),
            Some(front) if self.back.is_empty() => std::borrow::Cow::Borrowed(front),
            Some(front) => {
                let mut merged = front.clone();
                merged.merge(&self.back);
                std::borrow::Cow::Owned(merged)
            }
        }
    }
}
