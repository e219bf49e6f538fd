//! The parser: turns tokens into a tree.
//!
//! It is a handwritten recursive descent parser. Where the error of Loki's generated parser lists the expected tokens,
//! [`Parser::expect`] and similar methods give the same list. If there are more than four alternatives, Loki lists
//! none ([`Parser::unexpected`] with an empty list).
//!
//! Recursion follows the nesting of the text, which is bounded by [`NESTING_MAX`]. Chains such as `a or b or c` are
//! read by loops. The depth of their trees is bounded too, because code that walks a tree is recursive.

mod filter;
mod log;
mod metric;
#[cfg(test)]
mod tests;

use model::{MatchOp, Matcher};

use crate::{
    ast::{Expr, LogExpr},
    check,
    error::ParseError,
    lexer::{self, QUERY_BYTES_MAX, Token, TokenKind},
};

/// The longest printed text: every byte of a client's text may become an escape sequence such as `\u0001`.
const PRINTED_BYTES_MAX: usize = 8 * QUERY_BYTES_MAX;

/// Maximum nesting depth of parentheses and calls.
const NESTING_MAX: usize = 128;

/// Parses a query and runs the static checks.
///
/// # Errors
/// If the text is not a query, or fails a static check.
pub fn parse(text: &str) -> Result<Expr, ParseError> {
    checked(Parser::new(text)?)
}

/// Parses a text that was printed from a tree. Printing escapes characters that a client may write raw, so the text may
/// be longer than a client's text may be.
pub(crate) fn parse_printed(text: &str) -> Result<Expr, ParseError> {
    checked(Parser::with_limit(text, PRINTED_BYTES_MAX)?)
}

fn checked(parser: Parser<'_>) -> Result<Expr, ParseError> {
    let expr = parser.query()?;
    check::selectors(&expr)?;
    Ok(expr)
}

/// Parses a log query, which selects entries.
///
/// # Errors
/// As [`parse`]; also if the query is a metric query.
pub fn parse_log(text: &str) -> Result<LogExpr, ParseError> {
    match parse(text)? {
        Expr::Log(log) => Ok(log),
        Expr::Metric(_) => Err(ParseError::bare("only log selector is supported")),
    }
}

/// Parses a selector. Does not check that it has a matcher that excludes the empty text: see
/// [`crate::reject_empty_compatible`].
///
/// # Errors
/// If the text is not a selector, or is followed by a pipeline.
pub fn parse_matchers(text: &str) -> Result<Vec<Matcher>, ParseError> {
    match Parser::new(text)?.query()? {
        Expr::Log(LogExpr { matchers, stages }) if stages.is_empty() => Ok(matchers),
        _ => Err(ParseError::bare("only label matchers are supported")),
    }
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

/// A tree and its depth.
struct Deep<T> {
    tree: T,
    depth: usize,
}

impl<T> Deep<T> {
    fn leaf(tree: T) -> Self {
        Self { tree, depth: 1 }
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    nesting: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self> {
        Self::with_limit(text, QUERY_BYTES_MAX)
    }

    fn with_limit(text: &'a str, bytes_max: usize) -> Result<Self> {
        if text.len() > bytes_max {
            let message = format!("input size too long ({} > {bytes_max})", text.len());
            return Err(ParseError::tree(message));
        }
        Ok(Self { text, tokens: lexer::tokens(text), at: 0, nesting: 0 })
    }

    fn query(mut self) -> Result<Expr> {
        let expr = self.expr()?.tree;
        match self.peek() {
            TokenKind::End => Ok(expr),
            _ => Err(self.unexpected(&[])),
        }
    }

    /// Returns the next token. The list ends with [`TokenKind::End`], which is never taken.
    fn peek(&self) -> &TokenKind {
        &self.tokens[self.at].kind
    }

    fn peek_second(&self) -> &TokenKind {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    /// Takes the next token.
    fn take(&mut self) -> TokenKind {
        let token = &mut self.tokens[self.at];
        if token.kind == TokenKind::End {
            return TokenKind::End;
        }
        self.at += 1;
        std::mem::replace(&mut token.kind, TokenKind::Unknown)
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek(), TokenKind::Symbol(s) if *s == symbol)
    }

    /// Takes a symbol if it is next.
    fn eat(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        self.at += usize::from(found);
        found
    }

    /// Takes a symbol. If another token is next, returns an error that lists `expected`.
    fn expect_of(&mut self, symbol: &str, expected: &[&str]) -> Result<()> {
        if self.eat(symbol) { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn expect(&mut self, symbol: &str) -> Result<()> {
        self.expect_of(symbol, &[symbol])
    }

    fn identifier(&mut self) -> Result<String> {
        self.identifier_of(&["IDENTIFIER"])
    }

    fn identifier_of(&mut self, expected: &[&str]) -> Result<String> {
        match self.peek() {
            TokenKind::Identifier(_) => match self.take() {
                TokenKind::Identifier(name) => Ok(name),
                _ => Err(self.unexpected(expected)),
            },
            _ => Err(self.unexpected(expected)),
        }
    }

    fn string(&mut self) -> Result<String> {
        self.string_of(&["STRING"])
    }

    fn string_of(&mut self, expected: &[&str]) -> Result<String> {
        match self.peek() {
            TokenKind::Text(_) => match self.take() {
                TokenKind::Text(text) => Ok(text),
                _ => Err(self.unexpected(expected)),
            },
            _ => Err(self.unexpected(expected)),
        }
    }

    /// A number as written.
    fn number(&mut self) -> Result<String> {
        match self.peek() {
            TokenKind::Number(_) => match self.take() {
                TokenKind::Number(text) => Ok(text),
                _ => Err(self.unexpected(&["NUMBER"])),
            },
            _ => Err(self.unexpected(&["NUMBER"])),
        }
    }

    /// `first, second, …` up to a closing parenthesis; the opening one has been taken.
    fn names_to_parenthesis(&mut self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        if self.eat(")") {
            return Ok(names);
        }
        names.push(self.identifier_of(&["IDENTIFIER", ")"])?);
        while !self.eat(")") {
            self.expect_of(",", &[",", ")"])?;
            names.push(self.identifier()?);
        }
        Ok(names)
    }

    /// Reads the `("…")` of a function with one text argument. Its name has been taken.
    fn string_argument(&mut self) -> Result<String> {
        self.expect("(")?;
        let text = self.string()?;
        self.expect(")")?;
        Ok(text)
    }

    /// Returns the error for an unexpected next token.
    fn unexpected(&self, expected: &[&str]) -> ParseError {
        self.unexpected_at(self.at, expected)
    }

    fn unexpected_at(&self, index: usize, expected: &[&str]) -> ParseError {
        let token = &self.tokens[index];
        let name = match &token.kind {
            TokenKind::Invalid(error) => return error.clone(),
            TokenKind::End => "$end".to_owned(),
            TokenKind::Identifier(_) | TokenKind::Unknown => "IDENTIFIER".to_owned(),
            TokenKind::Text(_) => "STRING".to_owned(),
            TokenKind::Number(_) => "NUMBER".to_owned(),
            TokenKind::Duration(_) => "DURATION".to_owned(),
            TokenKind::Bytes(_) => "BYTES".to_owned(),
            TokenKind::Range(_) => "RANGE".to_owned(),
            TokenKind::Flag(_) => "PARSER_FLAG".to_owned(),
            TokenKind::Function("ip") => "ip".to_owned(),
            TokenKind::Function(name @ ("bytes" | "duration" | "duration_seconds")) => {
                format!("{}_CONV", name.to_ascii_uppercase())
            }
            TokenKind::Function(name) => name.to_ascii_uppercase(),
            TokenKind::Symbol(symbol) => (*symbol).to_owned(),
        };
        let mut message = format!("syntax error: unexpected {name}");
        if (1..=4).contains(&expected.len()) {
            message.push_str(", expecting ");
            message.push_str(&expected.join(" or "));
        }
        let (line, column) = lexer::position(self.text, token.at);
        ParseError::at(if token.line_lost { 0 } else { line }, column, message)
    }

    /// Runs `inner` one level deeper.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.nesting >= NESTING_MAX {
            let (line, column) = lexer::position(self.text, self.tokens[self.at].at);
            let message = format!("the query is nested too deeply: more than {NESTING_MAX} levels");
            return Err(ParseError::at(line, column, message));
        }
        self.nesting += 1;
        let result = inner(self);
        self.nesting -= 1;
        result
    }

    /// `= != =~ !~` of matchers.
    fn match_op(&self) -> Option<MatchOp> {
        match self.peek() {
            TokenKind::Symbol("=") => Some(MatchOp::Equal),
            TokenKind::Symbol("!=") => Some(MatchOp::NotEqual),
            TokenKind::Symbol("=~") => Some(MatchOp::Regex),
            TokenKind::Symbol("!~") => Some(MatchOp::NotRegex),
            _ => None,
        }
    }
}
