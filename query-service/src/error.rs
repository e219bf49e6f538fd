//! What a request may fail with, and the one place that turns it into a status.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use block::BlockError;
use catalogue::CatalogueError;
use http::{HeaderName, HeaderValue, StatusCode, header};
use logql::{ParseError, QueryError};
use model::{Offset, PartitionId, TenantError};
use object_store::StoreError;
use owner::OwnerError;
use thiserror::Error as ThisError;

use crate::duration;

/// Why a request, or the service itself, failed.
#[derive(Debug, ThisError)]
pub enum Error {
    /// A parameter is wrong, or a limit stops the request. The client must change it.
    #[error("{0}")]
    BadRequest(String),
    /// The tenant's header is absent or wrong.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// Several tenants where one is needed.
    #[error("multiple org IDs present")]
    ManyTenants,
    /// The query's text is wrong.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The query cannot be prepared or evaluated.
    #[error(transparent)]
    Query(QueryError),
    /// Something that is off for this tenant.
    #[error("{0}")]
    NotFound(&'static str),
    /// The body is larger than is taken.
    #[error("request body too large: more than {0} bytes")]
    BodyTooLarge(usize),
    /// Too many requests of this tenant wait already.
    #[error("too many outstanding requests")]
    TooManyOutstanding,
    /// The tenant may not query at all.
    #[error("querying is disabled, please contact your Loki operator")]
    QueryingDisabled,
    /// Part of the API that is not there yet.
    #[error("{0} is not implemented yet")]
    NotImplemented(String),
    /// The query ran for longer than it may.
    #[error(
        "request timed out, decrease the duration of the request or add more label matchers (prefer exact match over \
         regex match) to reduce the amount of data processed"
    )]
    TimedOut,
    /// Nobody waits for the answer any more.
    #[error("the request was cancelled by the client")]
    Cancelled,
    /// No owner answers for a partition, so that recent entries would be missing.
    #[error("partition {partition} cannot be read: {source}")]
    Owner {
        /// The partition.
        partition: PartitionId,
        /// What its owner said.
        source: OwnerError,
    },
    /// A partition was not consumed as far as the request asks for.
    #[error(
        "partition {partition} is consumed up to offset {consumed}, and this query asks for offset {wanted}, which was not \
         reached within {waited:.1?}; try again, or take what there is with X-Millrace-Consistency: eventual and without a read \
         token"
    )]
    NotReached {
        /// The partition.
        partition: PartitionId,
        /// How far it came.
        consumed: Offset,
        /// How far it should have come.
        wanted: Offset,
        /// How long that was waited for.
        waited: Duration,
    },
    /// The store is away, and the head of a partition was never read before.
    #[error("the head of partition {partition} cannot be read: {reason}")]
    NoHead {
        /// The partition.
        partition: PartitionId,
        /// What the store said.
        reason: String,
    },
    /// The log cannot say up to where it was written, so that an answer could lack what is there.
    #[error("the end of the log cannot be asked: {0}")]
    LogEnds(#[source] OwnerError),
    /// Owners and heads moved faster than plans could be made.
    #[error("data kept moving while it was read ({reason}); try again")]
    Unsettled {
        /// Why the last plan failed.
        reason: String,
    },
    /// An owner could not do what an operator asked for.
    #[error("flush failed: {0}")]
    Flush(#[source] OwnerError),
    /// A head cannot be read.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A block cannot be fetched.
    #[error("block {key:?} cannot be read: {source}")]
    Fetch {
        /// The block.
        key: String,
        /// What the store said.
        source: StoreError,
    },
    /// A block's bytes are not what they should be.
    #[error("block {key:?} cannot be decoded: {source}")]
    Block {
        /// The block.
        key: String,
        /// What is wrong with it.
        source: BlockError,
    },
    /// The service cannot start.
    #[error("{0}")]
    Start(String),
    /// A mistake of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// A wrong request.
    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self::BadRequest(text.into())
    }

    /// A request for times before all that may be asked for.
    pub(crate) fn lookback(limit: Duration) -> Self {
        let limit = duration::format(limit);
        Self::BadRequest(format!("this data is no longer available, it is past now - max_query_lookback ({limit})"))
    }

    /// The status this error is answered with.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::ManyTenants | Self::Parse(_) => StatusCode::BAD_REQUEST,
            Self::Tenant(TenantError::Missing) => StatusCode::UNAUTHORIZED,
            Self::Tenant(_) => StatusCode::BAD_REQUEST,
            Self::Query(error) => match error {
                QueryError::NotEvaluated(_) => StatusCode::NOT_IMPLEMENTED,
                QueryError::Parse(_) | QueryError::Pipeline { .. } | QueryError::SeriesLimit(_) => {
                    StatusCode::BAD_REQUEST
                }
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyOutstanding | Self::QueryingDisabled => StatusCode::TOO_MANY_REQUESTS,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::TimedOut | Self::NotReached { .. } => StatusCode::GATEWAY_TIMEOUT,
            // nginx's "client closed request", which Loki uses and no registry names.
            Self::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            Self::Owner { .. } | Self::NoHead { .. } | Self::LogEnds(_) | Self::Unsettled { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            // The store may be back soon; agents and Grafana know that of this one.
            Self::Fetch { source: StoreError::Unavailable { .. }, .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Catalogue(error) if error.is_unavailable() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Flush(_)
            | Self::Catalogue(_)
            | Self::Fetch { .. }
            | Self::Block { .. }
            | Self::Start(_)
            | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<QueryError> for Error {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Parse(error) => Self::Parse(error),
            other => Self::Query(other),
        }
    }
}

/// A plain text answer with the headers every error has.
pub(crate) fn text_response(status: StatusCode, text: String) -> Response {
    let headers: [(HeaderName, HeaderValue); 2] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, headers, text).into_response()
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut text = self.to_string();
        if matches!(self, Self::Tenant(TenantError::Missing)) {
            text.push('\n');
        }
        if status == StatusCode::INTERNAL_SERVER_ERROR || status == StatusCode::SERVICE_UNAVAILABLE {
            tracing::warn!(error = %text, "request failed");
        }
        text_response(status, text)
    }
}
