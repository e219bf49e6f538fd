//! Parquet's hybrid of run lengths and bit packing, used for levels and dictionary ids.

use crate::{BlockError, wire::Reader};

/// Reads `count` integers of `width` bits.
pub(crate) fn read_hybrid(bytes: &[u8], width: u32, count: usize, out: &mut Vec<u32>) -> Result<(), BlockError> {
    if width > 32 {
        return Err(BlockError::damaged("ids are wider than 32 bits"));
    }
    let mut reader = Reader::new(bytes);
    let mut left = count;
    while left > 0 {
        let header = reader.varint()?;
        if header & 1 == 0 {
            let run = usize::try_from(header >> 1).unwrap_or(usize::MAX).min(left);
            if run == 0 {
                return Err(BlockError::damaged("a run of ids is empty"));
            }
            let mut word = [0; 4];
            let raw = reader.take(width.div_ceil(8) as usize)?;
            word[..raw.len()].copy_from_slice(raw);
            out.resize(out.len() + run, u32::from_le_bytes(word));
            left -= run;
        } else {
            let values = usize::try_from(header >> 1).unwrap_or(usize::MAX).saturating_mul(8).min(left);
            if values == 0 {
                return Err(BlockError::damaged("a run of ids is empty"));
            }
            // Writers may omit unused bytes at the end of a page.
            let whole = usize::try_from(header >> 1).unwrap_or(usize::MAX).saturating_mul(width as usize);
            let needed = (values * width as usize).div_ceil(8);
            let packed = reader.take(if whole <= reader.rest().len() { whole } else { needed })?;
            unpack(packed, width as usize, values, out);
            left -= values;
        }
    }
    Ok(())
}

fn unpack(packed: &[u8], width: usize, count: usize, out: &mut Vec<u32>) {
    let mask = if width == 0 { 0 } else { u64::MAX >> (64 - width) };
    out.extend((0..count).map(|i| {
        let bit = i * width;
        let at = bit >> 3;
        let word = match packed.get(at..at + 8) {
            Some(word) => u64::from_le_bytes(word.try_into().expect("eight bytes were sliced")),
            None => {
                let mut word = [0; 8];
                let tail = packed.get(at..).unwrap_or_default();
                word[..tail.len()].copy_from_slice(tail);
                u64::from_le_bytes(word)
            }
        };
        (word >> (bit & 7) & mask) as u32
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], width: u32, expected: &[u32]) {
        let mut out = Vec::new();
        read_hybrid(bytes, width, expected.len(), &mut out).unwrap();
        assert_eq!(out, expected);
    }

    #[test]
    fn runs() {
        check(&[], 1, &[]);
        check(&[10, 1], 1, &[1; 5]);
        check(&[0b11, 0b1010_1010], 1, &[0, 1, 0, 1, 0, 1, 0, 1]);
        check(&[0b11, 0b1000_1000, 0b1100_0110, 0b1111_1010], 3, &[0, 1, 2, 3, 4, 5, 6, 7]);
        check(&[6, 0x34, 0x12, 4, 1, 0], 16, &[0x1234, 0x1234, 0x1234, 1, 1]);
        check(&[0b11, 7], 0, &[0; 5]);
    }

    #[test]
    fn survives_any_bytes() {
        let mut random = fastrand::Rng::with_seed(2);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
            let _ = read_hybrid(&bytes, random.u32(0..40), random.usize(0..1000), &mut Vec::new());
        }
    }
}
