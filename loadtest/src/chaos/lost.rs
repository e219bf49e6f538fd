//! Scenario: Kafka's retention overtakes stopped consumers. The head, a metric and a warning in answers must report the
//! lost range, and everything else must stay exact.
//!
//! While all consumers are stopped, a separate tenant is pushed, one stream per push. Each push is then one record, whose
//! partition and offset its token names. Records are deleted, the consumers start, and the ledger marks exactly the lines
//! of the reported ranges as "reported lost". Any error shows up as a difference: a deleted line that was not reported is
//! still expected, and a reported line that is still there counts as invented.

use std::{
    collections::BTreeMap,
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use model::{Clock as _, Offset, PartitionId, ReadToken, SystemClock};

use super::{
    account::{Account, blocks, check_source},
    faults::Hand,
    schedule::Kind,
    state::{STREAMS, Source},
};
use crate::{
    cluster::{Role, TOPIC, flush, metrics},
    http::Client,
    lines::{Reading, Writer},
};

/// Number of pushes below, and above, the offsets up to which records are deleted.
const PUSHES: [usize; 2] = [40, 20];
const PUSH_LINES_MAX: usize = 10;

/// Result of the scenario.
#[derive(Clone, Debug, Default)]
pub(crate) struct LostAccount {
    pub(crate) account: Account,
    /// Number of lines pushed.
    pub(crate) lines: u64,
    pub(crate) reported_lost: u64,
    pub(crate) ranges: Vec<String>,
    pub(crate) metric: f64,
    pub(crate) warning: Option<String>,
}

/// One push, which is one record.
struct Pushed {
    partition: PartitionId,
    offset: Offset,
    lines: Range<usize>,
}

/// A range that the heads report as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LostRange {
    partition: u32,
    start: i64,
    end: i64,
}

/// Carries out the scenario on a healthy cluster whose data is in blocks.
pub(crate) fn overtake(hand: &mut Hand<'_>, mut random: fastrand::Rng) -> anyhow::Result<LostAccount> {
    let source = Source::new(Writer { tenant: "retention".into(), ..Writer::new(0, 0) });
    let before = lost_ranges(&blocks(hand.cluster, "ls")?);
    ensure!(before.is_empty(), "records are lost before any were deleted: {before:?}");
    let running: Vec<usize> =
        hand.cluster.of(Role::Consumer).enumerate().filter(|(_, n)| n.runs()).map(|(index, _)| index).collect();
    for index in &running {
        hand.end_in_order(Kind::DrainConsumer, Role::Consumer, *index)?;
    }
    let early = push(hand, &source, &mut random, PUSHES[0])?;
    let late = push(hand, &source, &mut random, PUSHES[1])?;
    // No owner is running, so the query services read the log.
    let mut without_owners = Account::default();
    check(hand, &source, &mut without_owners)?;
    delete(hand, &early, &late)?;
    for index in running {
        hand.start_if_ended(Role::Consumer, index)?;
    }
    hand.settle()?;
    flush(hand.cluster)?;

    let ranges = lost_ranges(&blocks(hand.cluster, "ls")?);
    ensure!(!ranges.is_empty(), "records were deleted, and no head reports a lost range");
    for push in early.iter().chain(&late) {
        if ranges.iter().any(|range| range.has(push)) {
            source.writer.ledger.report_lost(push.lines.clone());
        }
    }
    let mut found = LostAccount {
        account: without_owners,
        lines: source.writer.ledger.counts().1,
        ranges: ranges.iter().map(|r| format!("partition {} [{}, {})", r.partition, r.start, r.end)).collect(),
        ..LostAccount::default()
    };
    let ledger = source.writer.ledger.snapshot();
    found.reported_lost = (0..STREAMS).map(|stream| ledger.reported_lost(stream)).sum();
    check(hand, &source, &mut found.account)?;
    found.metric = lost_metric(hand)?;
    found.warning = warning(hand, &source)?;
    if found.metric <= 0.0 {
        hand.run.complain("records were lost, and no metric says so");
    }
    if found.warning.is_none() {
        hand.run.complain("records were lost, and a query that touches them does not warn");
    }
    Ok(found)
}

impl LostRange {
    fn has(&self, push: &Pushed) -> bool {
        self.partition == push.partition.index() && (self.start..self.end).contains(&push.offset.value())
    }
}

/// Makes pushes of one stream each.
fn push(hand: &Hand<'_>, source: &Source, random: &mut fastrand::Rng, pushes: usize) -> anyhow::Result<Vec<Pushed>> {
    let client = Client::new(hand.run.gateways[0].clone(), Duration::from_secs(20));
    let mut pushed = Vec::new();
    let mut last_nanos = SystemClock.now().nanos();
    for _ in 0..pushes {
        let count = random.usize(1..=PUSH_LINES_MAX);
        let streams = vec![random.u16(..STREAMS); count];
        let first = source.writer.ledger.begin(&streams);
        let lines = Writer::lines(random, first, &streams, 80, &mut last_nanos);
        let (headers, body) = source.writer.encode(random, &lines)?;
        let answer = client.post("/loki/api/v1/push", &source.writer.tenant, &headers, &body)?;
        ensure!(answer.is_success(), "a push was answered {}: {}", answer.status, answer.text());
        source.writer.ledger.acknowledge(first, count);
        let token: ReadToken = answer.header("x-millrace-token").context("a push without a token")?.parse()?;
        let mut named = (0..token.partitions()).map(PartitionId::new);
        let (partition, end) =
            named.find_map(|p| Some((p, token.end_of(p)?))).context("a token that names no partition")?;
        pushed.push(Pushed { partition, offset: Offset::new(end.value() - 1), lines: first..first + count });
    }
    Ok(pushed)
}

/// Deletes records: the first partition with records loses the early ones, the second all, the third none, and so on.
fn delete(hand: &Hand<'_>, early: &[Pushed], late: &[Pushed]) -> anyhow::Result<()> {
    let ends = |pushes: &mut dyn Iterator<Item = &Pushed>| {
        let mut ends = BTreeMap::<u32, i64>::new();
        for push in pushes {
            let end = ends.entry(push.partition.index()).or_default();
            *end = (*end).max(push.offset.value() + 1);
        }
        ends
    };
    let (early_ends, all_ends) = (ends(&mut early.iter()), ends(&mut early.iter().chain(late)));
    for (i, (partition, early_end)) in early_ends.iter().enumerate() {
        let below = match i % 3 {
            0 => *early_end,
            1 => all_ends[partition],
            _ => continue,
        };
        hand.runtime.block_on(hand.admin.delete_records(TOPIC, i32::try_from(*partition)?, below))?;
    }
    Ok(())
}

/// Checks all streams of the source through every query service. A service may need a moment after a change.
fn check(hand: &Hand<'_>, source: &Source, account: &mut Account) -> anyhow::Result<()> {
    for address in &hand.run.query_services {
        let client = Client::new(address.clone(), Duration::from_secs(60));
        let began = Instant::now();
        loop {
            let mut found = Account::default();
            match check_source(source, &client, &mut found) {
                Ok(lines) => {
                    account.differences.add(found.differences);
                    account.counts_differ += found.counts_differ;
                    account.lines = lines;
                    account.passes += 1;
                    break;
                }
                Err(error) if began.elapsed() > Duration::from_secs(30) => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(200)),
            }
        }
    }
    Ok(())
}

/// Parses the lost ranges in the output of `millrace blocks ls`.
fn lost_ranges(listing: &str) -> Vec<LostRange> {
    let range = |line: &str| {
        let (what, _) = line.split_once(" lost:")?;
        let mut words = what.split_whitespace();
        let mut number = || words.next()?.trim_matches(['[', ',', ')']).parse::<i64>().ok();
        let (partition, start, end) = (number()?, number()?, number()?);
        Some(LostRange { partition: u32::try_from(partition).ok()?, start, end })
    };
    listing.lines().filter_map(range).collect()
}

/// Returns the number of lost offsets that the consumers count.
fn lost_metric(hand: &Hand<'_>) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for address in hand.cluster.addresses(Role::Consumer) {
        // Consumers that were scaled down do not answer.
        let Ok(metrics) = metrics(&address) else { continue };
        sum += metrics.sum_of_names_with("_lost_").unwrap_or_default();
    }
    Ok(sum)
}

/// Queries the lost range and returns the answer's warning about it.
fn warning(hand: &Hand<'_>, source: &Source) -> anyhow::Result<Option<String>> {
    let Some(address) = hand.run.query_services.first() else { bail!("there is no query service") };
    let client = Client::new(address.clone(), Duration::from_secs(60));
    let reading = Reading { client: &client, tenant: &source.writer.tenant, headers: &[] };
    let found = reading.lines(&source.writer.selector_of_all())?;
    Ok(found.warnings.into_iter().find(|w| w.contains("lost")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lost_ranges_from_a_listing() {
        let listing = "partition   offsets  rows\n0    [0, 5)   3  4  5  key\n\
            12                  [5, 9) lost: the log no longer had it\n1 blocks, 5 bytes\n";
        assert_eq!(lost_ranges(listing), [LostRange { partition: 12, start: 5, end: 9 }]);
    }
}
