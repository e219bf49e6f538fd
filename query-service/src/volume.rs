//! Statistics and volumes of streams. They assume that the rows of a stream in one block are spread evenly over their time.
//! This is exact enough for these answers.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use axum::{extract::State, response::Response};
use logql::{Answer, Direction, Sample, Series};
use model::{Labels, Matcher, TimeRange, TimestampNs};
use owner::StreamStat;
use reading::StreamsRead;
use serde_json::json;

use crate::{
    check,
    encode::QueryAnswer,
    error::Error,
    params::{Bounds, Params},
    request::Request,
    respond,
    service::QueryService,
    stats::AnswerStats,
};

/// `/loki/api/v1/index/stats`
pub(crate) async fn stats(State(service): State<Arc<QueryService>>, request: Request) -> Result<Response, Error> {
    let matchers = logql::parse_matchers(request.params.get("query"))?;
    logql::reject_empty_compatible(&matchers)?;
    let now = service.clock.now();
    let bounds = request.params.bounds(now)?.check_order()?;
    let bounds = check::check_bounds_of_labels(bounds, now, &service.limits_all(&request.tenants))?;
    let time = TimeRange::new(bounds.start, bounds.end);
    let found = service.streams_all(&request.tenants, &matchers, time, &request.goal, "stats").await?;
    let streams: HashSet<&Labels> = found.parts.iter().map(|part| &part.labels).collect();
    let sum = |count: fn(&StreamStat) -> u64| -> u64 {
        found.parts.iter().map(|part| (count(part) as f64 * share(part.time, time)).round() as u64).sum()
    };
    let (bytes, entries) = (sum(|part| part.line_bytes), sum(|part| part.rows));
    let answer = json!({ "streams": streams.len(), "chunks": found.parts.len(), "bytes": bytes, "entries": entries });
    respond::json_with_warnings(answer, found.warnings.into_iter().collect())
}

/// `/loki/api/v1/index/volume`
pub(crate) async fn instant(State(service): State<Arc<QueryService>>, request: Request) -> Result<Response, Error> {
    volume(&service, &request, false).await
}

/// `/loki/api/v1/index/volume_range`
pub(crate) async fn range(State(service): State<Arc<QueryService>>, request: Request) -> Result<Response, Error> {
    volume(&service, &request, true).await
}

async fn volume(service: &QueryService, request: &Request, in_steps: bool) -> Result<Response, Error> {
    let limits = service.limits_all(&request.tenants);
    if !limits.volume_enabled {
        return Err(Error::NotFound("not found"));
    }
    let selection = VolumeSelection::read(&request.params)?;
    let now = service.clock.now();
    let asked = request.params.bounds(now)?.check_order()?;
    let step = if in_steps { Some(request.params.step(asked)?) } else { None };
    if let Some(step) = step {
        asked.check_points(step)?;
    }
    let bounds = check::check_bounds_of_labels(asked, now, &limits)?;
    let time = TimeRange::new(bounds.start, bounds.end);
    let StreamsRead { parts, stats, warnings } =
        service.streams_all(&request.tenants, &selection.matchers, time, &request.goal, "volume").await?;

    let buckets = Buckets::new(bounds, step);
    let mut groups: HashMap<Labels, BTreeMap<u64, f64>> = HashMap::new();
    for part in &parts {
        for labels in selection.groups(&part.labels) {
            buckets.add(part, groups.entry(labels).or_default());
        }
    }
    let groups_max = check::count(limits.volume_max_series);
    if groups_max > 0 && groups.len() > groups_max {
        return Err(Error::bad(format!("the query hit the max number of series limit (limit: {groups_max} series)")));
    }
    let answer = answer(groups, &buckets, selection.limit);
    let stats = AnswerStats { read: stats, ..AnswerStats::default() };
    let (flags, direction) = (&request.flags, Direction::Backward);
    let warnings: Vec<String> = warnings.into_iter().collect();
    Ok(respond::json(QueryAnswer { answer: &answer, direction, flags, warnings: &warnings, stats }.to_bytes()))
}

/// Which streams a request is about, and how it groups them.
struct VolumeSelection {
    matchers: Vec<Matcher>,
    /// The names of the labels that make a group. `None` means all labels.
    names: Option<Vec<String>>,
    by_label: bool,
    limit: usize,
}

impl VolumeSelection {
    fn read(params: &Params) -> Result<Self, Error> {
        let text = params.get("query").trim();
        let mut matchers = if text.is_empty() { Vec::new() } else { logql::parse_matchers(text)? };
        if !matchers.is_empty() {
            logql::reject_empty_compatible(&matchers)?;
        }
        let by_label = match params.get("aggregateBy") {
            "" | "series" => false,
            "labels" => true,
            _ => return Err(Error::bad("invalid aggregation option")),
        };
        let targets: Vec<String> =
            params.get("targetLabels").split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect();
        for target in &targets {
            if !by_label && !matchers.iter().any(|m| m.name() == target) {
                matchers.push(check::present(target)?);
            }
        }
        let named = || matchers.iter().map(|m| m.name().to_owned()).collect::<Vec<_>>();
        let names = match (targets.is_empty(), by_label) {
            (false, _) => Some(targets),
            (true, false) if !matchers.is_empty() => Some(named()),
            (true, _) => None,
        };
        let limit = match params.get("limit") {
            "" | "0" => 100,
            _ => params.limit()? as usize,
        };
        Ok(Self { matchers, names, by_label, limit })
    }

    fn is_asked_for(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.iter().any(|n| n == name))
    }

    /// The groups that the volume of a stream is added to.
    fn groups(&self, labels: &Labels) -> Vec<Labels> {
        let pairs = labels.iter().filter(|(name, _)| self.is_asked_for(name));
        if self.by_label {
            pairs.map(|(name, _)| Labels::with_empty_values([(name, "")])).collect()
        } else {
            vec![Labels::from_pairs(pairs)]
        }
    }
}

/// The steps in time that volumes are added up for.
struct Buckets {
    bounds: Bounds,
    step: Option<i64>,
}

impl Buckets {
    fn new(bounds: Bounds, step: Option<Duration>) -> Self {
        Self { bounds, step: step.map(|s| i64::try_from(s.as_nanos()).unwrap_or(i64::MAX).max(1)) }
    }

    fn first(&self) -> i64 {
        let start = self.bounds.start.nanos();
        self.step.map_or(start, |step| start.saturating_sub(start.rem_euclid(step)))
    }

    /// The part of bucket `i` that is in the time of the request.
    fn time(&self, i: u64) -> TimeRange {
        let Some(step) = self.step else {
            return TimeRange::new(self.bounds.start, self.bounds.end);
        };
        let start = self.first().saturating_add(step.saturating_mul(i64::try_from(i).unwrap_or(i64::MAX)));
        let from = TimestampNs::from_nanos(start).max(self.bounds.start);
        TimeRange::new(from, TimestampNs::from_nanos(start.saturating_add(step)).min(self.bounds.end))
    }

    fn index_of(&self, time: TimestampNs) -> u64 {
        let Some(step) = self.step else { return 0 };
        let inside = time.max(self.bounds.start).nanos().saturating_sub(self.first());
        u64::try_from(inside / step).unwrap_or(0)
    }

    /// The timestamp of bucket `i` in the answer, in milliseconds.
    fn stamp(&self, i: u64) -> i64 {
        let end = self.time(i).end;
        if end >= self.bounds.end { self.bounds.end.millis() } else { end.millis() - 1 }
    }

    /// Distributes the bytes of a part over its buckets.
    fn add(&self, part: &StreamStat, volumes: &mut BTreeMap<u64, f64>) {
        let last = TimestampNs::from_nanos(part.time.end.min(self.bounds.end).nanos().saturating_sub(1));
        for i in self.index_of(part.time.start)..=self.index_of(last.max(part.time.start)) {
            let bytes = part.line_bytes as f64 * share(part.time, self.time(i));
            if bytes > 0.0 {
                *volumes.entry(i).or_default() += bytes;
            }
        }
    }
}

/// The largest groups: as a matrix if there are several points in time, otherwise as a vector.
fn answer(groups: HashMap<Labels, BTreeMap<u64, f64>>, buckets: &Buckets, limit: usize) -> Answer {
    let points = |volumes: BTreeMap<u64, f64>| -> Vec<(i64, f64)> {
        volumes.into_iter().map(|(i, bytes)| (buckets.stamp(i), bytes.round())).collect()
    };
    let mut series: Vec<Series> = groups
        .into_iter()
        .filter(|(_, volumes)| !volumes.is_empty())
        .map(|(labels, volumes)| Series { labels, points: points(volumes) })
        .collect();
    series.sort_by(|a, b| b.points[0].1.total_cmp(&a.points[0].1).then_with(|| a.labels.cmp(&b.labels)));
    series.truncate(limit);
    let is_vector = series.iter().all(|s| s.points.len() <= 1);
    if !is_vector {
        return Answer::Matrix(series);
    }
    let sample = |s: Series| {
        let (t_ms, value) = s.points[0];
        Sample { labels: s.labels, t_ms, value }
    };
    Answer::Vector(series.into_iter().map(sample).collect())
}

/// The fraction of `of` that is in `within`.
fn share(of: TimeRange, within: TimeRange) -> f64 {
    if within.covers(&of) {
        return 1.0;
    }
    let both = of.end.min(within.end).since(of.start.max(within.start));
    let all = of.end.since(of.start);
    if all.is_zero() { 0.0 } else { both.as_secs_f64() / all.as_secs_f64() }
}

#[cfg(test)]
mod tests;
