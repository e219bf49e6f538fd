//! A log line's whole journey through the real binary: push, query, kill, flush, stop, blocks.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests own what they start, and say what they skip"
)]

mod common;

use std::path::{Path, PathBuf};

use common::{Server, millrace, succeeded};

/// Real logs when they are beside the checkout, else lines with the same oddities.
fn sample_files(scratch: &Path) -> Vec<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/logs");
    if let Ok(entries) = std::fs::read_dir(shared) {
        let mut files: Vec<PathBuf> = entries.map(|e| e.expect("listed").path()).collect();
        files.retain(|f| f.extension().is_some_and(|e| e == "log"));
        files.sort();
        assert!(!files.is_empty(), "the folder of samples is empty");
        return files;
    }
    let file = scratch.join("sample.log");
    let lines = (0..2000).map(|i| format!("line {i}\t\"quoted\" \\back\\ é 日本 {}\r", "x".repeat(i % 300)));
    std::fs::write(&file, lines.collect::<Vec<_>>().join("\n")).expect("written");
    vec![file]
}

/// What `query --output raw` must print for a file: its lines, each ended.
fn expected_lines(file: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(file).expect("readable");
    if !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    bytes
}

#[test]
fn real_logs_come_out_as_they_went_in() {
    let mut server = Server::start();
    let files = sample_files(server.folder.path());
    let check_all = |server: &Server, moment: &str| {
        for file in &files {
            let selector = format!("{{filename={:?}}}", file.display().to_string());
            let out =
                succeeded(server.client(&["query", &selector, "--forward", "--limit", "5000", "--output", "raw"]));
            assert!(out == expected_lines(file), "{} differs {moment}", file.display());
            let count = format!("sum(count_over_time({selector}[2h]))");
            let out = String::from_utf8(succeeded(server.client(&["query", "--instant", &count]))).expect("text");
            let lines = expected_lines(file).iter().filter(|b| **b == b'\n').count();
            assert!(out.trim_end().ends_with(&format!(" {lines}")), "{count} {moment}: {out}");
        }
    };
    for file in &files {
        succeeded(server.client(&["push", "--quiet", "--label", "job=samples", &file.display().to_string()]));
    }
    check_all(&server, "in memory");
    server.kill_and_restart();
    check_all(&server, "after a kill");
    assert_eq!(server.post("/flush", "text/plain", b"").0, 204);
    check_all(&server, "in blocks");
    server.kill_and_restart();
    check_all(&server, "in blocks, after a kill");
    assert!(server.stop().success(), "{}", server.log());
    let data = server.data_dir().display().to_string();
    let verified = succeeded(millrace().args(["blocks", "verify", "--data-dir", &data]).output().expect("runs"));
    assert!(String::from_utf8_lossy(&verified).contains("0 problems"), "{}", String::from_utf8_lossy(&verified));
}

#[test]
fn client_commands_show_what_is_there() {
    let server = Server::start();
    server.client_with_input(&["push", "-q", "-l", "app=web", "-l", "env=prod"], b"one error\ntwo\n");
    server.client_with_input(&["push", "-q", "-l", "app=db"], b"three error\n");
    let text = |arguments: &[&str]| String::from_utf8(succeeded(server.client(arguments))).expect("text");
    assert_eq!(text(&["labels"]), "app\nenv\nservice_name\n");
    assert_eq!(text(&["labels", "app"]), "db\nweb\n");
    assert_eq!(text(&["series", r#"{app="db"}"#]), "{app=\"db\", service_name=\"db\"}\n");
    assert_eq!(text(&["query", "-o", "raw", "--forward", r#"{app=~".+"} |= "error""#]), "one error\nthree error\n");
    assert!(text(&["query", r#"{app="web"}"#]).contains(r#"app="web""#));
    assert!(
        text(&["query", "--instant", r#"sum by (app) (count_over_time({app=~".+"}[1h]))"#]).contains("{app=\"web\"} ")
    );
    let refused = server.client(&["query", r#"{app="#]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("parse error at line 1, col 6"), "{refused:?}");
    let nobody = millrace().args(["labels", "--addr", "http://127.0.0.1:1"]).output().expect("runs");
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("cannot reach"), "{nobody:?}");
}

#[test]
fn tenants_are_kept_apart() {
    let server = Server::start_with(&[("AUTH_ENABLED", "true")]);
    server.client_with_input(&["push", "-q", "-l", "app=web", "--tenant", "one"], b"of one\n");
    server.client_with_input(&["push", "-q", "-l", "app=web", "--tenant", "two"], b"of two\n");
    let raw = |tenant: &str| server.client(&["query", "-o", "raw", "--tenant", tenant, r#"{app="web"}"#]).stdout;
    assert_eq!(raw("one"), b"of one\n");
    assert_eq!(raw("two"), b"of two\n");
    assert_eq!(raw("three"), b"");
    let (status, body) = server.get("/loki/api/v1/labels");
    assert_eq!((status, body.as_slice()), (401, &b"no org id\n"[..]));
}

#[test]
fn tail_follows() {
    use std::io::{BufRead as _, BufReader};
    let server = Server::start();
    server.client_with_input(&["push", "-q", "-l", "app=web"], b"before\n");
    let mut tail = millrace();
    tail.args(["tail", "-o", "raw", r#"{app="web"}"#]).env("MILLRACE_ADDR", &server.url);
    let mut tail = tail.stdout(std::process::Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("readable");
    assert_eq!(next(), "before");
    server.client_with_input(&["push", "-q", "-l", "app=web"], b"after 1\nafter 2\n");
    server.client_with_input(&["push", "-q", "-l", "app=other"], b"not this\n");
    server.client_with_input(&["push", "-q", "-l", "app=web"], b"after 3\n");
    assert_eq!([next(), next(), next()], ["after 1", "after 2", "after 3"]);
    tail.kill().expect("it runs");
    tail.wait().expect("it ends");
}

#[test]
fn blocks_can_be_listed_inspected_and_verified() {
    let mut server = Server::start();
    server.client_with_input(&["push", "-q", "-l", "app=web"], b"one\ntwo\n");
    assert_eq!(server.post("/flush", "text/plain", b"").0, 204);
    assert!(server.stop().success());
    let data = server.data_dir().display().to_string();
    let run = |arguments: &[&str]| millrace().args(arguments).args(["--data-dir", &data]).output().expect("runs");
    let listed = String::from_utf8(succeeded(run(&["blocks", "ls"]))).expect("text");
    let key = listed.split_whitespace().find(|word| word.ends_with(".parquet")).expect("a key").to_owned();
    let inspected = String::from_utf8(succeeded(run(&["blocks", "inspect", &key]))).expect("text");
    assert!(inspected.contains("rows") && inspected.contains("line"), "{inspected}");
    assert!(String::from_utf8_lossy(&succeeded(run(&["blocks", "verify"]))).contains("0 problems"));

    let file = server.data_dir().join("store").join(&key);
    let mut bytes = std::fs::read(&file).expect("the block is a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(&file, bytes).expect("writable");
    assert!(!run(&["blocks", "verify"]).status.success(), "a flipped byte must be found");
}

#[test]
fn roles_work_one_after_the_other_on_the_same_data() {
    let mut server = Server::start();
    assert!(server.stop().success());
    let push = |server: &Server, line: &[u8]| server.client_with_input(&["push", "-q", "-l", "app=web"], line);

    server.start_as("gateway");
    push(&server, b"into the log\n");
    assert_eq!(server.get("/loki/api/v1/labels").0, 404);
    assert!(server.stop().success(), "{}", server.log());

    let data = server.data_dir().display().to_string();
    let builder = millrace().args(["builder", "--http", "127.0.0.1:0", "--data-dir", &data]).output().expect("runs");
    succeeded(builder);
    let listed = succeeded(millrace().args(["blocks", "ls", "--data-dir", &data]).output().expect("runs"));
    assert!(String::from_utf8_lossy(&listed).contains("1 blocks"), "{}", String::from_utf8_lossy(&listed));

    server.start_as("query-service");
    assert_eq!(server.lines(r#"{app="web"}"#), ["into the log"]);
    assert_eq!(server.post("/loki/api/v1/push", "application/json", b"{}").0, 404);
    assert!(server.stop().success(), "{}", server.log());

    server.start_as("consumer");
    assert!(server.stop().success(), "{}", server.log());
}

#[test]
fn blocks_of_a_lost_log_are_still_read() {
    let mut server = Server::start();
    server.client_with_input(&["push", "-q", "-l", "app=web"], b"old\n");
    assert_eq!(server.post("/flush", "text/plain", b"").0, 204);
    server.kill_and(|data| std::fs::remove_dir_all(data.join("log")).expect("the log is there"));
    server.client_with_input(&["push", "-q", "-l", "app=web"], b"new\n");
    assert_eq!(server.lines(r#"{app="web"}"#), ["old", "new"]);
    assert!(server.log().contains("blocks of another log"), "{}", server.log());
}

#[test]
fn bad_settings_are_refused_with_a_hint() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |yaml: &str, expected: &str| {
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, yaml).expect("written");
        let out = millrace().args(["config", "check"]).arg(&file).output().expect("runs");
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains(expected), "{yaml}: {text}");
    };
    check("limits_config:\n  ingestion_rate_mbs: 5\n", "did you mean `ingestion_rate_mb`");
    check("auth_enable: true\n", "did you mean `auth_enabled`");
    check("server:\n  http_listen_port: many\n", "http_listen_port");
    let out = millrace().args(["config", "check"]).env("MILLRACE_AUTH_ENABELD", "true").output().expect("runs");
    assert!(String::from_utf8_lossy(&out.stderr).contains("auth_enabled"), "{out:?}");
}

#[test]
fn doctor_and_help_read_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let out =
        millrace().args(["doctor", "--http", "127.0.0.1:0", "--data-dir"]).arg(folder.path()).output().expect("runs");
    let text = String::from_utf8(succeeded(out)).expect("text");
    for part in ["log", "store", "clock", "disk", "port"] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    let help = String::from_utf8(succeeded(millrace().arg("--help").output().expect("runs"))).expect("text");
    for word in ["gateway", "consumer", "builder", "query-service", "push", "query", "tail", "doctor", "--data-dir"] {
        assert!(help.contains(word), "{word} is missing:\n{help}");
    }
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let server = Server::start();
    let data = server.data_dir().display().to_string();
    let out = millrace().args(["--http", "127.0.0.1:0", "--data-dir", &data]).output().expect("runs");
    assert!(!out.status.success());
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("another process"),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}
