//! The result of a scan over some of the rows.

use std::collections::HashMap;

use model::{Labels, TimeRange};
use serde::{Deserialize, Serialize};

use crate::{
    entries::Entries,
    grid::Grid,
    states::{SeriesStates, StateKind},
    stats::ScanStats,
};

/// The result of a scan over some of the rows. Partials of one scan can be merged in any order with the same result,
/// and can be sent to another process. [`crate::Scan::partial`] creates one and [`crate::Scan::accept`] fills it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Partial {
    pub(crate) stats: ScanStats,
    pub(crate) found: PartialContent,
}

/// The entries of a log query, or the series of a range aggregation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum PartialContent {
    Entries(Entries),
    Series(SeriesTable),
}

impl Partial {
    /// Counts of the rows that were read.
    pub fn stats(&self) -> ScanStats {
        self.stats
    }

    /// Adds another partial of the same scan.
    ///
    /// # Panics
    /// Panics if the other partial is of another kind of query.
    pub fn merge(&mut self, other: Self) {
        self.stats.add(&other.stats);
        match (&mut self.found, other.found) {
            (PartialContent::Entries(mine), PartialContent::Entries(other)) => mine.merge(other),
            (PartialContent::Series(mine), PartialContent::Series(other)) => mine.merge(other),
            _ => panic!("partials of different scans do not merge"),
        }
    }
}

/// The series of one range aggregation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SeriesTable {
    cells: u32,
    kind: StateKind,
    pub(crate) series: Vec<SeriesData>,
    /// Series numbers by [`push_key`]'s key. Rebuilt after a partial is received.
    #[serde(skip)]
    index: HashMap<Box<[u8]>, u32>,
}

/// The labels and states of one series.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SeriesData {
    pub(crate) labels: Labels,
    pub(crate) states: SeriesStates,
}

/// Appends one label to a series' key.
pub(crate) fn push_key(key: &mut Vec<u8>, name: &str, value: &str) {
    key.extend_from_slice(name.as_bytes());
    key.push(0xff);
    key.extend_from_slice(value.as_bytes());
    key.push(0xff);
}

impl SeriesTable {
    pub(crate) fn new(grid: &Grid, kind: StateKind) -> Self {
        Self { cells: grid.cells(), kind, series: Vec::new(), index: HashMap::new() }
    }

    /// Whether all states are of this kind and all cell numbers are in this grid.
    pub(crate) fn fits(&self, grid: &Grid, kind: StateKind) -> bool {
        let is_alike = self.cells == grid.cells() && self.kind == kind;
        is_alike && self.series.iter().all(|series| series.states.fits(kind, self.cells))
    }

    /// Returns the same states with the cell numbers of another grid. `time` is the time range of that grid's windows.
    pub(crate) fn moved(mut self, from: &Grid, to: &Grid, time: TimeRange) -> Self {
        let renumber = |cell: u32| {
            let number = from.base() + i128::from(cell) - to.base();
            u32::try_from(number).ok().filter(|number| *number < to.cells())
        };
        for series in &mut self.series {
            series.states.move_cells(renumber, time);
        }
        self.cells = to.cells();
        self
    }

    fn refresh_index(&mut self) {
        if self.index.len() == self.series.len() {
            return;
        }
        self.index.clear();
        for (number, series) in self.series.iter().enumerate() {
            let mut key = Vec::new();
            series.labels.iter().for_each(|(n, v)| push_key(&mut key, n, v));
            self.index.insert(key.into(), number as u32);
        }
    }

    /// Returns the number of the series with this key: its labels in name order, see [`push_key`].
    pub(crate) fn number(&mut self, key: &[u8], labels: impl FnOnce() -> Labels) -> u32 {
        self.refresh_index();
        if let Some(number) = self.index.get(key) {
            return *number;
        }
        let number = self.series.len() as u32;
        self.series.push(SeriesData { labels: labels(), states: SeriesStates::new(self.kind) });
        self.index.insert(key.into(), number);
        number
    }

    fn merge(&mut self, other: Self) {
        let cells = self.cells;
        let mut key = Vec::new();
        for theirs in other.series {
            key.clear();
            theirs.labels.iter().for_each(|(n, v)| push_key(&mut key, n, v));
            let number = self.number(&key, || theirs.labels.clone());
            self.series[number as usize].states.merge(theirs.states, cells);
        }
    }
}
