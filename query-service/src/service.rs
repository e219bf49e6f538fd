//! The service: its parts, and how it runs one query.
//!
//! ```text
//! Expr ─▶ checks ─▶ admission ─▶ Query ─▶ reading::Reader ─▶ partials ─finish─▶ answer + stats
//! ```

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use catalogue::{Head, Heads};
use limits::{Limits, Overrides};
use logql::{Answer, Direction, Params as QueryParams, Query, ast::Expr};
use model::{Clock, Matcher, TenantId, TimeRange, TimestampNs};
use object_store::ObjectStore;
use owner::Owner;
use parking_lot::Mutex;
use reading::{Admission, ByteLimit, Consistency, Goal, ReadStats, Reader, StreamsRead};
use runtime::{Processors, Share, Tasks};
use tokio_util::sync::CancellationToken;

use crate::{
    check::{self, QueryClass, Reach},
    config::Config,
    encode,
    error::Error,
    metrics::{Metrics, QueryLabels},
    params::Bounds,
    stats::AnswerStats,
};

/// What the service works with.
pub struct Components {
    /// Answers for recent rows.
    pub owner: Arc<dyn Owner>,
    /// The heads of the log's partitions: which blocks there are, and where memory begins.
    pub heads: Arc<Heads>,
    /// Heads of logs that were replaced by a new one. No process leads their partitions, so they do not change. Their
    /// blocks hold the rows that those logs acknowledged.
    pub older_heads: Vec<Arc<Head>>,
    /// The store of the blocks.
    pub store: Arc<dyn ObjectStore>,
    /// The processors of the process.
    pub processors: Processors,
    /// The consistency of requests that name none, if it differs from [`Config::consistency`]. On the local log strong
    /// reads cost nothing.
    pub consistency_default: Option<Consistency>,
    /// The limits of tenants.
    pub overrides: Arc<Overrides>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
}

/// Answers queries. All requests share it.
pub struct QueryService {
    config: Config,
    no_auth_tenant: TenantId,
    consistency: Consistency,
    pub(crate) owner: Arc<dyn Owner>,
    pub(crate) overrides: Arc<Overrides>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    /// Number of open tails of each tenant.
    pub(crate) tails: Mutex<HashMap<TenantId, usize>>,
    /// Tails run here, so that [`QueryService::stop`] can wait for them.
    pub(crate) tail_tasks: Tasks,
    /// Cancelled when the service stops.
    pub(crate) stopping: CancellationToken,
    reader: Reader,
    admission: Admission,
}

/// A query with everything that decides its answer.
#[derive(Clone, Debug)]
pub(crate) struct QueryRequest {
    /// As the client wrote it. Policies look at it.
    pub(crate) text: String,
    pub(crate) expr: Expr,
    pub(crate) span: QuerySpan,
    pub(crate) limit: u32,
    pub(crate) direction: Direction,
    /// The request comes from Logs Drilldown.
    pub(crate) is_drilldown: bool,
    /// What the answer must contain.
    pub(crate) goal: Arc<Goal>,
}

/// The times that a query is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QuerySpan {
    /// One moment.
    Instant(TimestampNs),
    /// A range: `[start, end)` for entries, steps from start to end for numbers.
    Range { bounds: Bounds, step: Duration, interval: Duration },
}

/// The answer to a query.
pub(crate) struct QueryOutcome {
    pub(crate) answer: Answer,
    pub(crate) stats: AnswerStats,
    pub(crate) warnings: Vec<String>,
}

impl QueryService {
    /// Builds the service. Nothing is read yet.
    ///
    /// # Errors
    /// When the settings are wrong, or metrics of the same names are registered already.
    pub fn new(config: Config, components: Components) -> Result<Arc<Self>, Error> {
        config.validate()?;
        let Components { owner, heads, older_heads, store, processors, consistency_default, overrides, clock, metrics } =
            components;
        let registry = metrics;
        let metrics = Metrics::new(&registry)?;
        let sources = reading::Components { owner: owner.clone(), heads, older_heads, store, processors };
        let reader = Reader::new(&config.reading(), sources, &registry)
            .map_err(|e| Error::Start(format!("metrics of reading: {e}")))?;
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
            tail_tasks: Tasks::new("query service"),
            stopping: CancellationToken::new(),
            reader,
        }))
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn no_auth_tenant(&self) -> &TenantId {
        &self.no_auth_tenant
    }

    /// The consistency of requests that name none.
    pub(crate) fn consistency_default(&self) -> Consistency {
        self.consistency
    }

    /// Names the log that is read.
    pub(crate) fn log_id(&self) -> &str {
        self.reader.log_id()
    }

    pub(crate) fn limits(&self, tenant: &TenantId) -> Arc<Limits> {
        self.overrides.for_tenant(tenant)
    }

    /// The share of processors that queries compute on.
    pub(crate) fn processors(&self) -> &Share {
        self.reader.processors()
    }

    /// Closes tails and waits until they have ended.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tail_tasks.finish().await;
    }

    /// Checks a query against the tenant's limits and runs it.
    pub(crate) async fn query(&self, tenant: &TenantId, request: &QueryRequest) -> Result<QueryOutcome, Error> {
        let expr = &request.expr;
        let limits = self.limits(tenant);
        let class = QueryClass::of(expr);
        let span = match request.span {
            QuerySpan::Instant(_) => "instant",
            QuerySpan::Range { .. } => "range",
        };
        let labels = QueryLabels { kind: class.as_str(), range: span };
        let checked = check::check_query(&request.text, expr, &limits, request.is_drilldown);
        if matches!(checked, Err(Error::Blocked)) {
            self.metrics.record_blocked(tenant);
        }
        checked?;
        let Some(params) = self.params(request, &limits)? else {
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
        let (answer, _, warnings) = result?;
        Ok(QueryOutcome { answer, stats, warnings: warnings.into_iter().collect() })
    }

    /// The streams that match and have rows in `time`. A stream may come several times, each time with a part of its
    /// rows.
    pub(crate) async fn streams(
        &self,
        tenant: &TenantId,
        matchers: &[Matcher],
        time: TimeRange,
        goal: &Goal,
        kind: &'static str,
    ) -> Result<StreamsRead, Error> {
        let limits = self.limits(tenant);
        check::check_enabled(&limits)?;
        let since = Instant::now();
        let mut stats = AnswerStats::default();
        let read = async { Ok(self.reader.streams(tenant, matchers.into(), time, goal).await?) };
        let result = self.admitted(tenant, &limits, &mut stats, read).await;
        let status = result.as_ref().map_or_else(|e| e.status().as_u16(), |_| 200);
        if let Ok(read) = &result {
            stats.read = read.stats;
        }
        self.metrics.record(tenant, QueryLabels { kind, range: "range" }, status, since.elapsed(), &stats);
        result
    }

    /// Runs `work` once it is admitted. Waiting and work together may take as long as the tenant's queries may.
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

    /// The parameters of evaluation. `None` if the whole time of the request is older than the lookback limit.
    fn params(&self, request: &QueryRequest, limits: &Limits) -> Result<Option<QueryParams>, Error> {
        let is_log = matches!(request.expr, Expr::Log(_));
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
        let query = Arc::new(Query::of(request.expr.clone(), params)?);
        let bytes =
            ByteLimit { query: limits.max_query_bytes_read.bytes(), querier: limits.max_querier_bytes_read.bytes() };
        let read = self.reader.query(tenant, query.clone(), &request.goal, &bytes).await?;
        let partials = read.partials;
        let answer = self.processors().run(move || query.finish(partials)).await??;
        Ok((answer, read.stats, read.warnings))
    }
}

/// The answer about times that are older than the lookback limit.
fn empty(class: QueryClass, request: &QueryRequest) -> QueryOutcome {
    let answer = match (class, request.span) {
        (QueryClass::Metric, QuerySpan::Range { .. }) => Answer::Matrix(Vec::new()),
        (QueryClass::Metric, QuerySpan::Instant(_)) => Answer::Vector(Vec::new()),
        _ => Answer::Streams(Vec::new()),
    };
    QueryOutcome { answer, stats: AnswerStats::default(), warnings: Vec::new() }
}

/// Rounds the start down and the end up to multiples of the step, so that steps stay where they are when a dashboard
/// moves on.
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
