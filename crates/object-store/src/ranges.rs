//! Joins the ranges of one call, so that near ranges become one read.

use std::ops::Range;

use bytes::Bytes;

/// The largest length to which ranges are joined. Several reads of this size at once are faster than one larger read.
const JOINED_BYTES_MAX: u64 = 8 << 20;
/// The last position that an object can have. Servers may refuse to read larger numbers.
const POSITION_MAX: u64 = i64::MAX as u64;

/// True for ranges that some object can contain.
pub(crate) fn is_plausible(range: &Range<u64>) -> bool {
    range.start <= range.end && range.end <= POSITION_MAX
}

/// The ranges to read, in order. Every given range that is plausible and not empty lies in one of them. Ranges that are
/// at most `gap_bytes_max` apart are joined.
pub(crate) fn join(ranges: &[Range<u64>], gap_bytes_max: u64) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| is_plausible(range) && !range.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.end <= last.end => {}
            Some(last)
                if range.start <= last.end.saturating_add(gap_bytes_max)
                    && range.end - last.start <= JOINED_BYTES_MAX =>
            {
                last.end = range.end;
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// Cuts a range out of the one of `joined` that contains it. `bytes` returns the bytes of each. An empty range has no
/// bytes.
pub(crate) fn cut_out<'a>(range: &Range<u64>, joined: &[Range<u64>], bytes: impl Fn(usize) -> &'a Bytes) -> Bytes {
    if range.is_empty() {
        return Bytes::new();
    }
    // Both starts and ends increase, so the first joined range that ends late enough also starts early enough.
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
    #[expect(clippy::single_range_in_vec_init, reason = "a list with one range is meant")]
    fn joins_near_ranges() {
        const G: u64 = 32 << 10;
        let check =
            |ranges: &[Range<u64>], expected: &[Range<u64>]| assert_eq!(join(ranges, G), expected, "{ranges:?}");
        check(&[], &[]);
        check(&[5..5], &[]);
        check(&[5..5, 9..9], &[]);
        check(&[0..10, 10..20], &[0..20]);
        check(&[10..20, 0..10], &[0..20]);
        check(&[10..20, 0..5], &[0..20]);
        check(&[0..10, 10 + G..20 + G], &[0..20 + G]);
        check(&[0..10, 11 + G..20 + G], &[0..10, 11 + G..20 + G]);
        check(&[0..100, 10..20], &[0..100]);
        check(&[0..100, 20..30, 25..110], &[0..110]);
        check(&[0..JOINED_BYTES_MAX, 7..9], &[0..JOINED_BYTES_MAX]);
        check(
            &[0..JOINED_BYTES_MAX, JOINED_BYTES_MAX..JOINED_BYTES_MAX + 1],
            &[0..JOINED_BYTES_MAX, JOINED_BYTES_MAX..JOINED_BYTES_MAX + 1],
        );
        check(&[0..u64::MAX, 3..4], &[3..4]);
    }

    proptest! {
        #[test]
        fn cuts_out_what_was_requested(
            ranges in prop::collection::vec((0u64..30_000_000, 0u64..12_000_000), 1..20)
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(start, length)| start..start + length).collect();
            let joined = join(&ranges, 256 << 10);
            // The addresses of these zeros show where a slice begins.
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
