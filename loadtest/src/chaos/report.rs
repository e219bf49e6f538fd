//! The report of a run: a table for people, JSON for scripts, and the broken promises.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    account::Account,
    lost::LostAccount,
    schedule::Kind,
    state::{Asking, ChaosRun, Tally},
    watch::Seen,
};

/// All results of a run.
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) faults: Vec<(f64, f64, Kind, String)>,
    pub(crate) seconds: f64,
    lines: (u64, u64),
    pushes: (u64, u64),
    tally: Tally,
    seen: Seen,
    after: Option<Account>,
    lost: Option<LostAccount>,
    store: Value,
}

impl Report {
    pub(crate) fn new(
        seed: u64,
        began: Instant,
        seconds: f64,
        run: &ChaosRun,
        seen: Seen,
        (after, lost): (Option<Account>, Option<LostAccount>),
        store: Value,
    ) -> Self {
        use std::sync::atomic::Ordering::Relaxed;
        let pushes = (run.pushes.load(Relaxed), run.pushes_unknown.load(Relaxed));
        let (faults, lines, tally) = (run.timeline.all(began), run.lines(), run.tally().clone());
        Self { seed, faults, seconds, lines, pushes, tally, seen, after, lost, store }
    }

    fn reads(&self) -> u64 {
        self.tally.reads.values().sum()
    }

    fn count_by_kind(&self) -> BTreeMap<Kind, u64> {
        let mut counts = BTreeMap::new();
        for (_, _, kind, _) in &self.faults {
            *counts.entry(*kind).or_default() += 1;
        }
        counts
    }

    /// Describes each broken promise.
    pub(crate) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut require = |holds: bool, text: String| {
            if !holds {
                broken.push(text);
            }
        };
        require(!self.tally.during.any(), format!("answers during the run: {:?}", self.tally.during));
        require(
            self.tally.complaints_in_all == 0,
            format!("{} complaints, listed above", self.tally.complaints_in_all),
        );
        require(self.lines.0 > 0 && self.reads() > 0, "nothing was checked".to_owned());
        match &self.after {
            Some(after) => {
                require(!after.differences.any(), format!("answers after the run: {:?}", after.differences));
                require(after.counts_differ == 0, format!("{} counts differ after the run", after.counts_differ));
                let bounds = self.lines.0..=self.lines.1;
                require(bounds.contains(&after.lines), format!("{} lines after the run, of {bounds:?}", after.lines));
            }
            None => require(false, "the account after the run was not made".to_owned()),
        }
        match &self.lost {
            Some(lost) => {
                let account = &lost.account;
                let exact = !account.differences.any() && account.counts_differ == 0;
                require(exact, format!("retention overtook consumers: {account:?}"));
            }
            None => require(false, "retention overtaking consumers was not shown".to_owned()),
        }
        broken
    }

    pub(crate) fn print(&self) {
        let tally = &self.tally;
        println!("\n{:<26} {:>5} {:>18} {:>14}", "fault", "times", "attempts failed", "longest drain");
        for (kind, times) in self.count_by_kind() {
            let failed = tally.failed.get(&kind).copied().unwrap_or_default();
            let drain = tally.drains.get(&kind).and_then(|d| d.iter().max());
            println!(
                "{:<26} {times:>5} {failed:>18} {:>14}",
                kind.name(),
                drain.map_or_else(String::new, |d| secs(*d))
            );
        }
        let reads = |asking| tally.reads.get(&asking).copied().unwrap_or_default();
        let row = |name: &str, text: String| println!("{name:<26} {text}");
        println!();
        for (times, example) in tally.failures.values() {
            println!("{times:>5} attempts failed like: {}", example.chars().take(300).collect::<String>());
        }
        println!();
        row("seed", self.seed.to_string());
        row("faults", format!("{} in {:.0} s", self.faults.len(), self.seconds));
        row("lines acknowledged", format!("{} of {} sent", self.lines.0, self.lines.1));
        row("pushes", format!("{}, {} of unknown fate", self.pushes.0, self.pushes.1));
        row(
            "reads checked",
            format!(
                "{}: {} strong, {} with a token, {} eventual; {} attempts failed",
                self.reads(),
                reads(Asking::Strong),
                reads(Asking::Token),
                reads(Asking::Eventual),
                tally.failed_in_all
            ),
        );
        row(
            "lines in tails",
            format!("{}, {} dropped with a word, {} missing", tally.tail_lines, tally.tail_dropped, tally.tail_missing),
        );
        let after = self.after.clone().unwrap_or_default();
        row("lost", format!("{} during, {} after", tally.during.lost, after.differences.lost));
        row("doubled", format!("{} during, {} after", tally.during.doubled, after.differences.doubled));
        row("invented", format!("{} during, {} after", tally.during.invented, after.differences.invented));
        row(
            "lines after the run",
            format!("{} in each of {} passes, {} counts differ", after.lines, after.passes, after.counts_differ),
        );
        row("blocks verify", after.blocks);
        row(
            "strong read, longest",
            format!("{}; {} with retries", secs(tally.strong_longest), secs(tally.with_retries_longest)),
        );
        row("  Kafka and S3 there", format!("{} with retries", secs(tally.with_sources_longest)));
        row("hand-offs", self.seen.handoffs.to_string());
        row("hand-off, longest", handoff(&self.seen.longest));
        row("  Kafka and S3 there", handoff(&self.seen.longest_with_sources));
        row("  scaling and drains", handoff(&self.seen.longest_planned));
        row("drain, longest", tally.drains.values().flatten().max().map_or_else(|| "none".to_owned(), |d| secs(*d)));
        for (name, rose) in &self.seen.rose {
            row(name.trim_start_matches("millrace_consumer_").trim_end_matches("_total"), format!("{rose}"));
        }
        row("S3 server", self.store.to_string());
        row("ended by themselves", tally.ended_by_themselves.len().to_string());
        if let Some(lost) = &self.lost {
            let (d, n) = (lost.account.differences, lost.reported_lost);
            row(
                "retention overtook",
                format!("{n} of {} lines reported lost in {}", lost.lines, lost.ranges.join(", ")),
            );
            row("  all else", format!("lost {}, doubled {}, invented {}", d.lost, d.doubled, d.invented));
            row("  metric, warning", format!("{}, {}", lost.metric, lost.warning.as_deref().unwrap_or("none")));
        }
        for complaint in &tally.complaints {
            println!("WRONG: {complaint}");
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let tally = &self.tally;
        let by_kind: BTreeMap<&str, Value> = self
            .count_by_kind()
            .into_iter()
            .map(|(kind, times)| {
                let failed = tally.failed.get(&kind).copied().unwrap_or_default();
                let drains: Vec<f64> =
                    tally.drains.get(&kind).into_iter().flatten().map(Duration::as_secs_f64).collect();
                (kind.name(), json!({"times": times, "attempts_failed": failed, "drain_seconds": drains}))
            })
            .collect();
        let reads: BTreeMap<String, u64> = tally.reads.iter().map(|(a, n)| (format!("{a:?}"), *n)).collect();
        let differences =
            |d: crate::ledger::Differences| json!({"lost": d.lost, "doubled": d.doubled, "invented": d.invented});
        let gap = |g: &Option<(Duration, u32, Vec<&str>)>| {
            g.as_ref().map(|(d, p, kinds)| json!({"seconds": d.as_secs_f64(), "partition": p, "amid": kinds}))
        };
        let faults: Vec<Value> = self
            .faults
            .iter()
            .map(
                |(at, lasted, kind, target)| json!({"at": at, "lasted": lasted, "kind": kind.name(), "target": target}),
            )
            .collect();
        json!({
            "seed": self.seed,
            "seconds": self.seconds,
            "faults": faults,
            "by_kind": by_kind,
            "lines": {"acknowledged": self.lines.0, "sent": self.lines.1},
            "pushes": {"all": self.pushes.0, "unknown": self.pushes.1},
            "reads": reads,
            "attempts_failed": tally.failed_in_all,
            "failures": tally.failures.values().map(|(n, text)| json!({"times": n, "example": text})).collect::<Vec<_>>(),
            "during": differences(tally.during),
            "after": self.after.as_ref().map(|a| json!({
                "differences": differences(a.differences), "lines": a.lines, "passes": a.passes,
                "counts_differ": a.counts_differ, "blocks_verify": a.blocks,
            })),
            "strong_read_longest_seconds": tally.strong_longest.as_secs_f64(),
            "read_with_retries_longest_seconds": tally.with_retries_longest.as_secs_f64(),
            "handoffs": self.seen.handoffs,
            "read_with_retries_and_sources_longest_seconds": tally.with_sources_longest.as_secs_f64(),
            "handoff_longest_with_sources": gap(&self.seen.longest_with_sources),
            "handoff_longest": gap(&self.seen.longest),
            "handoff_longest_planned": gap(&self.seen.longest_planned),
            "counters": self.seen.rose,
            "store": self.store,
            "ended_by_themselves": tally.ended_by_themselves,
            "retention": self.lost.as_ref().map(|l| json!({
                "lines": l.lines, "reported_lost": l.reported_lost, "ranges": l.ranges, "metric": l.metric,
                "warning": l.warning, "all_else": differences(l.account.differences),
            })),
            "complaints": tally.complaints,
            "broken": self.broken(),
        })
    }
}

fn secs(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn handoff(gap: &Option<(Duration, u32, Vec<&'static str>)>) -> String {
    match gap {
        Some((gap, partition, kinds)) => format!("{} (partition {partition}, amid {})", secs(*gap), kinds.join(" + ")),
        None => "none".to_owned(),
    }
}
