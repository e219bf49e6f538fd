//! Pages: checked and decompressed, and what several encodings of Parquet share.

use std::ops::Range;

use bytes::Bytes;
use model::ByteColumn;
use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer};

use crate::{
    BlockError,
    delta::read_delta,
    rle::read_hybrid,
    thrift::{PageHeader, PageKind, read_page_header},
    wire::Reader,
};

/// A page with a larger decompressed size is refused.
pub(crate) const PAGE_BYTES_MAX: usize = 1 << 30;

/// Bytes given to zstd at a time when only the beginning of a page is needed.
const INPUT_PORTION: usize = 2048;

/// The place of a page, and its expected checksum and rows.
#[derive(Clone, Debug)]
pub(crate) struct PageRef {
    /// In the file.
    pub(crate) start: u64,
    pub(crate) bytes: u32,
    /// CRC32C of its bytes, header included.
    pub(crate) crc: u32,
    /// Its rows, numbered in the row group. Empty for a dictionary.
    pub(crate) rows: Range<u32>,
}

impl PageRef {
    pub(crate) fn range(&self) -> Range<u64> {
        self.start..self.start + u64::from(self.bytes)
    }
}

/// Decompresses pages. Reuses the context of zstd.
pub(crate) struct PageReader {
    zstd: DCtx<'static>,
    /// Number of decompressed bytes so far.
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

    /// Checks the bytes of a page and reads its header. Returns the header and the compressed body.
    pub(crate) fn open<'a>(
        page: &PageRef,
        bytes: &'a [u8],
        kind: PageKind,
    ) -> Result<(PageHeader, &'a [u8]), BlockError> {
        if crc32c::crc32c(bytes) != page.crc {
            return Err(BlockError::damaged(format!("checksum of the page at {} differs", page.start)));
        }
        let mut reader = Reader::new(bytes);
        let header = read_page_header(&mut reader)?;
        if header.kind != kind || header.compressed_bytes != reader.rest().len() {
            return Err(BlockError::damaged(format!("the page at {} does not match the index", page.start)));
        }
        if header.uncompressed_bytes > PAGE_BYTES_MAX {
            return Err(BlockError::damaged(format!(
                "the decompressed size of the page at {} exceeds the limit of 1 GiB",
                page.start
            )));
        }
        Ok((header, reader.rest()))
    }

    /// Checks a page and decompresses its body.
    pub(crate) fn decompress(
        &mut self,
        page: &PageRef,
        bytes: &[u8],
        kind: PageKind,
    ) -> Result<(PageHeader, Vec<u8>), BlockError> {
        let (header, body) = Self::open(page, bytes, kind)?;
        let mut out = Vec::with_capacity(header.uncompressed_bytes);
        if header.uncompressed_bytes > 0 {
            self.zstd.decompress(&mut out, body).map_err(zstd_error)?;
        }
        if out.len() != header.uncompressed_bytes {
            return Err(BlockError::damaged("the decompressed length of a page is not the length in its header"));
        }
        self.decompressed += out.len() as u64;
        Ok((header, out))
    }

    /// Decompresses the `first` bytes of a body and parses them. While that fails, decompresses twice as much.
    pub(crate) fn decompress_beginning<T>(
        &mut self,
        header: &PageHeader,
        body: &[u8],
        first: usize,
        parse: impl Fn(&[u8]) -> Result<T, BlockError>,
    ) -> Result<T, BlockError> {
        self.zstd.init().map_err(zstd_error)?;
        let mut beginning: Vec<u8> = Vec::new();
        let mut consumed = 0;
        let mut wanted = first.min(header.uncompressed_bytes);
        loop {
            beginning.reserve_exact(wanted.saturating_sub(beginning.len()));
            while beginning.len() < wanted {
                let filled = beginning.len();
                // In small portions: given all, zstd would decompress one more block only to find no room for it.
                let portion = &body[consumed..body.len().min(consumed + INPUT_PORTION)];
                let mut input = InBuffer::around(portion);
                let mut output = OutBuffer::around_pos(&mut beginning, filled);
                self.zstd.decompress_stream(&mut output, &mut input).map_err(zstd_error)?;
                consumed += input.pos;
                if output.pos() == filled && input.pos == 0 {
                    return Err(BlockError::damaged(
                        "the decompressed length of a page is not the length in its header",
                    ));
                }
            }
            match parse(&beginning) {
                Ok(parsed) => {
                    self.decompressed += beginning.len() as u64;
                    return Ok(parsed);
                }
                Err(error) if beginning.len() >= header.uncompressed_bytes => return Err(error),
                Err(_) => wanted = (wanted * 2).min(header.uncompressed_bytes),
            }
        }
    }
}

pub(crate) fn check_rows(page: &PageRef, rows: usize) -> Result<(), BlockError> {
    if rows == page.rows.len() {
        return Ok(());
    }
    Err(BlockError::damaged(format!(
        "the page at {} has {rows} rows, but the index expects {}",
        page.start,
        page.rows.len()
    )))
}

pub(crate) fn outside_dictionary() -> BlockError {
    BlockError::damaged("a value is not in its dictionary")
}

/// Reads levels of one bit each, which follow their length in bytes. Returns them and the bytes after them.
pub(crate) fn read_levels(bytes: &[u8], count: usize) -> Result<(Vec<u32>, &[u8]), BlockError> {
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

/// Reads dictionary ids, which follow their bit width.
pub(crate) fn read_ids(bytes: &[u8], count: usize) -> Result<Vec<u32>, BlockError> {
    let mut ids = Vec::with_capacity(count);
    if count > 0 {
        let mut reader = Reader::new(bytes);
        let width = reader.byte()?;
        read_hybrid(reader.rest(), width.into(), count, &mut ids)?;
    }
    Ok(ids)
}

/// Reads DELTA_LENGTH_BYTE_ARRAY: all lengths, then all bytes. The column shares `body`.
pub(crate) fn read_byte_arrays(body: &Bytes, count: usize) -> Result<ByteColumn, BlockError> {
    let mut lengths = Vec::new();
    let data = read_delta(body, count, &mut lengths)?;
    let offsets = offsets_of(&lengths, data.len())?;
    Ok(ByteColumn::new(offsets, body.slice_ref(data)))
}

/// Running sums of lengths. Fails if the last one exceeds `bytes`.
pub(crate) fn offsets_of(lengths: &[i64], bytes: usize) -> Result<Vec<u32>, BlockError> {
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
