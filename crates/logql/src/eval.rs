//! Computes the answer of a metric query from the windows that the scans return.

use crate::{
    answer::{Answer, Sample, Series},
    ast::RangeOp,
    binary,
    error::QueryError,
    partial::{Partial, PartialContent},
    plan::{MetricPlan, Node, RangeNode},
    states,
    tracks::{Track, Value, with_label},
    vector,
};

pub(crate) fn evaluate(plan: &MetricPlan, partials: Vec<Partial>, series_max: u32) -> Result<Answer, QueryError> {
    let mut evaluator = Evaluator { steps: plan.steps.steps, partials: partials.into_iter().map(Some).collect() };
    let value = evaluator.node(&plan.root)?;
    let t_ms = |step: u32| plan.steps.at(step).div_euclid(1_000_000);
    let mut tracks = match value {
        Value::Scalar(v) if plan.is_instant => return Ok(Answer::Scalar { t_ms: t_ms(0), v }),
        Value::Scalar(v) => vec![vector::constant(v, plan.steps.steps)],
        Value::Tracks(tracks) => tracks,
    };
    tracks.retain(|t| !t.points.is_empty());
    if series_max > 0 && tracks.len() > series_max as usize {
        return Err(QueryError::SeriesLimit(series_max));
    }
    if !plan.is_sorted {
        tracks.sort_by(|a, b| a.labels.cmp(&b.labels));
    }
    if plan.is_instant {
        let sample = |t: Track| {
            t.points.first().map(|(step, value)| Sample { labels: t.labels.clone(), t_ms: t_ms(*step), value: *value })
        };
        return Ok(Answer::Vector(tracks.into_iter().filter_map(sample).collect()));
    }
    let series =
        |t: Track| Series { labels: t.labels, points: t.points.into_iter().map(|(step, v)| (t_ms(step), v)).collect() };
    Ok(Answer::Matrix(tracks.into_iter().map(series).collect()))
}

struct Evaluator {
    steps: u32,
    /// Partials by node. Each node takes its partial once.
    partials: Vec<Option<Partial>>,
}

impl Evaluator {
    fn node(&mut self, node: &Node) -> Result<Value, QueryError> {
        Ok(match node {
            Node::Literal(value) => Value::Scalar(*value),
            Node::VectorFn(value) => Value::Tracks(vec![vector::constant(*value, self.steps)]),
            Node::Range(range) => Value::Tracks(self.range(range)?),
            Node::Vector { op, k, grouping, inner } => match self.node(inner)? {
                Value::Tracks(tracks) => {
                    Value::Tracks(vector::aggregate(*op, *k, grouping.as_ref(), tracks, self.steps))
                }
                scalar @ Value::Scalar(_) => scalar,
            },
            Node::Binary { op, return_bool, matching, legs } => {
                let (left, right) = (self.node(&legs.0)?, self.node(&legs.1)?);
                binary::apply(
                    binary::Operation { op: *op, return_bool: *return_bool, matching: matching.as_ref() },
                    left,
                    right,
                    self.steps,
                )?
            }
            Node::LabelReplace { inner, target, replacement, source, regex } => match self.node(inner)? {
                Value::Tracks(mut tracks) => {
                    for track in &mut tracks {
                        let text = track.labels.get(source).unwrap_or("");
                        if let Some(found) = regex.captures(text) {
                            let mut value = String::new();
                            found.expand(replacement, &mut value);
                            track.labels =
                                with_label(&track.labels, target, Some(value.as_str()).filter(|v| !v.is_empty()));
                        }
                    }
                    Value::Tracks(tracks)
                }
                scalar @ Value::Scalar(_) => scalar,
            },
        })
    }

    fn range(&mut self, node: &RangeNode) -> Result<Vec<Track>, QueryError> {
        let partial = self.partials.get_mut(node.scan).and_then(Option::take);
        let Some(Partial { found: PartialContent::Series(table), .. }) = partial else {
            return Err(QueryError::Evaluation("a partial of another query".to_owned()));
        };
        let steps = self.steps;
        // Series are numbered in the order of arrival, which differs from run to run.
        let mut series = table.series;
        series.sort_by(|a, b| a.labels.cmp(&b.labels));
        let mut tracks: Vec<Track> = series
            .into_iter()
            .map(|data| {
                let points = states::points(data.states, node.op, node.parameter, &node.grid);
                Track { labels: data.labels, points }
            })
            .collect();
        tracks.retain(|t| !t.points.is_empty());
        if node.op == RangeOp::AbsentOverTime {
            let mut is_present = vec![false; steps as usize];
            tracks.iter().flat_map(|t| &t.points).for_each(|(step, _)| is_present[*step as usize] = true);
            let points = (0..steps).filter(|step| !is_present[*step as usize]).map(|step| (step, 1.0)).collect();
            tracks = vec![Track { labels: node.absent.clone(), points }];
        }
        Ok(tracks)
    }
}
