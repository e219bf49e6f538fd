//! Load, fault and benchmark commands. Each can be run again by anyone and prints what it measured.
//!
//! - `loadtest verify` kills the server over and over while clients push, and checks every acknowledged line;
//! - `loadtest bench` pushes a corpus, waits until all of it is in blocks, runs queries, and prints one table.

mod bench;
mod corpus;
mod http;
mod ledger;
mod procstat;
mod server;
mod verify;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "loadtest", version, about = "Checks Millrace's promises and measures its cost", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Push numbered lines while the server is killed and restarted; then account for every one of them
    Verify(verify::Args),
    /// Push a corpus, run the queries, print CPU, memory and stored bytes
    Bench(bench::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Verify(args) => verify::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}
