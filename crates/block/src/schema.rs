//! The columns of a block, and how each is packed.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use parquet::{
    arrow::ArrowSchemaConverter,
    basic::{Compression, Encoding, ZstdLevel},
    file::properties::{DeltaBinaryPackedEncoderOptions, EnabledStatistics, WriterProperties, WriterPropertiesBuilder},
    schema::types::{ColumnPath, SchemaDescriptor},
};

use crate::{BlockError, BlockOptions};

/// Prefix of the columns of frequent metadata keys.
pub(crate) const METADATA_PREFIX: &str = "meta.";

/// Positions of the leaf columns. Those of frequent metadata keys lie between `LINE` and the packed column.
pub(crate) const TS: usize = 0;
pub(crate) const STREAM: usize = 1;
pub(crate) const LINE: usize = 2;

/// Positions of the columns behind the metadata keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    keys: usize,
}

impl Layout {
    pub(crate) fn new(keys: usize) -> Self {
        Self { keys }
    }

    /// The column of a frequent metadata key.
    pub(crate) fn key(self, key: usize) -> usize {
        LINE + 1 + key
    }

    /// Keys of the packed metadata.
    pub(crate) fn packed_keys(self) -> usize {
        LINE + 1 + self.keys
    }

    /// Values of the packed metadata.
    pub(crate) fn packed_values(self) -> usize {
        self.packed_keys() + 1
    }

    pub(crate) fn offset(self) -> usize {
        self.packed_keys() + 2
    }
}

/// The fields of one pair in the packed metadata.
pub(crate) fn pair_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, false)])
}

/// The list item of the packed metadata.
pub(crate) fn pair_field() -> Arc<Field> {
    Arc::new(Field::new("key_value", DataType::Struct(pair_fields()), false))
}

/// The columns as Arrow sees them.
pub(crate) fn arrow_schema(keys: &[Arc<str>]) -> SchemaRef {
    let mut fields = vec![
        Field::new("ts", DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), false),
        Field::new("stream", DataType::Int32, false),
        Field::new("line", DataType::Binary, false),
    ];
    fields.extend(keys.iter().map(|key| Field::new(format!("{METADATA_PREFIX}{key}"), DataType::Utf8, true)));
    fields.push(Field::new("metadata", DataType::Map(pair_field(), false), false));
    fields.push(Field::new("offset", DataType::Int64, false));
    Arc::new(Schema::new(fields))
}

/// The columns as Parquet sees them.
pub(crate) fn parquet_schema(keys: &[Arc<str>]) -> Result<SchemaDescriptor, BlockError> {
    Ok(ArrowSchemaConverter::new().schema_root("block").convert(&arrow_schema(keys))?)
}

/// How each column is packed; measured by `examples/pack.rs`.
pub(crate) fn writer_properties(options: &BlockOptions, keys: &[Arc<str>]) -> Result<WriterProperties, BlockError> {
    let zstd = |level| Ok::<_, BlockError>(Compression::ZSTD(ZstdLevel::try_new(level)?));
    let path = |parts: &[&str]| ColumnPath::new(parts.iter().map(|part| (*part).to_owned()).collect());
    let byte_array = |builder: WriterPropertiesBuilder, path: ColumnPath| {
        // Dictionary as long as it is small; then values end to end with their lengths in front.
        builder
            .set_column_encoding(path.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
            .set_column_dictionary_enabled(path.clone(), true)
            .set_column_statistics_enabled(path, EnabledStatistics::None)
    };
    let line = path(&["line"]);
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("millrace ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(zstd(options.zstd_level)?)
        .set_max_row_group_row_count(None)
        .set_data_page_row_count_limit(options.page_rows_max)
        .set_column_encoding(path(&["ts"]), Encoding::DELTA_BINARY_PACKED)
        .set_column_dictionary_enabled(path(&["ts"]), false)
        // The step back in time from one stream to the next widens a whole block, so blocks are as small as may be.
        .set_column_delta_binary_packed_encoder_options(
            path(&["ts"]),
            DeltaBinaryPackedEncoderOptions::try_new(128, 4)?,
        )
        .set_column_statistics_enabled(path(&["ts"]), EnabledStatistics::Page)
        .set_column_dictionary_enabled(path(&["stream"]), true)
        .set_column_encoding(path(&["stream"]), Encoding::DELTA_BINARY_PACKED)
        .set_column_statistics_enabled(path(&["stream"]), EnabledStatistics::Page)
        .set_column_dictionary_enabled(path(&["offset"]), true)
        .set_column_encoding(path(&["offset"]), Encoding::DELTA_BINARY_PACKED)
        .set_column_statistics_enabled(path(&["offset"]), EnabledStatistics::Page)
        .set_column_encoding(line.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
        .set_column_dictionary_enabled(line.clone(), false)
        .set_column_statistics_enabled(line.clone(), EnabledStatistics::None)
        .set_column_compression(line.clone(), zstd(options.line_zstd_level)?)
        .set_column_data_page_size_limit(line, options.line_page_bytes);
    for key in keys {
        builder = byte_array(builder, path(&[&format!("{METADATA_PREFIX}{key}")]));
    }
    for leaf in ["key", "value"] {
        builder = byte_array(builder, path(&["metadata", "key_value", leaf]));
    }
    Ok(builder.build())
}
