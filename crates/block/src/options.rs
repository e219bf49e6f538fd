//! How blocks are written.

use crate::BlockError;

/// The most metadata keys that can have a column of their own.
pub const METADATA_KEYS_MAX: usize = 64;

/// How blocks are written. The defaults were chosen by `examples/pack.rs`; figures are in `FORMAT.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockOptions {
    /// zstd level of the line column. Raising it costs CPU while cuts are encoded.
    pub line_zstd_level: i32,
    /// zstd level of all other columns and of sections.
    pub zstd_level: i32,
    /// A row group is closed when it has this many rows.
    pub row_group_rows_max: usize,
    /// A row group is closed when its lines have this many bytes before compression.
    pub row_group_bytes_max: usize,
    /// A page of lines is closed when it has this many bytes before compression. Larger pages pack better and cost
    /// more to read for a few rows.
    pub line_page_bytes: usize,
    /// A page of any column is closed when it has this many rows.
    pub page_rows_max: usize,
}

impl Default for BlockOptions {
    fn default() -> Self {
        Self {
            line_zstd_level: 1,
            zstd_level: 1,
            row_group_rows_max: 4 << 20,
            row_group_bytes_max: 64 << 20,
            line_page_bytes: 1 << 20,
            page_rows_max: 20_000,
        }
    }
}

impl BlockOptions {
    /// Reports all invalid options at once.
    pub(crate) fn validate(&self) -> Result<(), BlockError> {
        let mut wrong = Vec::new();
        for (name, level) in [("line_zstd_level", self.line_zstd_level), ("zstd_level", self.zstd_level)] {
            if !(1..=22).contains(&level) {
                wrong.push(format!("{name} must be from 1 to 22, not {level}"));
            }
        }
        let bounds = [
            ("row_group_rows_max", self.row_group_rows_max, i32::MAX as usize),
            ("row_group_bytes_max", self.row_group_bytes_max, i32::MAX as usize),
            ("line_page_bytes", self.line_page_bytes, 256 << 20),
            ("page_rows_max", self.page_rows_max, i32::MAX as usize),
        ];
        for (name, value, max) in bounds {
            if !(1..=max).contains(&value) {
                wrong.push(format!("{name} must be from 1 to {max}, not {value}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(BlockError::Refused(wrong.join("; "))) }
    }
}
