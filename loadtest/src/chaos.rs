//! `loadtest chaos`: pushes to, reads and tails a cluster while faults are injected by a seeded schedule. A ledger says
//! what answers must contain, during the run and after it.
//!
//! ```text
//! schedule ─▶ faults ─▶ cluster ◀─ load (pushes) ─▶ ledger ◀─ reads, tails (answers) ─▶ tally ─▶ report
//!                 └─▶ timeline ──────────────── what was wrong meanwhile ──────────────────▲
//! ```
//!
//! At the end all faults are healed, every line of every stream is accounted for, and blocks are verified. Then retention
//! overtakes stopped consumers in a scenario of its own ([`lost`]).

mod account;
mod faults;
mod load;
mod lost;
mod reads;
mod report;
mod schedule;
mod state;
mod tails;
mod timeline;
mod watch;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    cluster::{Cluster, Counts, Layout, Role},
    lines::Writer,
    process::default_binary,
    server::SMALL_CUTS,
};
use faults::Hand;
use report::Report;
use schedule::{Kind, Schedule};
use state::{ChaosRun, Source};
use watch::Watch;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seed of lines, schedule and targets. It is printed, so that a run can be repeated as far as scheduling allows
    #[arg(long)]
    seed: Option<u64>,
    /// Duration of the faults, in minutes
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Inject only these kinds of faults, separated by commas; partitions are raised in any case [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    #[command(flatten)]
    counts: Counts,
    /// Number of partitions after they were raised, which happens once
    #[arg(long, default_value_t = 16)]
    partitions_later: u32,
    /// Number of tenants
    #[arg(long, default_value_t = 3)]
    tenants: usize,
    /// Number of writers per tenant; each numbers its own lines
    #[arg(long, default_value_t = 2)]
    writers: usize,
    /// Number of readers
    #[arg(long, default_value_t = 2)]
    readers: usize,
    /// Approximate number of lines that each writer sends per second
    #[arg(long, default_value_t = 100)]
    rate: u64,
    /// Age of the oldest record at which a cut is made [default: longer in long runs, to bound the number of blocks]
    #[arg(long)]
    cut_age_ms: Option<u64>,
    /// Also write the results to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Work in this folder and keep it [default: a temporary folder, kept if a promise is broken]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Always keep the temporary folder
    #[arg(long)]
    keep: bool,
    /// The binary of all roles [default: millrace beside this one]
    #[arg(long)]
    millrace: Option<PathBuf>,
}

/// Time limit for all processes to become ready, on a busy machine.
const UP_MAX: Duration = Duration::from_secs(240);

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let temporary = tempfile::Builder::new().prefix("millrace-chaos-").tempdir()?;
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    println!("chaos: seed {seed}, {} minutes, in {}", args.minutes, folder.display());
    let outcome = run_in(args, seed, &folder);
    if outcome.is_err() || args.keep {
        println!("logs and data of all processes are kept in {}", folder.display());
        let _ = temporary.keep();
    }
    outcome.with_context(|| format!("chaos failed with --seed {seed}"))
}

fn run_in(args: &Args, seed: u64, folder: &Path) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::start(layout(args, folder)?)?;
    cluster.wait_ready(UP_MAX)?;
    println!("  all processes are ready");
    let writers = (0..args.tenants).flat_map(|t| (0..args.writers).map(move |w| Writer::new(t, w)));
    let run = ChaosRun::new(
        writers.map(Source::new).collect(),
        cluster.addresses(Role::Gateway),
        cluster.addresses(Role::QueryService),
    );
    let watch = Watch::new(cluster.addresses(Role::Consumer), args.counts.partitions);
    let schedule = Schedule::new(random.u64(..), &args.counts, args.partitions_later, &args.only)?;
    let mut hand = Hand {
        admin: cluster.kafka.admin()?,
        cluster: &mut cluster,
        run: &run,
        watch: &watch,
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
    };
    let began = Instant::now();
    let struck = thread::scope(|scope| {
        let watching = scope.spawn(|| watch.run(&run));
        let mut threads = Vec::new();
        for index in 0..run.sources.len() {
            let (random, run) = (random.fork(), &run);
            threads.push(scope.spawn(move || load::write(run, index, random, args.rate)));
        }
        for _ in 0..args.readers {
            let (random, run) = (random.fork(), &run);
            threads.push(scope.spawn(move || reads::read(run, random)));
        }
        let (tail_random, tail_run) = (random.fork(), &run);
        threads.push(scope.spawn(move || tails::follow(tail_run, tail_random)));
        let outcome = strike(&mut hand, schedule, Duration::from_secs_f64(args.minutes * 60.0));
        let seconds = began.elapsed().as_secs_f64();
        // The faults are healed before the load ends, so that the last reads have no excuse.
        let outcome = outcome.and_then(|()| hand.settle());
        thread::sleep(Duration::from_secs(1));
        run.stop();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread of the load panicked"))??;
        }
        // The watch continues: the last scenario waits for it.
        let found = outcome.and_then(|()| account_for_all(&mut hand, random.fork()));
        run.stop_watch();
        watching.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?;
        anyhow::Ok((seconds, found))
    });
    let (seconds, found) = struck?;
    let (accounts, failure) = match found {
        Ok((after, lost)) => ((Some(after), Some(lost)), None),
        Err(error) => ((None, None), Some(error)),
    };
    for text in defects(&cluster.layout.logs())? {
        run.complain(text);
    }
    let store = cluster.store.fault_counts().unwrap_or_default();
    let report = Report::new(seed, began, seconds, &run, watch.seen(), accounts, store);
    report.print();
    if let Some(file) = &args.json {
        fs::write(file, serde_json::to_string_pretty(&report.to_json())?)?;
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let broken = report.broken();
    anyhow::ensure!(broken.is_empty(), "promises are broken:\n  {}", broken.join("\n  "));
    cluster.stop()?;
    println!("chaos: passed");
    Ok(())
}

fn layout(args: &Args, folder: &Path) -> anyhow::Result<Layout> {
    let binary = args.millrace.clone().map_or_else(default_binary, Ok)?;
    let mut layout = Layout::new(folder, binary, args.counts.clone());
    layout.set("auth_enabled", true);
    // The test needs old lines, long time ranges, whole streams in one answer, and clocks that jump.
    for (name, value) in [
        ("reject_old_samples", serde_json::json!(false)),
        ("creation_grace_period", "10000h".into()),
        ("max_query_length", 0.into()),
        ("max_entries_limit_per_query", 0.into()),
        ("max_global_streams_per_user", 0.into()),
        ("ingestion_rate_mb", 1000.into()),
        ("ingestion_burst_size_mb", 1000.into()),
        ("per_stream_rate_limit", "1GB".into()),
        ("per_stream_rate_limit_burst", "1GB".into()),
    ] {
        layout.set(&format!("limits_config.{name}"), value);
    }
    for (name, value) in SMALL_CUTS {
        layout.set_by_variable(name, value);
    }
    let age = args.cut_age_ms.unwrap_or_else(|| (args.minutes * 500.0).clamp(400.0, 25_000.0) as u64);
    layout.set("consumer.cut_age", format!("{age}ms"));
    // Memory fills within seconds when the store is away and lines are long.
    layout.set("consumer.memory_bytes", "6MB");
    layout.set("consumer.fetch_bytes", "512KB");
    // Time limits fit the length of the faults.
    layout.set("store.s3.operation_timeout", "10s");
    layout.set("store.s3.breaker_pause", format!("{}s", faults::BREAKER_PAUSE.as_secs()));
    layout.set_environment("MILLRACE_SERVER__LOG_LEVEL", "info");
    layout.set_environment("RUST_BACKTRACE", "1");
    Ok(layout)
}

/// Carries out steps until the time is over.
fn strike(hand: &mut Hand<'_>, schedule: Schedule, time: Duration) -> anyhow::Result<()> {
    hand.settle()?;
    let began = Instant::now();
    for (i, step) in schedule.enumerate() {
        if began.elapsed() >= time {
            break;
        }
        let names: Vec<String> = step.faults.iter().map(|fault| format!("{fault:?}")).collect();
        let (acknowledged, _) = hand.run.lines();
        println!("  {:>5.0} s, {acknowledged} lines: step {i}: {}", began.elapsed().as_secs_f64(), names.join(" and "));
        hand.carry_out(&step)?;
    }
    Ok(())
}

fn account_for_all(
    hand: &mut Hand<'_>,
    random: fastrand::Rng,
) -> anyhow::Result<(account::Account, lost::LostAccount)> {
    println!("  accounting for every line");
    let mut after = account::settle(hand.run, hand.cluster)?;
    println!("  retention overtakes the consumers");
    let lost = lost::overtake(hand, random)?;
    println!("  accounting for every line once more");
    account::check_all(hand.run, &mut after)?;
    account::verify_blocks(hand.cluster)?;
    Ok((after, lost))
}

/// Returns the lines of logs that report a defect: a panic, or an owner and a builder that read the log differently.
fn defects(logs: &Path) -> anyhow::Result<Vec<String>> {
    let tells = |line: &&str| line.contains("panicked at") || line.contains("have read different things");
    let mut found = Vec::new();
    for entry in fs::read_dir(logs)? {
        let path = entry?.path();
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        found.extend(text.lines().filter(tells).map(|l| format!("{}: {l}", path.display())));
    }
    Ok(found)
}
