//! The lines of a batch, as far as its supplier has decoded them.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use crate::ByteColumn;

/// The lines of a batch.
///
/// How much a batch holds depends on what the scan asked for ([`LineNeed`](crate::LineNeed)). Code that reads many
/// lines calls [`Lines::content`] once per batch and works on the column.
#[derive(Clone, Debug, Default)]
pub enum Lines {
    /// The batch holds no information about its lines, not even their number.
    #[default]
    Absent,
    /// The batch holds only lengths: line `i` has `offsets[i + 1] - offsets[i]` bytes. The offsets never fall.
    Lengths(Vec<u32>),
    /// The bytes of all lines.
    Decoded(ByteColumn),
    /// Lines that are decoded on first use.
    Lazy(Arc<LazyLines>),
}

/// Encoded lines that can be decoded at any time, for example a template and its variables.
pub trait LineSource: std::fmt::Debug + Send + Sync {
    /// Number of lines.
    fn len(&self) -> usize;

    /// True when there are no lines.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of line `row` in bytes. Decodes no line.
    fn bytes_of(&self, row: usize) -> usize;

    /// Decodes the lines of `rows`, in the order given. A source checks its bytes when it is created, so decoding
    /// cannot fail.
    fn decode(&self, rows: &mut dyn Iterator<Item = usize>) -> ByteColumn;
}

/// A [`LineSource`] and the lines that were decoded from it.
#[derive(Debug)]
pub struct LazyLines {
    source: Box<dyn LineSource>,
    decoded: OnceLock<ByteColumn>,
}

impl LazyLines {
    /// Lines of `source`, none of them decoded yet.
    pub fn new(source: Box<dyn LineSource>) -> Self {
        Self { source, decoded: OnceLock::new() }
    }

    /// The encoded lines. Callers that need few lines decode only these.
    pub fn source(&self) -> &dyn LineSource {
        &*self.source
    }

    /// All lines. The first call decodes them.
    pub fn decoded(&self) -> &ByteColumn {
        self.decoded.get_or_init(|| self.source.decode(&mut (0..self.source.len())))
    }
}

impl Lines {
    /// Number of lines; 0 if they are absent.
    pub fn len(&self) -> usize {
        match self {
            Self::Absent => 0,
            Self::Lengths(offsets) => offsets.len().saturating_sub(1),
            Self::Decoded(lines) => lines.len(),
            Self::Lazy(lines) => lines.source.len(),
        }
    }

    /// True when there are no lines.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the bytes of lines can be read. Decodes nothing.
    pub fn has_content(&self) -> bool {
        matches!(self, Self::Decoded(_) | Self::Lazy(_))
    }

    /// Returns the bytes of all lines, or `None` if the batch does not hold them. Decodes lazy lines.
    pub fn content(&self) -> Option<&ByteColumn> {
        match self {
            Self::Absent | Self::Lengths(_) => None,
            Self::Decoded(lines) => Some(lines),
            Self::Lazy(lines) => Some(lines.decoded()),
        }
    }

    /// The bytes of line `i`. Decodes lazy lines.
    ///
    /// # Panics
    /// If the batch does not hold the line's bytes.
    pub fn get(&self, i: usize) -> &[u8] {
        self.content().expect("the caller asked for the content of lines").get(i)
    }

    /// The length of line `i` in bytes. Decodes nothing.
    ///
    /// # Panics
    /// If the batch does not hold the line's length.
    #[inline]
    pub fn bytes_of(&self, i: usize) -> usize {
        match self {
            Self::Absent => panic!("the caller asked for the lengths of lines"),
            Self::Lengths(offsets) => (offsets[i + 1] - offsets[i]) as usize,
            Self::Decoded(lines) => lines.bytes_of(i),
            Self::Lazy(lines) => lines.source.bytes_of(i),
        }
    }

    /// The sum of the lengths of some neighbouring lines in bytes. Decodes nothing.
    ///
    /// # Panics
    /// As [`Lines::bytes_of`].
    pub fn bytes_in(&self, rows: Range<usize>) -> u64 {
        let span = |offsets: &[u32]| u64::from(offsets[rows.end] - offsets[rows.start]);
        match self {
            _ if rows.is_empty() => 0,
            Self::Lengths(offsets) => span(offsets),
            Self::Decoded(lines) => span(lines.offsets()),
            Self::Absent | Self::Lazy(_) => rows.map(|row| self.bytes_of(row) as u64).sum(),
        }
    }
}

impl From<ByteColumn> for Lines {
    fn from(lines: ByteColumn) -> Self {
        Self::Decoded(lines)
    }
}

impl From<Box<dyn LineSource>> for Lines {
    fn from(source: Box<dyn LineSource>) -> Self {
        Self::Lazy(Arc::new(LazyLines::new(source)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Line `i` is `i` times the letter x.
    #[derive(Debug)]
    struct Repeated {
        rows: usize,
        decodes: Arc<AtomicUsize>,
    }

    impl LineSource for Repeated {
        fn len(&self) -> usize {
            self.rows
        }

        fn bytes_of(&self, row: usize) -> usize {
            row
        }

        fn decode(&self, rows: &mut dyn Iterator<Item = usize>) -> ByteColumn {
            self.decodes.fetch_add(1, Ordering::Relaxed);
            let mut offsets = vec![0];
            for row in rows {
                offsets.push(offsets.last().unwrap() + row as u32);
            }
            let data = vec![b'x'; *offsets.last().unwrap() as usize];
            ByteColumn::new(offsets, data.into())
        }
    }

    #[test]
    fn lazy_lines_are_decoded_once_and_only_for_their_content() {
        let decodes = Arc::new(AtomicUsize::new(0));
        let source: Box<dyn LineSource> = Box::new(Repeated { rows: 4, decodes: decodes.clone() });
        let lines = Lines::from(source);
        assert_eq!((lines.len(), lines.bytes_of(3), lines.bytes_in(1..4)), (4, 3, 6));
        assert!(lines.has_content() && !lines.is_empty());
        assert_eq!(decodes.load(Ordering::Relaxed), 0);
        let copy = lines.clone();
        assert_eq!((lines.get(2), copy.get(3)), (&b"xx"[..], &b"xxx"[..]));
        assert_eq!(decodes.load(Ordering::Relaxed), 1);
        let Lines::Lazy(lazy) = &lines else { panic!("lines became another kind") };
        assert_eq!(lazy.source().decode(&mut [3, 1].into_iter()).get(1), b"x");
    }

    #[test]
    fn kinds_agree_on_lengths() {
        let column = ByteColumn::new(vec![2, 3, 3, 6], (&b"__abcd"[..]).into());
        for lines in [Lines::Lengths(column.offsets().to_vec()), column.into()] {
            assert_eq!((lines.len(), lines.bytes_of(1), lines.bytes_of(2), lines.bytes_in(0..3)), (3, 0, 3, 4));
            assert_eq!(lines.bytes_in(1..1), 0);
        }
        assert_eq!((Lines::Absent.len(), Lines::default().bytes_in(0..0)), (0, 0));
        assert!(Lines::Absent.content().is_none() && Lines::Lengths(vec![0, 5]).content().is_none());
    }
}
