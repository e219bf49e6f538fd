//! Texts of metadata: Parquet properties, and decoded pages.

use std::sync::Arc;

use bytes::Bytes;
use model::{ByteColumn, MetadataValues};
use parquet::{
    basic::Encoding,
    file::properties::{EnabledStatistics, WriterPropertiesBuilder},
    schema::types::ColumnPath,
};

use crate::{
    BlockError,
    page::{PageReader, PageRef, outside_dictionary, read_byte_arrays, read_ids},
    thrift::{PageEncoding, PageHeader, PageKind},
    wire::Reader,
};

/// Values go into a dictionary while it is small. After that, pages hold all lengths and then all values.
pub(super) fn text_properties(builder: WriterPropertiesBuilder, path: ColumnPath) -> WriterPropertiesBuilder {
    builder
        .set_column_encoding(path.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
        .set_column_dictionary_enabled(path.clone(), true)
        .set_column_statistics_enabled(path, EnabledStatistics::None)
}

/// Texts of many rows.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    pub(super) dictionary: Arc<ByteColumn>,
    /// For each row its place in the dictionary, or [`MetadataValues::ABSENT`].
    pub(super) ids: Vec<u32>,
}

/// Decodes a dictionary of texts.
pub(super) fn read_dictionary(
    decoder: &mut PageReader,
    place: &PageRef,
    bytes: &Bytes,
) -> Result<Arc<ByteColumn>, BlockError> {
    let (header, body) = decoder.decompress(place, bytes, PageKind::Dictionary)?;
    Ok(Arc::new(read_plain(&body, header.values)?))
}

/// Present texts of a page as a dictionary and ids into it.
pub(super) fn read_texts(
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
        (PageEncoding::Plain, _) => Ok((Arc::new(read_plain(values, present)?), (0..present as u32).collect())),
        _ => Err(BlockError::damaged("texts have an unknown encoding")),
    }
}

fn read_plain(body: &[u8], count: usize) -> Result<ByteColumn, BlockError> {
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

/// A text of metadata, which the file must hold as UTF-8.
pub(super) fn text(bytes: &[u8]) -> Result<&str, BlockError> {
    std::str::from_utf8(bytes).map_err(|_| BlockError::damaged("metadata is not UTF-8"))
}

/// Values of a key in row order.
#[derive(Default)]
pub(super) struct Values {
    data: Vec<u8>,
    ends: Vec<u32>,
    ids: Vec<u32>,
}

impl Values {
    pub(super) fn push(&mut self, value: &[u8]) {
        if self.ends.is_empty() {
            self.ends.push(0);
        }
        self.data.extend_from_slice(value);
        self.ends.push(self.data.len() as u32);
    }

    /// Gives the row the value pushed last.
    pub(super) fn set(&mut self, row: usize) {
        self.ids.resize(row, MetadataValues::ABSENT);
        self.ids.push((self.ends.len() - 2) as u32);
    }

    pub(super) fn finish(mut self, rows: usize) -> MetadataValues {
        self.ids.resize(rows, MetadataValues::ABSENT);
        MetadataValues::Dictionary { dictionary: ByteColumn::new(self.ends, self.data.into()), ids: self.ids }
    }
}
