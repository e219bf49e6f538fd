//! Selectors and pipelines.

use model::Matcher;

use super::{Parser, Result};
use crate::{
    ast::{Extraction, LabelFormat, LabelFormatSource, LineFilter, LineOp, LineOperand, NameOrMatcher, Stage},
    check,
    error::ParseError,
    lexer::TokenKind,
};

impl Parser<'_> {
    /// `{a="b", …}`
    pub(super) fn selector(&mut self) -> Result<Vec<Matcher>> {
        self.expect("{")?;
        let mut matchers = Vec::new();
        if self.eat("}") {
            return Ok(matchers);
        }
        let mut expected: &[&str] = &["IDENTIFIER", "}"];
        loop {
            let name = self.identifier_of(expected)?;
            let op = self.match_op().ok_or_else(|| self.unexpected(&["=", "=~", "!~", "!="]))?;
            self.take();
            let value = self.string()?;
            matchers.push(Matcher::new(&name, op, &value).map_err(|e| ParseError::tree(e.to_string()))?);
            if self.eat("}") {
                return Ok(matchers);
            }
            self.expect_of(",", &["}", ","])?;
            expected = &["IDENTIFIER"];
        }
    }

    /// The operator of a line filter, if one is next.
    pub(super) fn line_op(&self) -> Option<LineOp> {
        let TokenKind::Symbol(symbol) = self.peek() else { return None };
        Some(match *symbol {
            "|=" => LineOp::Contains,
            "!=" => LineOp::NotContains,
            "|~" => LineOp::Regex,
            "!~" => LineOp::NotRegex,
            "|>" => LineOp::Pattern,
            "!>" => LineOp::NotPattern,
            _ => return None,
        })
    }

    /// Reads all stages that follow, up to an `unwrap`.
    pub(super) fn stages(&mut self, unwrap_allowed: bool) -> Result<Vec<Stage>> {
        let mut stages = Vec::new();
        loop {
            if let Some(op) = self.line_op() {
                stages.push(Stage::LineFilter(self.line_filter(op)?));
                continue;
            }
            let unwraps = unwrap_allowed && matches!(self.peek_second(), TokenKind::Symbol("unwrap"));
            if !self.is("|") || unwraps {
                return Ok(stages);
            }
            self.take();
            stages.push(self.stage()?);
        }
    }

    fn line_filter(&mut self, op: LineOp) -> Result<LineFilter> {
        self.take();
        let mut operands = vec![self.line_operand()?];
        while self.eat("or") {
            operands.push(self.line_operand()?);
        }
        check::line_filter(op, &operands)?;
        Ok(LineFilter { op, operands })
    }

    fn line_operand(&mut self) -> Result<LineOperand> {
        if matches!(self.peek(), TokenKind::Function("ip")) {
            self.take();
            return Ok(LineOperand::Ip(self.string_argument()?));
        }
        Ok(LineOperand::Text(self.string_of(&["STRING", "ip"])?))
    }

    /// Reads the stage after a `|`.
    fn stage(&mut self) -> Result<Stage> {
        let keyword = match self.peek() {
            TokenKind::Identifier(_) | TokenKind::Symbol("(") => return Ok(Stage::LabelFilter(self.label_filter()?)),
            TokenKind::Symbol(keyword) => *keyword,
            _ => return Err(self.unexpected(&[])),
        };
        self.at += 1;
        match keyword {
            "json" => {
                let extractions = self.extractions()?;
                check::json(&extractions)?;
                Ok(Stage::Json(extractions))
            }
            "logfmt" => self.logfmt(),
            "regexp" => {
                let regex = self.string()?;
                check::regexp(&regex)?;
                Ok(Stage::Regexp(regex))
            }
            "pattern" => {
                let pattern = self.string()?;
                check::pattern(&pattern)?;
                Ok(Stage::Pattern(pattern))
            }
            "unpack" => Ok(Stage::Unpack),
            "line_format" => {
                let template = self.string()?;
                check::line_format(&template)?;
                Ok(Stage::LineFormat(template))
            }
            "label_format" => self.label_format(),
            "decolorize" => Ok(Stage::Decolorize),
            "drop" => Ok(Stage::Drop(self.names_or_matchers()?)),
            "keep" => Ok(Stage::Keep(self.names_or_matchers()?)),
            _ => Err(self.unexpected_at(self.at - 1, &[])),
        }
    }

    /// Reads `a, b="path", …`, which may be empty.
    fn extractions(&mut self) -> Result<Vec<Extraction>> {
        let mut extractions = Vec::new();
        if !matches!(self.peek(), TokenKind::Identifier(_)) {
            return Ok(extractions);
        }
        loop {
            let target = self.identifier()?;
            let source = if self.eat("=") { self.string()? } else { target.clone() };
            extractions.push(Extraction { target, source });
            if !self.eat(",") {
                return Ok(extractions);
            }
        }
    }

    fn logfmt(&mut self) -> Result<Stage> {
        let (mut strict, mut keep_empty) = (false, false);
        while let TokenKind::Flag(flag) = self.peek() {
            strict |= *flag == "--strict";
            keep_empty |= *flag == "--keep-empty";
            self.take();
        }
        Ok(Stage::Logfmt { strict, keep_empty, extractions: self.extractions()? })
    }

    fn label_format(&mut self) -> Result<Stage> {
        let mut items = Vec::new();
        loop {
            let target = self.identifier()?;
            self.expect("=")?;
            let source = match self.peek() {
                TokenKind::Identifier(_) => LabelFormatSource::Label(self.identifier()?),
                _ => LabelFormatSource::Template(self.string_of(&["IDENTIFIER", "STRING"])?),
            };
            items.push(LabelFormat { target, source });
            if !self.eat(",") {
                check::label_format(&items)?;
                return Ok(Stage::LabelFormat(items));
            }
        }
    }

    fn names_or_matchers(&mut self) -> Result<Vec<NameOrMatcher>> {
        let mut items = Vec::new();
        loop {
            let name = self.identifier()?;
            items.push(match self.match_op() {
                None => NameOrMatcher::Name(name),
                Some(op) => {
                    self.take();
                    let value = self.string()?;
                    let matcher = Matcher::new(&name, op, &value).map_err(|e| ParseError::tree(e.to_string()))?;
                    NameOrMatcher::Matcher(matcher)
                }
            });
            if !self.eat(",") {
                return Ok(items);
            }
        }
    }
}
