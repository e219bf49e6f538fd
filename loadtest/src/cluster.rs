//! `loadtest cluster up|status|down`: a cluster on this machine, with several processes of each role, real Kafka brokers
//! and an S3 server.
//!
//! `up` starts a supervisor in the background, which starts everything else and waits. `cluster.json` in the folder lists
//! all processes and their addresses. `down` asks the supervisor to stop everything in order. Nothing outlives the
//! supervisor: if it dies, a warden kills its processes.
//!
//! ```text
//! up ──▶ supervise ──▶ brokers, S3 server, roles        down ──SIGTERM──▶ supervise: roles, S3 server, brokers
//!              └─ cluster.json ─▶ status, down
//! ```

mod layout;
mod node;
mod probe;
mod role;
mod running;
mod state;
mod store;
mod warden;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;

pub(crate) use layout::{Counts, Layout, TOPIC};
pub(crate) use probe::{Metrics, is_ready, metrics};
pub(crate) use role::Role;
pub(crate) use running::{Cluster, flush};
pub(crate) use store::{StoreArgs, serve_store};

use crate::process::{default_binary, signal_pid};
use state::State;

/// Time limit for brokers, topics, the bucket and all roles to come up on two busy cores.
const UP_MAX: Duration = Duration::from_secs(240);
/// Time limit for everything to stop.
const DOWN_MAX: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Start a cluster and leave it running
    Up(UpArgs),
    /// Show which processes run, are ready, lead which partitions, and use how much memory
    Status(FolderArgs),
    /// Stop the cluster in order; its data stays until the next `up`
    Down(FolderArgs),
    /// The process that `up` leaves in the background
    #[command(hide = true)]
    Supervise(UpArgs),
}

#[derive(Debug, clap::Args)]
struct FolderArgs {
    /// The cluster's folder
    #[arg(long, default_value = "./millrace-cluster")]
    folder: PathBuf,
}

#[derive(Debug, clap::Args)]
struct UpArgs {
    #[command(flatten)]
    place: FolderArgs,
    #[command(flatten)]
    counts: Counts,
    /// Take the tenant from X-Scope-OrgID and refuse requests without it
    #[arg(long)]
    auth_enabled: bool,
    /// Stay in the foreground and stop the cluster on Ctrl-C
    #[arg(long)]
    foreground: bool,
    /// The binary of all roles [default: millrace beside this one]
    #[arg(long)]
    millrace: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Action::Up(args) if args.foreground => supervise(args),
        Action::Up(args) => up(args),
        Action::Supervise(args) => {
            // A session of its own, so that closing the terminal does not stop it.
            let _ = rustix::process::setsid();
            supervise(args)
        }
        Action::Status(args) => status(&args.folder),
        Action::Down(args) => down(&args.folder),
    }
}

fn up(args: &UpArgs) -> anyhow::Result<()> {
    let folder = prepare(&args.place.folder)?;
    let log = folder.join("supervisor.log");
    let mut command = Command::new(std::env::current_exe()?);
    // The same arguments, for the hidden command.
    let mut words: Vec<_> = std::env::args_os().skip(1).collect();
    let word = words.iter_mut().find(|w| *w == "up").context("the command is up")?;
    *word = "supervise".into();
    let file = fs::File::create(&log)?;
    command.args(words).stdin(std::process::Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut supervisor = command.spawn()?;
    let began = Instant::now();
    loop {
        if let Ok(state) = State::read(&folder)
            && state.ready
        {
            print_addresses(&state, &folder);
            return Ok(());
        }
        if let Some(status) = supervisor.try_wait()? {
            bail!("the cluster did not come up ({status}):\n{}", fs::read_to_string(&log).unwrap_or_default().trim());
        }
        if began.elapsed() > UP_MAX {
            signal_pid(supervisor.id(), Signal::TERM)?;
            bail!("the cluster was not ready within {UP_MAX:?}; see {}", folder.display());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Returns the folder, cleared of an earlier cluster's files. Fails if that cluster still runs.
fn prepare(folder: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    match State::read(&folder) {
        Ok(state) if state.supervisor.is_alive() => {
            bail!("a cluster runs in {} already: `loadtest cluster down` ends it", folder.display())
        }
        Ok(state) => {
            end_leftovers(&state);
            Layout::clear(&folder)?;
        }
        Err(_) => {
            let is_empty = fs::read_dir(&folder)?.next().is_none();
            ensure!(is_empty, "{} holds other things: name an empty folder", folder.display());
        }
    }
    Ok(folder)
}

/// Starts everything, writes `cluster.json`, and waits until it is asked to stop.
fn supervise(args: &UpArgs) -> anyhow::Result<()> {
    let folder = if args.foreground { prepare(&args.place.folder)? } else { args.place.folder.canonicalize()? };
    let binary = args.millrace.clone().map_or_else(default_binary, Ok)?;
    let mut layout = Layout::new(&folder, binary, args.counts.clone());
    layout.set("auth_enabled", args.auth_enabled);
    let asked = until_asked_to_end()?;
    State::starting()?.write(&folder)?;
    let mut cluster = Cluster::start(layout)?;
    cluster.wait_ready(UP_MAX)?;
    let state = State::of(&cluster, true)?;
    state.write(&folder)?;
    if args.foreground {
        print_addresses(&state, &folder);
    }
    // A message and a closed channel both mean the end.
    let _ = asked.recv();
    println!("ending");
    let outcome = cluster.stop();
    State::starting()?.write(&folder)?;
    outcome
}

/// Returns a channel that receives a message on SIGTERM or Ctrl-C.
fn until_asked_to_end() -> anyhow::Result<std::sync::mpsc::Receiver<()>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut term = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        });
        // If the cluster failed to start, nobody listens, and the process ends anyway.
        let _ = sender.send(());
    });
    Ok(receiver)
}

fn print_addresses(state: &State, folder: &Path) {
    let millrace = state.binary.display();
    println!("a cluster runs in {}", folder.display());
    println!("  kafka          {} (topic {})", state.bootstrap, state.topic);
    println!("  s3             {}", state.store.endpoint);
    for node in &state.nodes {
        println!("  {:<14} {}", node.id, node.address);
    }
    let first = |role: &str| state.nodes.iter().find(|n| n.role == role).map_or("", |n| n.address.as_str());
    let (gateway, query) = (first("gateway"), first("query-service"));
    println!("\ntry:");
    println!("  echo hello | {millrace} push --addr {gateway} --label app=demo");
    println!("  {millrace} query --addr {query} '{{app=\"demo\"}}'");
    println!("  {millrace} blocks ls --config {}", state.config.display());
    println!("  Grafana: a data source of type Loki with the URL {query}");
    println!(
        "\n`loadtest cluster status --folder {0}` shows it, `loadtest cluster down --folder {0}` ends it",
        folder.display()
    );
}

fn status(folder: &Path) -> anyhow::Result<()> {
    let state = State::read(folder).with_context(|| format!("there is no cluster in {}", folder.display()))?;
    if !state.supervisor.is_alive() && state.nodes.is_empty() {
        println!("the cluster in {} has ended", folder.display());
        return Ok(());
    }
    println!(
        "{:<16} {:>8} {:<6} {:<6} {:>9} {:>8}  partitions led",
        "process", "pid", "alive", "ready", "memory", "lag"
    );
    let yes = |is: bool| if is { "yes" } else { "NO" };
    let memory =
        |pid| crate::procstat::rss_bytes(pid).map_or_else(|_| "-".to_owned(), |b| format!("{} MB", b / 1_000_000));
    let line = |name: &str, process: &state::Process, ready: &str, lag: &str, led: &str| {
        println!(
            "{name:<16} {:>8} {:<6} {ready:<6} {:>9} {lag:>8}  {led}",
            process.pid,
            yes(process.is_alive()),
            memory(process.pid)
        );
    };
    line("supervisor", &state.supervisor, "", "", "");
    for (i, broker) in state.brokers.iter().enumerate() {
        line(&format!("broker-{i}"), broker, "", "", "");
    }
    line("s3", &state.store.process, "", "", "");
    for node in &state.nodes {
        let metrics = metrics(&node.address).unwrap_or_default();
        let led: Vec<String> = metrics.partitions_led().into_iter().map(|p| p.to_string()).collect();
        let lag = metrics.most("millrace_consumer_lag_seconds").map_or_else(String::new, |s| format!("{s:.1} s"));
        line(&node.id, &node.process, yes(is_ready(&node.address)), &lag, &led.join(" "));
    }
    Ok(())
}

fn down(folder: &Path) -> anyhow::Result<()> {
    let state = State::read(folder).with_context(|| format!("there is no cluster in {}", folder.display()))?;
    if state.supervisor.is_alive() {
        signal_pid(state.supervisor.pid, Signal::TERM)?;
        let began = Instant::now();
        while state.supervisor.is_alive() {
            if began.elapsed() > DOWN_MAX {
                bail!("the supervisor (pid {}) does not end; see {}", state.supervisor.pid, folder.display());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
    let left = end_leftovers(&state);
    println!(
        "the cluster has ended{}",
        if left > 0 { format!("; {left} processes had to be killed") } else { String::new() }
    );
    Ok(())
}

/// Kills the processes that a dead supervisor left. A pid that now belongs to another process is left alone.
fn end_leftovers(state: &State) -> usize {
    let mut killed = 0;
    for process in state.processes() {
        if process.is_alive() && signal_pid(process.pid, Signal::KILL).is_ok() {
            killed += 1;
        }
    }
    killed
}
