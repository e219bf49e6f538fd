//! Writers: they push numbered lines to the gateways in turn and record acknowledgements in the ledger.
//!
//! The fate of a push that is not answered with 2xx is unknown. It is not sent again; its lines may be in answers, once.

use std::{sync::atomic::Ordering, thread, time::Duration};

use model::{Clock, SystemClock};

use super::state::{ChaosRun, GENERATION_LINES, LastPush, STREAMS};
use crate::{http::Client, ledger::StreamNumber, lines::Writer};

/// Maximum number of lines in a push.
const PUSH_LINES_MAX: usize = 30;
/// Maximum number of letters after a line's number: normally, and while memory is to be filled.
const PADDING_MAX: usize = 80;
const PADDING_BURST: usize = 12_000;

/// Runs one writer: pushes about `rate` lines per second until told to stop.
pub(super) fn write(run: &ChaosRun, index: usize, mut random: fastrand::Rng, rate: u64) -> anyhow::Result<()> {
    let client = |address: &String| Client::new(address.clone(), Duration::from_secs(20));
    let clients: Vec<Client> = run.gateways.iter().map(client).collect();
    let source = &run.sources[index];
    let writer = &source.writer;
    let mut last_nanos = SystemClock.now().nanos();
    let mut turn = index;
    while !run.stops() {
        let count = random.usize(1..=PUSH_LINES_MAX);
        let generation = StreamNumber::try_from(writer.ledger.counts().1 / GENERATION_LINES)?;
        let streams: Vec<StreamNumber> = (0..count).map(|_| generation * STREAMS + random.u16(..STREAMS)).collect();
        let first = writer.ledger.begin(&streams);
        let padding = if run.burst.load(Ordering::Relaxed) { PADDING_BURST } else { PADDING_MAX };
        let lines = Writer::lines(&mut random, first, &streams, padding, &mut last_nanos);
        let (headers, body) = writer.encode(&mut random, &lines)?;
        turn += 1;
        run.pushes.fetch_add(1, Ordering::Relaxed);
        match clients[turn % clients.len()].post("/loki/api/v1/push", &writer.tenant, &headers, &body) {
            Ok(answer) if answer.is_success() => {
                writer.ledger.acknowledge(first, count);
                match answer.header("x-millrace-token") {
                    Some(token) => source.set_last_push(LastPush {
                        token: token.to_owned(),
                        lines: first..first + count,
                        stream: streams[0],
                    }),
                    None => run.complain("a push was acknowledged without a read token"),
                }
            }
            Ok(answer) => {
                run.pushes_unknown.fetch_add(1, Ordering::Relaxed);
                if !(answer.status == 429 || answer.status >= 500) {
                    run.complain(format!("a good push was refused with {}: {}", answer.status, answer.text()));
                }
                thread::sleep(Duration::from_millis(100));
            }
            Err(_) => {
                run.pushes_unknown.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        }
        thread::sleep(Duration::from_micros(count as u64 * 1_000_000 / rate.max(1)));
    }
    Ok(())
}
