//! Points of time as texts.

use model::TimestampNs;

/// RFC 3339 in whole seconds: `2026-01-02T15:04:05Z`.
pub(crate) fn rfc3339(ts: TimestampNs) -> String {
    let seconds = ts.nanos().div_euclid(1_000_000_000);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| ts.to_string(), |t| t.to_string())
}

/// As Go prints a time: `2026-01-02 15:04:05.123456789 +0000 UTC`, without trailing zeros of the fraction.
pub(crate) fn go_text(ts: TimestampNs) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(ts.nanos())) {
        Ok(time) => format!("{} +0000 UTC", time.to_string().trim_end_matches('Z').replace('T', " ")),
        Err(_) => ts.to_string(),
    }
}

/// Reads RFC 3339 with an optional fraction.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let check = |nanos: i64, short: &str, long: &str| {
            let ts = TimestampNs::from_nanos(nanos);
            assert_eq!((rfc3339(ts).as_str(), go_text(ts).as_str()), (short, long));
        };
        check(1_767_366_245_123_456_789, "2026-01-02T15:04:05Z", "2026-01-02 15:04:05.123456789 +0000 UTC");
        check(1_767_366_245_000_000_000, "2026-01-02T15:04:05Z", "2026-01-02 15:04:05 +0000 UTC");
        check(-1, "1969-12-31T23:59:59Z", "1969-12-31 23:59:59.999999999 +0000 UTC");
        assert_eq!(parse_rfc3339("2026-01-02T15:04:05.5Z"), Some(1_767_366_245_500_000_000));
        assert_eq!(parse_rfc3339("2026-01-02T17:04:05+02:00"), Some(1_767_366_245_000_000_000));
        assert_eq!(parse_rfc3339("now"), None);
    }
}
