//! `replay`: reads a time window of the log again, to compare it with the blocks, to rebuild them, or to send it elsewhere.
//!
//! ```text
//! args ─▶ job ─▶ plan ─▶ state file ─▶ block_builder::replay::run ─▶ report
//!                  └─ --dry-run: prints it, and ends
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command prints its report and its progress")]

mod args;
mod file;
mod http;
mod report;
mod watch;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use block_builder::replay::{
    By, Components, Job, Keep as _, Mode, Options, Progress, State, StateFile, Target, Tenants, Window, plan,
};
use catalogue::Heads;
use limits::Overrides;
use log_bus::{KafkaConfig, KafkaLog, LocalLog, LogBus};
use model::{Matcher, PartitionId, TenantId};
use runtime::Tasks;
use settings::{Flags, Settings};
use tokio_util::sync::CancellationToken;

pub(crate) use args::ReplayArgs;

use crate::{backends, clock};

/// Does what `args` say, and returns the exit code: 0 when it is done, or nothing differs; 1 for differences, or blocks
/// that could not be rebuilt; 130 when a signal stopped it.
pub(crate) async fn run(args: &ReplayArgs, flags: &Flags, settings: &Settings) -> anyhow::Result<i32> {
    let clock = clock::system()?;
    let resumed = args.resume.as_deref().map(State::load).transpose()?;
    let job = match &resumed {
        Some(state) => state.job.clone(),
        None => job_of(args, settings, clock.now())?,
    };
    let matchers = matchers_of(&job.selector)?;
    let log = open_log(settings).await?;
    let store = backends::connect_store(settings, None).await?;
    let heads = Heads::new(store.clone(), &log.log_id().0)?;
    if args.dry_run || resumed.is_none() {
        let plans = plan(&*log, &heads, &job).await?;
        if args.dry_run {
            report::print_plan(&job, &plans);
            return Ok(0);
        }
        let id = fresh_id(clock.now().nanos());
        let keep = StateFile::new(args.state.clone().unwrap_or_else(|| default_state_file(&id)));
        ensure!(
            !keep.path().exists(),
            "{} exists: go on with it (--resume), or choose another --state",
            keep.path().display()
        );
        let state = State::new(&id, heads.log_id(), job, &plans);
        // The target opens before the state is written, so that a replay that cannot start leaves no file.
        let target = open_target(&state, false)?;
        keep.keep(&state).await?;
        let components = components(log, heads, store, clock, target, &keep);
        return execute(args, flags, components, keep, state, matchers).await;
    }
    let state = resumed.context("a replay is new or resumed")?;
    if state.finished {
        eprintln!("this replay has already finished");
        return Ok(report::print(&state));
    }
    let keep = StateFile::new(args.resume.clone().unwrap_or_default());
    let target = open_target(&state, true)?;
    let components = components(log, heads, store, clock, target, &keep);
    execute(args, flags, components, keep, state, matchers).await
}

fn components(
    log: Arc<dyn LogBus>,
    heads: Heads,
    store: Arc<dyn object_store::ObjectStore>,
    clock: Arc<dyn model::Clock>,
    target: Option<Arc<dyn Target>>,
    keep: &StateFile,
) -> Components {
    Components {
        log,
        heads,
        store,
        clock,
        random: Arc::new(model::SystemRandom),
        processors: runtime::Processors::default(),
        target,
        keep: Arc::new(keep.clone()),
        progress: Arc::default(),
    }
}

/// Runs the replay with a display of its progress. Then prints the result, or the command that resumes it.
async fn execute(
    args: &ReplayArgs,
    flags: &Flags,
    components: Components,
    keep: StateFile,
    state: State,
    matchers: Vec<Matcher>,
) -> anyhow::Result<i32> {
    let options = Options {
        parallel: args.parallel,
        bytes_per_second: args.rate.map(|megabytes| (megabytes * 1e6) as u64),
        ..Options::default()
    };
    let stop = CancellationToken::new();
    let progress = components.progress.clone();
    let (began, done) = (Instant::now(), CancellationToken::new());
    let tasks = Tasks::new("replay");
    tasks.spawn("progress", watch::watch(progress.clone(), done.clone()));
    tasks.spawn("signal", {
        let (stop, done) = (stop.clone(), done.clone());
        async move {
            if done.run_until_cancelled(telemetry::shutdown_signal()).await.is_some() {
                eprintln!("stopping after the current step …");
                stop.cancel();
            }
        }
    });
    let outcome = block_builder::replay::run(components, options, state, matchers, stop).await;
    done.cancel();
    tasks.finish().await;
    let how_to_go_on = format!("to go on:  {}", resume_command(args, flags, &keep));
    let state = match outcome {
        Ok(outcome) => outcome.state,
        Err(error) => {
            eprintln!("{how_to_go_on}");
            return Err(error.into());
        }
    };
    let code = report::print(&state);
    print_speed(&progress, began.elapsed());
    if !state.finished {
        println!("{how_to_go_on}");
        return Ok(130);
    }
    if args.state.is_none() && args.resume.is_none() {
        // The user did not name this file, and a finished replay does not need it.
        let _ = std::fs::remove_file(keep.path());
    }
    Ok(code)
}

fn print_speed(progress: &Progress, took: Duration) {
    let bytes = Progress::get(&progress.log_bytes);
    let seconds = took.as_secs_f64().max(1e-3);
    println!(
        "read {:.1} MB of the log in {seconds:.1} s, {:.1} MB/s",
        bytes as f64 / 1e6,
        bytes as f64 / 1e6 / seconds
    );
    let retries = Progress::get(&progress.retries);
    if retries > 0 {
        println!("{retries} requests were tried again");
    }
}

/// The command that resumes this replay.
fn resume_command(args: &ReplayArgs, flags: &Flags, keep: &StateFile) -> String {
    let mut words = vec!["millrace".to_owned(), "replay".into(), "--resume".into(), keep.path().display().to_string()];
    let mut add = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            words.extend([flag.to_owned(), value]);
        }
    };
    add("--config", flags.config.as_ref().map(|path| path.display().to_string()));
    add("--data-dir", flags.data_dir.as_ref().map(|path| path.display().to_string()));
    add("--rate", args.rate.map(|rate| rate.to_string()));
    let quoted = words.into_iter().map(|word| {
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+=:,".contains(c));
        if plain { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// The log, opened for reading only. The local log is not locked, so a server may use it at the same time.
async fn open_log(settings: &Settings) -> anyhow::Result<Arc<dyn LogBus>> {
    if settings.kafka.is_set() {
        // A missing topic is an error here: an empty new one would hold nothing to read.
        let config = KafkaConfig { create_topics: false, ..settings.kafka_config() };
        return Ok(KafkaLog::connect(config, None).await?);
    }
    let folder = settings.log_folder();
    ensure!(folder.is_dir(), "there is no local log in {}: name its folder with --data-dir", folder.display());
    // Nothing else runs yet that this could block.
    Ok(Arc::new(LocalLog::open_view(folder)?))
}

fn open_target(state: &State, goes_on: bool) -> anyhow::Result<Option<Arc<dyn Target>>> {
    let Mode::Send { target, as_tenant } = &state.job.mode else { return Ok(None) };
    Ok(Some(match target.strip_prefix("file:") {
        Some(path) => Arc::new(file::FileTarget::open(&PathBuf::from(path), state.target_position, goes_on)?),
        None => Arc::new(http::HttpTarget::new(target, as_tenant)),
    }))
}

fn default_state_file(id: &str) -> PathBuf {
    PathBuf::from(format!("millrace-replay-{id}.json"))
}

/// The name of a new replay: its start time and the id of its process.
fn fresh_id(nanos: i64) -> String {
    format!("{:x}-{:x}", nanos / 1_000_000, std::process::id())
}

fn matchers_of(selector: &str) -> anyhow::Result<Vec<Matcher>> {
    if selector.is_empty() {
        return Ok(Vec::new());
    }
    logql::parse_matchers(selector).map_err(|error| anyhow::anyhow!("--selector: {error}"))
}

fn job_of(args: &ReplayArgs, settings: &Settings, now: model::TimestampNs) -> anyhow::Result<Job> {
    let tenants = tenants_of(args)?;
    let mode = mode_of(args, &tenants)?;
    let Some(from) = &args.from else { bail!("--from is missing") };
    let from = args::parse_time(from, now).context("--from")?;
    let to = args::parse_time(&args.to, now).context("--to")?;
    ensure!(from < to, "--from must be before --to");
    if mode == Mode::Rebuild && args.selector.is_some() {
        bail!("--rebuild makes whole blocks, which hold all streams: --selector does not go with it");
    }
    let selector = args.selector.clone().unwrap_or_default();
    matchers_of(&selector)?;
    let by = args.by.into();
    let (age_max, grace) = if by == By::EntryTime { age_limits(&tenants, settings)? } else { (None, Duration::ZERO) };
    let window = Window { from, to, by, age_max, grace };
    let partitions = args.partitions.iter().copied().map(PartitionId::new).collect();
    Ok(Job { mode, tenants, selector, window, partitions })
}

fn tenants_of(args: &ReplayArgs) -> anyhow::Result<Tenants> {
    if args.all_tenants {
        return Ok(Tenants::All);
    }
    ensure!(!args.tenant.is_empty(), "name the tenants: --tenant NAME, or --all-tenants");
    let names = args.tenant.iter().map(|name| TenantId::new(name).with_context(|| format!("--tenant {name}")));
    Ok(Tenants::These(names.collect::<anyhow::Result<_>>()?))
}

fn mode_of(args: &ReplayArgs, tenants: &Tenants) -> anyhow::Result<Mode> {
    let Some(target) = &args.send else {
        ensure!(args.verify || args.rebuild, "say what to do: --verify, --rebuild or --send TARGET");
        return Ok(if args.verify { Mode::Verify } else { Mode::Rebuild });
    };
    let one = match tenants {
        Tenants::These(names) if names.len() == 1 => names.first(),
        _ => None,
    };
    let Some(tenant) = one else { bail!("--send takes the entries of one --tenant") };
    let known = ["http://", "https://", "file:"].iter().any(|scheme| target.starts_with(scheme));
    ensure!(known, "--send wants http://HOST:PORT, https://HOST:PORT or file:PATH, not {target:?}");
    let as_tenant = match &args.as_tenant {
        Some(name) => TenantId::new(name).with_context(|| format!("--as-tenant {name}"))?,
        None => tenant.clone(),
    };
    Ok(Mode::Send { target: target.clone(), as_tenant })
}

/// The maximum age of entries and how far they may be in the future, over all these tenants. No age: any is accepted.
fn age_limits(tenants: &Tenants, settings: &Settings) -> anyhow::Result<(Option<Duration>, Duration)> {
    let overrides = Overrides::load(settings.limits_config.clone(), settings.runtime_config.files())?;
    let limits: Vec<_> = match tenants {
        Tenants::These(names) => names.iter().map(|name| overrides.for_tenant(name)).collect(),
        Tenants::All => {
            let own = overrides.tenants().into_iter().map(|(_, limits)| limits);
            own.chain([overrides.defaults().clone()]).collect()
        }
    };
    let takes_any_age = limits.iter().any(|l| !l.reject_old_samples || l.reject_old_samples_max_age.get().is_zero());
    let age_max = limits.iter().map(|l| l.reject_old_samples_max_age.get()).max();
    let grace = limits.iter().map(|l| l.creation_grace_period.get()).max().unwrap_or_default();
    Ok((age_max.filter(|_| !takes_any_age), grace))
}
