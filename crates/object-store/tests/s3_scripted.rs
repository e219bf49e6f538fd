//! The S3 store with answers that a real server does not give on demand.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

mod common;

use std::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use common::{Reply, Scripted, Seen, connect, key, problem, reason};
use http::Method;
use limits::ByteSize;
use millrace_object_store::{
    ObjectStore, PutCondition, S3Config, S3Store, StoreError, Version,
    s3::{Checksums, Encryption, Secret},
};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::task::JoinSet;

const CREATED: &str = "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>";
const COMPLETED: &str = "<CompleteMultipartUploadResult><ETag>\"whole-2\"</ETag></CompleteMultipartUploadResult>";

fn if_version() -> PutCondition {
    PutCondition::IfVersion(Version("\"v1\"".to_owned()))
}

/// Puts a small object while the server gives these answers, in order. The last answer repeats.
async fn put(condition: PutCondition, replies: Vec<Reply>) -> (Result<Version, StoreError>, Vec<Seen>) {
    let server = Scripted::start(move |i, _| replies[i.min(replies.len() - 1)].clone()).await;
    let store = connect(&S3Config { attempts_max: 4, ..server.config() }).await;
    let answer = store.put(&key("a/b"), Bytes::from_static(b"content"), condition).await;
    (answer, server.seen())
}

#[tokio::test]
async fn outcomes_of_a_put() {
    let error = Reply::error;
    let refused = error(412, "PreconditionFailed");
    let busy = error(409, "ConditionalRequestConflict");
    let check = async |condition: PutCondition, replies: &[Reply], expected: &str, requests: usize| {
        let (answer, seen) = put(condition, replies.to_vec()).await;
        let found = match answer {
            Ok(Version(etag)) => etag,
            Err(StoreError::Precondition(key)) => format!("refused {key}"),
            Err(StoreError::Unavailable { doing, reason }) => format!("{doing}: {reason}"),
            Err(other) => panic!("{other}"),
        };
        assert!(found.contains(expected), "{replies:?}: {found}");
        assert_eq!(seen.len(), requests, "{replies:?}");
    };
    let (always, absent) = (|| PutCondition::Always, || PutCondition::IfAbsent);
    check(absent(), &[Reply::etag("v2")], "\"v2\"", 1).await;
    check(absent(), std::slice::from_ref(&refused), "refused a/b", 1).await;
    check(if_version(), std::slice::from_ref(&refused), "refused a/b", 1).await;
    check(if_version(), &[error(404, "NoSuchKey")], "refused a/b", 1).await;
    check(if_version(), &[error(404, "NoSuchBucket")], "the bucket does not exist", 1).await;
    check(absent(), &[error(404, "NoSuchBucket")], "putting \"a/b\" in bucket \"bucket\"", 1).await;
    // A conflict means that nothing happened, so the next answer decides.
    check(absent(), &[busy.clone(), Reply::etag("v2")], "\"v2\"", 2).await;
    check(absent(), &[busy.clone(), refused.clone()], "refused a/b", 2).await;
    check(absent(), std::slice::from_ref(&busy), "409 ConditionalRequestConflict", 4).await;
    // A try without a clear answer may have taken effect, so a later refusal proves nothing.
    for unclear in [error(500, "InternalError"), error(503, "SlowDown"), Reply::Cut] {
        check(absent(), &[unclear.clone(), refused.clone()], "may have taken effect", 2).await;
        check(if_version(), &[unclear.clone(), busy.clone(), refused.clone()], "may have taken effect", 3).await;
        check(if_version(), &[unclear.clone(), Reply::etag("v2")], "\"v2\"", 2).await;
    }
    check(always(), &[error(503, "SlowDown")], "503 SlowDown: as the script says (request id REQ1); 4 tries", 4).await;
    check(always(), &[error(403, "AccessDenied")], "403 AccessDenied", 1).await;
    check(always(), &[error(403, "RequestTimeTooSkewed"), Reply::etag("v2")], "\"v2\"", 2).await;
    check(always(), &[error(400, "EntityTooLarge")], "400 EntityTooLarge", 1).await;
    // Without an ETag the object could never be replaced conditionally.
    check(always(), &[Reply::Status(200, vec![], Bytes::new())], "has no ETag", 4).await;
}

#[tokio::test]
async fn conditions_are_headers() {
    let check = async |condition: PutCondition, if_match: Option<&str>, if_none_match: Option<&str>| {
        let (_, seen) = put(condition, vec![Reply::etag("v2")]).await;
        assert_eq!((seen[0].header("if-match"), seen[0].header("if-none-match")), (if_match, if_none_match));
        assert_eq!((seen[0].path.as_str(), &seen[0].body[..]), ("/bucket/a/b", &b"content"[..]));
        assert_eq!(seen[0].header("x-amz-server-side-encryption"), None);
        assert!(seen[0].headers.keys().all(|name| !name.as_str().starts_with("x-amz-checksum")), "{seen:?}");
    };
    check(PutCondition::Always, None, None).await;
    check(PutCondition::IfAbsent, None, Some("*")).await;
    check(if_version(), Some("\"v1\""), None).await;
    check(PutCondition::IfVersion(Version("123".to_owned())), Some("\"123\""), None).await;
}

/// A server that answers an upload of two parts. `special` may answer a request instead.
async fn upload(special: impl Fn(usize, &Seen) -> Option<Reply> + Send + Sync + 'static) -> Scripted {
    Scripted::start(move |i, seen| {
        if let Some(reply) = special(i, seen) {
            return reply;
        }
        match (&seen.method, seen.query.contains("uploadId")) {
            (&Method::POST, false) => Reply::xml(CREATED),
            (&Method::POST, true) => Reply::xml(COMPLETED),
            (&Method::PUT, true) => Reply::etag("part"),
            (&Method::DELETE, true) => Reply::Status(204, vec![], Bytes::new()),
            _ => Reply::etag("whole"),
        }
    })
    .await
}

fn in_parts(server: &Scripted) -> S3Config {
    S3Config {
        multipart_bytes_min: ByteSize::from_mb(5),
        multipart_part_bytes: ByteSize::from_mb(5),
        attempts_max: 3,
        ..server.config()
    }
}

async fn put_large(config: &S3Config, condition: PutCondition) -> Result<Version, StoreError> {
    connect(config).await.put(&key("large"), Bytes::from(vec![7; 6 << 20]), condition).await
}

fn is_complete(seen: &Seen) -> bool {
    seen.method == Method::POST && seen.query.contains("uploadId")
}

#[tokio::test]
async fn encryption_is_requested() {
    let server = upload(|_, _| None).await;
    let config = S3Config {
        server_side_encryption: Encryption::AwsKms,
        kms_key_id: "alias/logs".to_owned(),
        ..in_parts(&server)
    };
    let store = connect(&config).await;
    store.put(&key("small"), Bytes::from_static(b"x"), PutCondition::Always).await.unwrap();
    put_large(&config, PutCondition::IfAbsent).await.unwrap();
    for seen in server.seen() {
        let makes = !seen.query.contains("uploadId");
        let found =
            (seen.header("x-amz-server-side-encryption"), seen.header("x-amz-server-side-encryption-aws-kms-key-id"));
        assert_eq!(found, if makes { (Some("aws:kms"), Some("alias/logs")) } else { (None, None) }, "{seen:?}");
    }
    let server = upload(|_, _| None).await;
    let store = connect(&S3Config { server_side_encryption: Encryption::Aes256, ..server.config() }).await;
    store.put(&key("small"), Bytes::from_static(b"x"), PutCondition::Always).await.unwrap();
    assert_eq!(server.seen()[0].header("x-amz-server-side-encryption"), Some("AES256"));
}

#[tokio::test]
async fn checksums_are_sent_if_configured() {
    let server = upload(|_, _| None).await;
    let config = S3Config { checksums: Checksums::WhenSupported, ..in_parts(&server) };
    let store = connect(&config).await;
    store.put(&key("small"), Bytes::from_static(b"x"), PutCondition::Always).await.unwrap();
    put_large(&config, PutCondition::Always).await.unwrap();
    let seen = server.seen();
    let with = |seen: &&Seen| seen.headers.keys().any(|name| name.as_str().contains("checksum-crc32"));
    let with = seen.iter().filter(with).filter(|seen| seen.method == Method::PUT).count();
    let trailing = seen.iter().filter(|seen| seen.header("x-amz-trailer").is_some()).count();
    assert_eq!(with + trailing, 3, "{seen:?}");
}

#[tokio::test]
async fn an_upload_in_parts() {
    let server = upload(|_, _| None).await;
    let version = put_large(&in_parts(&server), PutCondition::IfAbsent).await.unwrap();
    assert_eq!(version.0, "\"whole-2\"");
    let story = server.story();
    assert_eq!(story.first().map(String::as_str), Some("POST uploads"));
    assert_eq!(story.last().map(String::as_str), Some("POST uploadId"));
    assert_eq!(story.len(), 4, "{story:?}");
    let last = server.seen().pop().unwrap();
    assert_eq!(last.header("if-none-match"), Some("*"));
    let xml = String::from_utf8_lossy(&last.body).into_owned();
    assert!(xml.contains("<PartNumber>1</PartNumber>") && xml.contains("<PartNumber>2</PartNumber>"), "{xml}");
    let mut bytes: Vec<_> = server.seen()[1..3].iter().map(|seen| seen.body.len()).collect();
    bytes.sort_unstable();
    assert_eq!(bytes, [1 << 20, 5 << 20]);
}

#[tokio::test]
async fn outcomes_of_a_failed_upload_in_parts() {
    let count = |server: &Scripted, of: fn(&Seen) -> bool| server.seen().iter().filter(|seen| of(seen)).count();
    let creates = |seen: &Seen| seen.method == Method::POST && !seen.query.contains("uploadId");
    let aborts = |seen: &Seen| seen.method == Method::DELETE;

    // A part that cannot be uploaded: the upload is aborted.
    let server = upload(|_, seen| (seen.method == Method::PUT).then(|| Reply::error(500, "InternalError"))).await;
    let text = reason(put_large(&in_parts(&server), PutCondition::IfAbsent).await);
    assert!(text.contains("500 InternalError"), "{text}");
    assert_eq!((count(&server, is_complete), count(&server, aborts)), (0, 1));

    // The condition does not hold.
    let server = upload(|_, seen| is_complete(seen).then(|| Reply::error(412, "PreconditionFailed"))).await;
    let answer = put_large(&in_parts(&server), PutCondition::IfAbsent).await;
    assert!(matches!(answer, Err(StoreError::Precondition(_))), "{answer:?}");
    assert_eq!((count(&server, is_complete), count(&server, aborts)), (1, 1));

    // Status 200 with an error in the body, which S3 sends if a completion takes long.
    let late = "<Error><Code>InternalError</Code><Message>late</Message></Error>";
    let server = upload(move |_, seen| is_complete(seen).then(|| Reply::xml(late))).await;
    let text = reason(put_large(&in_parts(&server), PutCondition::IfAbsent).await);
    assert!(text.contains("InternalError"), "{text}");
    assert_eq!((count(&server, is_complete), count(&server, aborts)), (3, 1));

    // The answer to the completion is lost. The next try does not find the upload, since it was completed.
    let server = upload(|i, seen| match (is_complete(seen), i) {
        (true, 3) => Some(Reply::Cut),
        (true, _) => Some(Reply::error(404, "NoSuchUpload")),
        _ => None,
    })
    .await;
    let text = reason(put_large(&in_parts(&server), PutCondition::IfAbsent).await);
    assert!(text.contains("may have taken effect"), "{text}");
    assert_eq!(count(&server, is_complete), 2);

    // Another request for the object is being processed, so the whole upload is repeated.
    let server =
        upload(|i, seen| (is_complete(seen) && i == 3).then(|| Reply::error(409, "ConditionalRequestConflict"))).await;
    put_large(&in_parts(&server), PutCondition::IfAbsent).await.unwrap();
    assert_eq!((count(&server, creates), count(&server, is_complete), count(&server, aborts)), (2, 2, 1));
}

#[tokio::test]
async fn requests_with_broken_answers_are_retried() {
    let whole = Bytes::from((0..=255).cycle().take(100_000).collect::<Vec<u8>>());
    let check = async |reply: Reply, expected: &str| {
        let all = whole.clone();
        let server = Scripted::start(move |i, _| if i < 2 { reply.clone() } else { Reply::object("e", all.clone()) });
        let server = server.await;
        let store = connect(&S3Config { attempts_max: 2, ..server.config() }).await;
        let text = reason(store.get(&key("a")).await.map(drop));
        assert!(text.contains(expected), "{text}");
        assert!(store.get(&key("a")).await.unwrap().bytes == whole);
        assert_eq!(server.seen().len(), 3);
    };
    check(Reply::BreaksOff { body: whole.clone(), sent: 1000 }, "2 tries").await;
    check(Reply::Cut, "2 tries").await;
    check(Reply::Status(200, vec![], whole.clone()), "has no ETag").await;
    check(Reply::part_of("e", &whole, 5, 9), "not 0..100000").await;
}

/// The first and last position of a range header.
fn asked(seen: &Seen) -> (usize, usize) {
    let (first, last) = seen.header("range").unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    (first.parse().unwrap(), last.parse().unwrap())
}

#[tokio::test]
async fn ranges_are_joined_and_read_one_content() {
    let old = Bytes::from(vec![1u8; 3_000_000]);
    let new = Bytes::from(vec![2u8; 3_000_000]);
    let contents = (old.clone(), new.clone());
    // The object is replaced after the first answer.
    let server = Scripted::start(move |i, seen| {
        let (first, last) = asked(seen);
        if i == 0 {
            Reply::part_of("old", &contents.0, first, last)
        } else {
            Reply::part_of("new", &contents.1, first, last)
        }
    })
    .await;
    let store = connect(&server.config()).await;
    let ranges = [2_900_000..2_900_010, 0..10, 20..40, 5..6, 7..7];
    let found = store.get_ranges(&key("a"), &ranges).await.unwrap();
    let lengths: Vec<_> = found.iter().map(Bytes::len).collect();
    assert_eq!(lengths, [10, 10, 20, 1, 0]);
    assert!(found.iter().flatten().all(|byte| *byte == 2), "all ranges have the new content");
    let mut asked: Vec<_> = server.seen().iter().map(asked).collect();
    asked.sort_unstable();
    assert_eq!(asked, [(0, 39), (0, 39), (2_900_000, 2_900_009), (2_900_000, 2_900_009)]);

    // A server that does not support ranges answers with the whole object.
    let all = old.clone();
    let server = Scripted::start(move |_, _| Reply::object("e", all.clone())).await;
    let store = connect(&server.config()).await;
    assert_eq!(store.get_range(&key("a"), 5..9).await.unwrap(), vec![1, 1, 1, 1]);
    let behind = store.get_range(&key("a"), 5..3_000_001).await;
    assert!(matches!(behind, Err(StoreError::Range { bytes: 3_000_000, .. })), "{behind:?}");
}

#[tokio::test]
async fn time_outs() {
    // The server never answers: each try times out.
    let server = Scripted::start(|_, _| Reply::Hang).await;
    let config = S3Config {
        attempt_timeout: Duration::from_millis(50).into(),
        operation_timeout: Duration::from_secs(30).into(),
        attempts_max: 3,
        ..server.config()
    };
    let text = reason(connect(&config).await.get(&key("a")).await.map(drop));
    assert!(text.contains("did not come within 0.1 s") || text.contains("did not come within 0.0 s"), "{text}");
    assert_eq!(server.seen().len(), 3);

    let config = S3Config {
        attempt_timeout: Duration::from_millis(300).into(),
        operation_timeout: Duration::from_millis(300).into(),
        attempts_max: 1000,
        ..server.config()
    };
    reason(connect(&config).await.put(&key("a"), Bytes::from_static(b"x"), PutCondition::IfAbsent).await);
    assert!(server.seen().len() < 10);

    // Nothing listens on this port: the request fails at once.
    let config = S3Config { attempts_max: 2, ..common::config("http://127.0.0.1:1", "bucket") };
    let text = reason(connect(&config).await.get(&key("a")).await.map(drop));
    assert!(text.contains("2 tries"), "{text}");
}

#[tokio::test]
async fn the_breaker_stops_requests() {
    let server = Scripted::start(|i, _| match i {
        0..4 => Reply::error(500, "InternalError"),
        _ => Reply::object("e", "well again"),
    })
    .await;
    let config = S3Config {
        attempts_max: 1,
        breaker_failures: 3,
        breaker_pause: Duration::from_millis(200).into(),
        ..server.config()
    };
    let registry = Registry::new();
    let store = S3Store::connect(&config, Some(&registry)).await.unwrap();
    for _ in 0..3 {
        let text = reason(store.get(&key("a")).await.map(drop));
        assert!(text.contains("500 InternalError"), "{text}");
    }
    // If the pause is already over, this request is a probe. Otherwise it is not sent.
    let text = reason(store.get(&key("a")).await.map(drop));
    if server.seen().len() == 3 {
        assert!(text.contains("not sent") && text.contains("500 InternalError"), "{text}");
        let text = exposed(&registry);
        assert!(text.contains("millrace_object_store_breaker_state 2"), "{text}");
    }
    // The store recovers by itself.
    let mut answer = store.get(&key("a")).await;
    while answer.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer = store.get(&key("a")).await;
    }
    assert_eq!(server.seen().len(), 5, "three failures, a probe that failed, a probe that closed the breaker");
    let text = exposed(&registry);
    for line in [
        "millrace_object_store_breaker_state 0",
        "millrace_object_store_breaker_opened_total 1",
        r#"millrace_object_store_requests_total{operation="get",outcome="server_error"} 4"#,
        r#"millrace_object_store_requests_total{operation="get",outcome="ok"} 1"#,
        r#"millrace_object_store_request_seconds_count{operation="get"} 5"#,
        "millrace_object_store_received_bytes_total 10",
        "millrace_object_store_requests_in_flight 0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let twice = S3Store::connect(&config, Some(&registry)).await;
    assert!(problem(twice).contains("metrics"));
}

fn exposed(registry: &Registry) -> String {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_bounded() {
    let server = Scripted::start(|_, seen| {
        let reply = match seen.header("range") {
            None => Reply::object("e", "x"),
            Some(_) => {
                let (first, last) = asked(seen);
                Reply::part_of("e", &[7; 20_000_000], first, last)
            }
        };
        Reply::After(Duration::from_millis(10), Box::new(reply))
    })
    .await;
    let config = S3Config { concurrency_max: NonZeroUsize::new(3).unwrap(), ..server.config() };
    let store = connect(&config).await;
    let mut tasks = JoinSet::new();
    for i in 0..20 {
        let store = store.clone();
        tasks.spawn(async move { store.get(&key(&format!("{i}"))).await.unwrap() });
    }
    let ranges: Vec<_> = (0..15).map(|i| i * 1_000_000..i * 1_000_000 + 10).collect();
    let found = store.get_ranges(&key("many"), &ranges).await.unwrap();
    assert_eq!(found.len(), 15);
    tasks.join_all().await;
    assert_eq!(server.seen().len(), 35);
    assert!(server.most_in_flight() <= 3, "{}", server.most_in_flight());
}

#[tokio::test]
async fn listings() {
    let page = |keys: &[&str], next: Option<&str>| {
        let contents: String =
            keys.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>5</Size></Contents>")).collect();
        let next =
            next.map_or(String::new(), |token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
        let truncated = !next.is_empty();
        Reply::xml(format!(
            "<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{next}{contents}</ListBucketResult>"
        ))
    };
    let pages = [
        page(&["p/a", "p/b", "p/with space", "p/folder/"], Some("t1")),
        Reply::error(503, "SlowDown"),
        page(&["p/d", "p/c", "other"], None),
    ];
    let server = Scripted::start(move |i, _| pages[i].clone()).await;
    let store = connect(&S3Config { prefix: "p".to_owned(), ..server.config() }).await;
    let found: Vec<_> = store.list("").await.unwrap().into_iter().map(|meta| meta.key.to_string()).collect();
    assert_eq!(found, ["a", "b", "c", "d"], "invalid keys and other prefixes are skipped");
    assert!(server.seen()[2].query.contains("continuation-token=t1"));

    let again = page(&["p/a"], Some("same"));
    let server = Scripted::start(move |_, _| again.clone()).await;
    let text = reason(connect(&server.config()).await.list("").await);
    assert!(text.contains("again and again"), "{text}");
}

#[tokio::test]
async fn invalid_settings() {
    let config = S3Config { bucket: String::new(), attempts_max: 0, ..S3Config::default() };
    let text = problem(S3Store::connect(&config, None).await);
    assert!(text.contains("bucket is not set; attempts_max"), "{text}");
    let secret = S3Config { secret_access_key: Secret::new("hush"), ..common::config("http://127.0.0.1:1", "b") };
    let store = connect(&secret).await;
    assert!(!format!("{store:?} {secret:?}").contains("hush"));
}
