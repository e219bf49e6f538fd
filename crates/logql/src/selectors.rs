//! Visits all selectors of a query.

use crate::ast::{Expr, LogExpr, MetricExpr, RangeAggregation};

impl Expr {
    /// Calls `visit` for every selector of the query and its pipeline, in the order in which they are written. In a
    /// metric query the range aggregation comes with its selector.
    pub fn for_each_selector<'a>(&'a self, visit: &mut impl FnMut(&'a LogExpr, Option<&'a RangeAggregation>)) {
        match self {
            Self::Log(log) => visit(log, None),
            Self::Metric(metric) => for_each_of_metric(metric, visit),
        }
    }
}

fn for_each_of_metric<'a>(expr: &'a MetricExpr, visit: &mut impl FnMut(&'a LogExpr, Option<&'a RangeAggregation>)) {
    match expr {
        MetricExpr::Range(range) => visit(&range.log, Some(range)),
        MetricExpr::Vector(vector) => for_each_of_metric(&vector.inner, visit),
        MetricExpr::LabelReplace { inner, .. } => for_each_of_metric(inner, visit),
        MetricExpr::Binary(binary) => {
            for_each_of_metric(&binary.left, visit);
            for_each_of_metric(&binary.right, visit);
        }
        MetricExpr::Literal(_) | MetricExpr::VectorFn(_) => {}
    }
}
