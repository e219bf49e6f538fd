//! A stream while its entries come in.

use std::sync::Arc;

use model::{Labels, LabelsError};

use crate::failures::ThrottledEntries;
use crate::refusal::Reason;
use crate::tenants::ActiveStream;

/// The labels of a stream as the client sent them.
pub(crate) enum PushedLabels {
    /// They were read.
    Read(Labels),
    /// Their text is not a label set.
    Unread { text: String, error: LabelsError },
    /// A name occurs twice.
    Duplicate { text: String, name: String },
}

impl PushedLabels {
    /// What parsing `text` gave.
    pub(crate) fn parsed(text: &str, result: Result<Labels, LabelsError>) -> Self {
        match result {
            Ok(labels) => Self::Read(labels),
            Err(LabelsError::Duplicate(name)) => Self::Duplicate { text: text.to_owned(), name },
            Err(error) => Self::Unread { text: text.to_owned(), error },
        }
    }
}

/// The stream that the decoder is in.
pub(super) struct OpenStream {
    pub(super) pushed: PushedLabels,
    /// Metadata that every entry of the stream has. Moves to the [`AcceptedStream`].
    pub(super) common: Vec<(String, String)>,
    /// `None` before the first entry: streams without entries are not checked.
    pub(super) check: Option<StreamCheck>,
    pub(super) entries: usize,
    pub(super) throttled: ThrottledEntries,
    pub(super) previous: Option<PreviousEntry>,
}

/// The outcome of checking a stream's labels.
pub(super) enum StreamCheck {
    Accepted(Box<AcceptedStream>),
    /// All entries are counted under this reason.
    Rejected(Reason),
}

/// A stream whose entries can be stored.
pub(super) struct AcceptedStream {
    pub(super) labels: Labels,
    pub(super) common: Vec<(String, String)>,
    /// Bytes of all names and values of `common`.
    pub(super) common_bytes: usize,
    /// The level, if labels or common metadata tell it.
    pub(super) level: Option<String>,
    /// `None` when the tenant may not have one more active stream.
    pub(super) active: Option<Arc<ActiveStream>>,
    /// The output that its next entry goes to.
    pub(super) output: usize,
    /// Set when the stream is too fast for one partition: its records take turns, beginning at this output.
    pub(super) spread_from: Option<usize>,
    /// True when the output's record already knows the stream.
    pub(super) is_begun: bool,
    /// Bytes stored of it.
    pub(super) bytes: u64,
}

impl AcceptedStream {
    pub(super) fn common(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.common.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Moves a stream that is too fast for one partition to the next of `outputs`.
    pub(super) fn take_turn(&mut self, outputs: usize) {
        if let (Some(first), Some(active)) = (self.spread_from, &self.active) {
            self.output = (first + active.turn()) % outputs;
        }
    }
}

/// The entry before this one, for `increment_duplicate_timestamp`.
pub(super) struct PreviousEntry {
    /// Nanoseconds, as pushed and as stored.
    pub(super) pushed: i64,
    pub(super) stored: i64,
    pub(super) line: Vec<u8>,
}
