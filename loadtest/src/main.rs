//! Load, fault and benchmark commands. Each can be run again by anyone and prints what it measured.
//!
//! - `loadtest verify` kills the server over and over while clients push, and checks every acknowledged line;
//! - `loadtest bench` pushes a corpus, waits until all of it is in blocks, runs queries, and prints one table;
//! - `loadtest cluster` runs every role as processes on real Kafka brokers and an S3 server;
//! - `loadtest chaos` makes everything fail that may fail in such a cluster, and accounts for every line;
//! - `loadtest replay-speed` kills a consumer that holds much and measures how fast it serves again.

mod bench;
mod chaos;
mod cluster;
mod corpus;
mod http;
mod ingest;
mod ledger;
mod lines;
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
    /// Push numbered lines while the server is killed and restarted; then account for every one of them
    Verify(verify::Args),
    /// Push a corpus, run the queries, print CPU, memory and stored bytes
    Bench(bench::Args),
    /// Start, look at, and end a cluster on this machine: Kafka, an S3 server, and several processes of each role
    Cluster(cluster::Args),
    /// Make a cluster of its own fail in every way for some minutes, and account for every line
    Chaos(chaos::Args),
    /// Kill a consumer with much that is not in blocks yet, and measure how fast it serves again
    ReplaySpeed(replay::Args),
    /// An S3 server on this machine, for `cluster`
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
