//! Integers and byte strings of sections: LEB128 varints, with zigzag for signed integers.

use crate::BlockError;

/// Appends an unsigned varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed varint.
pub(crate) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends the length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what the functions above wrote. Its input may be any bytes.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes that were not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, BlockError> {
        let (first, rest) = self.rest.split_first().ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], BlockError> {
        if count > self.rest.len() {
            return Err(cut_short());
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, BlockError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(BlockError::damaged("an integer is longer than 64 bits"))
    }

    pub(crate) fn zigzag(&mut self) -> Result<i64, BlockError> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A count of things that take at least one byte each, so that no count can ask for more memory than the input
    /// has bytes.
    pub(crate) fn count(&mut self) -> Result<usize, BlockError> {
        let count = self.varint()?;
        usize::try_from(count).ok().filter(|count| *count <= self.rest.len()).ok_or_else(cut_short)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], BlockError> {
        let count = self.count()?;
        self.take(count)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, BlockError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| BlockError::damaged("a name is not UTF-8"))
    }

    /// Fails unless everything was read.
    pub(crate) fn finish(&self) -> Result<(), BlockError> {
        if self.rest.is_empty() { Ok(()) } else { Err(BlockError::damaged("a section has bytes after its end")) }
    }
}

fn cut_short() -> BlockError {
    BlockError::damaged("a section or page is too short")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let mut out = Vec::new();
        let unsigned = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX];
        let signed = [0, -1, 1, i64::MIN, i64::MAX, -12_345];
        unsigned.iter().for_each(|v| put_varint(&mut out, *v));
        signed.iter().for_each(|v| put_zigzag(&mut out, *v));
        put_bytes(&mut out, b"text");
        let mut reader = Reader::new(&out);
        unsigned.iter().for_each(|v| assert_eq!(reader.varint().unwrap(), *v));
        signed.iter().for_each(|v| assert_eq!(reader.zigzag().unwrap(), *v));
        assert_eq!(reader.text().unwrap(), "text");
        reader.finish().unwrap();
    }

    #[test]
    fn refuses_what_is_cut_short() {
        assert!(Reader::new(&[0x80]).varint().is_err());
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
        assert!(Reader::new(&[5, 1, 2]).bytes().is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f]).count().is_err());
        assert!(Reader::new(&[1, 0xff]).text().is_err());
    }
}
