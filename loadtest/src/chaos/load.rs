//! Writers: push numbered lines to the gateways in turn, and enter in the ledger what was acknowledged.
//!
//! A push that is not answered with 2xx is of unknown fate and not sent again: its lines may be in answers, once.

use std::{sync::atomic::Ordering, thread, time::Duration};

use model::{Clock, SystemClock};

use super::shared::{GENERATION_LINES, LastPush, STREAMS, Shared};
use crate::{http::Client, ledger::StreamNumber, lines::Writer};

/// Lines of a push at the most.
const PUSH_LINES_MAX: usize = 30;
/// Letters behind a line's number, and while memory is to become full.
const PADDING_MAX: usize = 80;
const PADDING_BURST: usize = 12_000;

/// One writer: pushes until told to stop, about `rate` lines a second.
pub(super) fn write(shared: &Shared, index: usize, mut random: fastrand::Rng, rate: u64) -> anyhow::Result<()> {
    let client = |address: &String| Client::new(address.clone(), Duration::from_secs(20));
    let clients: Vec<Client> = shared.gateways.iter().map(client).collect();
    let source = &shared.sources[index];
    let writer = &source.writer;
    let mut last_nanos = SystemClock.now().nanos();
    let mut turn = index;
    while !shared.stops() {
        let count = random.usize(1..=PUSH_LINES_MAX);
        let generation = StreamNumber::try_from(writer.ledger.counts().1 / GENERATION_LINES)?;
        let streams: Vec<StreamNumber> = (0..count).map(|_| generation * STREAMS + random.u16(..STREAMS)).collect();
        let first = writer.ledger.begin(&streams);
        let padding = if shared.burst.load(Ordering::Relaxed) { PADDING_BURST } else { PADDING_MAX };
        let lines = Writer::lines(&mut random, first, &streams, padding, &mut last_nanos);
        let (headers, body) = writer.encode(&mut random, &lines)?;
        turn += 1;
        shared.pushes.fetch_add(1, Ordering::Relaxed);
        match clients[turn % clients.len()].post("/loki/api/v1/push", &writer.tenant, &headers, &body) {
            Ok(answer) if answer.is_success() => {
                writer.ledger.acknowledge(first, count);
                match answer.header("x-millrace-token") {
                    Some(token) => source.set_last_push(LastPush {
                        token: token.to_owned(),
                        lines: first..first + count,
                        stream: streams[0],
                    }),
                    None => shared.complain("a push was acknowledged without a read token"),
                }
            }
            Ok(answer) => {
                shared.pushes_unknown.fetch_add(1, Ordering::Relaxed);
                if !(answer.status == 429 || answer.status >= 500) {
                    shared.complain(format!("a good push was refused with {}: {}", answer.status, answer.text()));
                }
                thread::sleep(Duration::from_millis(100));
            }
            Err(_) => {
                shared.pushes_unknown.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        }
        thread::sleep(Duration::from_micros(count as u64 * 1_000_000 / rate.max(1)));
    }
    Ok(())
}
