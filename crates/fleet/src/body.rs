//! The large values of the RPC, in postcard: partial results, stream statistics, rows.
//!
//! The format has no field names, and no lengths that allow skipping fields: both sides must have the same types. So each
//! body has a format number, and a client says up to which number it reads. A change of `logql::Partial` or a type in it,
//! of `logql::QueryError`, `owner::StreamStat`, or [`Rows`] needs a new number.

use std::sync::Arc;

use bytes::Bytes;
use model::{Batch, ByteColumn, Labels, MetadataColumn, MetadataValues};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::proto::Body;

/// The format that this program writes.
pub(crate) const FORMAT: u32 = 2;

/// Why a body cannot be read.
#[derive(Debug, Error)]
pub(crate) enum BodyError {
    #[error("the answer has no body")]
    Missing,
    #[error("the answer has format {0}, but this program reads {FORMAT}")]
    Format(u32),
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[from] postcard::Error),
    #[error("the answer is inconsistent: its {0}")]
    Inconsistent(&'static str),
}

/// Encodes a value.
pub(crate) fn encode(value: &impl Serialize) -> Result<Body, postcard::Error> {
    Ok(Body { format: FORMAT, bytes: postcard::to_stdvec(value)?.into() })
}

/// Decodes a value. Never panics, whatever the bytes are. The caller checks what the type does not.
pub(crate) fn decode<T: DeserializeOwned>(body: Option<&Body>) -> Result<T, BodyError> {
    let body = body.ok_or(BodyError::Missing)?;
    if body.format != FORMAT {
        return Err(BodyError::Format(body.format));
    }
    Ok(postcard::from_bytes(&body.bytes)?)
}

/// A [`Batch`] in the form that is sent.
#[derive(Serialize, Deserialize)]
pub(crate) struct Rows {
    labels: Labels,
    timestamps: Vec<i64>,
    lines: Column,
    metadata: Vec<(String, Values)>,
    offsets: Vec<i64>,
}

#[derive(Default, Serialize, Deserialize)]
struct Column {
    /// The end of each row.
    ends: Vec<u32>,
    data: Bytes,
}

#[derive(Serialize, Deserialize)]
enum Values {
    Constant(String),
    Dictionary { dictionary: Column, ids: Vec<u32> },
}

impl From<&ByteColumn> for Column {
    fn from(column: &ByteColumn) -> Self {
        let [first, ends @ ..] = column.offsets() else { return Self { ends: Vec::new(), data: Bytes::new() } };
        let last = ends.last().unwrap_or(first);
        let data = column.data().slice(*first as usize..*last as usize);
        Self { ends: ends.iter().map(|end| end - first).collect(), data }
    }
}

impl TryFrom<Column> for ByteColumn {
    type Error = BodyError;

    fn try_from(Column { ends, data }: Column) -> Result<Self, BodyError> {
        let offsets: Vec<u32> = std::iter::once(0).chain(ends).collect();
        if !offsets.is_sorted() || offsets.last().is_some_and(|end| *end as usize > data.len()) {
            return Err(BodyError::Inconsistent("row bounds do not lie in its data"));
        }
        Ok(Self::new(offsets, data))
    }
}

impl From<&Batch> for Rows {
    fn from(batch: &Batch) -> Self {
        let values = |values: &MetadataValues| match values {
            MetadataValues::Constant(value) => Values::Constant(value.to_string()),
            MetadataValues::Dictionary { dictionary, ids } => {
                Values::Dictionary { dictionary: dictionary.into(), ids: ids.clone() }
            }
        };
        Self {
            labels: batch.labels.clone(),
            timestamps: batch.timestamps.clone(),
            lines: batch.lines.content().map_or_else(Column::default, Column::from),
            metadata: batch.metadata.iter().map(|c| (c.name.to_string(), values(&c.values))).collect(),
            offsets: batch.offsets.clone(),
        }
    }
}

impl TryFrom<Rows> for Batch {
    type Error = BodyError;

    fn try_from(rows: Rows) -> Result<Self, BodyError> {
        let count = rows.timestamps.len();
        let is_column = |len: usize| len == 0 || len == count;
        let lines = ByteColumn::try_from(rows.lines)?;
        if !is_column(lines.len()) || !is_column(rows.offsets.len()) {
            return Err(BodyError::Inconsistent("columns have different lengths"));
        }
        let mut metadata = Vec::with_capacity(rows.metadata.len());
        for (name, values) in rows.metadata {
            let values = match values {
                Values::Constant(value) => MetadataValues::Constant(value.into()),
                Values::Dictionary { dictionary, ids } => {
                    let dictionary = ByteColumn::try_from(dictionary)?;
                    let is_known = |id: &u32| *id == MetadataValues::ABSENT || (*id as usize) < dictionary.len();
                    if ids.len() != count || !ids.iter().all(is_known) {
                        return Err(BodyError::Inconsistent("metadata does not fit its rows"));
                    }
                    MetadataValues::Dictionary { dictionary, ids }
                }
            };
            metadata.push(MetadataColumn { name: Arc::from(name), values });
        }
        Ok(Self {
            labels: rows.labels,
            timestamps: rows.timestamps,
            lines: lines.into(),
            metadata,
            offsets: rows.offsets,
        })
    }
}

#[cfg(test)]
mod tests;
