//! What was refused, and how the answer says it.

use std::collections::BTreeMap;

use model::{Labels, TenantId, TimestampNs};

use crate::times;

/// So many distinct texts are put into one answer; more of them help nobody.
const TEXTS_MAX: usize = 100;

/// Texts of entries and streams that were refused with 400.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    texts: BTreeMap<String, u64>,
    untold: u64,
}

impl Failures {
    pub(crate) fn add(&mut self, text: impl FnOnce() -> String) {
        let text = text();
        if self.texts.len() >= TEXTS_MAX && !self.texts.contains_key(&text) {
            self.untold += 1;
        } else {
            *self.texts.entry(text).or_default() += 1;
        }
    }

    /// All texts in one; `None` when nothing failed.
    pub(crate) fn joined(&self) -> Option<String> {
        let (first, count) = self.texts.first_key_value()?;
        if self.texts.len() == 1 && *count == 1 {
            return Some(first.clone());
        }
        let mut out = self.texts.iter().map(|(text, n)| format!("{n} errors like: {text}")).collect::<Vec<_>>();
        if self.untold > 0 {
            out.push(format!("{} more errors", self.untold));
        }
        Some(out.join("; "))
    }
}

/// Why entries were refused, as `loki_discarded_samples_total` names it.
pub(crate) mod reason {
    pub(crate) const BLOCKED: &str = "blocked_ingestion";
    pub(crate) const DUPLICATE_LABEL: &str = "duplicate_label_names";
    pub(crate) const INVALID_LABELS: &str = "invalid_labels";
    pub(crate) const INVALID_TIMESTAMP: &str = "invalid_timestamp";
    pub(crate) const LABEL_NAME_TOO_LONG: &str = "label_name_too_long";
    pub(crate) const LABEL_VALUE_TOO_LONG: &str = "label_value_too_long";
    pub(crate) const LINE_TOO_LONG: &str = "line_too_long";
    pub(crate) const MISSING_ENFORCED_LABELS: &str = "missing_enforced_labels";
    pub(crate) const MISSING_LABELS: &str = "missing_labels";
    pub(crate) const NO_METADATA_ALLOWED: &str = "disallowed_structured_metadata";
    pub(crate) const METADATA_TOO_LARGE: &str = "structured_metadata_too_large";
    pub(crate) const METADATA_TOO_MANY: &str = "structured_metadata_too_many";
    pub(crate) const RATE_LIMITED: &str = "rate_limited";
    pub(crate) const RESERVED_LABELS: &str = "reserved_labels";
    pub(crate) const STREAM_LIMIT: &str = "stream_limit";
    pub(crate) const STREAM_RATE_LIMITED: &str = "per_stream_rate_limit";
    pub(crate) const TOO_FAR_IN_FUTURE: &str = "too_far_in_future";
    pub(crate) const TOO_MANY_LABELS: &str = "max_label_names_per_series";
    pub(crate) const TOO_OLD: &str = "greater_than_max_sample_age";
}

/// Entries and bytes that were refused (or changed), by reason.
#[derive(Debug, Default)]
pub(crate) struct Discards(BTreeMap<&'static str, (u64, u64)>);

impl Discards {
    pub(crate) fn add(&mut self, reason: &'static str, entries: u64, bytes: u64) {
        let sum = self.0.entry(reason).or_default();
        *sum = (sum.0 + entries, sum.1 + bytes);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        self.0.iter().map(|(reason, (entries, bytes))| (*reason, *entries, *bytes))
    }
}

/// Entries of one stream that came too fast.
#[derive(Debug, Default)]
pub(crate) struct StreamFailures {
    told: Vec<(TimestampNs, String)>,
    failed: usize,
}

impl StreamFailures {
    /// `told_max` 0 means all.
    pub(crate) fn add(&mut self, told_max: usize, ts: TimestampNs, text: impl FnOnce() -> String) {
        self.failed += 1;
        if told_max == 0 || self.told.len() < told_max {
            self.told.push((ts, text()));
        }
    }

    /// One text for the stream; `None` when nothing failed.
    pub(crate) fn joined(&self, tenant: &TenantId, entries: usize, labels: &Labels) -> Option<String> {
        (self.failed > 0).then(|| {
            let line = |(ts, text): &(TimestampNs, String)| {
                format!("entry with timestamp {} ignored, reason: '{text}',\n", times::go_text(*ts))
            };
            let lines: String = self.told.iter().map(line).collect();
            let failed = self.failed;
            format!("{lines}user '{tenant}', total ignored: {failed} out of {entries} for stream: {labels}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_grouped() {
        let check = |texts: &[&str], expected: Option<&str>| {
            let mut failures = Failures::default();
            texts.iter().for_each(|text| failures.add(|| (*text).to_owned()));
            assert_eq!(failures.joined().as_deref(), expected);
        };
        check(&[], None);
        check(&["a"], Some("a"));
        check(&["a", "a"], Some("2 errors like: a"));
        check(&["a", "b", "a"], Some("2 errors like: a; 1 errors like: b"));
    }

    #[test]
    fn many_texts_are_cut() {
        let mut failures = Failures::default();
        (0..150).for_each(|i| failures.add(|| format!("text {i}")));
        failures.add(|| "text 0".to_owned());
        let text = failures.joined().unwrap();
        assert!(text.ends_with("; 50 more errors") && text.contains("2 errors like: text 0;"), "{text}");
    }

    #[test]
    fn streams() {
        let mut failures = StreamFailures::default();
        let (tenant, labels) = (TenantId::new("t").unwrap(), Labels::from_pairs([("a", "b")]));
        assert_eq!(failures.joined(&tenant, 5, &labels), None);
        for i in 0..3 {
            failures.add(2, TimestampNs::from_nanos(1_767_366_245_123_000_000 + i), || "slow down".to_owned());
        }
        let expected = "entry with timestamp 2026-01-02 15:04:05.123 +0000 UTC ignored, reason: 'slow down',\n\
            entry with timestamp 2026-01-02 15:04:05.123000001 +0000 UTC ignored, reason: 'slow down',\n\
            user 't', total ignored: 3 out of 5 for stream: {a=\"b\"}";
        assert_eq!(failures.joined(&tenant, 5, &labels).as_deref(), Some(expected));
    }
}
