//! The flags of `replay`, and how times are written.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use block_builder::replay::By;
use clap::{ArgGroup, Args, ValueEnum};
use limits::PromDuration;
use model::TimestampNs;

/// By which time a window is meant.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum ByArg {
    /// When the log took the records: exact and fast, the log has an index of it
    #[default]
    AppendTime,
    /// The entries' own time. The search in the log is widened by the tenant's creation_grace_period before, and by its
    /// reject_old_samples_max_age behind (to the log's end when old samples are not rejected), and entries are filtered
    EntryTime,
}

impl From<ByArg> for By {
    fn from(by: ByArg) -> Self {
        match by {
            ByArg::AppendTime => Self::AppendTime,
            ByArg::EntryTime => Self::EntryTime,
        }
    }
}

#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("what").args(["verify", "rebuild", "send", "resume"]).required(true),
    after_help = "Exit codes: 0 done, and for --verify the same; 1 differences, or blocks that could not be rebuilt; 2 an error;\n\
    130 stopped by Ctrl-C or SIGTERM, after which the command to go on is printed.\n\n\
    It may run beside the servers: it changes nothing but, with --rebuild, which blocks the heads list."
)]
pub(crate) struct ReplayArgs {
    /// Compare what the log holds with what the blocks hold
    #[arg(long)]
    pub(crate) verify: bool,
    /// Make the blocks of the window anew from the log, whole blocks of all tenants, and list them in place of the old ones
    #[arg(long)]
    pub(crate) rebuild: bool,
    /// Send the entries to a server's push API (http://HOST:PORT), or to a file (file:PATH.jsonl or file:PATH.jsonl.zst)
    #[arg(long, value_name = "TARGET")]
    pub(crate) send: Option<String>,
    /// Go on with a replay that was stopped; all but --rate, --parallel and the server settings comes from the file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tenant", "all_tenants", "from", "selector", "partitions", "state", "as_tenant"])]
    pub(crate) resume: Option<PathBuf>,
    /// Whose entries; give it again for more (not with --send)
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Vec<String>,
    /// Everybody's entries (not with --send)
    #[arg(long, conflicts_with_all = ["tenant", "send"])]
    pub(crate) all_tenants: bool,
    /// The tenant at the target [default: the same]
    #[arg(long, value_name = "TENANT", requires = "send")]
    pub(crate) as_tenant: Option<String>,
    /// Start of the window: RFC 3339, seconds or nanoseconds since the epoch, or how long ago, such as 2h
    #[arg(long, value_name = "TIME", required_unless_present = "resume")]
    pub(crate) from: Option<String>,
    /// End of the window, as --from; not in it
    #[arg(long, value_name = "TIME", default_value = "now")]
    pub(crate) to: String,
    /// Which time the window is of
    #[arg(long, value_enum, default_value_t)]
    pub(crate) by: ByArg,
    /// Only streams that pass this, such as '{app="web"}' (not with --rebuild)
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// Only these partitions, such as 0,3
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    pub(crate) partitions: Vec<u32>,
    /// Say what would be read, from the indexes alone, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Keep the state here, for --resume [default: ./millrace-replay-….json, removed at the end]
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Read no more than so many megabytes of the log a second
    #[arg(long, value_name = "MB/S", value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,
    /// Work on so many partitions at once
    #[arg(long, value_name = "PARTITIONS", default_value_t = 2)]
    pub(crate) parallel: usize,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if rate > 0.0 && rate.is_finite() { Ok(rate) } else { Err("must be above 0".to_owned()) }
}

/// Reads a time: `now`, how long ago, seconds (up to 10 digits, or with a fraction) or nanoseconds since the epoch, RFC 3339.
pub(crate) fn parse_time(text: &str, now: TimestampNs) -> anyhow::Result<TimestampNs> {
    let text = text.trim();
    if text == "now" {
        return Ok(now);
    }
    if let Ok(number) = text.parse::<i64>() {
        let digits = text.trim_start_matches('-').len();
        return Ok(if digits <= 10 { TimestampNs::from_secs(number) } else { TimestampNs::from_nanos(number) });
    }
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.is_finite()
    {
        // Conversions saturate, which is what a time beyond all times should do.
        return Ok(TimestampNs::from_nanos((seconds * 1e9) as i64));
    }
    if let Ok(ago) = text.strip_suffix("ago").unwrap_or(text).trim().parse::<PromDuration>() {
        return Ok(now.minus(ago.get()));
    }
    let Ok(time) = text.parse::<jiff::Timestamp>() else {
        bail!("{text:?} is no time: use RFC 3339, seconds or nanoseconds since the epoch, or how long ago, such as 2h");
    };
    let nanos = i64::try_from(time.as_nanosecond()).ok().with_context(|| format!("{text} is beyond all times"))?;
    Ok(TimestampNs::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let now = TimestampNs::from_secs(1_000_000);
        let check = |text: &str, expected: Option<i64>| {
            assert_eq!(parse_time(text, now).ok().map(TimestampNs::nanos), expected, "{text}");
        };
        const SECOND: i64 = 1_000_000_000;
        check("now", Some(1_000_000 * SECOND));
        check("2h", Some((1_000_000 - 7200) * SECOND));
        check("90s ago", Some((1_000_000 - 90) * SECOND));
        check("0", Some(0));
        check("1700000000", Some(1_700_000_000 * SECOND));
        check("1700000000.5", Some(1_700_000_000 * SECOND + SECOND / 2));
        check("1700000000000000001", Some(1_700_000_000_000_000_001));
        check("1970-01-01T00:00:02Z", Some(2 * SECOND));
        check("1970-01-01T01:00:00+01:00", Some(0));
        check("yesterday", None);
        check("", None);
        check("9999-01-01T00:00:00Z", None);
    }

    #[test]
    fn rates() {
        assert_eq!(parse_rate("2.5"), Ok(2.5));
        assert!(parse_rate("0").is_err() && parse_rate("-1").is_err() && parse_rate("x").is_err());
    }
}
