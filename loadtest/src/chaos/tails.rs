//! Followers: keep a live tail of one writer's lines open, and notice lines that come twice or were never sent.
//!
//! A tail may break off and may leave out entries when it says so. What it leaves out without a word is counted: rows that
//! nobody holds in memory any more when their owner broke off, and rows that come later than this waits.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use super::shared::{Shared, Source};

/// So long one tail is followed.
const FOLLOW: Duration = Duration::from_secs(40);
/// A line that was acknowledged so long before the end of a tail should have come.
const LATE: Duration = Duration::from_secs(20);
/// How often a silent tail is looked up from.
const LOOK_UP: Duration = Duration::from_millis(500);

/// Until told to stop: one tail after the other.
pub(super) fn follow(shared: &Shared, mut random: fastrand::Rng) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    while !shared.stops() {
        let source = random.choice(&shared.sources).context("there are sources")?;
        let address = random.choice(&shared.query_services).context("there are query services")?;
        // It ends when its query service is killed; then there is another.
        if runtime.block_on(follow_one(shared, source, address)).is_err() {
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    Ok(())
}

async fn follow_one(shared: &Shared, source: &Source, address: &str) -> anyhow::Result<()> {
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
    while began.elapsed() < FOLLOW && !shared.stops() {
        if owed.is_none() && began.elapsed() >= FOLLOW - LATE {
            owed = Some(source.writer.ledger.snapshot().owing(sent_before as usize..usize::MAX));
        }
        let Ok(message) = tokio::time::timeout(LOOK_UP, socket.next()).await else { continue };
        let Some(message) = message else { return Ok(()) };
        if let Message::Text(text) = message? {
            note(shared, source, &mut seen, &serde_json::from_str(&text)?)?;
        }
    }
    if let Some(owed) = owed.filter(|_| began.elapsed() >= FOLLOW) {
        let missing = owed.owed_numbers().filter(|number| !seen.contains(&(*number as u64))).count();
        shared.tally().tail_missing += missing as u64;
    }
    Ok(())
}

fn note(shared: &Shared, source: &Source, seen: &mut HashSet<u64>, frame: &serde_json::Value) -> anyhow::Result<()> {
    let sent = source.writer.ledger.counts().1;
    let streams = frame["streams"].as_array().into_iter().flatten();
    for value in streams.flat_map(|s| s["values"].as_array().into_iter().flatten()) {
        let line = value[1].as_str().context("a line is a text")?;
        let number: u64 = line.split(' ').next().unwrap_or_default().parse()?;
        if !seen.insert(number) {
            shared.complain(format!(
                "a tail of {} {} gave line {number} twice",
                source.writer.tenant, source.writer.name
            ));
        }
        if number >= sent {
            shared.complain(format!("a tail gave line {number}, {sent} were sent"));
        }
    }
    let mut tally = shared.tally();
    tally.tail_lines += frame["streams"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|s| s["values"].as_array().map_or(0, Vec::len) as u64)
        .sum::<u64>();
    tally.tail_dropped += frame["dropped_entries"].as_array().map_or(0, Vec::len) as u64;
    Ok(())
}
