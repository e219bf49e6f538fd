//! Times for people.

use model::TimestampNs;

/// As RFC 3339, with as many digits as the time needs.
pub(crate) fn shown(time: TimestampNs) -> String {
    timestamp(time).map_or_else(|| time.to_string(), |t| t.to_string())
}

/// As RFC 3339 with nanoseconds: `2026-01-02T15:04:05.123456789Z`.
pub(crate) fn shown_to_nanos(time: TimestampNs) -> String {
    timestamp(time).map_or_else(|| time.to_string(), |t| format!("{t:.9}"))
}

fn timestamp(time: TimestampNs) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_nanosecond(i128::from(time.nanos())).ok()
}
