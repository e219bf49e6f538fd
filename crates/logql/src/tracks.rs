//! Series with one value per step, the intermediate results of a metric query.

use model::Labels;

use crate::ast::Grouping;

/// One series: values by step number, ascending. Steps without a value are left out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Track {
    pub(crate) labels: Labels,
    pub(crate) points: Vec<(u32, f64)>,
}

/// The result of a node.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// The same number at each step.
    Scalar(f64),
    Tracks(Vec<Track>),
}

/// Returns a copy of `labels` with one label set, or removed if `value` is `None`.
pub(crate) fn with_label(labels: &Labels, name: &str, value: Option<&str>) -> Labels {
    let others = labels.iter().filter(|(n, _)| *n != name);
    Labels::with_empty_values(others.chain(value.map(|v| (name, v))))
}

/// Returns the labels that identify the group of a series.
pub(crate) fn group_labels(labels: &Labels, grouping: Option<&Grouping>) -> Labels {
    let Some(grouping) = grouping else { return Labels::empty() };
    let listed = |name: &str| grouping.labels.iter().any(|l| l == name);
    let kept = labels.iter().filter(|(name, _)| listed(name) != grouping.without);
    if kept.clone().count() == labels.len() { labels.clone() } else { Labels::with_empty_values(kept) }
}
