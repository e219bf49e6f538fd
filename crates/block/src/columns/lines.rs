//! Column `line`. The writer packs its pages by hand.
//!
//! The Parquet library could pack it too. Doing it here saves a copy of every line and lets zstd be tuned for logs. Above all,
//! a compressed block ends after the lengths, so a reader that only needs lengths decompresses a few kilobytes of each
//! page. The result is plain Parquet: DELTA_LENGTH_BYTE_ARRAY in data pages of version 1, each one zstd frame.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray},
    datatypes::{DataType, Field},
};
use bytes::Bytes;
use model::{Batch, ByteColumn, LineNeed, Lines, Needs};
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    column::writer::ColumnCloseResult,
    file::{
        metadata::{ColumnChunkMetaData, OffsetIndexBuilder},
        properties::{EnabledStatistics, WriterPropertiesBuilder},
    },
    schema::types::{ColumnDescPtr, ColumnPath},
};
use zstd::zstd_safe::{
    CCtx, CParameter, InBuffer, OutBuffer, ResetDirective, compress_bound, get_error_name,
    zstd_sys::ZSTD_EndDirective::{self, ZSTD_e_end, ZSTD_e_flush},
};

use super::{
    column::{
        Column, ColumnReader, ColumnWriter, NewRow, PackedChunk, PageFacts, RowWriter, ScannedRows, StoredRows,
        check_equal, wrong_type,
    },
    pages::{DecodedLeaf, Page, PageSource},
};
use crate::{
    BlockError, BlockOptions,
    delta::{read_delta, write_delta},
    page::{PAGE_BYTES_MAX, PageReader, check_rows, offsets_of, read_byte_arrays},
    table::{Group, GroupRows},
    thrift::{PageEncoding, PageHeader, PageKind},
    wire::{put_varint, put_zigzag},
};

const NAME: &str = "line";

/// A page is closed before its lines have more bytes than this, whatever the options say.
const LINES_BYTES_MAX: usize = PAGE_BYTES_MAX / 2;

#[derive(Debug)]
pub(crate) struct LineColumn;

impl Column for LineColumn {
    fn field(&self) -> Field {
        Field::new(NAME, DataType::Binary, false)
    }

    fn leaf_names(&self) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    fn properties(
        &self,
        options: &BlockOptions,
        builder: WriterPropertiesBuilder,
    ) -> Result<WriterPropertiesBuilder, BlockError> {
        let path = ColumnPath::from(NAME);
        Ok(builder
            .set_column_encoding(path.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_statistics_enabled(path.clone(), EnabledStatistics::None)
            .set_column_compression(path.clone(), Compression::ZSTD(ZstdLevel::try_new(options.line_zstd_level)?))
            .set_column_data_page_size_limit(path, options.line_page_bytes))
    }

    fn page_facts(&self) -> PageFacts {
        PageFacts::ValueBytes
    }

    fn reader(&self, needs: &Needs, _: &Group) -> Option<Box<dyn ColumnReader>> {
        match needs.lines {
            LineNeed::None => None,
            LineNeed::Lengths => Some(Box::new(LengthReader::default())),
            LineNeed::Content => Some(Box::new(ContentReader::default())),
        }
    }

    fn check(&self, array: &ArrayRef, scanned: &ScannedRows<'_>, stored: &mut StoredRows) -> Result<(), BlockError> {
        let array = array.as_binary_opt::<i32>().ok_or_else(|| wrong_type(NAME))?;
        for (i, row) in scanned.rows.clone().enumerate() {
            let line = array.value(i);
            stored.line_bytes.push(line.len());
            check_equal(NAME, line == scanned.batch.lines.get(row))?;
        }
        Ok(())
    }
}

/// Reads the bytes of lines.
#[derive(Debug, Default)]
struct ContentReader(DecodedLeaf<ByteColumn>);

impl ColumnReader for ContentReader {
    fn holds(&self, _: usize, page: usize) -> bool {
        self.0.holds(page)
    }

    fn holds_dictionary(&self, _: usize) -> bool {
        true
    }

    /// The lines of the batch share the page's bytes.
    fn read(&mut self, source: &mut PageSource<'_>, batch: &mut Batch) -> Result<(), BlockError> {
        let (page, rows) = self.0.load(source, 0, |_, _, _| Ok(()), |decoder, page, _| read_lines(decoder, page))?;
        let offsets = &page.offsets()[rows.start..=rows.end];
        let data = page.data().slice(offsets[0] as usize..offsets[rows.len()] as usize);
        batch.lines = ByteColumn::new(rebase(offsets), data).into();
        Ok(())
    }
}

/// Reads the lengths of lines.
#[derive(Debug, Default)]
struct LengthReader(DecodedLeaf<Vec<u32>>);

impl ColumnReader for LengthReader {
    fn holds(&self, _: usize, page: usize) -> bool {
        self.0.holds(page)
    }

    fn holds_dictionary(&self, _: usize) -> bool {
        true
    }

    fn read(&mut self, source: &mut PageSource<'_>, batch: &mut Batch) -> Result<(), BlockError> {
        let (offsets, rows) =
            self.0.load(source, 0, |_, _, _| Ok(()), |decoder, page, _| read_lengths(decoder, page))?;
        let Range { start, end } = rows;
        batch.lines = Lines::Lengths(rebase(&offsets[start..=end]));
        Ok(())
    }
}

fn rebase(offsets: &[u32]) -> Vec<u32> {
    let first = offsets.first().copied().unwrap_or(0);
    offsets.iter().map(|offset| offset - first).collect()
}

fn check_header(page: &Page<'_>, header: &PageHeader) -> Result<(), BlockError> {
    check_rows(page.place, header.values)?;
    match header.encoding {
        PageEncoding::DeltaLengthByteArray => Ok(()),
        _ => Err(BlockError::damaged("lines have an unknown encoding")),
    }
}

fn read_lines(decoder: &mut PageReader, page: &Page<'_>) -> Result<ByteColumn, BlockError> {
    let (header, body) = decoder.decompress(page.place, &page.bytes, PageKind::Data)?;
    check_header(page, &header)?;
    read_byte_arrays(&Bytes::from(body), header.values)
}

/// Decodes where each line of a page would begin and end. Lengths come first in a page, so only its beginning is decompressed.
fn read_lengths(decoder: &mut PageReader, page: &Page<'_>) -> Result<Vec<u32>, BlockError> {
    let (header, body) = PageReader::open(page.place, &page.bytes, PageKind::Data)?;
    check_header(page, &header)?;
    // The lengths are all of the page but its lines, and our writer ends a compressed block after them. If the index does not
    // know the bytes of lines, begin with two bytes per length.
    let guess = header.values.saturating_mul(2).saturating_add(64);
    let exact = page.value_bytes.and_then(|bytes| header.uncompressed_bytes.checked_sub(bytes as usize));
    let first = exact.filter(|bytes| *bytes > 0).unwrap_or(guess);
    decoder.decompress_beginning(&header, body, first, |beginning| {
        let mut lengths = Vec::new();
        read_delta(beginning, header.values, &mut lengths)?;
        offsets_of(&lengths, header.uncompressed_bytes)
    })
}

/// Packs lines into pages, and pages into a column chunk.
pub(crate) struct LineWriter {
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

impl RowWriter for LineWriter {
    fn new(options: &BlockOptions, _: &[Arc<str>]) -> Result<Self, BlockError> {
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

    #[inline]
    fn push(&mut self, row: &NewRow<'_>) -> Result<usize, BlockError> {
        let line = row.line;
        if self.data.len() + line.len() > LINES_BYTES_MAX {
            self.end_page()?;
        }
        self.lengths.push(line.len() as i64);
        self.data.extend_from_slice(line);
        if self.data.len() >= self.page_bytes || self.lengths.len() >= self.page_rows {
            self.end_page()?;
        }
        Ok(line.len())
    }

    fn column_writers(&mut self) -> Vec<&mut dyn ColumnWriter> {
        vec![self]
    }

    fn memory_bytes(&self) -> usize {
        self.chunk.len() + self.data.len() + size_of_val(&*self.lengths)
    }
}

impl LineWriter {
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
    fn take_chunk(&mut self, leaf: ColumnDescPtr) -> Result<PackedChunk, BlockError> {
        self.end_page()?;
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        let index = std::mem::take(&mut self.index).build();
        let (rows, line_bytes) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.line_bytes));
        let uncompressed = std::mem::take(&mut self.uncompressed_bytes);
        let metadata = ColumnChunkMetaData::builder(leaf)
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
        Ok(PackedChunk { bytes: chunk, close })
    }
}

impl ColumnWriter for LineWriter {
    fn take_rows(&mut self, _: usize, _: &mut GroupRows) -> Result<Option<ArrayRef>, BlockError> {
        Ok(None)
    }

    fn take_chunks(&mut self, leaves: &[ColumnDescPtr]) -> Result<Option<Vec<PackedChunk>>, BlockError> {
        leaves.iter().map(|leaf| self.take_chunk(leaf.clone())).collect::<Result<_, _>>().map(Some)
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
