//! Commands for load, faults and benchmarks. Anyone can run them again; each prints what it measured.
//!
//! - `loadtest verify` kills the server again and again while clients push, and checks every acknowledged line;
//! - `loadtest bench` pushes a corpus, waits until it is in blocks, runs queries, and prints one table;
//! - `loadtest cluster` runs every role as processes of its own on real Kafka brokers and an S3 server;
//! - `loadtest chaos` injects every kind of fault into such a cluster and accounts for every line;
//! - `loadtest replay-speed` kills a consumer that holds a lot of data and measures how soon it serves again.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what these commands do")]
#![allow(clippy::disallowed_methods, reason = "a tool: its seeds are printed, and its threads end with it")]

mod bench;
mod chaos;
mod cluster;
mod corpus;
mod http;
mod ingest;
mod ledger;
mod lines;
mod print;
mod process;
mod procstat;
mod replay;
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
    /// Push numbered lines while the server is killed and restarted, then account for every line
    Verify(verify::Args),
    /// Push a corpus, run the queries, and print CPU, memory and stored bytes
    Bench(bench::Args),
    /// Start, inspect and stop a cluster on this machine: Kafka, an S3 server, and several processes of each role
    Cluster(cluster::Args),
    /// Inject faults into a cluster for some minutes and account for every line
    Chaos(chaos::Args),
    /// Kill a consumer whose data is not in blocks yet, and measure how soon it serves again
    ReplaySpeed(replay::Args),
    /// Run an S3 server on this machine, for `cluster`
    #[command(hide = true)]
    S3(cluster::StoreArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Verify(args) => verify::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Chaos(args) => chaos::run(&args),
        Command::ReplaySpeed(args) => replay::run(&args),
        Command::S3(args) => cluster::serve_store(&args),
    }
}
