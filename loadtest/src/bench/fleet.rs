//! `loadtest bench --cluster`: the cost of ingest by role on real Kafka and an S3 server, beside all-in-one.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::args::Args;
use crate::{
    cluster::{Cluster, Counts, Layout, Role, flush},
    corpus::Corpus,
    http::Client,
    ingest::{NO_LIMITS, push_corpus, visibility},
    print::{mb, print_visibility},
    process::default_binary,
    procstat::{cpu_seconds, peak_rss_bytes},
};

/// A process: its name and its pid.
type Part = (String, u32);

pub(super) fn run(args: &Args, corpus: &Corpus, folder: &Path, all_in_one: f64) -> anyhow::Result<()> {
    let binary = args.millrace.clone().map_or_else(default_binary, Ok)?;
    let folder = folder.join("cluster");
    std::fs::create_dir_all(&folder)?;
    let counts = Counts { gateways: 1, consumers: 1, query_services: 1, ..Counts::default() };
    let mut layout = Layout::new(&folder.canonicalize()?, binary, counts);
    layout.set("auth_enabled", false);
    for (name, value) in NO_LIMITS {
        layout.set_by_variable(name, value);
    }
    let mut cluster = Cluster::start(layout)?;
    cluster.wait_ready(Duration::from_secs(240))?;
    let parts = parts(&cluster);
    let before = cpu(&parts)?;
    let client = |role, patience| {
        let addresses = cluster.addresses(role);
        Client::new(addresses.into_iter().next().unwrap_or_default(), Duration::from_secs(patience))
    };
    let (gateway, queries) = (client(Role::Gateway, 120), client(Role::QueryService, 60));
    let began = Instant::now();
    let latencies = push_corpus(corpus, std::slice::from_ref(&gateway), "fake", args.connections)?;
    let pushed = began.elapsed().as_secs_f64();
    flush(&cluster)?;
    let (wall, after) = (began.elapsed().as_secs_f64(), cpu(&parts)?);

    let gb = corpus.manifest.raw_bytes() as f64 / 1e9;
    println!("\ncluster: 3 brokers, an S3 server, one process of each role");
    println!("{:<16} {:>8} {:>20} {:>12}", "process", "CPU-s", "CPU-s per raw GB", "peak rss");
    let mut ours = 0.0;
    for (i, (name, pid)) in parts.iter().enumerate() {
        let used = after[i] - before[i];
        let of_ours = Role::ALL.iter().any(|role| name.starts_with(role.name()));
        ours += if of_ours { used } else { 0.0 };
        println!("{name:<16} {used:>8.1} {:>20.2} {:>9} MB", used / gb, mb(peak_rss_bytes(*pid)?));
    }
    println!("{:<16} {ours:>8.1} {:>20.2}", "all roles", ours / gb);
    println!("{:<16} {:>8} {all_in_one:>20.2}  (with the local log and a folder)", "all-in-one", "");
    println!(
        "wall                         {pushed:.1} s pushing, {wall:.1} s with blocks: {:.1} raw MB/s",
        gb * 1e3 / wall
    );
    println!("a push                       p50 {:.1} ms, p99 {:.1} ms", latencies.at(0.5), latencies.at(0.99));
    print_visibility(&visibility(&gateway, &queries, "fake")?);
    cluster.stop()
}

fn parts(cluster: &Cluster) -> Vec<Part> {
    let nodes = cluster.nodes.iter().filter_map(|n| Some((n.id.clone(), n.pid()?)));
    let brokers = (0..cluster.kafka.len()).filter_map(|i| Some((format!("broker {i}"), cluster.kafka.pid(i)?)));
    nodes.chain(brokers).chain([("S3 server".to_owned(), cluster.store.pid())]).collect()
}

fn cpu(parts: &[Part]) -> anyhow::Result<Vec<f64>> {
    parts.iter().map(|(_, pid)| cpu_seconds(*pid)).collect()
}
