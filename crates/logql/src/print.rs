//! Prints trees in canonical form, on one line. Parsing the text gives the same tree.

use std::fmt::{self, Display, Formatter, Write};

use model::Quoted;

use crate::{
    ast::{
        BinaryExpr, BinaryOp, Expr, Extraction, FilterValue, Grouping, LabelFilter, LabelFormat, LabelFormatSource,
        LineFilter, LineOperand, LogExpr, Matching, MetricExpr, NameOrMatcher, RangeAggregation, Stage, Unwrap,
        VectorAggregation,
    },
    duration, size,
};

/// Items with `, ` between them.
fn list<T: Display>(f: &mut Formatter<'_>, items: impl IntoIterator<Item = T>) -> fmt::Result {
    for (i, item) in items.into_iter().enumerate() {
        f.write_str(if i == 0 { "" } else { ", " })?;
        item.fmt(f)?;
    }
    Ok(())
}

/// Prints a number so that the parser reads it back as one operand. NaN and the infinities are printed as operations
/// that yield them.
pub(crate) struct Number(pub(crate) f64);

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let value = self.0;
        if value.is_nan() {
            f.write_str("(0 / 0)")
        } else if value.is_infinite() {
            f.write_str(if value > 0.0 { "(2 ^ 1024)" } else { "(-2 ^ 1025)" })
        } else if value != 0.0 && !(1e-7..1e21).contains(&value.abs()) {
            write!(f, "{value:e}")
        } else {
            write!(f, "{value}")
        }
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(log) => log.fmt(f),
            Self::Metric(metric) => metric.fmt(f),
        }
    }
}

impl Display for LogExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Selector(self).fmt(f)?;
        for stage in &self.stages {
            write!(f, " {stage}")?;
        }
        Ok(())
    }
}

/// Prints only the selector.
pub(crate) struct Selector<'a>(pub(crate) &'a LogExpr);

impl Display for Selector<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('{')?;
        list(f, &self.0.matchers)?;
        f.write_char('}')
    }
}

impl Display for Stage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::LineFilter(filter) => filter.fmt(f),
            Self::Json(extractions) => {
                f.write_str("| json")?;
                trailing(f, extractions)
            }
            Self::Logfmt { strict, keep_empty, extractions } => {
                f.write_str("| logfmt")?;
                f.write_str(if *strict { " --strict" } else { "" })?;
                f.write_str(if *keep_empty { " --keep-empty" } else { "" })?;
                trailing(f, extractions)
            }
            Self::Regexp(regex) => write!(f, "| regexp {}", Quoted(regex)),
            Self::Pattern(pattern) => write!(f, "| pattern {}", Quoted(pattern)),
            Self::Unpack => f.write_str("| unpack"),
            Self::LabelFilter(filter) => write!(f, "| {filter}"),
            Self::LineFormat(template) => write!(f, "| line_format {}", Quoted(template)),
            Self::LabelFormat(items) => {
                f.write_str("| label_format")?;
                trailing(f, items)
            }
            Self::Decolorize => f.write_str("| decolorize"),
            Self::Drop(items) => {
                f.write_str("| drop")?;
                trailing(f, items)
            }
            Self::Keep(items) => {
                f.write_str("| keep")?;
                trailing(f, items)
            }
        }
    }
}

/// Prints a blank and the items, if there are any.
fn trailing<T: Display>(f: &mut Formatter<'_>, items: &[T]) -> fmt::Result {
    f.write_str(if items.is_empty() { "" } else { " " })?;
    list(f, items)
}

impl Display for LineFilter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.op.as_str())?;
        for (i, operand) in self.operands.iter().enumerate() {
            f.write_str(if i == 0 { " " } else { " or " })?;
            operand.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for LineOperand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => Quoted(text).fmt(f),
            Self::Ip(pattern) => write!(f, "ip({})", Quoted(pattern)),
        }
    }
}

impl Display for Extraction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.target == self.source {
            f.write_str(&self.target)
        } else {
            write!(f, "{}={}", self.target, Quoted(&self.source))
        }
    }
}

impl Display for LabelFormat {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.source {
            LabelFormatSource::Label(source) => write!(f, "{}={source}", self.target),
            LabelFormatSource::Template(template) => write!(f, "{}={}", self.target, Quoted(template)),
        }
    }
}

impl Display for NameOrMatcher {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Matcher(matcher) => matcher.fmt(f),
        }
    }
}

impl Display for LabelFilter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        print_filter(f, self, true)
    }
}

/// Prints a filter. If `last`, nothing follows inside the same parentheses, so a `,` may extend to the end.
fn print_filter(f: &mut Formatter<'_>, filter: &LabelFilter, last: bool) -> fmt::Result {
    match filter {
        LabelFilter::Matcher(matcher) => matcher.fmt(f),
        LabelFilter::Ip { name, negated, pattern } => {
            write!(f, "{name}{}ip({})", if *negated { "!=" } else { "=" }, Quoted(pattern))
        }
        LabelFilter::Compare { name, op, value } => write!(f, "{name}{}{value}", op.as_str()),
        LabelFilter::And(left, right) if !is_operand(right) && last => {
            // `,` alone takes more than one operand on its right. On its left it takes exactly one.
            parenthesised(f, left, is_operand(left))?;
            f.write_str(", ")?;
            print_filter(f, right, true)
        }
        LabelFilter::And(left, right) => {
            parenthesised(f, left, !matches!(**left, LabelFilter::Or(..)))?;
            f.write_str(" and ")?;
            parenthesised(f, right, is_operand(right))
        }
        LabelFilter::Or(left, right) => {
            print_filter(f, left, false)?;
            f.write_str(" or ")?;
            match &**right {
                LabelFilter::Or(..) => parenthesised(f, right, false),
                LabelFilter::And(..) => print_filter(f, right, last),
                _ => print_filter(f, right, last),
            }
        }
    }
}

fn is_operand(filter: &LabelFilter) -> bool {
    !matches!(filter, LabelFilter::And(..) | LabelFilter::Or(..))
}

/// Prints a filter that is not the last in its parentheses. Puts it in parentheses unless `bare`.
fn parenthesised(f: &mut Formatter<'_>, filter: &LabelFilter, bare: bool) -> fmt::Result {
    if bare {
        return print_filter(f, filter, false);
    }
    f.write_char('(')?;
    print_filter(f, filter, true)?;
    f.write_char(')')
}

impl Display for FilterValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(value) => Number(*value).fmt(f),
            Self::DurationNs(nanos) => f.write_str(&duration::format(*nanos)),
            Self::Bytes(bytes) => f.write_str(&size::format(*bytes)),
        }
    }
}

impl Display for MetricExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => range.fmt(f),
            Self::Vector(vector) => vector.fmt(f),
            Self::Binary(binary) => binary.fmt(f),
            Self::Literal(value) => Number(*value).fmt(f),
            Self::VectorFn(value) => write!(f, "vector({})", Number(*value)),
            Self::LabelReplace { inner, target, replacement, source, regex } => {
                write!(f, "label_replace({inner}, ")?;
                list(f, [target, replacement, source, regex].map(|t| Quoted(t)))?;
                f.write_char(')')
            }
        }
    }
}

impl Display for RangeAggregation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.op.as_str())?;
        if let Some(parameter) = self.parameter {
            write!(f, "{}, ", Number(parameter))?;
        }
        self.log.fmt(f)?;
        if let Some(unwrap) = &self.unwrap {
            write!(f, " {unwrap}")?;
        }
        let bare = self.log.stages.is_empty() && self.unwrap.is_none();
        write!(f, "{}{})", if bare { "" } else { " " }, Window(self))?;
        trailing_grouping(f, self.grouping.as_ref())
    }
}

/// `[5m] offset 1h`
pub(crate) struct Window<'a>(pub(crate) &'a RangeAggregation);

impl Display for Window<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let nanos = i64::try_from(self.0.range.as_nanos()).unwrap_or(i64::MAX);
        write!(f, "[{}]", duration::format(nanos))?;
        match self.0.offset_ns {
            0 => Ok(()),
            offset => write!(f, " offset {}", duration::format(offset)),
        }
    }
}

fn trailing_grouping(f: &mut Formatter<'_>, grouping: Option<&Grouping>) -> fmt::Result {
    match grouping {
        Some(grouping) => write!(f, " {grouping}"),
        None => Ok(()),
    }
}

impl Display for Unwrap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.conversion.function() {
            Some(function) => write!(f, "| unwrap {function}({})", self.label)?,
            None => write!(f, "| unwrap {}", self.label)?,
        }
        for filter in &self.filters {
            write!(f, " | {filter}")?;
        }
        Ok(())
    }
}

impl Display for Grouping {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.without { "without (" } else { "by (" })?;
        list(f, &self.labels)?;
        f.write_char(')')
    }
}

/// Prints the part of a vector aggregation before its parenthesis: `sum by (a) `.
pub(crate) struct VectorHead<'a>(pub(crate) &'a VectorAggregation);

impl Display for VectorHead<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.op.as_str())?;
        match &self.0.grouping {
            Some(grouping) => write!(f, " {grouping} "),
            None => Ok(()),
        }
    }
}

impl Display for VectorAggregation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", VectorHead(self))?;
        if let Some(parameter) = self.parameter {
            write!(f, "{parameter}, ")?;
        }
        write!(f, "{})", self.inner)
    }
}

/// The operator and its modifiers: `/ bool on (a) group_left (b)`.
pub(crate) struct Operator<'a>(pub(crate) &'a BinaryExpr);

impl Display for Operator<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.op.as_str())?;
        f.write_str(if self.0.return_bool { " bool" } else { "" })?;
        match &self.0.matching {
            Some(matching) => write!(f, " {matching}"),
            None => Ok(()),
        }
    }
}

impl Display for Matching {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.on { "on (" } else { "ignoring (" })?;
        list(f, &self.labels)?;
        f.write_char(')')?;
        let Some(group) = &self.group else { return Ok(()) };
        // Print the parentheses even if empty. Otherwise the parser would take those of the right leg for them.
        f.write_str(if group.left { " group_left (" } else { " group_right (" })?;
        list(f, &group.include)?;
        f.write_char(')')
    }
}

/// Whether a leg of an operation must be put in parentheses.
pub(crate) fn leg_needs_parentheses(op: BinaryOp, leg: &MetricExpr, is_left: bool) -> bool {
    let MetricExpr::Binary(inner) = leg else { return false };
    let (outer, inner) = (op.binds(), inner.op.binds());
    let associates = is_left != (op == BinaryOp::Pow);
    inner < outer || (inner == outer && !associates)
}

impl Display for BinaryExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (leg, is_left) in [(&self.left, true), (&self.right, false)] {
            if !is_left {
                write!(f, " {} ", Operator(self))?;
            }
            if leg_needs_parentheses(self.op, leg, is_left) {
                write!(f, "({leg})")?;
            } else {
                leg.fmt(f)?;
            }
        }
        Ok(())
    }
}
