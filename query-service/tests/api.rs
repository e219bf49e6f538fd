//! Shapes of answers, errors, and small endpoints, through the router.

#![allow(clippy::disallowed_methods, reason = "tests own what they start")]

mod common;

use std::{io::Read, time::Duration};

use axum::body::Body;
use common::{NOW, Row, World, encode, range_path, row};
use http::{Request, StatusCode};
use limits::{Limits, PromDuration};
use millrace_query_service::Config;
use model::TenantId;
use serde_json::{Value, json};

fn seconds_ago(secs: u64) -> model::TimestampNs {
    NOW.minus(Duration::from_secs(secs))
}

/// Three entries of two streams: one in a block, two in memory.
async fn small_world() -> World {
    let world = World::new(2);
    world.owner.append(0, &[row(&[("app", "web"), ("env", "prod")], seconds_ago(30), "first error")]);
    world.cut(0, 1).await;
    let mut second = row(&[("app", "web"), ("env", "prod")], seconds_ago(20), "second");
    second.metadata = vec![("trace".to_owned(), "abc".to_owned())];
    world.owner.append(0, &[second]);
    world.owner.append(1, &[row(&[("app", "db")], seconds_ago(10), "third error")]);
    world
}

#[tokio::test]
async fn log_queries() {
    let world = small_world().await;
    let at = |secs: u64| seconds_ago(secs).nanos().to_string();
    let found = world.result(&range_path(r#"{app="web"}"#, "")).await;
    assert_eq!(
        found,
        json!([
            {"stream": {"app": "web", "env": "prod", "trace": "abc"}, "values": [[at(20), "second"]]},
            {"stream": {"app": "web", "env": "prod"}, "values": [[at(30), "first error"]]},
        ])
    );
    let path = range_path(r#"{app=~".+"} |= "error""#, "&direction=forward&limit=1");
    let found = world.result(&path).await;
    assert_eq!(found, json!([{"stream": {"app": "web", "env": "prod"}, "values": [[at(30), "first error"]]}]));

    let header = ("x-loki-response-encoding-flags", "categorize-labels");
    let reply = world.get_with(&range_path(r#"{app="web"}"#, ""), header).await;
    assert_eq!(reply.header("content-type"), "application/json; charset=UTF-8");
    let data = &reply.json()["data"];
    assert_eq!(data["encodingFlags"], json!(["categorize-labels"]));
    assert_eq!(
        data["result"],
        json!([{"stream": {"app": "web", "env": "prod"}, "values": [
            [at(20), "second", {"structuredMetadata": {"trace": "abc"}}],
            [at(30), "first error", {}],
        ]}])
    );
    let summary = &data["stats"]["summary"];
    assert_eq!(summary["totalLinesProcessed"], 2);
    assert_eq!(summary["totalEntriesReturned"], 2);
    assert!(summary["execTime"].as_f64().is_some_and(|t| t > 0.0));
    assert_eq!(data["stats"]["querier"]["store"]["totalChunksDownloaded"], 1);
}

#[tokio::test]
async fn metric_queries() {
    let world = small_world().await;
    let query = encode(r#"sum(count_over_time({app=~".+"}[1h]))"#);
    let path = format!("/loki/api/v1/query?query={query}&time={}", NOW.nanos());
    assert_eq!(world.result(&path).await, json!([{"metric": {}, "value": [1_700_000_000, "3"]}]));
    // Ranges are aligned to their step: the row 25 s before the end is in the bucket that begins 40 s before it.
    let query = encode(r#"count_over_time({app="web"}[20s])"#);
    let (start, end) = (seconds_ago(25).nanos(), NOW.nanos());
    let path = format!("/loki/api/v1/query_range?query={query}&start={start}&end={end}&step=20");
    let found = world.result(&path).await;
    let expected = json!([[1_699_999_980, "2"]]);
    let values: Vec<&Value> = found.as_array().expect("a list").iter().map(|s| &s["values"]).collect();
    let total: usize = values.iter().map(|v| v.as_array().map_or(0, Vec::len)).sum();
    assert!(total >= 1, "{found}");
    assert_eq!(values[0][0][0], expected[0][0], "{found}");
}

#[tokio::test]
async fn grafana_save_and_test() {
    let world = World::new(1);
    let path = "/loki/api/v1/query?direction=backward&query=vector(1)%2Bvector(1)&time=4000000000";
    assert_eq!(world.result(path).await, json!([{"metric": {}, "value": [4_000_000_000_i64, "2"]}]));
    assert_eq!(world.owner.scans.load(std::sync::atomic::Ordering::Relaxed), 0, "nothing is read for that");
}

#[tokio::test]
async fn errors() {
    let world = small_world().await;
    let check = async |path: &str, status: u16, text: &str| {
        let reply = world.get(path).await;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (status, text), "{path}");
        assert_eq!(reply.header("content-type"), "text/plain; charset=utf-8", "{path}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
    };
    check("/loki/api/v1/query_range", 400, "parse error : syntax error: unexpected $end").await;
    let query = |more: &str| format!("/loki/api/v1/query_range?query={}{more}", encode(r#"{app="web"}"#));
    check(
        &query("&start=x"),
        400,
        "could not parse 'start' parameter: strconv.ParseInt: parsing \"x\": invalid syntax",
    )
    .await;
    check(&query("&start=2&end=1"), 400, "end timestamp must not be before or equal to start time").await;
    check(&query("&limit=0"), 400, "limit must be a positive value").await;
    check(
        &query("&limit=5001"),
        400,
        "max entries limit per query exceeded, limit > max_entries_limit_per_query (5001 > 5000)",
    )
    .await;
    check(&query("&direction=up"), 400, "invalid direction 'up'").await;
    check(&query("&interval=-1"), 400, "interval must be >= 0").await;
    check(
        &query("&start=1600000000&end=1700000000"),
        400,
        "the query time range exceeds the limit (query length: 1157d9h46m40s, limit: 30d1h)",
    )
    .await;
    check(
        &query("&step=0.1&since=1h"),
        400,
        "exceeded maximum resolution of 11,000 points per time series. Try increasing the value of the step parameter",
    )
    .await;
    check(
        &format!("/loki/api/v1/query?query={}", encode(r#"{app="web"}"#)),
        400,
        "log queries are not supported as an instant query type, please change your query to a range query type",
    )
    .await;
    check("/loki/api/v1/detected_fields", 501, "detected_fields is not implemented yet").await;
    check("/loki/api/v1/patterns", 404, "pattern detection is not implemented yet").await;
    check("/nowhere", 404, "404 page not found\n").await;
    let reply = world.send(Request::delete("/loki/api/v1/query").body(Body::empty()).expect("a request")).await;
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (405, ""));
    let reply = world.get("/loki/api/v1/labels?start=2&end=1").await;
    let text = "this data is no longer available, it is past now - max_query_lookback (0s)";
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (400, text));
}

#[tokio::test]
async fn forms_are_merged_body_first() {
    let world = small_world().await;
    let form = |body: String| {
        let builder = Request::post("/loki/api/v1/query_range?limit=1&direction=sideways");
        builder.header("content-type", "application/x-www-form-urlencoded").body(Body::from(body)).expect("a request")
    };
    let query = encode(r#"{app="web"}"#);
    let (start, end) = (seconds_ago(600).nanos(), NOW.nanos());
    let reply = world.send(form(format!("query={query}&direction=forward&start={start}&end={end}"))).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert_eq!(reply.json()["data"]["stats"]["summary"]["totalEntriesReturned"], 1, "the URL's limit counts");
    let reply = world.send(form("x".repeat(11 << 20))).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn labels_and_series() {
    let world = small_world().await;
    let check = async |path: &str, expected: Value| {
        let reply = world.get(path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text());
        assert_eq!(reply.json(), json!({"status": "success", "data": expected}), "{path}");
    };
    check("/loki/api/v1/labels", json!(["app", "env"])).await;
    check("/loki/api/v1/label", json!(["app", "env"])).await;
    check(&format!("/loki/api/v1/labels?query={}", encode(r#"{app="db"}"#)), json!(["app"])).await;
    check("/loki/api/v1/label/app/values", json!(["db", "web"])).await;
    check("/loki/api/v1/label/nothing/values", json!([])).await;
    check("/loki/api/v1/labels?start=1&end=2", json!([])).await;
    let (db, web) = (json!({"app": "db"}), json!({"app": "web", "env": "prod"}));
    check("/loki/api/v1/series", json!([db, web])).await;
    check("/loki/api/v1/series?match[]={}", json!([db, web])).await;
    let (one, two) = (encode(r#"{app="db"}"#), encode(r#"{env="prod"}"#));
    check(&format!("/loki/api/v1/series?match[]={one}"), json!([db])).await;
    check(&format!("/loki/api/v1/series?match[]={one}&match={two}"), json!([db, web])).await;

    let refused = async |path: String, text: &str| {
        let reply = world.get(&path).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path}");
        assert!(reply.text().contains(text), "{path}: {}", reply.text());
    };
    refused("/loki/api/v1/labels?query={}".to_owned(), "queries require at least one").await;
    refused(format!("/loki/api/v1/labels?query={}", encode(r#"{a="b"} |= "x""#)), "only label matchers are supported")
        .await;
    refused(format!("/loki/api/v1/series?match[]={}", encode(r#"{app=~".*"}"#)), "queries require at least one").await;
    refused(format!("/loki/api/v1/series?match[]={{}}&match[]={one}"), "0 matchers in group: {}").await;

    let reply = world.get("/loki/api/v1/detected_labels").await;
    let expected = json!({"detectedLabels": [{"label": "app", "cardinality": 2}, {"label": "env", "cardinality": 1}]});
    assert_eq!(reply.json(), expected);
}

#[tokio::test]
async fn statistics_and_volume() {
    let world = small_world().await;
    let reply = world.get(&format!("/loki/api/v1/index/stats?query={}", encode(r#"{app=~".+"}"#))).await;
    assert_eq!(reply.json(), json!({"streams": 2, "chunks": 3, "bytes": 28, "entries": 3}));
    let volume = |query: &str, more: &str| {
        let (start, end) = (seconds_ago(600).nanos(), NOW.nanos());
        format!("/loki/api/v1/index/volume{more}query={}&start={start}&end={end}", encode(query))
    };
    let found = world.result(&volume("{}", "?")).await;
    assert_eq!(
        found,
        json!([
            {"metric": {"app": "web", "env": "prod"}, "value": [1_700_000_000, "17"]},
            {"metric": {"app": "db"}, "value": [1_700_000_000, "11"]},
        ])
    );
    let found = world.result(&volume("{}", "?aggregateBy=labels&limit=1&")).await;
    assert_eq!(found, json!([{"metric": {"app": ""}, "value": [1_700_000_000, "28"]}]));
    let found = world.result(&volume(r#"{app="web"}"#, "_range?step=10&")).await;
    assert_eq!(
        found,
        json!([{"metric": {"app": "web"}, "values": [[1_699_999_979.999, "11"], [1_699_999_989.999, "6"]]}])
    );
    let limits = Limits { volume_enabled: false, ..Limits::default() };
    let closed = World::with(1, Config::default(), limits);
    let reply = closed.get(&volume("{}", "?")).await;
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (404, "not found"));
}

#[tokio::test]
async fn tenants() {
    let config = Config { auth_enabled: true, ..Config::default() };
    let world = World::with(1, config, Limits::default());
    let other = Row { tenant: TenantId::new("b").expect("a name"), ..row(&[("app", "b")], seconds_ago(1), "x") };
    world.owner.append(0, &[other]);
    let path = "/loki/api/v1/labels";
    let reply = world.get(path).await;
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (401, "no org id\n"));
    let check = async |tenant: &str, status: u16, text: &str| {
        let reply = world.get_with(path, ("X-Scope-OrgID", tenant)).await;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (status, text), "{tenant}");
    };
    check("a", 200, "{\"status\":\"success\",\"data\":[]}\n").await;
    check("b", 200, "{\"status\":\"success\",\"data\":[\"app\"]}\n").await;
    check("a|b", 400, "multiple org IDs present").await;
    check("a/b", 400, "tenant ID 'a/b' contains unsupported character '/'").await;
}

#[tokio::test]
async fn several_tenants() {
    let config = Config { auth_enabled: true, multi_tenant_queries_enabled: true, ..Config::default() };
    let world = World::with(1, config, Limits::default());
    for (i, tenant) in ["a", "b", "c"].into_iter().enumerate() {
        let entry = row(&[("app", "web")], seconds_ago(10 + i as u64), tenant);
        world.owner.append(0, &[Row { tenant: TenantId::new(tenant).expect("a name"), ..entry }]);
    }
    let get = async |path: &str| world.get_with(path, ("X-Scope-OrgID", "b|a")).await;
    assert_eq!(get("/loki/api/v1/labels").await.json()["data"], json!(["__tenant_id__", "app"]));
    assert_eq!(get("/loki/api/v1/label/__tenant_id__/values").await.json()["data"], json!(["a", "b"]));
    let series = get("/loki/api/v1/series").await.json();
    assert_eq!(series["data"][0], json!({"__tenant_id__": "a", "app": "web"}));
    let at = |secs: u64| seconds_ago(secs).nanos().to_string();
    let found = get(&range_path(r#"{app="web"}"#, "")).await.json();
    let stream = |tenant: &str, secs: u64| json!({"stream": {"__tenant_id__": tenant, "app": "web"}, "values": [[at(secs), tenant]]});
    assert_eq!(found["data"]["result"], json!([stream("a", 10), stream("b", 11)]));
    let found = get(&range_path(r#"{app="web", __tenant_id__="b"}"#, "")).await.json();
    assert_eq!(found["data"]["result"], json!([stream("b", 11)]));
    let found = get(&range_path(r#"{app="web"}"#, "&limit=1")).await.json();
    assert_eq!(found["data"]["result"], json!([stream("a", 10)]));
    let reply = get(&format!("/loki/api/v1/query?query={}", encode(r#"sum(rate({app="web"}[1m]))"#))).await;
    assert_eq!(reply.text(), "a metric query over several tenants is not implemented yet");
    assert_eq!(get("/loki/api/v1/query?query=1").await.status, StatusCode::OK);
    let reply = get(&format!("/loki/api/v1/tail?query={}", encode(r#"{app="web"}"#))).await;
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (400, "multiple org IDs present\n"));
}

#[tokio::test]
async fn small_endpoints() {
    let world = World::new(1);
    let build = world.get("/loki/api/v1/status/buildinfo").await.json();
    assert_eq!(build["version"], "3.8.0");
    let formatted = world.get(&format!("/loki/api/v1/format_query?query={}", encode(r#"{a="b"}|="x""#))).await;
    assert_eq!(formatted.json(), json!({"status": "success", "data": r#"{a="b"} |= "x""#}));
    let refused = world.get("/loki/api/v1/format_query?query=%7B").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["status"]), (400, &json!("invalid-query")));
    let limits = world.get("/loki/api/v1/drilldown-limits").await.json();
    assert_eq!(limits["limits"]["max_query_series"], 500);
    assert_eq!(limits["limits"]["query_timeout"], "1m");
    let text = world.get("/config/tenant/v1/limits").await.text();
    assert!(text.contains("max_entries_limit_per_query: 5000"), "{text}");
    let flush = world.send(Request::post("/flush").body(Body::empty()).expect("a request")).await;
    assert_eq!((flush.status.as_u16(), flush.text().as_str()), (204, ""));
    assert_eq!(world.owner.flushes.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(world.get("/flush").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn limits_stop_queries() {
    let limits =
        Limits { max_query_lookback: PromDuration::from_hours(1), max_query_parallelism: 1, ..Limits::default() };
    let world = World::with(1, Config::default(), limits);
    world.owner.append(0, &[row(&[("app", "web")], seconds_ago(7200), "old")]);
    let old = |path: &str| format!("{path}?query={}&start=1600000000&end=1600003600", encode(r#"{app="web"}"#));
    let reply = world.get(&old("/loki/api/v1/query_range")).await;
    assert_eq!(reply.json()["data"]["result"], json!([]), "a query before all that may be seen is empty");
    let reply = world.get(&old("/loki/api/v1/labels")).await;
    assert_eq!(reply.text(), "this data is no longer available, it is past now - max_query_lookback (1h)");
    let path = format!("/loki/api/v1/query_range?query={}&since=10h", encode(r#"{app="web"}"#));
    assert_eq!(world.result(&path).await, json!([]), "the start is moved forward");

    let closed = World::with(1, Config::default(), Limits { max_query_parallelism: 0, ..Limits::default() });
    let reply = closed.get(&range_path(r#"{app="web"}"#, "")).await;
    assert_eq!(
        (reply.status.as_u16(), reply.text().as_str()),
        (429, "querying is disabled, please contact your Loki operator")
    );
}

#[tokio::test]
async fn bytes_of_blocks_are_limited() {
    let limits = Limits { max_query_bytes_read: limits::ByteSize::from_bytes(20), ..Limits::default() };
    let world = World::with(1, Config::default(), limits);
    let rows = [
        row(&[("app", "web")], seconds_ago(2), "0123456789abcdef"),
        row(&[("app", "db")], seconds_ago(1), "0123456789"),
    ];
    world.owner.append(0, &rows);
    world.cut(0, 2).await;
    let ask = async |selector: &str| world.get(&range_path(selector, "")).await;
    assert_eq!(ask(r#"{app="web"}"#).await.status, StatusCode::OK, "only what the matchers choose counts");
    let reply = ask(r#"{app=~".+"}"#).await;
    let text = "the query would read too many bytes (query: 26B, limit: 20B); consider adding more specific stream \
                selectors or reduce the time range of the query";
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (400, text));
}

#[tokio::test]
async fn slow_queries_end_and_full_queues_refuse() {
    let limits = Limits { query_timeout: PromDuration::from_millis(300), ..Limits::default() };
    let config = Config { max_outstanding_per_tenant: 1, ..Config::default() };
    let world = World::with(1, config, limits);
    world.owner.stuck.store(true, std::sync::atomic::Ordering::Relaxed);
    let path = range_path(r#"{app="web"}"#, "");
    let (first, second) = tokio::join!(world.get(&path), world.get(&path));
    let text = "request timed out, decrease the duration of the request or add more label matchers (prefer exact match \
                over regex match) to reduce the amount of data processed";
    assert_eq!((first.status.as_u16(), first.text().as_str()), (504, text));
    assert_eq!((second.status.as_u16(), second.text().as_str()), (429, "too many outstanding requests"));
    world.owner.stuck.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(world.get(&path).await.status, StatusCode::OK, "a query that ended makes room");
}

#[tokio::test]
async fn gzip() {
    let world = World::new(1);
    let rows: Vec<Row> = (0..100).map(|i| row(&[("app", "web")], seconds_ago(i + 1), &format!("line {i}"))).collect();
    world.owner.append(0, &rows);
    let path = range_path(r#"{app="web"}"#, "");
    let plain = world.get(&path).await;
    let packed = world.get_with(&path, ("accept-encoding", "gzip, deflate")).await;
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert!(packed.body.len() < plain.body.len() / 2);
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_string(&mut unpacked).expect("gzip");
    let unpacked: Value = serde_json::from_str(&unpacked).expect("JSON");
    assert_eq!(unpacked["data"]["result"], plain.json()["data"]["result"]);
    let small = world.get_with("/loki/api/v1/labels", ("accept-encoding", "gzip")).await;
    assert_eq!(small.header("content-encoding"), "", "small answers are not packed");
}

#[tokio::test]
async fn metrics_are_counted() {
    let world = small_world().await;
    world.result(&range_path(r#"{app="web"} |= "error""#, "")).await;
    world.get("/loki/api/v1/labels").await;
    let families = world.registry.gather();
    let count = |name: &str, label: &str| -> u64 {
        let family = families.iter().find(|f| f.name() == name).unwrap_or_else(|| panic!("no {name}"));
        let has = |m: &&prometheus::proto::Metric| m.get_label().iter().any(|l| l.value() == label);
        family.get_metric().iter().filter(has).map(|m| m.get_histogram().get_sample_count()).sum()
    };
    assert_eq!(count("loki_logql_querystats_latency_seconds", "filter"), 1);
    assert_eq!(count("loki_logql_querystats_latency_seconds", "labels"), 1);
    assert_eq!(count("logql_query_duration_seconds", "filter"), 1);
}
