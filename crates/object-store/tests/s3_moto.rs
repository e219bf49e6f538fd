//! The contract on moto, an S3 server that shares no code with our test server.
//!
//! `MILLRACE_TEST_PYTHON` names a Python interpreter with `moto[server]`; `make test` sets it up.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]
#![allow(clippy::print_stderr, reason = "the test prints why it is skipped")]

mod common;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use common::{config, connect, key, reason};
use limits::ByteSize;
use millrace_object_store::{ObjectStore, PutCondition, S3Config, StoreError, contract, s3::client_config, self_test};

const START: &str = r#"
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("port", server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"#;

/// A moto server. It ends when its standard input is closed, even if the test is killed.
struct Moto {
    process: Child,
    endpoint: String,
}

impl Moto {
    fn start() -> Option<Self> {
        let Ok(python) = std::env::var("MILLRACE_TEST_PYTHON") else {
            assert!(std::env::var("CI").is_err(), "MILLRACE_TEST_PYTHON is not set: run the tests with `make test`");
            eprintln!("skipped: MILLRACE_TEST_PYTHON is not set (make test installs moto and sets it)");
            return None;
        };
        let mut command = Command::new(python);
        command.args(["-c", START]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("python runs");
        let output = process.stdout.take().expect("it is piped");
        let port = BufReader::new(output).lines().find_map(|line| {
            let line = line.expect("the output can be read");
            line.strip_prefix("port ").map(str::to_owned)
        });
        let port = port.expect("moto starts; is moto[server] installed?");
        Some(Self { process, endpoint: format!("http://127.0.0.1:{port}") })
    }

    async fn config(&self) -> S3Config {
        let config = config(&self.endpoint, "millrace-test");
        let client = aws_sdk_s3::Client::from_conf(client_config(&config).await.unwrap().build());
        let place = aws_sdk_s3::types::CreateBucketConfiguration::builder()
            .location_constraint(aws_sdk_s3::types::BucketLocationConstraint::EuCentral1)
            .build();
        client.create_bucket().bucket("millrace-test").create_bucket_configuration(place).send().await.unwrap();
        config
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let Some(moto) = Moto::start() else { return };
    let config = moto.config().await;
    contract::check_all("contract", || async { Arc::new(connect(&config).await) as Arc<dyn ObjectStore> }).await;

    // Uploads in parts.
    let config =
        S3Config { multipart_bytes_min: ByteSize::from_mb(5), multipart_part_bytes: ByteSize::from_mb(5), ..config };
    let store = connect(&config).await;
    contract::big_objects(&store, "big").await;
    let large = Bytes::from(vec![1; 6 << 20]);
    store.put(&key("large"), large.clone(), PutCondition::IfAbsent).await.unwrap();
    let again = store.put(&key("large"), large, PutCondition::IfAbsent).await;
    assert!(matches!(again, Err(StoreError::Precondition(_))), "{again:?}");

    // A bucket that does not exist.
    let nowhere = connect(&S3Config { bucket: "nowhere".to_owned(), ..config }).await;
    for text in [
        reason(nowhere.get(&key("a")).await.map(drop)),
        reason(nowhere.head(&key("a")).await),
        reason(nowhere.list("").await),
        reason(nowhere.put(&key("a"), Bytes::from_static(b"x"), PutCondition::IfAbsent).await),
    ] {
        assert!(text.contains("bucket does not exist"), "{text}");
    }
    assert!(self_test(&nowhere).await.is_err());
}
