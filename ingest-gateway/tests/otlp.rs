//! OTLP logs: over HTTP in both encodings, and over gRPC.

mod gateway;

use axum::http::HeaderMap;
use gateway::{NOW_S, Setup, pack};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

const PATH: &str = "/otlp/v1/logs";
const PROTOBUF: &str = "application/x-protobuf";
const NOW: u64 = NOW_S as u64 * 1_000_000_000;

fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn text(text: &str) -> AnyValue {
    any(Value::StringValue(text.to_owned()))
}

fn pair(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn texts(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    pairs.iter().map(|(k, v)| pair(k, text(v))).collect()
}

fn request(
    resource: Vec<KeyValue>,
    scope: Option<InstrumentationScope>,
    records: Vec<LogRecord>,
) -> ExportLogsServiceRequest {
    let scope_logs = vec![ScopeLogs { scope, log_records: records, ..ScopeLogs::default() }];
    let resource = Some(Resource { attributes: resource, ..Resource::default() });
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }] }
}

fn record(body: AnyValue) -> LogRecord {
    LogRecord { time_unix_nano: NOW, body: Some(body), ..LogRecord::default() }
}

async fn check(limits: &str, request: &ExportLogsServiceRequest, expected: &[&str]) {
    let setup = Setup::new(limits);
    let (status, text, _) = setup.request(PATH, PROTOBUF, &[], request.encode_to_vec()).await;
    assert_eq!((status, text.as_str()), (204, ""));
    assert_eq!(setup.rows().await, expected);
}

const NO_LEVEL: &str = "{discover_log_levels: false}";

#[tokio::test]
async fn labels_and_metadata() {
    let resource = || texts(&[("service.name", "shop"), ("k8s.pod.name", "p1"), ("host.arch", "arm"), ("empty", "")]);
    let plain = request(resource(), None, vec![record(text("l"))]);
    check(NO_LEVEL, &plain, &[r#"{k8s_pod_name="p1", service_name="shop"} 0 l host_arch=arm"#]).await;
    // Every field of a record.
    let full = LogRecord {
        time_unix_nano: NOW + 1,
        observed_time_unix_nano: NOW + 2,
        severity_number: 17,
        severity_text: "Error".into(),
        body: Some(text("failed")),
        attributes: texts(&[("http.method", "GET"), ("host.arch", "own"), ("event_name", "loses")]),
        dropped_attributes_count: 3,
        flags: 1,
        trace_id: vec![0xab; 16],
        span_id: vec![0x0c; 8],
        event_name: "wins".into(),
    };
    let scope = InstrumentationScope {
        name: "lib".into(),
        version: "1.2".into(),
        attributes: texts(&[("sc.attr", "s"), ("host.arch", "scope")]),
        dropped_attributes_count: 4,
    };
    let expected = format!(
        "{{k8s_pod_name=\"p1\", service_name=\"shop\"}} 1 failed detected_level=error dropped_attributes_count=3 event_name=wins \
         flags=1 host_arch=own http_method=GET observed_timestamp={} sc_attr=s scope_dropped_attributes_count=4 \
         scope_name=lib scope_version=1.2 severity_number=17 severity_text=Error span_id={} trace_id={}",
        NOW + 2,
        "0c".repeat(8),
        "ab".repeat(16)
    );
    check("{}", &request(resource(), Some(scope), vec![full]), &[&expected]).await;
}

#[tokio::test]
async fn names_of_services() {
    let with = |pairs: &[(&str, &str)]| request(texts(pairs), None, vec![record(text("l"))]);
    check(NO_LEVEL, &with(&[]), &[r#"{service_name="unknown_service"} 0 l"#]).await;
    check(NO_LEVEL, &with(&[("service.name", "")]), &[r#"{service_name="unknown_service"} 0 l"#]).await;
    check(
        NO_LEVEL,
        &with(&[("k8s.container.name", "c"), ("container.name", "d")]),
        &[r#"{container_name="d", k8s_container_name="c", service_name="d"} 0 l"#],
    )
    .await;
    check(NO_LEVEL, &with(&[("k8s.pod.name", "p")]), &[r#"{k8s_pod_name="p", service_name="unknown_service"} 0 l"#])
        .await;
}

#[tokio::test]
async fn bodies_and_values() {
    let list = || {
        Value::ArrayValue(ArrayValue { values: vec![text("a\"b"), any(Value::IntValue(5)), AnyValue { value: None }] })
    };
    let map = || {
        Value::KvlistValue(KeyValueList {
            values: vec![pair("z", any(Value::BoolValue(true))), pair("b", any(list()))],
        })
    };
    let line = async |body: Option<AnyValue>, expected: &str| {
        let record = LogRecord { time_unix_nano: NOW, body, ..LogRecord::default() };
        check(
            NO_LEVEL,
            &request(texts(&[("service.name", "s")]), None, vec![record]),
            &[&format!("{{service_name=\"s\"}} 0 {expected}")],
        )
        .await;
    };
    line(None, "").await;
    line(Some(AnyValue { value: None }), "").await;
    line(Some(text("t")), "t").await;
    line(Some(any(Value::IntValue(-7))), "-7").await;
    line(Some(any(Value::DoubleValue(1.5))), "1.5").await;
    line(Some(any(Value::BoolValue(false))), "false").await;
    line(Some(any(Value::BytesValue(b"hi".to_vec()))), "aGk=").await;
    line(Some(any(list())), r#"["a\"b",5,null]"#).await;
    line(Some(any(map())), r#"{"b":["a\"b",5,null],"z":true}"#).await;
    // Maps in attributes are flattened.
    let nested = KeyValueList { values: vec![pair("in.ner", any(map())), pair("none", AnyValue { value: None })] };
    let attributes = vec![pair("out", any(Value::KvlistValue(nested)))];
    let record = LogRecord { attributes, ..record(text("l")) };
    let expected = r#"{service_name="s"} 0 l out_in_ner_b=["a\"b",5,null] out_in_ner_z=true"#;
    check(NO_LEVEL, &request(texts(&[("service.name", "s")]), None, vec![record]), &[expected]).await;
}

#[tokio::test]
async fn times() {
    let at = |time, observed| {
        let record = LogRecord { time_unix_nano: time, observed_time_unix_nano: observed, ..record(text("l")) };
        request(texts(&[("service.name", "s")]), None, vec![record])
    };
    check(NO_LEVEL, &at(NOW + 5, 0), &[r#"{service_name="s"} 5 l"#]).await;
    check(NO_LEVEL, &at(0, NOW + 6), &[r#"{service_name="s"} 6 l"#]).await;
    check(NO_LEVEL, &at(0, 0), &[r#"{service_name="s"} 0 l"#]).await;
}

#[tokio::test]
async fn configured() {
    let limits = "{discover_log_levels: false, otlp_config: {resource_attributes: {ignore_defaults: true, attributes_config: \
        [{action: index_label, attributes: [team]}, {action: drop, regex: 'k8s.*'}]}, scope_attributes: [{action: drop, attributes: [x]}], \
        log_attributes: [{action: index_label, attributes: [kind]}, {action: drop, regex: 'noise.+'}], severity_text_as_label: true}}";
    let records = vec![
        LogRecord {
            attributes: texts(&[("kind", "a"), ("noise.1", "n"), ("keep", "k")]),
            severity_text: "WARN".into(),
            ..record(text("1"))
        },
        LogRecord { attributes: texts(&[("kind", "a")]), severity_text: "WARN".into(), ..record(text("2")) },
        record(text("3")),
    ];
    let scope =
        InstrumentationScope { attributes: texts(&[("x", "1"), ("y", "2")]), ..InstrumentationScope::default() };
    let resource = texts(&[("team", "t"), ("k8s.pod.name", "p"), ("service.name", "s")]);
    let request = request(resource, Some(scope), records);
    let setup = Setup::new(limits);
    assert_eq!(setup.request(PATH, PROTOBUF, &[], request.encode_to_vec()).await.0, 204);
    let mut rows = setup.rows().await;
    rows.sort();
    // `service.name` is metadata here, so the label is discovered: none of the labels tells.
    assert_eq!(
        rows,
        [
            r#"{kind="a", service_name="unknown_service", severity_text="WARN", team="t"} 0 1 keep=k service_name=s y=2"#,
            r#"{kind="a", service_name="unknown_service", severity_text="WARN", team="t"} 0 2 service_name=s y=2"#,
            r#"{service_name="unknown_service", team="t"} 0 3 service_name=s y=2"#,
        ]
    );
}

#[tokio::test]
async fn encodings_and_errors() {
    let good = request(texts(&[("service.name", "s")]), None, vec![record(text("l"))]);
    let json = format!(
        r#"{{"resourceLogs":[{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"s"}}}}]}},
        "scopeLogs":[{{"logRecords":[{{"timeUnixNano":"{NOW}","body":{{"stringValue":"l"}}}}]}}]}}]}}"#
    );
    let answer = async |content_type: &str, encoding: &str, body: Vec<u8>| {
        let setup = Setup::new(NO_LEVEL);
        let headers = [("Content-Encoding", encoding)];
        let headers = if encoding.is_empty() { &headers[..0] } else { &headers[..] };
        let (status, text, headers) = setup.request(PATH, content_type, headers, body).await;
        if status == 204 {
            assert_eq!(setup.rows().await, [r#"{service_name="s"} 0 l"#]);
        } else {
            assert_eq!(headers.get("content-type").map(|v| v.as_bytes()), Some(&b"application/octet-stream"[..]));
        }
        (status, text)
    };
    for encoding in ["", "gzip", "zstd", "lz4"] {
        assert_eq!(answer(PROTOBUF, encoding, pack(encoding, &good.encode_to_vec())).await.0, 204, "{encoding}");
        assert_eq!(answer("application/json", encoding, pack(encoding, json.as_bytes())).await.0, 204, "{encoding}");
    }
    let check = async |content_type: &str, encoding: &str, body: Vec<u8>, status: u16, expected: &str| {
        let (found, text) = answer(content_type, encoding, body).await;
        // A protobuf message: field 2, its length, the text.
        assert!(found == status && text.starts_with('\u{12}') && text.contains(expected), "{found} {text}");
    };
    check("text/plain", "", Vec::new(), 400, "content type: text/plain is not supported").await;
    check(PROTOBUF, "br", Vec::new(), 400, "unsupported content encoding br: only gzip, lz4 and zstd are supported")
        .await;
    check(PROTOBUF, "", b"\xff\xff".to_vec(), 400, "").await;
    check("application/json", "", b"{".to_vec(), 400, "").await;
    check(PROTOBUF, "", Vec::new(), 422, "error at least one valid stream is required for ingestion").await;
    let old = LogRecord { time_unix_nano: 1, ..record(text("l")) };
    check(
        PROTOBUF,
        "",
        request(texts(&[("service.name", "s")]), None, vec![old]).encode_to_vec(),
        400,
        "has timestamp too old",
    )
    .await;
    let nameless = LogRecord { attributes: texts(&[("é", "v")]), ..record(text("l")) };
    check(
        PROTOBUF,
        "",
        request(Vec::new(), None, vec![nameless]).encode_to_vec(),
        400,
        "has no character that may be kept",
    )
    .await;
}

/// One unary call as gRPC frames it, without a client.
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
async fn answer(setup: &Setup, tenant: Option<&str>, message: &[u8]) -> (HeaderMap, HeaderMap) {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    let mut request = axum::http::Request::post("/opentelemetry.proto.collector.logs.v1.LogsService/Export")
        .version(axum::http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(tenant) = tenant {
        request = request.header("x-scope-orgid", tenant);
    }
    let response = setup.router.clone().oneshot(request.body(Body::from(frame)).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    (parts.headers, collected.trailers().cloned().unwrap_or_default())
}

/// Its status and text.
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
async fn call(setup: &Setup, tenant: Option<&str>, message: &[u8]) -> (Option<String>, Option<String>) {
    let (headers, trailers) = answer(setup, tenant, message).await;
    let get = |name| trailers.get(name).or(headers.get(name)).map(|v| v.to_str().unwrap().to_owned());
    (get("grpc-status"), get("grpc-message"))
}

#[tokio::test]
async fn grpc() {
    let good = request(texts(&[("service.name", "s")]), None, vec![record(text("l"))]).encode_to_vec();
    let setup = Setup::with(|c| c.auth_enabled = true, NO_LEVEL);
    assert_eq!(call(&setup, Some("t"), &good).await, (Some("0".into()), None));
    assert_eq!(setup.rows().await, [r#"{service_name="s"} 0 l"#]);
    assert_eq!(setup.records().await[0].tenant().as_str(), "t");
    let (headers, _) = answer(&setup, Some("t"), &good).await;
    let token: model::ReadToken = headers["x-millrace-token"].to_str().unwrap().parse().unwrap();
    assert!(token.partitions() > 0);
    assert_eq!(call(&setup, None, &good).await, (Some("16".into()), Some("no%20org%20id".into())));
    assert_eq!(call(&setup, Some("t"), &[]).await.0.as_deref(), Some("3"));
    setup.log.inject(|f| f.unavailable = true);
    assert_eq!(call(&setup, Some("t"), &good).await.0.as_deref(), Some("14"));
    assert_eq!(setup.inflight(), 0.0);
}
