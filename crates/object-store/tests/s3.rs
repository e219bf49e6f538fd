//! The S3 store with an S3 server in this process: the contract, with and without faults.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut};
use bytes::Bytes;
use common::{config_of, connect, key, reason};
use limits::ByteSize;
use millrace_object_store::{
    ObjectKey, ObjectStore, PutCondition, S3Config, S3Store, StoreError, contract, s3::client_config, self_test,
};
use testbed::s3::{FaultSettings, S3Server};
use tokio::task::JoinSet;

fn start() -> (tempfile::TempDir, S3Server) {
    let folder = tempfile::tempdir().unwrap();
    let server = S3Server::start(folder.path(), "millrace-test").unwrap();
    (folder, server)
}

async fn check_all(config: &S3Config) {
    contract::check_all("contract", || async { Arc::new(connect(config).await) as Arc<dyn ObjectStore> }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let (_folder, server) = start();
    check_all(&config_of(&server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_in_parts_and_under_a_prefix() {
    let (_folder, server) = start();
    let outside = connect(&config_of(&server)).await;
    outside.put(&key("installations-not-ours"), Bytes::from_static(b"x"), PutCondition::Always).await.unwrap();
    let config = S3Config {
        prefix: "installations/a".to_owned(),
        multipart_bytes_min: ByteSize::from_mb(5),
        multipart_part_bytes: ByteSize::from_mb(5),
        ..config_of(&server)
    };
    check_all(&config).await;
    let left = outside.list("").await.unwrap();
    assert_eq!(left.iter().map(|meta| meta.key.as_str()).collect::<Vec<_>>(), ["installations-not-ours"]);
}

/// Sends requests for `*.localhost` to the loopback address, as RFC 6761 demands of resolvers.
#[derive(Debug)]
struct ToLoopback(Arc<AtomicUsize>);

impl Intercept for ToLoopback {
    fn name(&self) -> &'static str {
        "to loopback"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let request = context.request_mut();
        let (scheme, rest) = request.uri().split_once("://").ok_or("no absolute URI")?;
        let (host, path) = rest.split_once('/').ok_or("no path")?;
        let (bucket, port) = host.split_once(".localhost:").ok_or("the bucket is not in the host")?;
        assert_eq!(bucket, "millrace-test");
        let (uri, host) = (format!("{scheme}://127.0.0.1:{port}/{path}"), host.to_owned());
        request.set_uri(uri)?;
        request.headers_mut().insert("host", host);
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_with_the_bucket_in_the_host() {
    let (_folder, server) = start();
    let requests = Arc::new(AtomicUsize::new(0));
    let config = S3Config { endpoint: server.virtual_host_endpoint(), path_style: false, ..config_of(&server) };
    contract::check_all("contract", || async {
        let client = client_config(&config).await.unwrap().interceptor(ToLoopback(requests.clone())).build();
        let client = aws_sdk_s3::Client::from_conf(client);
        Arc::new(S3Store::over(client, &config, None).unwrap()) as Arc<dyn ObjectStore>
    })
    .await;
    assert!(requests.load(Ordering::Relaxed) > 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_deletes_keep_the_contract_over_faults() {
    let (_folder, server) = start();
    server.faults().set(FaultSettings {
        error_share: 0.1,
        lose_reply_share: 0.1,
        slow_ms: 2,
        slow_share: 0.2,
        methods: ["GET", "HEAD", "DELETE"].map(str::to_owned).to_vec(),
        seed: Some(1),
        ..FaultSettings::default()
    });
    check_all(&config_of(&server)).await;
    let counts = server.faults().counts();
    assert!(counts.errors.min(counts.slow_downs).min(counts.replies_cut).min(counts.slowed) > 10, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_without_condition_keep_the_contract_over_faults() {
    let (_folder, server) = start();
    let config = S3Config {
        multipart_bytes_min: ByteSize::from_mb(5),
        multipart_part_bytes: ByteSize::from_mb(5),
        ..config_of(&server)
    };
    let store = connect(&config).await;
    let errors = FaultSettings { error_share: 0.15, seed: Some(2), ..FaultSettings::default() };
    server.faults().set(errors);
    contract::big_objects(&store, "big").await;
    server.faults().change(|settings| settings.lose_reply_share = 0.1);
    contract::put_and_get(&store, "put").await;
    contract::absent_objects(&store, "absent").await;
    contract::versions_name_contents(&store, "versions").await;
    contract::ranges(&store, "ranges").await;
    contract::listing(&store, "listing").await;
    contract::seen_by_other_instances(&store, &connect(&config).await, "seen").await;
    let instances: Vec<Arc<dyn ObjectStore>> = vec![Arc::new(store), Arc::new(connect(&config).await)];
    contract::readers_see_whole_objects(&instances, "whole").await;
}

/// Creates objects with unique names. No other client creates them, so only an earlier try of our own can cause a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_never_reported_as_a_refusal() {
    let (_folder, server) = start();
    let store = connect(&S3Config { attempts_max: 40, ..config_of(&server) }).await;
    server.faults().set(FaultSettings {
        error_share: 0.1,
        lose_reply_share: 0.4,
        methods: vec!["PUT".to_owned()],
        seed: Some(3),
        ..FaultSettings::default()
    });
    let (mut made, mut unclear) = (0, 0);
    for i in 0..200 {
        let name = key(&format!("unique/{i:03}"));
        match store.put(&name, Bytes::from(format!("{i}")), PutCondition::IfAbsent).await {
            Ok(_) => made += 1,
            Err(StoreError::Unavailable { reason, .. }) => {
                assert!(reason.contains("may have taken effect"), "{reason}");
                unclear += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    server.faults().clear();
    assert_eq!(store.list("unique/").await.unwrap().len(), 200);
    assert!(made > 50 && unclear > 30, "{made} {unclear}");
}

/// Appends a unique line to an object by compare-and-swap. After an unclear answer, checks whether the line is there.
async fn append_line(store: &S3Store, log: &ObjectKey, line: &str) {
    loop {
        let (mut text, condition) = match store.get(log).await {
            Ok(object) => (object.bytes.to_vec(), PutCondition::IfVersion(object.version)),
            Err(StoreError::NotFound(_)) => (Vec::new(), PutCondition::IfAbsent),
            Err(StoreError::Unavailable { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        if String::from_utf8_lossy(&text).lines().any(|known| known == line) {
            return;
        }
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
        match store.put(log, text.into(), condition).await {
            Ok(_) => return,
            Err(StoreError::Precondition(_) | StoreError::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compare_and_swap_is_exact_over_faults() {
    const TASKS: usize = 8;
    const LINES: usize = 10;
    let (_folder, server) = start();
    server.faults().set(FaultSettings {
        error_share: 0.1,
        lose_reply_share: 0.2,
        slow_ms: 3,
        slow_share: 0.1,
        seed: Some(4),
        ..FaultSettings::default()
    });
    let config = S3Config { attempts_max: 3, ..config_of(&server) };
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let store = connect(&config).await;
        tasks.spawn(async move {
            for line in 0..LINES {
                append_line(&store, &key("log"), &format!("{task} {line}")).await;
            }
        });
    }
    tasks.join_all().await;
    server.faults().clear();
    let log = connect(&config).await.get(&key("log")).await.unwrap().bytes;
    let mut lines: Vec<_> = std::str::from_utf8(&log).unwrap().lines().collect();
    lines.sort_unstable();
    let mut expected: Vec<_> =
        (0..TASKS).flat_map(|task| (0..LINES).map(move |line| format!("{task} {line}"))).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected, "each line once");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_hold_for_puts_in_parts() {
    let (folder, server) = start();
    let config = S3Config {
        multipart_bytes_min: ByteSize::from_mb(5),
        multipart_part_bytes: ByteSize::from_mb(5),
        ..config_of(&server)
    };
    let store = connect(&config).await;
    let name = key("large");
    let content = |byte: u8| Bytes::from(vec![byte; 11 << 20]);
    let first = store.put(&name, content(1), PutCondition::IfAbsent).await.unwrap();
    assert!(first.0.contains("-3"), "the upload must have three parts: {first:?}");
    let refused = async |condition: PutCondition| {
        let answer = store.put(&name, content(9), condition).await;
        assert!(matches!(answer, Err(StoreError::Precondition(_))), "{answer:?}");
    };
    refused(PutCondition::IfAbsent).await;
    let second = store.put(&name, content(2), PutCondition::IfVersion(first.clone())).await.unwrap();
    refused(PutCondition::IfVersion(first)).await;
    let small = store.put(&name, Bytes::from_static(b"small"), PutCondition::IfVersion(second.clone())).await.unwrap();
    refused(PutCondition::IfVersion(second)).await;
    assert_eq!(store.get(&name).await.unwrap().version, small);
    assert!(store.get(&name).await.unwrap().bytes == "small");
    // Refused uploads leave neither objects nor parts behind.
    assert_eq!(store.list("").await.unwrap().len(), 1);
    let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let parts = files.filter(|name| name.to_string_lossy().contains("part-"));
    assert_eq!(parts.count(), 0, "aborted uploads left parts behind");
}

/// As for small objects, a completion without an answer is never reported as a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn puts_in_parts_are_exact_over_faults() {
    let (_folder, server) = start();
    let config = S3Config {
        multipart_bytes_min: ByteSize::from_mb(5),
        multipart_part_bytes: ByteSize::from_mb(5),
        attempts_max: 40,
        ..config_of(&server)
    };
    let store = connect(&config).await;
    server.faults().set(FaultSettings { lose_reply_share: 0.5, seed: Some(5), ..FaultSettings::default() });
    let mut unclear = 0;
    for i in 0..20u8 {
        let name = key(&format!("large/{i:02}"));
        match store.put(&name, Bytes::from(vec![i; 6 << 20]), PutCondition::IfAbsent).await {
            Ok(_) => {}
            Err(StoreError::Unavailable { .. }) => unclear += 1,
            other => panic!("{other:?}"),
        }
    }
    server.faults().clear();
    assert_eq!(store.list("large/").await.unwrap().len(), 20, "an object is missing, whatever the answer was");
    assert!(unclear > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_conditions_is_refused() {
    let (_folder, server) = start();
    let store = connect(&config_of(&server)).await;
    self_test(&store).await.unwrap();
    server.faults().set_ignore_conditions(true);
    let text = self_test(&store).await.unwrap_err().to_string();
    assert!(text.contains("conditional writes"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_not_a_missing_object() {
    let (_folder, server) = start();
    let store = connect(&S3Config { bucket: "nowhere".to_owned(), ..config_of(&server) }).await;
    let name = key("object");
    let bytes = Bytes::from_static(b"x");
    for text in [
        reason(store.get(&name).await.map(drop)),
        reason(store.get_range(&name, 0..1).await),
        reason(store.get_ranges(&name, &[0..1, 3..3]).await),
        reason(store.head(&name).await),
        reason(store.put(&name, bytes.clone(), PutCondition::Always).await),
        reason(store.put(&name, bytes.clone(), PutCondition::IfAbsent).await),
        reason(store.delete(&name).await),
        reason(store.list("").await),
    ] {
        assert!(text.contains("bucket does not exist") && text.contains("NoSuchBucket"), "{text}");
        assert!(text.contains("request id TESTBED"), "{text}");
    }
    let text = self_test(&store).await.unwrap_err().to_string();
    assert!(text.contains("bucket does not exist"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_reported() {
    let (_folder, server) = start();
    let config = S3Config { access_key_id: "somebody".to_owned(), ..config_of(&server) };
    let text = reason(connect(&config).await.get(&key("object")).await.map(drop));
    assert!(text.contains("403") || text.contains("NotSignedUp"), "{text}");
    assert!(!text.contains("testbed-secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_and_comes_back() {
    let (_folder, server) = start();
    let store = connect(&S3Config { attempts_max: 3, ..config_of(&server) }).await;
    server.faults().set_down(true);
    let text = reason(store.put(&key("a"), Bytes::from_static(b"x"), PutCondition::IfAbsent).await);
    assert!(text.contains("3 tries"), "{text}");
    server.faults().set_down(false);
    store.put(&key("a"), Bytes::from_static(b"x"), PutCondition::IfAbsent).await.unwrap();
    assert_eq!(server.faults().counts().refused, 3);
}
