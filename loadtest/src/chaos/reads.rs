//! Readers: ask for whole streams and their counts all the time, and hold the answers against the ledger.
//!
//! - a **strong** read owes everything that was acknowledged before it began;
//! - a read **with the token** of a push owes the lines of that push;
//! - an **eventual** read owes nothing;
//! - and none of them may hold a line twice, or one that was never sent.
//!
//! A read that fails is tried again, as a client behind a load balancer would: with the next query service. It must
//! succeed within a bound; the time in which there were no sources to read from does not count.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    shared::{Asking, STREAMS, Shared, Source},
    timeline::is_inexcusable,
};
use crate::{
    http::Client,
    ledger::{Differences, StreamNumber},
    lines::Reading,
};

/// A read must have succeeded after this time, retries included.
const RETRIES_MAX: Duration = Duration::from_secs(30);
/// One attempt.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);

/// One reader: until told to stop.
pub(super) fn read(shared: &Shared, mut random: fastrand::Rng) -> anyhow::Result<()> {
    let clients = clients(shared, ATTEMPT_MAX);
    while !shared.stops() {
        let source = random.choice(&shared.sources).context("there are sources")?;
        let (asking, stream) = match random.u8(..10) {
            0..5 => (Asking::Strong, stream(&mut random, source)),
            5..8 => (Asking::Eventual, stream(&mut random, source)),
            _ => (Asking::Token, 0),
        };
        until_answered(shared, &clients, &mut random, source, asking, stream);
        thread::sleep(Duration::from_millis(random.u64(0..60)));
    }
    Ok(())
}

pub(super) fn clients(shared: &Shared, attempt: Duration) -> Vec<Client> {
    shared.query_services.iter().map(|address| Client::new(address.clone(), attempt)).collect()
}

/// Mostly one that is written now, sometimes an old one.
fn stream(random: &mut fastrand::Rng, source: &Source) -> StreamNumber {
    let streams = source.streams();
    let newest = streams.saturating_sub(STREAMS);
    match random.u8(..10) {
        0..6 => newest + random.u16(..STREAMS),
        6 | 7 => newest.saturating_sub(STREAMS) + random.u16(..STREAMS),
        _ => random.u16(..streams),
    }
}

/// Tries again until there is an answer or the run ends; notes how long it took and what was wrong with it.
fn until_answered(
    shared: &Shared,
    clients: &[Client],
    random: &mut fastrand::Rng,
    source: &Source,
    asking: Asking,
    stream: StreamNumber,
) {
    let first = Instant::now();
    let mut turn = random.usize(..clients.len());
    let mut complained = false;
    loop {
        let began = Instant::now();
        match checked(&clients[turn % clients.len()], source, asking, stream) {
            Ok(differences) => {
                return answered(shared, source, asking, stream, [first, began, Instant::now()], differences);
            }
            Err(error) => {
                let kinds = shared.timeline.during(began, Instant::now());
                shared.count_failed(&kinds, &format!("{error:#}"));
                if is_inexcusable(&kinds) && !shared.stops() {
                    let names: Vec<&str> = kinds.iter().map(|k| k.name()).collect();
                    let at = &clients[turn % clients.len()].base;
                    shared.complain(format!(
                        "a read ({asking:?}, {at}) failed while nothing was wrong but {names:?}: {error:#}"
                    ));
                }
            }
        }
        if shared.stops() {
            return;
        }
        let without_sources = shared.timeline.without_sources(first, Instant::now());
        if first.elapsed() > RETRIES_MAX + without_sources && !complained {
            complained = true;
            shared.complain(format!("a read ({asking:?}) got no answer for {:.1} s", first.elapsed().as_secs_f64()));
        }
        turn += 1;
        thread::sleep(Duration::from_millis(random.u64(50..250)));
    }
}

fn answered(
    shared: &Shared,
    source: &Source,
    asking: Asking,
    stream: StreamNumber,
    [first, began, ended]: [Instant; 3],
    differences: Differences,
) {
    let without_sources = shared.timeline.without_sources(first, ended);
    {
        let mut tally = shared.tally();
        *tally.reads.entry(asking).or_default() += 1;
        tally.during.add(differences);
        tally.with_retries_longest = tally.with_retries_longest.max(ended - first);
        tally.with_sources_longest = tally.with_sources_longest.max((ended - first).saturating_sub(without_sources));
        if asking == Asking::Strong {
            tally.strong_longest = tally.strong_longest.max(ended - began);
        }
    }
    if differences.any() {
        let kinds: Vec<&str> = shared.timeline.during(first, ended).into_iter().map(|k| k.name()).collect();
        let (tenant, writer) = (&source.writer.tenant, &source.writer.name);
        shared
            .complain(format!("{asking:?} read of {tenant} {writer} stream {stream} amid {kinds:?}: {differences:?}"));
    }
}

/// One attempt: the lines of a stream and their count, compared.
fn checked(client: &Client, source: &Source, asking: Asking, stream: StreamNumber) -> anyhow::Result<Differences> {
    let writer = &source.writer;
    let push = source.last_push().filter(|_| asking == Asking::Token);
    let stream = push.as_ref().map_or(stream, |push| push.stream);
    let (headers, before) = match (asking, push) {
        (Asking::Strong, _) => (vec![("X-Millrace-Consistency", "strong".to_owned())], writer.ledger.snapshot()),
        (Asking::Token, Some(push)) => (
            vec![("X-Millrace-Consistency", "eventual".to_owned()), ("X-Millrace-Read-Token", push.token)],
            writer.ledger.snapshot().owing(push.lines),
        ),
        _ => (vec![("X-Millrace-Consistency", "eventual".to_owned())], writer.ledger.snapshot().owing(0..0)),
    };
    let reading = Reading { client, tenant: &writer.tenant, headers: &headers };
    let found = reading.lines(&writer.selector(stream))?;
    let sent_later = usize::try_from(writer.ledger.counts().1)?;
    let mut differences = before.compare(stream, &found.numbers, sent_later);
    let counted = reading.count(&writer.selector(stream))?;
    differences.lost += before.owed(stream).saturating_sub(counted);
    differences.doubled += counted.saturating_sub(writer.ledger.sent(stream));
    Ok(differences)
}
