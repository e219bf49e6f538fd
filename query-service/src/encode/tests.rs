use serde_json::{Value, json};

use super::*;

fn set(pairs: &[(&str, &str)]) -> Labels {
    Labels::with_empty_values(pairs.iter().copied())
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

fn entry_of(ts: i64, line: &str, metadata: &[(&str, &str)], parsed: &[(&str, &str)]) -> ResultEntry {
    ResultEntry {
        ts: TimestampNs::from_nanos(ts),
        line: line.as_bytes().to_vec(),
        metadata: owned(metadata),
        parsed: owned(parsed),
    }
}

fn data(answer: &Answer, flags: &str) -> Value {
    let flags = EncodingFlags::parse(flags);
    let query = QueryAnswer {
        answer,
        direction: Direction::Backward,
        flags: &flags,
        warnings: &[],
        stats: AnswerStats::default(),
    };
    let mut json: Value = serde_json::from_slice(&query.to_bytes()).expect("valid JSON");
    assert_eq!(json["status"], "success");
    assert!(json["data"]["stats"]["summary"].is_object());
    let data = json["data"].as_object_mut().expect("an object");
    data.remove("stats");
    Value::Object(data.clone())
}

#[test]
fn shapes() {
    let check = |answer: Answer, flags: &str, expected: Value| assert_eq!(data(&answer, flags), expected);
    check(Answer::Streams(vec![]), "", json!({"resultType": "streams", "result": []}));
    let answer = || {
        Answer::Streams(vec![
            ResultStream {
                labels: set(&[("app", "web"), ("level", "a\"\n")]),
                stream: set(&[("app", "web")]),
                entries: vec![entry_of(20, "<b>&\u{2028}", &[("t", "1")], &[("level", "a\"\n")])],
            },
            ResultStream {
                labels: set(&[("app", "web"), ("level", "")]),
                stream: set(&[("app", "web")]),
                entries: vec![entry_of(30, "newer", &[], &[("level", "")]), entry_of(10, "older", &[], &[])],
            },
        ])
    };
    check(
        answer(),
        "",
        json!({"resultType": "streams", "result": [
            {"stream": {"app": "web", "level": "a\"\n"}, "values": [["20", "<b>&\u{2028}"]]},
            {"stream": {"app": "web", "level": ""}, "values": [["30", "newer"], ["10", "older"]]},
        ]}),
    );
    check(
        answer(),
        "categorize-labels,other",
        json!({"resultType": "streams", "encodingFlags": ["categorize-labels", "other"], "result": [
            {"stream": {"app": "web"}, "values": [
                ["30", "newer", {"parsed": {"level": ""}}],
                ["20", "<b>&\u{2028}", {"structuredMetadata": {"t": "1"}, "parsed": {"level": "a\"\n"}}],
                ["10", "older", {}],
            ]},
        ]}),
    );
    check(
        Answer::Matrix(vec![Series {
            labels: set(&[]),
            points: vec![(1_700_000_000_000, 1.5), (1_700_000_060_500, 2.0)],
        }]),
        "categorize-labels",
        json!({"resultType": "matrix", "result": [
            {"metric": {}, "values": [[1_700_000_000, "1.5"], [1_700_000_060.5, "2"]]},
        ]}),
    );
    check(
        Answer::Vector(vec![Sample { labels: set(&[("a", "b")]), t_ms: 4000, value: f64::INFINITY }]),
        "",
        json!({"resultType": "vector", "result": [{"metric": {"a": "b"}, "value": [4, "+Inf"]}]}),
    );
    check(
        Answer::Scalar { t_ms: 1_795_228_793_500, v: 2.0 },
        "",
        json!({"resultType": "scalar", "result": [1_795_228_793_500_i64, "2"]}),
    );
}

#[test]
fn points() {
    let check = |t_ms: i64, value: f64, expected: &str| {
        let mut out = Vec::new();
        point(&mut out, t_ms, value);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    };
    check(0, 0.0, "[0,\"0\"]");
    check(1500, 1e21, "[1.5,\"1e+21\"]");
    check(1050, f64::NAN, "[1.05,\"NaN\"]");
    check(1001, f64::NEG_INFINITY, "[1.001,\"-Inf\"]");
    check(-500, 1.0, "[-0.5,\"1\"]");
}

#[test]
fn broken_utf8_is_shown_as_replacement() {
    let mut out = Vec::new();
    entry(&mut out, TimestampNs::from_nanos(-1), b"a\xffb", None);
    assert_eq!(String::from_utf8_lossy(&out), "[\"-1\",\"a\u{fffd}b\"]");
}

#[test]
fn warnings_and_lists() {
    let flags = EncodingFlags::default();
    let warnings = ["careful".to_owned()];
    let answer = Answer::Vector(vec![]);
    let stats = AnswerStats::default();
    let body =
        QueryAnswer { answer: &answer, direction: Direction::Forward, flags: &flags, warnings: &warnings, stats }
            .to_bytes();
    assert_eq!(body.last(), Some(&b'\n'));
    let json: Value = serde_json::from_slice(&body).expect("valid JSON");
    assert_eq!(json["warnings"], json!(["careful"]));

    assert_eq!(text_list(&["a", "b"], &[]), b"{\"status\":\"success\",\"data\":[\"a\",\"b\"]}\n");
    assert_eq!(text_list(&[""; 0], &[]), b"{\"status\":\"success\",\"data\":[]}\n");
    let told = text_list(&["a"], &warnings);
    assert_eq!(told, b"{\"status\":\"success\",\"warnings\":[\"careful\"],\"data\":[\"a\"]}\n");
    assert_eq!(labels_list(&[set(&[("a", "b")])], &[]), b"{\"status\":\"success\",\"data\":[{\"a\":\"b\"}]}\n");
}
