//! The gateway end to end: requests through its router, records read back from the log.

mod gateway;

use gateway::{NOW_S, Setup, ok, refused};
use millrace_ingest_gateway as ingest;

const JSON: &str = "application/json";

fn ts(offset_s: i64) -> String {
    format!("{}", (NOW_S + offset_s) * 1_000_000_000)
}

/// One stream with one line.
fn one(line: &str) -> String {
    format!(r#"{{"streams":[{{"stream":{{"app":"web"}},"values":[["{}",{line}]]}}]}}"#, ts(0))
}

#[tokio::test]
async fn json_bodies() {
    let check = async |body: &str, expected: Result<&[&str], (u16, &str)>| {
        let setup = Setup::new("");
        let answer = setup.push(JSON, "", body.as_bytes().to_vec()).await;
        match expected {
            Ok(rows) => {
                assert_eq!(answer, ok(), "{body}");
                assert_eq!(setup.rows().await, rows, "{body}");
            }
            Err((status, text)) => {
                assert_eq!(answer.0, status, "{body}: {}", answer.1);
                assert!(answer.1.contains(text) && answer.1.ends_with('\n'), "{body}: {}", answer.1);
                assert!(setup.rows().await.is_empty(), "{body}");
            }
        }
    };
    let row = |line: &str| format!(r#"{{app="web", service_name="web"}} 0 {line} detected_level=unknown"#);
    let t = ts(0);
    check(&one(r#""plain""#), Ok(&[&row("plain")])).await;
    check(&one(r#""a\tb\n\u00e9\ud83e\udd80\/""#), Ok(&[&row("a\tb\né🦀/")])).await;
    check(&format!("{} trailing garbage", one(r#""x""#)), Ok(&[&row("x")])).await;
    // Values before labels.
    let early = format!(r#"{{"streams":[{{"values":[["{t}","e",{{"k":"v"}}]],"x":[1],"stream":{{"app":"web"}}}}]}}"#);
    check(&early, Ok(&[r#"{app="web", service_name="web"} 0 e detected_level=unknown k=v"#])).await;
    // No line; more than three elements; numbers as label values; unknown keys.
    let odd =
        |values: &str| format!(r#"{{"a":{{"b":[]}},"streams":[{{"stream":{{"app":"web"}},"values":[{values}]}}]}}"#);
    check(&odd(&format!(r#"["{t}"]"#)), Ok(&[&row("")])).await;
    check(&odd(&format!(r#"["{t}","x",{{}},5,null]"#)), Ok(&[&row("x")])).await;
    let number = format!(r#"{{"streams":[{{"stream":{{"a":5,"app":"web"}},"values":[["{t}","x"]]}}]}}"#);
    check(&number, Ok(&[r#"{a="5", app="web", service_name="web"} 0 x detected_level=unknown"#])).await;
    // Structured metadata.
    let meta = |pairs: &str| odd(&format!(r#"["{t}","x",{pairs}]"#));
    check(
        &meta(r#"{"trace.id":"A","1st":"b","a__b":"c","empty":"","__x__":"y"}"#),
        Ok(&[r#"{app="web", service_name="web"} 0 x __x__=y a_b=c detected_level=unknown key_1st=b trace_id=A"#]),
    )
    .await;
    check(
        &meta(r#"{"level":"WARNING"}"#),
        Ok(&[r#"{app="web", service_name="web"} 0 x detected_level=warn level=WARNING"#]),
    )
    .await;
    check(&meta(r#"{"detected_level":"Err"}"#), Ok(&[r#"{app="web", service_name="web"} 0 x detected_level=error"#]))
        .await;
    check(&meta("null"), Err((400, "expected an object of strings"))).await;
    check(&meta(r#"{"a":1}"#), Err((400, "expected a string"))).await;
    check(&meta(r#"{"a":{"b":"c"}}"#), Err((400, "expected a string"))).await;
    for name in ["", "_", "..", "é"] {
        check(&meta(&format!(r#"{{"{name}":"v"}}"#)), Err((400, "has no character that may be kept"))).await;
    }
    // Streams without entries are not looked at.
    check(r#"{"streams":[{"stream":{},"values":[]}]}"#, Ok(&[])).await;
    check(r#"{"streams":[{"stream":{},"values":null}]}"#, Ok(&[])).await;
    // What is no push.
    check("{}", Err((422, "error at least one valid stream is required for ingestion"))).await;
    check(r#"{"streams":[]}"#, Err((422, "error at least one valid stream is required"))).await;
    check(r#"{"streams":null}"#, Err((422, "error at least one valid stream is required"))).await;
    check("", Err((400, "EOF"))).await;
    check("[]", Err((400, "expected an object with the key"))).await;
    check("{\"streams\":5}", Err((400, "expected an array of streams"))).await;
    check(&one("5"), Err((400, "expected a string"))).await;
    check(&one(r#""\ud800""#), Err((400, "lone surrogate"))).await;
    check(&one(r#""\ud800\u0041""#), Err((400, "surrogate"))).await;
    check(&one(r#""not closed"#), Err((400, "EOF"))).await;
    check(&odd("[5,\"x\"]"), Err((400, "expected a string"))).await;
    check(&odd("[]"), Err((400, "an entry has no timestamp"))).await;
    check(&odd("[\"x\",\"x\"]"), Err((400, "timestamp \"x\" is not a number of nanoseconds"))).await;
    check(&odd("[\"99999999999999999999\",\"x\"]"), Err((400, "is not a number of nanoseconds"))).await;
    for nanos in ["0", "-1", "-9223372036854775808"] {
        check(&odd(&format!("[\"{nanos}\",\"x\"]")), Err((400, "has a timestamp that is not after 1970-01-01"))).await;
    }
    // Labels.
    let labels = |labels: &str| format!(r#"{{"streams":[{{"stream":{labels},"values":[["{t}","x"]]}}]}}"#);
    check(&labels("{}"), Err((400, "error at least one label pair is required per stream"))).await;
    check(&labels(r#"{"a":""}"#), Err((400, "error at least one label pair is required per stream"))).await;
    check(
        &labels(r#"{"a.b":"c"}"#),
        Err((400, r#"error parsing labels '{a.b="c"}' with error: expected '=' at byte 2"#)),
    )
    .await;
    check(&labels(r#"{"a":["b"]}"#), Err((400, "expected a string"))).await;
    check(&labels("5"), Err((400, "expected an object of labels"))).await;
    let reserved = "streams must not contain the reserved labels __backfill__ or __backfill_shard__";
    check(&labels(r#"{"__backfill__":"true"}"#), Err((400, reserved))).await;
}

#[tokio::test]
async fn bytes_that_are_no_utf8() {
    let setup = Setup::new("");
    let body = one("\"a\u{1}b\"").replace('\u{1}', "\u{7f}").into_bytes();
    let body: Vec<u8> = body.into_iter().map(|b| if b == 0x7f { 0xff } else { b }).collect();
    assert_eq!(setup.push(JSON, "", body).await, ok());
    assert_eq!(setup.lines().await, [b"a\xffb".to_vec()]);
    // In a label it is refused, in metadata it becomes a blank.
    let setup = Setup::new("");
    let raw =
        |text: String| text.into_bytes().into_iter().map(|b| if b == 0x7f { 0xff } else { b }).collect::<Vec<u8>>();
    let label = format!("{{\"streams\":[{{\"stream\":{{\"a\":\"\u{7f}\"}},\"values\":[[\"{}\",\"x\"]]}}]}}", ts(0));
    assert_eq!(setup.push(JSON, "", raw(label)).await.0, 400);
    let meta = format!(
        "{{\"streams\":[{{\"stream\":{{\"a\":\"b\"}},\"values\":[[\"{}\",\"x\",{{\"k\":\"a\u{7f}b\"}}]]}}]}}",
        ts(0)
    );
    assert_eq!(setup.push(JSON, "", raw(meta)).await, ok());
    assert_eq!(setup.rows().await, [r#"{a="b", service_name="unknown_service"} 0 x detected_level=unknown k=a b"#]);
}

#[tokio::test]
async fn encodings() {
    let check = async |content_type: &str, encoding: &str, body: Vec<u8>, expected: Result<(), (u16, &str)>| {
        let setup = Setup::new("");
        let answer = setup.push(content_type, encoding, body).await;
        match expected {
            Ok(()) => {
                assert_eq!(answer, ok(), "{content_type} {encoding}");
                assert_eq!(setup.lines().await, [b"x".to_vec()]);
            }
            Err((status, text)) => {
                assert_eq!(answer.0, status, "{content_type} {encoding}: {}", answer.1);
                assert!(answer.1.contains(text), "{content_type} {encoding}: {}", answer.1);
            }
        }
    };
    let json = one(r#""x""#).into_bytes();
    let proto = gateway::proto(r#"{app="web"}"#, &[(NOW_S * 1_000_000_000, "x", &[])]);
    let packed = |packing: &str, body: &[u8]| gateway::pack(packing, body);
    check(JSON, "", json.clone(), Ok(())).await;
    check("application/json; charset=utf-8", "", json.clone(), Ok(())).await;
    for packing in ["gzip", "deflate", "zstd"] {
        check(JSON, packing, packed(packing, &json), Ok(())).await;
        check("application/x-protobuf", packing, packed(packing, &packed("snappy", &proto)), Ok(())).await;
        check(JSON, packing, b"not packed".to_vec(), Err((400, "cannot be unpacked"))).await;
        let cut = packed(packing, &json);
        check(JSON, packing, cut[..cut.len() / 2].to_vec(), Err((400, ""))).await;
    }
    check("application/x-protobuf", "", packed("snappy", &proto), Ok(())).await;
    check("application/x-protobuf", "snappy", packed("snappy", &proto), Ok(())).await;
    check("text/anything", "", packed("snappy", &proto), Ok(())).await;
    check("application/x-protobuf", "", proto.clone(), Err((400, "snappy"))).await;
    check("application/x-protobuf", "", json.clone(), Err((400, "snappy"))).await;
    check("application/x-protobuf", "", packed("snappy", &json), Err((400, "malformed protobuf"))).await;
    check("", "", json.clone(), Err((400, "mime: no media type"))).await;
    check("a/", "", json.clone(), Err((400, "is not a media type"))).await;
    check(JSON, "br", json, Err((400, "Content-Encoding \"br\" not supported"))).await;
}

#[tokio::test]
async fn protobuf_bodies() {
    let check = async |labels: &str, meta: &[(&str, &str)], expected: Result<&str, (u16, &str)>| {
        let setup = Setup::new("");
        let body = gateway::proto(labels, &[(NOW_S * 1_000_000_000 + 7, "level=warn line", meta)]);
        let answer = setup.push("application/x-protobuf", "", gateway::pack("snappy", &body)).await;
        match expected {
            Ok(row) => assert_eq!((answer, setup.rows().await), (ok(), vec![row.to_owned()])),
            Err((status, text)) => assert_eq!(answer, refused(status, text)),
        }
    };
    check(
        r#"{b="2", a="1"}"#,
        &[],
        Ok(r#"{a="1", b="2", service_name="unknown_service"} 7 level=warn line detected_level=warn"#),
    )
    .await;
    check(
        r#"{a="1", b=""}"#,
        &[("x.y", "z")],
        Ok(r#"{a="1", service_name="unknown_service"} 7 level=warn line detected_level=warn x_y=z"#),
    )
    .await;
    check(
        r#"{a="1", level="Error"}"#,
        &[],
        Ok(r#"{a="1", level="Error", service_name="unknown_service"} 7 level=warn line detected_level=error"#),
    )
    .await;
    check("{a=1}", &[], Err((400, "error parsing labels '{a=1}' with error: expected a quoted value at byte 3"))).await;
    check("", &[], Err((400, "error parsing labels '' with error: expected '{' at byte 0"))).await;
    check(r#"{a="1", a="2"}"#, &[], Err((400, r#"stream '{a="1", a="2"}' has duplicate label name: 'a'"#))).await;
    let setup = Setup::new("");
    assert_eq!(setup.push("application/x-protobuf", "", gateway::pack("snappy", b"")).await.0, 422);
}

/// Every text of the table of ingestion limits.
#[tokio::test]
async fn limits() {
    let check = async |limits: &str, labels: &str, values: &str, expected: (u16, &str), reason: &str| {
        let setup = Setup::new(limits);
        let body = format!(r#"{{"streams":[{{"stream":{labels},"values":[{values}]}}]}}"#);
        assert_eq!(setup.push(JSON, "", body.into_bytes()).await, refused(expected.0, expected.1), "{limits}");
        assert_eq!(setup.discarded(reason), 1.0, "{limits} {reason}");
        assert!(setup.rows().await.is_empty());
    };
    let x = format!(r#"["{}","x"]"#, ts(0));
    let web = r#"{"app":"web"}"#;
    let stream = r#"{app="web", service_name="web"}"#;
    let long = format!(r#"["{}","{}"]"#, ts(0), "x".repeat(20));
    check(
        "{max_line_size: 10}",
        web,
        &long,
        (
            400,
            &format!(
                "max entry size '10' bytes exceeded for stream '{stream}' while adding an entry with length '20' bytes"
            ),
        ),
        "line_too_long",
    )
    .await;
    check(
        "{max_label_names_per_series: 1}",
        r#"{"app":"web","b":"c"}"#,
        &x,
        (400, r#"entry for stream '{app="web", b="c", service_name="web"}' has 2 label names; limit 1"#),
        "max_label_names_per_series",
    )
    .await;
    check(
        "{max_label_name_length: 12}",
        r#"{"app":"web","abcdefghijklm":"c"}"#,
        &x,
        (
            400,
            r#"stream '{abcdefghijklm="c", app="web", service_name="web"}' has label name too long: 'abcdefghijklm'"#,
        ),
        "label_name_too_long",
    )
    .await;
    check(
        "{max_label_value_length: 2}",
        web,
        &x,
        (400, &format!("stream '{stream}' has label value too long: 'web'")),
        "label_value_too_long",
    )
    .await;
    check("{}", "{}", &x, (400, "error at least one label pair is required per stream"), "missing_labels").await;
    let old = format!(r#"["{}","x"]"#, ts(-7 * 86400 - 1));
    check(
        "{}",
        web,
        &old,
        (400, &format!("entry for stream '{stream}' has timestamp too old: 2026-11-13T11:59:59Z, oldest acceptable timestamp is: 2026-11-13T12:00:00Z")),
        "greater_than_max_sample_age",
    )
    .await;
    let new = format!(r#"["{}","x"]"#, ts(601));
    check(
        "{}",
        web,
        &new,
        (400, &format!("entry for stream '{stream}' has timestamp too new: 2026-11-20T12:10:01Z")),
        "too_far_in_future",
    )
    .await;
    let meta = format!(r#"["{}","x",{{"a":"b","c":"d"}}]"#, ts(0));
    check(
        "{allow_structured_metadata: false}",
        web,
        &meta,
        (400, &format!("stream '{stream}' includes structured metadata, but this feature is disallowed. Please see `limits_config.allow_structured_metadata` or contact your Loki administrator to enable it")),
        "disallowed_structured_metadata",
    )
    .await;
    check(
        "{max_structured_metadata_size: 3}",
        web,
        &meta,
        (400, &format!("stream '{stream}' has structured metadata too large: '4' bytes, limit: '3' bytes. Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator to increase it")),
        "structured_metadata_too_large",
    )
    .await;
    check(
        "{max_structured_metadata_entries_count: 1}",
        web,
        &meta,
        (400, &format!("stream '{stream}' has too many structured metadata labels: '2', limit: '1'. Please see `limits_config.max_structured_metadata_entries_count` or contact your Loki administrator to increase it")),
        "structured_metadata_too_many",
    )
    .await;
    check(
        "{enforced_labels: [app, env, team]}",
        web,
        &x,
        (400, &format!("missing required labels 'env,team' for user 'fake' for stream '{stream}' (policy: '')")),
        "missing_enforced_labels",
    )
    .await;
    check(
        "{block_ingestion_until: '2026-12-01T00:00:00Z'}",
        web,
        &x,
        (260, "ingestion blocked for user 'fake' until '2026-12-01T00:00:00Z' with status code '260'"),
        "blocked_ingestion",
    )
    .await;
    check(
        "{ingestion_rate_mb: 0.00001, ingestion_burst_size_mb: 0.00001}",
        web,
        &long,
        (429, "ingestion rate limit exceeded for user fake (limit: 10 bytes/sec) while attempting to ingest '1' lines totaling '20' bytes, reduce log volume or contact your Loki administrator to see if the limit can be increased"),
        "rate_limited",
    )
    .await;
    check(
        "{per_stream_rate_limit: 5, per_stream_rate_limit_burst: 10}",
        web,
        &long,
        (429, &format!("entry with timestamp 2026-11-20 12:00:00 +0000 UTC ignored, reason: 'Per stream rate limit exceeded (limit: 5B/sec) while attempting to ingest for stream '{stream}' totaling 20B, consider splitting a stream via additional labels or contact your Loki administrator to see if the limit can be increased',\nuser 'fake', total ignored: 1 out of 1 for stream: {stream}")),
        "per_stream_rate_limit",
    )
    .await;
}

#[tokio::test]
async fn limits_that_do_not_apply() {
    let check = async |limits: &str, values: &str, expected: &[&str]| {
        let setup = Setup::new(limits);
        let body = format!(r#"{{"streams":[{{"stream":{{"app":"web"}},"values":[{values}]}}]}}"#);
        assert_eq!(setup.push(JSON, "", body.into_bytes()).await.1, "", "{limits}");
        assert_eq!(setup.rows().await, expected, "{limits}");
    };
    let x = format!(r#"["{}","x"]"#, ts(0));
    check(
        "{block_ingestion_until: '2026-11-01T00:00:00Z'}",
        &x,
        &[r#"{app="web", service_name="web"} 0 x detected_level=unknown"#],
    )
    .await;
    check("{block_ingestion_until: '2026-12-01T00:00:00Z', block_ingestion_status_code: 200}", &x, &[]).await;
    check("{discover_service_name: [], discover_log_levels: false}", &x, &[r#"{app="web"} 0 x"#]).await;
    // Years ago, out of order, all of it.
    let old = format!(r#"["{}","b"],["1","a"]"#, ts(0));
    let first = -NOW_S * 1_000_000_000 + 1;
    check(
        "{reject_old_samples: false, discover_log_levels: false}",
        &old,
        &[r#"{app="web", service_name="web"} 0 b"#, &format!(r#"{{app="web", service_name="web"}} {first} a"#)],
    )
    .await;
    check(
        "{increment_duplicate_timestamp: true, discover_log_levels: false, discover_service_name: []}",
        &["a", "b", "b", "c"].map(|l| format!(r#"["{}","{l}"]"#, ts(0))).join(","),
        &[r#"{app="web"} 0 a"#, r#"{app="web"} 1 b"#, r#"{app="web"} 1 b"#, r#"{app="web"} 2 c"#],
    )
    .await;
    check(
        "{max_line_size: 8, max_line_size_truncate: true, max_line_size_truncate_identifier: '~', discover_log_levels: false, discover_service_name: []}",
        &format!(r#"["{0}","12345678"],["{0}","123456789"],["{0}","123456éé"]"#, ts(0)),
        &[r#"{app="web"} 0 12345678"#, r#"{app="web"} 0 1234567~"#, r#"{app="web"} 0 123456~"#],
    )
    .await;
}

#[tokio::test]
async fn valid_entries_are_stored_beside_refused_ones() {
    let setup = Setup::new("{max_line_size: 5, discover_log_levels: false, discover_service_name: []}");
    let values = format!(r#"["{0}","good"],["{0}","too long"],["{0}","too long"],["{0}","much too long"]"#, ts(0));
    let body = format!(
        r#"{{"streams":[{{"stream":{{"a":"b"}},"values":[{values}]}},{{"stream":{{}},"values":[["{0}","x"]]}},{{"stream":{{"a":"c"}},"values":[["{0}","fine"]]}}]}}"#,
        ts(0)
    );
    let (status, text) = setup.push(JSON, "", body.into_bytes()).await;
    assert_eq!(status, 400);
    for part in [
        "1 errors like: error at least one label pair is required per stream",
        "2 errors like: max entry size '5' bytes exceeded for stream '{a=\"b\"}' while adding an entry with length '8' bytes",
        "1 errors like: max entry size '5' bytes exceeded for stream '{a=\"b\"}' while adding an entry with length '13' bytes",
    ] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    let mut rows = setup.rows().await;
    rows.sort();
    assert_eq!(rows, [r#"{a="b"} 0 good"#, r#"{a="c"} 0 fine"#]);
    assert_eq!(setup.discarded("line_too_long"), 3.0);
}

#[tokio::test]
async fn stream_limit_spares_the_other_streams() {
    let setup = Setup::new("{max_global_streams_per_user: 1, discover_service_name: [], discover_log_levels: false}");
    let stream = |name: &str| format!(r#"{{"stream":{{"a":"{name}"}},"values":[["{}","x"]]}}"#, ts(0));
    let body = format!(r#"{{"streams":[{},{}]}}"#, stream("1"), stream("2"));
    let text = "maximum active stream limit exceeded when trying to create stream {a=\"2\"}, reduce the number of active \
        streams (reduce labels or reduce label values), or contact your Loki administrator to see if the limit can be \
        increased, user: 'fake'";
    assert_eq!(setup.push(JSON, "", body.clone().into_bytes()).await, refused(429, text));
    assert_eq!(setup.rows().await, [r#"{a="1"} 0 x"#]);
    assert_eq!(setup.discarded("stream_limit"), 1.0);
    // The first stream goes idle; then there is room.
    setup.clock.advance(std::time::Duration::from_secs(3700));
    let body = format!(r#"{{"streams":[{}]}}"#, stream("2"));
    assert_eq!(setup.push(JSON, "", body.into_bytes()).await, ok());
}

#[tokio::test]
async fn rates_refill() {
    let setup = Setup::new("{ingestion_rate_mb: 0.0001, ingestion_burst_size_mb: 0.0001}");
    let body = || one(&format!("\"{}\"", "x".repeat(100))).into_bytes();
    assert_eq!(setup.push(JSON, "", body()).await, ok());
    assert_eq!(setup.push(JSON, "", body()).await.0, 429);
    setup.clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(setup.push(JSON, "", body()).await, ok());
    assert_eq!(setup.rows().await.len(), 2, "a refused request leaves nothing");
}

#[tokio::test]
async fn tenants() {
    let check = async |header: Option<&str>, expected: (u16, &str)| {
        let setup = Setup::with(|c| c.auth_enabled = true, "");
        let headers: Vec<(&str, &str)> = header.map(|h| ("X-Scope-OrgID", h)).into_iter().collect();
        let answer = setup.request("/loki/api/v1/push", JSON, &headers, one(r#""x""#).into_bytes()).await;
        assert_eq!((answer.0, answer.1.as_str()), expected);
    };
    check(Some("team-a"), (204, "")).await;
    check(Some("a|a"), (204, "")).await;
    check(None, (401, "no org id\n")).await;
    check(Some("a|b"), (400, "multiple org IDs present\n")).await;
    check(Some("a b"), (400, "tenant ID 'a b' contains unsupported character ' '\n")).await;
}

#[tokio::test]
async fn size_limits() {
    let small = |c: &mut ingest::Config| {
        c.max_recv_msg_size = limits::ByteSize::from_bytes(1000);
        c.max_decompressed_size = limits::ByteSize::from_bytes(2000);
    };
    let setup = Setup::with(small, "");
    let answer = setup.push(JSON, "", vec![b' '; 1001]).await;
    assert_eq!(answer, refused(413, "request body too large: message size too large than max (1001 vs 1000)"));
    // Zip bombs: little that becomes much.
    for packing in ["gzip", "deflate", "zstd"] {
        let answer = setup.push(JSON, packing, gateway::pack(packing, &vec![b' '; 100_000])).await;
        assert_eq!(answer.0, 413, "{packing}");
        let text = "request body too large: decompressed message size too large than max (2001 vs 2000)";
        assert!(answer.1.contains(text), "{packing}: {}", answer.1);
    }
    let bomb = gateway::pack("snappy", &vec![b' '; 10_000]);
    let answer = setup.push("application/x-protobuf", "", bomb).await;
    assert_eq!(
        answer,
        refused(413, "request body too large: decompressed message size too large than max (10000 vs 2000)")
    );
    // A length that is a lie.
    let mut lie = vec![0xff, 0xff, 0xff, 0xff, 0x0f];
    lie.extend_from_slice(b"xxxx");
    assert_eq!(setup.push("application/x-protobuf", "", lie).await.0, 413);
    assert_eq!(setup.inflight(), 0.0);
}

#[tokio::test]
async fn overload_and_a_log_that_is_down() {
    let tight = |c: &mut ingest::Config| {
        c.max_recv_msg_size = limits::ByteSize::from_bytes(500);
        c.max_decompressed_size = limits::ByteSize::from_bytes(500);
        c.inflight_bytes_max = limits::ByteSize::from_bytes(1000);
    };
    let setup = Setup::with(tight, "");
    setup.log.inject(|f| f.append_delay = std::time::Duration::from_millis(200));
    let body = || one(&format!("\"{}\"", "x".repeat(300))).into_bytes();
    let (first, second) = tokio::join!(setup.push(JSON, "", body()), async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        setup.request("/loki/api/v1/push", JSON, &[], body()).await
    });
    assert_eq!(first, ok());
    assert_eq!((second.0, second.1.as_str()), (503, "The server cannot accept more requests at this time.\n"));
    assert_eq!(second.2.get("retry-after").map(|v| v.to_str().unwrap().to_owned()).as_deref(), Some("1"));
    // A client that goes away gives its bytes back.
    let gone = tokio::time::timeout(std::time::Duration::from_millis(50), setup.push(JSON, "", body())).await;
    assert!(gone.is_err());
    setup.log.inject(|f| f.append_delay = std::time::Duration::ZERO);
    assert_eq!(setup.push(JSON, "", body()).await, ok());
    setup.log.inject(|f| f.unavailable = true);
    assert_eq!(
        setup.push(JSON, "", body()).await,
        refused(503, "The server cannot accept more requests at this time.")
    );
}

#[tokio::test]
async fn large_requests_become_several_records() {
    let setup = Setup::with(
        |c| c.record_bytes_max = limits::ByteSize::from_kb(16),
        "{discover_service_name: [], discover_log_levels: false}",
    );
    let values: Vec<String> = (0..2000).map(|i| format!(r#"["{}","line {i} {}"]"#, ts(0), "x".repeat(50))).collect();
    let body = format!(r#"{{"streams":[{{"stream":{{"a":"b"}},"values":[{}]}}]}}"#, values.join(","));
    let headers = [("X-Millrace-Batch-Id", "batch-1")];
    let answer = setup.request("/loki/api/v1/push", JSON, &headers, body.into_bytes()).await;
    assert_eq!((answer.0, answer.1.as_str()), (204, ""));
    let records = setup.records().await;
    assert!(records.len() > 8 && records.iter().all(|r| r.payload_bytes() <= 16 << 10), "{}", records.len());
    assert!(records.iter().all(|r| r.batch_id() == Some("batch-1") && r.tenant().as_str() == "fake"));
    let lines = setup.lines().await;
    assert_eq!(lines.len(), 2000);
    assert!(lines.iter().enumerate().all(|(i, l)| l.starts_with(format!("line {i} ").as_bytes())));
    let long = "x".repeat(129);
    let answer =
        setup.request("/loki/api/v1/push", JSON, &[("X-Millrace-Batch-Id", &long)], one("\"x\"").into_bytes()).await;
    assert_eq!(answer.0, 400);
}

#[tokio::test]
async fn legacy_push() {
    let check = async |body: &str, expected: (u16, &str), rows: &[&str]| {
        let setup = Setup::new("");
        let answer = setup.request("/api/prom/push", JSON, &[], body.as_bytes().to_vec()).await;
        assert_eq!(answer.0, expected.0, "{body}: {}", answer.1);
        assert!(answer.1.contains(expected.1), "{body}: {}", answer.1);
        assert_eq!(setup.rows().await, rows);
    };
    let body = r#"{"streams":[{"labels":"{app=\"x\"}","entries":[{"ts":"2026-11-20T12:00:00.000000005Z","line":"l","structuredMetadata":{"a.b":"c"}}]}]}"#;
    check(body, (204, ""), &[r#"{app="x", service_name="x"} 5 l a_b=c detected_level=unknown"#]).await;
    check(&body.replace("2026-11-20T", "x"), (400, "is not RFC 3339"), &[]).await;
    check(&body.replace("app=", "app"), (400, "error parsing labels"), &[]).await;
    check("{}", (422, "at least one valid stream"), &[]).await;
    check("5", (400, ""), &[]).await;
}

#[tokio::test]
async fn other_methods_and_metrics() {
    let setup = Setup::new("");
    let answer = setup.get("/loki/api/v1/push").await;
    assert_eq!(answer, (405, String::new()));
    assert_eq!(setup.push(JSON, "", one(r#""four""#).into_bytes()).await, ok());
    let metric = |name: &str| setup.metric(name, &[("tenant", "fake")]);
    assert_eq!(metric("loki_distributor_bytes_received_total"), 4.0);
    assert_eq!(metric("loki_distributor_lines_received_total"), 1.0);
    assert_eq!(metric("loki_distributor_push_stats_count"), 1.0);
    assert_eq!(setup.metric("loki_distributor_kafka_appends_total", &[("status", "success")]), 1.0);
}

#[tokio::test]
async fn pushes_answer_a_read_token() {
    let setup = Setup::new("");
    let push = async |body: String| setup.request("/loki/api/v1/push", JSON, &[], body.into_bytes()).await;
    let (status, _, headers) = push(one(r#""x""#)).await;
    assert_eq!(status, 204);
    let token: model::ReadToken = headers["x-millrace-token"].to_str().unwrap().parse().unwrap();
    use log_bus::LogBus;
    assert!(token.is_of(&setup.log.log_id().0) && token.partitions() > 0);
    // Also when only a part was stored; not when nothing was.
    let bad = format!(r#"{{"stream":{{}},"values":[["{}","y"]]}}"#, ts(0));
    let (status, _, headers) = push(one(r#""x""#).replace("\"streams\":[", &format!("\"streams\":[{bad},"))).await;
    assert!(status == 400 && headers.contains_key("x-millrace-token"));
    let (status, _, headers) = push(r#"{"streams":[{"stream":{},"values":[]}]}"#.to_owned()).await;
    assert!(status == 204 && !headers.contains_key("x-millrace-token"));
}
