//! Requests over several tenants: each tenant is read by itself, and the answers are merged.
//!
//! Every label set of the answer has a label with its tenant (`__tenant_id__`), and matchers of that name select among
//! the tenants. Each tenant's own limits apply to its part. Entries and streams can be merged exactly. Numbers cannot: a
//! sum of sums would need the tenants' partials. So metric queries over several tenants are refused.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use limits::Limits;
use logql::{
    Answer, Direction, ResultEntry, ResultStream,
    ast::{Expr, LogExpr},
};
use model::{Labels, Matcher, TenantId, TimeRange};
use reading::{Goal, StreamsRead};

use crate::{
    error::Error,
    service::{QueryOutcome, QueryRequest, QueryService},
    stats::AnswerStats,
    tenants::Tenants,
};

/// The label with the tenant of a label set.
const TENANT_LABEL: &str = "__tenant_id__";
/// The new name of a label that had that name before.
const ORIGINAL_LABEL: &str = "original___tenant_id__";

impl QueryService {
    /// Runs a query for all tenants of a request.
    pub(crate) async fn query_all(&self, tenants: &Tenants, request: &QueryRequest) -> Result<QueryOutcome, Error> {
        if let Ok(tenant) = tenants.single() {
            return self.query(tenant, request).await;
        }
        let Expr::Log(log) = &request.expr else {
            return self.query_without_entries(tenants, request).await;
        };
        let (chosen, matchers) = choose(tenants, &log.matchers);
        if !chosen.is_empty() {
            logql::reject_empty_compatible(&matchers)?;
        }
        let expr = Expr::Log(LogExpr { matchers, stages: log.stages.clone() });
        let request = QueryRequest { expr, ..request.clone() };
        let (mut streams, mut warnings, mut stats) = (Vec::new(), BTreeSet::new(), AnswerStats::default());
        for tenant in &chosen {
            let outcome = self.query(tenant, &request).await?;
            let Answer::Streams(of_tenant) = outcome.answer else { continue };
            streams.extend(of_tenant.into_iter().map(|stream| stream_of(tenant, stream)));
            // Warnings about partitions are the same for each tenant.
            warnings.extend(outcome.warnings);
            stats.read += &outcome.stats.read;
            stats.exec_time += outcome.stats.exec_time;
            stats.queue_time += outcome.stats.queue_time;
        }
        let streams = limited(streams, request.limit as usize, request.direction);
        stats.entries_returned = streams.iter().map(|s| s.entries.len() as u64).sum();
        Ok(QueryOutcome { answer: Answer::Streams(streams), stats, warnings: warnings.into_iter().collect() })
    }

    /// A metric query without selectors, such as `1 + 1`, has the same answer for all tenants.
    async fn query_without_entries(&self, tenants: &Tenants, request: &QueryRequest) -> Result<QueryOutcome, Error> {
        let mut reads_entries = false;
        request.expr.for_each_selector(&mut |_, _| reads_entries = true);
        match tenants.all().first() {
            Some(tenant) if !reads_entries => self.query(tenant, request).await,
            _ => Err(Error::NotImplemented("a metric query over several tenants".to_owned())),
        }
    }

    /// The streams of all tenants of a request; see [`QueryService::streams`].
    pub(crate) async fn streams_all(
        &self,
        tenants: &Tenants,
        matchers: &[Matcher],
        time: TimeRange,
        goal: &Goal,
        kind: &'static str,
    ) -> Result<StreamsRead, Error> {
        if let Ok(tenant) = tenants.single() {
            return self.streams(tenant, matchers, time, goal, kind).await;
        }
        let (chosen, matchers) = choose(tenants, matchers);
        let mut all = StreamsRead::default();
        for tenant in &chosen {
            let read = self.streams(tenant, &matchers, time, goal, kind).await?;
            all.stats += &read.stats;
            all.warnings.extend(read.warnings);
            all.parts.extend(read.parts.into_iter().map(|mut part| {
                part.labels = labels_of(tenant, &part.labels);
                part
            }));
        }
        Ok(all)
    }

    /// The limits that apply before the tenants of a request are read one by one: the strictest of each.
    pub(crate) fn limits_all(&self, tenants: &Tenants) -> Arc<Limits> {
        let mut all = tenants.all().iter().map(|tenant| self.limits(tenant));
        let first = all.next().unwrap_or_else(|| self.overrides.defaults().clone());
        all.fold(first, |a, b| Arc::new(stricter(&a, &b)))
    }
}

fn stricter(a: &Limits, b: &Limits) -> Limits {
    // 0 means that there is no limit.
    fn least<T: PartialOrd + Default + Copy>(a: T, b: T) -> T {
        let unlimited = T::default();
        if a == unlimited || (b != unlimited && b < a) { b } else { a }
    }
    Limits {
        max_query_length: least(a.max_query_length, b.max_query_length),
        max_query_lookback: least(a.max_query_lookback, b.max_query_lookback),
        volume_enabled: a.volume_enabled && b.volume_enabled,
        volume_max_series: least(a.volume_max_series, b.volume_max_series),
        ..a.clone()
    }
}

/// The tenants that matchers on [`TENANT_LABEL`] select, and the other matchers.
fn choose(tenants: &Tenants, matchers: &[Matcher]) -> (Vec<TenantId>, Vec<Matcher>) {
    let (choosing, others): (Vec<Matcher>, Vec<Matcher>) =
        matchers.iter().cloned().partition(|m| m.name() == TENANT_LABEL);
    let is_chosen = |tenant: &&TenantId| choosing.iter().all(|m| m.matches_value(tenant.as_str()));
    (tenants.all().iter().filter(is_chosen).cloned().collect(), others)
}

fn labels_of(tenant: &TenantId, labels: &Labels) -> Labels {
    let moved = labels.iter().map(|(name, value)| (if name == TENANT_LABEL { ORIGINAL_LABEL } else { name }, value));
    Labels::with_empty_values(moved.chain([(TENANT_LABEL, tenant.as_str())]))
}

fn stream_of(tenant: &TenantId, stream: ResultStream) -> ResultStream {
    ResultStream {
        labels: labels_of(tenant, &stream.labels),
        stream: labels_of(tenant, &stream.stream),
        entries: stream.entries,
    }
}

/// The first entries of all streams in query direction. Streams are in the order of their text.
fn limited(streams: Vec<ResultStream>, limit: usize, direction: Direction) -> Vec<ResultStream> {
    let mut entries: Vec<(usize, ResultEntry)> = Vec::new();
    let mut empty: Vec<(String, ResultStream)> = Vec::new();
    for (i, stream) in streams.into_iter().enumerate() {
        let ResultStream { labels, stream, entries: of_stream } = stream;
        entries.extend(of_stream.into_iter().map(|entry| (i, entry)));
        empty.push((labels.to_string(), ResultStream { labels, stream, entries: Vec::new() }));
    }
    match direction {
        Direction::Forward => entries.sort_by_key(|(_, entry)| entry.ts),
        Direction::Backward => entries.sort_by_key(|(_, entry)| Reverse(entry.ts)),
    }
    entries.truncate(limit);
    for (i, entry) in entries {
        empty[i].1.entries.push(entry);
    }
    empty.retain(|(_, stream)| !stream.entries.is_empty());
    empty.sort_by(|a, b| a.0.cmp(&b.0));
    empty.into_iter().map(|(_, stream)| stream).collect()
}

#[cfg(test)]
mod tests {
    use limits::PromDuration;
    use model::TimestampNs;

    use super::*;

    #[test]
    fn strictest_limits() {
        let limits = |length: u64, series: u32| Limits {
            max_query_length: PromDuration::from_secs(length),
            volume_max_series: series,
            ..Limits::default()
        };
        let check = |a: Limits, b: Limits, expected: (u64, u32)| {
            let found = stricter(&a, &b);
            assert_eq!((found.max_query_length.get().as_secs(), found.volume_max_series), expected);
        };
        check(limits(10, 5), limits(20, 3), (10, 3));
        check(limits(0, 5), limits(20, 0), (20, 5));
        check(limits(0, 0), limits(0, 0), (0, 0));
    }

    #[test]
    fn the_first_entries_of_all() {
        let stream = |app: &str, times: &[i64]| ResultStream {
            labels: Labels::from_pairs([("app", app)]),
            stream: Labels::from_pairs([("app", app)]),
            entries: times
                .iter()
                .map(|ts| ResultEntry {
                    ts: TimestampNs::from_nanos(*ts),
                    line: Vec::new(),
                    metadata: Vec::new(),
                    parsed: Vec::new(),
                })
                .collect(),
        };
        let check = |limit: usize, expected: &[(&str, &[i64])]| {
            let found = limited(vec![stream("b", &[9, 5, 1]), stream("a", &[8, 7])], limit, Direction::Backward);
            let found: Vec<(String, Vec<i64>)> = found
                .iter()
                .map(|s| {
                    (s.labels.get("app").unwrap_or("").to_owned(), s.entries.iter().map(|e| e.ts.nanos()).collect())
                })
                .collect();
            let expected: Vec<(String, Vec<i64>)> =
                expected.iter().map(|(a, t)| ((*a).to_owned(), t.to_vec())).collect();
            assert_eq!(found, expected);
        };
        check(9, &[("a", &[8, 7]), ("b", &[9, 5, 1])]);
        check(3, &[("a", &[8, 7]), ("b", &[9])]);
        check(1, &[("b", &[9])]);
    }

    #[test]
    fn an_original_label_is_kept() {
        let tenant = TenantId::new("t").expect("a name");
        let found = labels_of(&tenant, &Labels::from_pairs([("__tenant_id__", "x"), ("a", "b")]));
        assert_eq!(found.to_string(), r#"{__tenant_id__="t", a="b", original___tenant_id__="x"}"#);
    }
}
