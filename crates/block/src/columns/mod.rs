//! The columns of a block. Each has one file that holds everything about it.
//!
//! ```text
//! append ──► RowWriters ──► ColumnWriter::push ┄┄► ColumnWriter::take ──► row group
//!
//! BlockScan ──► Column::reader(needs) ──► ColumnReader::read(pages) ──► its part of a model::Batch
//! ```
//!
//! | file | column |
//! |---|---|
//! | `timestamps` | `ts` |
//! | `streams` | `stream`, the stream's ordinal |
//! | `lines` | `line` |
//! | `metadata` | routes the metadata pairs of a row to the two kinds of columns below |
//! | `keys` | `meta.<key>`, one frequent metadata key |
//! | `packed` | `metadata`, all other metadata keys |
//! | `offsets` | `offset` |
//!
//! The other files serve several columns: `column` has the traits, `pages` finds a reader's pages, `integers` and `texts`
//! decode pages, `strings` collects texts for Arrow.
//!
//! To change how a column is encoded, change its file: [`Column::properties`] chooses the Parquet encoding, its
//! [`ColumnWriter`] may pack pages itself (as that of lines does), and its [`ColumnReader`] decodes them. To add a column,
//! write a file with its three types and add one line to [`row_writers!`](row_writers) and one to [`Columns::new`], both
//! below, at the column's place in the file. Scan, writer, index, `inspect` and `verify` go over these lists. Either way,
//! describe the change in `FORMAT.md` and raise the format version if old readers cannot read the result.

mod column;
mod integers;
mod keys;
mod lines;
mod metadata;
mod offsets;
mod packed;
mod pages;
mod streams;
mod strings;
mod texts;
mod timestamps;

use std::{ops::Range, sync::Arc};

use arrow::datatypes::{Schema, SchemaRef};
use parquet::{
    arrow::ArrowSchemaConverter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
    schema::types::SchemaDescriptor,
};

use self::column::RowWriter;
pub(crate) use self::{
    column::{Column, ColumnReader, ColumnWriter, NewRow, PageFacts, ScannedRows, StoredRows},
    keys::METADATA_PREFIX,
    pages::{LeafPages, Page, PageSource, Supplied},
};
use crate::{BlockError, BlockOptions};

/// The columns of a block, in the order of the file.
#[derive(Debug)]
pub(crate) struct Columns {
    columns: Vec<PlacedColumn>,
    schema: SchemaRef,
}

/// A column and the leaf columns of the file that belong to it.
#[derive(Debug)]
pub(crate) struct PlacedColumn {
    pub(crate) column: Box<dyn Column>,
    pub(crate) leaves: Range<usize>,
}

impl Columns {
    /// The columns of a block in which `keys` have columns of their own.
    pub(crate) fn new(keys: &[Arc<str>]) -> Self {
        let mut columns: Vec<Box<dyn Column>> =
            vec![Box::new(timestamps::TimestampColumn), Box::new(streams::StreamColumn), Box::new(lines::LineColumn)];
        let key = |(i, key): (usize, &Arc<str>)| Box::new(keys::KeyColumn::new(i, key.clone())) as Box<dyn Column>;
        columns.extend(keys.iter().enumerate().map(key));
        columns.push(Box::new(packed::PackedColumn::new(keys)));
        columns.push(Box::new(offsets::OffsetColumn));

        let schema = Arc::new(Schema::new(columns.iter().map(|column| column.field()).collect::<Vec<_>>()));
        let mut leaf = 0;
        let place = |column: Box<dyn Column>| {
            let leaves = leaf..leaf + column.leaf_names().len();
            leaf = leaves.end;
            PlacedColumn { column, leaves }
        };
        Self { columns: columns.into_iter().map(place).collect(), schema }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &PlacedColumn> {
        self.columns.iter()
    }

    /// The columns as Arrow sees them, one field each.
    pub(crate) fn arrow_schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns as Parquet sees them.
    pub(crate) fn parquet_schema(&self) -> Result<SchemaDescriptor, BlockError> {
        Ok(ArrowSchemaConverter::new().schema_root("block").convert(&self.schema)?)
    }

    /// How Parquet packs the columns; measured by `examples/pack.rs`.
    pub(crate) fn writer_properties(&self, options: &BlockOptions) -> Result<WriterProperties, BlockError> {
        let mut builder = WriterProperties::builder()
            .set_created_by(concat!("millrace ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(options.zstd_level)?))
            .set_max_row_group_row_count(None)
            .set_data_page_row_count_limit(options.page_rows_max);
        for placed in &self.columns {
            builder = placed.column.properties(options, builder)?;
        }
        Ok(builder.build())
    }
}

/// Makes [`RowWriters`], a struct with one field per line, in the order of the file. Each row reaches each writer through a
/// static call; only what happens once per buffer or row group goes through `dyn ColumnWriter`.
macro_rules! row_writers {
    ($($field:ident: $writer:ty,)*) => {
        /// The writers of all columns.
        pub(crate) struct RowWriters {
            $($field: $writer,)*
        }

        impl RowWriters {
            /// Writers of a block in which `keys` have columns of their own.
            pub(crate) fn new(options: &BlockOptions, keys: &[Arc<str>]) -> Result<Self, BlockError> {
                Ok(Self { $($field: <$writer>::new(options, keys)?,)* })
            }

            /// Adds a row. Returns the bytes of its texts.
            #[inline]
            pub(crate) fn push(&mut self, row: &NewRow<'_>) -> Result<usize, BlockError> {
                Ok(0 $(+ self.$field.push(row)?)*)
            }

            /// The writers of the columns, as many and in the order of [`Columns`].
            pub(crate) fn column_writers(&mut self) -> Vec<&mut dyn ColumnWriter> {
                let mut writers = Vec::new();
                $(writers.extend(self.$field.column_writers());)*
                writers
            }

            /// Bytes held of pages that columns pack themselves.
            pub(crate) fn memory_bytes(&self) -> usize {
                0 $(+ self.$field.memory_bytes())*
            }
        }
    };
}

row_writers! {
    timestamps: timestamps::TimestampWriter,
    streams: streams::StreamWriter,
    lines: lines::LineWriter,
    metadata: metadata::MetadataWriter,
    offsets: offsets::OffsetWriter,
}
