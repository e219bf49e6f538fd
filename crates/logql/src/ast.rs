//! The tree of a query, as parsed and checked. [`std::fmt::Display`] prints it in canonical form, which parses to the
//! same tree.

use std::time::Duration;

use model::Matcher;

/// A whole query.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// `{…} | …`: entries.
    Log(LogExpr),
    /// Anything that yields numbers.
    Metric(MetricExpr),
}

/// A selector and what is done with its entries, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct LogExpr {
    /// `{a="b", …}`; never all of them empty-compatible (unless parsed by the matchers-only entry).
    pub matchers: Vec<Matcher>,
    /// The pipeline.
    pub stages: Vec<Stage>,
}

/// One stage of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// `|= "a" or "b"`: one filter and its alternatives.
    LineFilter(LineFilter),
    /// `| json` / `| json a="x.y"`; no extractions: every field.
    Json(Vec<Extraction>),
    /// `| logfmt --strict --keep-empty a="b"`.
    Logfmt {
        /// `--strict`
        strict: bool,
        /// `--keep-empty`
        keep_empty: bool,
        /// None: every field.
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

/// `op operand or operand …`. Of a negative operator none of the operands may match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFilter {
    /// The operator, shared by all operands.
    pub op: LineOp,
    /// At least one.
    pub operands: Vec<LineOperand>,
}

/// What a line filter looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineOperand {
    /// A text, regex or pattern, as the operator says.
    Text(String),
    /// `ip("…")`
    Ip(String),
}

/// `target="path"`; a bare name has itself as path.
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
    /// Another label, which is moved.
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
        /// What with.
        value: FilterValue,
    },
    /// Both; both are evaluated.
    And(Box<LabelFilter>, Box<LabelFilter>),
    /// Either; the right one only when the left one does not hold.
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
        /// What is relabelled.
        inner: Box<MetricExpr>,
        /// Target label.
        target: String,
        /// With `$1` and `${name}`.
        replacement: String,
        /// Source label.
        source: String,
        /// Anchored.
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
    /// `| unwrap …` and the filters behind it.
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
    /// How it is read.
    pub conversion: Conversion,
    /// Filters behind it.
    pub filters: Vec<LabelFilter>,
}

/// How an unwrapped label is read.
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
    /// The k of topk, bottomk and approx_topk; checked to be positive.
    pub parameter: Option<u64>,
    /// What is aggregated.
    pub inner: Box<MetricExpr>,
    /// `by` / `without`; none: one group.
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

/// Which side is the many side, and what it takes from the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchGroup {
    /// True for `group_left`: many on the left.
    pub left: bool,
    /// The labels copied from the one side.
    pub include: Vec<String>,
}
