//! `loadtest replay-speed`: kills a consumer whose data is not in blocks yet, starts it again, and measures how fast it
//! reads the log and when it serves.
//!
//! Large bounds keep the consumer from cutting, so a restart begins at the first record.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    cluster::{Cluster, Counts, Layout, Role, metrics},
    corpus::{Corpus, CorpusArgs},
    http::Client,
    ingest::{NO_LIMITS, push_corpus},
    print::mb,
    process::default_binary,
    procstat::{cpu_seconds, peak_rss_bytes},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Push the corpus repeatedly until this many raw GB are reached
    #[arg(long, default_value_t = 2.0)]
    gb: f64,
    /// Number of times the consumer is killed and started
    #[arg(short, default_value_t = 3)]
    k: usize,
    /// Number of partitions of the log
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    /// Memory that the consumer may use for rows
    #[arg(long, default_value = "12GB")]
    memory: String,
    /// The binary of all roles [default: millrace beside this one]
    #[arg(long)]
    millrace: Option<PathBuf>,
    /// Work in this folder and keep the data [default: a temporary folder]
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Time limit for each wait.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let corpus = Corpus::open(&args.corpus.folder(&folder)?)?;
    let mut cluster = Cluster::start(layout(args, folder.join("cluster"))?)?;
    cluster.wait_ready(PATIENCE)?;
    let address = |role| cluster.addresses(role).into_iter().next().context("one of each role runs");
    let (gateway, queries) = (address(Role::Gateway)?, address(Role::QueryService)?);
    let (gateway, queries) = (Client::new(gateway, PATIENCE), Client::new(queries, PATIENCE));

    let (mut raw, mut lines) = (0, 0);
    while (raw as f64) < args.gb * 1e9 {
        push_corpus(&corpus, std::slice::from_ref(&gateway), "fake", 4)?;
        raw += corpus.manifest.raw_bytes();
        lines += corpus.manifest.lines();
    }
    println!("pushed {lines} lines, {} MB raw, in {} partitions", mb(raw), args.partitions);
    wait_for_all(&queries, lines)?;
    let flushed = metrics(&cluster.addresses(Role::Consumer)[0])?.sum("millrace_consumer_cut_seconds_count");
    ensure!(flushed.unwrap_or_default() == 0.0, "cuts were made: raise the bounds");

    println!(
        "{:>12} {:>12} {:>10} {:>14} {:>14} {:>10}",
        "led after", "serves after", "CPU-s", "MB/s raw", "MB/s per core", "peak rss"
    );
    for _ in 0..args.k {
        cluster.kill_node(Role::Consumer, 0)?;
        let began = Instant::now();
        cluster.start_node(Role::Consumer, 0)?;
        let pid = cluster.node(Role::Consumer, 0)?.pid().context("it runs")?;
        let consumer = cluster.node(Role::Consumer, 0)?.address();
        let led = wait_until_led(&consumer, args.partitions, began)?;
        wait_for_all(&queries, lines)?;
        let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds(pid)?);
        println!(
            "{:>10.2} s {wall:>10.2} s {cpu:>10.2} {:>14.1} {:>14.1} {:>7} MB",
            led.as_secs_f64(),
            raw as f64 / 1e6 / wall,
            raw as f64 / 1e6 / cpu,
            mb(peak_rss_bytes(pid)?)
        );
    }
    Ok(())
}

fn layout(args: &Args, folder: PathBuf) -> anyhow::Result<Layout> {
    fs::create_dir_all(&folder)?;
    let binary = args.millrace.clone().map_or_else(default_binary, Ok)?;
    let counts = Counts {
        brokers: 1,
        gateways: 1,
        consumers: 1,
        followers: 0,
        builders: 0,
        query_services: 1,
        partitions: args.partitions,
    };
    let mut layout = Layout::new(&folder, binary, counts);
    layout.set("auth_enabled", false);
    for (name, value) in NO_LIMITS {
        layout.set_by_variable(name, value);
    }
    layout.set("consumer.cut_bytes", args.memory.as_str());
    layout.set("consumer.cut_age", "24h");
    layout.set("consumer.memory_bytes", args.memory.as_str());
    Ok(layout)
}

/// Waits until a strong count is complete: the consumer then serves everything that was acknowledged.
fn wait_for_all(queries: &Client, lines: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    let parameters = [
        ("query", r#"sum(count_over_time({host=~".+"}[20y]))"#.to_owned()),
        ("time", (model::Clock::now(&model::SystemClock).nanos() + 3_600_000_000_000).to_string()),
        ("consistency", "strong".to_owned()),
    ];
    loop {
        let answer = queries.get("/loki/api/v1/query", "fake", &parameters)?;
        let counted = answer.json().map(|json| {
            let text = json["data"]["result"][0]["value"][1].as_str().unwrap_or("0").to_owned();
            text.parse::<u64>().unwrap_or_default()
        });
        match counted {
            Ok(counted) if counted == lines => return Ok(()),
            Ok(counted) => anyhow::bail!("a strong count says {counted} of {lines} lines"),
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn wait_until_led(consumer: &str, partitions: u32, began: Instant) -> anyhow::Result<Duration> {
    loop {
        if metrics(consumer).is_ok_and(|m| m.partitions_led().len() == partitions as usize) {
            return Ok(began.elapsed());
        }
        ensure!(began.elapsed() < PATIENCE, "not all partitions are led");
        thread::sleep(Duration::from_millis(20));
    }
}
