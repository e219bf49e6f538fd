//! The stream table: the tenants, row groups and streams of a block. It is enough to select streams.
//!
//! Opening the table builds postings (label value → streams). For 500 streams this takes as long as decompressing stored
//! postings would, and costs no bytes in the file. Blocks of millions of streams may store them in a section later.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use model::{Labels, MatchOp, Matcher, TenantId, TimeRange, TimestampNs};

use crate::{
    BlockError,
    wire::{Reader, put_bytes, put_varint, put_zigzag},
};

/// Version of the section.
pub(crate) const STREAMS_VERSION: u32 = 1;

/// A table with a larger decompressed size is refused.
const TABLE_BYTES_MAX: usize = 1 << 30;

/// One tenant while it is written.
#[derive(Debug)]
pub(crate) struct TenantRows {
    pub(crate) tenant: TenantId,
    pub(crate) groups: Vec<GroupRows>,
    pub(crate) streams: Vec<StreamRows>,
}

/// One row group while it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupRows {
    pub(crate) rows: u64,
    /// Number of metadata pairs in the packed column.
    pub(crate) packed_pairs: u64,
    /// Number of rows with a value, for each key with a column of its own.
    pub(crate) present: Vec<u64>,
}

/// One stream while it is written.
#[derive(Clone, Debug)]
pub(crate) struct StreamRows {
    pub(crate) labels: Labels,
    pub(crate) rows: u64,
    pub(crate) line_bytes: u64,
    pub(crate) min: i64,
    pub(crate) max: i64,
}

/// Encodes the section.
pub(crate) fn encode(keys: &[Arc<str>], tenants: &[TenantRows], zstd_level: i32) -> Result<Vec<u8>, BlockError> {
    let streams = || tenants.iter().flat_map(|tenant| &tenant.streams);
    let mut symbols: Vec<&str> = streams().flat_map(|stream| stream.labels.iter().flat_map(|(n, v)| [n, v])).collect();
    symbols.sort_unstable();
    symbols.dedup();
    let symbol = |text: &str| symbols.binary_search(&text).expect("every text of a label was collected") as u64;

    let mut out = Vec::new();
    put_varint(&mut out, symbols.len() as u64);
    symbols.iter().for_each(|text| put_bytes(&mut out, text.as_bytes()));
    put_varint(&mut out, keys.len() as u64);
    keys.iter().for_each(|key| put_bytes(&mut out, key.as_bytes()));
    put_varint(&mut out, tenants.len() as u64);
    let mut previous_min = 0i64;
    for tenant in tenants {
        put_bytes(&mut out, tenant.tenant.as_str().as_bytes());
        put_varint(&mut out, tenant.groups.len() as u64);
        for group in &tenant.groups {
            put_varint(&mut out, group.rows);
            put_varint(&mut out, group.packed_pairs);
            group.present.iter().for_each(|count| put_varint(&mut out, *count));
        }
        put_varint(&mut out, tenant.streams.len() as u64);
        for stream in &tenant.streams {
            put_varint(&mut out, stream.labels.len() as u64);
            for (name, value) in stream.labels.iter() {
                put_varint(&mut out, symbol(name));
                put_varint(&mut out, symbol(value));
            }
            put_varint(&mut out, stream.rows);
            put_varint(&mut out, stream.line_bytes);
            put_zigzag(&mut out, stream.min.wrapping_sub(previous_min));
            put_varint(&mut out, stream.max.wrapping_sub(stream.min) as u64);
            previous_min = stream.min;
        }
    }
    compress(&out, zstd_level)
}

/// zstd, with the length before compression in front.
pub(crate) fn compress(bytes: &[u8], zstd_level: i32) -> Result<Vec<u8>, BlockError> {
    let mut out = Vec::new();
    put_varint(&mut out, bytes.len() as u64);
    out.extend_from_slice(&zstd::bulk::compress(bytes, zstd_level)?);
    Ok(out)
}

/// Undoes [`compress`].
pub(crate) fn decompress(bytes: &[u8]) -> Result<Vec<u8>, BlockError> {
    let mut reader = Reader::new(bytes);
    let length = reader.varint()?;
    let length = usize::try_from(length).ok().filter(|length| *length <= TABLE_BYTES_MAX);
    let length =
        length.ok_or_else(|| BlockError::damaged("the decompressed length of a section exceeds the limit of 1 GiB"))?;
    let out = zstd::bulk::decompress(reader.rest(), length)?;
    if out.len() == length {
        Ok(out)
    } else {
        Err(BlockError::damaged("the decompressed length of a section is not the length in front of it"))
    }
}

/// An opened table.
#[derive(Debug)]
pub(crate) struct StreamTable {
    /// Keys with a column of their own, in column order.
    pub(crate) keys: Vec<Arc<str>>,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) groups: Vec<Group>,
    pub(crate) streams: Vec<Stream>,
    /// Texts of labels, ascending.
    symbols: Vec<Box<str>>,
    /// Label pairs of all streams, by symbol.
    pairs: Vec<(u32, u32)>,
}

/// Symbol of a name, symbol of a value, ordinal of a stream that has this label.
type Posting = (u32, u32, u32);

/// One tenant of an opened table.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) tenant: TenantId,
    pub(crate) groups: Range<usize>,
    /// Ordinals.
    pub(crate) streams: Range<u32>,
    pub(crate) rows: u64,
    pub(crate) line_bytes: u64,
    pub(crate) time: TimeRange,
    /// Ascending.
    postings: Vec<Posting>,
}

/// One row group of an opened table.
#[derive(Debug)]
pub(crate) struct Group {
    /// Its rows among those of the file.
    pub(crate) rows: Range<u64>,
    pub(crate) packed_pairs: u64,
    pub(crate) present: Vec<u64>,
}

/// One stream of an opened table.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Its rows among those of the file.
    pub(crate) rows: Range<u64>,
    pub(crate) line_bytes: u64,
    pub(crate) min: i64,
    pub(crate) max: i64,
    pairs: Range<u32>,
    /// Made on first use, since most queries use few streams.
    labels: OnceLock<Labels>,
}

impl Stream {
    /// From the earliest row to just after the latest one.
    pub(crate) fn time(&self) -> TimeRange {
        TimeRange::closed(TimestampNs::from_nanos(self.min), TimestampNs::from_nanos(self.max))
    }

    /// Whether some row may lie in `time`.
    pub(crate) fn overlaps(&self, time: &TimeRange) -> bool {
        self.min < time.end.nanos() && time.start.nanos() <= self.max
    }

    /// Whether all rows lie in `time`.
    pub(crate) fn lies_in(&self, time: &TimeRange) -> bool {
        time.start.nanos() <= self.min && self.max < time.end.nanos()
    }
}

impl StreamTable {
    /// Decodes the section.
    pub(crate) fn decode(section: &[u8]) -> Result<Self, BlockError> {
        let bytes = decompress(section)?;
        let mut reader = Reader::new(&bytes);
        let mut symbols: Vec<Box<str>> = Vec::new();
        for _ in 0..reader.count()? {
            symbols.push(reader.text()?.into());
        }
        if !symbols.is_sorted_by(|a, b| a < b) {
            return Err(BlockError::damaged("symbols of the stream table are not in order"));
        }
        let mut keys: Vec<Arc<str>> = Vec::new();
        for _ in 0..reader.count()? {
            keys.push(reader.text()?.into());
        }
        let mut table =
            Self { keys, tenants: Vec::new(), groups: Vec::new(), streams: Vec::new(), symbols, pairs: Vec::new() };
        let mut previous_min = 0i64;
        for _ in 0..reader.count()? {
            table.read_tenant(&mut reader, &mut previous_min)?;
        }
        reader.finish()?;
        if !table.tenants.is_sorted_by(|a, b| a.tenant < b.tenant) {
            return Err(BlockError::damaged("tenants of the stream table are not in order"));
        }
        Ok(table)
    }

    fn read_tenant(&mut self, reader: &mut Reader<'_>, previous_min: &mut i64) -> Result<(), BlockError> {
        let tenant = TenantId::new(reader.text()?).map_err(|e| BlockError::damaged(format!("tenant: {e}")))?;
        let first_group = self.groups.len();
        let first_row = self.groups.last().map_or(0, |group| group.rows.end);
        let mut row = first_row;
        for _ in 0..reader.count()? {
            let rows = row..advance(row, reader.varint()?)?;
            row = rows.end;
            let packed_pairs = reader.varint()?;
            let present = self.keys.iter().map(|_| reader.varint()).collect::<Result<_, _>>()?;
            self.groups.push(Group { rows, packed_pairs, present });
        }
        let last_row = row;
        let first_stream = self.streams.len() as u32;
        let (mut row, mut line_bytes) = (first_row, 0u64);
        let (mut min, mut max) = (i64::MAX, i64::MIN);
        for _ in 0..reader.count()? {
            let stream = self.read_stream(reader, previous_min, row)?;
            row = stream.rows.end;
            line_bytes = advance(line_bytes, stream.line_bytes)?;
            (min, max) = (min.min(stream.min), max.max(stream.max));
            self.streams.push(stream);
        }
        if row != last_row || row == first_row {
            return Err(BlockError::damaged("streams and row groups differ in their rows"));
        }
        if self.streams.len() > u32::MAX as usize {
            return Err(BlockError::damaged("a block has too many streams"));
        }
        let streams = first_stream..self.streams.len() as u32;
        let mut postings = Vec::new();
        for ordinal in streams.clone() {
            let pairs = &self.streams[ordinal as usize].pairs;
            let pairs = &self.pairs[pairs.start as usize..pairs.end as usize];
            postings.extend(pairs.iter().map(|(name, value)| (*name, *value, ordinal)));
        }
        postings.sort_unstable();
        let time = TimeRange::closed(TimestampNs::from_nanos(min), TimestampNs::from_nanos(max));
        let groups = first_group..self.groups.len();
        self.tenants.push(Tenant { tenant, groups, streams, rows: row - first_row, line_bytes, time, postings });
        Ok(())
    }

    fn read_stream(&mut self, r: &mut Reader<'_>, previous_min: &mut i64, row: u64) -> Result<Stream, BlockError> {
        let first_pair = self.pairs.len() as u32;
        for _ in 0..r.count()? {
            let (name, value) = (r.varint()?, r.varint()?);
            if name.max(value) >= self.symbols.len() as u64 {
                return Err(BlockError::damaged("a label refers to a symbol that does not exist"));
            }
            self.pairs.push((name as u32, value as u32));
        }
        let end_pair = u32::try_from(self.pairs.len()).map_err(|_| BlockError::damaged("too many labels"))?;
        if !self.pairs[first_pair as usize..].is_sorted_by(|a, b| a.0 < b.0) {
            return Err(BlockError::damaged("labels of a stream are not in order"));
        }
        let rows = r.varint()?;
        let line_bytes = r.varint()?;
        let min = previous_min.wrapping_add(r.zigzag()?);
        let max = min.wrapping_add(r.varint()? as i64);
        *previous_min = min;
        if rows == 0 || max < min {
            return Err(BlockError::damaged("a stream has no rows, or its latest time is before its earliest"));
        }
        let rows = row..advance(row, rows)?;
        Ok(Stream { rows, line_bytes, min, max, pairs: first_pair..end_pair, labels: OnceLock::new() })
    }

    /// The labels of a stream.
    pub(crate) fn labels(&self, stream: &Stream) -> Labels {
        self.labels_ref(stream).clone()
    }

    /// Like [`StreamTable::labels`], but borrowed.
    pub(crate) fn labels_ref<'a>(&self, stream: &'a Stream) -> &'a Labels {
        stream.labels.get_or_init(|| {
            let pairs = &self.pairs[stream.pairs.start as usize..stream.pairs.end as usize];
            let text = |symbol: u32| self.symbols[symbol as usize].clone();
            Labels::with_empty_values(pairs.iter().map(|(name, value)| (text(*name), text(*value))))
        })
    }

    /// Ordinals of the tenant's matching streams, ascending. Each matcher sees each distinct value of its label once.
    pub(crate) fn select(&self, tenant: &Tenant, matchers: &[Matcher], time: &TimeRange) -> Vec<u32> {
        let first = tenant.streams.start;
        let mut keep: Vec<bool> =
            tenant.streams.clone().map(|ordinal| self.streams[ordinal as usize].overlaps(time)).collect();
        let mut hit = Vec::new();
        for matcher in matchers {
            hit.clear();
            hit.resize(keep.len(), matcher.matches_empty());
            for (value, ordinals) in self.values(tenant, matcher) {
                let matches = matcher.matches_value(value);
                ordinals.iter().for_each(|(_, _, ordinal)| hit[(*ordinal - first) as usize] = matches);
            }
            keep.iter_mut().zip(&hit).for_each(|(keep, hit)| *keep &= *hit);
        }
        keep.iter().enumerate().filter(|(_, keep)| **keep).map(|(i, _)| first + i as u32).collect()
    }

    /// The values that a matcher must test, each with its postings. For an equality with a non-empty text this is one value.
    fn values<'a>(&'a self, tenant: &'a Tenant, matcher: &Matcher) -> Vec<(&'a str, &'a [Posting])> {
        let symbol = |text: &str| self.symbols.binary_search_by(|s| (**s).cmp(text)).ok().map(|i| i as u32);
        let Some(name) = symbol(matcher.name()) else {
            return Vec::new();
        };
        let postings = &tenant.postings;
        let of_name = &postings[postings.partition_point(|p| p.0 < name)..postings.partition_point(|p| p.0 <= name)];
        let only = match matcher.op() {
            MatchOp::Equal if !matcher.value().is_empty() => match symbol(matcher.value()) {
                Some(value) => Some(value),
                None => return Vec::new(),
            },
            _ => None,
        };
        let of_name = match only {
            Some(value) => {
                &of_name[of_name.partition_point(|p| p.1 < value)..of_name.partition_point(|p| p.1 <= value)]
            }
            None => of_name,
        };
        let by_value = of_name.chunk_by(|a, b| a.1 == b.1);
        by_value.map(|run| (&*self.symbols[run[0].1 as usize], run)).collect()
    }

    /// Memory of the table in bytes, once the labels of all streams were used.
    pub(crate) fn memory_bytes(&self) -> usize {
        let texts: usize = self.symbols.iter().map(|s| s.len() + size_of::<Box<str>>()).sum();
        let postings: usize = self.tenants.iter().map(|t| size_of_val(&*t.postings) + size_of::<Tenant>()).sum();
        let text_bytes = |pair: &(u32, u32)| self.symbols[pair.0 as usize].len() + self.symbols[pair.1 as usize].len();
        let labels: usize = self.pairs.iter().map(|pair| text_bytes(pair) + 2 * size_of::<Box<str>>()).sum();
        let groups: usize = self.groups.iter().map(|g| size_of_val(&*g.present) + size_of::<Group>()).sum();
        texts + postings + labels + groups + size_of_val(&*self.streams) + size_of_val(&*self.pairs)
    }
}

fn advance(from: u64, by: u64) -> Result<u64, BlockError> {
    from.checked_add(by).ok_or_else(|| BlockError::damaged("counts of the stream table are too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> StreamTable {
        let stream = |labels: &[(&str, &str)], min, max| StreamRows {
            labels: Labels::from_pairs(labels.iter().copied()),
            rows: 2,
            line_bytes: 10,
            min,
            max,
        };
        let tenant = |name: &str, streams: Vec<StreamRows>| TenantRows {
            tenant: TenantId::new(name).unwrap(),
            groups: vec![GroupRows { rows: 2 * streams.len() as u64, packed_pairs: 1, present: vec![0] }],
            streams,
        };
        let streams = vec![
            stream(&[("app", "api"), ("env", "prod")], 0, 10),
            stream(&[("app", "db")], 5, 20),
            stream(&[("app", "web"), ("env", "dev")], i64::MIN, i64::MAX),
        ];
        let tenants = [tenant("a", streams), tenant("b", vec![stream(&[("app", "api")], -7, -7)])];
        StreamTable::decode(&encode(&["key".into()], &tenants, 1).unwrap()).unwrap()
    }

    #[test]
    fn selects() {
        let table = sample();
        let check = |tenant: usize, matchers: &[(&str, MatchOp, &str)], time: Range<i64>, expected: &[u32]| {
            let matchers: Vec<_> = matchers.iter().map(|(n, op, v)| Matcher::new(n, *op, v).unwrap()).collect();
            let time = TimeRange::new(TimestampNs::from_nanos(time.start), TimestampNs::from_nanos(time.end));
            assert_eq!(table.select(&table.tenants[tenant], &matchers, &time), expected, "{matchers:?}");
        };
        use MatchOp::*;
        check(0, &[], 0..30, &[0, 1, 2]);
        check(0, &[], 11..30, &[1, 2]);
        check(0, &[], 10..11, &[0, 1, 2]);
        check(0, &[("app", Equal, "api")], 0..30, &[0]);
        check(0, &[("app", Equal, "absent")], 0..30, &[]);
        check(0, &[("app", NotEqual, "api")], 0..30, &[1, 2]);
        check(0, &[("env", Equal, "")], 0..30, &[1]);
        check(0, &[("env", NotEqual, "")], 0..30, &[0, 2]);
        check(0, &[("env", Regex, "prod|")], 0..30, &[0, 1]);
        check(0, &[("app", Regex, ".*b.*"), ("env", NotRegex, "dev")], 0..30, &[1]);
        check(0, &[("none", Equal, "")], 0..30, &[0, 1, 2]);
        check(0, &[("none", Regex, ".+")], 0..30, &[]);
        check(1, &[("app", Equal, "api")], -7..-6, &[3]);
        check(1, &[("app", Equal, "db")], -7..-6, &[]);
    }

    #[test]
    fn keeps_what_was_written() {
        let table = sample();
        let labels: Vec<_> = table.streams.iter().map(|s| table.labels(s).to_string()).collect();
        let expected = [r#"{app="api", env="prod"}"#, r#"{app="db"}"#, r#"{app="web", env="dev"}"#, r#"{app="api"}"#];
        assert_eq!(labels, expected);
        assert_eq!((table.streams[2].min, table.streams[2].max, table.streams[3].min), (i64::MIN, i64::MAX, -7));
        assert_eq!((table.streams[1].rows.clone(), table.streams[3].rows.clone()), (2..4, 6..8));
        assert_eq!(table.tenants[1].groups, 1..2);
        assert!(table.memory_bytes() > 100);
    }

    #[test]
    fn survives_changed_bytes() {
        let plain = decompress(&encode(&[], &[], 1).unwrap()).unwrap();
        assert_eq!(plain, [0, 0, 0]);
        let mut random = fastrand::Rng::with_seed(3);
        let table = {
            let stream = StreamRows {
                labels: Labels::from_pairs([("a", "b"), ("c", "d")]),
                rows: 3,
                line_bytes: 9,
                min: 1,
                max: 5,
            };
            let group = GroupRows { rows: 3, packed_pairs: 0, present: vec![] };
            let tenant = TenantId::new("t").unwrap();
            let tenants = [TenantRows { tenant, groups: vec![group], streams: vec![stream] }];
            decompress(&encode(&[], &tenants, 1).unwrap()).unwrap()
        };
        for _ in 0..20_000 {
            let mut bytes = table.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(0..=bytes.len()));
            let _ = StreamTable::decode(&compress(&bytes, 1).unwrap());
        }
    }
}
