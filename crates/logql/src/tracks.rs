//! Series of values, one for each step: what the parts of a metric query hand to one another.

use model::Labels;

use crate::ast::Grouping;

/// One series: values by the number of the step, ascending; steps without a value are left out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Track {
    pub(crate) labels: Labels,
    pub(crate) points: Vec<(u32, f64)>,
}

/// What a node yields.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// The same number at each step.
    Scalar(f64),
    Tracks(Vec<Track>),
}

/// A set with one label set, or removed.
pub(crate) fn with_label(labels: &Labels, name: &str, value: Option<&str>) -> Labels {
    let others = labels.iter().filter(|(n, _)| *n != name);
    Labels::with_empty_values(others.chain(value.map(|v| (name, v))))
}

/// The labels that make a group.
pub(crate) fn group_labels(labels: &Labels, grouping: Option<&Grouping>) -> Labels {
    let Some(grouping) = grouping else { return Labels::empty() };
    let listed = |name: &str| grouping.labels.iter().any(|l| l == name);
    let kept = labels.iter().filter(|(name, _)| listed(name) != grouping.without);
    if kept.clone().count() == labels.len() { labels.clone() } else { Labels::with_empty_values(kept) }
}
