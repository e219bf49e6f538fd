//! Metric queries, and operators between queries.

use std::time::Duration;

use super::{Deep, Parser, Result};
use crate::{
    ast::{
        BinaryExpr, BinaryOp, CompareOp, Conversion, Expr, Grouping, LogExpr, MatchGroup, Matching, MetricExpr,
        RangeAggregation, RangeOp, Unwrap, VectorAggregation, VectorOp,
    },
    check,
    error::ParseError,
    fold,
    lexer::TokenKind,
    number::parse_float,
};

/// Maximum depth of a query's tree, and so the maximum length of a chain of operators.
const DEPTH_MAX: usize = 512;

/// What may follow an operator before its right leg.
struct Modifier {
    return_bool: bool,
    matching: Option<Matching>,
}

/// The inside of a range aggregation.
struct LogRange {
    log: LogExpr,
    unwrap: Option<Unwrap>,
    /// Length, and offset in nanoseconds. `None` while reading parentheses that the range follows.
    range: Option<(Duration, i64)>,
}

impl Parser<'_> {
    /// Any query.
    pub(super) fn expr(&mut self) -> Result<Deep<Expr>> {
        self.nested(|p| p.operators(1))
    }

    /// Reads a query that must be a metric query.
    fn metric(&mut self) -> Result<Deep<MetricExpr>> {
        match self.expr()? {
            Deep { tree: Expr::Metric(tree), depth } => Ok(Deep { tree, depth }),
            Deep { tree: Expr::Log(_), .. } => Err(self.unexpected(&[])),
        }
    }

    /// Reads operands joined by operators that bind at least as tightly as `tightness`.
    fn operators(&mut self, tightness: u8) -> Result<Deep<Expr>> {
        let mut left = self.operand()?;
        loop {
            let Some((op, binds)) = self.binary_op().filter(|(_, binds)| *binds >= tightness) else { return Ok(left) };
            self.take();
            let modifier = self.modifier()?;
            let right = match op {
                BinaryOp::Pow => self.nested(|p| p.operators(binds))?,
                _ => self.operators(binds + 1)?,
            };
            let depth = left.depth.max(right.depth) + 1;
            if depth > DEPTH_MAX {
                return Err(ParseError::tree(format!("the query has more than {DEPTH_MAX} levels")));
            }
            let tree = binary(op, modifier, left.tree, right.tree)?;
            let depth = if matches!(tree, MetricExpr::Literal(_)) { 1 } else { depth };
            left = Deep { tree: Expr::Metric(tree), depth };
        }
    }

    /// Returns the next operator, if one is next, and how tightly it binds.
    fn binary_op(&self) -> Option<(BinaryOp, u8)> {
        let TokenKind::Symbol(symbol) = self.peek() else { return None };
        Some(match *symbol {
            "or" => (BinaryOp::Or, 1),
            "and" => (BinaryOp::And, 2),
            "unless" => (BinaryOp::Unless, 2),
            "==" => (BinaryOp::Compare(CompareOp::Equal), 3),
            "!=" => (BinaryOp::Compare(CompareOp::NotEqual), 3),
            ">" => (BinaryOp::Compare(CompareOp::Greater), 3),
            ">=" => (BinaryOp::Compare(CompareOp::GreaterOrEqual), 3),
            "<" => (BinaryOp::Compare(CompareOp::Less), 3),
            "<=" => (BinaryOp::Compare(CompareOp::LessOrEqual), 3),
            "+" => (BinaryOp::Add, 4),
            "-" => (BinaryOp::Sub, 4),
            "*" => (BinaryOp::Mul, 5),
            "/" => (BinaryOp::Div, 5),
            "%" => (BinaryOp::Mod, 5),
            "^" => (BinaryOp::Pow, 6),
            _ => return None,
        })
    }

    fn modifier(&mut self) -> Result<Modifier> {
        let return_bool = self.eat("bool");
        let on = self.is("on");
        if !on && !self.is("ignoring") {
            return Ok(Modifier { return_bool, matching: None });
        }
        self.take();
        self.expect("(")?;
        let labels = self.names_to_parenthesis()?;
        let left = self.is("group_left");
        let group = if left || self.is("group_right") {
            self.take();
            let include = if self.eat("(") { self.names_to_parenthesis()? } else { Vec::new() };
            Some(MatchGroup { left, include })
        } else {
            None
        };
        Ok(Modifier { return_bool, matching: Some(Matching { on, labels, group }) })
    }

    /// Reads one operand of a binary operation.
    fn operand(&mut self) -> Result<Deep<Expr>> {
        match self.peek() {
            TokenKind::Symbol("{") => {
                let matchers = self.selector()?;
                let stages = self.stages(false)?;
                Ok(Deep::leaf(Expr::Log(LogExpr { matchers, stages })))
            }
            TokenKind::Symbol("(") => {
                self.take();
                let inner = self.expr()?;
                self.expect_of(")", &[])?;
                Ok(inner)
            }
            TokenKind::Number(_) | TokenKind::Symbol("+" | "-") => {
                Ok(Deep::leaf(Expr::Metric(MetricExpr::Literal(self.signed_number()?))))
            }
            TokenKind::Function(name) => {
                let name = *name;
                let tree = self.function(name)?;
                Ok(Deep { depth: tree.depth, tree: Expr::Metric(tree.tree) })
            }
            _ => Err(self.unexpected(&[])),
        }
    }

    fn function(&mut self, name: &'static str) -> Result<Deep<MetricExpr>> {
        if let Some(op) = RangeOp::named(name) {
            self.take();
            return self.range_aggregation(op).map(|r| Deep::leaf(MetricExpr::Range(r)));
        }
        if let Some(op) = VectorOp::named(name) {
            self.take();
            return self.vector_aggregation(op);
        }
        match name {
            "vector" => {
                self.take();
                self.expect("(")?;
                let value = literal(&self.number()?)?;
                self.expect(")")?;
                Ok(Deep::leaf(MetricExpr::VectorFn(value)))
            }
            "label_replace" => {
                self.take();
                self.label_replace()
            }
            _ => Err(self.unexpected(&[])),
        }
    }

    /// `[+|-] number`
    pub(super) fn signed_number(&mut self) -> Result<f64> {
        let negative = self.eat("-");
        if !negative {
            self.eat("+");
        }
        let value = literal(&self.number()?)?;
        Ok(if negative { -value } else { value })
    }

    fn label_replace(&mut self) -> Result<Deep<MetricExpr>> {
        self.expect("(")?;
        let inner = self.metric()?;
        self.expect_of(",", &[])?;
        let target = self.string()?;
        self.expect(",")?;
        let replacement = self.string()?;
        self.expect(",")?;
        let source = self.string()?;
        self.expect(",")?;
        let regex = self.string()?;
        self.expect(")")?;
        check::label_replace(&regex)?;
        let depth = inner.depth + 1;
        let tree = MetricExpr::LabelReplace { inner: Box::new(inner.tree), target, replacement, source, regex };
        Ok(Deep { tree, depth })
    }

    /// `by (…)` or `without (…)`, if one is next.
    fn grouping(&mut self) -> Result<Option<Grouping>> {
        let without = self.is("without");
        if !without && !self.is("by") {
            return Ok(None);
        }
        self.take();
        self.expect("(")?;
        Ok(Some(Grouping { without, labels: self.names_to_parenthesis()? }))
    }

    fn vector_aggregation(&mut self, op: VectorOp) -> Result<Deep<MetricExpr>> {
        let before = self.grouping()?;
        self.expect("(")?;
        let sign = matches!(self.peek(), TokenKind::Symbol("+" | "-"));
        let number = self.at + usize::from(sign);
        let is_number = |at: usize| self.tokens.get(at).is_some_and(|t| matches!(t.kind, TokenKind::Number(_)));
        let is_comma = |at: usize| self.tokens.get(at).is_some_and(|t| t.kind == TokenKind::Symbol(","));
        let parameter = if is_number(number) && is_comma(number + 1) {
            if sign {
                return Err(self.unexpected(&[]));
            }
            let text = self.number()?;
            self.take();
            Some(text)
        } else {
            None
        };
        let inner = self.metric()?;
        self.expect_of(")", &[])?;
        let grouping = match before {
            Some(grouping) => Some(grouping),
            None => self.grouping()?,
        };
        let parameter = check::vector_aggregation(op, parameter.as_deref(), grouping.as_ref())?;
        let tree = VectorAggregation { op, parameter, inner: Box::new(inner.tree), grouping };
        Ok(Deep { tree: MetricExpr::Vector(tree), depth: inner.depth + 1 })
    }

    fn range_aggregation(&mut self, op: RangeOp) -> Result<RangeAggregation> {
        self.expect("(")?;
        let parameter = match self.peek() {
            TokenKind::Number(_) => {
                let text = self.number()?;
                self.expect(",")?;
                Some(text)
            }
            TokenKind::Symbol("{" | "(") => None,
            _ => return Err(self.unexpected(&["NUMBER", "{", "("])),
        };
        let LogRange { log, unwrap, range } = self.log_range(false)?;
        let Some((range, offset_ns)) = range else { return Err(self.unexpected(&["RANGE"])) };
        self.expect(")")?;
        let grouping = self.grouping()?;
        let value = parameter.as_deref().map(literal).transpose()?;
        check::range_aggregation(op, parameter.as_deref(), unwrap.is_some(), grouping.is_some())?;
        Ok(RangeAggregation { op, parameter: value, log, unwrap, range, offset_ns, grouping })
    }

    fn log_range(&mut self, in_parentheses: bool) -> Result<LogRange> {
        if self.eat("(") {
            let mut inner = self.nested(|p| p.log_range(true))?;
            self.expect(")")?;
            if inner.range.is_none() {
                inner.range = Some(self.range()?.ok_or_else(|| self.unexpected(&["RANGE"]))?);
            }
            return Ok(inner);
        }
        if !self.is("{") {
            return Err(self.unexpected(&["{", "("]));
        }
        let matchers = self.selector()?;
        let early = self.range()?;
        let stages = self.stages(true)?;
        let unwrap = self.unwrap()?;
        let range = match early {
            Some(range) => Some(range),
            None => self.range()?,
        };
        if range.is_none() && !(in_parentheses && self.is(")")) {
            return Err(match (unwrap.is_some(), in_parentheses) {
                (false, _) => self.unexpected(&[]),
                (true, false) => self.unexpected(&["RANGE", "|"]),
                (true, true) => self.unexpected(&["RANGE", ")", "|"]),
            });
        }
        Ok(LogRange { log: LogExpr { matchers, stages }, unwrap, range })
    }

    /// `[5m] offset 1h`, if a range is next.
    fn range(&mut self) -> Result<Option<(Duration, i64)>> {
        let TokenKind::Range(range) = self.peek() else { return Ok(None) };
        let range = *range;
        self.take();
        if !self.eat("offset") {
            return Ok(Some((range, 0)));
        }
        let TokenKind::Duration(offset) = self.peek() else { return Err(self.unexpected(&["DURATION"])) };
        let offset = *offset;
        self.take();
        Ok(Some((range, offset)))
    }

    /// Reads `| unwrap …` and the label filters after it, if that is next.
    fn unwrap(&mut self) -> Result<Option<Unwrap>> {
        if !self.is("|") {
            return Ok(None);
        }
        self.take();
        self.expect_of("unwrap", &[])?;
        let conversion = match self.peek() {
            TokenKind::Function("duration") => Conversion::Duration,
            TokenKind::Function("duration_seconds") => Conversion::DurationSeconds,
            TokenKind::Function("bytes") => Conversion::Bytes,
            _ => Conversion::Number,
        };
        let label = if conversion == Conversion::Number {
            self.identifier_of(&["IDENTIFIER", "BYTES_CONV", "DURATION_CONV", "DURATION_SECONDS_CONV"])?
        } else {
            self.take();
            self.expect("(")?;
            let label = self.identifier()?;
            self.expect(")")?;
            label
        };
        let mut filters = Vec::new();
        while self.eat("|") {
            filters.push(match self.peek() {
                TokenKind::Identifier(_) | TokenKind::Symbol("(") => self.label_filter()?,
                _ => return Err(self.unexpected(&["IDENTIFIER", "("])),
            });
        }
        Ok(Some(Unwrap { label, conversion, filters }))
    }
}

fn literal(text: &str) -> Result<f64> {
    parse_float(text).map_err(|e| ParseError::tree(format!("unable to parse literal as a float: {e}")))
}

/// Joins two legs; an operation on two literals becomes a literal.
fn binary(op: BinaryOp, modifier: Modifier, left: Expr, right: Expr) -> Result<MetricExpr> {
    let leg = |expr: Expr, side: &str| match expr {
        Expr::Metric(metric) => Ok(metric),
        Expr::Log(log) => {
            let kind = if log.stages.is_empty() { "MatchersExpr" } else { "PipelineExpr" };
            let message =
                format!("unexpected type for {side} leg of binary operation ({}): *syntax.{kind}", op.as_str());
            Err(ParseError::tree(message))
        }
    };
    let (left, right) = (leg(left, "left")?, leg(right, "right")?);
    if op.is_set() {
        for (leg, side) in [(&left, "left"), (&right, "right")] {
            if let MetricExpr::Literal(value) = leg {
                let message = format!(
                    "unexpected literal for {side} leg of logical/set binary operation ({}): {}",
                    op.as_str(),
                    fold::format_f(*value)
                );
                return Err(ParseError::tree(message));
            }
        }
    }
    if let (MetricExpr::Literal(a), MetricExpr::Literal(b)) = (&left, &right)
        && let Some(value) = fold::literals(op, *a, *b)
    {
        return Ok(MetricExpr::Literal(value));
    }
    let Modifier { return_bool, matching } = modifier;
    Ok(MetricExpr::Binary(Box::new(BinaryExpr { op, return_bool, matching, left, right })))
}
