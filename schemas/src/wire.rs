//! Little-endian numbers, varints and texts, of which a record is made.

use std::ops::Range;

/// Appends `value` as a LEB128 varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length and the bytes of `text`.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Appends little-endian numbers of four bytes.
pub(crate) fn put_u32s(out: &mut Vec<u8>, values: &[u32]) {
    let at = out.len();
    out.resize(at + values.len() * 4, 0);
    for (to, value) in out[at..].chunks_exact_mut(4).zip(values) {
        to.copy_from_slice(&value.to_le_bytes());
    }
}

/// Appends little-endian numbers of eight bytes.
pub(crate) fn put_i64s(out: &mut Vec<u8>, values: &[i64]) {
    let at = out.len();
    out.resize(at + values.len() * 8, 0);
    for (to, value) in out[at..].chunks_exact_mut(8).zip(values) {
        to.copy_from_slice(&value.to_le_bytes());
    }
}

/// The `i`th number of four bytes. The caller checked the bounds when it decoded.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], i: usize) -> u32 {
    u32::from_le_bytes(bytes[i * 4..i * 4 + 4].try_into().expect("the slice has four bytes"))
}

/// The `i`th number of eight bytes.
#[inline]
pub(crate) fn i64_at(bytes: &[u8], i: usize) -> i64 {
    i64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("the slice has eight bytes"))
}

/// All numbers of four bytes.
pub(crate) fn u32s(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
}

/// All numbers of eight bytes.
pub(crate) fn i64s(bytes: &[u8]) -> impl ExactSizeIterator<Item = i64> {
    bytes.chunks_exact(8).map(|c| i64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]))
}

/// Why a value could not be read.
pub(crate) type Reason = &'static str;

/// Reads forward and checks each step against the end.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// The positions of the next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<Range<usize>, Reason> {
        if len > self.bytes.len() - self.at {
            return Err("a part reaches behind the end");
        }
        let range = self.at..self.at + len;
        self.at = range.end;
        Ok(range)
    }

    /// The positions of the next `count` items of `size` bytes each.
    pub(crate) fn items(&mut self, count: usize, size: usize) -> Result<Range<usize>, Reason> {
        self.take(count.checked_mul(size).ok_or("a count overflows")?)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Reason> {
        Ok(self.bytes[self.take(1)?][0])
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Reason> {
        let range = self.take(8)?;
        Ok(i64_at(&self.bytes[range], 0) as u64)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Reason> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a varint is too long")
    }

    /// A number of items that take at least `size_min` bytes each. It is checked against the bytes left, which bounds allocations.
    pub(crate) fn count(&mut self, size_min: usize) -> Result<usize, Reason> {
        let count = usize::try_from(self.varint()?).map_err(|_| "a count overflows")?;
        if count > (self.bytes.len() - self.at) / size_min {
            return Err("a count is larger than what follows");
        }
        Ok(count)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Reason> {
        let len = self.count(1)?;
        let range = self.take(len)?;
        std::str::from_utf8(&self.bytes[range]).map_err(|_| "a text is not UTF-8")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints() {
        for value in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out, 0);
            assert_eq!((reader.varint(), reader.is_at_end()), (Ok(value), true));
        }
        assert!(Reader::new(&[0xff; 11], 0).varint().is_err());
        assert!(Reader::new(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2], 0).varint().is_err());
        assert!(Reader::new(&[0x80], 0).varint().is_err());
    }

    #[test]
    fn counts_are_bounded_by_what_follows() {
        assert_eq!(Reader::new(&[2, 0, 0], 0).count(1), Ok(2));
        assert!(Reader::new(&[3, 0, 0], 0).count(1).is_err());
        assert!(Reader::new(&[2, 0, 0], 0).count(2).is_err());
    }
}
