//! `replay` as a person uses it: the real binary on the local log, beside the server and without it.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests own what they start, and say what they skip"
)]

mod common;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Server, millrace, succeeded};
use cut::{Cut, CutReason, SegmentWriter};
use log_bus::{FetchLimits, LocalLog, LogBus as _};
use model::{Offset, TimestampNs};
use object_store::{FolderStore, ObjectStore, PutCondition};
use schemas::record::Record;
use serde_json::Value;

/// Runs `replay` on the data of a server; the exit code and what was printed.
fn replay(data: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let folder = data.parent().expect("data lies in a folder");
    let mut command = millrace();
    command.arg("replay").args(arguments).arg("--data-dir").arg(data).current_dir(folder);
    let Output { status, stdout, stderr } = command.output().expect("the binary runs");
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

fn check(data: &Path, arguments: &[&str], code: i32, expected: &[&str]) -> String {
    let (found, text) = replay(data, arguments);
    assert_eq!(found, Some(code), "{arguments:?}: {text}");
    for part in expected {
        assert!(text.contains(part), "{arguments:?} should tell {part:?}:\n{text}");
    }
    text
}

fn push(server: &Server, tenant: &str, app: &str, lines: std::ops::Range<usize>) {
    let text: String = lines.map(|i| format!("line {i} of {app}, é, level={}\n", ["info", "error"][i % 2])).collect();
    let label = format!("app={app}");
    server.client_with_input(&["push", "-q", "-l", &label, "--tenant", tenant, "--batch-lines", "50"], text.as_bytes());
}

/// Every entry of a tenant, with labels and metadata, as the server answers.
fn entries(server: &Server, tenant: &str) -> BTreeMap<String, Vec<String>> {
    let query = ["query", r#"{app=~".+"}"#, "--forward", "--limit", "5000", "-o", "json", "--tenant", tenant];
    let answer: Value = serde_json::from_slice(&succeeded(server.client(&query))).expect("JSON");
    let mut streams: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for stream in answer["data"]["result"].as_array().expect("streams") {
        let values = stream["values"].as_array().expect("values").iter().map(Value::to_string);
        streams.entry(stream["stream"].to_string()).or_default().extend(values);
    }
    streams
}

fn count(server: &Server, tenant: &str, selector: &str) -> u64 {
    let query = format!("sum(count_over_time({selector}[2h]))");
    let out = succeeded(server.client(&["query", "--instant", &query, "--tenant", tenant]));
    let text = String::from_utf8(out).expect("text");
    text.split_whitespace().next_back().map_or(0, |number| number.parse().expect("a number"))
}

/// Keys of all listed blocks of tenants, in order.
fn block_keys(data: &Path) -> Vec<String> {
    let listed = succeeded(millrace().args(["blocks", "ls", "--data-dir"]).arg(data).output().expect("runs"));
    let text = String::from_utf8(listed).expect("text");
    text.split_whitespace().filter(|word| word.ends_with(".parquet")).map(str::to_owned).collect()
}

/// Lists a block that lacks the first record of tenant `one` in place of a good one, as a defect would have. Answers the
/// partition and the offset of the record.
async fn drop_a_record(data: &Path) -> (u32, i64) {
    let log = LocalLog::open_view(data.join("log")).expect("a log");
    let store: Arc<dyn ObjectStore> = Arc::new(FolderStore::open(data.join("store")).expect("a store"));
    let heads = catalogue::Heads::new(store.clone(), &log.log_id().0).expect("an id");
    for head in heads.all().await.expect("readable") {
        for block in &head.blocks {
            let limits = FetchLimits { bytes_max: 64 << 20, wait_max: Duration::ZERO };
            let records = log.fetch(head.partition, block.range.start, limits).await.expect("held").records;
            let mut records: Vec<_> = records.into_iter().filter(|r| block.range.contains(r.offset)).collect();
            let Some(dropped) = records.iter().position(|record| record.key == "one") else { continue };
            let offset = records.remove(dropped).offset;
            let mut writer = SegmentWriter::new();
            for record in records {
                writer.append(record.offset, &Record::decode(record.payload).expect("a record"));
            }
            let (partition, range, segment) = (head.partition, block.range, writer.freeze());
            let cut = Cut { partition, range, segment, reason: CutReason::Full, opened: TimestampNs::from_secs(1) };
            let made = block_builder::encode(&cut, heads.log_id(), TimestampNs::from_secs(1), &Default::default());
            let made = made.expect("encodes");
            let key = catalogue::block_key(heads.log_id(), partition, range).expect("a key");
            store.put(&key, made.bytes, PutCondition::IfAbsent).await.expect("put");
            let summary = made.summary;
            let tenants = summary.tenants.into_iter().map(|t| catalogue::TenantEntry {
                tenant: t.tenant,
                row_groups: t.row_groups,
                rows: t.rows,
                line_bytes: t.line_bytes,
                streams: t.streams,
                time: t.time,
            });
            let bad = catalogue::BlockEntry {
                key: key.to_string(),
                bytes: summary.bytes,
                tail_bytes: summary.tail_bytes,
                rows: summary.rows,
                line_bytes: summary.line_bytes,
                time: summary.time,
                tenants: tenants.collect(),
                ..block.clone()
            };
            heads.swap_blocks(partition, &[(block.key.clone(), bad)]).await.expect("swapped");
            return (partition.index(), offset.value());
        }
    }
    panic!("no block has a record of tenant one");
}

#[test]
fn blocks_are_verified_and_rebuilt_beside_the_server_and_without_it() {
    let mut server = Server::start_with(&[("AUTH_ENABLED", "true")]);
    let data = server.data_dir();
    for (round, app) in ["web", "db", "cache"].iter().enumerate() {
        push(&server, "one", app, 0..200 + round);
        push(&server, "two", app, 0..60);
        assert_eq!(server.post("/flush", "text/plain", b"").0, 204);
    }
    push(&server, "one", "late", 0..70);
    let (one, two) = (entries(&server, "one"), entries(&server, "two"));
    let verify = ["--verify", "--tenant", "one", "--from", "1h"];
    let same = "log and blocks are the same";

    // Beside the server, which has the last entries in memory only.
    check(&data, &verify, 0, &[same, "673 entries", "of which 70 entries are not in blocks yet"]);
    check(&data, &["--verify", "--all-tenants", "--from", "1h", "--by", "entry-time"], 0, &[same, "853 entries"]);
    check(&data, &["--verify", "--tenant", "one", "--from", "1h", "--selector", r#"{app="db"}"#], 0, &["201 entries"]);
    let before = block_keys(&data);
    check(&data, &["--rebuild", "--tenant", "one", "--from", "1h"], 0, &["the old one held the same", "0 were left"]);
    let after = block_keys(&data);
    assert_eq!(before.len(), after.len());
    assert!(after.iter().all(|key| !before.contains(key)));
    assert_eq!((entries(&server, "one"), entries(&server, "two")), (one.clone(), two.clone()));
    push(&server, "one", "late", 70..80);
    assert_eq!(server.post("/flush", "text/plain", b"").0, 204);
    check(&data, &verify, 0, &[same, "683 entries", "of which 0 entries"]);
    let one = entries(&server, "one");
    assert!(server.stop().success(), "{}", server.log());

    // A flipped byte.
    check(&data, &verify, 0, &[same]);
    let key = block_keys(&data).remove(0);
    let file = data.join("store").join(&key);
    let mut bytes = std::fs::read(&file).expect("the block is a file");
    bytes[20] ^= 0x55;
    std::fs::write(&file, bytes).expect("writable");
    check(&data, &["--verify", "--all-tenants", "--from", "1h"], 1, &["DIFFERENT", "cannot be read", &key]);
    check(&data, &["--rebuild", "--all-tenants", "--from", "1h"], 0, &["the old one could not be read"]);
    check(&data, &verify, 0, &[same]);

    // A block without one of its records.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (partition, offset) = runtime.block_on(drop_a_record(&data));
    let place =
        format!("partition {partition}, offsets [{offset}, {}), tenant one, {{app=", Offset::new(offset).next());
    check(&data, &verify, 1, &["log and blocks are DIFFERENT", &place, "the log holds"]);
    check(&data, &["--verify", "--tenant", "two", "--from", "1h"], 0, &[same]);
    check(&data, &["--rebuild", "--tenant", "one", "--from", "1h"], 0, &["the old one differed in", &place]);
    check(&data, &verify, 0, &[same]);
    let verified = succeeded(millrace().args(["blocks", "verify", "--data-dir"]).arg(&data).output().expect("runs"));
    assert!(String::from_utf8_lossy(&verified).contains("0 problems"));

    server.start_as("all");
    assert_eq!((entries(&server, "one"), entries(&server, "two")), (one, two));
    assert!(std::fs::read_dir(data.parent().expect("a folder")).expect("listed").all(|entry| {
        let name = entry.expect("listed").file_name();
        !name.to_string_lossy().starts_with("millrace-replay")
    }));
}

#[test]
fn entries_are_sent_to_a_file_and_to_another_server() {
    let server = Server::start_with(&[("AUTH_ENABLED", "true")]);
    let data = server.data_dir();
    push(&server, "one", "web", 0..120);
    push(&server, "two", "web", 0..10);
    assert_eq!(server.post("/flush", "text/plain", b"").0, 204);
    push(&server, "one", "db", 0..30);
    let from = ["--tenant", "one", "--from", "1h"];

    let dry = [&from[..], &["--send", "file:dry.jsonl", "--dry-run"]].concat();
    check(&data, &dry, 0, &["would send to file:dry.jsonl", "Nothing was done", "about 120 entries"]);
    assert!(!server.folder.path().join("dry.jsonl").exists());

    for name in ["out.jsonl", "out.jsonl.zst"] {
        let target = format!("file:{name}");
        check(&data, &[&from[..], &["--send", &target]].concat(), 0, &["all acknowledged", "150 entries"]);
        check(&data, &[&from[..], &["--send", &target]].concat(), 2, &["exists"]);
        let bytes = std::fs::read(server.folder.path().join(name)).expect("written");
        let text = if name.ends_with("zst") { zstd::stream::decode_all(&bytes[..]).expect("zstd") } else { bytes };
        let text = String::from_utf8(text).expect("text");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 150);
        let web: Vec<_> = lines.iter().filter(|line| line["labels"]["app"] == "web").collect();
        assert_eq!(web.len(), 120);
        for (i, line) in web.iter().enumerate() {
            let level = ["info", "error"][i % 2];
            assert_eq!(line["line"], format!("line {i} of web, é, level={level}"));
            assert_eq!(line["metadata"]["detected_level"], level);
            assert!(line["offset"].is_i64() && line["partition"].is_u64() && line["ts"].is_string());
        }
    }

    let other = Server::start_with(&[("AUTH_ENABLED", "true")]);
    let send = [&from[..], &["--send", &other.url, "--as-tenant", "three"]].concat();
    check(&data, &send, 0, &["as tenant three, all acknowledged", "150 entries"]);
    assert_eq!(entries(&other, "three"), entries(&server, "one"));
    assert_eq!(count(&other, "one", r#"{app=~".+"}"#), 0);
    let only = [&from[..], &["--send", &other.url, "--as-tenant", "four", "--selector", r#"{app="db"}"#]].concat();
    check(&data, &only, 0, &["30 entries"]);
    assert_eq!(count(&other, "four", r#"{app=~".+"}"#), 30);
}

#[test]
fn a_replay_that_was_stopped_goes_on_and_repeats_nothing() {
    let server = Server::start_with(&[("AUTH_ENABLED", "true")]);
    let data = server.data_dir();
    let text: String = (0..30_000).map(|i| format!("line {i} {}\n", "x".repeat(120))).collect();
    server.client_with_input(
        &["push", "-q", "-l", "app=web", "--tenant", "one", "--batch-lines", "500"],
        text.as_bytes(),
    );
    let other = Server::start_with(&[("AUTH_ENABLED", "true")]);

    let state = server.folder.path().join("state.json");
    let mut command = millrace();
    command.args([
        "replay",
        "--tenant",
        "one",
        "--from",
        "1h",
        "--send",
        &other.url,
        "--as-tenant",
        "copy",
        "--rate",
        "1.5",
    ]);
    command.arg("--data-dir").arg(&data).arg("--state").arg(&state).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the binary runs");
    let began = Instant::now();
    let is_under_way = || {
        let text = std::fs::read(&state).unwrap_or_default();
        let state: Value = serde_json::from_slice(&text).unwrap_or_default();
        state["partitions"].as_array().is_some_and(|all| all.iter().any(|p| p["steps"].as_u64() > Some(0)))
    };
    while !is_under_way() {
        assert!(began.elapsed() < Duration::from_secs(60), "no batch was sent");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a child has a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(130), "{text}");
    let go_on = text.lines().find_map(|line| line.strip_prefix("to go on:  millrace ")).expect("says how to go on");
    let sent = count(&other, "copy", r#"{app="web"}"#);
    assert!((1..30_000).contains(&sent), "{sent}");

    let words: Vec<&str> = go_on.split(' ').filter(|word| !word.is_empty()).collect();
    let words = &words[..words.iter().position(|word| *word == "--rate").expect("the rate is kept")];
    let text = String::from_utf8(succeeded(millrace().args(words).output().expect("runs"))).expect("text");
    assert!(text.contains("30000 entries") && text.contains("all acknowledged"), "{text}");
    assert_eq!(count(&other, "copy", r#"{app="web"}"#), 30_000);
    check(&data, &["--resume", &state.display().to_string()], 0, &["has already finished"]);
    assert_eq!(count(&other, "copy", r#"{app="web"}"#), 30_000);
}

#[test]
fn what_cannot_work_is_said() {
    let server = Server::start_with(&[("AUTH_ENABLED", "true")]);
    push(&server, "one", "web", 0..3);
    let data = server.data_dir();
    check(&data, &["--verify", "--from", "1h"], 2, &["--tenant NAME, or --all-tenants"]);
    check(&data, &["--tenant", "one", "--from", "1h"], 2, &["--verify"]);
    check(&data, &["--verify", "--tenant", "one", "--from", "soon"], 2, &["\"soon\" is no time"]);
    check(&data, &["--verify", "--tenant", "one", "--from", "1h", "--to", "2h"], 2, &["--from must be before --to"]);
    check(&data, &["--verify", "--tenant", "one", "--from", "1h", "--partitions", "0,9"], 2, &["no partition 9"]);
    check(&data, &["--verify", "--tenant", "one", "--from", "1h", "--selector", "{a"], 2, &["--selector"]);
    check(&data, &["--rebuild", "--tenant", "one", "--from", "1h", "--selector", "{a=\"b\"}"], 2, &["whole blocks"]);
    check(&data, &["--send", "ftp://x", "--tenant", "one", "--from", "1h"], 2, &["--send wants"]);
    check(&data, &["--send", "file:x", "--all-tenants", "--from", "1h"], 2, &["cannot be used with"]);
    check(&data, &["--resume", "missing.json"], 2, &["missing.json"]);
    check(&data.join("nowhere"), &["--verify", "--tenant", "one", "--from", "1h"], 2, &["there is no local log"]);
}
