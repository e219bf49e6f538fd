//! Readers: they keep querying whole streams and their counts, and compare the answers with the ledger.
//!
//! - A **strong** read must return everything that was acknowledged before it began.
//! - A read **with the token** of a push must return the lines of that push.
//! - An **eventual** read may return less.
//! - None may return a line twice, or a line that was never sent.
//!
//! A failed read is retried with the next query service, as a client behind a load balancer would. It must succeed within
//! a time limit, not counting time without Kafka or S3.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    state::{Asking, ChaosRun, STREAMS, Source},
    timeline::is_inexcusable,
};
use crate::{
    http::Client,
    ledger::{Differences, StreamNumber},
    lines::Reading,
};

/// Time limit for a read, retries included.
const RETRIES_MAX: Duration = Duration::from_secs(30);
/// Time limit for one attempt.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);

/// Runs one reader until told to stop.
pub(super) fn read(run: &ChaosRun, mut random: fastrand::Rng) -> anyhow::Result<()> {
    let clients = clients(run, ATTEMPT_MAX);
    while !run.stops() {
        let source = random.choice(&run.sources).context("there are sources")?;
        let (asking, stream) = match random.u8(..10) {
            0..5 => (Asking::Strong, stream(&mut random, source)),
            5..8 => (Asking::Eventual, stream(&mut random, source)),
            _ => (Asking::Token, 0),
        };
        until_answered(run, &clients, &mut random, source, asking, stream);
        thread::sleep(Duration::from_millis(random.u64(0..60)));
    }
    Ok(())
}

pub(super) fn clients(run: &ChaosRun, attempt: Duration) -> Vec<Client> {
    run.query_services.iter().map(|address| Client::new(address.clone(), attempt)).collect()
}

/// Picks a stream: usually one that is being written, sometimes an old one.
fn stream(random: &mut fastrand::Rng, source: &Source) -> StreamNumber {
    let streams = source.streams();
    let newest = streams.saturating_sub(STREAMS);
    match random.u8(..10) {
        0..6 => newest + random.u16(..STREAMS),
        6 | 7 => newest.saturating_sub(STREAMS) + random.u16(..STREAMS),
        _ => random.u16(..streams),
    }
}

/// Retries a read until it is answered or the run ends. Records its duration and its differences.
fn until_answered(
    run: &ChaosRun,
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
                return answered(run, source, asking, stream, [first, began, Instant::now()], differences);
            }
            Err(error) => {
                let kinds = run.timeline.during(began, Instant::now());
                run.count_failed(&kinds, &format!("{error:#}"));
                if is_inexcusable(&kinds) && !run.stops() {
                    let names: Vec<&str> = kinds.iter().map(|k| k.name()).collect();
                    let at = &clients[turn % clients.len()].base;
                    run.complain(format!(
                        "a read ({asking:?}, {at}) failed while nothing was wrong but {names:?}: {error:#}"
                    ));
                }
            }
        }
        if run.stops() {
            return;
        }
        let without_sources = run.timeline.without_sources(first, Instant::now());
        if first.elapsed() > RETRIES_MAX + without_sources && !complained {
            complained = true;
            run.complain(format!("a read ({asking:?}) got no answer for {:.1} s", first.elapsed().as_secs_f64()));
        }
        turn += 1;
        thread::sleep(Duration::from_millis(random.u64(50..250)));
    }
}

fn answered(
    run: &ChaosRun,
    source: &Source,
    asking: Asking,
    stream: StreamNumber,
    [first, began, ended]: [Instant; 3],
    differences: Differences,
) {
    let without_sources = run.timeline.without_sources(first, ended);
    {
        let mut tally = run.tally();
        *tally.reads.entry(asking).or_default() += 1;
        tally.during.add(differences);
        tally.with_retries_longest = tally.with_retries_longest.max(ended - first);
        tally.with_sources_longest = tally.with_sources_longest.max((ended - first).saturating_sub(without_sources));
        if asking == Asking::Strong {
            tally.strong_longest = tally.strong_longest.max(ended - began);
        }
    }
    if differences.any() {
        let kinds: Vec<&str> = run.timeline.during(first, ended).into_iter().map(|k| k.name()).collect();
        let (tenant, writer) = (&source.writer.tenant, &source.writer.name);
        run.complain(format!("{asking:?} read of {tenant} {writer} stream {stream} amid {kinds:?}: {differences:?}"));
    }
}

/// Makes one attempt: queries the lines of a stream and their count, and compares them.
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
