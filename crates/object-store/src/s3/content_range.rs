//! The header `Content-Range`.

use std::ops::Range;

/// The parsed header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) part: Range<u64>,
    pub(super) total: u64,
}

impl ContentRange {
    /// Parses a value such as `bytes 0-9/100`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (part, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = part.split_once('-')?;
        let (start, last, total): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
        let part = start..last.checked_add(1)?;
        (part.start < part.end && part.end <= total).then_some(Self { part, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_content_ranges() {
        let check = |text: &str, expected: Option<(Range<u64>, u64)>| {
            let expected = expected.map(|(part, total)| ContentRange { part, total });
            assert_eq!(ContentRange::parse(text), expected, "{text:?}");
        };
        check("bytes 0-9/100", Some((0..10, 100)));
        check("bytes 99-99/100", Some((99..100, 100)));
        check("bytes 0-100/100", None);
        check("bytes 5-4/100", None);
        check("bytes 0-18446744073709551615/18446744073709551615", None);
        check("bytes */100", None);
        check("bytes 0-9/*", None);
        check("0-9/100", None);
        check("", None);
    }
}
