//! Rows out of a block, without I/O: the scan says which bytes it needs, and the caller supplies them.
//!
//! For each row group, the scan asks the [columns](crate::columns) for readers of what it [`Needs`]. It cuts streams that lie
//! only partly in the requested time, first by the times of pages and then by a search in their timestamps. Then it splits
//! rows where a page of a leaf column ends. So each batch is a slice of one page per leaf, and lines are handed on without a
//! copy. The scan requests bytes in windows of a few megabytes, and each page once.

mod pieces;

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

use bytes::Bytes;
use model::{Batch, Lines, Needs, TimeRange};

use self::pieces::{Piece, pieces_by_group};
use crate::{
    BlockError, BlockIndex,
    columns::{ColumnReader, LeafPages, Page, PageSource, Supplied},
    page::PageReader,
};

/// A step asks for ranges of about this many bytes together.
const WINDOW_BYTES: u64 = 8 << 20;

/// The next step of a scan.
#[derive(Debug)]
pub enum Step {
    /// Supply these ranges of the file ([`BlockScan::supply`]), then call [`BlockScan::next`] again.
    NeedsData(Vec<Range<u64>>),
    /// Some rows of one stream.
    Batch(Batch),
    /// There are no more rows.
    Done,
}

/// Counts of a scan so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanStats {
    /// Number of supplied bytes.
    pub bytes_supplied: u64,
    /// Bytes of decompressed pages.
    pub bytes_decompressed: u64,
    /// Number of rows in batches.
    pub rows: u64,
    /// Sum of the lengths of the lines in batches.
    pub line_bytes: u64,
}

/// A scan over chosen streams of a block.
///
/// The rows of a stream come in order of (time, offset); [`BlockScan::narrow`] may leave some out. Streams come in the order
/// of their ordinals, not of time.
#[derive(Debug)]
pub struct BlockScan {
    index: BlockIndex,
    time: TimeRange,
    /// The scan reads all rows, whatever their time.
    whole: bool,
    needs: Needs,
    groups: VecDeque<(usize, Vec<Piece>)>,
    current: Option<GroupScan>,
    supplied: Supplied,
    decoder: PageReader,
    stats: ScanStats,
    stream: Option<u32>,
}

/// The row group that is being read.
#[derive(Debug)]
struct GroupScan {
    group: usize,
    pieces: VecDeque<Piece>,
    /// Pieces were cut to the time and split at page bounds.
    prepared: bool,
    /// How many of the pieces have their bytes.
    ready: usize,
    readers: Vec<PlacedReader>,
}

/// A reader and the leaf columns it reads.
#[derive(Debug)]
struct PlacedReader {
    reader: Box<dyn ColumnReader>,
    leaves: Range<usize>,
}

impl BlockScan {
    /// A scan of `streams` (ordinals of [`BlockIndex::streams`]) for rows in `time`. Unknown ordinals are ignored.
    pub fn new(index: &BlockIndex, mut streams: Vec<u32>, time: TimeRange, needs: Needs) -> Self {
        streams.sort_unstable();
        streams.dedup();
        let groups = pieces_by_group(index.table(), &streams, Some(&time));
        Self {
            index: index.clone(),
            time,
            whole: false,
            needs,
            groups,
            current: None,
            supplied: Supplied::default(),
            decoder: PageReader::new(),
            stats: ScanStats::default(),
            stream: None,
        }
    }

    /// A scan of all rows of the streams, including a row at the last nanosecond, which no half-open range contains.
    pub fn whole(index: &BlockIndex, streams: Vec<u32>, needs: Needs) -> Self {
        let mut scan = Self::new(index, Vec::new(), TimeRange::ALL, needs);
        scan.groups = pieces_by_group(index.table(), &streams, None);
        scan.whole = true;
        scan
    }

    /// Returns the next step.
    ///
    /// # Errors
    /// When a page is damaged.
    #[expect(clippy::should_implement_trait, reason = "a step may ask for data, which no iterator can")]
    pub fn next(&mut self) -> Result<Step, BlockError> {
        loop {
            let Some(mut group) = self.current.take() else {
                match self.groups.pop_front() {
                    Some((group, pieces)) => self.current = Some(self.begin_group(group, pieces)),
                    None => {
                        self.supplied.clear();
                        return Ok(Step::Done);
                    }
                }
                continue;
            };
            let step = self.step(&mut group)?;
            if !group.pieces.is_empty() {
                self.current = Some(group);
            }
            if let Some(step) = step {
                return Ok(step);
            }
        }
    }

    /// Takes the data that [`Step::NeedsData`] asked for. They may come in any order and portions, with more data around them.
    ///
    /// # Errors
    /// When data and ranges differ in number or length.
    pub fn supply(&mut self, ranges: Vec<Range<u64>>, data: Vec<Bytes>) -> Result<(), BlockError> {
        if ranges.len() != data.len() {
            return Err(BlockError::Supply(format!("{} ranges, {} pieces of data", ranges.len(), data.len())));
        }
        for (range, bytes) in ranges.into_iter().zip(data) {
            if range.start.checked_add(bytes.len() as u64) != Some(range.end) {
                return Err(BlockError::Supply(format!("{} bytes for {range:?}", bytes.len())));
            }
            self.stats.bytes_supplied += bytes.len() as u64;
            self.supplied.add(range.start, bytes);
        }
        Ok(())
    }

    /// Excludes rows outside of `time` from now on. Streams without rows in it are skipped; batches of other streams may still
    /// hold rows outside of it.
    pub fn narrow(&mut self, time: TimeRange) {
        self.time.start = self.time.start.max(time.start);
        self.time.end = self.time.end.min(time.end);
        self.whole = false;
    }

    /// The ordinal of the latest batch's stream.
    pub fn stream(&self) -> Option<u32> {
        self.stream
    }

    /// Counts of the scan so far.
    pub fn stats(&self) -> ScanStats {
        ScanStats { bytes_decompressed: self.decoder.decompressed, ..self.stats }
    }

    fn begin_group(&self, group: usize, pieces: Vec<Piece>) -> GroupScan {
        let counts = &self.index.table().groups[group];
        let columns = self.index.columns().iter();
        let reader = |placed: &crate::columns::PlacedColumn| {
            let reader = placed.column.reader(&self.needs, counts)?;
            Some(PlacedReader { reader, leaves: placed.leaves.clone() })
        };
        let readers = columns.filter_map(reader).collect();
        GroupScan { group, pieces: pieces.into(), prepared: false, ready: 0, readers }
    }

    /// One step in a row group. `None` means that the caller should call again.
    fn step(&mut self, group: &mut GroupScan) -> Result<Option<Step>, BlockError> {
        let time = self.time;
        let table = self.index.table();
        let unwanted = |piece: &Piece| !self.whole && !table.streams[piece.stream as usize].overlaps(&time);
        if !group.prepared {
            group.pieces.retain(|piece| !unwanted(piece));
            if let Some(missing) = self.prepare(group)? {
                return Ok(Some(Step::NeedsData(missing)));
            }
            return Ok(None);
        }
        while group.pieces.front().is_some_and(unwanted) {
            group.pieces.pop_front();
            group.ready = group.ready.saturating_sub(1);
        }
        if group.pieces.is_empty() {
            return Ok(None);
        }
        if group.ready == 0 {
            let (window, needed) = self.window(group);
            self.supplied.keep_only(&needed);
            let missing = self.supplied.missing(&needed);
            if !missing.is_empty() {
                return Ok(Some(Step::NeedsData(missing)));
            }
            group.ready = window;
        }
        let piece = group.pieces.pop_front().expect("the pieces were found not to be empty");
        group.ready -= 1;
        Ok(Some(Step::Batch(self.batch(group, &piece)?)))
    }

    /// Cuts pieces to the time and splits them at page bounds. Returns the ranges needed for it, if some are missing.
    fn prepare(&mut self, group: &mut GroupScan) -> Result<Option<Vec<Range<u64>>>, BlockError> {
        let leaves = &self.index.groups()[group.group];
        for PlacedReader { reader, leaves: own } in &mut group.readers {
            let leaf = &leaves[own.start];
            let partial = group.pieces.iter().filter(|piece| !piece.inside);
            let mut pages: Vec<usize> =
                partial.flat_map(|piece| reader.pages_to_cut(leaf, &piece.rows, &self.time)).collect();
            pages.dedup();
            let needed: Vec<Range<u64>> = pages.iter().map(|page| leaf.pages[*page].range()).collect();
            let missing = self.supplied.missing(&needed);
            if !missing.is_empty() {
                return Ok(Some(missing));
            }
            for page in pages {
                reader.load_to_cut(&Page::find(leaf, page, &self.supplied)?, &mut self.decoder)?;
            }
        }
        let mut pieces = VecDeque::new();
        for piece in group.pieces.drain(..) {
            let mut rows = piece.rows.clone();
            if !piece.inside {
                for PlacedReader { reader, leaves: own } in &group.readers {
                    rows = reader.cut(&leaves[own.start], rows, &self.time);
                }
            }
            let read = group.readers.iter().flat_map(|reader| &leaves[reader.leaves.clone()]);
            pieces.extend(piece.split(rows, read));
        }
        group.pieces = pieces;
        group.prepared = true;
        Ok(None)
    }

    /// How many of the next pieces to read together, and the pages they need besides those that are decoded.
    fn window(&self, group: &GroupScan) -> (usize, Vec<Range<u64>>) {
        let leaves = &self.index.groups()[group.group];
        let mut needed = Vec::new();
        let (mut bytes, mut count) = (0u64, 0);
        let mut last: HashMap<usize, usize> = HashMap::new();
        for piece in &group.pieces {
            if bytes >= WINDOW_BYTES {
                break;
            }
            for PlacedReader { reader, leaves: own } in &group.readers {
                for (leaf, pages) in leaves[own.clone()].iter().enumerate() {
                    let page = pages.of_rows(&piece.rows).start;
                    if last.insert(own.start + leaf, page) == Some(page) || reader.holds(leaf, page) {
                        continue;
                    }
                    let place = &pages.pages[page];
                    bytes += u64::from(place.bytes);
                    needed.push(place.range());
                    if let Some(dictionary) = pages.dictionary.as_ref().filter(|_| !reader.holds_dictionary(leaf)) {
                        needed.push(dictionary.range());
                    }
                }
            }
            count += 1;
        }
        needed.sort_unstable_by_key(|range| range.start);
        needed.dedup();
        (count, needed)
    }

    fn batch(&mut self, group: &mut GroupScan, piece: &Piece) -> Result<Batch, BlockError> {
        let table = self.index.table();
        let leaves: &[LeafPages] = &self.index.groups()[group.group];
        let mut batch = Batch {
            labels: table.labels(&table.streams[piece.stream as usize]),
            timestamps: Vec::new(),
            lines: Lines::Absent,
            metadata: Vec::new(),
            offsets: Vec::new(),
        };
        for PlacedReader { reader, leaves: own } in &mut group.readers {
            let mut source = PageSource {
                leaves: &leaves[own.clone()],
                rows: piece.rows.clone(),
                supplied: &self.supplied,
                decoder: &mut self.decoder,
            };
            reader.read(&mut source, &mut batch)?;
        }
        self.stream = Some(piece.stream);
        self.stats.rows += batch.len() as u64;
        self.stats.line_bytes += batch.lines.bytes_in(0..batch.lines.len());
        Ok(batch)
    }
}
