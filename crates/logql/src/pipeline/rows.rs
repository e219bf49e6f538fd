//! The selected rows of a batch.

use std::ops::Range;

/// Row numbers in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// All rows of a range.
    Span(Range<usize>),
    /// The listed rows.
    List(Vec<u32>),
}

impl Rows {
    /// Returns the rows whose time is in `[start, end)`.
    pub(crate) fn in_time(timestamps: &[i64], start: i64, end: i64) -> Self {
        let inside = |t: &i64| (start <= *t) & (*t < end);
        if timestamps.iter().all(inside) {
            return Self::Span(0..timestamps.len());
        }
        if timestamps.is_sorted() {
            let first = timestamps.partition_point(|t| *t < start);
            let last = timestamps.partition_point(|t| *t < end);
            return Self::Span(first..last.max(first));
        }
        Self::Span(0..timestamps.len()).filter(|row| inside(&timestamps[row]))
    }

    /// Returns the rows of a range that are not in `list`, which is ascending.
    pub(crate) fn without(span: Range<usize>, list: &[u32]) -> Self {
        if list.is_empty() {
            return Self::Span(span);
        }
        let mut rest = list.iter().copied().peekable();
        Self::List(span.map(|row| row as u32).filter(|row| rest.next_if_eq(row).is_none()).collect())
    }

    /// Keeps only the rows for which `passes` returns true.
    pub(crate) fn filter(self, mut passes: impl FnMut(usize) -> bool) -> Self {
        match self {
            Self::Span(span) => Self::List(span.filter(|row| passes(*row)).map(|row| row as u32).collect()),
            Self::List(mut list) => {
                list.retain(|row| passes(*row as usize));
                Self::List(list)
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Span(span) => span.len(),
            Self::List(list) => list.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        let (span, list) = match self {
            Self::Span(span) => (span.clone(), &[][..]),
            Self::List(list) => (0..0, list.as_slice()),
        };
        span.chain(list.iter().map(|row| *row as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_time() {
        assert_eq!(Rows::in_time(&[1, 2, 3], 1, 4), Rows::Span(0..3));
        assert_eq!(Rows::in_time(&[1, 2, 3], 2, 3), Rows::Span(1..2));
        assert_eq!(Rows::in_time(&[3, 1, 2], 2, 4), Rows::List(vec![0, 2]));
        assert_eq!(Rows::without(1..4, &[2]), Rows::List(vec![1, 3]));
    }
}
