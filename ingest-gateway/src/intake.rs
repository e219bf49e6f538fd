//! From decoded entries to records.
//!
//! ```text
//! decoder ── begin(labels) ── entry(time, line) … ── end() ──▶ Intake ── finish() ──▶ Outcome { records, refusal }
//!                                                      │
//!                     validation.rs ─▶ limiting.rs ─▶ routing.rs
//! ```
//!
//! Entries go straight into the record of their partition; there is no copy in between. The checks come in Loki's
//! order: the line is cut if the tenant wants that, then the stream's labels are checked, then the entry, then the
//! stream's own rate. The tenant's rate comes last, in [`Intake::finish`], and refuses the request as a whole. So a
//! request that it refuses has already used up some of its streams' rates.
//!
//! Late and out-of-order entries are accepted (Loki's `too_far_behind` and `out_of_order` do not exist here): memory
//! and blocks are ordered by offset, not by time.

mod context;
mod limiting;
mod routing;
mod stream;
mod validation;

use std::sync::Arc;

use bytes::Bytes;
use limits::Limits;
use model::{PartitionId, TimestampNs};

pub(crate) use context::PushContext;
use routing::{Outputs, StreamPlace};
pub(crate) use stream::PushedLabels;
use stream::{AcceptedStream, OpenStream, StreamCheck};
use validation::EntrySize;

use crate::failures::{RejectionReport, ThrottledEntries};
use crate::pairs::Pairs;
use crate::refusal::{Reason, Refusal, Rejection};
use crate::rules::Rules;
use crate::tally::Tally;

/// Takes the entries of one request.
pub(crate) struct Intake {
    context: PushContext,
    outputs: Outputs,
    stream: Option<OpenStream>,
    /// The structured metadata of the next entry. The decoder fills it.
    pub(crate) metadata: Pairs,
    report: RejectionReport,
    tally: Tally,
}

/// What came of a decoded request.
pub(crate) struct Outcome {
    /// All of them must be appended before the client gets an answer.
    pub(crate) records: Vec<(PartitionId, Bytes)>,
    /// The answer once the records are durable; `None` is success.
    pub(crate) refusal: Option<Refusal>,
    pub(crate) tally: Tally,
}

impl Intake {
    pub(crate) fn new(context: PushContext) -> Self {
        Self {
            outputs: Outputs::new(&context),
            stream: None,
            metadata: Pairs::default(),
            report: RejectionReport::default(),
            tally: Tally::default(),
            context,
        }
    }

    pub(crate) fn now(&self) -> TimestampNs {
        self.context.now
    }

    pub(crate) fn rules(&self) -> &Arc<Rules> {
        &self.context.rules
    }

    pub(crate) fn limits(&self) -> &Arc<Limits> {
        &self.context.rules.limits
    }

    /// Begins a stream. The entries up to [`Intake::end`] belong to it and have its common metadata.
    pub(crate) fn begin(&mut self, pushed: PushedLabels, common: Vec<(String, String)>) {
        self.tally.streams += 1;
        let (check, entries, throttled, previous) = (None, 0, ThrottledEntries::default(), None);
        self.stream = Some(OpenStream { pushed, common, check, entries, throttled, previous });
    }

    /// Takes one entry together with [`Intake::metadata`], and empties the latter.
    ///
    /// # Panics
    /// When no stream was begun.
    pub(crate) fn entry(&mut self, ts: TimestampNs, line: &[u8]) {
        let mut stream = self.stream.take().expect("decoders begin a stream before its entries");
        stream.entries += 1;
        let (line, cut_bytes) = validation::cut_line(line, &self.context.rules.limits);
        if cut_bytes > 0 {
            self.tally.mutations.add(Reason::LINE_TOO_LONG, 1, cut_bytes as u64);
        }
        if stream.check.is_none() {
            stream.check = Some(self.check_stream(&mut stream));
        }
        match &mut stream.check {
            None => {}
            Some(StreamCheck::Rejected(reason)) => {
                self.tally.discards.add(*reason, 1, (line.len() + self.metadata.bytes()) as u64);
            }
            Some(StreamCheck::Accepted(accepted)) => {
                let metadata_bytes = self.metadata.bytes() + accepted.common_bytes;
                let size = EntrySize {
                    bytes: line.len() + metadata_bytes,
                    metadata_pairs: self.metadata.len() + accepted.common.len(),
                    metadata_bytes,
                };
                match validation::check_entry(ts, size, &accepted.labels, &self.context) {
                    Err(rejection) => {
                        self.tally.discards.add(rejection.reason(), 1, size.bytes as u64);
                        self.report.add(&rejection);
                    }
                    Ok(()) => {
                        let ts = validation::stored_time(ts, &line, &mut stream.previous, self.limits());
                        self.tally.entries += 1;
                        self.tally.line_bytes += line.len() as u64;
                        self.tally.metadata_bytes += metadata_bytes as u64;
                        self.store(ts, &line, size.bytes, accepted, &mut stream.throttled);
                    }
                }
            }
        }
        self.metadata.clear();
        self.stream = Some(stream);
    }

    /// Ends the stream: no entry of it follows.
    pub(crate) fn end(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if let Some(StreamCheck::Accepted(accepted)) = &stream.check {
            self.report.add_throttled(&stream.throttled, &self.context.tenant_id, stream.entries, &accepted.labels);
            if let Some(active) = &accepted.active {
                active.came(accepted.bytes);
            }
        }
    }

    /// Applies the tenant's rate and closes the records.
    pub(crate) fn finish(mut self) -> Outcome {
        self.end();
        if self.tally.streams == 0 {
            return self.refused(Refusal::no_streams());
        }
        if let Err(refusal) = limiting::admit_request(&self.tally, &self.context) {
            self.tally.discards.add(Reason::RATE_LIMITED, self.tally.entries, self.tally.bytes());
            return self.refused(refusal);
        }
        let records = self.outputs.finish(&self.context);
        Outcome { records, refusal: self.report.refusal(), tally: self.tally }
    }

    fn refused(self, refusal: Refusal) -> Outcome {
        Outcome { records: Vec::new(), refusal: Some(refusal), tally: self.tally }
    }

    /// Checks a stream and finds its place. Runs once for each stream, so it is reported once.
    fn check_stream(&mut self, stream: &mut OpenStream) -> StreamCheck {
        let context = &self.context;
        let mut reject = |rejection: &Rejection<'_>| {
            self.report.add(rejection);
            StreamCheck::Rejected(rejection.reason())
        };
        let labels = match validation::readable(&stream.pushed, &context.rules.limits) {
            Ok(labels) => labels,
            Err(rejection) => return reject(&rejection),
        };
        if let Err(rejection) = validation::check_stream(&stream.pushed, &labels, context) {
            return reject(&rejection);
        }
        let common = std::mem::take(&mut stream.common);
        let hash = labels.stream_hash();
        let active = limiting::active_stream(hash, context);
        let StreamPlace { output, spread_from } = StreamPlace::of(active.as_deref(), hash, context);
        let mut accepted = AcceptedStream {
            level: routing::stream_level(&labels, &common, context),
            common_bytes: common.iter().map(|(name, value)| name.len() + value.len()).sum(),
            labels,
            common,
            active,
            output,
            spread_from,
            is_begun: false,
            bytes: 0,
        };
        accepted.take_turn(self.outputs.len());
        StreamCheck::Accepted(Box::new(accepted))
    }

    /// Stores a valid entry unless its stream's own limits refuse it.
    fn store(
        &mut self,
        ts: TimestampNs,
        line: &[u8],
        bytes: usize,
        stream: &mut AcceptedStream,
        throttled: &mut ThrottledEntries,
    ) {
        if let Err(rejection) = limiting::admit_entry(bytes, stream, &self.context) {
            self.tally.discards.add(rejection.reason(), 1, bytes as u64);
            match rejection {
                Rejection::StreamRate { .. } => {
                    throttled.add(self.context.config.max_returned_stream_errors as usize, ts, &rejection);
                }
                _ => self.report.add(&rejection),
            }
            return;
        }
        stream.bytes += bytes as u64;
        if self.outputs.store(ts, line, &self.metadata, stream, &self.context) {
            self.tally.lag_ms += u64::try_from(self.context.now.since(ts).as_millis()).unwrap_or(0);
        }
    }
}
