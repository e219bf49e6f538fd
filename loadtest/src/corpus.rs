//! Corpora: folders of ready-made push bodies with a `manifest.json`. `corpus.py` of the shared bench writes them; where
//! that script is absent, the small generator below does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::Headers;

/// Which corpus to use.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CorpusArgs {
    /// Folder of a corpus that corpus.py or an earlier run made [default: make one]
    #[arg(long)]
    pub(crate) corpus: Option<PathBuf>,
    /// Number of lines, if a corpus is made
    #[arg(long, default_value_t = 5_000_000)]
    pub(crate) lines: u64,
    /// Encoding, if a corpus is made: json, json.gz or pb (the latter two only with the shared bench)
    #[arg(long, default_value = "json")]
    pub(crate) encoding: String,
    /// Folder with corpus.py and clickhouse.py
    #[arg(long, default_value = "../shared/bench")]
    pub(crate) shared: PathBuf,
}

impl CorpusArgs {
    /// Returns the folder of the corpus. Makes one under `folder` unless one is named.
    pub(crate) fn folder(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        if let Some(named) = &self.corpus {
            return Ok(named.clone());
        }
        let made = folder.join(format!("corpus-{}-{}", self.lines, self.encoding));
        if made.join("manifest.json").exists() {
            return Ok(made);
        }
        let script = self.shared.join("corpus.py");
        if script.exists() {
            let mut python = Command::new("python3");
            python.arg(&script).arg("--out").arg(&made).args(["--end", "1795204800", "--encoding", &self.encoding]);
            let status = python.args(["--lines", &self.lines.to_string()]).status()?;
            ensure!(status.success(), "corpus.py ended with {status}");
        } else {
            ensure!(self.encoding == "json", "without {} only json corpora can be made", script.display());
            println!(
                "{} is absent: generating a corpus of our own; compare its figures with themselves only",
                script.display()
            );
            generate(&made, self.lines, 1_795_204_800, 1)?;
        }
        Ok(made)
    }
}

/// A corpus, opened.
pub(crate) struct Corpus {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) manifest: Manifest,
}

/// What a corpus contains.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Manifest {
    /// Unix seconds of the newest line.
    pub(crate) end: i64,
    /// `json`, `json.gz` or `pb`.
    pub(crate) encoding: String,
    counts: Counts,
    needles: Needles,
}

#[derive(Clone, Debug, Deserialize)]
struct Counts {
    lines: u64,
    raw_bytes: u64,
    body_bytes: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Needles {
    old: String,
    mid: String,
    new: String,
}

impl Manifest {
    pub(crate) fn lines(&self) -> u64 {
        self.counts.lines
    }

    /// Bytes of the lines alone: "raw" in every ratio.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.counts.raw_bytes
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        self.counts.body_bytes
    }

    /// Replaces the placeholders of a query with the corpus's needles.
    pub(crate) fn fill(&self, query: &str) -> String {
        let needles = &self.needles;
        query
            .replace("$NEEDLE_OLD", &needles.old)
            .replace("$NEEDLE_MID", &needles.mid)
            .replace("$NEEDLE_NEW", &needles.new)
    }
}

impl Corpus {
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let manifest = folder.join("manifest.json");
        let text = fs::read(&manifest).with_context(|| format!("{} is no corpus", folder.display()))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).with_context(|| format!("{} is broken", manifest.display()))?;
        let ending = format!(".{}", manifest.encoding);
        let mut files: Vec<PathBuf> = fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
        files.retain(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("batch-")));
        files.retain(|f| f.to_string_lossy().ends_with(&ending));
        files.sort();
        ensure!(!files.is_empty(), "{} holds no batches", folder.display());
        Ok(Self { files, manifest })
    }

    /// Returns the headers of a body.
    pub(crate) fn headers(&self) -> Headers {
        let headers = match self.manifest.encoding.as_str() {
            "pb" => &[("Content-Type", "application/x-protobuf")][..],
            "json.gz" => &[("Content-Type", "application/json"), ("Content-Encoding", "gzip")],
            _ => &[("Content-Type", "application/json")],
        };
        headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }
}

/// Number of lines in a batch.
const BATCH_LINES: u64 = 5000;
/// Number of hosts. They push their batches in turn.
const HOSTS: u64 = 10;
/// Length of the corpus's time range, in seconds.
const WINDOW_SECS: i64 = 6 * 3600;
/// Systems that write plain lines, each with the form of its lines; `#` is a random number.
const PLAIN: [(&str, &str); 5] = [
    ("openssh", "sshd[#]: Failed password for invalid user u# from 10.#.#.# port # ssh2"),
    ("hadoop", "INFO [main] org.apache.hadoop.mapreduce.v2.app.MRAppMaster: Block report # of size # for task_#"),
    ("hdfs", "INFO dfs.DataNode$PacketResponder: Received block blk_-# of size # from /10.#.#.#"),
    ("spark", "ERROR Executor: Exception in task #.0 in stage #.0 (TID #): connection timeout"),
    ("zookeeper", "WARN [QuorumPeer] Connection request from /10.#.#.#:# refused, zxid 0x#"),
];

/// Writes a corpus of `lines` lines to `folder`, for machines without the shared bench. The same seed gives the same
/// bytes.
pub(crate) fn generate(folder: &Path, lines: u64, end: i64, seed: u64) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let batches = lines.div_ceil(BATCH_LINES);
    let width = WINDOW_SECS * 1_000_000_000 / i64::try_from(batches.div_ceil(HOSTS))?;
    let (mut raw_bytes, mut body_bytes) = (0, 0);
    let mut needles = Vec::new();
    for batch in 0..batches {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(batch));
        let needle = format!("{:032x}", random.u128(..));
        let from = (end - WINDOW_SECS) * 1_000_000_000 + i64::try_from(batch / HOSTS)? * width;
        let count = BATCH_LINES.min(lines - batch * BATCH_LINES);
        let body = batch_body(&mut random, batch % HOSTS, from, width, count, &needle, &mut raw_bytes)?;
        body_bytes += body.len() as u64;
        fs::write(folder.join(format!("batch-{batch:06}.json")), body)?;
        needles.push(needle);
    }
    let pick = |share: f64| needles[((batches - 1) as f64 * share) as usize].clone();
    let manifest = json!({
        "end": end, "encoding": "json", "seed": seed,
        "counts": {"lines": lines, "raw_bytes": raw_bytes, "body_bytes": body_bytes},
        "needles": {"old": pick(0.02), "mid": pick(0.5), "new": pick(0.98)},
    });
    fs::write(folder.join("manifest.json"), serde_json::to_vec_pretty(&manifest)?)?;
    Ok(())
}

fn batch_body(
    random: &mut fastrand::Rng,
    host: u64,
    from: i64,
    width: i64,
    count: u64,
    needle: &str,
    raw_bytes: &mut u64,
) -> anyhow::Result<Vec<u8>> {
    let mut streams = std::collections::BTreeMap::<(String, &str), Vec<Value>>::new();
    let step = width / i64::try_from(count)?;
    for i in 0..count {
        let time = from + i64::try_from(i)? * step + random.i64(0..step.max(1));
        let (system, level, mut line) = make_line(random);
        if i == count / 2 {
            line.push_str(" trace_id=");
            line.push_str(needle);
        }
        *raw_bytes += line.len() as u64;
        streams.entry((system, level)).or_default().push(json!([time.to_string(), line]));
    }
    let streams: Vec<Value> = streams
        .into_iter()
        .map(|((system, level), values)| {
            json!({"stream": {"system": system, "host": format!("host-{host:02}"), "level": level}, "values": values})
        })
        .collect();
    Ok(serde_json::to_vec(&json!({ "streams": streams }))?)
}

fn make_line(random: &mut fastrand::Rng) -> (String, &'static str, String) {
    let status = [200, 200, 200, 200, 301, 404, 500, 503][random.usize(..8)];
    let level = if status >= 500 {
        "error"
    } else if status == 404 {
        "warn"
    } else {
        "info"
    };
    let path = ["/api/v1/users", "/api/v1/orders", "/login", "/healthz"][random.usize(..4)];
    let method = ["GET", "GET", "POST", "PUT"][random.usize(..4)];
    let (latency, trace) = (random.u32(1..200_000) as f64 / 100.0, random.u128(..));
    match random.u8(..20) {
        0..3 => (
            "api-json".into(),
            level,
            format!(
                r#"{{"level":"{level}","method":"{method}","path":"{path}","status":{status},"latency_ms":{latency},"trace_id":"{trace:032x}","msg":"request handled"}}"#
            ),
        ),
        3..6 => (
            "api-logfmt".into(),
            level,
            format!(
                r#"level={level} component=gateway method={method} path={path} status={status} duration={latency}ms trace_id={trace:032x} msg="request handled""#
            ),
        ),
        _ => {
            let (system, form) = PLAIN[random.usize(..PLAIN.len())];
            let level = if form.contains("ERROR") {
                "error"
            } else if form.contains("WARN") {
                "warn"
            } else {
                "info"
            };
            let mut line = String::with_capacity(form.len() + 32);
            for c in form.chars() {
                if c == '#' { line.push_str(&random.u16(..).to_string()) } else { line.push(c) }
            }
            (system.into(), level, line)
        }
    }
}
