//! The pages of columns: where they lie, which of them were supplied, and which of them are decoded.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    BlockError,
    page::{PageReader, PageRef},
};

/// Ranges at most this far apart are requested as one.
const GAP_BYTES: u64 = 16 << 10;

/// The pages of a leaf column in a row group.
#[derive(Debug)]
pub(crate) struct LeafPages {
    pub(crate) dictionary: Option<PageRef>,
    pub(crate) pages: Vec<PageRef>,
    /// The least and the greatest integer of each page, for columns with [`PageFacts::Bounds`](super::PageFacts::Bounds).
    pub(crate) bounds: Vec<(i64, i64)>,
    /// Bytes of the values of each page, for columns with [`PageFacts::ValueBytes`](super::PageFacts::ValueBytes) if the
    /// file has them.
    pub(crate) value_bytes: Vec<u32>,
}

impl LeafPages {
    /// The pages that hold rows of the range.
    pub(crate) fn of_rows(&self, rows: &Range<u32>) -> Range<usize> {
        let first = self.pages.partition_point(|page| page.rows.end <= rows.start);
        let last = self.pages.partition_point(|page| page.rows.start < rows.end);
        first..last.max(first)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.pages) + size_of_val(&*self.bounds) + size_of_val(&*self.value_bytes)
    }
}

/// A page that was supplied.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    /// Its place among the pages of its leaf column.
    pub(crate) index: usize,
    pub(crate) place: &'a PageRef,
    pub(crate) bytes: Bytes,
    /// Bytes of its values, if the index says so.
    pub(crate) value_bytes: Option<u32>,
}

impl<'a> Page<'a> {
    pub(crate) fn find(leaf: &'a LeafPages, index: usize, supplied: &Supplied) -> Result<Self, BlockError> {
        let place = leaf.pages.get(index).ok_or_else(|| BlockError::damaged("rows lie outside of the pages"))?;
        let value_bytes = leaf.value_bytes.get(index).copied();
        Ok(Self { index, place, bytes: supplied.find(place)?, value_bytes })
    }
}

/// The pages of one column that hold the rows of one batch.
#[derive(Debug)]
pub(crate) struct PageSource<'a> {
    /// The column's leaves in the row group.
    pub(crate) leaves: &'a [LeafPages],
    /// Rows of the row group. They lie in one page of each leaf.
    pub(crate) rows: Range<u32>,
    pub(crate) supplied: &'a Supplied,
    pub(crate) decoder: &'a mut PageReader,
}

impl<'a> PageSource<'a> {
    /// The number of the page of a leaf that holds the rows, and the rows counted from the page's first.
    pub(crate) fn place(&self, leaf: usize) -> Result<(usize, Range<usize>), BlockError> {
        let pages = &self.leaves[leaf];
        let index = pages.of_rows(&self.rows).start;
        let page = pages.pages.get(index).ok_or_else(|| BlockError::damaged("rows lie outside of the pages"))?;
        let in_page = |row: u32| (row - page.rows.start) as usize;
        Ok((index, in_page(self.rows.start)..in_page(self.rows.end)))
    }

    pub(crate) fn page(&self, leaf: usize, index: usize) -> Result<Page<'a>, BlockError> {
        Page::find(&self.leaves[leaf], index, self.supplied)
    }
}

/// The page of a leaf column that was decoded last, and the dictionary.
#[derive(Debug)]
pub(crate) struct DecodedLeaf<P, D = ()> {
    page: Option<(usize, P)>,
    dictionary: Option<D>,
}

impl<P, D> Default for DecodedLeaf<P, D> {
    fn default() -> Self {
        Self { page: None, dictionary: None }
    }
}

impl<P, D> DecodedLeaf<P, D> {
    pub(crate) fn holds(&self, page: usize) -> bool {
        self.page.as_ref().is_some_and(|(held, _)| *held == page)
    }

    pub(crate) fn holds_dictionary(&self) -> bool {
        self.dictionary.is_some()
    }

    /// The page that holds the rows of `source`, decoded unless it is kept, and the rows counted from the page's first.
    pub(crate) fn load(
        &mut self,
        source: &mut PageSource<'_>,
        leaf: usize,
        decode_dictionary: impl FnOnce(&mut PageReader, &PageRef, &Bytes) -> Result<D, BlockError>,
        decode: impl FnOnce(&mut PageReader, &Page<'_>, Option<&D>) -> Result<P, BlockError>,
    ) -> Result<(&P, Range<usize>), BlockError> {
        let (index, rows) = source.place(leaf)?;
        let kept = self.page.take_if(|(held, _)| *held == index);
        let page = match kept {
            Some((_, page)) => page,
            None => {
                if let (None, Some(place)) = (&self.dictionary, &source.leaves[leaf].dictionary) {
                    let bytes = source.supplied.find(place)?;
                    self.dictionary = Some(decode_dictionary(source.decoder, place, &bytes)?);
                }
                let page = source.page(leaf, index)?;
                decode(source.decoder, &page, self.dictionary.as_ref())?
            }
        };
        Ok((&self.page.insert((index, page)).1, rows))
    }
}

/// Bytes of the file that the caller of a scan supplied and that are still of use.
#[derive(Debug, Default)]
pub(crate) struct Supplied(Vec<(u64, Bytes)>);

impl Supplied {
    pub(crate) fn add(&mut self, start: u64, bytes: Bytes) {
        self.0.push((start, bytes));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn get(&self, range: &Range<u64>) -> Option<Bytes> {
        let covers = |(start, bytes): &&(u64, Bytes)| *start <= range.start && range.end <= start + bytes.len() as u64;
        let (start, bytes) = self.0.iter().find(covers)?;
        Some(bytes.slice((range.start - start) as usize..(range.end - start) as usize))
    }

    /// The bytes of a page.
    pub(crate) fn find(&self, page: &PageRef) -> Result<Bytes, BlockError> {
        let range = page.range();
        self.get(&range).ok_or_else(|| BlockError::Supply(format!("bytes {range:?} are missing")))
    }

    /// The ranges among `needed` that were not supplied. Ranges that lie close together are joined.
    pub(crate) fn missing(&self, needed: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut missing: Vec<Range<u64>> = needed.iter().filter(|range| self.get(range).is_none()).cloned().collect();
        missing.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in missing {
            match joined.last_mut() {
                Some(last) if range.start <= last.end + GAP_BYTES => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        joined
    }

    /// Drops all bytes that hold none of the ranges.
    pub(crate) fn keep_only(&mut self, needed: &[Range<u64>]) {
        self.0.retain(|(start, bytes)| {
            let end = start + bytes.len() as u64;
            needed.iter().any(|range| *start <= range.start && range.end <= end)
        });
    }
}
