//! What a process says about itself: `/ready` and `/metrics`.

use std::time::Duration;

use crate::http::Client;

const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a process says that it can do its work.
pub(crate) fn is_ready(address: &str) -> bool {
    Client::new(address.to_owned(), PATIENCE).get("/ready", "probe", &[]).is_ok_and(|a| a.is_success())
}

/// The metrics of a process.
pub(crate) fn metrics(address: &str) -> anyhow::Result<Metrics> {
    let answer = Client::new(address.to_owned(), PATIENCE).get("/metrics", "probe", &[])?;
    anyhow::ensure!(answer.is_success(), "{address} answered {}", answer.status);
    Ok(Metrics::parse(&answer.text()))
}

/// Metrics as Prometheus reads them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    /// Between the braces.
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

    /// The sum over all labels; none when there is no such metric.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        self.of(name).map(|s| s.value).reduce(|a, b| a + b)
    }

    /// The sum over all metrics with this in their names.
    pub(crate) fn sum_of_names_with(&self, part: &str) -> Option<f64> {
        self.0.iter().filter(|s| s.name.contains(part)).map(|s| s.value).reduce(|a, b| a + b)
    }

    /// The largest over all labels.
    pub(crate) fn most(&self, name: &str) -> Option<f64> {
        self.of(name).map(|s| s.value).reduce(f64::max)
    }

    /// The partitions this process leads now.
    pub(crate) fn partitions_led(&self) -> Vec<u32> {
        let led = self.of("millrace_consumer_leading").filter(|s| s.value > 0.0);
        let mut led: Vec<u32> = led.filter_map(|s| label(&s.labels, "partition")?.parse().ok()).collect();
        led.sort_unstable();
        led
    }
}

/// The value of a label. Good for values without quotes and commas.
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
