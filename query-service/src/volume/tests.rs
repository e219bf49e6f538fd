use super::*;

fn range(start: i64, end: i64) -> TimeRange {
    TimeRange::new(TimestampNs::from_secs(start), TimestampNs::from_secs(end))
}

fn part(labels: &[(&str, &str)], line_bytes: u64, time: TimeRange) -> StreamStat {
    StreamStat { labels: Labels::from_pairs(labels.iter().copied()), rows: 1, line_bytes, time }
}

fn bounds(start: i64, end: i64) -> Bounds {
    Bounds { start: TimestampNs::from_secs(start), end: TimestampNs::from_secs(end) }
}

#[test]
fn shares() {
    let check = |of: TimeRange, within: TimeRange, expected: f64| assert_eq!(share(of, within), expected);
    check(range(0, 10), range(0, 10), 1.0);
    check(range(0, 10), range(5, 20), 0.5);
    check(range(0, 10), range(20, 30), 0.0);
    check(range(0, 10), range(-5, 1), 0.1);
}

#[test]
fn groups() {
    let labels = Labels::from_pairs([("app", "web"), ("env", "prod"), ("pod", "1")]);
    let check = |url: &str, expected: &[&str]| {
        let selection =
            VolumeSelection::read(&Params::decode(b"", url).expect("well-formed")).expect("a good selection");
        let found: Vec<String> = selection.groups(&labels).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{url}");
    };
    check("query={}", &[r#"{app="web", env="prod", pod="1"}"#]);
    check("", &[r#"{app="web", env="prod", pod="1"}"#]);
    check("query={app=\"web\"}", &[r#"{app="web"}"#]);
    check("query={app=\"web\"}&targetLabels=env,pod", &[r#"{env="prod", pod="1"}"#]);
    check("query={app=\"web\"}&aggregateBy=labels", &[r#"{app=""}"#, r#"{env=""}"#, r#"{pod=""}"#]);
    check("query={app=\"web\"}&aggregateBy=labels&targetLabels=env", &[r#"{env=""}"#]);

    let selection =
        VolumeSelection::read(&Params::decode(b"", "query={a=\"b\"}&targetLabels=env").expect("well-formed"));
    let matchers: Vec<String> = selection.expect("a good selection").matchers.iter().map(ToString::to_string).collect();
    assert_eq!(matchers, [r#"a="b""#, r#"env=~".+""#]);
    let refused =
        |url: &str| VolumeSelection::read(&Params::decode(b"", url).expect("well-formed")).err().map(|e| e.to_string());
    assert_eq!(refused("aggregateBy=x").as_deref(), Some("invalid aggregation option"));
    assert!(refused("limit=-1").is_some());
    assert!(refused("limit=0").is_none());
    assert!(refused("query={a=~\".*\"}").is_some_and(|e| e.contains("queries require at least one")));
}

#[test]
fn buckets() {
    let volumes = |part: &StreamStat, bounds: Bounds, step: Option<u64>| -> Vec<(i64, f64)> {
        let buckets = Buckets::new(bounds, step.map(Duration::from_secs));
        let mut found = BTreeMap::new();
        buckets.add(part, &mut found);
        found.into_iter().map(|(i, bytes)| (buckets.stamp(i), bytes)).collect()
    };
    let stream = |start, end| part(&[("a", "b")], 100, range(start, end));
    assert_eq!(volumes(&stream(0, 100), bounds(0, 100), None), [(100_000, 100.0)]);
    assert_eq!(volumes(&stream(0, 100), bounds(50, 100), None), [(100_000, 50.0)]);
    assert_eq!(volumes(&stream(0, 100), bounds(0, 100), Some(50)), [(49_999, 50.0), (100_000, 50.0)]);
    assert_eq!(volumes(&stream(20, 40), bounds(10, 90), Some(50)), [(49_999, 100.0)]);
    assert_eq!(volumes(&stream(40, 60), bounds(10, 90), Some(50)), [(49_999, 50.0), (90_000, 50.0)]);
}

#[test]
fn largest_first() {
    let labels = |value: &str| Labels::from_pairs([("a", value)]);
    let groups = HashMap::from([
        (labels("x"), BTreeMap::from([(0, 5.0)])),
        (labels("y"), BTreeMap::from([(0, 7.0)])),
        (labels("w"), BTreeMap::from([(0, 5.0)])),
        (labels("z"), BTreeMap::new()),
    ]);
    let buckets = Buckets::new(bounds(0, 100), None);
    let Answer::Vector(found) = answer(groups, &buckets, 2) else { panic!("one point in time makes a vector") };
    let found: Vec<_> = found.iter().map(|s| (s.labels.to_string(), s.t_ms, s.value)).collect();
    assert_eq!(found, [(r#"{a="y"}"#.to_owned(), 100_000, 7.0), (r#"{a="w"}"#.to_owned(), 100_000, 5.0)]);
}
