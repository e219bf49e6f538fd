//! Reads `/ready` and `/metrics` of a process.

use std::time::Duration;

use crate::http::Client;

const PATIENCE: Duration = Duration::from_secs(2);

/// Returns whether a process is ready.
pub(crate) fn is_ready(address: &str) -> bool {
    Client::new(address.to_owned(), PATIENCE).get("/ready", "probe", &[]).is_ok_and(|a| a.is_success())
}

/// Reads the metrics of a process.
pub(crate) fn metrics(address: &str) -> anyhow::Result<Metrics> {
    let answer = Client::new(address.to_owned(), PATIENCE).get("/metrics", "probe", &[])?;
    anyhow::ensure!(answer.is_success(), "{address} answered {}", answer.status);
    Ok(Metrics::parse(&answer.text()))
}

/// Metrics in Prometheus's text format, parsed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    /// The text between the braces.
    labels: String,
    value: f64,
}

impl Metrics {
    fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            Some(Sample { name: name.into(), labels: labels.trim_end_matches('}').into(), value: value.parse().ok()? })
        };
        Self(text.lines().filter(|l| !l.starts_with('#')).filter_map(sample).collect())
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |s| s.name == name)
    }

    /// Returns the sum over all label sets, or `None` if the metric does not exist.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        self.of(name).map(|s| s.value).reduce(|a, b| a + b)
    }

    /// Returns the sum over all metrics whose names contain `part`.
    pub(crate) fn sum_of_names_with(&self, part: &str) -> Option<f64> {
        self.0.iter().filter(|s| s.name.contains(part)).map(|s| s.value).reduce(|a, b| a + b)
    }

    /// Returns the maximum over all label sets.
    pub(crate) fn most(&self, name: &str) -> Option<f64> {
        self.of(name).map(|s| s.value).reduce(f64::max)
    }

    /// Returns the partitions that this process leads.
    pub(crate) fn partitions_led(&self) -> Vec<u32> {
        let led = self.of("millrace_consumer_leading").filter(|s| s.value > 0.0);
        let mut led: Vec<u32> = led.filter_map(|s| label(&s.labels, "partition")?.parse().ok()).collect();
        led.sort_unstable();
        led
    }
}

/// Returns the value of a label. Values must not contain quotes or commas.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut all = labels.split(',').filter_map(|l| l.split_once('='));
    all.find(|(n, _)| *n == name).map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_metrics() {
        let text = "# HELP a b\na 3\nlag{partition=\"1\"} 0.5\nlag{partition=\"2\"} 2e1\n\
            millrace_consumer_leading{partition=\"10\",zone=\"x\"} 1\nmillrace_consumer_leading{partition=\"2\"} 1\n\
            millrace_consumer_leading{partition=\"3\"} 0\n";
        let metrics = Metrics::parse(text);
        assert_eq!((metrics.sum("a"), metrics.sum("b")), (Some(3.0), None));
        assert_eq!((metrics.sum("lag"), metrics.most("lag")), (Some(20.5), Some(20.0)));
        assert_eq!(metrics.partitions_led(), [2, 10]);
    }
}
