use super::*;

const NOW: TimestampNs = TimestampNs::from_secs(1_700_000_000);

fn params(url: &str) -> Params {
    Params::decode(b"", url).expect("a well-formed form")
}

fn text<T>(result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|e| e.to_string())
}

#[test]
fn forms() {
    let p = Params::decode(b"query=a%20b+c&limit=5", "limit=7&match[]=x&match%5B%5D=y&empty").expect("well-formed");
    assert_eq!(p.get("query"), "a b c");
    assert_eq!(p.get("limit"), "5", "the body comes first");
    assert_eq!(p.all("limit").collect::<Vec<_>>(), ["5", "7"]);
    assert_eq!(p.all("match[]").collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(p.get("empty"), "");
    let check = |form: &str, expected: &str| {
        assert_eq!(text(Params::decode(b"", form)).map(|_| ()), Err(expected.to_owned()));
    };
    check("a=%zz", "invalid URL escape \"%zz\"");
    check("a=%4", "invalid URL escape \"%4\"");
    assert_eq!(params("a=%ff").get("a"), "\u{fffd}");
}

#[test]
fn times() {
    let check = |value: &str, expected: Result<i64, &str>| {
        let found = parse_time(value).map(TimestampNs::nanos);
        assert_eq!(found.as_ref().copied().map_err(String::as_str), expected, "{value:?}");
    };
    check("1700000000", Ok(1_700_000_000_000_000_000));
    check("4000000000", Ok(4_000_000_000_000_000_000));
    check("17000000000", Ok(17_000_000_000));
    check("1700000000000000001", Ok(1_700_000_000_000_000_001));
    check("1700000000.5", Ok(1_700_000_000_500_000_000));
    check("1700000000.1234", Ok(1_700_000_000_123_000_000));
    check("2023-11-14T22:13:20Z", Ok(1_700_000_000_000_000_000));
    check("2023-11-14T22:13:20.000000001Z", Ok(1_700_000_000_000_000_001));
    check("2023-11-14T23:13:20.5+01:00", Ok(1_700_000_000_500_000_000));
    check("-5", Ok(-5_000_000_000));
    check("x", Err("strconv.ParseInt: parsing \"x\": invalid syntax"));
    check("2023-11-14", Err("strconv.ParseInt: parsing \"2023-11-14\": invalid syntax"));
    check("2023-11-14 22:13:20Z", Err("strconv.ParseInt: parsing \"2023-11-14 22:13:20Z\": invalid syntax"));
    check("99999999999999999999", Err("strconv.ParseInt: parsing \"99999999999999999999\": value out of range"));
    assert_eq!(
        text(params("start=x").bounds(NOW)),
        Err("could not parse 'start' parameter: strconv.ParseInt: parsing \"x\": invalid syntax".to_owned())
    );
}

#[test]
fn bounds() {
    let check = |url: &str, expected: Result<(i64, i64), &str>| {
        let found = text(params(url).bounds(NOW).and_then(Bounds::check_order));
        let found = found.map(|b| (b.start.millis() - NOW.millis(), b.end.millis() - NOW.millis()));
        assert_eq!(found.as_ref().copied().map_err(String::as_str), expected, "{url:?}");
    };
    check("", Ok((-3_600_000, 0)));
    check("since=5m", Ok((-300_000, 0)));
    check("since=5m&start=1699999990", Ok((-10_000, 0)));
    check("end=1699999000", Ok((-4_600_000, -1_000_000)));
    check("end=1800000000", Ok((-3_600_000, 100_000_000_000)));
    check("start=1700000000&end=1700000000", Ok((0, 0)));
    check("start=1700000001", Err("end timestamp must not be before or equal to start time"));
    check("since=x", Err("could not parse 'since' parameter: not a valid duration string: \"x\""));
    let labels = text(params("start=1700000001").bounds(NOW).and_then(Bounds::check_order_of_labels));
    assert_eq!(labels, Err("this data is no longer available, it is past now - max_query_lookback (0s)".to_owned()));
}

#[test]
fn limits() {
    let check = |value: &str, expected: Result<u32, &str>| {
        let found = text(params(&format!("limit={value}")).limit());
        assert_eq!(found.as_ref().copied().map_err(String::as_str), expected, "{value:?}");
    };
    check("", Ok(100));
    check("5", Ok(5));
    check("4294967295", Ok(u32::MAX));
    check("0", Err("limit must be a positive value"));
    check("-1", Err("limit must be a positive value"));
    check("4294967296", Err("limit value 4294967296 is out of range [0, 4294967295]"));
    check("x", Err("strconv.Atoi: parsing \"x\": invalid syntax"));
}

#[test]
fn directions() {
    let check = |value: &str, expected: Result<Direction, &str>| {
        let found = text(params(&format!("direction={value}")).direction());
        assert_eq!(found.as_ref().copied().map_err(String::as_str), expected, "{value:?}");
    };
    check("", Ok(Direction::Backward));
    check("FORWARD", Ok(Direction::Forward));
    check("Backward", Ok(Direction::Backward));
    check("up", Err("invalid direction 'up'"));
}

#[test]
fn steps() {
    let hour = Bounds { start: NOW.minus(Duration::from_secs(3600)), end: NOW };
    let zero = "zero or negative query resolution step widths are not accepted. Try a positive integer";
    let check = |value: &str, expected: Result<u64, &str>| {
        let found = text(params(&format!("step={value}")).step(hour)).map(|d| d.as_millis() as u64);
        assert_eq!(found.as_ref().copied().map_err(String::as_str), expected, "{value:?}");
    };
    check("", Ok(14_000));
    check("60", Ok(60_000));
    check("0.5", Ok(500));
    check("250ms", Ok(250));
    check("5m", Ok(300_000));
    check("0", Err(zero));
    check("-5", Err(zero));
    check("0.0001", Err(zero));
    check("x", Err("cannot parse \"x\" to a valid duration"));
    check("1e300", Err("cannot parse \"1e300\" to a valid duration. It overflows int64"));
    check("NaN", Err("cannot parse \"NaN\" to a valid duration. It overflows int64"));
    let short = Bounds { start: NOW, end: NOW };
    assert_eq!(text(params("").step(short)), Ok(Duration::from_secs(1)));

    assert!(hour.check_points(Duration::from_secs(1)).is_ok());
    assert!(hour.check_points(Duration::from_millis(300)).is_err());
    assert!(hour.check_points(Duration::from_nanos(3_600_000_000_000 / 11_000)).is_ok());
}

#[test]
fn intervals() {
    let check = |value: &str, expected: Result<u64, &str>| {
        let found = text(params(&format!("interval={value}")).interval()).map(|d| d.as_millis() as u64);
        assert_eq!(found.as_ref().copied().map_err(String::as_str), expected, "{value:?}");
    };
    check("", Ok(0));
    check("0", Ok(0));
    check("2.5", Ok(2500));
    check("1m", Ok(60_000));
    check("-1", Err("interval must be >= 0"));
}
