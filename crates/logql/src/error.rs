//! Errors of queries, with Loki's texts.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A query that does not parse, or fails a static check. [`fmt::Display`] prints the text that clients see, such as
/// `parse error at line 1, col 6: syntax error: unexpected $end, expecting STRING`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParseError {
    message: String,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    /// Line (0 for tokens whose line Loki loses) and column in characters, from 1.
    At(usize, usize),
    /// An error in the finished tree, which has no position.
    Tree,
    /// The text is shown without `parse error`.
    Bare,
}

impl ParseError {
    pub(crate) fn at(line: usize, column: usize, message: impl Into<String>) -> Self {
        let place = if (line, column) == (0, 0) { Place::Tree } else { Place::At(line, column) };
        Self { message: message.into(), place }
    }

    /// An error without a position.
    pub(crate) fn tree(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: Place::Tree }
    }

    /// An error whose text is shown without `parse error`.
    pub(crate) fn bare(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: Place::Bare }
    }

    /// The text without `parse error …:`.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns line and column of the offending token, if known. The line is 0 where Loki reports 0.
    pub fn position(&self) -> Option<(usize, usize)> {
        match self.place {
            Place::At(line, column) => Some((line, column)),
            Place::Tree | Place::Bare => None,
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::At(line, column) => write!(f, "parse error at line {line}, col {column}: {}", self.message),
            Place::Tree => write!(f, "parse error : {}", self.message),
            Place::Bare => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ParseError {}

/// Why a query failed. Clients see these texts. Owners send errors to the query service.
#[derive(Clone, Debug, PartialEq, Error, Serialize, Deserialize)]
pub enum QueryError {
    /// The text is not a valid query. HTTP 400.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The query uses a feature that is not evaluated yet. The text names it. HTTP 501.
    #[error("{0}")]
    NotEvaluated(String),
    /// An entry of a metric query has an error that the query does not handle. HTTP 400.
    #[error(
        "pipeline error: '{error}' for series: '{series}'.\n\
         Use a label filter to intentionally skip this error. (e.g | __error__!=\"{error}\").\n\
         To skip all potential errors you can match empty errors.(e.g __error__=\"\")\n\
         The label filter can also be specified after unwrap. (e.g | unwrap latency | __error__=\"\" )\n"
    )]
    Pipeline {
        /// The error, as in `__error__`.
        error: String,
        /// The labels of the entry.
        series: String,
    },
    /// The answer would have more series than [`crate::Params::series_max`]. HTTP 400.
    #[error(
        "maximum number of series ({0}) reached for a single query; consider reducing query cardinality by adding more \
         specific stream selectors, reducing the time range, or aggregating results with functions like sum(), count() \
         or topk()"
    )]
    SeriesLimit(u32),
    /// The evaluation failed, for instance because the legs of an operation do not match. HTTP 500.
    #[error("{0}")]
    Evaluation(String),
}
