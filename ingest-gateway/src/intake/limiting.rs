//! The rates and the number of active streams: a stream's own limits, and the rate of the tenant.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::StreamHash;

use super::context::PushContext;
use super::stream::AcceptedStream;
use crate::refusal::{Refusal, Rejection};
use crate::tally::Tally;
use crate::tenants::ActiveStream;

/// The stream as one of the tenant's active streams; `None` when the tenant may not have one more.
pub(super) fn active_stream(stream: StreamHash, context: &PushContext) -> Option<Arc<ActiveStream>> {
    let idle = context.config.stream_idle_timeout.get();
    context.tenant.stream(stream, context.now, idle, context.streams_max)
}

/// Takes the bytes of an entry out of its stream's rate.
pub(super) fn admit_entry<'a>(
    bytes: usize,
    stream: &'a AcceptedStream,
    context: &'a PushContext,
) -> Result<(), Rejection<'a>> {
    let labels = &stream.labels;
    let Some(active) = &stream.active else {
        return Err(Rejection::TooManyStreams { tenant: &context.tenant_id, labels });
    };
    if context.rules.stream_rate.is_none_or(|rate| active.bucket.take(rate, bytes, context.now)) {
        return Ok(());
    }
    Err(Rejection::StreamRate { labels, limit: context.rules.limits.per_stream_rate_limit, bytes })
}

/// Takes the bytes of a request out of its tenant's rate.
pub(super) fn admit_request(tally: &Tally, context: &PushContext) -> Result<(), Refusal> {
    let (tenant, bytes) = (&context.tenant, tally.bytes());
    tenant.offered.fetch_add(bytes, Ordering::Relaxed);
    let Some(rate) = context.rate.filter(|_| bytes > 0) else { return Ok(()) };
    if tenant.bucket.take(rate, bytes as usize, context.now) {
        return Ok(());
    }
    Err(Refusal::tenant_rate(&context.tenant_id, rate.bytes as u64, tally.entries, bytes))
}
