//! `loadtest bench`: the cost of ingest, storage and queries, as one table.
//!
//! The corpus is pushed over four connections into a fresh server. `POST /flush` then waits until all of it is in
//! blocks, and the queries run. CPU-seconds are those of the whole server process, taken from `/proc`.

mod args;
mod fleet;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    corpus::{Corpus, Manifest},
    http::Client,
    ingest::{NO_LIMITS, push_corpus, visibility},
    print::{mb, print_visibility},
    process::{Process, default_binary},
    procstat::{cpu_seconds, peak_rss_bytes},
    server::ServerSpec,
};
pub(crate) use args::Args;

#[derive(Deserialize)]
struct Query {
    name: String,
    kind: String,
    window: i64,
    #[serde(default)]
    limit: u32,
    #[serde(default)]
    step: u32,
    #[serde(default)]
    logql: String,
    #[serde(default)]
    label: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&folder)?;
    let corpus_folder = args.corpus.folder(&folder)?;
    let corpus = Corpus::open(&corpus_folder)?;
    let manifest = &corpus.manifest;
    let (lines, raw) = (manifest.lines(), manifest.raw_bytes());
    println!(
        "corpus: {lines} lines, {} MB raw, {} MB of {} bodies",
        mb(raw),
        mb(manifest.body_bytes()),
        manifest.encoding
    );

    let binary = args.millrace.clone().map_or_else(default_binary, Ok)?;
    let mut spec = ServerSpec::new(binary, &folder)?;
    if spec.data_dir.exists() {
        bail!("{} has data already: give an empty --folder", folder.display());
    }
    for (name, value) in NO_LIMITS {
        spec.set(name, value);
    }
    let mut server = spec.start()?;
    let first_answer = spec.wait_ready(&mut server, Duration::from_secs(60))?;
    let all_in_one = ingest(args, &corpus, &spec, &server, first_answer)?;
    if args.cluster {
        server.stop(Duration::from_secs(60))?;
        return fleet::run(args, &corpus, &folder, all_in_one);
    }
    let client = spec.client(Duration::from_secs(30));
    print_visibility(&visibility(&client, &client, "fake")?);
    let ours = queries(args, manifest, &spec, &server)?;
    println!("peak rss after the queries   {} MB", mb(peak_rss_bytes(server.pid())?));
    restart(&spec, server)?;
    let theirs = match &args.clickhouse {
        Some(python) => clickhouse(args, python, &corpus_folder, &folder)?,
        None => BTreeMap::new(),
    };
    print_queries(&ours, &theirs);
    Ok(())
}

/// Pushes the corpus, waits until it is in blocks, and prints the cost.
fn ingest(
    args: &Args,
    corpus: &Corpus,
    spec: &ServerSpec,
    server: &Process,
    first_answer: Duration,
) -> anyhow::Result<f64> {
    let gb = corpus.manifest.raw_bytes() as f64 / 1e9;
    let pid = server.pid();
    let (cpu_before, began) = (cpu_seconds(pid)?, Instant::now());
    let client = spec.client(Duration::from_secs(120));
    let latencies = push_corpus(corpus, &[client], "fake", args.connections)?;
    let (pushed_wall, pushed_cpu) = (began.elapsed().as_secs_f64(), cpu_seconds(pid)? - cpu_before);
    let flushed = spec.client(Duration::from_secs(600)).post("/flush", "fake", &[], b"")?;
    ensure!(flushed.status == 204, "POST /flush answered {}: {}", flushed.status, flushed.text());
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds(pid)? - cpu_before);

    println!("\nstart to first answer        {:.3} s", first_answer.as_secs_f64());
    println!("ingest, all in blocks        {:.1} CPU-s per raw GB ({cpu:.1} CPU-s)", cpu / gb);
    println!("  of it until the last 204   {:.1} CPU-s per raw GB", pushed_cpu / gb);
    println!(
        "  wall                       {pushed_wall:.1} s pushing, {wall:.1} s with blocks: {:.1} raw MB/s",
        gb * 1e3 / wall
    );
    println!("  a push                     p50 {:.1} ms, p99 {:.1} ms", latencies.at(0.5), latencies.at(0.99));
    println!("peak rss while ingesting     {} MB", mb(peak_rss_bytes(pid)?));
    print_stages(&spec.client(Duration::from_secs(60)), gb)?;
    print_stored(&spec.data_dir.join("store"))?;
    if let Some(limit) = args.ingest_max {
        ensure!(cpu / gb <= limit, "ingest cost {:.1} CPU-s per raw GB, more than {limit}", cpu / gb);
    }
    Ok(cpu / gb)
}

/// Prints CPU by stage, from the server's own metrics.
fn print_stages(client: &Client, gb: f64) -> anyhow::Result<()> {
    let metrics = client.get("/metrics", "fake", &[])?.text();
    for line in metrics.lines().filter_map(|l| l.strip_prefix("millrace_stage_cpu_seconds_total{stage=\"")) {
        let (stage, seconds) = line.split_once("\"} ").context("unexpected form of a metric")?;
        println!("  stage {stage:<22} {:.2} CPU-s per raw GB", seconds.parse::<f64>()? / gb);
    }
    Ok(())
}

/// Prints the bytes on disk, by part of the blocks.
fn print_stored(store: &Path) -> anyhow::Result<()> {
    let mut blocks = Vec::new();
    let mut total = 0;
    walk(store, &mut |path, bytes| {
        total += bytes;
        if path.extension().is_some_and(|e| e == "parquet") {
            blocks.push(path.to_owned());
        }
    })?;
    println!("stored                       {} MB in {} blocks", mb(total), blocks.len());
    let mut parts = BTreeMap::<String, u64>::new();
    for path in &blocks {
        let inspection = block::inspect(fs::read(path)?.into())?;
        for (part, bytes) in inspection.parts() {
            *parts.entry(part).or_default() += bytes;
        }
    }
    for (part, bytes) in parts {
        println!("  {part:<26} {} MB", mb(bytes));
    }
    Ok(())
}

fn walk(folder: &Path, see: &mut impl FnMut(&Path, u64)) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() { walk(&entry.path(), see)? } else { see(&entry.path(), meta.len()) }
    }
    Ok(())
}

struct Measured {
    name: String,
    median_ms: f64,
    cpu_s: f64,
    rows: usize,
    note: String,
}

fn queries(args: &Args, manifest: &Manifest, spec: &ServerSpec, server: &Process) -> anyhow::Result<Vec<Measured>> {
    let text = match &args.queries {
        Some(file) => fs::read_to_string(file)?,
        None => include_str!("../queries.json").to_owned(),
    };
    let queries: Vec<Query> = serde_json::from_str(&text)?;
    let client = spec.client(Duration::from_secs(600));
    let mut all = Vec::new();
    for query in queries {
        let (path, parameters) = request_of(&query, manifest);
        let (mut walls, mut cpus, mut rows, mut note) = (Vec::new(), Vec::new(), 0, String::new());
        for _ in 0..args.k.max(1) {
            let (cpu, began) = (cpu_seconds(server.pid())?, Instant::now());
            let answer = client.get(&path, "fake", &parameters)?;
            walls.push(began.elapsed().as_secs_f64() * 1e3);
            cpus.push(cpu_seconds(server.pid())? - cpu);
            match answer.json() {
                Ok(json) => rows = count_rows(&json),
                Err(error) => note = error.to_string(),
            }
        }
        walls.sort_by(f64::total_cmp);
        cpus.sort_by(f64::total_cmp);
        let middle = walls.len() / 2;
        all.push(Measured { name: query.name, median_ms: walls[middle], cpu_s: cpus[middle], rows, note });
    }
    Ok(all)
}

/// Returns the path and the parameters of a query.
fn request_of(query: &Query, manifest: &Manifest) -> (String, Vec<(&'static str, String)>) {
    let nanos = |secs: i64| (secs * 1_000_000_000).to_string();
    let logql = manifest.fill(&query.logql).replace("$W", &format!("{}s", query.window));
    let span = [("start", nanos(manifest.end - query.window)), ("end", nanos(manifest.end))];
    let mut parameters: Vec<(&'static str, String)> = Vec::new();
    let path = match query.kind.as_str() {
        "logs" => {
            parameters.extend(span);
            parameters.extend([("query", logql), ("limit", query.limit.to_string()), ("direction", "backward".into())]);
            "query_range".to_owned()
        }
        "range" => {
            parameters.extend(span);
            parameters.extend([("query", logql), ("step", query.step.to_string())]);
            "query_range".to_owned()
        }
        "instant" => {
            parameters.extend([("query", logql), ("time", nanos(manifest.end))]);
            "query".to_owned()
        }
        "label_values" => {
            parameters.extend(span);
            format!("label/{}/values", query.label)
        }
        "series" => {
            parameters.extend(span);
            parameters.push(("match[]", logql));
            "series".to_owned()
        }
        _ => {
            parameters.extend(span);
            "labels".to_owned()
        }
    };
    (format!("/loki/api/v1/{path}"), parameters)
}

/// Counts the entries of a log answer, the series of a metric answer, or the names of a list.
fn count_rows(answer: &Value) -> usize {
    let data = &answer["data"];
    let Some(result) = data["result"].as_array() else { return data.as_array().map_or(0, Vec::len) };
    if data["resultType"] == "streams" {
        return result.iter().map(|s| s["values"].as_array().map_or(0, Vec::len)).sum();
    }
    result.len()
}

/// Stops the server cleanly and starts it again on the same data.
fn restart(spec: &ServerSpec, server: Process) -> anyhow::Result<()> {
    let began = Instant::now();
    server.stop(Duration::from_secs(60))?;
    println!("clean stop                   {:.2} s", began.elapsed().as_secs_f64());
    let mut server = spec.start()?;
    let ready = spec.wait_ready(&mut server, Duration::from_secs(60))?;
    println!("start to first answer        {:.3} s with all this data", ready.as_secs_f64());
    server.stop(Duration::from_secs(60)).map(|_| ())
}

/// Runs ClickHouse on the same corpus. Returns CPU-seconds by query.
fn clickhouse(args: &Args, python: &Path, corpus: &Path, folder: &Path) -> anyhow::Result<BTreeMap<String, f64>> {
    let out = folder.join("clickhouse.json");
    let mut command = Command::new(python);
    command
        .arg(args.corpus.shared.join("clickhouse.py"))
        .arg("--corpus")
        .arg(corpus)
        .arg("--work")
        .arg(folder.join("clickhouse"));
    let status = command.args(["-k", &args.k.to_string()]).arg("--out").arg(&out).status()?;
    ensure!(status.success(), "clickhouse.py ended with {status}");
    let found: Value = serde_json::from_slice(&fs::read(&out)?)?;
    println!(
        "clickhouse: ingest {} stored {} peak rss {} MB",
        found["ingest"], found["bytes_on_disk"], found["peak_rss_mb"]
    );
    let queries = found["queries"].as_object().into_iter().flatten();
    Ok(queries.filter_map(|(name, q)| Some((name.clone(), q["cpu_s"].as_f64()?))).collect())
}

fn print_queries(ours: &[Measured], clickhouse: &BTreeMap<String, f64>) {
    println!("\n{:32} {:>10} {:>9} {:>7} {:>14}", "query", "median ms", "CPU-s", "rows", "ClickHouse CPU");
    for query in ours {
        let theirs = clickhouse.get(&query.name).map_or_else(String::new, |cpu| format!("{cpu:.3}"));
        let Measured { name, median_ms, cpu_s, rows, note } = query;
        println!("{name:32} {median_ms:10.1} {cpu_s:9.3} {rows:7} {theirs:>14} {note}");
    }
}
