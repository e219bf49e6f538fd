//! The rows of one stream in one segment: slices of records, in offset order.

use std::sync::Arc;

use model::{Labels, Offset, TimeRange};
use parking_lot::Mutex;
use schemas::record::StreamSlice;

/// How many slices are handed to readers as one shared piece. A reader copies at most this many, and one
/// pointer for each piece before.
const PIECE_SLICES: usize = 64;

/// The rows that one record has for one stream.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The record's offset.
    pub offset: Offset,
    /// The rows; they share the record's bytes.
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

/// What is known of a stream's rows without looking at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStats {
    /// How many rows.
    pub rows: u64,
    /// How many bytes their lines have.
    pub line_bytes: u64,
    /// The smallest range of time that holds them; `None` when there are none.
    pub time: Option<TimeRange>,
    /// How many slices they lie in.
    pub slices: usize,
}

/// The slices a stream had at one moment. Holds no lock.
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

    /// What is known of the rows up to now.
    pub fn stats(&self) -> StreamStats {
        self.state.lock().stats
    }

    /// The slices up to now, in offset order.
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
    /// In offset order; can be walked from the back.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Slice> {
        self.sealed.iter().flat_map(|piece| piece.iter()).chain(&self.open)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sealed.len() * PIECE_SLICES + self.open.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
