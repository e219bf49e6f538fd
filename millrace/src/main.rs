//! The `millrace` binary: every server role, and the command-line tool.
//!
//! ```text
//! main ─ cli ─┬─ roles ─ process ─ components (log, store, clock, …) ─ parts (gateway, consumer, …)
//!             ├─ client           push, query, tail, labels, series: over HTTP, like any agent
//!             ├─ blocks, replay   read the store and the log directly
//!             └─ doctor           checks what a server needs
//! ```
//!
//! Settings are in `crates/settings`. Services know nothing of roles or of each other; [`parts`] connects them.
//!
//! # To add a role
//!
//! 1. `roles/NAME.rs`: the role as a value, with its name, its help and its parts.
//! 2. `roles.rs`: the module, and its line in `ROLES`. The command line follows from it.
//!
//! # To add a background task
//!
//! In a service that exists: `parts/SERVICE.rs`, one `with_task(name, phase, …)`. The task gets a token that is cancelled
//! in its phase of the shutdown; if it ends before, the process stops, with its error if it has one.
//!
//! As a part of its own:
//!
//! 1. `parts/NAME.rs`: makes it of the process's components and returns a `Part` with routes and tasks.
//! 2. `parts.rs`: its `PartKind`, and a line in `make`.
//! 3. `roles/*.rs`: the part in each role that runs it.
//! 4. If it has settings: a `Config` in its crate, a field in `crates/settings/src/lib.rs`, and a line in
//!    `docs/millrace.yaml`.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own what they start"))]

mod backends;
mod blocks;
mod cli;
mod client;
mod clock;
mod components;
mod doctor;
mod log_metrics;
mod membership;
mod parts;
mod process;
mod replay;
mod roles;
mod times;
mod watchdog;

use std::{io, process::ExitCode, time::Duration};

use clap::Parser as _;
use settings::{Flags, Settings};
use tokio::runtime::Runtime;

use crate::{
    cli::{Cli, Command, ConfigCommand, RoleCommand},
    parts::PartKind,
    roles::{ROLES, Role},
};

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

/// How long threads may take to end after the work did.
const EXIT_MAX: Duration = Duration::from_secs(2);

/// The exit code of `replay` for an error; 1 is for differences.
const REPLAY_FAILED: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let failed = match &cli.command {
        Some(Command::Replay(_)) => ExitCode::from(REPLAY_FAILED),
        _ => ExitCode::FAILURE,
    };
    run(&cli).unwrap_or_else(|error| {
        print_error(&error);
        failed
    })
}

#[expect(clippy::print_stderr, reason = "the error of a command is for a person")]
fn print_error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let settings = || Settings::load(&cli.flags);
    if cli.print_config {
        io::Write::write_all(&mut io::stdout(), settings()?.to_yaml()?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    match &cli.command {
        None => serve(ROLES[0], settings()?)?,
        Some(Command::Role(RoleCommand(role))) => serve(role, settings()?)?,
        Some(Command::Push(args)) => client::push::run(args)?,
        Some(Command::Query(args)) => client::query::run(args)?,
        Some(Command::Tail(args)) => async_runtime()?.block_on(client::tail::run(args))?,
        Some(Command::Labels(args)) => client::labels(args)?,
        Some(Command::Series(args)) => client::series(args)?,
        Some(Command::Blocks(args)) => async_runtime()?.block_on(blocks::run(&args.command, &settings()?))?,
        Some(Command::Config(args)) => check_config(&cli.flags, &args.command)?,
        Some(Command::Doctor) => async_runtime()?.block_on(doctor::run(&settings()?))?,
        Some(Command::Replay(args)) => {
            let code = async_runtime()?.block_on(replay::run(args, &cli.flags, &settings()?))?;
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(REPLAY_FAILED)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a server until it is told to end.
fn serve(role: &'static Role, settings: Settings) -> anyhow::Result<()> {
    // Other parts free little at once: a gateway would only return pages and ask for them again.
    if role.runs(PartKind::Consumer, &settings) {
        // No other thread runs yet. Where the option cannot be set, the process works, with a higher peak of memory.
        let _ = allocator::return_memory_immediately();
    }
    let runtime = async_runtime()?;
    watchdog::end_when_stuck(&runtime, watchdog::BEAT)?;
    let ended = runtime.block_on(process::run(role, settings));
    // Work that did not end within the grace period must not keep the process, for example a client that hangs.
    runtime.shutdown_timeout(EXIT_MAX);
    ended
}

fn async_runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn check_config(flags: &Flags, command: &ConfigCommand) -> anyhow::Result<()> {
    let ConfigCommand::Check { file } = command;
    let mut flags = flags.clone();
    flags.config = file.clone().or(flags.config);
    let settings = Settings::load(&flags)?;
    let overrides = limits::Overrides::load(settings.limits_config.clone(), settings.runtime_config.files())?;
    println!("the settings are good; {} tenants have limits of their own", overrides.tenants().len());
    Ok(())
}
