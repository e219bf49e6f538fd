//! The real binary on a real Kafka broker and an S3 server, through the commands of an operator.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests own what they start, and say what they skip"
)]

mod common;

use std::process::Output;

use common::{Server, millrace, succeeded};
use testbed::{
    kafka::{KafkaCluster, KafkaOptions},
    s3::S3Server,
};

/// A broker, a store, and what tells processes of them.
struct World {
    kafka: KafkaCluster,
    _s3: S3Server,
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl World {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let kafka = KafkaCluster::start(KafkaOptions::default()).unwrap_or_else(|error| panic!("{error:#}"));
        let s3 = S3Server::start(&folder.path().join("s3"), "logs").expect("an S3 server");
        let environment = [
            ("MILLRACE_KAFKA__BROKERS", kafka.bootstrap()),
            ("MILLRACE_KAFKA__TOPIC", "journey".to_owned()),
            ("MILLRACE_KAFKA__PARTITIONS", "3".to_owned()),
            ("MILLRACE_KAFKA__REPLICATION_FACTOR", "1".to_owned()),
            ("MILLRACE_KAFKA__MIN_INSYNC_REPLICAS", "1".to_owned()),
            ("MILLRACE_STORE__S3__BUCKET", s3.bucket().to_owned()),
            ("MILLRACE_STORE__S3__ENDPOINT", s3.endpoint()),
            ("MILLRACE_STORE__S3__REGION", "us-east-1".to_owned()),
            ("MILLRACE_STORE__S3__PATH_STYLE", "true".to_owned()),
            ("MILLRACE_AUTH_ENABLED", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", s3.access_key().to_owned()),
            ("AWS_SECRET_ACCESS_KEY", s3.secret_key().to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self { kafka, _s3: s3, folder, environment }
    }

    /// Runs a command of the binary; its exit code and what it printed.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = millrace();
        command.args(arguments).envs(self.environment.clone()).current_dir(self.folder.path());
        let Output { status, stdout, stderr } = command.output().expect("the binary runs");
        (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
    }

    fn check(&self, arguments: &[&str], code: i32, expected: &[&str]) {
        let (found, text) = self.run(arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {text}");
        for part in expected {
            assert!(text.contains(part), "{arguments:?} should tell {part:?}:\n{text}");
        }
    }

    fn has_topic(&self) -> bool {
        self.kafka.admin().and_then(|admin| admin.leaders("journey")).is_ok_and(|leaders| !leaders.is_empty())
    }

    fn blocks(&self) -> Vec<String> {
        let (code, text) = self.run(&["blocks", "ls"]);
        assert_eq!(code, Some(0), "{text}");
        text.split_whitespace().filter(|word| word.ends_with(".parquet")).map(str::to_owned).collect()
    }
}

fn push(server: &Server, tenant: &str, lines: std::ops::Range<usize>) {
    let text: String = lines.map(|i| format!("line {i}, é\n")).collect();
    server.client_with_input(
        &["push", "-q", "-l", "app=web", "--tenant", tenant, "--batch-lines", "20"],
        text.as_bytes(),
    );
}

fn lines(server: &Server, tenant: &str) -> Vec<String> {
    let query = ["query", r#"{app="web"}"#, "--forward", "--limit", "5000", "-o", "raw", "--tenant", tenant];
    let text = String::from_utf8(succeeded(server.client(&query))).expect("text");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn an_installation_is_looked_at_filled_verified_rebuilt_and_sent_on() {
    let world = World::start();
    // Looking makes nothing.
    world.check(
        &["doctor"],
        0,
        &["topic journey does not exist yet", "3 partitions", "bucket logs supports conditional"],
    );
    let verify = ["replay", "--verify", "--tenant", "one", "--from", "1h"];
    world.check(&verify, 2, &["topic journey", "the topic does not exist"]);
    assert!(!world.has_topic());

    let mut server = Server::start_among(world.environment.clone());
    push(&server, "one", 0..150);
    push(&server, "two", 0..30);
    assert_eq!(server.post("/flush", "text/plain", b"").0, 204);
    push(&server, "one", 150..170);
    world.check(&["doctor"], 0, &["topic journey has 3 partitions"]);
    let expected: Vec<String> = (0..170).map(|i| format!("line {i}, é")).collect();
    assert_eq!(lines(&server, "one"), expected);

    let same = "log and blocks are the same";
    world.check(&verify, 0, &[same, "170 entries", "of which 20 entries are not in blocks yet"]);
    let before = world.blocks();
    let rebuild = ["replay", "--rebuild", "--all-tenants", "--from", "1h"];
    world.check(&[&rebuild[..], &["--dry-run"]].concat(), 0, &["Nothing was done"]);
    assert_eq!(world.blocks(), before);
    world.check(&rebuild, 0, &["the old one held the same", "0 were left"]);
    let after = world.blocks();
    assert_eq!(after.len(), before.len());
    assert!(after.iter().all(|key| !before.contains(key)), "{before:?} {after:?}");
    assert_eq!(lines(&server, "one"), expected);
    assert_eq!(lines(&server, "two"), expected[..30]);

    let other = Server::start_with(&[("AUTH_ENABLED", "true")]);
    let send = ["replay", "--tenant", "one", "--from", "1h", "--send", &other.url, "--as-tenant", "copy"];
    world.check(&send, 0, &["as tenant copy, all acknowledged", "170 entries"]);
    assert_eq!(lines(&other, "copy"), expected);

    assert!(server.stop().success(), "{}", server.log());
    world.check(&verify, 0, &[same, "170 entries"]);
    world.check(&["blocks", "verify"], 0, &["0 problems"]);
    server.start_as("all");
    assert_eq!(lines(&server, "one"), expected);
}
