//! A query from its text to its answer.

use std::{sync::Arc, time::Duration};

use model::TimestampNs;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    ParseError,
    answer::Answer,
    ast::Expr,
    eval,
    partial::{Found, Partial},
    plan::{self, Plan},
    scan::Scan,
};

/// Which entries of a log query come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// The newest.
    #[default]
    Backward,
    /// The oldest.
    Forward,
}

/// What comes with a query's text. Sent to owners together with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// Of a log query: the first nanosecond. Of a metric query over a range: the first step (already aligned).
    pub start: TimestampNs,
    /// Of a log query: the first nanosecond behind the range. Of a metric query: the last step is not after it; the
    /// only one of an instant query is at it.
    pub end: TimestampNs,
    /// From step to step of a metric query; zero: an instant query.
    pub step: Duration,
    /// Least distance between the entries of a log query; zero: any.
    pub interval: Duration,
    /// Which entries of a log query come first.
    pub direction: Direction,
    /// Most entries of a log query, before `interval` thins them.
    pub limit: u32,
    /// Most series of a metric query; 0: any number.
    pub series_max: u32,
}

/// Whether a query yields entries or numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum QueryKind {
    /// Entries.
    Log,
    /// Numbers.
    Metric,
}

/// Why a query has no answer. The texts are what clients see. Sent from owners to who asked them.
#[derive(Clone, Debug, PartialEq, Error, Serialize, Deserialize)]
pub enum QueryError {
    /// It cannot be read. HTTP 400.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// It uses what is not evaluated yet; the text names it. HTTP 501.
    #[error("{0}")]
    NotEvaluated(String),
    /// An entry of a metric query has an error that the query does not deal with. HTTP 400.
    #[error(
        "pipeline error: '{error}' for series: '{series}'.\n\
         Use a label filter to intentionally skip this error. (e.g | __error__!=\"{error}\").\n\
         To skip all potential errors you can match empty errors.(e.g __error__=\"\")\n\
         The label filter can also be specified after unwrap. (e.g | unwrap latency | __error__=\"\" )\n"
    )]
    Pipeline {
        /// The error, as in `__error__`.
        error: String,
        /// The labels of the entry.
        series: String,
    },
    /// The answer would have more series than [`Params::series_max`]. HTTP 400.
    #[error(
        "maximum number of series ({0}) reached for a single query; consider reducing query cardinality by adding more \
         specific stream selectors, reducing the time range, or aggregating results with functions like sum(), count() \
         or topk()"
    )]
    SeriesLimit(u32),
    /// It cannot be evaluated on what was found, as when the legs of an operation do not match. HTTP 500.
    #[error("{0}")]
    Evaluation(String),
}

/// A planned query. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Query {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    expr: Expr,
    text: String,
    params: Params,
    plan: Plan,
    scans: Vec<Scan>,
}

impl Query {
    /// Plans the query of a tree. The same tree and parameters give the same scans everywhere.
    ///
    /// # Errors
    /// When the query uses what is not evaluated.
    pub fn of(expr: Expr, params: Params) -> Result<Self, QueryError> {
        let (plan, scans) = plan::plan(&expr, &params)?;
        let text = expr.to_string();
        Ok(Self { inner: Arc::new(Inner { expr, text, params, plan, scans }) })
    }

    /// Reads a query's text and plans it: [`parse`](crate::parse) and [`Query::of`].
    ///
    /// # Errors
    /// When the text is no query, or uses what is not evaluated.
    pub fn prepare(text: &str, params: Params) -> Result<Self, QueryError> {
        Self::of(crate::parse(text)?, params)
    }

    /// Whether it yields entries or numbers.
    pub fn kind(&self) -> QueryKind {
        match &self.inner.expr {
            Expr::Log(_) => QueryKind::Log,
            Expr::Metric(_) => QueryKind::Metric,
        }
    }

    /// The tree it was made of.
    pub fn expr(&self) -> &Expr {
        &self.inner.expr
    }

    /// What must be read: one scan for a log query, one for each range aggregation of a metric query.
    pub fn scans(&self) -> &[Scan] {
        &self.inner.scans
    }

    /// The tree in canonical form, which [`Query::prepare`] reads back as the same tree.
    pub fn text(&self) -> &str {
        &self.inner.text
    }

    /// The parameters it was made with.
    pub fn params(&self) -> &Params {
        &self.inner.params
    }

    /// The answer from one merged partial for each scan, in the order of [`Query::scans`].
    ///
    /// # Errors
    /// When what was found cannot be evaluated, or has too many series.
    pub fn finish(&self, partials: Vec<Partial>) -> Result<Answer, QueryError> {
        let inner = &*self.inner;
        if partials.len() != inner.scans.len() {
            let text = format!("{} partials for {} scans", partials.len(), inner.scans.len());
            return Err(QueryError::Evaluation(text));
        }
        match &inner.plan {
            Plan::Log => {
                let Some(Partial { found: Found::Entries(entries), .. }) = partials.into_iter().next() else {
                    return Err(QueryError::Evaluation("a partial of another query".to_owned()));
                };
                Ok(Answer::Streams(entries.streams(inner.params.interval)))
            }
            Plan::Metric(metric) => eval::evaluate(metric, partials, inner.params.series_max),
        }
    }
}
