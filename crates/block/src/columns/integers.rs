//! What columns of integers share: Parquet properties, and decoded pages.

use bytes::Bytes;
use parquet::{
    basic::Encoding,
    file::properties::{EnabledStatistics, WriterPropertiesBuilder},
    schema::types::ColumnPath,
};

use super::pages::Page;
use crate::{
    BlockError,
    delta::read_delta,
    page::{PageReader, PageRef, check_rows, outside_dictionary, read_ids},
    thrift::{PageEncoding, PageKind},
};

/// Values go into a dictionary while it is small. After that, pages hold differences. Each page has statistics.
pub(super) fn dictionary_properties(builder: WriterPropertiesBuilder, name: &str) -> WriterPropertiesBuilder {
    let path = ColumnPath::from(name);
    builder
        .set_column_dictionary_enabled(path.clone(), true)
        .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
        .set_column_statistics_enabled(path, EnabledStatistics::Page)
}

/// Takes the values. The new buffer has the same capacity.
pub(super) fn renew<T>(values: &mut Vec<T>) -> Vec<T> {
    let fresh = Vec::with_capacity(values.len());
    std::mem::replace(values, fresh)
}

/// Decodes a dictionary of integers.
pub(super) fn read_dictionary(
    decoder: &mut PageReader,
    place: &PageRef,
    bytes: &Bytes,
) -> Result<Vec<i64>, BlockError> {
    let (header, body) = decoder.decompress(place, bytes, PageKind::Dictionary)?;
    read_plain(&body, header.values)
}

/// Decodes a page of integers.
pub(super) fn read_page(
    decoder: &mut PageReader,
    page: &Page<'_>,
    dictionary: Option<&Vec<i64>>,
) -> Result<Vec<i64>, BlockError> {
    let (header, body) = decoder.decompress(page.place, &page.bytes, PageKind::Data)?;
    check_rows(page.place, header.values)?;
    match (header.encoding, dictionary) {
        (PageEncoding::DeltaBinaryPacked, _) => {
            let mut out = Vec::new();
            read_delta(&body, header.values, &mut out)?;
            Ok(out)
        }
        (PageEncoding::Plain, _) => read_plain(&body, header.values),
        (PageEncoding::RleDictionary, Some(dictionary)) => {
            let ids = read_ids(&body, header.values)?;
            let value = |id: &u32| dictionary.get(*id as usize).copied();
            ids.iter().map(value).collect::<Option<_>>().ok_or_else(outside_dictionary)
        }
        _ => Err(BlockError::damaged("integers have an unknown encoding")),
    }
}

fn read_plain(body: &[u8], count: usize) -> Result<Vec<i64>, BlockError> {
    let words = body.as_chunks::<8>().0;
    if words.len() < count {
        return Err(BlockError::damaged("a page of integers is too short"));
    }
    Ok(words[..count].iter().map(|word| i64::from_le_bytes(*word)).collect())
}
