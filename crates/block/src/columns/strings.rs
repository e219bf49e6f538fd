//! Texts on their way in: plain vectors that become Arrow arrays without a copy.

use arrow::{
    array::{GenericByteArray, types::ByteArrayType},
    buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer},
};

use crate::BlockError;

/// Byte strings end to end.
#[derive(Debug)]
pub(super) struct Strings {
    pub(super) data: Vec<u8>,
    pub(super) offsets: Vec<i32>,
}

impl Default for Strings {
    fn default() -> Self {
        Self { data: Vec::new(), offsets: vec![0] }
    }
}

impl Strings {
    /// Adds a value. The writer empties its buffers well below 2 GiB.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.offsets.push(self.data.len() as i32);
    }

    pub(super) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Takes the values as an array. The new buffers have the same size.
    pub(super) fn take<T: ByteArrayType<Offset = i32>>(
        &mut self,
        nulls: Option<NullBuffer>,
    ) -> Result<GenericByteArray<T>, BlockError> {
        let fresh = Self { data: Vec::with_capacity(self.data.len()), offsets: Vec::with_capacity(self.offsets.len()) };
        let full = std::mem::replace(self, fresh);
        self.offsets.push(0);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(full.offsets));
        Ok(GenericByteArray::try_new(offsets, Buffer::from_vec(full.data), nulls)?)
    }
}
