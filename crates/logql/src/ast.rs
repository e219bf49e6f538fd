//! The tree of a query, as parsed and checked. [`std::fmt::Display`] prints it in canonical form, which parses to the
//! same tree.

use std::time::Duration;

use model::Matcher;

/// A whole query.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// `{…} | …`: entries.
    Log(LogExpr),
    /// A metric query, which yields numbers.
    Metric(MetricExpr),
}

/// A selector and the pipeline stages for its entries, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct LogExpr {
    /// `{a="b", …}`. At least one matcher excludes the empty text, unless parsed by [`crate::parse_matchers`].
    pub matchers: Vec<Matcher>,
    /// The pipeline.
    pub stages: Vec<Stage>,
}

/// One stage of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// `|= "a" or "b"`: one filter and its alternatives.
    LineFilter(LineFilter),
    /// `| json` / `| json a="x.y"`. Extracts every field if there are no extractions.
    Json(Vec<Extraction>),
    /// `| logfmt --strict --keep-empty a="b"`.
    Logfmt {
        /// `--strict`
        strict: bool,
        /// `--keep-empty`
        keep_empty: bool,
        /// If empty, every field is extracted.
        extractions: Vec<Extraction>,
    },
    /// `| regexp "…"`
    Regexp(String),
    /// `| pattern "…"`
    Pattern(String),
    /// `| unpack`
    Unpack,
    /// `| status >= 500 and …`
    LabelFilter(LabelFilter),
    /// `| line_format "…"`
    LineFormat(String),
    /// `| label_format a=b, c="…"`
    LabelFormat(Vec<LabelFormat>),
    /// `| decolorize`
    Decolorize,
    /// `| drop a, b="x"`
    Drop(Vec<NameOrMatcher>),
    /// `| keep a, b="x"`
    Keep(Vec<NameOrMatcher>),
}

/// Operators of line filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LineOp {
    /// `|=`
    Contains,
    /// `!=`
    NotContains,
    /// `|~`
    Regex,
    /// `!~`
    NotRegex,
    /// `|>`
    Pattern,
    /// `!>`
    NotPattern,
}

/// `op operand or operand …`. With a negative operator, none of the operands may match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFilter {
    /// The operator, shared by all operands.
    pub op: LineOp,
    /// At least one operand.
    pub operands: Vec<LineOperand>,
}

/// What a line filter searches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineOperand {
    /// A text, regex or pattern, depending on the operator.
    Text(String),
    /// `ip("…")`
    Ip(String),
}

/// `target="path"`. The path of a bare name is the name itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extraction {
    /// The label to set.
    pub target: String,
    /// A JSON path, or a logfmt key.
    pub source: String,
}

/// One item of `label_format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFormat {
    /// The label to set.
    pub target: String,
    /// Where its value comes from.
    pub source: LabelFormatSource,
}

/// Where a formatted label's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelFormatSource {
    /// Another label, which is renamed.
    Label(String),
    /// A template.
    Template(String),
}

/// An item of `drop` or `keep`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameOrMatcher {
    /// The label, whatever its value.
    Name(String),
    /// The label if its value matches.
    Matcher(Matcher),
}

/// A condition on labels.
#[derive(Clone, Debug, PartialEq)]
pub enum LabelFilter {
    /// `a="b"` and the like (regexes in [`model::RegexMode::Whole`]).
    Matcher(Matcher),
    /// `a = ip("…")` / `a != ip("…")`
    Ip {
        /// The label.
        name: String,
        /// True for `!=`.
        negated: bool,
        /// Address, CIDR or range.
        pattern: String,
    },
    /// `a > 5`, `a > 5s`, `a > 5KB`
    Compare {
        /// The label.
        name: String,
        /// The comparison.
        op: CompareOp,
        /// The value to compare with.
        value: FilterValue,
    },
    /// Both conditions. Both are always evaluated.
    And(Box<LabelFilter>, Box<LabelFilter>),
    /// Either condition. The right one is evaluated only if the left one does not hold.
    Or(Box<LabelFilter>, Box<LabelFilter>),
}

/// Comparisons, of label filters and of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompareOp {
    /// `==` (in label filters also `=`)
    Equal,
    /// `!=`
    NotEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
}

/// What a label filter compares with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FilterValue {
    /// A plain number.
    Number(f64),
    /// Nanoseconds.
    DurationNs(i64),
    /// Bytes.
    Bytes(u64),
}

/// A query that yields numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricExpr {
    /// `rate({…}[5m])`
    Range(RangeAggregation),
    /// `sum by (a) (…)`
    Vector(VectorAggregation),
    /// `a / b`
    Binary(Box<BinaryExpr>),
    /// `1.5`
    Literal(f64),
    /// `vector(1)`
    VectorFn(f64),
    /// `label_replace(v, dst, replacement, src, regex)`
    LabelReplace {
        /// The expression whose series are relabelled.
        inner: Box<MetricExpr>,
        /// Target label.
        target: String,
        /// The new value, which may use `$1` and `${name}`.
        replacement: String,
        /// Source label.
        source: String,
        /// An anchored regex.
        regex: String,
    },
}

/// Aggregations over a window of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the LogQL function of its name")]
pub enum RangeOp {
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
}

/// `op(parameter, {…} … [range] offset o) by (…)`
#[derive(Clone, Debug, PartialEq)]
pub struct RangeAggregation {
    /// The function.
    pub op: RangeOp,
    /// The quantile.
    pub parameter: Option<f64>,
    /// The entries.
    pub log: LogExpr,
    /// `| unwrap …` and the filters after it.
    pub unwrap: Option<Unwrap>,
    /// The window's length.
    pub range: Duration,
    /// `offset`, may be negative.
    pub offset_ns: i64,
    /// `by` / `without`.
    pub grouping: Option<Grouping>,
}

/// `| unwrap conv(label) | filter …`
#[derive(Clone, Debug, PartialEq)]
pub struct Unwrap {
    /// The label whose value becomes the sample.
    pub label: String,
    /// How its value is parsed.
    pub conversion: Conversion,
    /// The filters after it.
    pub filters: Vec<LabelFilter>,
}

/// How the value of an unwrapped label is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conversion {
    /// As a number.
    Number,
    /// `duration(…)`: as a Go duration, in seconds.
    Duration,
    /// `duration_seconds(…)`: the same under its other name.
    DurationSeconds,
    /// `bytes(…)`: as a human size.
    Bytes,
}

/// `by (…)` or `without (…)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// True for `without`.
    pub without: bool,
    /// The labels as written.
    pub labels: Vec<String>,
}

/// Aggregations over the series of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the LogQL function of its name")]
pub enum VectorOp {
    Sum,
    Avg,
    Max,
    Min,
    Count,
    Stddev,
    Stdvar,
    Bottomk,
    Topk,
    Sort,
    SortDesc,
    ApproxTopk,
}

/// `op by (…) (parameter, inner)`
#[derive(Clone, Debug, PartialEq)]
pub struct VectorAggregation {
    /// The function.
    pub op: VectorOp,
    /// The k of `topk`, `bottomk` and `approx_topk`; always positive.
    pub parameter: Option<u64>,
    /// The aggregated expression.
    pub inner: Box<MetricExpr>,
    /// `by` / `without`. If `None`, all series form one group.
    pub grouping: Option<Grouping>,
}

/// Operators between two metric expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the operator of its name")]
pub enum BinaryOp {
    Or,
    And,
    Unless,
    Compare(CompareOp),
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
}

/// `left op bool on (…) group_left (…) right`
#[derive(Clone, Debug, PartialEq)]
pub struct BinaryExpr {
    /// The operator.
    pub op: BinaryOp,
    /// `bool`: comparisons yield 0 or 1.
    pub return_bool: bool,
    /// `on` / `ignoring`.
    pub matching: Option<Matching>,
    /// The left leg.
    pub left: MetricExpr,
    /// The right leg.
    pub right: MetricExpr,
}

/// Which labels join the legs of a binary operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matching {
    /// True for `on`, false for `ignoring`.
    pub on: bool,
    /// The labels as written.
    pub labels: Vec<String>,
    /// `group_left` / `group_right`.
    pub group: Option<MatchGroup>,
}

/// The side with many series, and the labels copied to it from the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchGroup {
    /// True for `group_left`: the left side has many series.
    pub left: bool,
    /// The labels copied from the one side.
    pub include: Vec<String>,
}
