//! The service: what it is made of, and how one query runs.
//!
//! ```text
//! text ─parse─▶ checks ─admission─▶ scan 0..n (read) ─▶ partials ─finish─▶ answer + stats
//! ```

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use catalogue::{Head, Heads};
use http::HeaderMap;
use limits::{Limits, Overrides};
use logql::{Answer, Direction, Params as QueryParams, Query, ast::Expr};
use model::{Clock, Matcher, TenantId, TimeRange, TimestampNs};
use object_store::ObjectStore;
use owner::Owner;
use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::{Abandoned, Admission, Processors},
    blocks::BlockReader,
    byte_limit::ByteLimit,
    check::{self, QueryClass, Reach},
    config::Config,
    encode,
    error::Error,
    goal::{Consistency, Goal},
    heads::HeadCache,
    index_cache::IndexCache,
    metrics::{Metrics, QueryLabels},
    params::{Bounds, Params},
    read::{FoundStreams, Reader},
    stats::{AnswerStats, ReadStats},
};

/// What the service works with.
pub struct Components {
    /// Answers for recent rows.
    pub owner: Arc<dyn Owner>,
    /// Say which blocks there are and where memory begins.
    pub heads: Arc<Heads>,
    /// Heads of logs that were replaced by a new one. Nobody leads them any more, so they do not change; their blocks
    /// still hold what those logs acknowledged.
    pub older_heads: Vec<Arc<Head>>,
    /// Where blocks lie.
    pub store: Arc<dyn ObjectStore>,
    /// The consistency of requests that do not say it, where something other than [`Config::consistency`] is right: asking
    /// the local log for its ends costs nothing.
    pub consistency_default: Option<Consistency>,
    /// The limits of tenants.
    pub overrides: Arc<Overrides>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
}

/// Answers queries. Shared by all requests.
pub struct QueryService {
    config: Config,
    no_auth_tenant: TenantId,
    consistency: Consistency,
    pub(crate) owner: Arc<dyn Owner>,
    pub(crate) overrides: Arc<Overrides>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    /// How many tails each tenant has open.
    pub(crate) tails: Mutex<HashMap<TenantId, usize>>,
    /// Waits for tails when the service stops.
    pub(crate) tail_tasks: TaskTracker,
    /// Cancelled when the service stops.
    pub(crate) stopping: CancellationToken,
    reader: Reader,
    indexes: Arc<IndexCache>,
    processors: Processors,
    admission: Admission,
}

/// A query with everything that decides its answer.
#[derive(Clone, Debug)]
pub(crate) struct QueryRequest {
    pub(crate) text: String,
    pub(crate) span: QuerySpan,
    pub(crate) limit: u32,
    pub(crate) direction: Direction,
    /// Logs Drilldown asks.
    pub(crate) is_drilldown: bool,
    /// What the answer must hold.
    pub(crate) goal: Arc<Goal>,
}

/// Which times a query is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QuerySpan {
    /// One moment.
    Instant(TimestampNs),
    /// A range: `[start, end)` for entries, steps from start to end for numbers.
    Range { bounds: Bounds, step: Duration, interval: Duration },
}

/// What a query was answered with.
pub(crate) struct Outcome {
    pub(crate) answer: Answer,
    pub(crate) stats: AnswerStats,
    pub(crate) warnings: Vec<String>,
}

impl QueryService {
    /// Builds the service; nothing is read yet.
    ///
    /// # Errors
    /// When the settings are wrong, or metrics of the same names are registered already.
    pub fn new(config: Config, components: Components) -> Result<Arc<Self>, Error> {
        config.validate()?;
        let Components { owner, heads, older_heads, store, consistency_default, overrides, clock, metrics } =
            components;
        let metrics = Metrics::new(&metrics)?;
        let processors = Processors::new(config.cpu_permits());
        let indexes = Arc::new(IndexCache::new(store.clone(), config.index_cache_bytes));
        let parallel = config.blocks_parallel();
        let blocks = BlockReader { store, indexes: indexes.clone(), processors: processors.clone(), parallel };
        let (age_max, wait_max) = (config.head_age_max.get(), config.head_wait_max.get());
        let heads = HeadCache::new(heads, age_max, wait_max, metrics.read.clone());
        let wait_max = config.strong_wait_max.get();
        let reader = Reader::new(owner.clone(), heads, older_heads, wait_max, blocks, metrics.read.clone());
        Ok(Arc::new(Self {
            no_auth_tenant: TenantId::new(&config.no_auth_tenant)?,
            admission: Admission::new(config.queries_concurrent_max, config.max_outstanding_per_tenant),
            consistency: consistency_default.unwrap_or(config.consistency),
            config,
            owner,
            overrides,
            clock,
            metrics,
            tails: Mutex::default(),
            tail_tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            reader,
            indexes,
            processors,
        }))
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn no_auth_tenant(&self) -> &TenantId {
        &self.no_auth_tenant
    }

    /// What a request wants its answer to hold.
    pub(crate) fn goal(&self, headers: &HeaderMap, params: &Params) -> Result<Goal, Error> {
        Goal::read(headers, params, self.consistency, self.reader.log_id())
    }

    pub(crate) fn limits(&self, tenant: &TenantId) -> Arc<Limits> {
        self.overrides.for_tenant(tenant)
    }

    /// Closes tails and waits until they are gone.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tail_tasks.close();
        self.tail_tasks.wait().await;
    }

    /// Runs work on processors when it is its turn.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.processors.run(work).await
    }

    /// Checks a query against the tenant's limits and runs it.
    pub(crate) async fn query(&self, tenant: &TenantId, request: &QueryRequest) -> Result<Outcome, Error> {
        let expr = logql::parse(&request.text)?;
        let limits = self.limits(tenant);
        let class = QueryClass::of(&expr);
        let span = match request.span {
            QuerySpan::Instant(_) => "instant",
            QuerySpan::Range { .. } => "range",
        };
        let labels = QueryLabels { kind: class.as_str(), range: span };
        let checked = check::check_query(&request.text, &expr, &limits, request.is_drilldown);
        if matches!(&checked, Err(error) if error.to_string() == check::BLOCKED) {
            self.metrics.record_blocked(tenant);
        }
        checked?;
        let Some(params) = self.params(request, &expr, &limits)? else {
            return Ok(empty(class, request));
        };
        let since = Instant::now();
        let mut stats = AnswerStats::default();
        let result = self.admitted(tenant, &limits, &mut stats, self.run(tenant, request, params, &limits)).await;
        let status = result.as_ref().map_or_else(|e| e.status().as_u16(), |_| 200);
        if let Ok((answer, read, _)) = &result {
            stats.read = *read;
            stats.entries_returned = encode::count(answer);
        }
        self.metrics.record(tenant, labels, status, since.elapsed(), &stats);
        self.metrics.index_cache_bytes.set(i64::try_from(self.indexes.bytes()).unwrap_or(i64::MAX));
        let (answer, _, warnings) = result?;
        Ok(Outcome { answer, stats, warnings: warnings.into_iter().collect() })
    }

    /// The streams that match and have rows in `time`, parts of them several times.
    pub(crate) async fn streams(
        &self,
        tenant: &TenantId,
        matchers: &[Matcher],
        time: TimeRange,
        goal: &Goal,
        kind: &'static str,
    ) -> Result<FoundStreams, Error> {
        let limits = self.limits(tenant);
        check::check_enabled(&limits)?;
        let since = Instant::now();
        let mut stats = AnswerStats::default();
        let read = self.reader.streams(tenant, matchers.into(), time, goal);
        let result = self.admitted(tenant, &limits, &mut stats, read).await;
        let status = result.as_ref().map_or_else(|e| e.status().as_u16(), |_| 200);
        if let Ok(found) = &result {
            stats.read = found.stats;
        }
        self.metrics.record(tenant, QueryLabels { kind, range: "range" }, status, since.elapsed(), &stats);
        result
    }

    /// Runs `work` when it is its turn, for no longer than the tenant's queries may take.
    async fn admitted<T>(
        &self,
        tenant: &TenantId,
        limits: &Limits,
        stats: &mut AnswerStats,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let timeout = limits.query_timeout.get();
        let timed = async {
            let admitted = self.admission.admit(tenant).await?;
            stats.queue_time = admitted.waited;
            let since = Instant::now();
            let result = work.await;
            stats.exec_time = since.elapsed();
            result
        };
        if timeout.is_zero() {
            return timed.await;
        }
        tokio::time::timeout(timeout, timed).await.unwrap_or(Err(Error::TimedOut))
    }

    /// The parameters of evaluation; none when all of the time asked for lies too far back.
    fn params(&self, request: &QueryRequest, expr: &Expr, limits: &Limits) -> Result<Option<QueryParams>, Error> {
        let is_log = matches!(expr, Expr::Log(_));
        if is_log {
            check::check_entries(request.limit, limits)?;
        }
        let now = self.clock.now();
        let (asked, step, interval) = match request.span {
            QuerySpan::Instant(time) => (Bounds { start: time, end: time }, Duration::ZERO, Duration::ZERO),
            QuerySpan::Range { bounds, step, interval } => (bounds, step, interval),
        };
        let Reach::Within(mut bounds) = check::check_bounds(asked, now, limits)? else {
            return Ok(None);
        };
        if !is_log && !step.is_zero() && !limits.split_queries_by_interval.is_zero() {
            bounds = aligned(bounds, step);
        }
        Ok(Some(QueryParams {
            start: bounds.start,
            end: bounds.end,
            step: if is_log { Duration::ZERO } else { step },
            interval,
            direction: request.direction,
            limit: request.limit,
            series_max: limits.max_query_series,
        }))
    }

    async fn run(
        &self,
        tenant: &TenantId,
        request: &QueryRequest,
        params: QueryParams,
        limits: &Limits,
    ) -> Result<(Answer, ReadStats, BTreeSet<String>), Error> {
        let query = Arc::new(Query::prepare(&request.text, params)?);
        let abandoned = Abandoned::default();
        let _stop_work_when_dropped = abandoned.on_drop();
        let bytes =
            ByteLimit { query: limits.max_query_bytes_read.bytes(), querier: limits.max_querier_bytes_read.bytes() };
        let mut partials = Vec::with_capacity(query.scans().len());
        let mut stats = ReadStats::default();
        let mut warnings = BTreeSet::new();
        for scan in 0..query.scans().len() {
            let found = self.reader.scan(tenant, &query, scan, &request.goal, &bytes, &abandoned).await?;
            partials.push(found.partial);
            stats.add(&found.stats);
            warnings.extend(found.warnings);
        }
        let answer = self.compute(move || query.finish(partials)).await??;
        Ok((answer, stats, warnings))
    }
}

/// What a query about times that may not be looked at is answered with.
fn empty(class: QueryClass, request: &QueryRequest) -> Outcome {
    let answer = match (class, request.span) {
        (QueryClass::Metric, QuerySpan::Range { .. }) => Answer::Matrix(Vec::new()),
        (QueryClass::Metric, QuerySpan::Instant(_)) => Answer::Vector(Vec::new()),
        _ => Answer::Streams(Vec::new()),
    };
    Outcome { answer, stats: AnswerStats::default(), warnings: Vec::new() }
}

/// Start rounded down and end rounded up to multiples of the step, so that buckets stay where they are when a
/// dashboard moves on.
fn aligned(bounds: Bounds, step: Duration) -> Bounds {
    let step = i64::try_from(step.as_nanos()).unwrap_or(i64::MAX);
    let (start, end) = (bounds.start.nanos(), bounds.end.nanos());
    let start = start.saturating_sub(start.rem_euclid(step));
    let beyond = end.rem_euclid(step);
    let end = if beyond == 0 { end } else { end.saturating_add(step - beyond) };
    Bounds { start: TimestampNs::from_nanos(start), end: TimestampNs::from_nanos(end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment() {
        let check = |start: i64, end: i64, step: u64, expected: (i64, i64)| {
            let bounds = Bounds { start: TimestampNs::from_nanos(start), end: TimestampNs::from_nanos(end) };
            let found = aligned(bounds, Duration::from_nanos(step));
            assert_eq!((found.start.nanos(), found.end.nanos()), expected);
        };
        check(10, 20, 10, (10, 20));
        check(11, 21, 10, (10, 30));
        check(19, 19, 10, (10, 20));
        check(-1, 1, 10, (-10, 10));
        check(i64::MIN, i64::MAX, 10, (i64::MIN, i64::MAX));
    }
}
