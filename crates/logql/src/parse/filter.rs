//! Label filters: `status >= 500 and (method = "GET" or size > 10KB)`.

use model::{MatchOp, Matcher, RegexMode};

use super::{Deep, Parser, Result};
use crate::{
    ast::{CompareOp, FilterValue, LabelFilter},
    check,
    error::ParseError,
    lexer::TokenKind,
};

/// Maximum depth of a filter's tree, and so the maximum length of a chain of `and` or `or`.
const DEPTH_MAX: usize = 1024;

type Filter = Deep<LabelFilter>;

/// The part of a filter to the left of the operand being read. `or` holds everything before the last `or`; `and` holds
/// the chain of `and` after it.
#[derive(Default)]
struct Left {
    or: Option<Filter>,
    and: Option<Filter>,
}

impl Left {
    /// Returns the complete filter, with `operand` as its last operand.
    fn close(self, operand: Filter) -> Filter {
        let and = join(LabelFilter::And, self.and, operand);
        join(LabelFilter::Or, self.or, and)
    }
}

type Join = fn(Box<LabelFilter>, Box<LabelFilter>) -> LabelFilter;

fn join(kind: Join, left: Option<Filter>, right: Filter) -> Filter {
    match left {
        None => right,
        Some(left) => {
            let depth = left.depth.max(right.depth) + 1;
            Deep { tree: kind(Box::new(left.tree), Box::new(right.tree)), depth }
        }
    }
}

impl Parser<'_> {
    pub(super) fn label_filter(&mut self) -> Result<LabelFilter> {
        Ok(self.filter()?.tree)
    }

    /// Reads a filter. `and` binds tighter than `or`; both are left-associative. A `,` or no operator between two
    /// filters also means `and`, but has no precedence: its left side is the one operand before it, and its right side
    /// is everything that follows.
    fn filter(&mut self) -> Result<Filter> {
        // For each `,` read so far: what comes before its left operand, and that operand.
        let mut waiting: Vec<(Left, Filter)> = Vec::new();
        let mut left = Left::default();
        loop {
            let operand = self.filter_operand()?;
            let depth = operand
                .depth
                .max(left.or.as_ref().map_or(0, |f| f.depth))
                .max(left.and.as_ref().map_or(0, |f| f.depth));
            if depth + waiting.len() >= DEPTH_MAX {
                return Err(ParseError::tree(format!("the label filter has more than {DEPTH_MAX} levels")));
            }
            let juxtaposed = matches!(self.peek(), TokenKind::Identifier(_) | TokenKind::Symbol("("));
            if self.eat(",") || juxtaposed {
                waiting.push((std::mem::take(&mut left), operand));
            } else if self.eat("and") {
                left.and = Some(join(LabelFilter::And, left.and.take(), operand));
            } else if self.eat("or") {
                let Left { or, and } = std::mem::take(&mut left);
                left.or = Some(Left { or, and }.close(operand));
            } else {
                let mut whole = left.close(operand);
                while let Some((left, operand)) = waiting.pop() {
                    whole = left.close(join(LabelFilter::And, Some(operand), whole));
                }
                return Ok(whole);
            }
        }
    }

    fn filter_operand(&mut self) -> Result<Filter> {
        if self.eat("(") {
            let inner = self.nested(Self::filter)?;
            self.expect_of(")", &[])?;
            return Ok(inner);
        }
        let name = self.identifier_of(&["IDENTIFIER", "("])?;
        self.condition(name).map(Deep::leaf)
    }

    /// Reads the condition after a label's name.
    fn condition(&mut self, name: String) -> Result<LabelFilter> {
        let TokenKind::Symbol(symbol) = self.peek() else { return Err(self.unexpected(&[])) };
        let symbol = *symbol;
        let match_op = self.match_op();
        let compare_op = match symbol {
            "=" | "==" => Some(CompareOp::Equal),
            "!=" => Some(CompareOp::NotEqual),
            ">" => Some(CompareOp::Greater),
            ">=" => Some(CompareOp::GreaterOrEqual),
            "<" => Some(CompareOp::Less),
            "<=" => Some(CompareOp::LessOrEqual),
            _ => None,
        };
        if match_op.is_none() && compare_op.is_none() {
            return Err(self.unexpected(&[]));
        }
        self.take();
        if let Some(op) = match_op {
            if matches!(self.peek(), TokenKind::Text(_)) || compare_op.is_none() {
                let value = self.string()?;
                let matcher = Matcher::with_mode(&name, op, &value, RegexMode::Whole);
                return Ok(LabelFilter::Matcher(matcher.map_err(|e| ParseError::tree(e.to_string()))?));
            }
            if matches!(self.peek(), TokenKind::Function("ip")) {
                self.take();
                let pattern = self.string_argument()?;
                check::ip(&pattern)?;
                return Ok(LabelFilter::Ip { name, negated: op == MatchOp::NotEqual, pattern });
            }
        }
        let Some(op) = compare_op else { return Err(self.unexpected(&["STRING"])) };
        Ok(LabelFilter::Compare { name, op, value: self.filter_value()? })
    }

    fn filter_value(&mut self) -> Result<FilterValue> {
        match self.peek() {
            TokenKind::Duration(nanos) => {
                let value = FilterValue::DurationNs(*nanos);
                self.take();
                Ok(value)
            }
            TokenKind::Bytes(bytes) => {
                let value = FilterValue::Bytes(*bytes);
                self.take();
                Ok(value)
            }
            TokenKind::Number(_) | TokenKind::Symbol("+" | "-") => Ok(FilterValue::Number(self.signed_number()?)),
            _ => Err(self.unexpected(&[])),
        }
    }
}
