//! Which labels and entries are valid, and what is changed so that they are.

use std::borrow::Cow;

use limits::Limits;
use model::{Labels, TimestampNs};

use super::context::PushContext;
use super::stream::{PreviousEntry, PushedLabels};
use crate::refusal::Rejection;

const SERVICE_NAME: &str = "service_name";

/// What the checks of an entry look at. Metadata is that of the entry and of its stream together.
#[derive(Clone, Copy)]
pub(super) struct EntrySize {
    /// Line and metadata.
    pub(super) bytes: usize,
    pub(super) metadata_pairs: usize,
    pub(super) metadata_bytes: usize,
}

/// The labels to store, with `service_name` added if no label has it.
pub(super) fn readable<'a>(pushed: &'a PushedLabels, limits: &Limits) -> Result<Labels, Rejection<'a>> {
    match pushed {
        PushedLabels::Read(labels) => Ok(with_service_name(labels, limits)),
        PushedLabels::Unread { text, error } => Err(Rejection::InvalidLabels { text, error }),
        PushedLabels::Duplicate { text, name } => Err(Rejection::DuplicateLabel { text, name }),
    }
}

/// Adds `service_name` from the first label that tells it.
fn with_service_name(labels: &Labels, limits: &Limits) -> Labels {
    let sources = &limits.discover_service_name;
    let has = |name| labels.get(name).is_some();
    let stays = sources.is_empty()
        || labels.is_empty()
        || has(SERVICE_NAME)
        || has("__aggregated_metric__")
        || has("__pattern__");
    if stays {
        return labels.clone();
    }
    let service = sources.iter().find_map(|name| labels.get(name)).unwrap_or("unknown_service");
    Labels::from_pairs(labels.iter().chain([(SERVICE_NAME, service)]))
}

/// Checks a stream: its labels, whether the tenant is blocked, and the labels that the tenant must set.
pub(super) fn check_stream<'a>(
    pushed: &PushedLabels,
    labels: &'a Labels,
    context: &'a PushContext,
) -> Result<(), Rejection<'a>> {
    let limits = &*context.rules.limits;
    check_labels(pushed, labels, limits)?;
    let tenant = &context.tenant_id;
    if limits.block_ingestion_until.is_some_and(|until| until.time() > context.now) {
        return Err(Rejection::Blocked { tenant, limits });
    }
    let is_missing = |name: &&str| labels.get(name).is_none();
    let missing: Vec<&str> = limits.enforced_labels.iter().map(String::as_str).filter(is_missing).collect();
    if !missing.is_empty() {
        return Err(Rejection::MissingEnforcedLabels { tenant, labels, missing: missing.join(",") });
    }
    Ok(())
}

fn check_labels<'a>(pushed: &PushedLabels, labels: &'a Labels, limits: &Limits) -> Result<(), Rejection<'a>> {
    if labels.is_empty() {
        return Err(Rejection::MissingLabels);
    }
    if ["__backfill__", "__backfill_shard__"].iter().any(|name| labels.get(name).is_some()) {
        return Err(Rejection::ReservedLabels);
    }
    // `service_name` never counts, whether the client or the gateway set it.
    let count = match pushed {
        PushedLabels::Read(labels) => labels.len() - usize::from(labels.get(SERVICE_NAME).is_some()),
        PushedLabels::Unread { .. } | PushedLabels::Duplicate { .. } => 0,
    };
    let limit = limits.max_label_names_per_series;
    if limit > 0 && count > limit as usize {
        return Err(Rejection::TooManyLabels { labels, count, limit });
    }
    let is_over = |text: &str, limit: u32| limit > 0 && text.len() > limit as usize;
    for (name, value) in labels.iter() {
        if is_over(name, limits.max_label_name_length) {
            return Err(Rejection::LabelNameTooLong { labels, name });
        }
        if is_over(value, limits.max_label_value_length) {
            return Err(Rejection::LabelValueTooLong { labels, value });
        }
    }
    Ok(())
}

/// Checks one entry of a stream with these labels.
pub(super) fn check_entry<'a>(
    ts: TimestampNs,
    size: EntrySize,
    labels: &'a Labels,
    context: &PushContext,
) -> Result<(), Rejection<'a>> {
    let (limits, now) = (&context.rules.limits, context.now);
    if ts.nanos() <= 0 {
        return Err(Rejection::InvalidTimestamp { labels, ts });
    }
    let oldest = now.minus(limits.reject_old_samples_max_age.get());
    if limits.reject_old_samples && ts < oldest {
        return Err(Rejection::TooOld { labels, ts, oldest });
    }
    if ts > now.plus(limits.creation_grace_period.get()) {
        return Err(Rejection::TooNew { labels, ts });
    }
    // A record holds at least one entry, so an entry must fit into the largest record even without a limit.
    let bytes_max = match limits.max_line_size.as_usize() {
        0 => context.config.record_bytes_max.as_usize(),
        bytes_max => bytes_max,
    };
    if size.bytes > bytes_max {
        return Err(Rejection::EntryTooLong { labels, bytes: size.bytes, bytes_max });
    }
    check_metadata(size, labels, limits)
}

fn check_metadata<'a>(size: EntrySize, labels: &'a Labels, limits: &Limits) -> Result<(), Rejection<'a>> {
    let (pairs, bytes) = (size.metadata_pairs, size.metadata_bytes);
    if pairs == 0 {
        return Ok(());
    }
    if !limits.allow_structured_metadata {
        return Err(Rejection::MetadataNotAllowed { labels });
    }
    let bytes_max = limits.max_structured_metadata_size.as_usize();
    if bytes_max > 0 && bytes > bytes_max {
        return Err(Rejection::MetadataTooLarge { labels, bytes, bytes_max });
    }
    let pairs_max = limits.max_structured_metadata_entries_count as usize;
    if pairs_max > 0 && pairs > pairs_max {
        return Err(Rejection::MetadataTooMany { labels, pairs, pairs_max });
    }
    Ok(())
}

/// Cuts a line that is too long, if the tenant wants long lines cut instead of refused. Also tells how many bytes of
/// it are lost.
pub(super) fn cut_line<'a>(line: &'a [u8], limits: &Limits) -> (Cow<'a, [u8]>, usize) {
    let bytes_max = limits.max_line_size.as_usize();
    if !limits.max_line_size_truncate || bytes_max == 0 || line.len() <= bytes_max {
        return (Cow::Borrowed(line), 0);
    }
    let identifier = limits.max_line_size_truncate_identifier.as_bytes();
    let mut end = bytes_max.saturating_sub(identifier.len());
    // A character is not cut in two, so UTF-8 stays UTF-8.
    while end > 0 && line[end] & 0xc0 == 0x80 && bytes_max - end < identifier.len() + 4 {
        end -= 1;
    }
    (Cow::Owned([&line[..end], identifier].concat()), line.len() - end)
}

/// The time to store. If the tenant wants it so, an entry with the time of the one before it is moved by a nanosecond.
pub(super) fn stored_time(
    ts: TimestampNs,
    line: &[u8],
    previous: &mut Option<PreviousEntry>,
    limits: &Limits,
) -> TimestampNs {
    if !limits.increment_duplicate_timestamp {
        return ts;
    }
    let pushed = ts.nanos();
    let stored = match previous {
        Some(p) if p.pushed == pushed && p.line != line => p.stored.saturating_add(1),
        Some(p) if p.pushed == pushed => p.stored,
        _ => pushed,
    };
    *previous = Some(PreviousEntry { pushed, stored, line: line.to_vec() });
    TimestampNs::from_nanos(stored)
}
