use std::time::Duration;

use super::*;
use crate::ast::*;
use crate::check::reject_empty_compatible;

const NEED: &str = "parse error : queries require at least one regexp or equality matcher that does not have an \
                    empty-compatible value. For instance, app=~\".*\" does not meet this requirement, but app=~\".+\" will";

/// The canonical text of a query, or its error.
fn canonical(text: &str) -> String {
    match parse(text) {
        Ok(expr) => expr.to_string(),
        Err(e) => e.to_string(),
    }
}

/// Checks that the query parses and is printed like this.
fn check(text: &str, expected: &str) {
    assert_eq!(canonical(text), expected, "{text}");
    assert_eq!(canonical(expected), expected, "printing again: {text}");
}

/// Checks that the query is rejected with `parse error` and this text.
fn refused(text: &str, expected: &str) {
    assert_eq!(canonical(text), format!("parse error {expected}"), "{text}");
}

#[test]
fn examples_of_the_specification() {
    refused("", ": syntax error: unexpected $end");
    refused("{app=", "at line 1, col 6: syntax error: unexpected $end, expecting STRING");
    refused("{foo=\"bar\"", "at line 1, col 11: syntax error: unexpected $end, expecting } or ,");
    refused("{foo=\"bar\"} |~", "at line 1, col 15: syntax error: unexpected $end, expecting STRING or ip");
    refused("{foo=\"bar\"} foo", "at line 1, col 13: syntax error: unexpected IDENTIFIER");
    refused("{foo=\"bar}", "at line 1, col 6: literal not terminated");
    refused("vector(abc)", "at line 1, col 8: syntax error: unexpected IDENTIFIER, expecting NUMBER");
    refused(
        "quantile_over_time(foo,{a=\"b\"} | unwrap l [5m])",
        "at line 1, col 20: syntax error: unexpected IDENTIFIER, expecting NUMBER or { or (",
    );
    refused("unk({a=\"b\"}[5m])", "at line 1, col 1: syntax error: unexpected IDENTIFIER");
    refused("{app=\"api\"} [5m]", "at line 0, col 13: syntax error: unexpected RANGE");
    refused("topk(-1, rate({a=\"b\"}[5m]))", "at line 1, col 6: syntax error: unexpected -");
    refused(
        "quantile_over_time(-0.1, {a=\"b\"} | unwrap l [5m])",
        "at line 1, col 20: syntax error: unexpected -, expecting NUMBER or { or (",
    );
    refused("0x10", ": unable to parse literal as a float: strconv.ParseFloat: parsing \"0x10\": invalid syntax");
    let long = format!("{{a=\"{}\"}}", "x".repeat(QUERY_BYTES_MAX));
    refused(&long, ": input size too long (131078 > 131072)");
    let longest = format!("{{a=\"{}\"}}", "x".repeat(QUERY_BYTES_MAX - 6));
    assert!(parse(&longest).is_ok());
}

#[test]
fn selectors() {
    check("{a=\"b\"}", "{a=\"b\"}");
    check(" { a = `b\\` , c!~\"d\\u00e9\\n\", e=~\".+\" } ", "{a=\"b\\\\\", c!~\"dé\\n\", e=~\".+\"}");
    check("({a=\"b\"})", "{a=\"b\"}");
    check("(({a=\"b\"}) )", "{a=\"b\"}");
    check("{count=\"1\", sum=\"2\", vector=\"x\", ip=\"y\"}", "{count=\"1\", sum=\"2\", vector=\"x\", ip=\"y\"}");
    check("{a!=\"\"}", "{a!=\"\"}");
    for text in [
        "{}",
        "{a=\"\"}",
        "{a=~\".*\"}",
        "{a!=\"x\"}",
        "{a!~\"x\"}",
        "{a=~\"\"}",
        "rate({}[1m])",
        "1 + sum(rate({a=\"\"}[1m]))",
    ] {
        assert_eq!(canonical(text), NEED, "{text}");
    }
    refused("{", "at line 1, col 2: syntax error: unexpected $end, expecting IDENTIFIER or }");
    refused("{a}", "at line 1, col 3: syntax error: unexpected }, expecting = or =~ or !~ or !=");
    refused("{a=\"b\",}", "at line 1, col 8: syntax error: unexpected }, expecting IDENTIFIER");
    refused("{a=\"b\" c=\"d\"}", "at line 1, col 8: syntax error: unexpected IDENTIFIER, expecting } or ,");
    refused("{a=b}", "at line 1, col 4: syntax error: unexpected IDENTIFIER, expecting STRING");
    refused("{a==\"b\"}", "at line 0, col 3: syntax error: unexpected ==, expecting = or =~ or !~ or !=");
    refused("{a.b=\"c\"}", "at line 1, col 3: syntax error: unexpected ., expecting = or =~ or !~ or !=");
    refused("{by=\"c\"}", "at line 1, col 2: syntax error: unexpected by, expecting IDENTIFIER or }");
    refused("{JSON=\"c\"}", "at line 1, col 2: syntax error: unexpected json, expecting IDENTIFIER or }");
    refused("{a='x'}", "at line 1, col 4: syntax error: single quotes do not delimit strings");
    refused("{a='xyz'}", "at line 1, col 4: invalid char literal");
    refused("{\n  a=}", "at line 2, col 5: syntax error: unexpected }, expecting STRING");
    refused("{é=\"x\"}", "at line 1, col 2: invalid label name \"é\": only ASCII letters, digits and _ are allowed");
    refused("{a=\"é\" é", "at line 1, col 8: invalid label name \"é\": only ASCII letters, digits and _ are allowed");
    refused("{a=~\"(\"}", ": error parsing regexp: missing closing ): `(`");
    refused("{a=\"b\"} | x=~\"*\"", ": error parsing regexp: missing argument to repetition operator: `*`");
    refused("{a=\"b\"} {c=\"d\"}", "at line 1, col 9: syntax error: unexpected {");
    refused("({a=\"b\"}", "at line 1, col 9: syntax error: unexpected $end");
    refused("({a=\"b\"}) |= \"x\"", "at line 0, col 11: syntax error: unexpected |=");
    refused("{a=\"b\"", "at line 1, col 7: syntax error: unexpected $end, expecting } or ,");
    refused("  ", "at line 1, col 3: syntax error: unexpected $end");
    refused("{a=\"b\"} @", "at line 1, col 9: syntax error: unexpected IDENTIFIER");
    refused("{a=\"b\"} !", "at line 1, col 9: syntax error: unexpected IDENTIFIER");
}

#[test]
fn strings_and_comments() {
    check(
        "{a=\"\\a\\b\\f\\n\\r\\t\\v\\\\\\\"\\x41\\101\\u0041\\U00000041\"}",
        "{a=\"\\a\\b\\f\\n\\r\\t\\v\\\\\\\"AAAA\"}",
    );
    check("{a=\"\\xc3\\xa9\"}", "{a=\"é\"}");
    check("{a=`x\r\ny\\n`}", "{a=\"x\\ny\\\\n\"}");
    check("{a=\"#b\"} # comment |= \"x\"\n|= `#` # end", "{a=\"#b\"} |= \"#\"");
    check("{a=\"b\"} // x\n |= /* y\n */ \"c\"", "{a=\"b\"} |= \"c\"");
    refused("{a=\"\\q\"}", "at line 1, col 4: invalid char escape");
    refused("{a=\"\\'\"}", "at line 1, col 4: invalid char escape");
    refused("{a=\"\\xg0\"}", "at line 1, col 4: invalid char escape");
    refused("{a=\"\\400\"}", "at line 1, col 4: invalid syntax");
    refused("{a=\"\\ud800\"}", "at line 1, col 4: invalid syntax");
    refused("{a=\"\\xff\"}", "at line 1, col 4: invalid UTF-8 encoding");
    refused("{a=\"x\ny\"}", "at line 1, col 4: literal not terminated");
    refused("{a=`x", "at line 1, col 4: literal not terminated");
    refused("{a=\"\\", "at line 1, col 4: literal not terminated");
    refused("{a=\"b\"} /* x", "at line 1, col 9: comment not terminated");
    refused("{a=\"b\"} \0", "at line 1, col 9: invalid character NUL");
}

#[test]
fn line_filters() {
    check(
        "{a=\"b\"}|=\"1\"!=\"2\"|~\"3\"!~\"4\"|>\"5<_>\"!>\"<_>6\"",
        "{a=\"b\"} |= \"1\" != \"2\" |~ \"3\" !~ \"4\" |> \"5<_>\" !> \"<_>6\"",
    );
    check(
        "{a=\"b\"} |= \"x\" or \"y\" or ip(\"10.0.0.0/8\") != \"z\"",
        "{a=\"b\"} |= \"x\" or \"y\" or ip(\"10.0.0.0/8\") != \"z\"",
    );
    check("{a=\"b\"} | json != \"x\"", "{a=\"b\"} | json != \"x\"");
    check("{a=\"b\"} | json x != \"x\"", "{a=\"b\"} | json x != \"x\"");
    check("{a=\"b\"} | c=\"d\" != \"x\"", "{a=\"b\"} | c=\"d\" != \"x\"");
    check("{a=\"b\"} |= \"\"", "{a=\"b\"} |= \"\"");
    refused("{a=\"b\"} |= \"x\" or |= \"y\"", "at line 0, col 19: syntax error: unexpected |=, expecting STRING or ip");
    refused("{a=\"b\"} |= x", "at line 1, col 12: syntax error: unexpected IDENTIFIER, expecting STRING or ip");
    refused("{a=\"b\"} |= ip(x)", "at line 1, col 15: syntax error: unexpected IDENTIFIER, expecting STRING");
    refused("{a=\"b\"} |= ip", "at line 1, col 12: syntax error: unexpected IDENTIFIER, expecting STRING or ip");
    refused("{a=\"b\"} |= ip(\"x\"", "at line 1, col 18: syntax error: unexpected $end, expecting )");
    refused("{a=\"b\"} |= ip(\"x\")", ": ip: invalid pattern: \"x\"");
    refused("{a=\"b\"} |~ ip(\"1.1.1.1\")", ": ip: invalid operation");
    refused("{a=\"b\"} !> \"a\" or ip(\"1.1.1.1\")", ": ip: invalid operation");
    refused("{a=\"b\"} |~ \"a(\"", ": error parsing regexp: missing closing ): `a(`");
    refused("{a=\"b\"} |> \"x <name>\"", ": named captures are not allowed: found '<name>'");
    refused("{a=\"b\"} != 1", "at line 1, col 12: syntax error: unexpected NUMBER, expecting STRING or ip");
    refused("{a=\"b\"} | = \"x\"", "at line 1, col 11: syntax error: unexpected =");
}

#[test]
fn stages() {
    check(
        "{a=\"b\"} | json | json x=\"y.z[0]\", w, v=\"v\" | logfmt | logfmt --keep-empty --strict a, b=\"c d\"",
        "{a=\"b\"} | json | json x=\"y.z[0]\", w, v | logfmt | logfmt --strict --keep-empty a, b=\"c d\"",
    );
    check(
        "{a=\"b\"} | regexp `(?P<x>\\w+)` | pattern \"<_> <y>\" | unpack | decolorize",
        "{a=\"b\"} | regexp \"(?P<x>\\\\w+)\" | pattern \"<_> <y>\" | unpack | decolorize",
    );
    check(
        "{a=\"b\"} | line_format \"{{.x}}\" | label_format a=b, c=`{{.d}}` | drop x, y=\"1\", z=~\"2\" | keep u, v!~\"3\"",
        "{a=\"b\"} | line_format \"{{.x}}\" | label_format a=b, c=\"{{.d}}\" | drop x, y=\"1\", z=~\"2\" | keep u, v!~\"3\"",
    );
    check("{a=\"b\"} | LOGFMT | Line_Format \"x\"", "{a=\"b\"} | logfmt | line_format \"x\"");
    for (text, expected) in [
        ("", "at line 1, col 11: syntax error: unexpected $end"),
        (" foo", "at line 1, col 15: syntax error: unexpected $end"),
        (" 5", "at line 1, col 12: syntax error: unexpected NUMBER"),
        (" unwrap x", "at line 1, col 12: syntax error: unexpected unwrap"),
        (" by", "at line 1, col 12: syntax error: unexpected by"),
        (" json a=", "at line 1, col 19: syntax error: unexpected $end, expecting STRING"),
        (" json a,", "at line 1, col 19: syntax error: unexpected $end, expecting IDENTIFIER"),
        (" json --strict", "at line 0, col 17: syntax error: unexpected PARSER_FLAG"),
        (" logfmt --STRICT", "at line 1, col 21: syntax error: unexpected IDENTIFIER, expecting NUMBER"),
        (" logfmt --strict-ly", "at line 1, col 21: syntax error: unexpected IDENTIFIER, expecting NUMBER"),
        (" regexp x", "at line 1, col 19: syntax error: unexpected IDENTIFIER, expecting STRING"),
        (" pattern", "at line 1, col 19: syntax error: unexpected $end, expecting STRING"),
        (" line_format", "at line 1, col 23: syntax error: unexpected $end, expecting STRING"),
        (" label_format", "at line 1, col 24: syntax error: unexpected $end, expecting IDENTIFIER"),
        (" label_format a", "at line 1, col 26: syntax error: unexpected $end, expecting ="),
        (" label_format a=", "at line 1, col 27: syntax error: unexpected $end, expecting IDENTIFIER or STRING"),
        (" drop", "at line 1, col 16: syntax error: unexpected $end, expecting IDENTIFIER"),
        (" drop a,", "at line 1, col 19: syntax error: unexpected $end, expecting IDENTIFIER"),
        (" keep a=b", "at line 1, col 19: syntax error: unexpected IDENTIFIER, expecting STRING"),
        (
            " json a=\"b[\"",
            ": cannot parse expression [b[]: syntax error: unexpected $end at position 2, expecting a quoted key or an index",
        ),
        (" regexp `\\w+`", ": invalid regexp parser: at least one named capture must be supplied"),
        (" regexp `(a)`", ": invalid regexp parser: at least one named capture must be supplied"),
        (" regexp `(?P<x>a)(?P<x>b)`", ": invalid regexp parser: duplicate extracted label name 'x'"),
        (" regexp `(?P<1x>a)`", ": invalid regexp parser: invalid extracted label name '1x'"),
        (" regexp `(?P<x.y>a)`", ": invalid regexp parser: invalid extracted label name 'x.y'"),
        (" regexp `(?P<x>a`", ": error parsing regexp: missing closing ): `(?P<x>a`"),
        (" regexp `[(?P<x>a)]\\(?P<y>`", ": invalid regexp parser: at least one named capture must be supplied"),
        (" pattern \"x\"", ": invalid pattern parser: at least one capture is required"),
        (" pattern \"<_>\"", ": invalid pattern parser: at least one capture is required"),
        (" pattern \"<a><b>\"", ": invalid pattern parser: found consecutive capture '<a><b>': invalid expression"),
        (" pattern \"<a> <a>\"", ": invalid pattern parser: duplicate capture name (a): invalid expression"),
        (" label_format __error__=x", ": __error__ cannot be formatted"),
        (" label_format a=b, a=c", ": multiple label name 'a' not allowed in a single format operation"),
        (
            " line_format \"{{ foo }}\"",
            ": stage '| line_format \"{{ foo }}\"' : invalid line template: template: line:1: function \"foo\" not defined",
        ),
        (
            " label_format a=`{{.x`, b=c",
            ": stage '| label_format a=\"{{.x\", b=c' : invalid template for label 'a': template: label:1: unclosed action",
        ),
    ] {
        refused(&format!("{{a=\"bc\"}} |{text}"), expected);
    }
}

/// The structure of a label filter, fully parenthesised.
fn structure(filter: &LabelFilter) -> String {
    match filter {
        LabelFilter::And(a, b) => format!("({} & {})", structure(a), structure(b)),
        LabelFilter::Or(a, b) => format!("({} | {})", structure(a), structure(b)),
        LabelFilter::Matcher(m) => m.name().to_owned(),
        LabelFilter::Ip { name, .. } | LabelFilter::Compare { name, .. } => name.clone(),
    }
}

#[test]
fn label_filter_structure() {
    let check = |text: &str, expected: &str| {
        // Each name is replaced by a filter.
        let filters: String = text
            .split_inclusive(|c: char| !c.is_alphanumeric())
            .map(|part| {
                let name = part.trim_end_matches(|c: char| !c.is_alphanumeric());
                let is_name = name.len() == 1;
                if is_name { part.replacen(name, &format!("{name}=\"1\""), 1) } else { part.to_owned() }
            })
            .collect();
        let Expr::Log(log) = parse(&format!("{{x=\"y\"}} | {filters}")).expect(text) else { panic!("{text}") };
        let [Stage::LabelFilter(filter)] = log.stages.as_slice() else { panic!("{text}") };
        assert_eq!(structure(filter), expected, "{text}");
    };
    check("a", "a");
    check("a and b and c", "((a & b) & c)");
    check("a or b or c", "((a | b) | c)");
    check("a and b or c", "((a & b) | c)");
    check("a or b and c", "(a | (b & c))");
    check("a or b, c", "(a | (b & c))");
    check("a, b or c", "(a & (b | c))");
    check("a b, c or d", "(a & (b & (c | d)))");
    check("a and b, c or d", "(a & (b & (c | d)))");
    check("a or b and c, d and e or f", "(a | (b & (c & ((d & e) | f))))");
    check("(a or b) and c", "((a | b) & c)");
    check("(a, b) or c", "((a & b) | c)");
    check("a (b or c) d", "(a & ((b | c) & d))");
    check("((a))", "a");
}

#[test]
fn label_filters() {
    check(
        "{a=\"b\"} | c = \"d\" | e != `f` | g=~\"h\" | i!~\"j\"",
        "{a=\"b\"} | c=\"d\" | e!=\"f\" | g=~\"h\" | i!~\"j\"",
    );
    check(
        "{a=\"b\"} | c>1 | c>=1.5 | c<-2 | c<=+3e3 | c=5_0 | c==6 | c!=7",
        "{a=\"b\"} | c>1 | c>=1.5 | c<-2 | c<=3000 | c==50 | c==6 | c!=7",
    );
    check(
        "{a=\"b\"} | c>1.5h | c<-5m | c=1h30m | c!=250.5ms | c>1d | c>3us | c>0s",
        "{a=\"b\"} | c>1h30m | c<-5m | c==1h30m | c!=250500000ns | c>1d | c>3000ns | c>0s",
    );
    check("{a=\"b\"} | c>10KB | c<1.5MiB | c=5B | c>1k", "{a=\"b\"} | c>10KB | c<1536KiB | c==5B | c>1KB");
    check("{a=\"b\"} | c=ip(\"1.1.1.1\") or d!=ip(\"::1\")", "{a=\"b\"} | c=ip(\"1.1.1.1\") or d!=ip(\"::1\")");
    check(
        "{a=\"b\"} | sum > 3 | count = 4 | ip = ip(\"1.1.1.1\")",
        "{a=\"b\"} | sum>3 | count==4 | ip=ip(\"1.1.1.1\")",
    );
    check("{a=\"b\"} | (c=\"1\" or d=\"2\") and e=\"3\"", "{a=\"b\"} | (c=\"1\" or d=\"2\") and e=\"3\"");
    check("{a=\"b\"} | c=\"1\" d=\"2\"", "{a=\"b\"} | c=\"1\" and d=\"2\"");
    check("{a=\"b\"} | c=\"1\", d=\"2\" or e=\"3\"", "{a=\"b\"} | c=\"1\", d=\"2\" or e=\"3\"");
    check("{a=\"b\"} | __error__ > 1", "{a=\"b\"} | __error__>1");
    for (text, expected) in [
        (" c=d", "at line 1, col 14: syntax error: unexpected IDENTIFIER"),
        (" c=~5", "at line 1, col 15: syntax error: unexpected NUMBER, expecting STRING"),
        (" c>\"5\"", "at line 1, col 14: syntax error: unexpected STRING"),
        (" c>ip(\"1.1.1.1\")", "at line 1, col 14: syntax error: unexpected ip"),
        (" c==\"5\"", "at line 1, col 15: syntax error: unexpected STRING"),
        (" c>-", "at line 1, col 15: syntax error: unexpected $end, expecting NUMBER"),
        (" c>- 5m", "at line 0, col 16: syntax error: unexpected DURATION, expecting NUMBER"),
        (" c>-5KB", "at line 0, col 15: syntax error: unexpected BYTES, expecting NUMBER"),
        (" c>1mb", "at line 1, col 17: syntax error: unexpected $end"),
        (" c>1EB", "at line 1, col 14: exponent has no digits"),
        (" c>0x10", ": unable to parse literal as a float: strconv.ParseFloat: parsing \"0x10\": invalid syntax"),
        (" c>1e999", ": unable to parse literal as a float: strconv.ParseFloat: parsing \"1e999\": value out of range"),
        (" (c=\"d\"", "at line 1, col 18: syntax error: unexpected $end"),
        (" ()", "at line 1, col 13: syntax error: unexpected ), expecting IDENTIFIER or ("),
        (" c=\"d\" and", "at line 1, col 21: syntax error: unexpected $end, expecting IDENTIFIER or ("),
        (" c=\"d\" or rate(x)", "at line 1, col 21: syntax error: unexpected RATE, expecting IDENTIFIER or ("),
        (" c=\"d\",", "at line 1, col 18: syntax error: unexpected $end, expecting IDENTIFIER or ("),
        (" c=ip(\"999.1.1.1\")", ": ip: invalid pattern: \"999.1.1.1\""),
        (" c unless d", "at line 1, col 14: syntax error: unexpected unless"),
    ] {
        refused(&format!("{{a=\"bc\"}} |{text}"), expected);
    }
}

#[test]
fn range_aggregations() {
    check("rate({a=\"b\"}[5m])", "rate({a=\"b\"}[5m])");
    check("RATE ( {a=\"b\"} |= \"x\" [1h30m] offset 1d )", "rate({a=\"b\"} |= \"x\" [1h30m] offset 1d)");
    check("rate({a=\"b\"}[5m] | json |= \"x\")", "rate({a=\"b\"} | json |= \"x\" [5m])");
    check("rate({a=\"b\"}[5m] offset -5m | json)", "rate({a=\"b\"} | json [5m] offset -5m)");
    check("rate({a=\"b\"}[5m] | unwrap x)", "rate({a=\"b\"} | unwrap x [5m])");
    check("rate(({a=\"b\"} | json)[5m] offset 1m)", "rate({a=\"b\"} | json [5m] offset 1m)");
    check("rate(({a=\"b\"} | json [5m]))", "rate({a=\"b\"} | json [5m])");
    check("rate((({a=\"b\"})[5m]))", "rate({a=\"b\"}[5m])");
    check("rate({a=\"b\"}[0])", "rate({a=\"b\"}[0s])");
    check(
        "quantile_over_time(0.99, {a=\"b\"} | json | unwrap duration(x) | __error__=\"\" | y>1 or z>2 [5m]) by (c, d)",
        "quantile_over_time(0.99, {a=\"b\"} | json | unwrap duration(x) | __error__=\"\" | y>1 or z>2 [5m]) by (c, d)",
    );
    check("sum_over_time({a=\"b\"} | unwrap bytes(x) [5m])", "sum_over_time({a=\"b\"} | unwrap bytes(x) [5m])");
    check("sum_over_time({a=\"b\"} | unwrap bytes [5m])", "sum_over_time({a=\"b\"} | unwrap bytes [5m])");
    check(
        "max_over_time({a=\"b\"} | unwrap duration_seconds(x) [5m]) without ()",
        "max_over_time({a=\"b\"} | unwrap duration_seconds(x) [5m]) without ()",
    );
    check("absent_over_time({a=\"b\"} | unwrap x [5m])", "absent_over_time({a=\"b\"} | unwrap x [5m])");
    check(
        "rate_counter({a=\"b\"} | unwrap x [1.5h]offset 1.5h)".replace("1.5h]", "90m]").as_str(),
        "rate_counter({a=\"b\"} | unwrap x [1h30m] offset 1h30m)",
    );
    let Ok(Expr::Metric(MetricExpr::Range(range))) = parse("rate({a=\"b\"}[1y] offset 2w)") else { panic!() };
    assert_eq!((range.range, range.offset_ns), (Duration::from_secs(365 * 86400), 14 * 86_400_000_000_000));
    for (text, expected) in [
        ("rate(", "at line 1, col 6: syntax error: unexpected $end, expecting NUMBER or { or ("),
        ("rate({a=\"b\"})", "at line 1, col 13: syntax error: unexpected )"),
        ("rate({a=\"b\"}[5m]", "at line 1, col 17: syntax error: unexpected $end, expecting )"),
        ("rate({a=\"b\"}[5m] by (x))", "at line 1, col 18: syntax error: unexpected by, expecting )"),
        ("rate(({a=\"b\"}))", "at line 1, col 15: syntax error: unexpected ), expecting RANGE"),
        ("rate((({a=\"b\"}))[5m])", "at line 1, col 16: syntax error: unexpected ), expecting RANGE"),
        ("rate({a=\"b\"}[5m][5m])", "at line 0, col 17: syntax error: unexpected RANGE, expecting )"),
        ("rate({a=\"b\"}[5m] offset)", "at line 1, col 24: syntax error: unexpected ), expecting DURATION"),
        ("rate({a=\"b\"}[5m] offset 5)", "at line 1, col 25: syntax error: unexpected NUMBER, expecting DURATION"),
        ("rate({a=\"b\"}[5minutes])", "at line 0, col 13: unknown unit \"minutes\" in duration \"5minutes\""),
        ("rate({a=\"b\"}[5])", "at line 0, col 13: not a valid duration string: \"5\""),
        ("rate({a=\"b\"}[ 5m])", "at line 0, col 13: not a valid duration string: \" 5m\""),
        ("rate({a=\"b\"}[1.5h])", "at line 0, col 13: unknown unit \".\" in duration \"1.5h\""),
        ("rate({a=\"b\"}[])", "at line 0, col 13: empty duration string"),
        ("rate({a=\"b\"}[5m)", "at line 0, col 13: missing closing ']' in duration"),
        ("rate({a=\"b\"}[300y])", "at line 0, col 13: duration out of range"),
        ("rate({a=\"b\"}[5m:1m])", "at line 0, col 13: unknown unit \"m:\" in duration \"5m:1m\""),
        ("rate(rate({a=\"b\"}[5m]))", "at line 1, col 6: syntax error: unexpected RATE, expecting NUMBER or { or ("),
        ("rate(5 {a=\"b\"}[5m])", "at line 1, col 8: syntax error: unexpected {, expecting ,"),
        ("rate(5, 6)", "at line 1, col 9: syntax error: unexpected NUMBER, expecting { or ("),
        ("rate(5, {a=\"b\"}[5m])", ": parameter 5 not supported for operation rate"),
        ("sum_over_time(50, {a=\"b\"} | unwrap x [5m])", ": parameter 50 not supported for operation sum_over_time"),
        ("quantile_over_time({a=\"b\"} | unwrap x [5m])", ": parameter required for operation quantile_over_time"),
        ("rate({a=\"b\"}[5m]) by (x)", ": grouping not allowed for rate aggregation"),
        (
            "sum_over_time({a=\"b\"} | unwrap x [5m]) without (y)",
            ": grouping not allowed for sum_over_time aggregation",
        ),
        ("absent_over_time({a=\"b\"}[5m]) by ()", ": grouping not allowed for absent_over_time aggregation"),
        ("count_over_time({a=\"b\"} | unwrap x [5m])", ": invalid aggregation count_over_time with unwrap"),
        ("bytes_rate({a=\"b\"} | unwrap x [5m])", ": invalid aggregation bytes_rate with unwrap"),
        ("avg_over_time({a=\"b\"}[5m])", ": invalid aggregation avg_over_time without unwrap"),
        ("rate_counter({a=\"b\"}[5m])", ": invalid aggregation rate_counter without unwrap"),
        (
            "rate({a=\"b\"} | unwrap [5m])",
            "at line 0, col 23: syntax error: unexpected RANGE, expecting IDENTIFIER or BYTES_CONV or DURATION_CONV or DURATION_SECONDS_CONV",
        ),
        (
            "rate({a=\"b\"} | unwrap bytes(5) [5m])",
            "at line 1, col 29: syntax error: unexpected NUMBER, expecting IDENTIFIER",
        ),
        (
            "rate({a=\"b\"} | unwrap x | json [5m])",
            "at line 1, col 27: syntax error: unexpected json, expecting IDENTIFIER or (",
        ),
        (
            "rate({a=\"b\"} | unwrap x |= \"y\" [5m])",
            "at line 0, col 25: syntax error: unexpected |=, expecting RANGE or |",
        ),
        ("sum({a=\"b\"}[5m])", "at line 0, col 12: syntax error: unexpected RANGE"),
        ("rate({a=\"b\"}[5m]) @ 5", "at line 1, col 19: syntax error: unexpected IDENTIFIER"),
    ] {
        refused(text, expected);
    }
}

#[test]
fn vector_aggregations() {
    let r = "rate({a=\"b\"}[5m])";
    let with = |text: &str| text.replace('R', r);
    for (text, expected) in [
        ("sum(R)", "sum(R)"),
        ("Sum By(x,y)(R)", "sum by (x, y) (R)"),
        ("sum(R) by (x)", "sum by (x) (R)"),
        ("sum(R) without ()", "sum without () (R)"),
        ("sum by (sum, count) (R)", "sum by (sum, count) (R)"),
        ("topk(5, R)", "topk(5, R)"),
        ("bottomk by (x) (1,R)", "bottomk by (x) (1, R)"),
        ("topk(5, R) by (x)", "topk by (x) (5, R)"),
        ("approx_topk(10, sum by (x) (R))", "approx_topk(10, sum by (x) (R))"),
        ("sort(R)", "sort(R)"),
        ("sort_desc((R))", "sort_desc(R)"),
        ("sum(((R)) + 1)", "sum(R + 1)"),
        ("sum(vector(1))", "sum(vector(1))"),
        ("sum(-1)", "sum(-1)"),
        ("avg(max(min(count(stddev(stdvar(R))))))", "avg(max(min(count(stddev(stdvar(R))))))"),
        ("label_replace(R, \"d\", \"$1\", \"s\", \"(.*)\")", "label_replace(R, \"d\", \"$1\", \"s\", \"(.*)\")"),
        ("label_replace(R, \"a-b\", ``, \"\", \"\")", "label_replace(R, \"a-b\", \"\", \"\", \"\")"),
        ("vector(1.5)", "vector(1.5)"),
    ] {
        check(&with(text), &with(expected));
    }
    for (text, expected) in [
        ("sum", "at line 1, col 1: syntax error: unexpected IDENTIFIER"),
        ("sum by", "at line 1, col 1: syntax error: unexpected IDENTIFIER"),
        ("sum()", "at line 1, col 5: syntax error: unexpected )"),
        ("sum by (", "at line 1, col 9: syntax error: unexpected $end, expecting IDENTIFIER or )"),
        ("sum by (x", "at line 1, col 10: syntax error: unexpected $end, expecting , or )"),
        ("sum by (x,)(R)", "at line 1, col 11: syntax error: unexpected ), expecting IDENTIFIER"),
        ("sum by (on)(R)", "at line 1, col 9: syntax error: unexpected on, expecting IDENTIFIER or )"),
        ("sum by (x)", "at line 1, col 11: syntax error: unexpected $end, expecting ("),
        ("sum by (x) (R) by (y)", "at line 1, col 32: syntax error: unexpected by"),
        ("sum({a=\"b\"})", "at line 1, col 12: syntax error: unexpected )"),
        ("sum(R", "at line 1, col 22: syntax error: unexpected $end"),
        ("topk(R)", ": parameter required for operation topk"),
        ("approx_topk(R)", ": parameter required for operation approx_topk"),
        ("topk(1.2, R)", ": invalid parameter topk(1.2,"),
        ("topk(2.0, R)", ": invalid parameter topk(2.0,"),
        ("topk(1e0, R)", ": invalid parameter topk(1e0,"),
        ("topk(0, R)", ": invalid parameter (must be greater than 0) topk(0"),
        ("topk(x, R)", "at line 1, col 6: syntax error: unexpected IDENTIFIER"),
        ("approx_topk(1, R) by (x)", ": grouping not allowed for approx_topk aggregation"),
        ("sum(3, R)", ": unsupported parameter for operation sum(3,"),
        ("sort(3, R)", ": unsupported parameter for operation sort(3,"),
        ("sort(R) by (x)", ": sort and sort_desc doesn't allow grouping by "),
        ("label_replace(R,\"\")", "at line 1, col 35: syntax error: unexpected ), expecting ,"),
        ("label_replace(R,x)", "at line 1, col 33: syntax error: unexpected IDENTIFIER, expecting STRING"),
        (
            "label_replace(R,\"\",\"\",\"\",\"(\")",
            ": invalid regex in label_replace: error parsing regexp: missing closing ): `(`",
        ),
        ("vector(-1)", "at line 1, col 8: syntax error: unexpected -, expecting NUMBER"),
        ("vector(1", "at line 1, col 9: syntax error: unexpected $end, expecting )"),
        ("bytes(R)", "at line 1, col 1: syntax error: unexpected BYTES_CONV"),
        ("ip(\"x\")", "at line 1, col 1: syntax error: unexpected ip"),
        ("increase(R)", "at line 1, col 1: syntax error: unexpected IDENTIFIER"),
    ] {
        refused(&with(text), expected);
    }
}

#[test]
fn operators() {
    let metric = |name: char| format!("rate({{x=\"{name}\"}}[5m])");
    // Each capital letter is replaced by a metric query.
    let with = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_uppercase() { metric(c) } else { c.to_string() }).collect()
    };
    for (text, expected) in [
        ("A or B or C", "A or B or C"),
        ("A or (B or C)", "A or (B or C)"),
        ("(A or B) and C", "(A or B) and C"),
        ("A and B unless C", "A and B unless C"),
        ("A + B * C ^ D ^ E", "A + B * C ^ D ^ E"),
        ("(A ^ B) ^ C", "(A ^ B) ^ C"),
        ("A ^ (B ^ C)", "A ^ B ^ C"),
        ("((A + B)) * C", "(A + B) * C"),
        ("A - (B - C)", "A - (B - C)"),
        ("A > B == C", "A > B == C"),
        ("A > bool 5", "A > bool 5"),
        ("A / on(x,y) B", "A / on (x, y) B"),
        ("A / ignoring() group_left B", "A / ignoring () group_left () B"),
        ("A / on(x) group_right(y) B", "A / on (x) group_right (y) B"),
        ("A >= bool on(x) group_left(y) (B)", "A >= bool on (x) group_left (y) B"),
        ("A % 2 - -1", "A % 2 - -1"),
        ("A + 1 + 1", "A + 1 + 1"),
        ("1 + 1 + A", "2 + A"),
        ("A * (1/0)", "A * (0 / 0)"),
        ("A * 2^1024", "A * (2 ^ 1024)"),
        ("1 + 1", "2"),
        ("-2 ^ 2", "4"),
        ("2 ^ 3 ^ 2", "512"),
        ("1 > 2", "0"),
        ("1 <= bool 2", "1"),
        ("7 % 4", "3"),
        ("1/0", "(0 / 0)"),
        ("1%0", "(0 / 0)"),
        ("-2^1025", "(-2 ^ 1025)"),
        ("+1.50", "1.5"),
        ("1e300", "1e300"),
        ("-0", "-0"),
        ("0x1p4", "16"),
        ("1_0", "10"),
        (".5", "0.5"),
        ("1 --1", "2"),
    ] {
        check(&with(text), &with(expected));
    }
    let pipeline = "unexpected type for right leg of binary operation (/): *syntax.PipelineExpr";
    for (text, expected) in [
        ("{x=\"y\"} or A", ": unexpected type for left leg of binary operation (or): *syntax.MatchersExpr".to_owned()),
        ("A / ({x=\"y\"} | json)", format!(": {pipeline}")),
        ("A / {x=\"y\"} | json", format!(": {pipeline}")),
        ("1 and A", ": unexpected literal for left leg of logical/set binary operation (and): 1.000000".to_owned()),
        (
            "A unless 2.5",
            ": unexpected literal for right leg of logical/set binary operation (unless): 2.500000".to_owned(),
        ),
        ("A +", "at line 1, col 20: syntax error: unexpected $end".to_owned()),
        ("-A", "at line 1, col 2: syntax error: unexpected RATE, expecting NUMBER".to_owned()),
        ("-(1)", "at line 1, col 2: syntax error: unexpected (, expecting NUMBER".to_owned()),
        ("A on(x) B", "at line 1, col 19: syntax error: unexpected on".to_owned()),
        ("A + on B", "at line 1, col 24: syntax error: unexpected RATE, expecting (".to_owned()),
        ("A + on(x) bool B", "at line 1, col 27: syntax error: unexpected bool".to_owned()),
        ("A + group_left() B", "at line 1, col 21: syntax error: unexpected group_left".to_owned()),
        (
            "A * on(x) group_left (B)",
            "at line 1, col 39: syntax error: unexpected RATE, expecting IDENTIFIER or )".to_owned(),
        ),
        ("A = B", "at line 1, col 19: syntax error: unexpected =".to_owned()),
        ("A =~ B", "at line 0, col 19: syntax error: unexpected =~".to_owned()),
        ("A 5m", "at line 0, col 19: syntax error: unexpected DURATION".to_owned()),
        ("089", "at line 1, col 1: invalid digit '8' in octal literal".to_owned()),
        ("1e", "at line 1, col 1: exponent has no digits".to_owned()),
        ("0x", "at line 1, col 1: hexadecimal literal has no digits".to_owned()),
        ("1__0", "at line 1, col 1: '_' must separate successive digits".to_owned()),
        ("Inf", "at line 1, col 1: syntax error: unexpected IDENTIFIER".to_owned()),
    ] {
        let text = if text == "Inf" { text.to_owned() } else { with(text) };
        refused(&text, &expected);
    }
}

#[test]
fn narrower_entries() {
    assert_eq!(
        parse_log("rate({a=\"b\"}[1m])").map_err(|e| e.to_string()),
        Err("only log selector is supported".to_owned())
    );
    assert_eq!(parse_log("{}").map_err(|e| e.to_string()), Err(NEED.to_owned()));
    assert_eq!(parse_log("{a=\"b\"} |= \"x\"").map(|l| l.to_string()), Ok("{a=\"b\"} |= \"x\"".to_owned()));
    let matchers = |text: &str| parse_matchers(text).map(|m| m.len()).map_err(|e| e.to_string());
    assert_eq!(matchers("{}"), Ok(0));
    assert_eq!(matchers("{a=\"\", b=~\".*\"}"), Ok(2));
    for text in ["{a=\"b\"} |= \"x\"", "rate({a=\"b\"}[1m])", "1"] {
        assert_eq!(matchers(text), Err("only label matchers are supported".to_owned()), "{text}");
    }
    assert_eq!(matchers(""), Err("parse error : syntax error: unexpected $end".to_owned()));
    let reject = |text: &str| reject_empty_compatible(&parse_matchers(text).unwrap()).map_err(|e| e.to_string());
    assert_eq!(reject("{}"), Err(NEED.to_owned()));
    assert_eq!(reject("{a=\"\", b!=\"x\", c=~\"x|\"}"), Err(NEED.to_owned()));
    assert_eq!(reject("{a=\"\", b=\"x\"}"), Ok(()));
    assert_eq!(parse("{a").unwrap_err().position(), Some((1, 3)));
    assert_eq!(parse("").unwrap_err().position(), None);
    assert_eq!(parse("").unwrap_err().message(), "syntax error: unexpected $end");
}

#[test]
fn nesting_is_bounded() {
    // Executor threads have 2 MiB of stack. Parsing must work in half of that.
    let work = || {
        let r = "rate({a=\"b\"}[1m])";
        let deep = |open: &str, inner: &str, close: &str, n: usize| open.repeat(n) + inner + &close.repeat(n);
        let texts = [
            deep("(", r, ")", 50_000),
            deep("sum(", r, ")", 20_000),
            deep("(1 or 1 and 1 == 1 + 1 * 1 ^ ", r, ")", 4_000),
            deep(&format!("({r} or {r} and {r} == {r} + {r} * {r} ^ "), r, ")", 500),
            format!("rate({}[5m])", deep("(", "{a=\"b\"}", ")", 50_000)),
            format!("{{a=\"b\"}} | {}", deep("(", "a=\"b\"", ")", 50_000)),
            format!("{{a=\"b\"}} | {}a=1", "a=1,".repeat(30_000)),
            format!("{{a=\"b\"}} | {}a=1", "a=1 and ".repeat(15_000)),
            format!("{{a=\"b\"}} | {}a=1", "a=1 or ".repeat(15_000)),
            format!("{{a=\"b\"}} | {}a=1", "a=1 or a=1, ".repeat(10_000)),
            format!("{}{r}", format!("{r} or ").repeat(5_000)),
            format!("{}{r}", format!("{r} ^ ").repeat(5_000)),
            format!("{}1", "vector(1)+".repeat(10_000)),
        ];
        for text in texts {
            assert!(text.len() <= QUERY_BYTES_MAX);
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains("levels") || error.contains("unexpected literal"), "{error}: {}", &text[..60]);
        }
        // Queries that are deep but within bounds can be parsed, printed, compared and dropped.
        let texts = [
            deep("(", r, ")", 120),
            deep(&format!("({r} or {r} and {r} == {r} + {r} * {r} ^ "), r, ")", 60),
            format!("{{a=\"b\"}} | {}a=1", "a=1,".repeat(1_000)),
            format!("{{a=\"b\"}} | {}a=1", "a=1 or ".repeat(1_000)),
            format!("{}{r}", format!("{r} or ").repeat(500)),
            format!("{}{r}", format!("{r} ^ ").repeat(100)),
        ];
        for text in texts {
            let parsed = parse(&text).unwrap();
            assert_eq!(parse(&parsed.to_string()).unwrap(), parsed);
            let formatted = crate::format_query(&text).unwrap();
            if formatted.len() > QUERY_BYTES_MAX {
                continue;
            }
            assert_eq!(parse(&formatted).unwrap(), parsed);
        }
        assert_eq!(canonical(&format!("{}1", "1+".repeat(60_000))), "60001");
        let many = format!("{{a=\"b\"}}{}", " |= \"x\"".repeat(15_000));
        assert!(parse(&many).is_ok());
    };
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(work);
    thread.unwrap().join().unwrap();
}
