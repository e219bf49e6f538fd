//! Queries over small batches, from the specification.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{sync::Arc, time::Duration};

use millrace_logql::{Answer, Direction, Params, Query, QueryError, format_value};
use model::{Batch, ByteColumn, LineNeed, MetadataColumn, MetadataNeed, MetadataValues, TimestampNs, parse_labels};

const SECOND: i64 = 1_000_000_000;

/// One entry: seconds, line, metadata.
type Entry<'a> = (f64, &'a str, &'a [(&'a str, &'a str)]);

fn batch(labels: &str, entries: &[Entry<'_>]) -> Batch {
    let mut names: Vec<&str> = entries.iter().flat_map(|(_, _, m)| m.iter().map(|(n, _)| *n)).collect();
    names.sort_unstable();
    names.dedup();
    let strings = |texts: &[&str]| {
        let mut offsets = vec![0];
        let mut data = Vec::new();
        for text in texts {
            data.extend_from_slice(text.as_bytes());
            offsets.push(data.len() as u32);
        }
        ByteColumn::new(offsets, data.into())
    };
    let column = |name: &&str| {
        let value = |m: &[(&str, &str)]| m.iter().find(|(n, _)| n == name).map(|(_, v)| (*v).to_owned());
        let values: Vec<Option<String>> = entries.iter().map(|(_, _, m)| value(m)).collect();
        let mut dictionary: Vec<&str> = values.iter().flatten().map(String::as_str).collect();
        dictionary.sort_unstable();
        dictionary.dedup();
        let id = |v: &Option<String>| match v {
            None => MetadataValues::ABSENT,
            Some(v) => dictionary.iter().position(|d| d == v).unwrap() as u32,
        };
        let ids: Vec<u32> = values.iter().map(id).collect();
        let values = match values.first() {
            Some(Some(first)) if ids.iter().all(|id| *id == 0) => MetadataValues::Constant(Arc::from(first.as_str())),
            _ => MetadataValues::Dictionary { dictionary: strings(&dictionary), ids },
        };
        MetadataColumn { name: Arc::from(*name), values }
    };
    Batch {
        labels: parse_labels(labels).unwrap(),
        timestamps: entries.iter().map(|(t, _, _)| (t * SECOND as f64) as i64).collect(),
        lines: strings(&entries.iter().map(|(_, line, _)| *line).collect::<Vec<_>>()).into(),
        metadata: names.iter().map(column).collect(),
        offsets: (0..entries.len() as i64).collect(),
    }
}

fn params() -> Params {
    Params {
        start: TimestampNs::from_secs(0),
        end: TimestampNs::from_secs(100),
        step: Duration::ZERO,
        interval: Duration::ZERO,
        direction: Direction::Forward,
        limit: 100,
        series_max: 0,
    }
}

fn run(text: &str, params: Params, batches: &[Batch]) -> Result<Answer, QueryError> {
    let query = Query::prepare(text, params)?;
    let mut partials = Vec::new();
    for scan in query.scans() {
        let mut merged = scan.partial();
        for batch in batches.iter().filter(|b| scan.matchers().iter().all(|m| m.matches(&b.labels))) {
            let mut partial = scan.partial();
            scan.accept(batch, &mut partial)?;
            // A partial survives serialization.
            let text = serde_json::to_string(&partial).unwrap();
            merged.merge(serde_json::from_str(&text).unwrap());
        }
        partials.push(merged);
    }
    query.finish(partials)
}

fn show(answer: Result<Answer, QueryError>) -> String {
    let pairs =
        |pairs: &[(String, String)]| pairs.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(",");
    match answer {
        Err(error) => error.to_string(),
        Ok(Answer::Scalar { t_ms, v }) => format!("{t_ms}: {}", format_value(v)),
        Ok(Answer::Vector(samples)) => {
            samples.iter().map(|s| format!("{} {}", s.labels, format_value(s.value))).collect::<Vec<_>>().join("; ")
        }
        Ok(Answer::Matrix(series)) => {
            let points = |points: &[(i64, f64)]| {
                points.iter().map(|(t, v)| format!("{t}:{}", format_value(*v))).collect::<Vec<_>>()
            };
            series
                .iter()
                .map(|s| format!("{} {}", s.labels, points(&s.points).join(" ")))
                .collect::<Vec<_>>()
                .join("; ")
        }
        Ok(Answer::Streams(streams)) => streams
            .iter()
            .map(|s| {
                let entry = |e: &millrace_logql::ResultEntry| {
                    format!("{}[{}|{}]", String::from_utf8_lossy(&e.line), pairs(&e.metadata), pairs(&e.parsed))
                };
                let entries: Vec<_> = s.entries.iter().map(entry).collect();
                format!("{} of {}: {}", s.labels, s.stream, entries.join(" "))
            })
            .collect::<Vec<_>>()
            .join("; "),
    }
}

#[track_caller]
fn check_with(text: &str, params: Params, batches: &[Batch], expected: &str) {
    assert_eq!(show(run(text, params, batches)), expected, "{text}");
}

fn sample() -> Vec<Batch> {
    vec![
        batch(
            r#"{app="web", env="prod"}"#,
            &[
                (10.0, r#"{"level":"info","path":"/a","ms":10}"#, &[("trace", "t1")]),
                (20.0, r#"{"level":"error","path":"/b","ms":30}"#, &[("trace", "t2")]),
                (30.0, r#"{"level":"info","path":"/a","ms":20}"#, &[]),
            ],
        ),
        batch(
            r#"{app="db", env="prod"}"#,
            &[
                (15.0, "level=warn took=1.5s size=1KB", &[]),
                (25.0, "level=info took=500ms size=2KB app=x", &[]),
                (35.0, "broken=", &[]),
            ],
        ),
    ]
}

#[test]
fn entries() {
    let check = |text: &str, expected: &str| check_with(text, params(), &sample(), expected);
    check(
        r#"{app="db"} |= "info""#,
        r#"{app="db", env="prod"} of {app="db", env="prod"}: level=info took=500ms size=2KB app=x[|]"#,
    );
    check(
        r#"{app="web"} |= "error""#,
        r#"{app="web", env="prod", trace="t2"} of {app="web", env="prod"}: {"level":"error","path":"/b","ms":30}[trace=t2|]"#,
    );
    check(
        r#"{app="db"} | logfmt | level="info" | drop took, size, env"#,
        r#"{app="db", app_extracted="x", level="info"} of {app="db"}: level=info took=500ms size=2KB app=x[|app_extracted=x,level=info]"#,
    );
    check(
        r#"{app="web"} | json m="ms" | m > 15 | trace="" | keep m"#,
        r#"{m="20"} of {}: {"level":"info","path":"/a","ms":20}[|m=20]"#,
    );
    check(r#"{app="web"} |= "nothing""#, "");
    check(
        r#"{app="db"} | json | line = "x" or __error__="JSONParserErr" |= "broken" | drop __error__"#,
        r#"{app="db", env="prod"} of {app="db", env="prod"}: broken=[|]"#,
    );
    check(
        r#"{app="db"} |= "warn" | logfmt size | label_format env=size, app=none"#,
        r#"{app="db", env="1KB"} of {app="db"}: level=warn took=1.5s size=1KB[|env=1KB]"#,
    );
    check(
        r#"{app="db"} |= "warn" | pattern "<a>=<b> <_>" | regexp "took=(?P<t>[0-9.]+)(?P<n>x)?""#,
        r#"{a="level", app="db", b="warn", env="prod", n="", t="1.5"} of {app="db", env="prod"}: level=warn took=1.5s size=1KB[|a=level,b=warn,n=,t=1.5]"#,
    );
    let colours = [batch(r#"{app="c"}"#, &[(1.0, "\u{1b}[31mred\u{1b}[0m \u{1b} \u{1b}[", &[])])];
    check_with(
        r#"{app="c"} | decolorize |= "red""#,
        params(),
        &colours,
        "{app=\"c\"} of {app=\"c\"}: red \u{1b} \u{1b}[[|]",
    );
}

#[test]
fn order_limit_and_interval() {
    let lines = |prefix: &'static str| (0..10).map(move |i| format!("{prefix}{i}")).collect::<Vec<_>>();
    let (x, y) = (lines("l"), lines("m"));
    let x: Vec<Entry<'_>> = x.iter().enumerate().map(|(i, l)| (i as f64, l.as_str(), &[][..])).collect();
    let y: Vec<Entry<'_>> = y.iter().enumerate().take(6).map(|(i, l)| (i as f64 + 0.5, l.as_str(), &[][..])).collect();
    let batches = [batch(r#"{a="x"}"#, &x), batch(r#"{a="y"}"#, &y)];
    let check = |interval: f64, limit: u32, direction, expected: &str| {
        let interval = Duration::from_secs_f64(interval);
        let params = Params { interval, limit, direction, ..params() };
        let found = show(run(r#"{a=~".+"}"#, params, &batches));
        let found = found.replace("[|]", "").replace(" of {a=\"x\"}", "").replace(" of {a=\"y\"}", "");
        assert_eq!(found, expected, "{interval:?} {limit}");
    };
    check(3.0, 100, Direction::Forward, r#"{a="x"}: l0 l3 l6 l9"#);
    check(2.5, 100, Direction::Forward, r#"{a="x"}: l0 l5 l8; {a="y"}: m2"#);
    check(3.0, 4, Direction::Forward, r#"{a="x"}: l0"#);
    check(0.0, 3, Direction::Forward, r#"{a="x"}: l0 l1; {a="y"}: m0"#);
    check(0.0, 3, Direction::Backward, r#"{a="x"}: l9 l8 l7"#);
    check(0.0, 0, Direction::Backward, "");
}

#[test]
fn the_end_is_outside_and_bounds_are_told() {
    let batches = [batch(r#"{a="x"}"#, &[(0.0, "first", &[]), (50.0, "mid", &[]), (100.0, "end", &[])])];
    check_with(r#"{a="x"}"#, params(), &batches, r#"{a="x"} of {a="x"}: first[|] mid[|]"#);
    let query = Query::prepare(r#"{a="x"}"#, Params { limit: 1, direction: Direction::Backward, ..params() }).unwrap();
    let scan = &query.scans()[0];
    let mut partial = scan.partial();
    assert_eq!(scan.still_wanted(&partial), None);
    scan.accept(&batches[0], &mut partial).unwrap();
    assert_eq!(
        scan.still_wanted(&partial).map(|t| (t.start.nanos(), t.end.nanos())),
        Some((50 * SECOND, 100 * SECOND))
    );
    assert_eq!((partial.stats().lines, partial.stats().bytes, partial.stats().post_filter_lines), (2, 8, 1));
}

#[test]
fn counting() {
    let check = |text: &str, expected: &str| check_with(text, params(), &sample(), expected);
    check(
        r#"count_over_time({app="web"}[100s])"#,
        r#"{app="web", env="prod"} 1; {app="web", env="prod", trace="t1"} 1; {app="web", env="prod", trace="t2"} 1"#,
    );
    check(r#"sum by (app) (count_over_time({env="prod"}[100s]))"#, r#"{app="db"} 3; {app="web"} 3"#);
    check(r#"sum(rate({env="prod"}[100s]))"#, "{} 0.06");
    check(r#"sum without (trace, env) (count_over_time({app="web"}[100s]))"#, r#"{app="web"} 3"#);
    check(r#"sum by (trace) (count_over_time({app="web"}[100s]))"#, r#"{} 1; {trace="t1"} 1; {trace="t2"} 1"#);
    check(r#"count_over_time({app="db"}[65s])"#, "");
    check(r#"count_over_time({app="db"}[66s])"#, r#"{app="db", env="prod"} 1"#);
    check(r#"count_over_time({app="db"}[10s] offset 65s)"#, r#"{app="db", env="prod"} 1"#);
    check(r#"sum(bytes_over_time({app="db"}[100s]))"#, "{} 72");
    check(r#"sum(bytes_rate({app="db"} |= "warn" [100s]))"#, "{} 0.29");
    check(r#"sum by (level) (count_over_time({app="web"} | json [100s]))"#, r#"{level="error"} 1; {level="info"} 2"#);
    check(
        r#"sum by (level) (count_over_time({app="web"} | json | ms >= 20 [100s]))"#,
        r#"{level="error"} 1; {level="info"} 1"#,
    );
    check(r#"avg(count_over_time({env="prod"} |= "info" [100s]))"#, "{} 1");
    check(r#"topk(1, sum by (app) (count_over_time({env="prod"}[88s])))"#, r#"{app="db"} 3"#);
    check(
        r#"sort_desc(sum by (level) (count_over_time({app="web"} | json [100s])))"#,
        r#"{level="info"} 2; {level="error"} 1"#,
    );
    check(r#"absent_over_time({app="none", env=~"p.*", x="1", x!="2"}[5m])"#, r#"{app="none"} 1"#);
    check(r#"absent_over_time({app="web"}[100s])"#, "");
    check(r#"count(rate({app="web"} | trace="t1" [100s]))"#, "{} 1");
    check(r#"sum by (v) (count_over_time({app="db"} | logfmt v="none" [100s]))"#, r#"{v=""} 3"#);
}

#[test]
fn errors_fail_metric_queries() {
    let check = |text: &str, expected: &str| check_with(text, params(), &sample(), expected);
    let error = "pipeline error: 'JSONParserErr' for series: '{__error__=\"JSONParserErr\", __error_details__=\"Value looks like \
                 object, but can't find closing '}' symbol\", app=\"db\", env=\"prod\"}'.\n\
                 Use a label filter to intentionally skip this error. (e.g | __error__!=\"JSONParserErr\").\n\
                 To skip all potential errors you can match empty errors.(e.g __error__=\"\")\n\
                 The label filter can also be specified after unwrap. (e.g | unwrap latency | __error__=\"\" )\n";
    check(r#"sum by (x) (count_over_time({app="db"} | json [100s]))"#, error);
    check(r#"sum by (__error__) (count_over_time({app="db"} | json [100s]))"#, r#"{__error__="JSONParserErr"} 3"#);
    check(r#"sum(count_over_time({app="db"} | json [100s]))"#, "{} 3");
    check(r#"sum by (x) (count_over_time({app="db"} | json | __error__="" [100s]))"#, "");
    check(r#"sum by (x) (count_over_time({app="db"} | json | drop __error__ [100s]))"#, "{} 3");
    let cut = [batch(r#"{app="c"}"#, &[(1.0, r#"{"level":"info","x":"1","y":"#, &[])])];
    check_with(r#"sum by (level) (count_over_time({app="c"} | json [100s]))"#, params(), &cut, r#"{level="info"} 1"#);
    let found = show(run(r#"sum by (y) (count_over_time({app="c"} | json [100s]))"#, params(), &cut));
    assert!(found.starts_with("pipeline error: 'JSONParserErr'"), "{found}");
}

#[test]
fn unwrapping() {
    let check = |text: &str, expected: &str| check_with(text, params(), &sample(), expected);
    check(
        r#"sum_over_time({app="web"} | json | unwrap ms [100s]) > 20"#,
        r#"{app="web", env="prod", level="error", path="/b", trace="t2"} 30"#,
    );
    check(
        r#"sum by (level) (sum_over_time({app="web"} | json | unwrap ms [100s]))"#,
        r#"{level="error"} 30; {level="info"} 30"#,
    );
    check(r#"avg_over_time({app="web"} | json | unwrap ms [100s]) by (path)"#, r#"{path="/a"} 15; {path="/b"} 30"#);
    check(r#"quantile_over_time(0.5, {app="web"} | json | unwrap ms [100s]) by (app)"#, r#"{app="web"} 20"#);
    check(r#"max_over_time({app="db"} | logfmt | unwrap duration(took) [100s]) by ()"#, "{} 1.5");
    check(r#"sum(sum_over_time({app="db"} | logfmt | unwrap bytes(size) [100s]))"#, "{} 3000");
    check(r#"sum(rate({app="web"} | json | unwrap ms [100s]))"#, "{} 0.6");
    check(
        r#"first_over_time({app="web"} | json | unwrap ms [100s]) by (level)"#,
        r#"{level="error"} 30; {level="info"} 10"#,
    );
    let found = show(run(
        r#"sum by (__error__) (sum_over_time({app="web"} | json | unwrap path [100s]))"#,
        params(),
        &sample(),
    ));
    assert!(found.starts_with("pipeline error: 'SampleExtractionErr'"), "{found}");
    check(r#"sum(sum_over_time({app="web"} | json | unwrap path | __error__="" [100s]))"#, "");
}

#[test]
fn arithmetic() {
    let check = |text: &str, expected: &str| check_with(text, params(), &sample(), expected);
    let count = r#"sum by (app) (count_over_time({env="prod"}[100s]))"#;
    let info = r#"sum by (app) (count_over_time({env="prod"} |= "info" [100s]))"#;
    check("1 + 2 * 3", "100000: 7");
    check("vector(1) / 0", "{} NaN");
    check(&format!("{info} / {count}"), r#"{app="db"} 0.3333333333333333; {app="web"} 0.6666666666666666"#);
    check(&format!("{info} > 1"), r#"{app="web"} 2"#);
    check(&format!("1 < bool {info}"), r#"{app="db"} 0; {app="web"} 1"#);
    check(&format!("{info} * on () group_left sum({info})"), r#"{app="db"} 3; {app="web"} 6"#);
    check(&format!("{info} == {count} or vector(9)"), "{} 9");
    check(&format!("{count} and {info} > 1"), r#"{app="web"} 3"#);
    check(&format!("{count} unless {info} > 1"), r#"{app="db"} 3"#);
    check(
        &format!("{info} / on () {count}"),
        "found duplicate series on the right hand-side;many-to-many matching not allowed: matching labels must be unique on one side",
    );
    check(
        &format!("{info} / on () sum({count})"),
        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
    );
    check(
        &format!(r#"sum({count}) - on () group_right label_replace({info}, "b", "$1-x", "app", "(w.)b")"#),
        r#"{app="db"} 5; {app="web", b="we-x"} 4"#,
    );
}

#[test]
fn ranges() {
    let params = Params {
        step: Duration::from_secs(10),
        start: TimestampNs::from_secs(10),
        end: TimestampNs::from_secs(45),
        ..params()
    };
    let check = |text: &str, expected: &str| check_with(text, params.clone(), &sample(), expected);
    check(r#"sum(count_over_time({env="prod"}[10s]))"#, "{} 10000:1 20000:2 30000:2 40000:1");
    check(r#"sum(count_over_time({env="prod"}[5s]))"#, "{} 10000:1 20000:1 30000:1");
    check(r#"sum(count_over_time({env="prod"}[20s] offset -10s))"#, "{} 10000:3 20000:4 30000:3 40000:1");
    check(r#"absent_over_time({app="web"}[5s])"#, r#"{app="web"} 40000:1"#);
    check("vector(2) ^ 2", "{} 10000:4 20000:4 30000:4 40000:4");
    check("3", "{} 10000:3 20000:3 30000:3 40000:3");
    check(
        r#"topk(1, sum by (app) (count_over_time({env="prod"}[10s])))"#,
        r#"{app="db"} 20000:1 30000:1 40000:1; {app="web"} 10000:1"#,
    );
}

#[test]
fn series_limit() {
    let limited = |n| Params { series_max: n, ..params() };
    let text = "maximum number of series (2) reached for a single query; consider reducing query cardinality by adding more specific \
                stream selectors, reducing the time range, or aggregating results with functions like sum(), count() or topk()";
    check_with(r#"count_over_time({app="web"}[100s])"#, limited(2), &sample(), text);
    check_with(r#"count by (trace) (count_over_time({app="web"}[100s]))"#, limited(2), &sample(), text);
    check_with(r#"count(count_over_time({app="web"}[100s]))"#, limited(2), &sample(), "{} 3");
}

#[test]
fn needs() {
    let check = |text: &str, lines: LineNeed, metadata: MetadataNeed| {
        let query = Query::prepare(text, params()).unwrap();
        let needs = query.scans()[0].needs();
        assert_eq!((needs.lines, &needs.metadata), (lines, &metadata), "{text}");
    };
    let names = |names: &[&str]| MetadataNeed::Names(names.iter().map(|n| (*n).to_owned()).collect());
    check(r#"{a="b"}"#, LineNeed::Content, MetadataNeed::All);
    check(r#"rate({a="b"}[1m])"#, LineNeed::None, MetadataNeed::All);
    check(r#"sum(rate({a="b"}[1m]))"#, LineNeed::None, MetadataNeed::None);
    check(r#"sum by (a) (bytes_rate({a="b"}[1m]))"#, LineNeed::Lengths, MetadataNeed::None);
    check(r#"sum by (level) (rate({a="b"}[1m]))"#, LineNeed::None, names(&["level"]));
    check(r#"sum by (x_extracted) (rate({a="b"}[1m]))"#, LineNeed::None, names(&["x_extracted", "x"]));
    check(r#"sum by (a_extracted) (rate({a="b"}[1m]))"#, LineNeed::None, names(&["a_extracted", "a"]));
    check(r#"sum(rate({a="b"} | json [1m]))"#, LineNeed::None, MetadataNeed::None);
    check(r#"sum(rate({a="b"} | json | line_format "x" [1m]))"#, LineNeed::None, MetadataNeed::None);
    check(r#"sum(rate({a="b"} |= "x" [1m]))"#, LineNeed::Content, MetadataNeed::None);
    check(r#"sum(rate({a="b"} | json | x="1" [1m]))"#, LineNeed::Content, names(&["x"]));
    check(r#"sum(rate({a="b"} | level="error" [1m]))"#, LineNeed::None, names(&["level"]));
    check(r#"absent_over_time({a="b"}[1m])"#, LineNeed::None, MetadataNeed::None);
}

#[test]
fn a_printed_query_is_read_back() {
    // Every byte of the raw text needs an escape, so the printed text is longer than a client's may be.
    let raw = format!("{{app=\"web\"}} |= `{}`", "\\".repeat(130_000));
    for text in [r#"sum by ( app ) (rate( {app="web"}|="x" [1m] ))"#, "{app=\"web\"} | json | a = `b`", &raw] {
        let query = Query::of(millrace_logql::parse(text).unwrap(), params()).unwrap();
        let read = Query::prepare(query.text(), params()).unwrap();
        assert_eq!(read.expr(), query.expr());
        assert_eq!(read.text(), query.text());
    }
}
