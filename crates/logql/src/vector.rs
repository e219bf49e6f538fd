//! Aggregations over the series of each step.

use std::collections::BTreeMap;

use model::Labels;

use crate::{
    ast::{Grouping, VectorOp},
    statistics::{mean, variance},
    tracks::{Track, group_labels},
};

/// A series without labels that has one value at each step.
pub(crate) fn constant(value: f64, steps: u32) -> Track {
    Track { labels: Labels::empty(), points: (0..steps).map(|step| (step, value)).collect() }
}

pub(crate) fn aggregate(
    op: VectorOp,
    k: usize,
    grouping: Option<&Grouping>,
    tracks: Vec<Track>,
    steps: u32,
) -> Vec<Track> {
    match op {
        VectorOp::Sort | VectorOp::SortDesc => return sort(op == VectorOp::SortDesc, tracks),
        VectorOp::Topk | VectorOp::ApproxTopk => return pick(true, k, grouping, tracks),
        VectorOp::Bottomk => return pick(false, k, grouping, tracks),
        _ => {}
    }
    let mut groups: BTreeMap<Labels, Vec<Track>> = BTreeMap::new();
    for track in tracks {
        groups.entry(group_labels(&track.labels, grouping)).or_default().push(track);
    }
    let fold = |(labels, tracks): (Labels, Vec<Track>)| Track { labels, points: fold(op, &tracks, steps) };
    groups.into_iter().map(fold).collect()
}

/// Returns one value for each step at which any of the series has a value.
fn fold(op: VectorOp, tracks: &[Track], steps: u32) -> Vec<(u32, f64)> {
    let simple = |combine: fn(f64, f64) -> f64, first: fn(f64) -> f64| {
        let mut values: Vec<Option<f64>> = vec![None; steps as usize];
        for (step, value) in tracks.iter().flat_map(|t| &t.points) {
            let slot = &mut values[*step as usize];
            *slot = Some(slot.map_or_else(|| first(*value), |known| combine(known, *value)));
        }
        (0..steps).zip(values).filter_map(|(step, value)| Some((step, value?))).collect()
    };
    let all = |of: fn(&[f64]) -> f64| {
        let by_step = by_step(tracks);
        let values = by_step.chunk_by(|a, b| a.0 == b.0);
        values.map(|chunk| (chunk[0].0, of(&chunk.iter().map(|(_, value, _)| *value).collect::<Vec<_>>()))).collect()
    };
    match op {
        VectorOp::Sum => simple(|a, b| a + b, |a| a),
        VectorOp::Count => simple(|a, _| a + 1.0, |_| 1.0),
        // Rust's `min` and `max` prefer a number to NaN, as does Loki.
        VectorOp::Min => simple(f64::min, |a| a),
        VectorOp::Max => simple(f64::max, |a| a),
        VectorOp::Avg => all(|values| mean(values.iter().copied())),
        VectorOp::Stdvar => all(|values| variance(values.iter().copied())),
        VectorOp::Stddev => all(|values| variance(values.iter().copied()).sqrt()),
        VectorOp::Bottomk | VectorOp::Topk | VectorOp::Sort | VectorOp::SortDesc | VectorOp::ApproxTopk => Vec::new(),
    }
}

/// Returns step, value and series number of every point, ordered by step and then series.
fn by_step(tracks: &[Track]) -> Vec<(u32, f64, usize)> {
    let mut points: Vec<(u32, f64, usize)> = Vec::new();
    for (number, track) in tracks.iter().enumerate() {
        points.extend(track.points.iter().map(|(step, value)| (*step, *value, number)));
    }
    points.sort_by_key(|(step, _, number)| (*step, *number));
    points
}

/// Compares values. NaN comes last in both directions.
fn order(descending: bool, a: f64, b: f64) -> std::cmp::Ordering {
    let by_value = if descending { b.partial_cmp(&a) } else { a.partial_cmp(&b) };
    a.is_nan().cmp(&b.is_nan()).then(by_value.unwrap_or(std::cmp::Ordering::Equal))
}

/// Sorts by the value of the first step, the only step of an instant query. Equal values are ordered by labels.
fn sort(descending: bool, mut tracks: Vec<Track>) -> Vec<Track> {
    let first = |t: &Track| t.points.first().map_or(f64::NAN, |(_, value)| *value);
    tracks.sort_by(|a, b| order(descending, first(a), first(b)).then_with(|| a.labels.cmp(&b.labels)));
    tracks
}

/// Keeps the `k` greatest or least values of each group and step. Equal values are ordered by labels.
fn pick(greatest: bool, k: usize, grouping: Option<&Grouping>, mut tracks: Vec<Track>) -> Vec<Track> {
    tracks.sort_by(|a, b| a.labels.cmp(&b.labels));
    let mut groups: BTreeMap<Labels, Vec<Track>> = BTreeMap::new();
    for track in tracks {
        groups.entry(group_labels(&track.labels, grouping)).or_default().push(track);
    }
    let mut picked = Vec::new();
    for tracks in groups.into_values() {
        let mut kept: Vec<Vec<(u32, f64)>> = vec![Vec::new(); tracks.len()];
        for chunk in by_step(&tracks).chunk_by_mut(|a, b| a.0 == b.0) {
            // The sort is stable, so equal values stay in the order of their labels.
            chunk.sort_by(|a, b| order(greatest, a.1, b.1));
            chunk.iter().take(k).for_each(|(step, value, number)| kept[*number].push((*step, *value)));
        }
        let with_points = tracks.into_iter().zip(kept).filter(|(_, points)| !points.is_empty());
        picked.extend(with_points.map(|(track, points)| Track { labels: track.labels, points }));
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(text: &str, values: &[f64]) -> Track {
        let labels = model::parse_labels(text).expect("labels");
        Track { labels, points: values.iter().enumerate().map(|(i, v)| (i as u32, *v)).collect() }
    }

    fn show(tracks: &[Track]) -> String {
        let one = |t: &Track| {
            format!("{}{:?}", t.labels, t.points.iter().map(|(s, v)| format!("{s}:{v}")).collect::<Vec<_>>())
        };
        tracks.iter().map(one).collect::<Vec<_>>().join(" ").replace('"', "")
    }

    #[test]
    fn operations() {
        const NAN: f64 = f64::NAN;
        let tracks = || {
            vec![
                track(r#"{a="1", b="x"}"#, &[1.0, 5.0]),
                track(r#"{a="1", b="y"}"#, &[3.0]),
                track(r#"{a="2"}"#, &[NAN, 7.0]),
            ]
        };
        let by = |without: bool, labels: &[&str]| Grouping {
            without,
            labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        };
        let check = |op, k, grouping: Option<Grouping>, expected: &str| {
            assert_eq!(show(&aggregate(op, k, grouping.as_ref(), tracks(), 2)), expected, "{op:?}");
        };
        check(VectorOp::Sum, 0, Some(by(false, &["a"])), "{a=1}[0:4, 1:5] {a=2}[0:NaN, 1:7]");
        check(VectorOp::Sum, 0, Some(by(true, &["a"])), "{}[0:NaN, 1:7] {b=x}[0:1, 1:5] {b=y}[0:3]");
        check(VectorOp::Count, 0, None, "{}[0:3, 1:2]");
        check(VectorOp::Min, 0, None, "{}[0:1, 1:5]");
        check(VectorOp::Max, 0, None, "{}[0:3, 1:7]");
        check(VectorOp::Avg, 0, Some(by(false, &["a"])), "{a=1}[0:2, 1:5] {a=2}[0:NaN, 1:7]");
        check(VectorOp::Stddev, 0, Some(by(false, &["a"])), "{a=1}[0:1, 1:0] {a=2}[0:NaN, 1:0]");
        check(VectorOp::Topk, 1, None, "{a=1, b=y}[0:3] {a=2}[1:7]");
        check(VectorOp::Bottomk, 2, None, "{a=1, b=x}[0:1, 1:5] {a=1, b=y}[0:3] {a=2}[1:7]");
        check(VectorOp::Topk, 1, Some(by(false, &["a"])), "{a=1, b=x}[1:5] {a=1, b=y}[0:3] {a=2}[0:NaN, 1:7]");
        check(VectorOp::Sort, 0, None, "{a=1, b=x}[0:1, 1:5] {a=1, b=y}[0:3] {a=2}[0:NaN, 1:7]");
        check(VectorOp::SortDesc, 0, None, "{a=1, b=y}[0:3] {a=1, b=x}[0:1, 1:5] {a=2}[0:NaN, 1:7]");
    }
}
