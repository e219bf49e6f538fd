//! Which ranges to ask for, and what answers hold.

use std::ops::Range;

use bytes::Bytes;

/// Ranges of one call that are at most this far apart are asked for as one: the bytes between them come faster (at some
/// 80 MB/s of a connection) than the first byte of another answer (20 to 50 ms).
const GAP_BYTES_MAX: u64 = 256 << 10;
/// Joined ranges grow no larger than this: several connections together are faster than one.
const JOINED_BYTES_MAX: u64 = 8 << 20;
/// No object is larger; servers may refuse to read larger numbers.
const POSITION_MAX: u64 = i64::MAX as u64;

/// The header `Content-Range`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) part: Range<u64>,
    pub(super) total: u64,
}

/// Reads `bytes 0-9/100`.
pub(super) fn content_range(text: &str) -> Option<ContentRange> {
    let (part, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (start, last, total): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    let part = start..last.checked_add(1)?;
    (part.start < part.end && part.end <= total).then_some(ContentRange { part, total })
}

/// Whether a range can lie in an object at all.
pub(super) fn is_plausible(range: &Range<u64>) -> bool {
    range.start <= range.end && range.end <= POSITION_MAX
}

/// The ranges to ask for, in order and apart: every plausible range that is not empty lies in one of them.
pub(super) fn join(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| is_plausible(range) && !range.is_empty()).cloned().collect();
    sorted.sort_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.end <= last.end => {}
            Some(last)
                if range.start <= last.end.saturating_add(GAP_BYTES_MAX)
                    && range.end - last.start <= JOINED_BYTES_MAX =>
            {
                last.end = range.end;
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// The bytes of a range that lies in one of `joined`; of an empty range, none. `bytes` gives the bytes of each.
pub(super) fn cut_out<'a>(range: &Range<u64>, joined: &[Range<u64>], bytes: impl Fn(usize) -> &'a Bytes) -> Bytes {
    if range.is_empty() {
        return Bytes::new();
    }
    // Starts never go back and ends go on, so the first that ends late enough also starts early enough.
    let i = joined.partition_point(|joined| joined.end < range.end);
    let start = range.start - joined[i].start;
    let within = start as usize..(start + (range.end - range.start)) as usize;
    bytes(i).slice(within)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_ranges() {
        let check = |text: &str, expected: Option<(Range<u64>, u64)>| {
            assert_eq!(content_range(text), expected.map(|(part, total)| ContentRange { part, total }), "{text:?}");
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

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a list with one range is meant")]
    fn joins_near_ranges() {
        let check = |ranges: &[Range<u64>], expected: &[Range<u64>]| assert_eq!(join(ranges), expected, "{ranges:?}");
        let gap = GAP_BYTES_MAX;
        check(&[], &[]);
        check(&[5..5, 9..9], &[]);
        check(&[10..20, 0..5], &[0..20]);
        check(&[0..10, gap + 10..gap + 20], &[0..gap + 20]);
        check(&[0..10, gap + 11..gap + 20], &[0..10, gap + 11..gap + 20]);
        check(&[0..100, 10..20], &[0..100]);
        check(
            &[0..JOINED_BYTES_MAX, JOINED_BYTES_MAX..JOINED_BYTES_MAX + 1],
            &[0..JOINED_BYTES_MAX, JOINED_BYTES_MAX..JOINED_BYTES_MAX + 1],
        );
        check(&[0..u64::MAX, 3..4], &[3..4]);
    }

    proptest! {
        #[test]
        fn what_is_cut_out_is_what_was_asked_for(
            ranges in prop::collection::vec((0u64..30_000_000, 0u64..12_000_000), 1..20)
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(start, length)| start..start + length).collect();
            let joined = join(&ranges);
            // In place of bytes: zeros that know where they begin.
            let zeros = Bytes::from(vec![0u8; 64 << 20]);
            let parts: Vec<_> = joined.iter().map(|r| zeros.slice(r.start as usize..r.end as usize)).collect();
            for range in &ranges {
                let found = cut_out(range, &joined, |i| &parts[i]);
                prop_assert_eq!(found.len() as u64, range.end - range.start);
                if !found.is_empty() {
                    let at = found.as_ptr().addr() - zeros.as_ptr().addr();
                    prop_assert_eq!(at as u64, range.start);
                }
            }
        }
    }
}
