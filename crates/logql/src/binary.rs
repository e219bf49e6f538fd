//! Binary operations between two legs, step by step.

use std::collections::{BTreeMap, HashMap, HashSet};

use model::Labels;

use crate::{
    ast::{BinaryOp, Matching},
    error::QueryError,
    fold,
    tracks::{Track, Value, with_label},
};

/// The operation and its modifiers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation<'q> {
    pub(crate) op: BinaryOp,
    pub(crate) return_bool: bool,
    pub(crate) matching: Option<&'q Matching>,
}

pub(crate) fn apply(operation: Operation<'_>, left: Value, right: Value, steps: u32) -> Result<Value, QueryError> {
    let op = operation.op;
    Ok(match (left, right) {
        (Value::Scalar(a), Value::Scalar(b)) => {
            let value = fold::literals(op, a, b);
            Value::Scalar(value.ok_or_else(|| QueryError::Evaluation("set operation on literals".to_owned()))?)
        }
        (Value::Tracks(tracks), Value::Scalar(b)) => Value::Tracks(operation.each(tracks, |a| (a, b), |a, _| a)),
        (Value::Scalar(a), Value::Tracks(tracks)) => Value::Tracks(operation.each(tracks, |b| (a, b), |_, b| b)),
        (Value::Tracks(left), Value::Tracks(right)) => Value::Tracks(match op {
            BinaryOp::And => present(&operation, left, &right, steps, true),
            BinaryOp::Unless => present(&operation, left, &right, steps, false),
            BinaryOp::Or => {
                let rest = present(&operation, right, &left, steps, false);
                union(left, rest)
            }
            _ => operation.join(left, right)?,
        }),
    })
}

impl Operation<'_> {
    /// Returns the value for one pair of numbers, or `None` if a comparison drops it. `kept` is the value that a
    /// comparison keeps.
    fn value(&self, a: f64, b: f64, kept: f64) -> Option<f64> {
        match self.op {
            BinaryOp::Compare(op) if self.return_bool => Some(if fold::compare(op, a, b) { 1.0 } else { 0.0 }),
            BinaryOp::Compare(op) => fold::compare(op, a, b).then_some(kept),
            op => fold::arithmetic(op, a, b),
        }
    }

    fn each(
        &self,
        mut tracks: Vec<Track>,
        pair: impl Fn(f64) -> (f64, f64),
        kept: impl Fn(f64, f64) -> f64,
    ) -> Vec<Track> {
        for track in &mut tracks {
            let result = |(step, value): (u32, f64)| {
                let (a, b) = pair(value);
                Some((step, self.value(a, b, kept(a, b))?))
            };
            track.points = std::mem::take(&mut track.points).into_iter().filter_map(result).collect();
        }
        tracks.retain(|t| !t.points.is_empty());
        tracks
    }

    /// Returns the labels that must be equal on both sides.
    fn key(&self, labels: &Labels) -> Labels {
        let Some(matching) = self.matching else { return labels.clone() };
        let listed = |name: &str| matching.labels.iter().any(|l| l == name);
        Labels::with_empty_values(labels.iter().filter(|(name, _)| listed(name) == matching.on))
    }

    /// Applies arithmetic or a comparison to matching series.
    fn join(&self, left: Vec<Track>, right: Vec<Track>) -> Result<Vec<Track>, QueryError> {
        let group = self.matching.and_then(|m| m.group.as_ref());
        let many_is_left = group.is_none_or(|g| g.left);
        let (many, one) = if many_is_left { (left, right) } else { (right, left) };
        let one = self.unique(&one, many_is_left)?;
        let mut results: BTreeMap<Labels, Vec<(u32, f64)>> = BTreeMap::new();
        for track in &many {
            let key = self.key(&track.labels);
            let Some(partners) = one.get(&key) else { continue };
            // The partner that a label is copied from may change from step to step.
            let mut labels_with: HashMap<usize, Labels> = HashMap::new();
            for (step, value) in &track.points {
                let Ok(at) = partners.points.binary_search_by_key(step, |(s, _, _)| *s) else { continue };
                let (_, other, number) = partners.points[at];
                let (a, b) = if many_is_left { (*value, other) } else { (other, *value) };
                let Some(result) = self.value(a, b, a) else { continue };
                let labels = labels_with.entry(number).or_insert_with(|| match group {
                    None => key.clone(),
                    Some(group) => group.include.iter().fold(track.labels.clone(), |labels, name| {
                        with_label(&labels, name, partners.labels.get(&number).and_then(|l| l.get(name)))
                    }),
                });
                results.entry(labels.clone()).or_default().push((*step, result));
            }
        }
        let mut tracks = Vec::new();
        for (labels, mut points) in results {
            points.sort_by_key(|(step, _)| *step);
            if points.windows(2).any(|p| p[0].0 == p[1].0) {
                let text = match group {
                    None => {
                        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
                    }
                    Some(_) => "multiple matches for labels: grouping labels must ensure unique matches",
                };
                return Err(QueryError::Evaluation(text.to_owned()));
            }
            tracks.push(Track { labels, points });
        }
        Ok(tracks)
    }

    /// Returns the series by key, for the side that must have at most one per key and step.
    fn unique(&self, tracks: &[Track], is_right: bool) -> Result<HashMap<Labels, Partners>, QueryError> {
        let mut partners: HashMap<Labels, Partners> = HashMap::new();
        for (number, track) in tracks.iter().enumerate() {
            let of_key = partners.entry(self.key(&track.labels)).or_default();
            of_key.labels.insert(number, track.labels.clone());
            of_key.points.extend(track.points.iter().map(|(step, value)| (*step, *value, number)));
        }
        for of_key in partners.values_mut() {
            of_key.points.sort_by_key(|(step, _, number)| (*step, *number));
            if of_key.points.windows(2).any(|p| p[0].0 == p[1].0) {
                let side = if is_right { "right" } else { "left" };
                return Err(QueryError::Evaluation(format!(
                    "found duplicate series on the {side} hand-side;many-to-many matching not allowed: matching labels must be \
                     unique on one side"
                )));
            }
        }
        Ok(partners)
    }
}

/// The points of one key on the side that must be unique: step, value and series number.
#[derive(Default)]
struct Partners {
    points: Vec<(u32, f64, usize)>,
    labels: HashMap<usize, Labels>,
}

/// Returns the points for which the other side has a point with the same key and step (`wanted`), or for which it has
/// none (not `wanted`).
fn present(operation: &Operation<'_>, tracks: Vec<Track>, others: &[Track], steps: u32, wanted: bool) -> Vec<Track> {
    let mut seen: HashMap<Labels, Vec<bool>> = HashMap::new();
    for other in others {
        let at = seen.entry(operation.key(&other.labels)).or_insert_with(|| vec![false; steps as usize]);
        other.points.iter().for_each(|(step, _)| at[*step as usize] = true);
    }
    let mut kept = Vec::new();
    for mut track in tracks {
        let at = seen.get(&operation.key(&track.labels));
        track.points.retain(|(step, _)| at.is_some_and(|at| at[*step as usize]) == wanted);
        if !track.points.is_empty() {
            kept.push(track);
        }
    }
    kept
}

/// Returns all of `left` and `right`. Series with equal labels that share no step are merged.
fn union(left: Vec<Track>, right: Vec<Track>) -> Vec<Track> {
    let mut numbers: HashMap<Labels, usize> = HashMap::new();
    let mut all = left;
    all.iter().enumerate().for_each(|(number, t)| {
        numbers.entry(t.labels.clone()).or_insert(number);
    });
    for track in right {
        let known = numbers.get(&track.labels).map(|number| &mut all[*number]);
        let Some(known) = known else {
            all.push(track);
            continue;
        };
        let steps: HashSet<u32> = known.points.iter().map(|(step, _)| *step).collect();
        if track.points.iter().any(|(step, _)| steps.contains(step)) {
            all.push(track);
        } else {
            known.points.extend(track.points);
            known.points.sort_by_key(|(step, _)| *step);
        }
    }
    all
}
