//! The final account: every line of every stream, through every query service, from memory and from blocks.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, ensure};

use super::state::{ChaosRun, Source};
use crate::{
    cluster::{Cluster, flush},
    http::Client,
    ledger::Differences,
    lines::{Reading, Writer},
};

/// Result of the final account.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    pub(crate) differences: Differences,
    /// Number of lines in the answers of the last pass.
    pub(crate) lines: u64,
    pub(crate) counts_differ: u64,
    pub(crate) passes: u64,
    pub(crate) blocks: String,
}

/// Checks all streams through every query service, before and after everything is in blocks, then verifies the blocks.
pub(crate) fn settle(run: &ChaosRun, cluster: &Cluster) -> anyhow::Result<Account> {
    let mut account = Account::default();
    check_all(run, &mut account)?;
    flush(cluster)?;
    check_all(run, &mut account)?;
    account.blocks = verify_blocks(cluster)?;
    Ok(account)
}

/// Checks every stream of every source through every query service.
pub(crate) fn check_all(run: &ChaosRun, account: &mut Account) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for address in &run.query_services {
        let client = Client::new(address.clone(), Duration::from_secs(300));
        let mut all = 0;
        for source in &run.sources {
            all += check_source(source, &client, account)?;
        }
        lines.push(all);
    }
    account.passes += lines.len() as u64;
    account.lines = lines.last().copied().unwrap_or_default();
    account.counts_differ += lines.iter().filter(|l| **l != account.lines).count() as u64;
    Ok(())
}

/// Checks every stream of a source. Returns its number of lines.
pub(crate) fn check_source(source: &Source, client: &Client, account: &mut Account) -> anyhow::Result<u64> {
    let writer = &source.writer;
    let strong = [("X-Millrace-Consistency", "strong".to_owned())];
    let reading = Reading { client, tenant: &writer.tenant, headers: &strong };
    let ledger = writer.ledger.snapshot();
    let sent = usize::try_from(writer.ledger.counts().1)?;
    let (found, _) = reading.streams(&writer.selector_of_all())?;
    let counts = reading.counts(&writer.selector_of_all())?;
    let mut lines = 0;
    // Streams that were never written must not exist either.
    let last = found.keys().chain(counts.keys()).max().copied().unwrap_or_default();
    for stream in 0..source.streams().max(last.saturating_add(1)) {
        let numbers = found.get(&stream).map_or(&[][..], Vec::as_slice);
        let differences = ledger.compare(stream, numbers, sent);
        if differences.any() {
            let Writer { tenant, name, .. } = writer;
            println!("  WRONG at the end: {tenant} {name} stream {stream} at {}: {differences:?}", client.base);
        }
        account.differences.add(differences);
        let counted = counts.get(&stream).copied().unwrap_or_default();
        account.counts_differ += u64::from(counted != numbers.len() as u64);
        lines += counted;
    }
    let counted = reading.count(&writer.selector_of_all())?;
    account.counts_differ += u64::from(counted != lines);
    Ok(lines)
}

/// Runs `millrace blocks verify` over all blocks. Returns its last line.
pub(crate) fn verify_blocks(cluster: &Cluster) -> anyhow::Result<String> {
    let text = blocks(cluster, "verify")?;
    text.lines().last().map(str::to_owned).context("blocks verify said nothing")
}

/// Returns the output of `millrace blocks COMMAND`.
pub(crate) fn blocks(cluster: &Cluster, command: &str) -> anyhow::Result<String> {
    let layout = &cluster.layout;
    let output =
        Command::new(&layout.binary).args(["blocks", command, "--config"]).arg(layout.config_file()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "blocks {command}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}
