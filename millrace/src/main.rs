//! The `millrace` binary: every role, all-in-one, and the command-line tool.

mod blocks;
mod cli;
mod client;
mod clock;
mod cluster;
mod doctor;
mod log_metrics;
mod parts;
mod replay;
mod server;
mod settings;

use std::{
    os::unix::process::CommandExt as _,
    process::{self, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Parser as _;

use crate::{
    cli::{Cli, Command, ConfigCommand},
    server::Role,
    settings::Settings,
};

/// Pushes allocate and free megabytes on many threads; the system's allocator keeps too much of it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let settings = || Settings::load(&cli.server);
    if cli.server.print_config {
        print!("{}", settings()?.to_yaml()?);
        return Ok(());
    }
    let role = match &cli.command {
        None | Some(Command::All) => Role::All,
        Some(Command::Gateway) => Role::Gateway,
        Some(Command::Consumer) => Role::Consumer,
        Some(Command::Builder) => Role::Builder,
        Some(Command::QueryService) => Role::QueryService,
        Some(Command::Push(args)) => return client::push::run(args),
        Some(Command::Query(args)) => return client::query::run(args),
        Some(Command::Tail(args)) => return runtime()?.block_on(client::tail::run(args)),
        Some(Command::Labels(args)) => return client::labels(args),
        Some(Command::Series(args)) => return client::series(args),
        Some(Command::Blocks(args)) => return runtime()?.block_on(blocks::run(&args.command, &settings()?)),
        Some(Command::Config(args)) => return check_config(&cli, &args.command),
        Some(Command::Doctor) => return runtime()?.block_on(doctor::run(&settings()?)),
        Some(Command::Replay(args)) => process::exit(replay::main(args, &cli.server)),
    };
    let settings = settings()?;
    // Others hold little: a gateway spent a sixth of its CPU on pages that it gave back and asked for again.
    if role.consumes(&settings) {
        give_memory_back_at_once();
    }
    let runtime = runtime()?;
    end_when_stuck(&runtime, BEAT);
    let ended = runtime.block_on(server::run(role, settings));
    // What did not end within the grace period, a client that hangs say, does not keep the process.
    runtime.shutdown_timeout(EXIT_MAX);
    ended
}

/// Ends the process when none of its worker threads has done anything for long: all of them wait for something that never comes.
/// What is not stored is read again by whoever starts next; a process that hangs would hold on to its place.
fn end_when_stuck(runtime: &tokio::runtime::Runtime, beat: Duration) {
    let beats = Arc::new(AtomicU64::new(0));
    let beating = beats.clone();
    runtime.spawn(async move {
        loop {
            beating.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(beat).await;
        }
    });
    thread::spawn(move || {
        let (mut last, mut stuck) = (0, 0);
        // Looks are counted, so that time in which the whole process was paused does not count.
        while stuck < STUCK_BEATS {
            thread::sleep(beat);
            let now = beats.load(Ordering::Relaxed);
            stuck = if now == last { stuck + 1 } else { 0 };
            last = now;
        }
        eprintln!(
            "error: no work was done for {:?}: every thread waits; ending, to be started again",
            beat * STUCK_BEATS
        );
        process::exit(1);
    });
}

const BEAT: Duration = Duration::from_secs(1);

/// So many beats may be missing.
const STUCK_BEATS: u32 = 30;

/// How long threads may take to end after the work did.
const EXIT_MAX: Duration = Duration::from_secs(2);

/// What the allocator calls the time that it keeps freed memory before it gives it back.
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// Starts this program again in the same process with an allocator that gives freed memory back at once. It reads its
/// options from the environment before `main`, so there is no other way to set them without unsafe code. Measured with
/// `loadtest bench`, medians of three: peak memory while ingesting 522 to 471 MB, CPU 6.8 to 7.5 s per raw GB. Returns when the option is set, or nothing can be done.
fn give_memory_back_at_once() {
    if std::env::var_os(PURGE_DELAY).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut again = process::Command::new("/proc/self/exe");
    again.arg0(arguments.next().unwrap_or_else(|| "millrace".into())).args(arguments).env(PURGE_DELAY, "0");
    // It only returns on failure, and then this process is as good, but larger.
    let _ = again.exec();
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn check_config(cli: &Cli, command: &ConfigCommand) -> anyhow::Result<()> {
    let ConfigCommand::Check { file } = command;
    let mut args = cli.server.clone();
    args.config = file.clone().or(args.config);
    let settings = Settings::load(&args)?;
    let overrides = limits::Overrides::load(settings.limits_config.clone(), settings.runtime_config.files())?;
    println!("the settings are good; {} tenants have limits of their own", overrides.tenants().len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "MILLRACE_TEST_STUCK";

    /// Runs in processes of its own, each of one worker thread.
    #[test]
    fn a_process_without_a_free_thread_ends() {
        if let Ok(role) = std::env::var(ROLE) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            end_when_stuck(&runtime, Duration::from_millis(100));
            if role == "stuck" {
                runtime.spawn(async { thread::sleep(Duration::from_secs(60)) });
            }
            return thread::sleep(Duration::from_secs(6));
        }
        let ended = |role: &str| {
            let mut this = process::Command::new(std::env::current_exe().unwrap());
            this.args(["tests::a_process_without_a_free_thread_ends", "--exact", "--nocapture"]).env(ROLE, role);
            let output = this.output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).contains("no work was done for 3s"))
        };
        assert_eq!(ended("stuck"), (false, true));
        assert_eq!(ended("free"), (true, false));
    }
}
