//! Clients nobody here wrote push unchanged: the OpenTelemetry SDK of Python (HTTP and gRPC), and Loki clients of
//! PyPI and npm. `make test` installs them; without that these tests say so and are skipped.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests own what they start, and say what they skip"
)]

mod common;

use std::{path::Path, process::Command};

use common::{Server, succeeded};

/// What an environment variable names, or `None` with a notice. In CI its absence is a failure.
fn installed(variable: &str) -> Option<String> {
    let found = std::env::var(variable).ok();
    if found.is_none() {
        assert!(std::env::var("CI").is_err(), "{variable} is not set: run the tests with `make test`");
        eprintln!("skipped: {variable} is not set (make test installs the clients and sets it)");
    }
    found
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

#[test]
fn opentelemetry_sdk() {
    let Some(python) = installed("MILLRACE_TEST_PYTHON") else { return };
    let server = Server::start();
    for protocol in ["http", "grpc"] {
        let mut command = Command::new(&python);
        command.arg(script("opentelemetry_push.py")).args([protocol, &server.url]);
        succeeded(command.output().expect("python runs"));
        let selector = format!(r#"{{service_name="shop-{protocol}"}}"#);
        let lines = server.lines(&selector);
        assert_eq!(lines.len(), 100, "{protocol}");
        assert_eq!((lines[0].as_str(), lines[99].as_str()), ("order 0 placed", "order 99 placed"), "{protocol}");
        let answer = server
            .ask("/loki/api/v1/query_range", &[("query", &format!(r#"{selector} | order_id="42""#)), ("since", "1h")]);
        let stream = &answer["data"]["result"][0]["stream"];
        assert_eq!(stream["severity_text"], "WARN", "{answer}");
        assert_eq!(stream["detected_level"], "warn", "{answer}");
        assert_eq!(stream["service_namespace"], "demo", "{answer}");
        assert_eq!(stream["team"], "checkout", "{answer}");
    }
}

#[test]
fn python_logging_loki() {
    let Some(python) = installed("MILLRACE_TEST_PYTHON") else { return };
    let server = Server::start();
    let mut command = Command::new(python);
    succeeded(command.arg(script("python_logging_loki.py")).arg(&server.url).output().expect("python runs"));
    let lines = server.lines(r#"{application="py", severity="warning"}"#);
    assert_eq!(lines.len(), 50);
    assert!(lines.contains(&"warning 49 é \"quoted\"".to_owned()), "{lines:?}");
}

#[test]
fn winston_loki() {
    let Some(modules) = installed("MILLRACE_TEST_NODE_PATH") else { return };
    let server = Server::start();
    for encoding in ["json", "protobuf"] {
        let mut command = Command::new("node");
        command.arg(script("winston_push.js")).args([&server.url, encoding]).env("NODE_PATH", &modules);
        succeeded(command.output().expect("node runs"));
        let lines = server.lines(&format!(r#"{{app="winston", encoding="{encoding}"}}"#));
        assert_eq!(lines.len(), 50, "{encoding}");
        assert!(lines[49].contains("message 49"), "{encoding}: {lines:?}");
    }
}
