//! The large values of the RPC, in postcard: partial results, stream statistics, rows.
//!
//! The format has no field names and no lengths to skip by: both sides must know the same types. So it carries a number, and
//! who asks says which numbers it reads. A change of any of these types is a new number: `logql::Partial` and what is in
//! it, `logql::QueryError`, `owner::StreamStat`, and [`Rows`].

use std::sync::Arc;

use bytes::Bytes;
use model::{Batch, ByteColumn, Labels, MetadataColumn, MetadataValues};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::proto::Body;

/// The format that is written.
pub(crate) const FORMAT: u32 = 2;

/// Why a body is not read.
#[derive(Debug, Error)]
pub(crate) enum BodyError {
    #[error("an answer without a body")]
    Missing,
    #[error("an answer in format {0}; this program reads {FORMAT}")]
    Format(u32),
    #[error("an answer that cannot be read: {0}")]
    Unreadable(#[from] postcard::Error),
    #[error("an answer whose {0}")]
    Inconsistent(&'static str),
}

/// Writes a value.
pub(crate) fn encode(value: &impl Serialize) -> Result<Body, postcard::Error> {
    Ok(Body { format: FORMAT, bytes: postcard::to_stdvec(value)?.into() })
}

/// Reads a value. Any bytes are read or refused; what the type alone does not check is the caller's to check.
pub(crate) fn decode<T: DeserializeOwned>(body: Option<&Body>) -> Result<T, BodyError> {
    let body = body.ok_or(BodyError::Missing)?;
    if body.format != FORMAT {
        return Err(BodyError::Format(body.format));
    }
    Ok(postcard::from_bytes(&body.bytes)?)
}

/// A [`Batch`] as it is sent.
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
    /// Where each row ends.
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
