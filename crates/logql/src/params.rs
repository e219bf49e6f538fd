//! The parameters of a query.

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

/// The parameters of a query. Owners receive them together with its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// Of a log query: the first nanosecond. Of a metric query over a range: the first step (already aligned).
    pub start: TimestampNs,
    /// Of a log query: the first nanosecond after the range. Of a metric query: no step is later; the only step of an
    /// instant query is exactly here.
    pub end: TimestampNs,
    /// The distance between the steps of a metric query; zero for an instant query.
    pub step: Duration,
    /// The minimum distance between the entries of a log query; zero for no minimum.
    pub interval: Duration,
    /// Which entries of a log query come first.
    pub direction: Direction,
    /// Maximum number of entries of a log query, before `interval` thins them.
    pub limit: u32,
    /// Maximum number of series of a metric query; 0 for no limit.
    pub series_max: u32,
}
