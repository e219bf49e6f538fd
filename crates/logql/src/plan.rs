//! Plans the scans of a query and the computation on their results.

use std::time::Duration;

use model::MatchOp;

use crate::{
    ast::{BinaryOp, Expr, Grouping, Matching, MetricExpr, RangeAggregation, RangeOp, VectorAggregation, VectorOp},
    error::QueryError,
    grid::Grid,
    params::Params,
    pipeline::whole_regex,
    scan::{Metric, Scan},
    states::StateKind,
    steps::Windows,
};

/// How to compute the answer from the scans.
#[derive(Debug)]
pub(crate) enum Plan {
    /// The answer is the entries of the only scan.
    Log,
    Metric(Box<MetricPlan>),
}

/// The plan of a metric query.
#[derive(Debug)]
pub(crate) struct MetricPlan {
    pub(crate) root: Node,
    /// `range` and `offset` are zero.
    pub(crate) steps: Windows,
    /// True for an instant query.
    pub(crate) is_instant: bool,
    /// Whether an instant answer is ordered by value.
    pub(crate) is_sorted: bool,
}

/// A computation on the series of each step.
#[derive(Debug)]
pub(crate) enum Node {
    /// The windows of a scan.
    Range(RangeNode),
    Vector {
        op: VectorOp,
        k: usize,
        grouping: Option<Grouping>,
        inner: Box<Node>,
    },
    Binary {
        op: BinaryOp,
        return_bool: bool,
        matching: Option<Matching>,
        legs: Box<(Node, Node)>,
    },
    Literal(f64),
    VectorFn(f64),
    LabelReplace {
        inner: Box<Node>,
        target: String,
        replacement: String,
        source: String,
        regex: regex::Regex,
    },
}

/// One range aggregation.
#[derive(Debug)]
pub(crate) struct RangeNode {
    /// Its index among the scans.
    pub(crate) scan: usize,
    pub(crate) op: RangeOp,
    pub(crate) parameter: f64,
    pub(crate) grid: Grid,
    /// The labels of `absent_over_time`.
    pub(crate) absent: model::Labels,
}

/// Maximum number of steps of one query.
const STEPS_MAX: i64 = 1_000_000;

pub(crate) fn plan(expr: &Expr, params: &Params) -> Result<(Plan, Vec<Scan>), QueryError> {
    match expr {
        Expr::Log(log) => Ok((Plan::Log, vec![Scan::log(log, params)?])),
        Expr::Metric(metric) => {
            let steps = steps(params)?;
            let is_instant = params.step.is_zero();
            let mut planner = Planner { steps, is_instant, series_max: params.series_max, scans: Vec::new() };
            let root = planner.node(metric, true)?;
            let plan = MetricPlan { root, steps, is_instant, is_sorted: is_instant && sorts(metric) };
            Ok((Plan::Metric(Box::new(plan)), planner.scans))
        }
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn steps(params: &Params) -> Result<Windows, QueryError> {
    if params.step.is_zero() {
        return Ok(Windows { start: params.end.nanos(), step: 1, steps: 1, range: 0, offset: 0 });
    }
    let (start, end, step) = (params.start.nanos(), params.end.nanos(), nanos(params.step));
    let last = if end < start { -1 } else { end.saturating_sub(start) / step };
    if last >= STEPS_MAX {
        return Err(QueryError::Evaluation(format!("the query has {} steps, more than {STEPS_MAX}", last + 1)));
    }
    let steps = u32::try_from(last + 1).unwrap_or(0);
    Ok(Windows { start, step, steps, range: 0, offset: 0 })
}

/// Whether a query contains a sorting function.
fn sorts(expr: &MetricExpr) -> bool {
    match expr {
        MetricExpr::Vector(v) => matches!(v.op, VectorOp::Sort | VectorOp::SortDesc) || sorts(&v.inner),
        MetricExpr::Binary(b) => sorts(&b.left) || sorts(&b.right),
        MetricExpr::LabelReplace { inner, .. } => sorts(inner),
        MetricExpr::Range(_) | MetricExpr::Literal(_) | MetricExpr::VectorFn(_) => false,
    }
}

struct Planner {
    steps: Windows,
    is_instant: bool,
    series_max: u32,
    scans: Vec<Scan>,
}

impl Planner {
    fn node(&mut self, expr: &MetricExpr, is_root: bool) -> Result<Node, QueryError> {
        Ok(match expr {
            MetricExpr::Range(range) => self.range(range, None, is_root)?,
            MetricExpr::Vector(vector) => self.vector(vector)?,
            MetricExpr::Binary(binary) => Node::Binary {
                op: binary.op,
                return_bool: binary.return_bool,
                matching: binary.matching.clone(),
                legs: Box::new((self.node(&binary.left, false)?, self.node(&binary.right, false)?)),
            },
            MetricExpr::Literal(value) => Node::Literal(*value),
            MetricExpr::VectorFn(value) => Node::VectorFn(*value),
            MetricExpr::LabelReplace { inner, target, replacement, source, regex } => Node::LabelReplace {
                inner: Box::new(self.node(inner, false)?),
                target: target.clone(),
                replacement: replacement.clone(),
                source: source.clone(),
                regex: whole_regex(regex)?,
            },
        })
    }

    fn vector(&mut self, vector: &VectorAggregation) -> Result<Node, QueryError> {
        if vector.op == VectorOp::ApproxTopk {
            return Err(QueryError::Evaluation(
                "approx_topk is not enabled. See -limits.shard_aggregations".to_owned(),
            ));
        }
        // Sums can be computed in any order, so the scan itself can group the series.
        if let (VectorOp::Sum, MetricExpr::Range(range)) = (vector.op, &*vector.inner) {
            let adds_up = match range.op {
                RangeOp::CountOverTime | RangeOp::BytesOverTime | RangeOp::BytesRate => true,
                RangeOp::Rate | RangeOp::SumOverTime => range.grouping.is_none(),
                _ => false,
            };
            if adds_up {
                let all = Grouping { without: false, labels: Vec::new() };
                return self.range(range, Some(vector.grouping.as_ref().unwrap_or(&all)), false);
            }
        }
        Ok(Node::Vector {
            op: vector.op,
            k: usize::try_from(vector.parameter.unwrap_or(0)).unwrap_or(usize::MAX),
            grouping: vector.grouping.clone(),
            inner: Box::new(self.node(&vector.inner, false)?),
        })
    }

    /// Plans a range aggregation. `grouping` is that of the enclosing sum. If `is_root`, its series are the answer.
    fn range(
        &mut self,
        range: &RangeAggregation,
        grouping: Option<&Grouping>,
        is_root: bool,
    ) -> Result<Node, QueryError> {
        let length = nanos(range.range);
        // The only window of an instant query is one cell.
        let step = if self.is_instant { length.max(1) } else { self.steps.step };
        let windows = Windows { step, range: length, offset: range.offset_ns, ..self.steps };
        let kind = StateKind::of(range.op, range.unwrap.is_some());
        let all = Grouping { without: false, labels: Vec::new() };
        let grouping = match range.op {
            RangeOp::AbsentOverTime => Some(&all),
            _ => grouping.or(range.grouping.as_ref()),
        };
        // If there are no gaps between windows, every series found is in the answer.
        let is_answer = is_root && range.op != RangeOp::AbsentOverTime && windows.step <= windows.range;
        let series_max = if is_answer { self.series_max } else { 0 };
        let grid = Grid::new(windows);
        let metric = Metric { kind, grid, series_max };
        let scan = self.scans.len();
        self.scans.push(Scan::metric(range, grouping, metric)?);
        Ok(Node::Range(RangeNode {
            scan,
            op: range.op,
            parameter: range.parameter.unwrap_or(f64::NAN),
            grid,
            absent: absent_labels(&range.log.matchers),
        }))
    }
}

/// Returns the labels of `absent_over_time`: those of the selector's equality matchers whose names occur once.
fn absent_labels(matchers: &[model::Matcher]) -> model::Labels {
    let once = |m: &&model::Matcher| {
        m.op() == MatchOp::Equal && matchers.iter().filter(|other| other.name() == m.name()).count() == 1
    };
    model::Labels::from_pairs(matchers.iter().filter(once).map(|m| (m.name(), m.value())))
}
