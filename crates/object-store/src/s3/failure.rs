//! The failure of one try of a request, and what follows from it.

use std::{error::Error, time::Duration};

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::{RequestId, RequestIdExt},
};

/// The failure of one try.
#[derive(Clone, Debug)]
pub(super) struct AttemptFailure {
    pub(super) kind: FailureKind,
    /// Status, code, message and request id, or what happened to the connection.
    pub(super) text: String,
}

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The object does not exist.
    NoKey,
    /// The bucket does not exist.
    NoBucket,
    /// The multipart upload does not exist (any more).
    NoUpload,
    /// A condition did not hold.
    Precondition,
    /// The server was processing another request for the same object. Nothing happened.
    Conflict,
    /// The range is not inside the object.
    Range,
    /// The server received too many requests.
    Throttled,
    /// The server failed.
    Server,
    /// The server did not answer in time.
    TimedOut,
    /// The connection could not be made, or broke.
    Transport,
    /// The clocks differ too much for the signature. The next try signs with the server's time.
    Skewed,
    /// The credentials do not allow it.
    Denied,
    /// The request was not sent, since the breaker is open.
    Refused,
    /// The request was not sent, since too many others were in flight.
    Crowded,
    /// The server refuses the request for good, for any other reason.
    Other,
}

impl FailureKind {
    /// True if another try may succeed.
    pub(super) fn is_passing(self) -> bool {
        use FailureKind::*;
        matches!(self, Conflict | Throttled | Server | TimedOut | Transport | Skewed)
    }

    /// True if the request may have taken effect. A 503 from S3 itself means that it has not, but a 503 from a proxy does
    /// not.
    pub(super) fn is_unclear(self) -> bool {
        self.is_of_the_server()
    }

    /// True if the failure indicates a problem of the server.
    pub(super) fn is_of_the_server(self) -> bool {
        use FailureKind::*;
        matches!(self, Throttled | Server | TimedOut | Transport)
    }

    fn of_answer(status: u16, code: &str) -> Self {
        match (code, status) {
            ("NoSuchBucket", _) => Self::NoBucket,
            ("NoSuchUpload", _) => Self::NoUpload,
            ("NoSuchKey", _) | (_, 404) => Self::NoKey,
            ("PreconditionFailed", _) | (_, 412) => Self::Precondition,
            ("ConditionalRequestConflict" | "OperationAborted", _) | (_, 409) => Self::Conflict,
            ("InvalidRange", _) | (_, 416) => Self::Range,
            ("SlowDown" | "ServiceUnavailable" | "TooManyRequests" | "RequestLimitExceeded" | "Throttling", _)
            | (_, 429 | 503) => Self::Throttled,
            ("RequestTimeTooSkewed", _) => Self::Skewed,
            ("RequestTimeout", _) | (_, 408) => Self::TimedOut,
            ("NotImplemented", _) | (_, 501) => Self::Other,
            ("InternalError", _) | (_, 500..) => Self::Server,
            (_, 401 | 403) => Self::Denied,
            _ => Self::Other,
        }
    }
}

impl AttemptFailure {
    /// Converts an error of the SDK.
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error {
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status().as_u16();
                let code = error.code().unwrap_or_default();
                Self { kind: FailureKind::of_answer(status, code), text: answer_text(status, error) }
            }
            SdkError::TimeoutError(_) => Self { kind: FailureKind::TimedOut, text: chain(error) },
            SdkError::DispatchFailure(failure) if failure.is_timeout() => {
                Self { kind: FailureKind::TimedOut, text: chain(error) }
            }
            SdkError::DispatchFailure(failure) if failure.is_user() => {
                Self { kind: FailureKind::Other, text: chain(error) }
            }
            SdkError::DispatchFailure(_) => Self { kind: FailureKind::Transport, text: chain(error) },
            // The answer ended too early, or did not come from S3.
            SdkError::ResponseError(_) => Self { kind: FailureKind::Transport, text: chain(error) },
            _ => Self { kind: FailureKind::Other, text: chain(error) },
        }
    }

    /// A time-out after `limit`.
    pub(super) fn timed_out(limit: Duration, waiting_for: &str) -> Self {
        Self {
            kind: FailureKind::TimedOut,
            text: format!("{waiting_for} did not come within {:.1} s", limit.as_secs_f64()),
        }
    }

    /// An answer that cannot be used although its status is good.
    pub(super) fn broken(text: impl Into<String>) -> Self {
        Self { kind: FailureKind::Transport, text: text.into() }
    }

    /// The value of the metric label `outcome`.
    pub(super) fn outcome(&self) -> &'static str {
        match self.kind {
            FailureKind::NoKey | FailureKind::NoBucket | FailureKind::NoUpload => "not_found",
            FailureKind::Precondition => "precondition",
            FailureKind::Conflict => "conflict",
            FailureKind::Throttled => "throttled",
            FailureKind::Server => "server_error",
            FailureKind::TimedOut => "timeout",
            FailureKind::Transport => "transport",
            FailureKind::Denied | FailureKind::Skewed => "denied",
            FailureKind::Refused => "refused",
            FailureKind::Crowded => "crowded",
            FailureKind::Range | FailureKind::Other => "other",
        }
    }
}

/// The text of an error answer, such as
/// `503 SlowDown: Please reduce your request rate (request id 4442587FB7D0A2F9)`.
fn answer_text<E>(status: u16, error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata,
{
    let mut text = status.to_string();
    if let Some(code) = error.code() {
        text.push(' ');
        text.push_str(code);
    }
    if let Some(message) = error.message() {
        text.push_str(": ");
        text.push_str(message);
    }
    if let Some(id) = error.request_id() {
        text.push_str(&format!(" (request id {id}"));
        if let Some(extended) = error.extended_request_id() {
            text.push_str(&format!(", {extended}"));
        }
        text.push(')');
    }
    text
}

/// The texts of an error and its sources. A source whose text is already part of the others is left out.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_answers() {
        let check = |status: u16, code: &str, expected: FailureKind| {
            assert_eq!(FailureKind::of_answer(status, code), expected, "{status} {code}");
        };
        check(404, "NoSuchKey", FailureKind::NoKey);
        check(404, "", FailureKind::NoKey);
        check(404, "NoSuchBucket", FailureKind::NoBucket);
        check(404, "NoSuchUpload", FailureKind::NoUpload);
        check(412, "PreconditionFailed", FailureKind::Precondition);
        check(412, "", FailureKind::Precondition);
        check(409, "ConditionalRequestConflict", FailureKind::Conflict);
        check(409, "OperationAborted", FailureKind::Conflict);
        check(416, "InvalidRange", FailureKind::Range);
        check(503, "SlowDown", FailureKind::Throttled);
        check(503, "", FailureKind::Throttled);
        check(429, "", FailureKind::Throttled);
        check(500, "InternalError", FailureKind::Server);
        check(200, "InternalError", FailureKind::Server);
        check(502, "", FailureKind::Server);
        check(501, "NotImplemented", FailureKind::Other);
        check(403, "AccessDenied", FailureKind::Denied);
        check(403, "RequestTimeTooSkewed", FailureKind::Skewed);
        check(400, "RequestTimeout", FailureKind::TimedOut);
        check(400, "InvalidArgument", FailureKind::Other);
        check(301, "PermanentRedirect", FailureKind::Other);
    }

    #[test]
    fn only_clear_refusals_prove_that_nothing_happened() {
        for kind in [FailureKind::Throttled, FailureKind::Server, FailureKind::TimedOut, FailureKind::Transport] {
            assert!(kind.is_unclear() && kind.is_passing(), "{kind:?}");
        }
        for kind in [FailureKind::Conflict, FailureKind::Skewed] {
            assert!(!kind.is_unclear() && kind.is_passing(), "{kind:?}");
        }
        for kind in [
            FailureKind::Precondition,
            FailureKind::Denied,
            FailureKind::NoKey,
            FailureKind::NoBucket,
            FailureKind::Refused,
            FailureKind::Crowded,
        ] {
            assert!(!kind.is_unclear() && !kind.is_passing(), "{kind:?}");
        }
    }
}
