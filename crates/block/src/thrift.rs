//! Reads Parquet page headers: the few fields that we need from a struct in thrift's compact encoding.

use crate::{BlockError, wire::Reader};

/// The kind of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
    Data,
    Dictionary,
}

/// The encoding of a page's values. The numbers are Parquet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageEncoding {
    Plain,
    Rle,
    DeltaBinaryPacked,
    DeltaLengthByteArray,
    RleDictionary,
}

/// The header of one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub(crate) kind: PageKind,
    pub(crate) uncompressed_bytes: usize,
    pub(crate) compressed_bytes: usize,
    /// Number of values, nulls included.
    pub(crate) values: usize,
    pub(crate) encoding: PageEncoding,
}

const STRUCT: u8 = 12;
const I32: u8 = 5;

/// Maximal nesting of skipped fields. Statistics have two levels.
const DEPTH_MAX: usize = 8;

/// Reads a header and leaves `reader` at the page's body.
pub(crate) fn read_page_header(reader: &mut Reader<'_>) -> Result<PageHeader, BlockError> {
    let (mut kind, mut uncompressed, mut compressed, mut inner) = (None, None, None, None);
    each_field(reader, |id, kind_of_field, reader| {
        match (id, kind_of_field) {
            (1, I32) => kind = Some(reader.zigzag()?),
            (2, I32) => uncompressed = Some(reader.zigzag()?),
            (3, I32) => compressed = Some(reader.zigzag()?),
            (5 | 7, STRUCT) => inner = Some(read_values_and_encoding(reader)?),
            _ => skip(reader, kind_of_field, 0)?,
        }
        Ok(())
    })?;
    let kind = match kind {
        Some(0) => PageKind::Data,
        Some(2) => PageKind::Dictionary,
        other => return Err(BlockError::damaged(format!("page type {other:?} is not used in blocks"))),
    };
    let size = |value: Option<i64>| value.and_then(|v| usize::try_from(v).ok()).filter(|v| *v <= i32::MAX as usize);
    let missing = || BlockError::damaged("a page header lacks a size");
    let (values, encoding) = inner.ok_or_else(missing)?;
    Ok(PageHeader {
        kind,
        uncompressed_bytes: size(uncompressed).ok_or_else(missing)?,
        compressed_bytes: size(compressed).ok_or_else(missing)?,
        values: size(Some(values)).ok_or_else(missing)?,
        encoding,
    })
}

fn read_values_and_encoding(reader: &mut Reader<'_>) -> Result<(i64, PageEncoding), BlockError> {
    let (mut values, mut encoding) = (None, None);
    each_field(reader, |id, kind, reader| {
        match (id, kind) {
            (1, I32) => values = Some(reader.zigzag()?),
            (2, I32) => encoding = Some(reader.zigzag()?),
            _ => skip(reader, kind, 0)?,
        }
        Ok(())
    })?;
    let encoding = match encoding {
        Some(0) => PageEncoding::Plain,
        Some(3) => PageEncoding::Rle,
        Some(5) => PageEncoding::DeltaBinaryPacked,
        Some(6) => PageEncoding::DeltaLengthByteArray,
        Some(2 | 8) => PageEncoding::RleDictionary,
        other => return Err(BlockError::damaged(format!("encoding {other:?} is not used in blocks"))),
    };
    Ok((values.ok_or_else(|| BlockError::damaged("a page header lacks its count"))?, encoding))
}

/// Calls `field` with the number and the type of each field of a struct.
fn each_field<'a>(
    reader: &mut Reader<'a>,
    mut field: impl FnMut(i64, u8, &mut Reader<'a>) -> Result<(), BlockError>,
) -> Result<(), BlockError> {
    let mut id = 0i64;
    loop {
        let byte = reader.byte()?;
        if byte == 0 {
            return Ok(());
        }
        id = match byte >> 4 {
            0 => reader.zigzag()?,
            delta => id.saturating_add(i64::from(delta)),
        };
        field(id, byte & 15, reader)?;
    }
}

fn skip(reader: &mut Reader<'_>, kind: u8, depth: usize) -> Result<(), BlockError> {
    if depth > DEPTH_MAX {
        return Err(BlockError::damaged("a page header is nested too deeply"));
    }
    match kind {
        1 | 2 => {}
        3 => drop(reader.byte()?),
        4..=6 => drop(reader.varint()?),
        7 => drop(reader.take(8)?),
        8 => drop(reader.bytes()?),
        9 | 10 => {
            let byte = reader.byte()?;
            let count = match byte >> 4 {
                15 => reader.count()?,
                count => usize::from(count),
            };
            for _ in 0..count {
                match byte & 15 {
                    1 | 2 => drop(reader.byte()?),
                    element => skip(reader, element, depth + 1)?,
                }
            }
        }
        STRUCT => each_field(reader, |_, kind, reader| skip(reader, kind, depth + 1))?,
        other => return Err(BlockError::damaged(format!("thrift type {other} is not used in page headers"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_header() {
        // type 0, sizes 100 and 50, a crc to be skipped, DataPageHeader { 7 values, encoding 5, RLE, RLE }.
        let bytes = [0x15, 0, 0x15, 200, 1, 0x15, 100, 0x15, 2, 0x1c, 0x15, 14, 0x15, 10, 0x15, 6, 0x15, 6, 0, 0, 99];
        let mut reader = Reader::new(&bytes);
        let header = read_page_header(&mut reader).unwrap();
        let expected = PageHeader {
            kind: PageKind::Data,
            uncompressed_bytes: 100,
            compressed_bytes: 50,
            values: 7,
            encoding: PageEncoding::DeltaBinaryPacked,
        };
        assert_eq!((header, reader.rest()), (expected, &[99u8][..]));
    }

    #[test]
    fn survives_any_bytes() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
            let _ = read_page_header(&mut Reader::new(&bytes));
        }
    }
}
