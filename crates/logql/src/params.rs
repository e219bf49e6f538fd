//! What comes with a query besides its text.

use std::time::Duration;

use model::TimestampNs;
use serde::{Deserialize, Serialize};

/// Which entries of a log query come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// The newest.
    #[default]
    Backward,
    /// The oldest.
    Forward,
}

/// What comes with a query's text. Sent to owners together with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// Of a log query: the first nanosecond. Of a metric query over a range: the first step (already aligned).
    pub start: TimestampNs,
    /// Of a log query: the first nanosecond behind the range. Of a metric query: the last step is not after it; the
    /// only one of an instant query is at it.
    pub end: TimestampNs,
    /// From step to step of a metric query; zero: an instant query.
    pub step: Duration,
    /// Least distance between the entries of a log query; zero: any.
    pub interval: Duration,
    /// Which entries of a log query come first.
    pub direction: Direction,
    /// Most entries of a log query, before `interval` thins them.
    pub limit: u32,
    /// Most series of a metric query; 0: any number.
    pub series_max: u32,
}
