//! `loadtest verify`: pushes numbered lines of several tenants and streams while the server is killed with SIGKILL and
//! restarted. During the run and after it, answers are compared with a ledger of what was acknowledged.
//!
//! Timestamps include duplicates, disorder, and times years ago. A push whose reply was lost may or may not be in the
//! answers, but never twice, since it is not sent again.

use std::{
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use model::{Clock, SystemClock};

use crate::{
    http::Client,
    ledger::{Differences, StreamNumber},
    lines::{Reading, Writer},
    process::default_binary,
    server::{SMALL_CUTS, SMALL_JOURNAL, ServerSpec},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of times the server is killed
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Seed of lines, times and kills. It is printed, so that a run can be repeated as far as scheduling allows
    #[arg(long)]
    seed: Option<u64>,
    /// Number of tenants
    #[arg(long, default_value_t = 3)]
    tenants: usize,
    /// Number of writers per tenant; each numbers its own lines
    #[arg(long, default_value_t = 2)]
    writers: usize,
    /// Shortest time between start and kill, in milliseconds
    #[arg(long, default_value_t = 50)]
    alive_min_ms: u64,
    /// Longest time between start and kill, in milliseconds
    #[arg(long, default_value_t = 900)]
    alive_max_ms: u64,
    /// Approximate number of lines that each writer sends per second
    #[arg(long, default_value_t = 1500)]
    rate: u64,
    /// The server's binary [default: millrace beside this one]
    #[arg(long)]
    millrace: Option<PathBuf>,
    /// Work in this folder and keep the data [default: a temporary folder]
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Number of streams per writer.
const STREAMS: StreamNumber = 4;

/// State of a run, shared by its threads.
struct VerifyRun {
    spec: ServerSpec,
    writers: Vec<Writer>,
    stop: AtomicBool,
    pushes: AtomicU64,
    pushes_unknown: AtomicU64,
    reads: AtomicU64,
    reads_failed: AtomicU64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("verify: seed {seed}, {} kills, {} tenants x {} writers", args.kills, args.tenants, args.writers);
    let temporary = tempfile::tempdir()?;
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    let binary = args.millrace.clone().map_or_else(default_binary, Ok)?;
    let mut spec = ServerSpec::new(binary, &folder)?;
    configure(&mut spec);

    let writers = (0..args.tenants).flat_map(|t| (0..args.writers).map(move |w| Writer::new(t, w))).collect();
    let run = Arc::new(VerifyRun {
        spec,
        writers,
        stop: AtomicBool::new(false),
        pushes: AtomicU64::new(0),
        pushes_unknown: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        reads_failed: AtomicU64::new(0),
    });
    let began = Instant::now();
    let differences = rounds(args, seed, &run)?;
    let after = settle(&run)?;
    report(args, &run, began.elapsed(), differences, after)
}

fn configure(spec: &mut ServerSpec) {
    spec.set("AUTH_ENABLED", true);
    // The test needs old lines, long time ranges, and whole streams in one answer.
    spec.set("LIMITS_CONFIG__REJECT_OLD_SAMPLES", false);
    spec.set("LIMITS_CONFIG__MAX_QUERY_LENGTH", 0);
    spec.set("LIMITS_CONFIG__MAX_ENTRIES_LIMIT_PER_QUERY", 0);
    spec.set("LIMITS_CONFIG__INGESTION_RATE_MB", 1000);
    spec.set("LIMITS_CONFIG__INGESTION_BURST_SIZE_MB", 1000);
    // Small cuts and journal files are hit by kills more often.
    for (name, value) in SMALL_CUTS.into_iter().chain(SMALL_JOURNAL) {
        spec.set(name, value);
    }
}

/// Starts and kills the server while writers push and readers check.
fn rounds(args: &Args, seed: u64, run: &Arc<VerifyRun>) -> anyhow::Result<Differences> {
    let mut random = fastrand::Rng::with_seed(seed);
    let writers: Vec<_> = (0..run.writers.len())
        .map(|i| {
            let (run, random, rate) = (run.clone(), random.fork(), args.rate);
            thread::spawn(move || write(&run, i, random, rate))
        })
        .collect();
    let reader = {
        let (run, random) = (run.clone(), random.fork());
        thread::spawn(move || read(&run, random))
    };
    for kill in 1..=args.kills {
        let mut server = run.spec.start()?;
        // Every fifth kill does not wait until the server answers, so that it also hits recovery.
        if random.u8(..5) > 0 {
            run.spec.wait_ready(&mut server, Duration::from_secs(60))?;
        }
        thread::sleep(Duration::from_millis(random.u64(args.alive_min_ms..=args.alive_max_ms.max(args.alive_min_ms))));
        server.kill()?;
        if kill % 50 == 0 || kill == args.kills {
            let (acknowledged, sent) = totals(run);
            println!(
                "  {kill} kills, {acknowledged} of {sent} lines acknowledged, {} reads checked",
                run.reads.load(Ordering::Relaxed)
            );
            std::io::stdout().flush()?;
        }
    }
    run.stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
    }
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?
}

/// Runs one writer: pushes until told to stop.
fn write(run: &VerifyRun, index: usize, mut random: fastrand::Rng, rate: u64) -> anyhow::Result<()> {
    let client = run.spec.client(Duration::from_secs(10));
    let writer = &run.writers[index];
    let mut last_nanos = SystemClock.now().nanos();
    while !run.stop.load(Ordering::SeqCst) {
        let count = random.usize(1..=60);
        let streams: Vec<StreamNumber> = (0..count).map(|_| random.u16(..STREAMS)).collect();
        let first = writer.ledger.begin(&streams);
        let lines = Writer::lines(&mut random, first, &streams, 80, &mut last_nanos);
        let (headers, body) = writer.encode(&mut random, &lines)?;
        run.pushes.fetch_add(1, Ordering::Relaxed);
        match client.post("/loki/api/v1/push", &writer.tenant, &headers, &body) {
            Ok(answer) if answer.status == 204 => writer.ledger.acknowledge(first, count),
            Ok(answer) if answer.status == 429 || answer.status >= 500 => {
                run.pushes_unknown.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) => anyhow::bail!("a good push was refused with {}: {}", answer.status, answer.text()),
            Err(_) => {
                run.pushes_unknown.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        }
        thread::sleep(Duration::from_micros(count as u64 * 1_000_000 / rate.max(1)));
    }
    Ok(())
}

/// Runs the reader: queries whole streams and their counts while the server is killed, and compares them.
fn read(run: &VerifyRun, mut random: fastrand::Rng) -> anyhow::Result<Differences> {
    let client = run.spec.client(Duration::from_secs(30));
    let mut differences = Differences::default();
    while !run.stop.load(Ordering::SeqCst) {
        let writer = random.choice(&run.writers).context("there are writers")?;
        let stream = random.u16(..STREAMS);
        match check_stream(&client, writer, stream) {
            Ok(found) => {
                run.reads.fetch_add(1, Ordering::Relaxed);
                if found.any() {
                    println!("  WRONG during the run: {} {} stream {stream}: {found:?}", writer.tenant, writer.name);
                }
                differences.add(found);
            }
            // The server was killed during the query, or is starting.
            Err(_) => {
                run.reads_failed.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    Ok(differences)
}

/// Compares a whole stream and its count with the ledger.
fn check_stream(client: &Client, writer: &Writer, stream: StreamNumber) -> anyhow::Result<Differences> {
    let before = writer.ledger.snapshot();
    let reading = Reading { client, tenant: &writer.tenant, headers: &[] };
    let found = reading.lines(&writer.selector(stream))?;
    let sent_later = usize::try_from(writer.ledger.counts().1)?;
    let mut differences = before.compare(stream, &found.numbers, sent_later);
    differences.lost += before.owed(stream).saturating_sub(reading.count(&writer.selector(stream))?);
    Ok(differences)
}

/// Result of the final checks.
struct After {
    differences: Differences,
    lines: u64,
    counts_differ: u64,
}

/// Runs the final checks while nothing is killed: every stream before and after everything is in blocks, then the blocks
/// themselves.
fn settle(run: &VerifyRun) -> anyhow::Result<After> {
    let mut server = run.spec.start()?;
    run.spec.wait_ready(&mut server, Duration::from_secs(120))?;
    let client = run.spec.client(Duration::from_secs(300));
    let mut after = check_all(run, &client)?;
    let flushed = client.post("/flush", "probe", &[], b"")?;
    ensure!(flushed.status == 204, "POST /flush answered {}: {}", flushed.status, flushed.text());
    let from_blocks = check_all(run, &client)?;
    after.differences.add(from_blocks.differences);
    after.counts_differ += from_blocks.counts_differ;
    ensure!(after.lines == from_blocks.lines, "{} lines before the flush, {} after it", after.lines, from_blocks.lines);
    server.stop(Duration::from_secs(60))?;
    let verify = std::process::Command::new(&run.spec.binary)
        .args(["blocks", "verify", "--data-dir"])
        .arg(&run.spec.data_dir)
        .output()?;
    let text = String::from_utf8_lossy(&verify.stdout);
    ensure!(verify.status.success(), "blocks verify: {text}{}", String::from_utf8_lossy(&verify.stderr));
    println!("  blocks verify: {}", text.lines().last().unwrap_or_default());
    Ok(after)
}

fn check_all(run: &VerifyRun, client: &Client) -> anyhow::Result<After> {
    let mut after = After { differences: Differences::default(), lines: 0, counts_differ: 0 };
    for writer in &run.writers {
        let reading = Reading { client, tenant: &writer.tenant, headers: &[] };
        let mut lines = 0;
        for stream in 0..STREAMS {
            after.differences.add(check_stream(client, writer, stream)?);
            lines += reading.count(&writer.selector(stream))?;
        }
        let all = reading.count(&writer.selector_of_all())?;
        after.counts_differ += u64::from(all != lines);
        after.lines += all;
    }
    Ok(after)
}

fn totals(run: &VerifyRun) -> (u64, u64) {
    run.writers.iter().map(|w| w.ledger.counts()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

fn report(args: &Args, run: &VerifyRun, took: Duration, during: Differences, after: After) -> anyhow::Result<()> {
    let (acknowledged, sent) = totals(run);
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!("kills                 {}", args.kills);
    println!("seconds               {:.0}", took.as_secs_f64());
    println!("pushes                {} ({} of unknown fate)", load(&run.pushes), load(&run.pushes_unknown));
    println!("lines acknowledged    {acknowledged} of {sent} sent; {} in the final answers", after.lines);
    println!("reads during the run  {} checked, {} cut off by a kill", load(&run.reads), load(&run.reads_failed));
    println!("lost                  {} during, {} after", during.lost, after.differences.lost);
    println!("doubled               {} during, {} after", during.doubled, after.differences.doubled);
    println!("invented              {} during, {} after", during.invented, after.differences.invented);
    println!("counts that differ    {}", after.counts_differ);
    ensure!(acknowledged > 0 && load(&run.reads) > 0, "nothing was checked");
    ensure!(acknowledged <= after.lines && after.lines <= sent, "the number of lines is out of bounds");
    ensure!(!during.any() && !after.differences.any() && after.counts_differ == 0, "the promise is broken");
    println!("verify: passed");
    Ok(())
}
