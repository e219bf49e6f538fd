//! The states of range aggregations: for each cell, only what the operation needs.

use model::{TimeRange, TimestampNs};
use serde::{Deserialize, Serialize};

use crate::{
    ast::RangeOp,
    cells::{Cells, State},
    exact::ExactSum,
    grid::Grid,
    samples,
};

/// Which states a range aggregation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StateKind {
    Rows,
    Bytes,
    Sum,
    Moments,
    Least,
    Greatest,
    First,
    Last,
    /// Every value.
    Samples,
}

impl StateKind {
    /// Returns the kind that an operation needs. Without unwrapped values, only rows and bytes can be counted.
    pub(crate) fn of(op: RangeOp, is_unwrapped: bool) -> Self {
        match op {
            RangeOp::BytesRate | RangeOp::BytesOverTime if !is_unwrapped => Self::Bytes,
            _ if !is_unwrapped => Self::Rows,
            RangeOp::Rate | RangeOp::SumOverTime | RangeOp::AvgOverTime => Self::Sum,
            RangeOp::StdvarOverTime | RangeOp::StddevOverTime => Self::Moments,
            RangeOp::MinOverTime => Self::Least,
            RangeOp::MaxOverTime => Self::Greatest,
            RangeOp::FirstOverTime => Self::First,
            RangeOp::LastOverTime => Self::Last,
            RangeOp::QuantileOverTime | RangeOp::RateCounter => Self::Samples,
            RangeOp::CountOverTime | RangeOp::BytesRate | RangeOp::BytesOverTime | RangeOp::AbsentOverTime => {
                Self::Rows
            }
        }
    }

    /// Returns its name in [`crate::ScanId`].
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Bytes => "bytes",
            Self::Sum => "sum",
            Self::Moments => "moments",
            Self::Least => "least",
            Self::Greatest => "greatest",
            Self::First => "first",
            Self::Last => "last",
            Self::Samples => "samples",
        }
    }
}

/// Number of rows.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rows(pub(crate) u64);

impl State for Rows {
    const CAN_REMOVE: bool = true;

    fn is_empty(&self) -> bool {
        self.0 == 0
    }

    fn merge(&mut self, other: &Self) {
        self.0 = self.0.saturating_add(other.0);
    }

    fn remove(&mut self, other: &Self) {
        self.0 = self.0.saturating_sub(other.0);
    }
}

/// Number of rows, and the bytes of their lines.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Bytes {
    pub(crate) rows: Rows,
    pub(crate) bytes: u64,
}

impl State for Bytes {
    const CAN_REMOVE: bool = true;

    fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn merge(&mut self, other: &Self) {
        self.rows.merge(&other.rows);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    fn remove(&mut self, other: &Self) {
        self.rows.remove(&other.rows);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// Number and sum of values.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sum {
    rows: Rows,
    sum: ExactSum,
}

impl Sum {
    fn add(&mut self, value: f64) {
        self.rows.0 += 1;
        self.sum.add(value);
    }
}

impl State for Sum {
    fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn merge(&mut self, other: &Self) {
        self.rows.merge(&other.rows);
        self.sum.merge(&other.sum);
    }

    fn fits(&self) -> bool {
        self.sum.fits()
    }
}

/// Number and sum of values, and the sum of their squares. The sums are exact, so that subtracting them loses nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Moments {
    of_values: Sum,
    squares: ExactSum,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.of_values.add(value);
        self.squares.add_product(value, value);
    }

    /// Returns the population variance.
    fn variance(&self) -> f64 {
        let Sum { rows, sum } = &self.of_values;
        let count = rows.0 as f64;
        if sum.is_special() {
            return f64::NAN;
        }
        let scaled = self.squares.times_minus_square(count, sum);
        if scaled.is_finite() {
            return (scaled / count / count).max(0.0);
        }
        // The squares of large values overflow if they are multiplied.
        (self.squares.divided(count) - sum.divided(count).powi(2)).max(0.0)
    }
}

impl State for Moments {
    fn is_empty(&self) -> bool {
        self.of_values.is_empty()
    }

    fn merge(&mut self, other: &Self) {
        self.of_values.merge(&other.of_values);
        self.squares.merge(&other.squares);
    }

    fn fits(&self) -> bool {
        self.of_values.fits() && self.squares.fits()
    }
}

/// The bits of a value, because not every serialization format supports NaN.
type Bits = u64;

/// The least value; NaN only if all values are NaN. -0 is less than 0.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Least(Option<Bits>);

/// The greatest value; NaN only if all values are NaN.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Greatest(Option<Bits>);

/// Returns the preferred one of two values. A number is preferred to NaN; otherwise `is_better` decides.
fn preferred(a: Option<Bits>, b: Option<Bits>, is_better: fn(std::cmp::Ordering) -> bool) -> Option<Bits> {
    let (Some(a_bits), Some(b_bits)) = (a, b) else { return a.or(b) };
    let (a, b) = (f64::from_bits(a_bits), f64::from_bits(b_bits));
    let a_wins = !a.is_nan() && (b.is_nan() || is_better(a.total_cmp(&b)));
    Some(if a_wins { a_bits } else { b_bits })
}

impl State for Least {
    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn merge(&mut self, other: &Self) {
        self.0 = preferred(self.0, other.0, std::cmp::Ordering::is_lt);
    }
}

impl State for Greatest {
    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn merge(&mut self, other: &Self) {
        self.0 = preferred(self.0, other.0, std::cmp::Ordering::is_gt);
    }
}

/// Time and value of the first row. If several rows have this time, the one with the least bits.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct First(Option<(i64, Bits)>);

/// Time and value of the last row. If several rows have this time, the one with the greatest bits.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Last(Option<(i64, Bits)>);

impl State for First {
    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn merge(&mut self, other: &Self) {
        self.0 = self.0.into_iter().chain(other.0).min();
    }
}

impl State for Last {
    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn merge(&mut self, other: &Self) {
        self.0 = self.0.max(other.0);
    }
}

/// The states of one series.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum SeriesStates {
    Rows(Cells<Rows>),
    Bytes(Cells<Bytes>),
    Sum(Cells<Sum>),
    Moments(Cells<Moments>),
    Least(Cells<Least>),
    Greatest(Cells<Greatest>),
    First(Cells<First>),
    Last(Cells<Last>),
    /// Time and value of every row, in no order.
    Samples(Vec<(i64, Bits)>),
}

/// Runs the same code for every kind of cells. `$samples` handles the kind without cells.
macro_rules! each_kind {
    ($states:expr, $cells:ident => $of_cells:expr, $samples:ident => $of_samples:expr) => {
        match $states {
            SeriesStates::Rows($cells) => $of_cells,
            SeriesStates::Bytes($cells) => $of_cells,
            SeriesStates::Sum($cells) => $of_cells,
            SeriesStates::Moments($cells) => $of_cells,
            SeriesStates::Least($cells) => $of_cells,
            SeriesStates::Greatest($cells) => $of_cells,
            SeriesStates::First($cells) => $of_cells,
            SeriesStates::Last($cells) => $of_cells,
            SeriesStates::Samples($samples) => $of_samples,
        }
    };
}

impl SeriesStates {
    pub(crate) fn new(kind: StateKind) -> Self {
        match kind {
            StateKind::Rows => Self::Rows(Cells::default()),
            StateKind::Bytes => Self::Bytes(Cells::default()),
            StateKind::Sum => Self::Sum(Cells::default()),
            StateKind::Moments => Self::Moments(Cells::default()),
            StateKind::Least => Self::Least(Cells::default()),
            StateKind::Greatest => Self::Greatest(Cells::default()),
            StateKind::First => Self::First(Cells::default()),
            StateKind::Last => Self::Last(Cells::default()),
            StateKind::Samples => Self::Samples(Vec::new()),
        }
    }

    fn kind(&self) -> StateKind {
        match self {
            Self::Rows(_) => StateKind::Rows,
            Self::Bytes(_) => StateKind::Bytes,
            Self::Sum(_) => StateKind::Sum,
            Self::Moments(_) => StateKind::Moments,
            Self::Least(_) => StateKind::Least,
            Self::Greatest(_) => StateKind::Greatest,
            Self::First(_) => StateKind::First,
            Self::Last(_) => StateKind::Last,
            Self::Samples(_) => StateKind::Samples,
        }
    }

    /// Whether these are valid states of this kind for this number of cells.
    pub(crate) fn fits(&self, kind: StateKind, cells: u32) -> bool {
        self.kind() == kind && each_kind!(self, of_kind => of_kind.fits(cells), _samples => true)
    }

    /// Adds rows without values, all in one cell.
    #[inline]
    pub(crate) fn add_rows(&mut self, cell: u32, cells: u32, rows: u64, bytes: u64) {
        match self {
            Self::Rows(of_rows) => of_rows.at(cell, cells).merge(&Rows(rows)),
            Self::Bytes(of_bytes) => of_bytes.at(cell, cells).merge(&Bytes { rows: Rows(rows), bytes }),
            _ => {}
        }
    }

    /// Adds one row with a value.
    pub(crate) fn add_value(&mut self, cell: u32, cells: u32, ts: i64, value: f64) {
        let bits = value.to_bits();
        match self {
            Self::Rows(_) | Self::Bytes(_) => self.add_rows(cell, cells, 1, 0),
            Self::Sum(sums) => sums.at(cell, cells).add(value),
            Self::Moments(moments) => moments.at(cell, cells).add(value),
            Self::Least(least) => least.at(cell, cells).merge(&Least(Some(bits))),
            Self::Greatest(greatest) => greatest.at(cell, cells).merge(&Greatest(Some(bits))),
            Self::First(first) => first.at(cell, cells).merge(&First(Some((ts, bits)))),
            Self::Last(last) => last.at(cell, cells).merge(&Last(Some((ts, bits)))),
            Self::Samples(samples) => samples.push((ts, bits)),
        }
    }

    /// Gives every cell the number that `renumber` returns. Keeps only samples in `time`.
    pub(crate) fn move_cells(&mut self, renumber: impl Fn(u32) -> Option<u32>, time: TimeRange) {
        each_kind!(
            self,
            cells => cells.move_cells(renumber),
            samples => samples.retain(|(ts, _)| time.contains(TimestampNs::from_nanos(*ts)))
        );
    }

    /// Adds the states of the same series. Ignores states of another kind, which belong to another scan.
    pub(crate) fn merge(&mut self, other: Self, cells: u32) {
        match (self, other) {
            (Self::Rows(mine), Self::Rows(other)) => mine.merge(other, cells),
            (Self::Bytes(mine), Self::Bytes(other)) => mine.merge(other, cells),
            (Self::Sum(mine), Self::Sum(other)) => mine.merge(other, cells),
            (Self::Moments(mine), Self::Moments(other)) => mine.merge(other, cells),
            (Self::Least(mine), Self::Least(other)) => mine.merge(other, cells),
            (Self::Greatest(mine), Self::Greatest(other)) => mine.merge(other, cells),
            (Self::First(mine), Self::First(other)) => mine.merge(other, cells),
            (Self::Last(mine), Self::Last(other)) => mine.merge(other, cells),
            (Self::Samples(mine), Self::Samples(other)) => mine.extend(other),
            _ => debug_assert!(false, "states of different kinds"),
        }
    }
}

/// Returns the value of each step whose window has rows. `parameter` is the quantile.
pub(crate) fn points(states: SeriesStates, op: RangeOp, parameter: f64, grid: &Grid) -> Vec<(u32, f64)> {
    let seconds = grid.windows().range as f64 / 1e9;
    let divisor = match op {
        RangeOp::Rate | RangeOp::BytesRate => seconds,
        _ => 1.0,
    };
    let float = |bits: Option<Bits>| bits.map_or(f64::NAN, f64::from_bits);
    match states {
        SeriesStates::Rows(cells) => cells.points(grid, |state| state.0 as f64 / divisor),
        SeriesStates::Bytes(cells) => cells.points(grid, |state| state.bytes as f64 / divisor),
        SeriesStates::Sum(cells) if op == RangeOp::AvgOverTime => {
            cells.points(grid, |state| state.sum.divided(state.rows.0 as f64))
        }
        SeriesStates::Sum(cells) => cells.points(grid, |state| state.sum.total() / divisor),
        SeriesStates::Moments(cells) if op == RangeOp::StddevOverTime => {
            cells.points(grid, |state| state.variance().sqrt())
        }
        SeriesStates::Moments(cells) => cells.points(grid, Moments::variance),
        SeriesStates::Least(cells) => cells.points(grid, |state| float(state.0)),
        SeriesStates::Greatest(cells) => cells.points(grid, |state| float(state.0)),
        SeriesStates::First(cells) => cells.points(grid, |state| float(state.0.map(|(_, bits)| bits))),
        SeriesStates::Last(cells) => cells.points(grid, |state| float(state.0.map(|(_, bits)| bits))),
        SeriesStates::Samples(samples) => samples::points(op, parameter, grid, samples),
    }
}
