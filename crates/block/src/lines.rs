//! The column of lines of a row group, packed by hand.
//!
//! The Parquet library could write it too. Doing it here saves a copy of every line, lets zstd be tuned for logs, and above all lets the
//! compressed block end behind the lengths: a reader that only needs these decompresses a few kilobytes of each page.
//! What comes out is plain Parquet: DELTA_LENGTH_BYTE_ARRAY in data pages of version 1, each one zstd frame.

use bytes::Bytes;
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    column::writer::ColumnCloseResult,
    file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder},
    schema::types::ColumnDescPtr,
};
use zstd::zstd_safe::{
    CCtx, CParameter, InBuffer, OutBuffer, ResetDirective, compress_bound, get_error_name,
    zstd_sys::ZSTD_EndDirective::{self, ZSTD_e_end, ZSTD_e_flush},
};

use crate::{
    BlockError, BlockOptions,
    delta::write_delta,
    page::PAGE_BYTES_MAX,
    wire::{put_varint, put_zigzag},
};

/// A page is closed before its lines have more bytes than this, whatever the options say.
const LINES_BYTES_MAX: usize = PAGE_BYTES_MAX / 2;

/// Collects lines into pages and pages into a column chunk.
pub(crate) struct LineChunk {
    zstd: CCtx<'static>,
    page_bytes: usize,
    page_rows: usize,
    /// Of the page that is filling.
    lengths: Vec<i64>,
    data: Vec<u8>,
    /// Pages done.
    chunk: Vec<u8>,
    index: OffsetIndexBuilder,
    rows: u64,
    line_bytes: u64,
    uncompressed_bytes: u64,
    level: i32,
}

fn zstd_error(code: usize) -> BlockError {
    BlockError::Refused(format!("zstd: {}", get_error_name(code)))
}

impl LineChunk {
    pub(crate) fn new(options: &BlockOptions) -> Result<Self, BlockError> {
        let mut zstd = CCtx::create();
        zstd.set_parameter(CParameter::CompressionLevel(options.line_zstd_level)).map_err(zstd_error)?;
        if options.line_zstd_level == 1 {
            // Logs repeat long texts: looking for long matches only, with a larger table, packs 2 % better at the same cost.
            for parameter in [CParameter::WindowLog(20), CParameter::HashLog(15), CParameter::MinMatch(7)] {
                zstd.set_parameter(parameter).map_err(zstd_error)?;
            }
        }
        Ok(Self {
            zstd,
            page_bytes: options.line_page_bytes,
            page_rows: options.page_rows_max,
            lengths: Vec::new(),
            data: Vec::new(),
            chunk: Vec::new(),
            index: OffsetIndexBuilder::new(),
            rows: 0,
            line_bytes: 0,
            uncompressed_bytes: 0,
            level: options.line_zstd_level,
        })
    }

    /// Bytes held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.chunk.len() + self.data.len() + size_of_val(&*self.lengths)
    }

    /// Adds a line.
    #[inline]
    pub(crate) fn push(&mut self, line: &[u8]) -> Result<(), BlockError> {
        if self.data.len() + line.len() > LINES_BYTES_MAX {
            self.end_page()?;
        }
        self.lengths.push(line.len() as i64);
        self.data.extend_from_slice(line);
        if self.data.len() >= self.page_bytes || self.lengths.len() >= self.page_rows {
            self.end_page()
        } else {
            Ok(())
        }
    }

    fn end_page(&mut self) -> Result<(), BlockError> {
        let rows = self.lengths.len();
        if rows == 0 {
            return Ok(());
        }
        let mut lengths = Vec::with_capacity(rows + 64);
        write_delta(&self.lengths, &mut lengths);
        let uncompressed = lengths.len() + self.data.len();
        // Room for two blocks that do not compress, each with its header.
        let mut body: Vec<u8> = Vec::with_capacity(compress_bound(uncompressed) + compress_bound(lengths.len()));
        self.zstd.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
        self.zstd.set_pledged_src_size(Some(uncompressed as u64)).map_err(zstd_error)?;
        compress(&mut self.zstd, &lengths, ZSTD_e_flush, &mut body)?;
        compress(&mut self.zstd, &self.data, ZSTD_e_end, &mut body)?;

        let start = self.chunk.len();
        write_header(&mut self.chunk, rows, uncompressed, body.len());
        let header_bytes = self.chunk.len() - start;
        self.chunk.extend_from_slice(&body);
        let page_bytes = i32::try_from(self.chunk.len() - start)
            .map_err(|_| BlockError::Refused("a page of lines that does not compress".to_owned()))?;
        self.index.append_row_count(rows as i64);
        self.index.append_offset_and_size(start as i64, page_bytes);
        self.index.append_unencoded_byte_array_data_bytes(Some(self.data.len() as i64));
        self.rows += rows as u64;
        self.line_bytes += self.data.len() as u64;
        self.uncompressed_bytes += (header_bytes + uncompressed) as u64;
        self.lengths.clear();
        self.data.clear();
        Ok(())
    }

    /// Takes the chunk as Parquet wants it, and begins the next one.
    pub(crate) fn take(&mut self, column: ColumnDescPtr) -> Result<(Bytes, ColumnCloseResult), BlockError> {
        self.end_page()?;
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        let index = std::mem::take(&mut self.index).build();
        let (rows, line_bytes) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.line_bytes));
        let uncompressed = std::mem::take(&mut self.uncompressed_bytes);
        let metadata = ColumnChunkMetaData::builder(column)
            .set_encodings(vec![Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::RLE])
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(self.level)?))
            .set_num_values(rows as i64)
            .set_total_compressed_size(chunk.len() as i64)
            .set_total_uncompressed_size(uncompressed as i64)
            .set_data_page_offset(0)
            .set_unencoded_byte_array_data_bytes(Some(line_bytes as i64))
            .build()?;
        let close = ColumnCloseResult {
            bytes_written: chunk.len() as u64,
            rows_written: rows,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(index),
        };
        Ok((chunk, close))
    }
}

/// Appends compressed `input` to `out`, whose room is enough.
fn compress(zstd: &mut CCtx<'_>, input: &[u8], end: ZSTD_EndDirective, out: &mut Vec<u8>) -> Result<(), BlockError> {
    let mut input = InBuffer::around(input);
    loop {
        let filled = out.len();
        let mut output = OutBuffer::around_pos(out, filled);
        let left = zstd.compress_stream2(&mut output, &mut input, end).map_err(zstd_error)?;
        let progress = output.pos() > filled;
        if left == 0 && input.pos == input.src.len() {
            return Ok(());
        }
        if !progress {
            out.reserve(1 << 17);
        }
    }
}

/// A thrift PageHeader { DATA_PAGE, sizes, DataPageHeader { rows, DELTA_LENGTH_BYTE_ARRAY, RLE, RLE } }.
fn write_header(out: &mut Vec<u8>, rows: usize, uncompressed: usize, compressed: usize) {
    const NEXT_I32: u8 = 0x15;
    const SECOND_NEXT_STRUCT: u8 = 0x2c;
    let mut put = |value: usize| {
        out.push(NEXT_I32);
        put_zigzag(out, value as i64);
    };
    put(0);
    put(uncompressed);
    put(compressed);
    out.push(SECOND_NEXT_STRUCT);
    let mut put = |value: usize| {
        out.push(NEXT_I32);
        put_zigzag(out, value as i64);
    };
    put(rows);
    put(6);
    put(3);
    put(3);
    put_varint(out, 0);
    put_varint(out, 0);
}
