//! Why a request fails, and the one place that turns this into an HTTP status.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use logql::{ParseError, QueryError};
use model::TenantError;
use owner::OwnerError;
use reading::Remedy;
use runtime::WorkLost;
use thiserror::Error as ThisError;

use crate::duration;

/// Why a request, or the service itself, failed.
#[derive(Debug, ThisError)]
pub enum Error {
    /// A parameter is wrong, or the request exceeds a limit. The client must change it.
    #[error("{0}")]
    BadRequest(String),
    /// The header that names the tenant is absent or wrong.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// The request names several tenants, but must name one.
    #[error("multiple org IDs present")]
    ManyTenants,
    /// The text of the query is wrong.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The query is blocked by policy.
    #[error("query blocked by policy")]
    Blocked,
    /// A feature that is disabled for this tenant.
    #[error("{0}")]
    NotFound(&'static str),
    /// The body is too large.
    #[error("request body too large: more than {0} bytes")]
    BodyTooLarge(usize),
    /// The tenant may not query at all.
    #[error("querying is disabled, please contact your Loki operator")]
    QueryingDisabled,
    /// A part of the API that does not exist yet.
    #[error("{0} is not implemented yet")]
    NotImplemented(String),
    /// The query took too long.
    #[error(
        "request timed out, decrease the duration of the request or add more label matchers (prefer exact match over \
         regex match) to reduce the amount of data processed"
    )]
    TimedOut,
    /// The rows cannot be read.
    #[error(transparent)]
    Read(reading::Error),
    /// An owner failed to flush.
    #[error("flush failed: {0}")]
    Flush(#[source] OwnerError),
    /// The service cannot start.
    #[error("{0}")]
    Start(String),
    /// A defect of this program.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// A wrong request.
    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self::BadRequest(text.into())
    }

    /// The whole time of the request is older than this limit.
    pub(crate) fn lookback(limit: Duration) -> Self {
        let limit = duration::format(limit);
        Self::BadRequest(format!("this data is no longer available, it is past now - max_query_lookback ({limit})"))
    }

    /// The status of the response to this error. The only place that decides about it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::ManyTenants | Self::Parse(_) | Self::Blocked => StatusCode::BAD_REQUEST,
            Self::Tenant(TenantError::Missing) => StatusCode::UNAUTHORIZED,
            Self::Tenant(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::QueryingDisabled => StatusCode::TOO_MANY_REQUESTS,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Read(error) => match error.remedy() {
                Remedy::ChangeRequest => StatusCode::BAD_REQUEST,
                Remedy::SlowDown => StatusCode::TOO_MANY_REQUESTS,
                // nginx's "client closed request". Loki uses it, but no registry names it.
                Remedy::Gone => StatusCode::from_u16(499).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                Remedy::NotImplemented => StatusCode::NOT_IMPLEMENTED,
                Remedy::MoreTime => StatusCode::GATEWAY_TIMEOUT,
                // Agents and Grafana try again after this one.
                Remedy::TryAgain => StatusCode::SERVICE_UNAVAILABLE,
                Remedy::Report => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Flush(_) | Self::Start(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<QueryError> for Error {
    fn from(error: QueryError) -> Self {
        reading::Error::from(error).into()
    }
}

impl From<WorkLost> for Error {
    fn from(error: WorkLost) -> Self {
        reading::Error::from(error).into()
    }
}

impl From<reading::Error> for Error {
    fn from(error: reading::Error) -> Self {
        match error {
            reading::Error::Query(QueryError::Parse(error)) => Self::Parse(error),
            other => Self::Read(other),
        }
    }
}

/// A plain text response with the headers of errors.
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
