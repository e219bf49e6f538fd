//! What went wrong with one request, and what follows from it.

use std::{error::Error, time::Duration};

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::{RequestId, RequestIdExt},
};

/// One request that did not go through.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// Status, code, message and request id; or what became of the connection.
    pub(super) text: String,
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no such object.
    NoKey,
    /// There is no such bucket.
    NoBucket,
    /// There is no such multipart upload (any more).
    NoUpload,
    /// A condition did not hold.
    Precondition,
    /// Another request for the same object was under way; nothing happened.
    Conflict,
    /// The range lies behind the object's end.
    Range,
    /// Too many requests.
    Throttled,
    /// An error of the server.
    Server,
    /// No answer in time.
    TimedOut,
    /// The connection could not be made, or broke.
    Transport,
    /// The clocks differ too much for the signature. The next try signs with the server's time.
    Skewed,
    /// Not allowed.
    Denied,
    /// The breaker is open: nobody was asked.
    Refused,
    /// No place among the requests in flight came free in time: nobody was asked.
    Crowded,
    /// Anything else the server refuses for good.
    Other,
}

impl Kind {
    /// Whether another try may fare better.
    pub(super) fn is_passing(self) -> bool {
        use Kind::*;
        matches!(self, Conflict | Throttled | Server | TimedOut | Transport | Skewed)
    }

    /// Whether the request may have come to effect all the same. A 503 of the server itself says that it has not, but
    /// one of a proxy before it says nothing.
    pub(super) fn is_unclear(self) -> bool {
        self.is_of_the_server()
    }

    /// Whether it says that the server is in trouble.
    pub(super) fn is_of_the_server(self) -> bool {
        use Kind::*;
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

impl Failure {
    /// What the SDK says.
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error {
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status().as_u16();
                let code = error.code().unwrap_or_default();
                Self { kind: Kind::of_answer(status, code), text: answer_text(status, error) }
            }
            SdkError::TimeoutError(_) => Self { kind: Kind::TimedOut, text: chain(error) },
            SdkError::DispatchFailure(failure) if failure.is_timeout() => {
                Self { kind: Kind::TimedOut, text: chain(error) }
            }
            SdkError::DispatchFailure(failure) if failure.is_user() => Self { kind: Kind::Other, text: chain(error) },
            SdkError::DispatchFailure(_) => Self { kind: Kind::Transport, text: chain(error) },
            // An answer that ended too early, or that is no answer of S3.
            SdkError::ResponseError(_) => Self { kind: Kind::Transport, text: chain(error) },
            _ => Self { kind: Kind::Other, text: chain(error) },
        }
    }

    /// No answer in time.
    pub(super) fn timed_out(limit: Duration, waiting_for: &str) -> Self {
        Self { kind: Kind::TimedOut, text: format!("{waiting_for} did not come within {:.1} s", limit.as_secs_f64()) }
    }

    /// An answer that cannot be used, although its status was well.
    pub(super) fn broken(text: impl Into<String>) -> Self {
        Self { kind: Kind::Transport, text: text.into() }
    }

    /// The label of the metric.
    pub(super) fn outcome(&self) -> &'static str {
        match self.kind {
            Kind::NoKey | Kind::NoBucket | Kind::NoUpload => "not_found",
            Kind::Precondition => "precondition",
            Kind::Conflict => "conflict",
            Kind::Throttled => "throttled",
            Kind::Server => "server_error",
            Kind::TimedOut => "timeout",
            Kind::Transport => "transport",
            Kind::Denied | Kind::Skewed => "denied",
            Kind::Refused => "refused",
            Kind::Crowded => "crowded",
            Kind::Range | Kind::Other => "other",
        }
    }
}

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

/// An error and its sources; each says something else.
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
        let check = |status: u16, code: &str, expected: Kind| {
            assert_eq!(Kind::of_answer(status, code), expected, "{status} {code}");
        };
        check(404, "NoSuchKey", Kind::NoKey);
        check(404, "", Kind::NoKey);
        check(404, "NoSuchBucket", Kind::NoBucket);
        check(404, "NoSuchUpload", Kind::NoUpload);
        check(412, "PreconditionFailed", Kind::Precondition);
        check(412, "", Kind::Precondition);
        check(409, "ConditionalRequestConflict", Kind::Conflict);
        check(409, "OperationAborted", Kind::Conflict);
        check(416, "InvalidRange", Kind::Range);
        check(503, "SlowDown", Kind::Throttled);
        check(503, "", Kind::Throttled);
        check(429, "", Kind::Throttled);
        check(500, "InternalError", Kind::Server);
        check(200, "InternalError", Kind::Server);
        check(502, "", Kind::Server);
        check(501, "NotImplemented", Kind::Other);
        check(403, "AccessDenied", Kind::Denied);
        check(403, "RequestTimeTooSkewed", Kind::Skewed);
        check(400, "RequestTimeout", Kind::TimedOut);
        check(400, "InvalidArgument", Kind::Other);
        check(301, "PermanentRedirect", Kind::Other);
    }

    #[test]
    fn only_a_clear_refusal_says_that_nothing_happened() {
        for kind in [Kind::Throttled, Kind::Server, Kind::TimedOut, Kind::Transport] {
            assert!(kind.is_unclear() && kind.is_passing(), "{kind:?}");
        }
        for kind in [Kind::Conflict, Kind::Skewed] {
            assert!(!kind.is_unclear() && kind.is_passing(), "{kind:?}");
        }
        for kind in [Kind::Precondition, Kind::Denied, Kind::NoKey, Kind::NoBucket, Kind::Refused, Kind::Crowded] {
            assert!(!kind.is_unclear() && !kind.is_passing(), "{kind:?}");
        }
    }
}
