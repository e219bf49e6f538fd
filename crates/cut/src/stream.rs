//! The rows of one stream in one segment: slices of records, in offset order.

use std::sync::Arc;

use model::{Labels, Offset, TimeRange};
use parking_lot::Mutex;
use schemas::record::StreamSlice;

/// Number of slices per shared chunk. A reader copies at most this many slices, and one pointer for each full chunk.
const PIECE_SLICES: usize = 64;

/// The rows that one record has for one stream.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The record's offset.
    pub offset: Offset,
    /// The rows. They share the record's bytes.
    pub rows: StreamSlice,
}

/// One stream of one tenant in one segment.
#[derive(Debug)]
pub struct StreamRows {
    labels: Labels,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sealed: Vec<Arc<[Slice]>>,
    open: Vec<Slice>,
    stats: StreamStats,
}

/// Totals of a stream's rows, kept so that nobody has to read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStats {
    /// Number of rows.
    pub rows: u64,
    /// Bytes of their lines.
    pub line_bytes: u64,
    /// The smallest range of time that holds them. `None` if there are no rows.
    pub time: Option<TimeRange>,
    /// Number of slices.
    pub slices: usize,
}

/// The slices that a stream had at one moment. Holds no lock.
#[derive(Clone, Debug)]
pub struct Slices {
    sealed: Vec<Arc<[Slice]>>,
    open: Vec<Slice>,
}

impl StreamRows {
    pub(crate) fn new(labels: Labels) -> Self {
        let stats = StreamStats { rows: 0, line_bytes: 0, time: None, slices: 0 };
        Self { labels, state: Mutex::new(State { sealed: Vec::new(), open: Vec::new(), stats }) }
    }

    /// The stream's labels.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Totals of the rows so far.
    pub fn stats(&self) -> StreamStats {
        self.state.lock().stats
    }

    /// The slices so far, in offset order.
    pub fn slices(&self) -> Slices {
        let state = self.state.lock();
        Slices { sealed: state.sealed.clone(), open: state.open.clone() }
    }

    pub(crate) fn push(&self, slice: Slice) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let last = state.open.last().or_else(|| state.sealed.last().and_then(|piece| piece.last()));
        assert!(last.is_none_or(|last| last.offset <= slice.offset), "slices of a stream come in offset order");
        let time = slice.rows.time_range();
        state.stats.rows += slice.rows.len() as u64;
        state.stats.line_bytes += slice.rows.line_bytes();
        state.stats.slices += 1;
        state.stats.time = Some(match state.stats.time {
            Some(known) => TimeRange::new(known.start.min(time.start), known.end.max(time.end)),
            None => time,
        });
        if state.open.len() == PIECE_SLICES {
            let next = Vec::with_capacity(PIECE_SLICES);
            state.sealed.push(std::mem::replace(&mut state.open, next).into());
        }
        state.open.push(slice);
    }
}

impl Slices {
    /// Iterates in offset order, or from the back.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Slice> {
        self.sealed.iter().flat_map(|piece| piece.iter()).chain(&self.open)
    }

    /// Number of slices.
    pub fn len(&self) -> usize {
        self.sealed.len() * PIECE_SLICES + self.open.len()
    }

    /// True when there are no slices.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
