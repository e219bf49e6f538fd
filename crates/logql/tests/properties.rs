//! Properties of every text and tree: nothing panics, parse ∘ print is the identity, formatting keeps the meaning.

use std::time::Duration;

use millrace_logql::{self as logql, ast::*};
use model::{MatchOp, Matcher, RegexMode};
use proptest::prelude::*;

/// Calls every entry point with this text. They may reject it. A text they accept must survive printing and formatting.
fn survives(text: &str) {
    let _ = logql::parse_log(text);
    let _ = logql::parse_matchers(text).map(|m| logql::reject_empty_compatible(&m));
    let formatted = logql::format_query(text);
    let Ok(parsed) = logql::parse(text) else {
        assert!(formatted.is_err(), "{text}");
        return;
    };
    let printed = parsed.to_string();
    // NaN is not equal to itself; its text is.
    let again = logql::parse(&printed).unwrap_or_else(|e| panic!("{e}: {printed} from {text}"));
    assert_eq!(format!("{again:?}"), format!("{parsed:?}"), "{text}");
    let formatted = formatted.expect("what parses can be formatted");
    let again = logql::parse(&formatted).unwrap_or_else(|e| panic!("{e}: {formatted} from {text}"));
    assert_eq!(format!("{again:?}"), format!("{parsed:?}"), "{text}");
    assert_eq!(logql::format_query(&formatted), Ok(formatted));
}

/// Words of the language and some that are not.
const WORDS: &[&str] = &[
    "{",
    "}",
    "(",
    ")",
    "[5m]",
    "[",
    "]",
    "[1h30m]",
    ",",
    ".",
    "=",
    "!=",
    "=~",
    "!~",
    "|=",
    "|~",
    "|>",
    "!>",
    "|",
    "+",
    "-",
    "*",
    "/",
    "%",
    "^",
    "==",
    ">",
    ">=",
    "<",
    "<=",
    "by",
    "without",
    "bool",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "offset",
    "or",
    "and",
    "unless",
    "unwrap",
    "json",
    "regexp",
    "logfmt",
    "unpack",
    "pattern",
    "label_format",
    "line_format",
    "decolorize",
    "drop",
    "keep",
    "rate",
    "count_over_time",
    "quantile_over_time",
    "sum_over_time",
    "sum",
    "topk",
    "sort",
    "label_replace",
    "vector",
    "bytes",
    "duration",
    "ip",
    "--strict",
    "--keep-empty",
    "a",
    "b",
    "_x1",
    "\"b\"",
    "\"x.y\"",
    "`c`",
    "\"<a> <_>\"",
    "\"(?P<a>b)\"",
    "\"{{.a}}\"",
    "\"10.0.0.0/8\"",
    "\"",
    "'",
    "1",
    "2.5",
    "1e3",
    "5m",
    "-5m",
    "1.5h",
    "10KB",
    "0x1p4",
    "#",
    "//",
    "/*",
    "*/",
    "\n",
    "é",
    "\u{0}",
    "{a=\"b\"}",
    "rate({a=\"b\"}[5m])",
    "{{",
    "}}",
    "@",
    "!",
    "~",
    "\\",
];

const QUERIES: &[&str] = &[
    "{app=\"api\", env=~\"prod|stage\"} |= \"error\" or \"fatal\" !~ `time.?out` | json | status >= 500 and method = \"GET\"",
    "sum by (level) (count_over_time({app=\"api\"} | logfmt --strict a, b=\"c\" | drop __error__ [1m] offset -5m))",
    "topk(5, sum without (x) (rate({app=\"api\"} |> \"<_> foo\" [5m]))) / on (a) group_left (b) vector(2.5)",
    "quantile_over_time(0.99, {app=\"api\"} | json x=\"y[0].z\" | unwrap duration(x) | __error__=\"\" [5m]) by (c)",
    "label_replace(rate({a=\"b\"}[1h30m]), \"d\", \"$1\", \"s\", \"(.*)\") > bool 1 or vector(1) unless vector(2)",
    "{a=\"b\"} | pattern \"<ip> <_>\" | line_format \"{{ .x | lower }}\" | label_format a=b, c=\"{{if .d}}e{{end}}\" | keep a, b=\"c\"",
    "{a=\"b\"} | size > 10KB, took < 1.5h or (ip = ip(\"10.0.0.0/8\") n != -5) x =~ \"y\" | decolorize | unpack",
    "-2 ^ 2 + 1 / 0 - vector(3) % 4",
];

/// `PROPTEST_CASES` asks for a longer run.
fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.max(1_000), failure_persistence: None, ..config }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_text(text in any::<String>()) {
        survives(&text);
    }

    #[test]
    fn any_ascii(text in "[ -~\n]{0,80}") {
        survives(&text);
    }

    #[test]
    fn any_words(words in prop::collection::vec(prop::sample::select(WORDS), 0..24), spaced in any::<bool>()) {
        survives(&words.join(if spaced { " " } else { "" }));
    }

    #[test]
    fn mutations(
        query in prop::sample::select(QUERIES),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, prop::sample::select(WORDS)), 0..4),
    ) {
        let mut text: Vec<char> = query.chars().collect();
        for (place, kind, word) in edits {
            let at = place.index(text.len() + 1);
            match kind {
                0 => { text.truncate(at); }
                1 if at < text.len() => { text.remove(at); }
                2 if at < text.len() => text[at] = word.chars().next().unwrap_or(' '),
                _ => { text.splice(at..at, word.chars()); }
            }
        }
        survives(&text.into_iter().collect::<String>());
    }

    #[test]
    fn templates(parts in prop::collection::vec(prop::sample::select(&[
        "{{", "}}", "{{-", "-}}", " ", ".", ".a", ".a.b", "$", "$x", ":=", "=", "|", "(", ")", "if", "else", "end", "range", "with",
        "define", "block", "template", "break", "continue", "nil", "true", "1", "1.5", "'c'", "\\\"t\\\"", "lower", "nope", ",", "/*", "*/", "text", "\\n",
    ][..]), 0..20)) {
        survives(&format!("{{a=\"b\"}} | line_format \"{}\"", parts.join(" ")));
        survives(&format!("{{a=\"b\"}} | label_format x=\"{}\"", parts.concat()));
    }

    #[test]
    fn trees(expr in expr()) {
        let printed = expr.to_string();
        let parsed = logql::parse(&printed);
        prop_assert_eq!(parsed.as_ref().map_err(|e| format!("{e}: {printed}")), Ok(&expr));
        survives(&printed);
    }
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(&["a", "b", "level", "sum", "count", "ip", "bytes", "rate", "_x9", "__error__"][..])
        .prop_map(str::to_owned)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~]{0,12}", Just("\"\\\n`".to_owned())]
}

fn matcher(mode: RegexMode) -> impl Strategy<Value = Matcher> {
    (name(), text(), 0..4u8).prop_map(move |(name, text, op)| {
        let (op, value) = match op {
            0 => (MatchOp::Equal, text),
            1 => (MatchOp::NotEqual, text),
            2 => (MatchOp::Regex, "a.*|b\\d".to_owned()),
            _ => (MatchOp::NotRegex, "(x|y)+".to_owned()),
        };
        Matcher::with_mode(&name, op, &value, mode).expect("the regexes are valid")
    })
}

fn compare_op() -> impl Strategy<Value = CompareOp> {
    use CompareOp::*;
    prop::sample::select(&[Equal, NotEqual, Greater, GreaterOrEqual, Less, LessOrEqual][..])
}

fn label_filter() -> impl Strategy<Value = LabelFilter> {
    let value = prop_oneof![
        number().prop_map(FilterValue::Number),
        (-(1i64 << 53)..1 << 53).prop_map(FilterValue::DurationNs),
        (-1_000_000i64..1_000_000).prop_map(|s| FilterValue::DurationNs(s * 1_000_000_000)),
        (0u64..1 << 53).prop_map(FilterValue::Bytes),
        (0u64..1000, 0..5u32).prop_map(|(n, e)| FilterValue::Bytes(n << (10 * e))),
    ];
    let leaf = prop_oneof![
        matcher(RegexMode::Whole).prop_map(LabelFilter::Matcher),
        (name(), any::<bool>(), ip()).prop_map(|(name, negated, pattern)| LabelFilter::Ip { name, negated, pattern }),
        (name(), compare_op(), value).prop_map(|(name, op, value)| LabelFilter::Compare { name, op, value }),
    ];
    leaf.prop_recursive(5, 24, 2, |inner| {
        (inner.clone(), inner, any::<bool>()).prop_map(|(a, b, and)| {
            let kind = if and { LabelFilter::And } else { LabelFilter::Or };
            kind(Box::new(a), Box::new(b))
        })
    })
}

fn ip() -> impl Strategy<Value = String> {
    prop::sample::select(&["10.0.0.0/8", "::1", "10.0.0.1-10.0.0.9"][..]).prop_map(str::to_owned)
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>().prop_filter("finite", |f| f.is_finite()), (-100i32..100).prop_map(f64::from)]
}

fn line_filter() -> impl Strategy<Value = LineFilter> {
    let plain = prop_oneof![text().prop_map(LineOperand::Text), ip().prop_map(LineOperand::Ip)];
    let regex = prop::sample::select(&["a.*b", "(?i)x|y", ""][..]).prop_map(|r| LineOperand::Text(r.to_owned()));
    let pattern = prop::sample::select(&["<_> x <_>", "", "<", "y"][..]).prop_map(|p| LineOperand::Text(p.to_owned()));
    let filter = |ops: [LineOp; 2], operand: BoxedStrategy<LineOperand>| {
        (prop::sample::select(ops.to_vec()), prop::collection::vec(operand, 1..4))
            .prop_map(|(op, operands)| LineFilter { op, operands })
    };
    prop_oneof![
        filter([LineOp::Contains, LineOp::NotContains], plain.boxed()),
        filter([LineOp::Regex, LineOp::NotRegex], regex.boxed()),
        filter([LineOp::Pattern, LineOp::NotPattern], pattern.boxed()),
    ]
}

fn extractions(paths: &'static [&'static str]) -> impl Strategy<Value = Vec<Extraction>> {
    let one =
        (name(), prop::sample::select(paths)).prop_map(|(target, path)| Extraction { target, source: path.to_owned() });
    prop::collection::vec(one, 0..3)
}

fn template() -> impl Strategy<Value = String> {
    prop::sample::select(&["{{.a}}", "plain", "{{ if .b }}\"{{ else }}`{{ end }}", ""][..]).prop_map(str::to_owned)
}

fn stage() -> impl Strategy<Value = Stage> {
    let source =
        prop_oneof![name().prop_map(LabelFormatSource::Label), template().prop_map(LabelFormatSource::Template)];
    let formats = prop::collection::btree_map("[a-z]{1,3}x", source, 1..3)
        .prop_map(|m| m.into_iter().map(|(target, source)| LabelFormat { target, source }).collect());
    let items = || {
        let item = prop_oneof![
            name().prop_map(NameOrMatcher::Name),
            matcher(RegexMode::WholeDotAll).prop_map(NameOrMatcher::Matcher),
        ];
        prop::collection::vec(item, 1..3)
    };
    prop_oneof![
        line_filter().prop_map(Stage::LineFilter),
        extractions(&["a.b", "list[0]", "[\"k 1\"].z", "level"]).prop_map(Stage::Json),
        (any::<bool>(), any::<bool>(), extractions(&["a", "any key", "", "level"]))
            .prop_map(|(strict, keep_empty, extractions)| Stage::Logfmt { strict, keep_empty, extractions }),
        Just(Stage::Regexp("(?P<a>\\w+) \"(?<b>.*)`".to_owned())),
        Just(Stage::Pattern("<a> \"<_>` <b>".to_owned())),
        Just(Stage::Unpack),
        label_filter().prop_map(Stage::LabelFilter),
        template().prop_map(Stage::LineFormat),
        formats.prop_map(Stage::LabelFormat),
        Just(Stage::Decolorize),
        items().prop_map(Stage::Drop),
        items().prop_map(Stage::Keep),
    ]
}

fn log() -> impl Strategy<Value = LogExpr> {
    (prop::collection::vec(matcher(RegexMode::WholeDotAll), 0..3), prop::collection::vec(stage(), 0..5)).prop_map(
        |(mut matchers, mut stages)| {
            // `| drop a != "x"` cannot be written: the filter would belong to `a`.
            let is_list = |s: &Stage| matches!(s, Stage::Drop(_) | Stage::Keep(_));
            let is_filter = |s: &Stage| matches!(s, Stage::LineFilter(_));
            for at in (1..stages.len()).rev() {
                if is_list(&stages[at - 1]) && is_filter(&stages[at]) {
                    stages.insert(at, Stage::Unpack);
                }
            }
            matchers.push(Matcher::new("app", MatchOp::Equal, "x").expect("no regex"));
            LogExpr { matchers, stages }
        },
    )
}

fn grouping() -> impl Strategy<Value = Grouping> {
    (any::<bool>(), prop::collection::vec(name(), 0..3)).prop_map(|(without, labels)| Grouping { without, labels })
}

fn range_aggregation() -> impl Strategy<Value = RangeAggregation> {
    use RangeOp::*;
    let ops = [
        Rate,
        RateCounter,
        CountOverTime,
        BytesRate,
        BytesOverTime,
        AvgOverTime,
        SumOverTime,
        MinOverTime,
        MaxOverTime,
        StdvarOverTime,
        StddevOverTime,
        QuantileOverTime,
        FirstOverTime,
        LastOverTime,
        AbsentOverTime,
    ];
    let conversion = prop::sample::select(
        &[Conversion::Number, Conversion::Duration, Conversion::DurationSeconds, Conversion::Bytes][..],
    );
    let unwrap = (name(), conversion, prop::collection::vec(label_filter(), 0..3))
        .prop_map(|(label, conversion, filters)| Unwrap { label, conversion, filters });
    let offset = prop_oneof![Just(0), -(1i64 << 53)..1 << 53, (-10_000i64..10_000).prop_map(|s| s * 1_000_000_000)];
    (
        prop::sample::select(ops.to_vec()),
        0.0..2.0,
        log(),
        unwrap,
        any::<bool>(),
        0u64..1 << 40,
        offset,
        prop::option::of(grouping()),
    )
        .prop_map(|(op, parameter, log, unwrap, unwraps, millis, offset_ns, grouping)| {
            let unwraps = match op {
                CountOverTime | BytesOverTime | BytesRate => false,
                Rate | AbsentOverTime => unwraps,
                _ => true,
            };
            let groups = !matches!(
                op,
                CountOverTime | BytesOverTime | BytesRate | Rate | AbsentOverTime | RateCounter | SumOverTime
            );
            RangeAggregation {
                op,
                parameter: (op == QuantileOverTime).then_some(parameter),
                log,
                unwrap: unwraps.then_some(unwrap),
                range: Duration::from_millis(millis),
                offset_ns,
                grouping: grouping.filter(|_| groups),
            }
        })
}

fn vector_head() -> impl Strategy<Value = (VectorOp, Option<u64>, Option<Grouping>)> {
    use VectorOp::*;
    let ops = [Sum, Avg, Max, Min, Count, Stddev, Stdvar, Bottomk, Topk, Sort, SortDesc, ApproxTopk];
    (prop::sample::select(ops.to_vec()), 1u64..100, prop::option::of(grouping())).prop_map(|(op, k, grouping)| {
        let counted = matches!(op, Bottomk | Topk | ApproxTopk);
        (op, counted.then_some(k), grouping.filter(|_| !matches!(op, Sort | SortDesc | ApproxTopk)))
    })
}

fn binary_op() -> impl Strategy<Value = BinaryOp> {
    use BinaryOp::*;
    prop_oneof![
        prop::sample::select(&[Or, And, Unless, Add, Sub, Mul, Div, Mod, Pow][..]),
        compare_op().prop_map(Compare)
    ]
}

fn matching() -> impl Strategy<Value = Matching> {
    let labels = || prop::collection::vec(name(), 0..3);
    let group = prop::option::of((any::<bool>(), labels()).prop_map(|(left, include)| MatchGroup { left, include }));
    (any::<bool>(), labels(), group).prop_map(|(on, labels, group)| Matching { on, labels, group })
}

fn metric() -> impl Strategy<Value = MetricExpr> {
    let leaf = prop_oneof![
        3 => range_aggregation().prop_map(MetricExpr::Range),
        1 => number().prop_map(MetricExpr::Literal),
        1 => number().prop_map(|n| MetricExpr::VectorFn(n.abs())),
    ];
    leaf.prop_recursive(5, 12, 2, |inner| {
        prop_oneof![
            2 => (vector_head(), inner.clone()).prop_map(|((op, parameter, grouping), inner)| {
                MetricExpr::Vector(VectorAggregation { op, parameter, inner: Box::new(inner), grouping })
            }),
            1 => (inner.clone(), text(), text(), text()).prop_map(|(inner, target, replacement, source)| {
                MetricExpr::LabelReplace { inner: Box::new(inner), target, replacement, source, regex: "(.*)\"`".to_owned() }
            }),
            4 => (binary_op(), any::<bool>(), prop::option::of(matching()), inner.clone(), inner).prop_map(
                |(op, return_bool, matching, left, right)| {
                    // Operations on literals fold, and set operations reject them, so replace the literals.
                    let solid = |leg| match leg {
                        MetricExpr::Literal(n) => MetricExpr::VectorFn(n.abs()),
                        leg => leg,
                    };
                    let left = solid(left);
                    let right = if op.is_set() { solid(right) } else { right };
                    MetricExpr::Binary(Box::new(BinaryExpr { op, return_bool, matching, left, right }))
                },
            ),
        ]
    })
}

fn expr() -> impl Strategy<Value = Expr> {
    prop_oneof![log().prop_map(Expr::Log), metric().prop_map(Expr::Metric)]
}
