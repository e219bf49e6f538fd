//! Rows out of a block, without I/O: the scan says which bytes it needs, the caller supplies them.
//!
//! For each row group: streams that lie in part outside of the time asked for are cut first, by the times of pages and then
//! by a search in their timestamps. What is left is split where a page of a wanted column ends, so that each batch is a slice
//! of one page of each column, and lines are handed on without being copied. Bytes are asked for in windows of a few
//! megabytes; every page is fetched and decompressed once. Needs that were not asked for are not touched.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use model::{Batch, ByteColumn, LineNeed, Lines, MetadataColumn, MetadataNeed, MetadataValues, Needs, TimeRange};

use crate::{
    BlockError, BlockIndex,
    index::ColumnPages,
    page::{PageReader, PageRef, TextLists, Texts},
    schema::{LINE, TS},
};

/// Ranges are asked for together until they have this many bytes.
const WINDOW_BYTES: u64 = 8 << 20;

/// Ranges that lie this close together are asked for as one.
const GAP_BYTES: u64 = 16 << 10;

/// What a scan says next.
#[derive(Debug)]
pub enum Step {
    /// Supply these ranges of the file ([`BlockScan::supply`]), then ask again.
    NeedsData(Vec<Range<u64>>),
    /// Some rows of one stream.
    Batch(Batch),
    /// There are no more rows.
    Done,
}

/// What a scan did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanStats {
    /// Bytes that were supplied.
    pub bytes_supplied: u64,
    /// Bytes of pages after decompression.
    pub bytes_decompressed: u64,
    /// Rows in batches.
    pub rows: u64,
    /// Bytes of lines in batches, or of their lengths when only these were asked for.
    pub line_bytes: u64,
}

/// A scan over chosen streams of a block.
///
/// Rows of a stream come in order of (time, offset), except that [`BlockScan::narrow`] may leave some out. Streams come in the
/// order of their ordinals; there is no order of time between them.
#[derive(Debug)]
pub struct BlockScan {
    index: BlockIndex,
    time: TimeRange,
    /// All rows are wanted, whatever their time.
    whole: bool,
    wanted: Wanted,
    groups: VecDeque<(usize, Vec<Piece>)>,
    current: Option<GroupScan>,
    supplied: Vec<(u64, Bytes)>,
    pages: PageReader,
    stats: ScanStats,
    stream: Option<u32>,
}

/// Needs resolved to their places.
#[derive(Debug)]
struct Wanted {
    lines: LineNeed,
    offsets: bool,
    /// Indexes of keys with a column of their own.
    keys: Vec<usize>,
    packed: PackedWanted,
}

#[derive(Debug)]
enum PackedWanted {
    None,
    Names(Vec<String>),
    All,
}

/// Rows of one stream in one row group.
#[derive(Clone, Debug)]
struct Piece {
    stream: u32,
    rows: Range<u32>,
    /// All of the rows are known to lie in the time asked for.
    inside: bool,
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
    keys: Vec<usize>,
    packed: bool,
    /// Decoded pages of timestamps that are still of use.
    times: HashMap<usize, Vec<i64>>,
    lines: Option<(usize, LinePage)>,
    offsets: Option<(usize, Vec<i64>)>,
    offset_dictionary: Option<Vec<i64>>,
    /// The page decoded last of each leaf column, and the dictionaries.
    texts: HashMap<usize, (usize, Texts)>,
    lists: HashMap<usize, (usize, TextLists)>,
    dictionaries: HashMap<usize, Arc<ByteColumn>>,
    offset_column: usize,
}

#[derive(Debug)]
enum LinePage {
    Content(ByteColumn),
    Lengths(Vec<u32>),
}

impl BlockScan {
    /// A scan of `streams` (ordinals of [`BlockIndex::streams`]; unknown ones are passed over) for rows in `time`.
    pub fn new(index: &BlockIndex, mut streams: Vec<u32>, time: TimeRange, columns: Needs) -> Self {
        streams.sort_unstable();
        streams.dedup();
        let groups = plan(index, &streams, Some(&time));
        let wanted = resolve(index, columns);
        Self {
            index: index.clone(),
            time,
            whole: false,
            wanted,
            groups,
            current: None,
            supplied: Vec::new(),
            pages: PageReader::new(),
            stats: ScanStats::default(),
            stream: None,
        }
    }

    /// A scan of all rows of the streams, also of one at the last nanosecond of time.
    pub fn whole(index: &BlockIndex, streams: Vec<u32>, columns: Needs) -> Self {
        let mut scan = Self::new(index, Vec::new(), TimeRange::ALL, columns);
        scan.groups = plan(index, &streams, None);
        scan.whole = true;
        scan
    }

    /// What comes next.
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

    /// Takes what [`Step::NeedsData`] asked for; more is welcome, in any order and portions.
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
            self.supplied.push((range.start, bytes));
        }
        Ok(())
    }

    /// Says that rows outside of `time` are no longer wanted. Streams that have none in it are passed over from now on; single
    /// rows outside of it may still come.
    pub fn narrow(&mut self, time: TimeRange) {
        self.time.start = self.time.start.max(time.start);
        self.time.end = self.time.end.min(time.end);
        self.whole = false;
    }

    /// The ordinal of the stream that the latest batch is of.
    pub fn stream(&self) -> Option<u32> {
        self.stream
    }

    /// What was done so far.
    pub fn stats(&self) -> ScanStats {
        ScanStats { bytes_decompressed: self.pages.decompressed, ..self.stats }
    }

    fn begin_group(&self, group: usize, pieces: Vec<Piece>) -> GroupScan {
        let counts = &self.index.table().groups[group];
        let has_values = |key: &usize| counts.present.get(*key).is_some_and(|present| *present > 0);
        GroupScan {
            group,
            pieces: pieces.into(),
            prepared: false,
            ready: 0,
            keys: self.wanted.keys.iter().copied().filter(has_values).collect(),
            packed: counts.packed_pairs > 0 && !matches!(self.wanted.packed, PackedWanted::None),
            times: HashMap::new(),
            lines: None,
            offsets: None,
            offset_dictionary: None,
            texts: HashMap::new(),
            lists: HashMap::new(),
            dictionaries: HashMap::new(),
            offset_column: self.index.layout().offset(),
        }
    }

    /// One step in a row group; none when it should be asked again.
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
            self.forget(&needed);
            let missing = self.missing(&needed);
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
        let pages = &self.index.groups()[group.group];
        let column = &pages.columns[TS];
        let overlaps = |page: usize| {
            let (min, max) = pages.times[page];
            min < self.time.end.nanos() && self.time.start.nanos() <= max
        };
        let cut: Vec<usize> = {
            let partial = group.pieces.iter().filter(|piece| !piece.inside);
            let mut cut: Vec<usize> = partial.flat_map(|p| column.of_rows(&p.rows)).filter(|p| overlaps(*p)).collect();
            cut.dedup();
            cut
        };
        let needed: Vec<Range<u64>> = cut.iter().map(|page| column.pages[*page].range()).collect();
        let missing = self.missing(&needed);
        if !missing.is_empty() {
            return Ok(Some(missing));
        }
        for page in cut {
            let reference = &column.pages[page];
            let bytes = find(&self.supplied, reference)?;
            group.times.insert(page, self.pages.integers(reference, &bytes, None)?);
        }
        let mut pieces = VecDeque::new();
        for piece in group.pieces.drain(..) {
            let rows =
                if piece.inside { piece.rows.clone() } else { cut_rows(column, &group.times, &piece, &self.time) };
            pieces.extend(split(&self.index, group.group, &self.wanted, &group.keys, group.packed, &piece, rows));
        }
        group.pieces = pieces;
        group.prepared = true;
        Ok(None)
    }

    /// How many of the next pieces to read together, and the pages they need besides those that are decoded.
    fn window(&self, group: &GroupScan) -> (usize, Vec<Range<u64>>) {
        let columns = &self.index.groups()[group.group].columns;
        let mut needed = Vec::new();
        let (mut bytes, mut count) = (0u64, 0);
        let mut last: HashMap<usize, usize> = HashMap::new();
        for piece in &group.pieces {
            if bytes >= WINDOW_BYTES {
                break;
            }
            for column in wanted_columns(&self.index, &self.wanted, &group.keys, group.packed) {
                let page = columns[column].of_rows(&piece.rows).start;
                if last.insert(column, page) == Some(page) || group.holds(column, page) {
                    continue;
                }
                let reference = &columns[column].pages[page];
                bytes += u64::from(reference.bytes);
                needed.push(reference.range());
                if let Some(dictionary) =
                    columns[column].dictionary.as_ref().filter(|_| !group.holds_dictionary(column))
                {
                    needed.push(dictionary.range());
                }
            }
            count += 1;
        }
        needed.sort_unstable_by_key(|range| range.start);
        needed.dedup();
        (count, needed)
    }

    /// The ranges of the pages that were not supplied; near ones are joined.
    fn missing(&self, needed: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut missing: Vec<Range<u64>> =
            needed.iter().filter(|range| look(&self.supplied, range).is_none()).cloned().collect();
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

    /// Drops supplied data that none of the pages needs.
    fn forget(&mut self, needed: &[Range<u64>]) {
        self.supplied.retain(|(start, bytes)| {
            let end = start + bytes.len() as u64;
            needed.iter().any(|range| *start <= range.start && range.end <= end)
        });
    }

    fn batch(&mut self, group: &mut GroupScan, piece: &Piece) -> Result<Batch, BlockError> {
        let index = self.index.clone();
        let columns = &index.groups()[group.group].columns;
        let place = |column: usize| -> Result<(usize, &PageRef, Range<usize>), BlockError> {
            let page = columns[column].of_rows(&piece.rows).start;
            let reference = columns[column].pages.get(page);
            let reference = reference.ok_or_else(|| BlockError::damaged("rows lie outside of the pages"))?;
            let rows =
                (piece.rows.start - reference.rows.start) as usize..(piece.rows.end - reference.rows.start) as usize;
            Ok((page, reference, rows))
        };

        let (page, reference, rows) = place(TS)?;
        group.times.retain(|held, _| *held >= page);
        let times = match group.times.entry(page) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => {
                let bytes = find(&self.supplied, reference)?;
                place.insert(self.pages.integers(reference, &bytes, None)?)
            }
        };
        let timestamps = times[rows].to_vec();

        let lines = match self.wanted.lines {
            LineNeed::None => Lines::Absent,
            wanted => {
                let (page, reference, rows) = place(LINE)?;
                if group.lines.as_ref().is_none_or(|(held, _)| *held != page) {
                    let bytes = find(&self.supplied, reference)?;
                    let decoded = match wanted {
                        LineNeed::Content => LinePage::Content(self.pages.lines(reference, &bytes)?),
                        _ => {
                            let line_bytes = index.groups()[group.group].line_bytes.get(page).copied();
                            LinePage::Lengths(self.pages.line_lengths(reference, &bytes, line_bytes)?)
                        }
                    };
                    group.lines = Some((page, decoded));
                }
                match group.lines.as_ref().map(|(_, lines)| lines) {
                    Some(LinePage::Content(column)) => {
                        let offsets = &column.offsets()[rows.start..=rows.end];
                        let data = column.data().slice(offsets[0] as usize..offsets[rows.len()] as usize);
                        ByteColumn::new(rebase(offsets), data).into()
                    }
                    Some(LinePage::Lengths(offsets)) => Lines::Lengths(rebase(&offsets[rows.start..=rows.end])),
                    None => Lines::Absent,
                }
            }
        };

        let mut offsets = Vec::new();
        if self.wanted.offsets {
            let column = index.layout().offset();
            let (page, reference, rows) = place(column)?;
            if group.offsets.as_ref().is_none_or(|(held, _)| *held != page) {
                if let (None, Some(dictionary)) = (&group.offset_dictionary, &columns[column].dictionary) {
                    let bytes = find(&self.supplied, dictionary)?;
                    group.offset_dictionary = Some(self.pages.integer_dictionary(dictionary, &bytes)?);
                }
                let bytes = find(&self.supplied, reference)?;
                group.offsets =
                    Some((page, self.pages.integers(reference, &bytes, group.offset_dictionary.as_deref())?));
            }
            offsets = group.offsets.as_ref().map(|(_, values)| values[rows].to_vec()).unwrap_or_default();
        }

        let mut metadata = Vec::new();
        for key in group.keys.clone() {
            let column = index.layout().key(key);
            let (page, reference, rows) = place(column)?;
            if group.texts.get(&column).is_none_or(|(held, _)| *held != page) {
                let dictionary = self.dictionary(group, column, &columns[column])?;
                let bytes = find(&self.supplied, reference)?;
                let texts = self.pages.texts(reference, &bytes, dictionary.as_ref())?;
                group.texts.insert(column, (page, texts));
            }
            let texts = &group.texts[&column].1;
            if let Some(values) = metadata_values(texts, rows)? {
                metadata.push(MetadataColumn { name: index.table().keys[key].clone(), values });
            }
        }
        if group.packed {
            let leaves = [index.layout().packed_keys(), index.layout().packed_values()];
            for column in leaves {
                let (page, reference, _) = place(column)?;
                if group.lists.get(&column).is_none_or(|(held, _)| *held != page) {
                    let dictionary = self.dictionary(group, column, &columns[column])?;
                    let bytes = find(&self.supplied, reference)?;
                    let lists = self.pages.text_lists(reference, &bytes, dictionary.as_ref())?;
                    group.lists.insert(column, (page, lists));
                }
            }
            let names = match &self.wanted.packed {
                PackedWanted::Names(names) => Some(names.as_slice()),
                _ => None,
            };
            let keys = (&group.lists[&leaves[0]].1, place(leaves[0])?.2);
            let values = (&group.lists[&leaves[1]].1, place(leaves[1])?.2);
            unpack_pairs(keys, values, names, &mut metadata)?;
        }

        self.stream = Some(piece.stream);
        self.stats.rows += timestamps.len() as u64;
        self.stats.line_bytes += lines.bytes_in(0..lines.len());
        let labels = index.table().labels(&index.table().streams[piece.stream as usize]);
        Ok(Batch { labels, timestamps, lines, metadata, offsets })
    }

    /// The dictionary of a column of texts, if it has one.
    fn dictionary(
        &mut self,
        group: &mut GroupScan,
        column: usize,
        pages: &ColumnPages,
    ) -> Result<Option<Arc<ByteColumn>>, BlockError> {
        let Some(reference) = &pages.dictionary else {
            return Ok(None);
        };
        if let Some(held) = group.dictionaries.get(&column) {
            return Ok(Some(held.clone()));
        }
        let bytes = find(&self.supplied, reference)?;
        let dictionary = Arc::new(self.pages.dictionary(reference, &bytes)?);
        group.dictionaries.insert(column, dictionary.clone());
        Ok(Some(dictionary))
    }
}

impl GroupScan {
    /// Whether a page is decoded already.
    fn holds(&self, column: usize, page: usize) -> bool {
        let is = |held: Option<usize>| held == Some(page);
        match column {
            TS => self.times.contains_key(&page),
            LINE => is(self.lines.as_ref().map(|(held, _)| *held)),
            _ if column == self.offset_column => is(self.offsets.as_ref().map(|(held, _)| *held)),
            _ => {
                is(self.texts.get(&column).map(|(held, _)| *held)) || is(self.lists.get(&column).map(|(held, _)| *held))
            }
        }
    }

    fn holds_dictionary(&self, column: usize) -> bool {
        self.dictionaries.contains_key(&column) || (column == self.offset_column && self.offset_dictionary.is_some())
    }
}

/// Row groups with the rows of the streams in them.
fn plan(index: &BlockIndex, streams: &[u32], time: Option<&TimeRange>) -> VecDeque<(usize, Vec<Piece>)> {
    let table = index.table();
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

fn resolve(index: &BlockIndex, columns: Needs) -> Wanted {
    let keys = &index.table().keys;
    let (own, packed) = match columns.metadata {
        MetadataNeed::None => (Vec::new(), PackedWanted::None),
        MetadataNeed::All => ((0..keys.len()).collect(), PackedWanted::All),
        MetadataNeed::Names(names) => {
            let place = |name: &String| keys.iter().position(|key| **key == **name);
            let mut own: Vec<usize> = names.iter().filter_map(place).collect();
            own.sort_unstable();
            own.dedup();
            let packed: Vec<String> = names.into_iter().filter(|name| keys.iter().all(|k| **k != **name)).collect();
            (own, if packed.is_empty() { PackedWanted::None } else { PackedWanted::Names(packed) })
        }
    };
    Wanted { lines: columns.lines, offsets: columns.offsets, keys: own, packed }
}

/// The leaf columns to be read in a row group.
fn wanted_columns<'a>(
    index: &BlockIndex,
    wanted: &Wanted,
    keys: &'a [usize],
    packed: bool,
) -> impl Iterator<Item = usize> + use<'a> {
    let layout = index.layout();
    let lines = (wanted.lines != LineNeed::None).then_some(LINE);
    let packed = packed.then_some([layout.packed_keys(), layout.packed_values()]);
    let offset = wanted.offsets.then_some(layout.offset());
    let keys = keys.iter().map(move |key| layout.key(*key));
    [TS].into_iter().chain(lines).chain(keys).chain(packed.into_iter().flatten()).chain(offset)
}

/// The rows of a piece that lie in the time. Rows of pages without decoded times lie outside.
fn cut_rows(column: &ColumnPages, times: &HashMap<usize, Vec<i64>>, piece: &Piece, time: &TimeRange) -> Range<u32> {
    let mut kept: Option<Range<u32>> = None;
    for page in column.of_rows(&piece.rows) {
        let Some(values) = times.get(&page) else {
            continue;
        };
        let page_rows = &column.pages[page].rows;
        let rows = piece.rows.start.max(page_rows.start)..piece.rows.end.min(page_rows.end);
        let values = &values[(rows.start - page_rows.start) as usize..(rows.end - page_rows.start) as usize];
        let first = rows.start + values.partition_point(|ts| *ts < time.start.nanos()) as u32;
        let last = rows.start + values.partition_point(|ts| *ts < time.end.nanos()) as u32;
        if first < last {
            let start = kept.map_or(first, |kept| kept.start);
            kept = Some(start..last);
        }
    }
    kept.unwrap_or(0..0)
}

/// Splits rows where a page of a wanted column ends.
fn split(
    index: &BlockIndex,
    group: usize,
    wanted: &Wanted,
    keys: &[usize],
    packed: bool,
    piece: &Piece,
    rows: Range<u32>,
) -> Vec<Piece> {
    if rows.is_empty() {
        return Vec::new();
    }
    let columns = &index.groups()[group].columns;
    let mut ends = vec![rows.end];
    for column in wanted_columns(index, wanted, keys, packed) {
        let pages = columns[column].of_rows(&rows);
        ends.extend(columns[column].pages[pages].iter().map(|page| page.rows.end).filter(|end| *end < rows.end));
    }
    ends.sort_unstable();
    ends.dedup();
    let mut start = rows.start;
    let piece = |end| {
        let rows = start..end;
        start = end;
        Piece { rows, ..piece.clone() }
    };
    ends.into_iter().map(piece).collect()
}

/// A supplied range that covers this one.
fn look(supplied: &[(u64, Bytes)], range: &Range<u64>) -> Option<Bytes> {
    let covers = |(start, bytes): &&(u64, Bytes)| *start <= range.start && range.end <= start + bytes.len() as u64;
    let (start, bytes) = supplied.iter().find(covers)?;
    Some(bytes.slice((range.start - start) as usize..(range.end - start) as usize))
}

fn find(supplied: &[(u64, Bytes)], page: &PageRef) -> Result<Bytes, BlockError> {
    look(supplied, &page.range()).ok_or_else(|| BlockError::Supply(format!("bytes {:?} are missing", page.range())))
}

fn rebase(offsets: &[u32]) -> Vec<u32> {
    let first = offsets.first().copied().unwrap_or(0);
    offsets.iter().map(|offset| offset - first).collect()
}

/// The values of some rows of a key, or none when no row has the key.
fn metadata_values(texts: &Texts, rows: Range<usize>) -> Result<Option<MetadataValues>, BlockError> {
    let ids = &texts.ids[rows];
    let Some(first) = ids.iter().find(|id| **id != MetadataValues::ABSENT) else {
        return Ok(None);
    };
    let dictionary = &texts.dictionary;
    if ids.iter().all(|id| id == first) {
        return Ok(Some(MetadataValues::Constant(text(dictionary.get(*first as usize))?.into())));
    }
    if dictionary.len() <= 2 * ids.len() {
        let dictionary = ByteColumn::clone(dictionary);
        return Ok(Some(MetadataValues::Dictionary { dictionary, ids: ids.to_vec() }));
    }
    let mut values = Values::default();
    let mut last = None;
    for (row, id) in ids.iter().enumerate().filter(|(_, id)| **id != MetadataValues::ABSENT) {
        if last != Some(*id) {
            values.push(dictionary.get(*id as usize));
            last = Some(*id);
        }
        values.set(row);
    }
    Ok(Some(values.finish(ids.len())))
}

/// Values of a key in row order.
#[derive(Default)]
struct Values {
    data: Vec<u8>,
    ends: Vec<u32>,
    ids: Vec<u32>,
}

impl Values {
    fn push(&mut self, value: &[u8]) {
        if self.ends.is_empty() {
            self.ends.push(0);
        }
        self.data.extend_from_slice(value);
        self.ends.push(self.data.len() as u32);
    }

    /// Gives the row the value pushed last.
    fn set(&mut self, row: usize) {
        self.ids.resize(row, MetadataValues::ABSENT);
        self.ids.push((self.ends.len() - 2) as u32);
    }

    fn finish(mut self, rows: usize) -> MetadataValues {
        self.ids.resize(rows, MetadataValues::ABSENT);
        MetadataValues::Dictionary { dictionary: ByteColumn::new(self.ends, self.data.into()), ids: self.ids }
    }
}

fn text(bytes: &[u8]) -> Result<&str, BlockError> {
    std::str::from_utf8(bytes).map_err(|_| BlockError::damaged("metadata is not UTF-8"))
}

/// Turns lists of pairs of some rows into a column for each key.
fn unpack_pairs(
    (keys, key_rows): (&TextLists, Range<usize>),
    (values, value_rows): (&TextLists, Range<usize>),
    names: Option<&[String]>,
    out: &mut Vec<MetadataColumn>,
) -> Result<(), BlockError> {
    let rows = key_rows.len();
    let mut by_key: Vec<(&str, Values)> = Vec::new();
    let mut columns: HashMap<&str, usize> = HashMap::new();
    for (row, (key_row, value_row)) in key_rows.zip(value_rows).enumerate() {
        let key_places = keys.starts[key_row] as usize..keys.starts[key_row + 1] as usize;
        let value_places = values.starts[value_row] as usize..values.starts[value_row + 1] as usize;
        if key_places.len() != value_places.len() {
            return Err(BlockError::damaged("packed metadata has another number of keys than of values"));
        }
        for (key_place, value_place) in key_places.zip(value_places) {
            let key = text(keys.texts.dictionary.get(keys.texts.ids[key_place] as usize))?;
            if names.is_some_and(|names| names.iter().all(|name| name != key)) {
                continue;
            }
            let column = *columns.entry(key).or_insert_with(|| {
                by_key.push((key, Values::default()));
                by_key.len() - 1
            });
            let column = &mut by_key[column].1;
            column.push(values.texts.dictionary.get(values.texts.ids[value_place] as usize));
            column.set(row);
        }
    }
    by_key.sort_unstable_by_key(|(key, _)| *key);
    for (key, values) in by_key {
        out.push(MetadataColumn { name: key.into(), values: values.finish(rows) });
    }
    Ok(())
}
