//! Messages keep their content.

use model::{Labels, MatchOp};

use super::*;

fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange::new(Offset::new(start), Offset::new(end))
}

#[test]
fn errors_keep_their_kind() {
    let p = PartitionId::new(7);
    let parse = logql::parse(r#"{app="#).unwrap_err();
    let pipeline = QueryError::Pipeline { error: "JSONParserErr".to_owned(), series: "{a=\"b\"}".to_owned() };
    let errors = [
        OwnerError::NotHeld { partition: p, held: range(3, 9) },
        OwnerError::NotLeading { partition: p },
        OwnerError::Query(QueryError::Parse(parse)),
        OwnerError::Query(QueryError::NotEvaluated("x".to_owned())),
        OwnerError::Query(pipeline),
        OwnerError::Query(QueryError::SeriesLimit(500)),
        OwnerError::Query(QueryError::Evaluation("y".to_owned())),
        OwnerError::Deadline { partition: p, consumed: Offset::new(4), wanted: Offset::new(9) },
        OwnerError::Unavailable("u".to_owned()),
        OwnerError::Stopped("s".to_owned()),
        OwnerError::Removed { partition: p, range: range(1, 2) },
    ];
    for error in errors {
        let (debug, text) = (format!("{error:?}"), error.to_string());
        let read = read_error(sent_error(error));
        assert_eq!((format!("{read:?}"), read.to_string()), (debug, text));
    }
    // An unknown error of a later version can be retried.
    assert!(matches!(read_error(proto::Error { kind: None }), OwnerError::Unavailable(_)));
    let unknown =
        proto::QueryFailed { error: Some(proto::Body { format: 9, ..Default::default() }), text: "t".to_owned() };
    let read = read_error(proto::Error { kind: Some(Kind::Query(unknown)) });
    assert!(matches!(read, OwnerError::Query(QueryError::Evaluation(text)) if text == "t"));
}

#[tokio::test(start_paused = true)]
async fn requests_arrive_as_they_were() {
    let params = Params {
        start: TimestampNs::from_nanos(-5),
        end: TimestampNs::from_secs(60),
        step: Duration::from_millis(1500),
        interval: Duration::from_secs(3),
        direction: Direction::Forward,
        limit: 17,
        series_max: 500,
    };
    let text = r#"sum(rate({app="a\"b"} |~ "x+" [1m])) / sum(rate({app="c"}[1m]))"#;
    let sent = ScanRequest {
        at: Where {
            partition: PartitionId::new(3),
            tenant: TenantId::new("acme").unwrap(),
            from: Offset::new(10),
            at_least: Some(Offset::ZERO),
            deadline: Instant::now() + Duration::from_secs(5),
        },
        query: Arc::new(Query::prepare(text, params).unwrap()),
    };
    let prepare = |text: &str, params: Params| Query::prepare(text, params).map(Arc::new);
    let read = read_scan_request(scan_request(&sent), prepare).unwrap().unwrap();
    let key = |r: &ScanRequest| (r.at.partition, r.at.tenant.clone(), r.at.from, r.at.at_least, r.at.deadline);
    assert_eq!(key(&read), key(&sent));
    assert_eq!((read.query.text(), read.query.params()), (text, sent.query.params()));

    let mut far = sent.clone();
    (far.at.deadline, far.at.at_least) = (Instant::now() + Duration::from_secs(1 << 33), None);
    let read = read_scan_request(scan_request(&far), prepare).unwrap().unwrap();
    assert_eq!((read.at.deadline, read.at.at_least), (Instant::now() + DEADLINE_MAX, None));
    let mut past = sent.clone();
    past.at.deadline = Instant::now() - Duration::from_secs(1);
    assert_eq!(read_scan_request(scan_request(&past), prepare).unwrap().unwrap().at.deadline, Instant::now());

    let mut bad = scan_request(&sent);
    bad.query = "{".to_owned();
    assert!(read_scan_request(bad, prepare).unwrap().is_err());
    let mut old = scan_request(&sent);
    old.r#where.as_mut().unwrap().format_max = 0;
    assert_eq!(read_scan_request(old, prepare).unwrap_err().code(), tonic::Code::FailedPrecondition);
    assert!(read_scan_request(proto::ScanRequest::default(), prepare).is_err());
}

#[test]
fn matchers_travel_as_a_selector() {
    let check = |matchers: &[(&str, MatchOp, &str)]| {
        let sent: Vec<Matcher> = matchers.iter().map(|(n, op, v)| Matcher::new(n, *op, v).unwrap()).collect();
        let request = StreamsRequest {
            at: Where {
                partition: PartitionId::new(0),
                tenant: TenantId::new("t").unwrap(),
                from: Offset::ZERO,
                at_least: None,
                deadline: Instant::now(),
            },
            matchers: sent.clone().into(),
            time: TimeRange::ALL,
        };
        let read = read_streams_request(streams_request(&request)).unwrap();
        assert_eq!((&read.matchers[..], read.time), (&sent[..], TimeRange::ALL));
        let labels = Labels::from_pairs([("a", "x\ny\\\"")]);
        assert!(read.matchers.iter().zip(&sent).all(|(r, s)| r.matches(&labels) == s.matches(&labels)));
    };
    check(&[]);
    check(&[("a", MatchOp::Equal, "x\ny\\\"\u{1}é")]);
    check(&[("a", MatchOp::Regex, r"x.y\\.+"), ("b", MatchOp::NotEqual, ""), ("c", MatchOp::NotRegex, "z|")]);
    // A selector that also matches streams without the label. Queries may not have such a selector.
    check(&[("a", MatchOp::NotEqual, "x")]);
    check(&[("a", MatchOp::Regex, ".*")]);
}
