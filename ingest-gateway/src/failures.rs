//! How the answer to a request tells what was rejected.

use std::collections::BTreeMap;

use model::{Labels, TenantId, TimestampNs};

use crate::refusal::{Refusal, Rejection};
use crate::times;

/// Largest number of distinct texts in one answer; more would not help anybody.
const TEXTS_MAX: usize = 100;

/// What the answer must tell. One kind of rejection decides the status: a block before rates, and rates before
/// everything else.
#[derive(Debug, Default)]
pub(crate) struct RejectionReport {
    blocked: Option<Refusal>,
    throttled: Option<String>,
    invalid: GroupedTexts,
}

/// Texts of rejections, each with the number of its occurrences.
#[derive(Debug, Default)]
struct GroupedTexts {
    texts: BTreeMap<String, u64>,
    untold: u64,
}

impl RejectionReport {
    pub(crate) fn add(&mut self, rejection: &Rejection<'_>) {
        let text = rejection.to_string();
        match rejection {
            Rejection::Blocked { .. } => self.blocked = Some(Refusal::new(rejection.status(), text)),
            Rejection::TooManyStreams { .. } | Rejection::StreamRate { .. } => self.throttled = Some(text),
            _ => self.invalid.add(text),
        }
    }

    /// Adds the entries that a stream's rate rejected.
    pub(crate) fn add_throttled(&mut self, entries: &ThrottledEntries, tenant: &TenantId, of: usize, labels: &Labels) {
        if let Some(text) = entries.joined(tenant, of, labels) {
            self.throttled = Some(text);
        }
    }

    /// The answer; `None` when nothing was rejected, or when the tenant's block asks for status 200.
    pub(crate) fn refusal(self) -> Option<Refusal> {
        if let Some(blocked) = self.blocked {
            return (blocked.status != 200).then_some(blocked);
        }
        if let Some(text) = self.throttled {
            return Some(Refusal::new(429, text));
        }
        self.invalid.joined().map(|text| Refusal::new(400, text))
    }
}

impl GroupedTexts {
    fn add(&mut self, text: String) {
        if self.texts.len() >= TEXTS_MAX && !self.texts.contains_key(&text) {
            self.untold += 1;
        } else {
            *self.texts.entry(text).or_default() += 1;
        }
    }

    /// All texts in one; `None` when there is none.
    fn joined(&self) -> Option<String> {
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

/// Entries that a stream's rate rejected.
#[derive(Debug, Default)]
pub(crate) struct ThrottledEntries {
    told: Vec<(TimestampNs, String)>,
    count: usize,
}

impl ThrottledEntries {
    /// Counts an entry, and keeps its text if fewer than `told_max` are kept. 0 means no bound.
    pub(crate) fn add(&mut self, told_max: usize, ts: TimestampNs, rejection: &Rejection<'_>) {
        self.count += 1;
        if told_max == 0 || self.told.len() < told_max {
            self.told.push((ts, rejection.to_string()));
        }
    }

    /// One text for the stream; `None` when nothing was rejected.
    fn joined(&self, tenant: &TenantId, entries: usize, labels: &Labels) -> Option<String> {
        (self.count > 0).then(|| {
            let line = |(ts, text): &(TimestampNs, String)| {
                format!("entry with timestamp {} ignored, reason: '{text}',\n", times::go_text(*ts))
            };
            let lines: String = self.told.iter().map(line).collect();
            let count = self.count;
            format!("{lines}user '{tenant}', total ignored: {count} out of {entries} for stream: {labels}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_grouped() {
        let check = |texts: &[&str], expected: Option<&str>| {
            let mut grouped = GroupedTexts::default();
            texts.iter().for_each(|text| grouped.add((*text).to_owned()));
            assert_eq!(grouped.joined().as_deref(), expected);
        };
        check(&[], None);
        check(&["a"], Some("a"));
        check(&["a", "a"], Some("2 errors like: a"));
        check(&["a", "b", "a"], Some("2 errors like: a; 1 errors like: b"));
    }

    #[test]
    fn many_texts_are_cut() {
        let mut grouped = GroupedTexts::default();
        (0..150).for_each(|i| grouped.add(format!("text {i}")));
        grouped.add("text 0".to_owned());
        let text = grouped.joined().unwrap();
        assert!(text.ends_with("; 50 more errors") && text.contains("2 errors like: text 0;"), "{text}");
    }

    #[test]
    fn streams() {
        let mut throttled = ThrottledEntries::default();
        let (tenant, labels) = (TenantId::new("t").unwrap(), Labels::from_pairs([("a", "b")]));
        assert_eq!(throttled.joined(&tenant, 5, &labels), None);
        for i in 0..3 {
            let ts = TimestampNs::from_nanos(1_767_366_245_123_000_000 + i);
            throttled.add(2, ts, &Rejection::MissingLabels);
        }
        let expected = "entry with timestamp 2026-01-02 15:04:05.123 +0000 UTC ignored, reason: 'error at least one label pair is required per stream',\n\
            entry with timestamp 2026-01-02 15:04:05.123000001 +0000 UTC ignored, reason: 'error at least one label pair is required per stream',\n\
            user 't', total ignored: 3 out of 5 for stream: {a=\"b\"}";
        assert_eq!(throttled.joined(&tenant, 5, &labels).as_deref(), Some(expected));
    }
}
