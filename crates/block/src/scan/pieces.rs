//! The rows that a scan reads, in pieces of one stream and one row group.

use std::{collections::VecDeque, ops::Range};

use model::TimeRange;

use crate::{columns::LeafPages, table::StreamTable};

/// Rows of one stream in one row group.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) stream: u32,
    pub(super) rows: Range<u32>,
    /// All rows lie in the requested time, as the stream table says.
    pub(super) inside: bool,
}

impl Piece {
    /// Splits `rows` of the piece where a page of one of the leaf columns ends.
    pub(super) fn split<'a>(&self, rows: Range<u32>, leaves: impl Iterator<Item = &'a LeafPages>) -> Vec<Piece> {
        if rows.is_empty() {
            return Vec::new();
        }
        let mut ends = vec![rows.end];
        for leaf in leaves {
            let pages = leaf.of_rows(&rows);
            ends.extend(leaf.pages[pages].iter().map(|page| page.rows.end).filter(|end| *end < rows.end));
        }
        ends.sort_unstable();
        ends.dedup();
        let mut start = rows.start;
        let piece = |end| {
            let rows = start..end;
            start = end;
            Piece { rows, ..self.clone() }
        };
        ends.into_iter().map(piece).collect()
    }
}

/// The rows of `streams`, by row group. Streams without rows in `time` are left out.
pub(super) fn pieces_by_group(
    table: &StreamTable,
    streams: &[u32],
    time: Option<&TimeRange>,
) -> VecDeque<(usize, Vec<Piece>)> {
    let mut groups: VecDeque<(usize, Vec<Piece>)> = VecDeque::new();
    for ordinal in streams {
        let Some(stream) = table.streams.get(*ordinal as usize).filter(|s| time.is_none_or(|time| s.overlaps(time)))
        else {
            continue;
        };
        let inside = time.is_none_or(|time| stream.lies_in(time));
        let first = table.groups.partition_point(|group| group.rows.end <= stream.rows.start);
        for (i, group) in table.groups.iter().enumerate().skip(first) {
            if group.rows.start >= stream.rows.end {
                break;
            }
            let start = stream.rows.start.max(group.rows.start) - group.rows.start;
            let end = stream.rows.end.min(group.rows.end) - group.rows.start;
            // Row groups have fewer than 2^32 rows; that was checked when the index was opened.
            let piece = Piece { stream: *ordinal, rows: start as u32..end as u32, inside };
            match groups.back_mut() {
                Some((last, pieces)) if *last == i => pieces.push(piece),
                _ => groups.push_back((i, vec![piece])),
            }
        }
    }
    groups
}
