//! Everything the gateway refuses: the status, the text, and the reason under which Loki's discard metrics count it.
//!
//! - [`Refusal`] answers a whole request. Nothing of the request is stored, unless single entries caused it.
//! - [`Rejection`] keeps a stream or an entry out of the log. The rest of the request is stored.
//!
//! Texts and reasons are Loki's, since agents and dashboards know them.

use std::fmt;

use limits::{ByteSize, Limits};
use model::{Labels, LabelsError, TenantId, TimestampNs};

use crate::times;

const UNAVAILABLE: &str = "The server cannot accept more requests at this time.";

/// An answer other than success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// An HTTP status. Transports without HTTP translate it.
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// The request breaks a rule of its protocol.
    pub(crate) fn malformed(text: impl fmt::Display) -> Self {
        Self::new(400, text.to_string())
    }

    /// A part of the body is larger than allowed.
    pub(crate) fn too_large(what: &str, bytes: usize, bytes_max: usize) -> Self {
        Self::too_large_body(format_args!("{what} size too large than max ({bytes} vs {bytes_max})"))
    }

    /// The body as a whole cannot be stored because of its size.
    pub(crate) fn too_large_body(why: impl fmt::Display) -> Self {
        Self::new(413, format!("request body too large: {why}"))
    }

    /// The request holds no stream.
    pub(crate) fn no_streams() -> Self {
        Self::new(422, "error at least one valid stream is required for ingestion")
    }

    /// There is no room for the request now, or the log did not take it.
    pub(crate) fn unavailable() -> Self {
        Self::new(503, UNAVAILABLE)
    }

    /// The log has been failing since this time, so the request is not even read.
    pub(crate) fn log_unavailable(since: TimestampNs) -> Self {
        let since = times::rfc3339(since);
        Self::new(503, format!("the log has been unavailable since {since}; nothing was stored, try again later"))
    }

    /// Decoding failed through our own mistake.
    pub(crate) fn internal() -> Self {
        Self::new(500, "the request could not be decoded")
    }

    /// The request passes the tenant's rate.
    pub(crate) fn tenant_rate(tenant: &TenantId, bytes_per_second: u64, lines: u64, bytes: u64) -> Self {
        let text = format!(
            "ingestion rate limit exceeded for user {tenant} (limit: {bytes_per_second} bytes/sec) while attempting \
             to ingest '{lines}' lines totaling '{bytes}' bytes, reduce log volume or contact your Loki administrator \
             to see if the limit can be increased"
        );
        Self::new(429, text)
    }
}

/// Why a stream or an entry is kept out of the log, with what its text names.
#[derive(Debug)]
pub(crate) enum Rejection<'a> {
    InvalidLabels { text: &'a str, error: &'a LabelsError },
    DuplicateLabel { text: &'a str, name: &'a str },
    MissingLabels,
    ReservedLabels,
    TooManyLabels { labels: &'a Labels, count: usize, limit: u32 },
    LabelNameTooLong { labels: &'a Labels, name: &'a str },
    LabelValueTooLong { labels: &'a Labels, value: &'a str },
    Blocked { tenant: &'a TenantId, limits: &'a Limits },
    MissingEnforcedLabels { tenant: &'a TenantId, labels: &'a Labels, missing: String },
    InvalidTimestamp { labels: &'a Labels, ts: TimestampNs },
    TooOld { labels: &'a Labels, ts: TimestampNs, oldest: TimestampNs },
    TooNew { labels: &'a Labels, ts: TimestampNs },
    EntryTooLong { labels: &'a Labels, bytes: usize, bytes_max: usize },
    MetadataNotAllowed { labels: &'a Labels },
    MetadataTooLarge { labels: &'a Labels, bytes: usize, bytes_max: usize },
    MetadataTooMany { labels: &'a Labels, pairs: usize, pairs_max: usize },
    TooManyStreams { tenant: &'a TenantId, labels: &'a Labels },
    StreamRate { labels: &'a Labels, limit: ByteSize, bytes: usize },
}

/// The label `reason` of `loki_discarded_samples_total` and its siblings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reason(&'static str);

impl Reason {
    /// Also the reason of `loki_mutated_samples_total`, when lines are cut instead of refused.
    pub(crate) const LINE_TOO_LONG: Self = Self("line_too_long");
    /// The tenant's rate: see [`Refusal::tenant_rate`].
    pub(crate) const RATE_LIMITED: Self = Self("rate_limited");

    pub(crate) fn as_str(self) -> &'static str {
        self.0
    }
}

impl Rejection<'_> {
    pub(crate) fn reason(&self) -> Reason {
        Reason(match self {
            Self::InvalidLabels { .. } => "invalid_labels",
            Self::DuplicateLabel { .. } => "duplicate_label_names",
            Self::MissingLabels => "missing_labels",
            Self::ReservedLabels => "reserved_labels",
            Self::TooManyLabels { .. } => "max_label_names_per_series",
            Self::LabelNameTooLong { .. } => "label_name_too_long",
            Self::LabelValueTooLong { .. } => "label_value_too_long",
            Self::Blocked { .. } => "blocked_ingestion",
            Self::MissingEnforcedLabels { .. } => "missing_enforced_labels",
            Self::InvalidTimestamp { .. } => "invalid_timestamp",
            Self::TooOld { .. } => "greater_than_max_sample_age",
            Self::TooNew { .. } => "too_far_in_future",
            Self::EntryTooLong { .. } => return Reason::LINE_TOO_LONG,
            Self::MetadataNotAllowed { .. } => "disallowed_structured_metadata",
            Self::MetadataTooLarge { .. } => "structured_metadata_too_large",
            Self::MetadataTooMany { .. } => "structured_metadata_too_many",
            Self::TooManyStreams { .. } => "stream_limit",
            Self::StreamRate { .. } => "per_stream_rate_limit",
        })
    }

    /// The status of a request that has such a rejection.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Blocked { limits, .. } => limits.block_ingestion_status_code,
            Self::TooManyStreams { .. } | Self::StreamRate { .. } => 429,
            _ => 400,
        }
    }
}

impl fmt::Display for Rejection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidLabels { text, error } => write!(f, "error parsing labels '{text}' with error: {error}"),
            Self::DuplicateLabel { text, name } => write!(f, "stream '{text}' has duplicate label name: '{name}'"),
            Self::MissingLabels => f.write_str("error at least one label pair is required per stream"),
            Self::ReservedLabels => f.write_str(
                "streams must not contain the reserved labels __backfill__ or __backfill_shard__; set the \
                 X-Loki-Backfill-Shard header to mark a push as backfill data",
            ),
            Self::TooManyLabels { labels, count, limit } => {
                write!(f, "entry for stream '{labels}' has {count} label names; limit {limit}")
            }
            Self::LabelNameTooLong { labels, name } => {
                write!(f, "stream '{labels}' has label name too long: '{name}'")
            }
            Self::LabelValueTooLong { labels, value } => {
                write!(f, "stream '{labels}' has label value too long: '{value}'")
            }
            Self::Blocked { tenant, limits } => {
                let until = limits.block_ingestion_until.map(|until| until.to_string()).unwrap_or_default();
                let status = limits.block_ingestion_status_code;
                write!(f, "ingestion blocked for user '{tenant}' until '{until}' with status code '{status}'")
            }
            Self::MissingEnforcedLabels { tenant, labels, missing } => {
                write!(f, "missing required labels '{missing}' for user '{tenant}' for stream '{labels}' (policy: '')")
            }
            Self::InvalidTimestamp { labels, ts } => {
                write!(f, "entry for stream '{labels}' has a timestamp that is not after 1970-01-01T00:00:00Z: {ts}")
            }
            Self::TooOld { labels, ts, oldest } => {
                let (ts, oldest) = (times::rfc3339(*ts), times::rfc3339(*oldest));
                write!(
                    f,
                    "entry for stream '{labels}' has timestamp too old: {ts}, oldest acceptable timestamp is: {oldest}"
                )
            }
            Self::TooNew { labels, ts } => {
                write!(f, "entry for stream '{labels}' has timestamp too new: {}", times::rfc3339(*ts))
            }
            Self::EntryTooLong { labels, bytes, bytes_max } => write!(
                f,
                "max entry size '{bytes_max}' bytes exceeded for stream '{labels}' while adding an entry with length \
                 '{bytes}' bytes"
            ),
            Self::MetadataNotAllowed { labels } => write!(
                f,
                "stream '{labels}' includes structured metadata, but this feature is disallowed. Please see \
                 `limits_config.allow_structured_metadata` or contact your Loki administrator to enable it"
            ),
            Self::MetadataTooLarge { labels, bytes, bytes_max } => write!(
                f,
                "stream '{labels}' has structured metadata too large: '{bytes}' bytes, limit: '{bytes_max}' bytes. \
                 Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator to \
                 increase it"
            ),
            Self::MetadataTooMany { labels, pairs, pairs_max } => write!(
                f,
                "stream '{labels}' has too many structured metadata labels: '{pairs}', limit: '{pairs_max}'. Please \
                 see `limits_config.max_structured_metadata_entries_count` or contact your Loki administrator to \
                 increase it"
            ),
            Self::TooManyStreams { tenant, labels } => write!(
                f,
                "maximum active stream limit exceeded when trying to create stream {labels}, reduce the number of \
                 active streams (reduce labels or reduce label values), or contact your Loki administrator to see if \
                 the limit can be increased, user: '{tenant}'"
            ),
            Self::StreamRate { labels, limit, bytes } => {
                let total = ByteSize::from_bytes(*bytes as u64);
                write!(
                    f,
                    "Per stream rate limit exceeded (limit: {limit}/sec) while attempting to ingest for stream \
                     '{labels}' totaling {total}, consider splitting a stream via additional labels or contact your \
                     Loki administrator to see if the limit can be increased"
                )
            }
        }
    }
}
