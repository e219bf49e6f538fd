//! Writes and reads DELTA_BINARY_PACKED integers.

use crate::{
    BlockError,
    wire::{Reader, put_varint, put_zigzag},
};

/// Larger blocks are refused; no writer makes them.
const BLOCK_VALUES_MAX: u64 = 1 << 16;

/// Number of integers in a block and in a miniblock, which has one bit width, as [`write_delta`] writes them.
const BLOCK_VALUES: usize = 128;
const MINIBLOCK_VALUES: usize = 32;

/// Appends integers whose differences are at most 2^31, as those of lengths are.
pub(crate) fn write_delta(values: &[i64], out: &mut Vec<u8>) {
    put_varint(out, BLOCK_VALUES as u64);
    put_varint(out, (BLOCK_VALUES / MINIBLOCK_VALUES) as u64);
    put_varint(out, values.len() as u64);
    put_zigzag(out, values.first().copied().unwrap_or(0));
    let mut deltas = [0; BLOCK_VALUES];
    for block in values.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<i64>>().chunks(BLOCK_VALUES) {
        let min = block.iter().copied().min().unwrap_or(0);
        put_zigzag(out, min);
        deltas.fill(0);
        deltas.iter_mut().zip(block).for_each(|(delta, value)| *delta = (value - min) as u64);
        let width = |miniblock: &[u64]| 64 - miniblock.iter().fold(0, |all, delta| all | delta).leading_zeros();
        let miniblocks = deltas.chunks(MINIBLOCK_VALUES);
        out.extend(miniblocks.clone().map(|miniblock| width(miniblock) as u8));
        for miniblock in miniblocks {
            let width = width(miniblock);
            // Widths are at most 33 bits, so a value and the rest of the previous one fit into 64 bits.
            let (mut word, mut bits) = (0u64, 0);
            for delta in miniblock {
                word |= delta << bits;
                bits += width;
                while bits >= 8 {
                    out.push(word as u8);
                    word >>= 8;
                    bits -= 8;
                }
            }
        }
    }
}

/// Reads a run of integers into `out` and returns the bytes after it. Fails unless it has exactly `expected` integers.
pub(crate) fn read_delta<'a>(bytes: &'a [u8], expected: usize, out: &mut Vec<i64>) -> Result<&'a [u8], BlockError> {
    let mut reader = Reader::new(bytes);
    let block_values = reader.varint()?;
    let miniblocks = reader.varint()?;
    let total = reader.varint()?;
    let mut value = reader.zigzag()?;
    let shape_is_known = (1..=BLOCK_VALUES_MAX).contains(&block_values)
        && (1..=block_values).contains(&miniblocks)
        && block_values.is_multiple_of(miniblocks)
        && (block_values / miniblocks).is_multiple_of(8);
    if !shape_is_known {
        return Err(BlockError::damaged("packed integers have an unknown shape"));
    }
    if total != expected as u64 {
        return Err(BlockError::damaged(format!("{expected} packed integers expected, {total} found")));
    }
    if expected == 0 {
        return Ok(reader.rest());
    }
    let miniblocks = miniblocks as usize;
    let per_miniblock = block_values as usize / miniblocks;
    out.reserve(expected);
    out.push(value);
    let mut left = expected - 1;
    while left > 0 {
        let min_delta = reader.zigzag()?;
        let widths = reader.take(miniblocks)?;
        for &width in widths {
            if left == 0 {
                break;
            }
            if width > 64 {
                return Err(BlockError::damaged("packed integers are wider than 64 bits"));
            }
            let packed_bytes = per_miniblock / 8 * usize::from(width);
            let count = left.min(per_miniblock);
            let packed = match reader.rest().len() {
                // Writers may omit unused bytes of the last miniblock.
                enough if enough >= packed_bytes => reader.take(packed_bytes)?,
                _ => reader.take((count * usize::from(width)).div_ceil(8))?,
            };
            value = unpack(packed, width.into(), count, value, min_delta, out);
            left -= count;
        }
    }
    Ok(reader.rest())
}

/// Appends `count` running sums of packed deltas and returns the last one. `packed` has enough bytes for them.
fn unpack(packed: &[u8], width: usize, count: usize, mut value: i64, min_delta: i64, out: &mut Vec<i64>) -> i64 {
    if width == 0 {
        out.extend((0..count).map(|_| {
            value = value.wrapping_add(min_delta);
            value
        }));
        return value;
    }
    let mask = u64::MAX >> (64 - width);
    // Reads eight bytes per value at once (nine for wide values), and byte by byte near the end.
    let read_bytes = if width <= 57 { 8 } else { 16 };
    let fast = if packed.len() < read_bytes { 0 } else { ((packed.len() - read_bytes) * 8 / width + 1).min(count) };
    let mut push = |delta: u64| {
        value = value.wrapping_add(min_delta).wrapping_add(delta as i64);
        out.push(value);
    };
    let mut bit = 0;
    if width <= 57 {
        for _ in 0..fast {
            let at = bit >> 3;
            let word: [u8; 8] = packed[at..at + 8].try_into().expect("eight bytes were sliced");
            push(u64::from_le_bytes(word) >> (bit & 7) & mask);
            bit += width;
        }
    } else {
        for _ in 0..fast {
            let at = bit >> 3;
            let word: [u8; 16] = packed[at..at + 16].try_into().expect("sixteen bytes were sliced");
            push((u128::from_le_bytes(word) >> (bit & 7)) as u64 & mask);
            bit += width;
        }
    }
    for _ in fast..count {
        let at = bit >> 3;
        let mut word = [0; 16];
        let tail = &packed[at..packed.len().min(at + 16)];
        word[..tail.len()].copy_from_slice(tail);
        push((u128::from_le_bytes(word) >> (bit & 7)) as u64 & mask);
        bit += width;
    }
    value
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use parquet::{basic::Encoding, column::writer::ColumnWriter, data_type::Int64Type};
    use proptest::prelude::*;

    use super::*;

    /// The uncompressed body of a page that the Parquet library packed.
    fn pack(values: &[i64]) -> Vec<u8> {
        use parquet::file::{
            properties::WriterProperties, reader::FileReader, serialized_reader::SerializedFileReader,
        };
        let schema = "message m { required int64 v; }";
        let schema = std::sync::Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_encoding(Encoding::DELTA_BINARY_PACKED)
            .set_data_page_row_count_limit(usize::MAX)
            .set_data_page_size_limit(usize::MAX);
        let mut file = Vec::new();
        let mut writer =
            parquet::file::writer::SerializedFileWriter::new(&mut file, schema, properties.build().into()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        assert!(matches!(column.untyped(), ColumnWriter::Int64ColumnWriter(_)));
        column.typed::<Int64Type>().write_batch(values, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let reader = SerializedFileReader::new(bytes::Bytes::from(file)).unwrap();
        let group = reader.get_row_group(0).unwrap();
        let mut pages = group.get_column_page_reader(0).unwrap();
        pages.get_next_page().unwrap().unwrap().buffer().to_vec()
    }

    fn check(values: &[i64]) {
        let mut packed = pack(values);
        packed.extend_from_slice(b"rest");
        let mut out = Vec::new();
        let rest = read_delta(&packed, values.len(), &mut out).unwrap();
        assert_eq!((out.as_slice(), rest), (values, &b"rest"[..]));
    }

    #[test]
    fn known_runs() {
        let _: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![1]));
        check(&[5]);
        check(&[1, 2, 3, 4]);
        check(&[i64::MIN, i64::MAX, 0, -1, i64::MAX, i64::MIN]);
        check(&(0..1000).collect::<Vec<_>>());
        check(&vec![7; 300]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in proptest::collection::vec(0..1i64 << 31, 0..400), shift in 0..31) {
            let values: Vec<i64> = values.iter().map(|v| v >> shift).collect();
            let mut packed = Vec::new();
            write_delta(&values, &mut packed);
            let mut out = Vec::new();
            prop_assert_eq!(read_delta(&packed, values.len(), &mut out).unwrap(), b"");
            prop_assert_eq!(out, values);
        }

        #[test]
        fn any_runs(values in proptest::collection::vec(any::<i64>(), 1..400), shift in 0..63) {
            check(&values.iter().map(|v| v >> shift).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), expected in 0..1000usize) {
            let _ = read_delta(&bytes, expected, &mut Vec::new());
        }
    }
}
