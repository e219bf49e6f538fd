//! Plans a query from its text and computes its answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    answer::Answer,
    ast::Expr,
    error::QueryError,
    eval,
    params::Params,
    parse,
    partial::{Partial, PartialContent},
    plan::{self, Plan},
    scan::Scan,
};

/// Whether a query yields entries or numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum QueryKind {
    /// Entries.
    Log,
    /// Numbers.
    Metric,
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
    /// Plans a query from its tree. The same tree and parameters give the same scans in every process.
    ///
    /// # Errors
    /// If the query uses a feature that is not evaluated yet.
    pub fn of(expr: Expr, params: Params) -> Result<Self, QueryError> {
        let (plan, scans) = plan::plan(&expr, &params)?;
        let text = expr.to_string();
        Ok(Self { inner: Arc::new(Inner { expr, text, params, plan, scans }) })
    }

    /// Parses and plans a query: [`parse`](crate::parse) and [`Query::of`]. Accepts every text that [`Query::text`]
    /// returns, even if it is longer than a client's text may be.
    ///
    /// # Errors
    /// If the text is not a query, or uses a feature that is not evaluated yet.
    pub fn prepare(text: &str, params: Params) -> Result<Self, QueryError> {
        Self::of(parse::parse_printed(text)?, params)
    }

    /// Whether it yields entries or numbers.
    pub fn kind(&self) -> QueryKind {
        match &self.inner.expr {
            Expr::Log(_) => QueryKind::Log,
            Expr::Metric(_) => QueryKind::Metric,
        }
    }

    /// Returns the tree of the query.
    pub fn expr(&self) -> &Expr {
        &self.inner.expr
    }

    /// The scans to run: one for a log query, one for each range aggregation of a metric query.
    pub fn scans(&self) -> &[Scan] {
        &self.inner.scans
    }

    /// Returns the query in canonical form. [`Query::prepare`] parses it to the same tree.
    pub fn text(&self) -> &str {
        &self.inner.text
    }

    /// Returns the parameters of the query.
    pub fn params(&self) -> &Params {
        &self.inner.params
    }

    /// Computes the answer from one merged partial for each scan, in the order of [`Query::scans`].
    ///
    /// # Errors
    /// If the partials cannot be evaluated, or have too many series.
    pub fn finish(&self, partials: Vec<Partial>) -> Result<Answer, QueryError> {
        let inner = &*self.inner;
        if partials.len() != inner.scans.len() {
            let text = format!("{} partials for {} scans", partials.len(), inner.scans.len());
            return Err(QueryError::Evaluation(text));
        }
        match &inner.plan {
            Plan::Log => {
                let Some(Partial { found: PartialContent::Entries(entries), .. }) = partials.into_iter().next() else {
                    return Err(QueryError::Evaluation("a partial of another query".to_owned()));
                };
                Ok(Answer::Streams(entries.streams(inner.params.interval)))
            }
            Plan::Metric(metric) => eval::evaluate(metric, partials, inner.params.series_max),
        }
    }
}
