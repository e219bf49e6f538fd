//! A query from its text to its answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    answer::Answer,
    ast::Expr,
    error::QueryError,
    eval,
    params::Params,
    parse,
    partial::{Found, Partial},
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
    /// Plans the query of a tree. The same tree and parameters give the same scans everywhere.
    ///
    /// # Errors
    /// Fails if the query uses a feature that is not evaluated yet.
    pub fn of(expr: Expr, params: Params) -> Result<Self, QueryError> {
        let (plan, scans) = plan::plan(&expr, &params)?;
        let text = expr.to_string();
        Ok(Self { inner: Arc::new(Inner { expr, text, params, plan, scans }) })
    }

    /// Reads a query's text and plans it: [`parse`](crate::parse) and [`Query::of`]. Reads every text that
    /// [`Query::text`] gives, even where printing made it longer than a client's text may be.
    ///
    /// # Errors
    /// Fails if the text is no query, or uses a feature that is not evaluated yet.
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

    /// The tree it was made of.
    pub fn expr(&self) -> &Expr {
        &self.inner.expr
    }

    /// The scans to run: one for a log query, one for each range aggregation of a metric query.
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
    /// Fails if the partials cannot be evaluated, or have too many series.
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
