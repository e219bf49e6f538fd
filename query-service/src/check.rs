//! Checks queries against the tenant's limits before anything is read.

use std::time::Duration;

use limits::{BlockedQuery, Limits};
use logql::ast::{Expr, Stage};
use model::{MatchOp, Matcher, RegexMode, TimestampNs, compile_regex};

use crate::{duration, error::Error, params::Bounds};

/// Labels of the streams that Loki writes about itself.
const INTERNAL: [&str; 2] = ["__aggregated_metric__", "__pattern__"];

/// The kind of a query in policies and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueryClass {
    /// It yields numbers.
    Metric,
    /// It yields entries, and has a stage that filters them.
    Filter,
    /// It yields entries, and only the limit bounds their number.
    Limited,
}

impl QueryClass {
    /// The word in policies and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Metric => "metric",
            Self::Filter => "filter",
            Self::Limited => "limited",
        }
    }

    /// The kind of a query.
    pub(crate) fn of(expr: &Expr) -> Self {
        match expr {
            Expr::Metric(_) => Self::Metric,
            Expr::Log(log) => {
                let rejects = |stage: &Stage| matches!(stage, Stage::LineFilter(_) | Stage::LabelFilter(_));
                if log.stages.iter().any(rejects) { Self::Filter } else { Self::Limited }
            }
        }
    }
}

/// Refuses tenants that may not query.
pub(crate) fn check_enabled(limits: &Limits) -> Result<(), Error> {
    let enabled = limits.max_query_parallelism >= 1 && limits.tsdb_max_query_parallelism >= 1;
    if enabled { Ok(()) } else { Err(Error::QueryingDisabled) }
}

/// Refuses a query if a policy blocks its text, or if its matchers or the length of a window exceed a limit.
pub(crate) fn check_query(text: &str, expr: &Expr, limits: &Limits, is_drilldown: bool) -> Result<(), Error> {
    check_enabled(limits)?;
    let mut selectors = Vec::new();
    let mut ranges = Vec::new();
    expr.for_each_selector(&mut |log, range| {
        selectors.push(log.matchers.as_slice());
        ranges.extend(range.map(|r| r.range));
    });
    for matchers in selectors {
        check_matchers(matchers, limits, is_drilldown)?;
    }
    let range_max = limits.max_query_range.get();
    if let Some(range) = ranges.into_iter().find(|r| !range_max.is_zero() && *r > range_max) {
        let (range, limit) = (duration::format(range), duration::format(range_max));
        return Err(Error::bad(format!("[interval] value exceeds limit: [{range}] > [{limit}]")));
    }
    if is_blocked(text, QueryClass::of(expr), &limits.blocked_queries) {
        return Err(Error::Blocked);
    }
    Ok(())
}

/// Refuses a selector whose matchers do not comply with the limits.
pub(crate) fn check_matchers(matchers: &[Matcher], limits: &Limits, is_drilldown: bool) -> Result<(), Error> {
    let matchers_max = count(limits.max_streams_matchers_per_query);
    if matchers_max > 0 && matchers.len() > matchers_max {
        let count = matchers.len();
        return Err(Error::bad(format!(
            "max streams matchers per query exceeded, matchers-count > limit ({count} > {matchers_max})"
        )));
    }
    let names: Vec<&str> = matchers.iter().map(Matcher::name).collect();
    let missing: Vec<&str> = limits.required_labels.iter().map(String::as_str).filter(|n| !names.contains(n)).collect();
    if !missing.is_empty() {
        return Err(Error::bad(format!(
            "stream selector is missing required matchers [{}], labels present in the query were [{}]",
            missing.join(", "),
            names.join(", ")
        )));
    }
    let required = count(limits.minimum_labels_number);
    if names.len() < required {
        return Err(Error::bad(format!(
            "stream selector has less label matchers than required: (present: [{}], number_present: {}, \
             required_number_label_matchers: {required})",
            names.join(", "),
            names.len()
        )));
    }
    let selects_internal = |m: &&Matcher| INTERNAL.contains(&m.name()) && !m.matches_empty();
    if !is_drilldown && matchers.iter().any(|m| selects_internal(&m)) {
        return Err(Error::bad("internal streams can only be queried from Logs Drilldown"));
    }
    Ok(())
}

/// Refuses a limit that is larger than an answer may be.
pub(crate) fn check_entries(limit: u32, limits: &Limits) -> Result<(), Error> {
    let entries_max = count(limits.max_entries_limit_per_query);
    if entries_max > 0 && limit as usize > entries_max {
        return Err(Error::bad(format!(
            "max entries limit per query exceeded, limit > max_entries_limit_per_query ({limit} > {entries_max})"
        )));
    }
    Ok(())
}

/// The part of a time range that the lookback limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// This part.
    Within(Bounds),
    /// Nothing: the whole range is too old.
    TooOld,
}

/// Refuses a time range that is too long, and cuts off the part that is too old.
pub(crate) fn check_bounds(bounds: Bounds, now: TimestampNs, limits: &Limits) -> Result<Reach, Error> {
    let reach = within_lookback(bounds, now, limits);
    let length_max = limits.max_query_length.get();
    if let Reach::Within(bounds) = reach {
        let length = bounds.end.since(bounds.start);
        if !length_max.is_zero() && length > length_max {
            let (length, limit) = (duration::format(length), duration::format(length_max));
            return Err(Error::bad(format!(
                "the query time range exceeds the limit (query length: {length}, limit: {limit})"
            )));
        }
    }
    Ok(reach)
}

/// As [`check_bounds`], but refuses a time range that is too old as a whole. For requests about labels.
pub(crate) fn check_bounds_of_labels(bounds: Bounds, now: TimestampNs, limits: &Limits) -> Result<Bounds, Error> {
    match check_bounds(bounds, now, limits)? {
        Reach::Within(bounds) => Ok(bounds),
        Reach::TooOld => Err(Error::lookback(limits.max_query_lookback.get())),
    }
}

fn within_lookback(bounds: Bounds, now: TimestampNs, limits: &Limits) -> Reach {
    let lookback = limits.max_query_lookback.get();
    if lookback == Duration::ZERO {
        return Reach::Within(bounds);
    }
    let oldest = now.minus(lookback);
    if bounds.end < oldest {
        return Reach::TooOld;
    }
    Reach::Within(Bounds { start: bounds.start.max(oldest), end: bounds.end })
}

fn is_blocked(text: &str, class: QueryClass, policies: &[BlockedQuery]) -> bool {
    let text = text.trim();
    policies.iter().any(|policy| {
        let of_type = policy.types.is_empty() || policy.types.iter().any(|t| t == class.as_str());
        let of_text = if policy.hash != 0 {
            fnv1a(text) == policy.hash
        } else if policy.pattern.is_empty() {
            // A policy without a pattern applies to all queries of its types.
            true
        } else if policy.regex {
            // A wrong pattern blocks nothing rather than everything.
            compile_regex(&policy.pattern, RegexMode::Search).is_ok_and(|r| r.is_match(text))
        } else {
            policy.pattern.trim() == text
        };
        // Tags of requests are not supported yet, so a policy with tags applies to no request.
        of_type && of_text && policy.query_tags.is_empty()
    })
}

fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A limit as `usize`.
pub(crate) fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// `name=~".+"`
pub(crate) fn present(name: &str) -> Result<Matcher, Error> {
    Matcher::new(name, MatchOp::Regex, ".+").map_err(|e| Error::Internal(e.to_string()))
}

#[cfg(test)]
mod tests;
