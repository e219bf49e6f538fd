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
    let ended = runtime.block_on(server::run(role, settings));
    // What did not end within the grace period, a client that hangs say, does not keep the process.
    runtime.shutdown_timeout(EXIT_MAX);
    ended
}

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
