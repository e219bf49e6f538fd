//! From decoded entries to records: validation, limits, added labels, routing.
//!
//! ```text
//! decoder ── begin(labels) ── entry(time, line) … ── end() ──▶ Intake ── finish() ──▶ Outcome { records, refusals }
//! ```
//!
//! Entries go straight into the record of their partition; nothing is kept beside it. Checks come in Loki's order:
//! the line's length when lines are cut, the stream's labels, blocks and enforced labels, the entry. Entries that
//! pass count against the tenant's rate, which refuses the request as a whole; then the stream's own limits apply.
//! The two are checked in one pass here, so a request refused by the tenant's rate has already used up some of its
//! streams' rates.
//!
//! Late and out-of-order entries are accepted (`too_far_behind` and `out_of_order` do not exist here): memory and
//! blocks go by offsets, not by time.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use limits::Limits;
use model::{Labels, LabelsError, PartitionId, TenantId, TimestampNs};
use schemas::RecordBuilder;

use crate::bucket::Rate;
use crate::failures::{Discards, Failures, StreamFailures, reason};
use crate::level::{DETECTED_LEVEL, LevelRules, normalised_or_self};
use crate::otlp::OtlpRules;
use crate::pairs::Pairs;
use crate::route::Route;
use crate::tenants::{Stream as ActiveStream, Tenant};
use crate::{Config, times};

/// A record with more distinct metadata keys is split: each costs its readers a column.
const KEYS_MAX: usize = 512;

const SERVICE_NAME: &str = "service_name";

/// What stays the same for all requests of a tenant while its limits stay the same.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) limits: Arc<Limits>,
    pub(crate) otlp: OtlpRules,
    levels: Option<LevelRules>,
    stream_rate: Option<Rate>,
}

impl Rules {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self {
            otlp: OtlpRules::new(&limits),
            levels: LevelRules::new(&limits),
            stream_rate: Rate::of_stream(&limits),
            limits,
        }
    }
}

/// Who pushes, when, where to, under which rules.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) tenant_id: TenantId,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) route: Arc<Route>,
    /// What all requests of the tenant may bring to this gateway.
    pub(crate) rate: Option<Rate>,
    /// How many active streams it may have here.
    pub(crate) streams_max: usize,
    pub(crate) now: TimestampNs,
    pub(crate) batch_id: Option<String>,
}

/// The labels of a stream as a decoder found them.
pub(crate) enum PushedLabels {
    /// They are a label set.
    Read(Labels),
    /// Their text is none.
    Unread { text: String, error: LabelsError },
    /// One name came twice.
    Duplicate { text: String, name: String },
}

/// Takes the entries of one request.
pub(crate) struct Intake {
    context: Context,
    outputs: Vec<Output>,
    stream: Option<StreamState>,
    /// The structured metadata of the entry that comes next; the decoder fills it.
    pub(crate) metadata: Pairs,
    failures: Failures,
    throttled: Option<String>,
    blocked: Option<String>,
    tally: Tally,
}

/// The records of one partition.
#[derive(Default)]
struct Output {
    builder: Option<RecordBuilder>,
    finished: Vec<Bytes>,
}

/// The stream whose entries are coming in.
struct StreamState {
    pushed: PushedLabels,
    /// Metadata that every entry of the stream has.
    common: Vec<(String, String)>,
    /// Known from the first entry on: streams without entries are not looked at.
    verdict: Option<Verdict>,
    entries: usize,
    throttled: StreamFailures,
    previous: Option<Previous>,
}

enum Verdict {
    Accepted(Box<Accepted>),
    Refused(&'static str),
}

struct Accepted {
    labels: Labels,
    output: usize,
    active: Option<Arc<ActiveStream>>,
    /// Set when it comes too fast for one partition: from this output on, its records take turns.
    spread_from: Option<usize>,
    /// The level, when labels or common metadata tell it.
    level: Option<String>,
    is_begun: bool,
    /// What was stored of it.
    bytes: u64,
}

/// The entry before, for `increment_duplicate_timestamp`.
struct Previous {
    pushed: i64,
    stored: i64,
    line: Vec<u8>,
}

/// Sums of one request.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) streams: usize,
    /// Entries that passed all checks of entries and labels.
    pub(crate) entries: u64,
    pub(crate) line_bytes: u64,
    pub(crate) metadata_bytes: u64,
    /// Sum of how old the newest entry of each stream is.
    pub(crate) lag_ms: u64,
    pub(crate) discards: Discards,
    pub(crate) mutations: Discards,
}

/// What becomes of a request.
pub(crate) struct Outcome {
    /// To be appended, all of them, before anything is answered.
    pub(crate) records: Vec<(PartitionId, Bytes)>,
    /// What to answer once they are; `None` is success.
    pub(crate) refusal: Option<Refusal>,
    pub(crate) tally: Tally,
}

/// An answer that is not plain success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

impl Intake {
    pub(crate) fn new(context: Context) -> Self {
        let count = context.route.partitions().len();
        Self {
            outputs: std::iter::repeat_with(Output::default).take(count).collect(),
            stream: None,
            metadata: Pairs::default(),
            failures: Failures::default(),
            throttled: None,
            blocked: None,
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

    /// The entries that follow are of this stream, until [`Intake::end`].
    pub(crate) fn begin(&mut self, pushed: PushedLabels, common: Vec<(String, String)>) {
        self.tally.streams += 1;
        let (verdict, entries, throttled, previous) = (None, 0, StreamFailures::default(), None);
        self.stream = Some(StreamState { pushed, common, verdict, entries, throttled, previous });
    }

    /// Takes one entry, with [`Intake::metadata`], which is empty afterwards.
    ///
    /// # Panics
    /// When no stream was begun.
    pub(crate) fn entry(&mut self, ts: TimestampNs, line: &[u8]) {
        let mut stream = self.stream.take().expect("decoders begin a stream before its entries");
        stream.entries += 1;
        let line = self.cut(line);
        if stream.verdict.is_none() {
            stream.verdict = Some(self.judge(&stream));
        }
        match &mut stream.verdict {
            Some(Verdict::Accepted(accepted)) => {
                let common_bytes = stream.common.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>();
                let bytes = line.len() + self.metadata.bytes() + common_bytes;
                if let Err(reason) = self.check(ts, bytes, &accepted.labels, &stream.common, common_bytes) {
                    self.tally.discards.add(reason, 1, bytes as u64);
                } else {
                    let ts = self.moved(ts, &line, &mut stream.previous);
                    self.tally.entries += 1;
                    self.tally.line_bytes += line.len() as u64;
                    self.tally.metadata_bytes += (bytes - line.len()) as u64;
                    if self.admit(ts, bytes, accepted, &mut stream.throttled) {
                        accepted.bytes += bytes as u64;
                        self.store(ts, &line, accepted, &stream.common);
                    }
                }
            }
            Some(Verdict::Refused(reason)) => {
                self.tally.discards.add(reason, 1, (line.len() + self.metadata.bytes()) as u64);
            }
            None => {}
        }
        self.metadata.clear();
        self.stream = Some(stream);
    }

    /// All entries of the stream came.
    pub(crate) fn end(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if let Some(Verdict::Accepted(accepted)) = &stream.verdict {
            let text = stream.throttled.joined(&self.context.tenant_id, stream.entries, &accepted.labels);
            self.throttled = text.or_else(|| self.throttled.take());
            if let Some(active) = &accepted.active {
                active.came(accepted.bytes);
            }
        }
    }

    /// Applies the tenant's rate and closes the records.
    pub(crate) fn finish(mut self) -> Outcome {
        self.end();
        if self.tally.streams == 0 {
            let text = "error at least one valid stream is required for ingestion";
            return self.refused(Refusal::new(422, text));
        }
        let bytes = self.tally.line_bytes + self.tally.metadata_bytes;
        let limits = self.limits().clone();
        self.context.tenant.offered.fetch_add(bytes, Ordering::Relaxed);
        let rate = self.context.rate;
        let is_held = |rate| self.context.tenant.bucket.take(rate, bytes as usize, self.context.now);
        if let Some(rate) = rate.filter(|rate| bytes > 0 && !is_held(*rate)) {
            let (user, lines, limit) = (&self.context.tenant_id, self.tally.entries, rate.bytes as u64);
            let text = format!(
                "ingestion rate limit exceeded for user {user} (limit: {limit} bytes/sec) while attempting to ingest \
                 '{lines}' lines totaling '{bytes}' bytes, reduce log volume or contact your Loki administrator to see \
                 if the limit can be increased"
            );
            self.tally.discards.add(reason::RATE_LIMITED, lines, bytes);
            return self.refused(Refusal::new(429, text));
        }
        let batch_id = self.context.batch_id.take();
        let mut records = Vec::new();
        for (output, partition) in self.outputs.iter_mut().zip(self.context.route.partitions()) {
            output.close(batch_id.as_deref());
            records.extend(output.finished.drain(..).map(|record| (*partition, record)));
        }
        let refusal = self.refusal(&limits);
        Outcome { records, refusal, tally: self.tally }
    }

    fn refusal(&mut self, limits: &Limits) -> Option<Refusal> {
        if let Some(text) = self.blocked.take() {
            let status = limits.block_ingestion_status_code;
            return (status != 200).then(|| Refusal::new(status, text));
        }
        if let Some(text) = self.throttled.take() {
            return Some(Refusal::new(429, text));
        }
        self.failures.joined().map(|text| Refusal::new(400, text))
    }

    fn refused(self, refusal: Refusal) -> Outcome {
        Outcome { records: Vec::new(), refusal: Some(refusal), tally: self.tally }
    }

    /// The line, cut when it is too long and lines are to be cut.
    fn cut<'a>(&mut self, line: &'a [u8]) -> Cow<'a, [u8]> {
        let limits = &self.context.rules.limits;
        let bytes_max = limits.max_line_size.as_usize();
        if !limits.max_line_size_truncate || bytes_max == 0 || line.len() <= bytes_max {
            return Cow::Borrowed(line);
        }
        let identifier = limits.max_line_size_truncate_identifier.as_bytes();
        let mut end = bytes_max.saturating_sub(identifier.len());
        // Not within a character, so that what was text stays text.
        while end > 0 && line[end] & 0xc0 == 0x80 && bytes_max - end < identifier.len() + 4 {
            end -= 1;
        }
        self.tally.mutations.add(reason::LINE_TOO_LONG, 1, (line.len() - end) as u64);
        Cow::Owned([&line[..end], identifier].concat())
    }

    /// Looks at a stream's labels. Refusals are told once for each stream.
    fn judge(&mut self, stream: &StreamState) -> Verdict {
        let rules = self.context.rules.clone();
        let labels = match &stream.pushed {
            PushedLabels::Read(labels) => with_service_name(labels, &rules.limits),
            PushedLabels::Unread { text, error } => {
                self.failures.add(|| format!("error parsing labels '{text}' with error: {error}"));
                return Verdict::Refused(reason::INVALID_LABELS);
            }
            PushedLabels::Duplicate { text, name } => {
                self.failures.add(|| format!("stream '{text}' has duplicate label name: '{name}'"));
                return Verdict::Refused(reason::DUPLICATE_LABEL);
            }
        };
        if let Err((reason, text)) = check_labels(stream_labels(&stream.pushed), &labels, &rules.limits) {
            self.failures.add(|| text);
            return Verdict::Refused(reason);
        }
        if let Some(until) = rules.limits.block_ingestion_until.filter(|until| until.time() > self.context.now) {
            let (user, status) = (&self.context.tenant_id, rules.limits.block_ingestion_status_code);
            let text = format!("ingestion blocked for user '{user}' until '{until}' with status code '{status}'");
            self.blocked = Some(text);
            return Verdict::Refused(reason::BLOCKED);
        }
        let missing: Vec<&str> =
            rules.limits.enforced_labels.iter().map(String::as_str).filter(|l| labels.get(l).is_none()).collect();
        if !missing.is_empty() {
            let (missing, user) = (missing.join(","), &self.context.tenant_id);
            let text =
                format!("missing required labels '{missing}' for user '{user}' for stream '{labels}' (policy: '')");
            self.failures.add(|| text);
            return Verdict::Refused(reason::MISSING_ENFORCED_LABELS);
        }
        let level = rules.levels.as_ref().and_then(|levels| {
            let common = stream.common.iter().map(|(n, v)| (n.as_str(), v.as_str()));
            let given = common.clone().find(|(name, _)| *name == DETECTED_LEVEL).map(|(_, v)| normalised_or_self(v));
            given.or_else(|| levels.of_fields(|name| labels.get(name))).map(str::to_owned)
        });
        let idle = self.context.config.stream_idle_timeout.get();
        let hash = labels.stream_hash();
        let active = self.context.tenant.stream(hash, self.context.now, idle, self.context.streams_max);
        let home = active.as_deref().map_or(0, |active| self.context.route.place(hash, &active.placement));
        let rate_max = self.context.config.stream_rate_max.bytes();
        let is_hot = |active: &Arc<ActiveStream>| rate_max > 0 && f64::from(active.rate()) > rate_max as f64;
        let spread_from = active.as_ref().is_some_and(is_hot).then_some(home);
        let (is_begun, bytes) = (false, 0);
        let mut accepted = Accepted { labels, output: home, active, spread_from, level, is_begun, bytes };
        accepted.take_turn(self.outputs.len());
        Verdict::Accepted(Box::new(accepted))
    }

    /// The checks of one entry; tells why it is refused.
    fn check(
        &mut self,
        ts: TimestampNs,
        bytes: usize,
        labels: &Labels,
        common: &[(String, String)],
        common_bytes: usize,
    ) -> Result<(), &'static str> {
        let (limits, now) = (&self.context.rules.limits, self.context.now);
        if ts.nanos() <= 0 {
            self.failures.add(|| {
                format!("entry for stream '{labels}' has a timestamp that is not after 1970-01-01T00:00:00Z: {ts}")
            });
            return Err(reason::INVALID_TIMESTAMP);
        }
        let oldest = now.minus(limits.reject_old_samples_max_age.get());
        if limits.reject_old_samples && ts < oldest {
            self.failures.add(|| {
                let (ts, oldest) = (times::rfc3339(ts), times::rfc3339(oldest));
                format!(
                    "entry for stream '{labels}' has timestamp too old: {ts}, oldest acceptable timestamp is: {oldest}"
                )
            });
            return Err(reason::TOO_OLD);
        }
        if ts > now.plus(limits.creation_grace_period.get()) {
            self.failures.add(|| {
                let ts = times::rfc3339(ts);
                format!("entry for stream '{labels}' has timestamp too new: {ts}")
            });
            return Err(reason::TOO_FAR_IN_FUTURE);
        }
        // A record holds at least one entry, so an entry must fit into the largest record whatever the limit says.
        let line_max = match limits.max_line_size.as_usize() {
            0 => self.context.config.record_bytes_max.as_usize(),
            bytes_max => bytes_max,
        };
        if bytes > line_max {
            self.failures.add(|| {
                format!(
                    "max entry size '{line_max}' bytes exceeded for stream '{labels}' while adding an entry with \
                     length '{bytes}' bytes"
                )
            });
            return Err(reason::LINE_TOO_LONG);
        }
        let (pairs, pair_bytes) = (self.metadata.len() + common.len(), self.metadata.bytes() + common_bytes);
        if pairs == 0 {
            return Ok(());
        }
        if !limits.allow_structured_metadata {
            self.failures.add(|| {
                format!(
                    "stream '{labels}' includes structured metadata, but this feature is disallowed. Please see \
                     `limits_config.allow_structured_metadata` or contact your Loki administrator to enable it"
                )
            });
            return Err(reason::NO_METADATA_ALLOWED);
        }
        let bytes_max = limits.max_structured_metadata_size.as_usize();
        if bytes_max > 0 && pair_bytes > bytes_max {
            self.failures.add(|| {
                format!(
                    "stream '{labels}' has structured metadata too large: '{pair_bytes}' bytes, limit: '{bytes_max}' \
                     bytes. Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator \
                     to increase it"
                )
            });
            return Err(reason::METADATA_TOO_LARGE);
        }
        let pairs_max = limits.max_structured_metadata_entries_count as usize;
        if pairs_max > 0 && pairs > pairs_max {
            self.failures.add(|| {
                format!(
                    "stream '{labels}' has too many structured metadata labels: '{pairs}', limit: '{pairs_max}'. \
                     Please see `limits_config.max_structured_metadata_entries_count` or contact your Loki \
                     administrator to increase it"
                )
            });
            return Err(reason::METADATA_TOO_MANY);
        }
        Ok(())
    }

    /// The time to store, moved when it is that of the entry before and the tenant wants it so.
    fn moved(&self, ts: TimestampNs, line: &[u8], previous: &mut Option<Previous>) -> TimestampNs {
        if !self.context.rules.limits.increment_duplicate_timestamp {
            return ts;
        }
        let pushed = ts.nanos();
        let stored = match previous {
            Some(p) if p.pushed == pushed && p.line != line => p.stored.saturating_add(1),
            Some(p) if p.pushed == pushed => p.stored,
            _ => pushed,
        };
        *previous = Some(Previous { pushed, stored, line: line.to_vec() });
        TimestampNs::from_nanos(stored)
    }

    /// The stream's own limits.
    fn admit(&mut self, ts: TimestampNs, bytes: usize, accepted: &Accepted, throttled: &mut StreamFailures) -> bool {
        let (labels, told_max) = (&accepted.labels, self.context.config.max_returned_stream_errors as usize);
        let Some(active) = &accepted.active else {
            let user = &self.context.tenant_id;
            self.throttled = Some(format!(
                "maximum active stream limit exceeded when trying to create stream {labels}, reduce the number of \
                 active streams (reduce labels or reduce label values), or contact your Loki administrator to see if \
                 the limit can be increased, user: '{user}'"
            ));
            self.tally.discards.add(reason::STREAM_LIMIT, 1, bytes as u64);
            return false;
        };
        let rate = self.context.rules.stream_rate;
        if rate.is_none_or(|rate| active.bucket.take(rate, bytes, self.context.now)) {
            return true;
        }
        let limit = self.context.rules.limits.per_stream_rate_limit;
        throttled.add(told_max, ts, || {
            let total = limits::ByteSize::from_bytes(bytes as u64);
            format!(
                "Per stream rate limit exceeded (limit: {limit}/sec) while attempting to ingest for stream '{labels}' \
                 totaling {total}, consider splitting a stream via additional labels or contact your Loki \
                 administrator to see if the limit can be increased"
            )
        });
        self.tally.discards.add(reason::STREAM_RATE_LIMITED, 1, bytes as u64);
        false
    }

    fn store(&mut self, ts: TimestampNs, line: &[u8], accepted: &mut Accepted, common: &[(String, String)]) {
        let metadata = &self.metadata;
        // The level of this very entry, unless it is that of the whole stream.
        let level = self.context.rules.levels.as_ref().and_then(|rules| {
            if let Some(given) = metadata.get(DETECTED_LEVEL) {
                return Some(normalised_or_self(given));
            }
            if accepted.level.is_some() {
                return None;
            }
            let pairs = metadata.iter().chain(common.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let is_bare = metadata.len() + common.len() == 0;
            let of_metadata = if is_bare { None } else { rules.of_metadata(pairs) };
            Some(of_metadata.unwrap_or_else(|| rules.of_line(line)))
        });
        let bytes_max = self.context.config.record_bytes_max.as_usize();
        // What the entry adds at most: see `RecordBuilder::encoded_bytes`.
        let entry_bytes = line.len() + metadata.bytes() + metadata.len() * 32 + 64;
        let is_full = |b: &RecordBuilder| {
            !b.is_empty() && (b.encoded_bytes() + entry_bytes > bytes_max || b.key_count() >= KEYS_MAX)
        };
        let mut output = &mut self.outputs[accepted.output];
        if output.builder.as_ref().is_some_and(is_full) {
            let batch_id = self.context.batch_id.as_deref();
            output.close(batch_id);
            accepted.is_begun = false;
            accepted.take_turn(self.outputs.len());
            output = &mut self.outputs[accepted.output];
            // The next one's may be full too, of what came before.
            if output.builder.as_ref().is_some_and(is_full) {
                output.close(batch_id);
            }
        }
        let now = self.context.now;
        let builder = output.builder.get_or_insert_with(|| RecordBuilder::new(&self.context.tenant_id, now));
        if !accepted.is_begun {
            let level = accepted.level.as_deref().map(|level| (DETECTED_LEVEL, level));
            let others = common.iter().map(|(n, v)| (n.as_str(), v.as_str())).filter(|(n, _)| *n != DETECTED_LEVEL);
            builder.stream(&accepted.labels, &others.chain(level).collect::<Vec<_>>());
            accepted.is_begun = true;
            self.tally.lag_ms += u64::try_from(now.since(ts).as_millis()).unwrap_or(0);
        }
        match level {
            None => builder.entry(ts, line, metadata.iter()),
            Some(level) => {
                let others = metadata.iter().filter(|(name, _)| *name != DETECTED_LEVEL);
                builder.entry(ts, line, others.chain(std::iter::once((DETECTED_LEVEL, level))));
            }
        }
    }
}

impl Accepted {
    /// A stream too hot for one partition goes on in the next one of its `outputs`.
    fn take_turn(&mut self, outputs: usize) {
        if let (Some(home), Some(active)) = (self.spread_from, &self.active) {
            self.output = (home + active.turn()) % outputs;
        }
    }
}

impl Output {
    fn close(&mut self, batch_id: Option<&str>) {
        if let Some(builder) = self.builder.take().filter(|b| !b.is_empty()) {
            self.finished.push(builder.finish(batch_id));
        }
    }
}

fn stream_labels(pushed: &PushedLabels) -> usize {
    match pushed {
        PushedLabels::Read(labels) => labels.len() - usize::from(labels.get(SERVICE_NAME).is_some()),
        PushedLabels::Unread { .. } | PushedLabels::Duplicate { .. } => 0,
    }
}

/// Adds `service_name` from the first label that tells it.
fn with_service_name(labels: &Labels, limits: &Limits) -> Labels {
    let sources = &limits.discover_service_name;
    let is_internal = |name| labels.get(name).is_some();
    let is_settled = sources.is_empty()
        || labels.is_empty()
        || labels.get(SERVICE_NAME).is_some()
        || is_internal("__aggregated_metric__")
        || is_internal("__pattern__");
    if is_settled {
        return labels.clone();
    }
    let found = sources.iter().find_map(|name| labels.get(name)).unwrap_or("unknown_service");
    Labels::from_pairs(labels.iter().chain([(SERVICE_NAME, found)]))
}

/// The rules for labels. `count` is how many there are without `service_name`.
fn check_labels(count: usize, labels: &Labels, limits: &Limits) -> Result<(), (&'static str, String)> {
    if labels.is_empty() {
        let text = "error at least one label pair is required per stream";
        return Err((reason::MISSING_LABELS, text.to_owned()));
    }
    if ["__backfill__", "__backfill_shard__"].iter().any(|name| labels.get(name).is_some()) {
        let text = "streams must not contain the reserved labels __backfill__ or __backfill_shard__; set the \
            X-Loki-Backfill-Shard header to mark a push as backfill data";
        return Err((reason::RESERVED_LABELS, text.to_owned()));
    }
    let limit = limits.max_label_names_per_series;
    if limit > 0 && count > limit as usize {
        let text = format!("entry for stream '{labels}' has {count} label names; limit {limit}");
        return Err((reason::TOO_MANY_LABELS, text));
    }
    let is_over = |text: &str, limit: u32| limit > 0 && text.len() > limit as usize;
    for (name, value) in labels.iter() {
        if is_over(name, limits.max_label_name_length) {
            let text = format!("stream '{labels}' has label name too long: '{name}'");
            return Err((reason::LABEL_NAME_TOO_LONG, text));
        }
        if is_over(value, limits.max_label_value_length) {
            let text = format!("stream '{labels}' has label value too long: '{value}'");
            return Err((reason::LABEL_VALUE_TOO_LONG, text));
        }
    }
    Ok(())
}
