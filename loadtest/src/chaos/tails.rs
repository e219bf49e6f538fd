//! Tails: a thread keeps a live tail of one writer's lines open and checks for lines that repeat or were never sent.
//!
//! A tail may end, and may drop entries if it reports them. Entries that it drops without a report are counted: rows that
//! were no longer in memory when their owner failed, and rows that arrive later than this thread waits.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use super::state::{ChaosRun, Source};

/// Duration for which one tail is followed.
const FOLLOW: Duration = Duration::from_secs(40);
/// A line that was acknowledged this long before the end of a tail should be in it.
const LATE: Duration = Duration::from_secs(20);
/// Interval at which a silent tail checks whether the run is over.
const LOOK_UP: Duration = Duration::from_millis(500);

/// Follows one tail after another until told to stop.
pub(super) fn follow(run: &ChaosRun, mut random: fastrand::Rng) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    while !run.stops() {
        let source = random.choice(&run.sources).context("there are sources")?;
        let address = random.choice(&run.query_services).context("there are query services")?;
        // A tail ends when its query service is killed. The next one uses another.
        if runtime.block_on(follow_one(run, source, address)).is_err() {
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    Ok(())
}

async fn follow_one(run: &ChaosRun, source: &Source, address: &str) -> anyhow::Result<()> {
    let host = address.strip_prefix("http://").context("addresses begin with http://")?;
    let selector = source.writer.selector_of_all();
    let query: String = selector.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut request = format!("ws://{host}/loki/api/v1/tail?query={query}&limit=1").into_client_request()?;
    request.headers_mut().insert("X-Scope-OrgID", source.writer.tenant.parse()?);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await?;
    let began = Instant::now();
    let (_, sent_before) = source.writer.ledger.counts();
    let mut owed = None;
    let mut seen = HashSet::new();
    while began.elapsed() < FOLLOW && !run.stops() {
        if owed.is_none() && began.elapsed() >= FOLLOW - LATE {
            owed = Some(source.writer.ledger.snapshot().owing(sent_before as usize..usize::MAX));
        }
        let Ok(message) = tokio::time::timeout(LOOK_UP, socket.next()).await else { continue };
        let Some(message) = message else { return Ok(()) };
        if let Message::Text(text) = message? {
            note(run, source, &mut seen, &serde_json::from_str(&text)?)?;
        }
    }
    if let Some(owed) = owed.filter(|_| began.elapsed() >= FOLLOW) {
        let missing = owed.owed_numbers().filter(|number| !seen.contains(&(*number as u64))).count();
        run.tally().tail_missing += missing as u64;
    }
    Ok(())
}

fn note(run: &ChaosRun, source: &Source, seen: &mut HashSet<u64>, frame: &serde_json::Value) -> anyhow::Result<()> {
    let sent = source.writer.ledger.counts().1;
    let streams = frame["streams"].as_array().into_iter().flatten();
    for value in streams.flat_map(|s| s["values"].as_array().into_iter().flatten()) {
        let line = value[1].as_str().context("a line is a text")?;
        let number: u64 = line.split(' ').next().unwrap_or_default().parse()?;
        if !seen.insert(number) {
            run.complain(format!("a tail of {} {} gave line {number} twice", source.writer.tenant, source.writer.name));
        }
        if number >= sent {
            run.complain(format!("a tail gave line {number}, {sent} were sent"));
        }
    }
    let mut tally = run.tally();
    tally.tail_lines += frame["streams"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|s| s["values"].as_array().map_or(0, Vec::len) as u64)
        .sum::<u64>();
    tally.tail_dropped += frame["dropped_entries"].as_array().map_or(0, Vec::len) as u64;
    Ok(())
}
