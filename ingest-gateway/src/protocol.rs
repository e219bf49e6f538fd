//! What a push protocol is.
//!
//! # To add one
//!
//! 1. Write `protocols/NAME.rs` with a type that implements [`Protocol`].
//! 2. Name it in the list of `protocols.rs`.
//!
//! Nothing else changes: the router serves every protocol of the list under its path, and reading, unpacking, limits,
//! routing, appending, metrics and statuses are the same for all of them.
//!
//! A protocol that does not come over HTTP (a log to read from, a socket) has a transport of its own. It makes an
//! [`Arrival`](crate::gateway::Arrival), hands it to [`Gateway::take`](crate::gateway::Gateway::take) and tells the
//! client what the receipt says. `grpc.rs` is one: it shares the decoder of OTLP over HTTP.

use bytes::Bytes;

use crate::Config;
use crate::budget::Reservation;
use crate::intake::{Intake, PushedLabels};
use crate::labels_cache::LabelsCache;
use crate::refusal::Refusal;
use crate::unpack::{self, Packing};

/// A push protocol: the bodies it takes and the answers it gives.
pub(crate) trait Protocol: Send + Sync {
    /// The label `format` of Loki's metrics.
    fn format(&self) -> &'static str;

    /// The path of pushes over HTTP.
    fn path(&self) -> &'static str;

    /// How to read a body with this media type (without parameters) and content encoding. Both may be empty.
    ///
    /// # Errors
    /// When the protocol does not have such bodies.
    fn body_format(&self, media_type: &str, content_encoding: &str) -> Result<BodyFormat, Refusal>;

    /// The answer when everything is stored.
    fn success(&self) -> Answer {
        Answer { status: 204, content_type: None, body: Bytes::new() }
    }

    /// The answer to a request that was refused, in part or as a whole.
    fn refusal(&self, refusal: &Refusal) -> Answer {
        Answer::text(refusal)
    }
}

/// How a body is read.
#[derive(Clone, Copy)]
pub(crate) struct BodyFormat {
    /// Labels of metrics: one of a few texts, not what the client sent.
    pub(crate) content_type: &'static str,
    pub(crate) content_encoding: &'static str,
    pub(crate) packing: Packing,
    pub(crate) decode: Decode,
}

/// Reads an unpacked body into [`Decoding::intake`]. Runs to its end without waiting; a large body is decoded away
/// from the async threads.
pub(crate) type Decode = fn(Bytes, &mut Decoding<'_>) -> Result<(), Refusal>;

/// What a decoder works with.
pub(crate) struct Decoding<'a> {
    /// Takes streams and entries.
    pub(crate) intake: &'a mut Intake,
    pub(crate) config: &'a Config,
    pub(crate) reservation: &'a mut Reservation,
    pub(crate) labels_cache: &'a LabelsCache,
}

/// An answer in the protocol's own form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// An HTTP status.
    pub(crate) status: u16,
    pub(crate) content_type: Option<&'static str>,
    pub(crate) body: Bytes,
}

impl Decoding<'_> {
    /// Reserves memory before the decoder allocates it.
    ///
    /// # Errors
    /// When all requests together would need more than allowed.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), Refusal> {
        Ok(self.reservation.grow(bytes)?)
    }

    /// Checks the size of a body that is text, and reserves as much again for its records, which are about as large.
    ///
    /// # Errors
    /// When the body is too large, or there is no memory for it now.
    pub(crate) fn admit_text(&mut self, body: &[u8]) -> Result<(), Refusal> {
        let bytes_max = self.config.max_decompressed_size.as_usize();
        if body.len() > bytes_max {
            return Err(Refusal::too_large("decompressed message", body.len(), bytes_max));
        }
        self.reserve(body.len())
    }

    /// Unpacks a message that is in snappy's block format.
    ///
    /// # Errors
    /// When it is not, when it is too large, or when there is no memory for it now.
    pub(crate) fn unpack_snappy(&mut self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        unpack::unpack_snappy(body, self.config, self.reservation)
    }

    /// Labels in the form `{name="value"}`.
    pub(crate) fn labels(&self, text: &str) -> PushedLabels {
        PushedLabels::parsed(text, self.labels_cache.parse(text))
    }
}

impl Answer {
    /// A refusal as Loki tells it: its text in a line.
    pub(crate) fn text(refusal: &Refusal) -> Self {
        let body = format!("{}\n", refusal.text).into();
        Self { status: refusal.status, content_type: Some("text/plain; charset=utf-8"), body }
    }
}
