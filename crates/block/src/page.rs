//! Pages: checked, decompressed, and decoded into columns.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use model::{ByteColumn, MetadataValues};
use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer};

use crate::{
    BlockError,
    delta::read_delta,
    rle::read_hybrid,
    thrift::{PageEncoding, PageHeader, PageKind, read_page_header},
    wire::Reader,
};

/// Pages that claim to be larger than this when decompressed are refused.
pub(crate) const PAGE_BYTES_MAX: usize = 1 << 30;

/// Bytes given to zstd at a time when only the beginning of a page is wanted.
const INPUT_PORTION: usize = 2048;

/// Where a page lies, and what it must be.
#[derive(Clone, Debug)]
pub(crate) struct PageRef {
    /// In the file.
    pub(crate) start: u64,
    pub(crate) bytes: u32,
    /// CRC32C of its bytes, header included.
    pub(crate) crc: u32,
    /// Its rows among those of the row group; empty for a dictionary.
    pub(crate) rows: Range<u32>,
}

impl PageRef {
    pub(crate) fn range(&self) -> Range<u64> {
        self.start..self.start + u64::from(self.bytes)
    }
}

/// Decompresses pages; keeps zstd's context between them.
pub(crate) struct PageReader {
    zstd: DCtx<'static>,
    /// Bytes after decompression, so far.
    pub(crate) decompressed: u64,
}

impl std::fmt::Debug for PageReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageReader").field("decompressed", &self.decompressed).finish_non_exhaustive()
    }
}

fn zstd_error(code: usize) -> BlockError {
    BlockError::damaged(format!("zstd: {}", zstd::zstd_safe::get_error_name(code)))
}

impl PageReader {
    pub(crate) fn new() -> Self {
        Self { zstd: DCtx::create(), decompressed: 0 }
    }

    /// Checks a page's bytes and reads its header. Returns it and the body, still compressed.
    fn open<'a>(page: &PageRef, bytes: &'a [u8], kind: PageKind) -> Result<(PageHeader, &'a [u8]), BlockError> {
        if crc32c::crc32c(bytes) != page.crc {
            return Err(BlockError::damaged(format!("checksum of the page at {} differs", page.start)));
        }
        let mut reader = Reader::new(bytes);
        let header = read_page_header(&mut reader)?;
        if header.kind != kind || header.compressed_bytes != reader.rest().len() {
            return Err(BlockError::damaged(format!("the page at {} is not what the index says", page.start)));
        }
        if header.uncompressed_bytes > PAGE_BYTES_MAX {
            return Err(BlockError::damaged(format!("the page at {} is larger than any page", page.start)));
        }
        Ok((header, reader.rest()))
    }

    fn decompress(&mut self, header: &PageHeader, body: &[u8]) -> Result<Vec<u8>, BlockError> {
        let mut out = Vec::with_capacity(header.uncompressed_bytes);
        if header.uncompressed_bytes > 0 {
            self.zstd.decompress(&mut out, body).map_err(zstd_error)?;
        }
        if out.len() != header.uncompressed_bytes {
            return Err(BlockError::damaged("a page has another length than it says"));
        }
        self.decompressed += out.len() as u64;
        Ok(out)
    }

    /// A page of lines.
    pub(crate) fn lines(&mut self, page: &PageRef, bytes: &[u8]) -> Result<ByteColumn, BlockError> {
        let (header, body) = Self::open(page, bytes, PageKind::Data)?;
        check_rows(page, header.values)?;
        if header.encoding != PageEncoding::DeltaLengthByteArray {
            return Err(BlockError::damaged("lines have an unknown encoding"));
        }
        let body = Bytes::from(self.decompress(&header, body)?);
        read_byte_arrays(&body, header.values)
    }

    /// The lengths of a page of lines, as a column whose bytes are not to be read. Lengths come first in a page, so
    /// only its beginning is decompressed.
    /// `line_bytes` is what the index says of the page's lines; it only saves time.
    pub(crate) fn line_lengths(
        &mut self,
        page: &PageRef,
        bytes: &[u8],
        line_bytes: Option<u32>,
    ) -> Result<Vec<u32>, BlockError> {
        let (header, body) = Self::open(page, bytes, PageKind::Data)?;
        check_rows(page, header.values)?;
        if header.encoding != PageEncoding::DeltaLengthByteArray {
            return Err(BlockError::damaged("lines have an unknown encoding"));
        }
        self.zstd.init().map_err(zstd_error)?;
        let mut prefix: Vec<u8> = Vec::new();
        let mut consumed = 0;
        // What the lines leave of the page are the lengths, and our writer ends a compressed block there. Else two bytes a length
        // at first, and doubled until the lengths fit.
        let guess = header.values.saturating_mul(2).saturating_add(64);
        let exact = line_bytes.and_then(|bytes| header.uncompressed_bytes.checked_sub(bytes as usize));
        let mut wanted = exact.filter(|bytes| *bytes > 0).unwrap_or(guess).min(header.uncompressed_bytes);
        loop {
            prefix.reserve_exact(wanted.saturating_sub(prefix.len()));
            while prefix.len() < wanted {
                let filled = prefix.len();
                // In small portions: given all, zstd would decompress one more block only to find that there is no room for it.
                let portion = &body[consumed..body.len().min(consumed + INPUT_PORTION)];
                let mut input = InBuffer::around(portion);
                let mut output = OutBuffer::around_pos(&mut prefix, filled);
                self.zstd.decompress_stream(&mut output, &mut input).map_err(zstd_error)?;
                consumed += input.pos;
                if output.pos() == filled && input.pos == 0 {
                    return Err(BlockError::damaged("a page has another length than it says"));
                }
            }
            let mut lengths = Vec::new();
            match read_delta(&prefix, header.values, &mut lengths) {
                Ok(_) => {
                    self.decompressed += prefix.len() as u64;
                    return offsets_of(&lengths, header.uncompressed_bytes);
                }
                Err(error) if prefix.len() >= header.uncompressed_bytes => return Err(error),
                Err(_) => wanted = (wanted * 2).min(header.uncompressed_bytes),
            }
        }
    }

    /// A page of dictionary values of byte strings.
    pub(crate) fn dictionary(&mut self, page: &PageRef, bytes: &[u8]) -> Result<ByteColumn, BlockError> {
        let (header, body) = Self::open(page, bytes, PageKind::Dictionary)?;
        let body = self.decompress(&header, body)?;
        read_plain_byte_arrays(&body, header.values)
    }

    /// A page of dictionary values of integers.
    pub(crate) fn integer_dictionary(&mut self, page: &PageRef, bytes: &[u8]) -> Result<Vec<i64>, BlockError> {
        let (header, body) = Self::open(page, bytes, PageKind::Dictionary)?;
        let body = self.decompress(&header, body)?;
        read_plain_integers(&body, header.values)
    }

    /// A page of integers.
    pub(crate) fn integers(
        &mut self,
        page: &PageRef,
        bytes: &[u8],
        dictionary: Option<&[i64]>,
    ) -> Result<Vec<i64>, BlockError> {
        let (header, body) = Self::open(page, bytes, PageKind::Data)?;
        check_rows(page, header.values)?;
        let body = self.decompress(&header, body)?;
        match (header.encoding, dictionary) {
            (PageEncoding::DeltaBinaryPacked, _) => {
                let mut out = Vec::new();
                read_delta(&body, header.values, &mut out)?;
                Ok(out)
            }
            (PageEncoding::Plain, _) => read_plain_integers(&body, header.values),
            (PageEncoding::RleDictionary, Some(dictionary)) => {
                let ids = read_ids(&body, header.values)?;
                let value = |id: &u32| dictionary.get(*id as usize).copied();
                ids.iter().map(value).collect::<Option<_>>().ok_or_else(outside_dictionary)
            }
            _ => Err(BlockError::damaged("integers have an unknown encoding")),
        }
    }

    /// A page of a metadata key: optional texts.
    pub(crate) fn texts(
        &mut self,
        page: &PageRef,
        bytes: &[u8],
        dictionary: Option<&Arc<ByteColumn>>,
    ) -> Result<Texts, BlockError> {
        let (header, body) = Self::open(page, bytes, PageKind::Data)?;
        check_rows(page, header.values)?;
        let body = Bytes::from(self.decompress(&header, body)?);
        let (levels, values) = read_levels(&body, header.values)?;
        let present = levels.iter().filter(|level| **level == 1).count();
        let (dictionary, mut ids) = read_texts(&header, &body.slice_ref(values), present, dictionary)?;
        if present < header.values {
            let mut next = ids.into_iter();
            let id = |level: &u32| if *level == 1 { next.next() } else { None };
            ids = levels.iter().map(id).map(|id| id.unwrap_or(MetadataValues::ABSENT)).collect();
        }
        Ok(Texts { dictionary, ids })
    }

    /// A page of keys or values of the packed metadata: for each row any number of texts.
    pub(crate) fn text_lists(
        &mut self,
        page: &PageRef,
        bytes: &[u8],
        dictionary: Option<&Arc<ByteColumn>>,
    ) -> Result<TextLists, BlockError> {
        let (header, body) = Self::open(page, bytes, PageKind::Data)?;
        let body = Bytes::from(self.decompress(&header, body)?);
        let (repetition, rest) = read_levels(&body, header.values)?;
        let (definition, values) = read_levels(rest, header.values)?;
        let present = definition.iter().filter(|level| **level == 1).count();
        let mut starts = Vec::new();
        let mut seen = 0u32;
        for (repeated, defined) in repetition.iter().zip(&definition) {
            if *repeated == 0 {
                starts.push(seen);
            }
            seen += *defined;
        }
        check_rows(page, starts.len())?;
        if repetition.first().is_some_and(|first| *first != 0) {
            return Err(BlockError::damaged("a page of lists does not begin with a row"));
        }
        starts.push(seen);
        let (dictionary, ids) = read_texts(&header, &body.slice_ref(values), present, dictionary)?;
        Ok(TextLists { starts, texts: Texts { dictionary, ids } })
    }
}

/// Texts of many rows.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    pub(crate) dictionary: Arc<ByteColumn>,
    /// For each row its place in the dictionary, or [`MetadataValues::ABSENT`].
    pub(crate) ids: Vec<u32>,
}

/// Lists of texts of many rows. Row `i` has those from `starts[i]` to `starts[i + 1]`.
#[derive(Clone, Debug)]
pub(crate) struct TextLists {
    pub(crate) starts: Vec<u32>,
    pub(crate) texts: Texts,
}

fn check_rows(page: &PageRef, rows: usize) -> Result<(), BlockError> {
    if rows == page.rows.len() {
        return Ok(());
    }
    Err(BlockError::damaged(format!("the page at {} has {rows} rows, the index says {}", page.start, page.rows.len())))
}

fn outside_dictionary() -> BlockError {
    BlockError::damaged("a value is not in its dictionary")
}

/// Levels of one bit each, with their length in front. Returns them and what follows.
fn read_levels(bytes: &[u8], count: usize) -> Result<(Vec<u32>, &[u8]), BlockError> {
    let mut reader = Reader::new(bytes);
    let length = reader.take(4)?;
    let length = u32::from_le_bytes(length.try_into().expect("four bytes were taken"));
    let packed = reader.take(length as usize)?;
    let mut levels = Vec::with_capacity(count);
    read_hybrid(packed, 1, count, &mut levels)?;
    if levels.iter().any(|level| *level > 1) {
        return Err(BlockError::damaged("a level is out of bounds"));
    }
    Ok((levels, reader.rest()))
}

/// Dictionary ids, with their width in front.
fn read_ids(bytes: &[u8], count: usize) -> Result<Vec<u32>, BlockError> {
    let mut ids = Vec::with_capacity(count);
    if count > 0 {
        let mut reader = Reader::new(bytes);
        let width = reader.byte()?;
        read_hybrid(reader.rest(), width.into(), count, &mut ids)?;
    }
    Ok(ids)
}

/// Present texts of a page as a dictionary and ids into it.
fn read_texts(
    header: &PageHeader,
    values: &Bytes,
    present: usize,
    dictionary: Option<&Arc<ByteColumn>>,
) -> Result<(Arc<ByteColumn>, Vec<u32>), BlockError> {
    match (header.encoding, dictionary) {
        (PageEncoding::RleDictionary, Some(dictionary)) => {
            let ids = read_ids(values, present)?;
            if ids.iter().any(|id| *id as usize >= dictionary.len()) {
                return Err(outside_dictionary());
            }
            Ok((dictionary.clone(), ids))
        }
        (PageEncoding::DeltaLengthByteArray, _) => {
            let column = if present == 0 { ByteColumn::default() } else { read_byte_arrays(values, present)? };
            Ok((Arc::new(column), (0..present as u32).collect()))
        }
        (PageEncoding::Plain, _) => {
            Ok((Arc::new(read_plain_byte_arrays(values, present)?), (0..present as u32).collect()))
        }
        _ => Err(BlockError::damaged("texts have an unknown encoding")),
    }
}

/// DELTA_LENGTH_BYTE_ARRAY: all lengths, then all bytes. The column shares `body`.
fn read_byte_arrays(body: &Bytes, count: usize) -> Result<ByteColumn, BlockError> {
    let mut lengths = Vec::new();
    let data = read_delta(body, count, &mut lengths)?;
    let offsets = offsets_of(&lengths, data.len())?;
    Ok(ByteColumn::new(offsets, body.slice_ref(data)))
}

/// Running sums of lengths, the last of which is at most `bytes`.
fn offsets_of(lengths: &[i64], bytes: usize) -> Result<Vec<u32>, BlockError> {
    let outside = || BlockError::damaged("byte strings are longer than their page");
    let mut offsets = Vec::with_capacity(lengths.len() + 1);
    let mut end = 0u32;
    offsets.push(0);
    for length in lengths {
        let length = u32::try_from(*length).map_err(|_| outside())?;
        end = end.checked_add(length).ok_or_else(outside)?;
        offsets.push(end);
    }
    if end as usize > bytes { Err(outside()) } else { Ok(offsets) }
}

fn read_plain_byte_arrays(body: &[u8], count: usize) -> Result<ByteColumn, BlockError> {
    let mut reader = Reader::new(body);
    let mut offsets = vec![0u32];
    let mut data = Vec::with_capacity(body.len());
    for _ in 0..count {
        let length = reader.take(4)?;
        let length = u32::from_le_bytes(length.try_into().expect("four bytes were taken"));
        data.extend_from_slice(reader.take(length as usize)?);
        offsets.push(data.len() as u32);
    }
    Ok(ByteColumn::new(offsets, data.into()))
}

fn read_plain_integers(body: &[u8], count: usize) -> Result<Vec<i64>, BlockError> {
    let words = body.as_chunks::<8>().0;
    if words.len() < count {
        return Err(BlockError::damaged("a page of integers ends too early"));
    }
    Ok(words[..count].iter().map(|word| i64::from_le_bytes(*word)).collect())
}
