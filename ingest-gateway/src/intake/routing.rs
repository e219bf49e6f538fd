//! From accepted entries to records: which partition a stream goes to, and when a record is full.

use bytes::Bytes;
use model::{Labels, PartitionId, StreamHash, TimestampNs};
use schemas::RecordBuilder;

use super::context::PushContext;
use super::stream::AcceptedStream;
use crate::level::{DETECTED_LEVEL, normalised_or_self};
use crate::pairs::Pairs;
use crate::tenants::ActiveStream;

/// A record with more distinct metadata keys is split: each key costs readers a column.
const KEYS_MAX: usize = 512;

/// The records of a request, by partition of its route.
pub(super) struct Outputs(Vec<Output>);

#[derive(Default)]
struct Output {
    builder: Option<RecordBuilder>,
    finished: Vec<Bytes>,
}

/// Where the entries of a stream go.
pub(super) struct StreamPlace {
    /// An index into the partitions of the route.
    pub(super) output: usize,
    /// As [`AcceptedStream::spread_from`].
    pub(super) spread_from: Option<usize>,
}

impl StreamPlace {
    /// The place of a stream. Streams that will be refused get any.
    pub(super) fn of(active: Option<&ActiveStream>, stream: StreamHash, context: &PushContext) -> Self {
        let Some(active) = active else { return Self { output: 0, spread_from: None } };
        let output = context.route.place(stream, &active.placement);
        let rate_max = context.config.stream_rate_max.bytes();
        let is_hot = rate_max > 0 && f64::from(active.rate()) > rate_max as f64;
        Self { output, spread_from: is_hot.then_some(output) }
    }
}

impl Outputs {
    pub(super) fn new(context: &PushContext) -> Self {
        let count = context.route.partitions().len();
        Self(std::iter::repeat_with(Output::default).take(count).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds an entry to the record of its stream's partition. True when the record did not know the stream before.
    pub(super) fn store(
        &mut self,
        ts: TimestampNs,
        line: &[u8],
        metadata: &Pairs,
        stream: &mut AcceptedStream,
        context: &PushContext,
    ) -> bool {
        let bytes_max = context.config.record_bytes_max.as_usize();
        // The most that the entry adds: see `RecordBuilder::encoded_bytes`.
        let entry_bytes = line.len() + metadata.bytes() + metadata.len() * 32 + 64;
        let is_full = |b: &RecordBuilder| {
            !b.is_empty() && (b.encoded_bytes() + entry_bytes > bytes_max || b.key_count() >= KEYS_MAX)
        };
        let count = self.0.len();
        let mut output = &mut self.0[stream.output];
        if output.builder.as_ref().is_some_and(is_full) {
            let batch_id = context.batch_id.as_deref();
            output.close(batch_id);
            stream.is_begun = false;
            stream.take_turn(count);
            output = &mut self.0[stream.output];
            // Other streams may have filled the next output, too.
            if output.builder.as_ref().is_some_and(is_full) {
                output.close(batch_id);
            }
        }
        let level = own_level(line, metadata, &stream.common, stream.level.is_some(), context);
        let builder = output.builder.get_or_insert_with(|| RecordBuilder::new(&context.tenant_id, context.now));
        let is_new = !stream.is_begun;
        if is_new {
            let level = stream.level.as_deref().map(|level| (DETECTED_LEVEL, level));
            let others = stream.common().filter(|(name, _)| *name != DETECTED_LEVEL);
            builder.stream(&stream.labels, &others.chain(level).collect::<Vec<_>>());
            stream.is_begun = true;
        }
        match level {
            None => builder.entry(ts, line, metadata.iter()),
            Some(level) => {
                let others = metadata.iter().filter(|(name, _)| *name != DETECTED_LEVEL);
                builder.entry(ts, line, others.chain(std::iter::once((DETECTED_LEVEL, level))));
            }
        }
        is_new
    }

    /// All records with their partitions.
    pub(super) fn finish(self, context: &PushContext) -> Vec<(PartitionId, Bytes)> {
        let mut records = Vec::new();
        for (mut output, partition) in self.0.into_iter().zip(context.route.partitions()) {
            output.close(context.batch_id.as_deref());
            records.extend(output.finished.into_iter().map(|record| (*partition, record)));
        }
        records
    }
}

impl Output {
    fn close(&mut self, batch_id: Option<&str>) {
        if let Some(builder) = self.builder.take().filter(|b| !b.is_empty()) {
            self.finished.push(builder.finish(batch_id));
        }
    }
}

/// The level of a single entry; `None` when the whole stream has one, or no level is to be found.
fn own_level<'a>(
    line: &[u8],
    metadata: &'a Pairs,
    common: &'a [(String, String)],
    has_stream_level: bool,
    context: &PushContext,
) -> Option<&'a str> {
    let rules = context.rules.levels.as_ref()?;
    if let Some(given) = metadata.get(DETECTED_LEVEL) {
        return Some(normalised_or_self(given));
    }
    if has_stream_level {
        return None;
    }
    let is_bare = metadata.len() + common.len() == 0;
    let common = common.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let of_metadata = if is_bare { None } else { rules.of_metadata(metadata.iter().chain(common)) };
    Some(of_metadata.unwrap_or_else(|| rules.of_line(line)))
}

/// The level of a whole stream, if its labels or common metadata tell it.
pub(super) fn stream_level(labels: &Labels, common: &[(String, String)], context: &PushContext) -> Option<String> {
    let rules = context.rules.levels.as_ref()?;
    let given = common.iter().find(|(name, _)| *name == DETECTED_LEVEL).map(|(_, value)| normalised_or_self(value));
    given.or_else(|| rules.of_fields(|name| labels.get(name))).map(str::to_owned)
}
