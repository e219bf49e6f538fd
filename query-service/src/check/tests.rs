use limits::{ByteSize, PromDuration};

use super::*;

fn query(text: &str, limits: &Limits, is_drilldown: bool) -> Option<String> {
    let expr = logql::parse(text).expect("a good query");
    check_query(text, &expr, limits, is_drilldown).err().map(|e| e.to_string())
}

#[test]
fn queries() {
    let limits = |change: fn(&mut Limits)| {
        let mut limits = Limits { max_query_bytes_read: ByteSize::from_bytes(0), ..Limits::default() };
        change(&mut limits);
        limits
    };
    let check = |text: &str, limits: Limits, expected: Option<&str>| {
        assert_eq!(query(text, &limits, false).as_deref(), expected, "{text}");
    };
    check(r#"{a="b"}"#, limits(|_| ()), None);
    check(
        r#"{a="b", c="d"}"#,
        limits(|l| l.max_streams_matchers_per_query = 1),
        Some("max streams matchers per query exceeded, matchers-count > limit (2 > 1)"),
    );
    check(
        r#"sum(rate({a="b"}[5m]))"#,
        limits(|l| l.required_labels = vec!["a".into(), "env".into(), "app".into()]),
        Some("stream selector is missing required matchers [env, app], labels present in the query were [a]"),
    );
    check(
        r#"rate({a="b"}[5m]) / rate({a="b", c="d"}[5m])"#,
        limits(|l| l.minimum_labels_number = 2),
        Some(
            "stream selector has less label matchers than required: (present: [a], number_present: 1, \
             required_number_label_matchers: 2)",
        ),
    );
    check(
        r#"topk(3, sum by (a) (rate({a="b"}[90m])))"#,
        limits(|l| l.max_query_range = PromDuration::from_hours(1)),
        Some("[interval] value exceeds limit: [1h30m] > [1h]"),
    );
    check(
        r#"{a="b"}"#,
        limits(|l| l.max_query_parallelism = 0),
        Some("querying is disabled, please contact your Loki operator"),
    );
    let internal = Some("internal streams can only be queried from Logs Drilldown");
    check(r#"{__pattern__="x"}"#, limits(|_| ()), internal);
    check(r#"{__aggregated_metric__=~".+"}"#, limits(|_| ()), internal);
    check(r#"{a="b", __pattern__=""}"#, limits(|_| ()), None);
    assert_eq!(query(r#"{__pattern__="x"}"#, &Limits::default(), true), None);
}

#[test]
fn blocked() {
    let check = |text: &str, policy: BlockedQuery, expected: bool| {
        let limits = Limits { blocked_queries: vec![policy.clone()], ..Limits::default() };
        let found = query(text, &limits, false);
        assert_eq!(found.as_deref(), expected.then_some("query blocked by policy"), "{text} {policy:?}");
    };
    let policy = |pattern: &str, regex: bool, types: &[&str]| BlockedQuery {
        pattern: pattern.into(),
        regex,
        types: types.iter().map(|t| (*t).to_owned()).collect(),
        ..BlockedQuery::default()
    };
    check(r#"{a="b"}"#, policy(r#"{a="b"}"#, false, &[]), true);
    check(r#"{a="bc"}"#, policy(r#"{a="b"}"#, false, &[]), false);
    check(r#"{a="bc"}"#, policy(r#"a="b."#, true, &[]), true);
    check(r#"{a="bc"}"#, policy("a(", true, &[]), false);
    check(r#"{a="b"}"#, policy("", false, &["metric"]), false);
    check(r#"rate({a="b"}[1m])"#, policy("", false, &["metric"]), true);
    check(r#"{a="b"} |= "x""#, policy(".*", true, &["filter"]), true);
    check(r#"{a="b"} | json"#, policy(".*", true, &["filter"]), false);
    check(r#"{a="b"} | json"#, policy(".*", true, &["limited"]), true);
    check(r#"{a="b"}"#, BlockedQuery { hash: fnv1a(r#"{a="b"}"#), ..BlockedQuery::default() }, true);
    check(r#"{a="b"}"#, BlockedQuery { hash: fnv1a(r#"{a="c"}"#), ..BlockedQuery::default() }, false);
    assert_eq!(fnv1a("a"), 0xe40c_292c);
}

#[test]
fn entries() {
    let limits = Limits::default();
    assert!(check_entries(5000, &limits).is_ok());
    let text = check_entries(5001, &limits).err().map(|e| e.to_string());
    let expected = "max entries limit per query exceeded, limit > max_entries_limit_per_query (5001 > 5000)";
    assert_eq!(text.as_deref(), Some(expected));
    assert!(check_entries(u32::MAX, &Limits { max_entries_limit_per_query: 0, ..limits }).is_ok());
}

#[test]
fn times() {
    let now = TimestampNs::from_secs(10_000_000);
    let at = |secs: i64| TimestampNs::from_secs(10_000_000 + secs);
    let bounds = |start: i64, end: i64| Bounds { start: at(start), end: at(end) };
    let limits = |length: u64, lookback: u64| Limits {
        max_query_length: PromDuration::from_secs(length),
        max_query_lookback: PromDuration::from_secs(lookback),
        ..Limits::default()
    };
    let check = |b: Bounds, l: Limits, expected: Result<Reach, &str>| {
        let found = check_bounds(b, now, &l).map_err(|e| e.to_string());
        assert_eq!(found, expected.map_err(str::to_owned));
    };
    check(bounds(-100, 0), limits(100, 0), Ok(Reach::Within(bounds(-100, 0))));
    check(
        bounds(-3700, 0),
        limits(3600, 0),
        Err("the query time range exceeds the limit (query length: 1h1m40s, limit: 1h)"),
    );
    check(bounds(-100, 0), limits(50, 40), Ok(Reach::Within(bounds(-40, 0))));
    check(bounds(-100, -50), limits(0, 40), Ok(Reach::TooOld));
    check(bounds(-100, 0), limits(0, 0), Ok(Reach::Within(bounds(-100, 0))));
    let labels = check_bounds_of_labels(bounds(-100, -50), now, &limits(0, 40)).err().map(|e| e.to_string());
    let expected = "this data is no longer available, it is past now - max_query_lookback (40s)";
    assert_eq!(labels.as_deref(), Some(expected));
}
