//! The lexer: turns text into tokens, by the rules of Go's `text/scanner`, which LogQL inherits.

use std::time::Duration;

use model::{EscapeError, read_go_escape};

use crate::{duration, error::ParseError, size};

/// Maximum length of a query in bytes.
pub(crate) const QUERY_BYTES_MAX: usize = 131_072;

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TokenKind {
    /// The end of the text.
    End,
    /// A name that is not a keyword.
    Identifier(String),
    /// A string without its quotes and escapes.
    Text(String),
    /// A number as written.
    Number(String),
    /// Nanoseconds.
    Duration(i64),
    /// A byte size.
    Bytes(u64),
    /// `[5m]`
    Range(Duration),
    /// `--strict` or `--keep-empty`.
    Flag(&'static str),
    /// The name of a called function, in lower case.
    Function(&'static str),
    /// A keyword (in lower case) or punctuation.
    Symbol(&'static str),
    /// A character that no token starts with.
    Unknown,
    /// A lexical error. Only the end follows.
    Invalid(ParseError),
}

/// A token and its position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    /// Position in the text, in bytes.
    pub(crate) at: usize,
    /// Whether Loki loses the line of this token, as it does for tokens that it reads past their first part.
    pub(crate) line_lost: bool,
}

const KEYWORDS: [&str; 22] = [
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
];

const FUNCTIONS: [&str; 33] = [
    "rate",
    "rate_counter",
    "count_over_time",
    "bytes_rate",
    "bytes_over_time",
    "avg_over_time",
    "sum_over_time",
    "min_over_time",
    "max_over_time",
    "stdvar_over_time",
    "stddev_over_time",
    "quantile_over_time",
    "first_over_time",
    "last_over_time",
    "absent_over_time",
    "vector",
    "sum",
    "avg",
    "max",
    "min",
    "count",
    "stddev",
    "stdvar",
    "bottomk",
    "topk",
    "sort",
    "sort_desc",
    "approx_topk",
    "label_replace",
    "bytes",
    "duration",
    "duration_seconds",
    "ip",
];

const PUNCTUATION: [&str; 28] = [
    // Longer symbols come first, because the first match wins.
    "!=", "=~", "!~", "!>", "|=", "|~", "|>", ">=", "<=", "==", ",", ".", "{", "}", "=", ">", "<", "|", "(", ")", "]",
    "+", "-", "*", "/", "%", "^", "@",
];

/// Splits a text into tokens, the last being [`TokenKind::End`]. At a lexical error, adds [`TokenKind::Invalid`] and
/// stops. It does not fail, because the parser may reject an earlier token first.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        let (start, read) = match lexer.skip_blanks() {
            Ok(()) => (lexer.at, lexer.token()),
            Err(problem) => (problem.at, Err(problem)),
        };
        match read {
            Ok((kind, line_lost)) => {
                let end = kind == TokenKind::End;
                tokens.push(Token { kind, at: start, line_lost });
                if end {
                    return tokens;
                }
            }
            Err(problem) => {
                let (line, column) = position(text, problem.at);
                let line = if problem.line_lost { 0 } else { line };
                let kind = TokenKind::Invalid(ParseError::at(line, column, problem.message));
                tokens.push(Token { kind, at: problem.at, line_lost: problem.line_lost });
                tokens.push(Token { kind: TokenKind::End, at: text.len(), line_lost: false });
                return tokens;
            }
        }
    }
}

/// Returns line and column in characters, both from 1, or (0, 0) for an empty text.
pub(crate) fn position(text: &str, at: usize) -> (usize, usize) {
    if text.is_empty() {
        return (0, 0);
    }
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

struct Problem {
    at: usize,
    line_lost: bool,
    message: String,
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn byte(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// Skips blanks and comments.
    fn skip_blanks(&mut self) -> Result<(), Problem> {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
            let rest = self.rest();
            if rest.starts_with('#') || rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let problem = || Problem { at: self.at, line_lost: false, message: "comment not terminated".into() };
                let end = comment.find("*/").ok_or_else(problem)?;
                self.at += end + 4;
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self) -> Result<(TokenKind, bool), Problem> {
        let start = self.at;
        let problem = |message: &str| Problem { at: start, line_lost: false, message: message.to_owned() };
        let Some(first) = self.peek() else { return Ok((TokenKind::End, false)) };
        match first {
            '"' => Ok((TokenKind::Text(self.string().map_err(problem)?), false)),
            '`' => {
                let rest = &self.rest()[1..];
                let end = rest.find('`').ok_or_else(|| problem("literal not terminated"))?;
                self.at += end + 2;
                // As in Go, carriage returns are not part of a raw string.
                Ok((TokenKind::Text(rest[..end].replace('\r', "")), false))
            }
            '\'' => Err(problem(self.single_quoted())),
            '[' => self.range(),
            '\0' => Err(problem("invalid character NUL")),
            '0'..='9' => self.number(),
            '.' if self.rest().as_bytes().get(1).is_some_and(u8::is_ascii_digit) => self.number(),
            '-' if self.rest().starts_with("--") && self.flag().is_some() => {
                let flag = self.flag().expect("just seen");
                self.at += flag.len();
                Ok((TokenKind::Flag(flag), true))
            }
            '-' if self.rest().as_bytes().get(1).is_some_and(u8::is_ascii_digit) => match self.duration(start + 1) {
                Some(nanos) => Ok((TokenKind::Duration(-nanos), true)),
                None => Ok(self.punctuation()),
            },
            c if c == '_' || c.is_alphabetic() => self.word().map_err(|m| problem(&m)),
            _ => Ok(self.punctuation()),
        }
    }

    fn punctuation(&mut self) -> (TokenKind, bool) {
        let rest = self.rest();
        match PUNCTUATION.iter().find(|p| rest.starts_with(**p)) {
            Some(&"@") | None => {
                self.at += self.peek().map_or(0, char::len_utf8);
                (TokenKind::Unknown, false)
            }
            Some(symbol) => {
                self.at += symbol.len();
                (TokenKind::Symbol(symbol), symbol.len() > 1)
            }
        }
    }

    fn word(&mut self) -> Result<(TokenKind, bool), String> {
        let rest = self.rest();
        let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
        let word = &rest[..end];
        if !word.is_ascii() {
            return Err(format!("invalid label name {word:?}: only ASCII letters, digits and _ are allowed"));
        }
        self.at += end;
        if let Some(keyword) = KEYWORDS.iter().find(|k| k.eq_ignore_ascii_case(word)) {
            return Ok((TokenKind::Symbol(keyword), false));
        }
        let function = FUNCTIONS.iter().find(|f| f.eq_ignore_ascii_case(word));
        Ok(match function.filter(|_| is_call(self.rest())) {
            Some(function) => (TokenKind::Function(function), false),
            None => (TokenKind::Identifier(word.to_owned()), false),
        })
    }

    /// Returns `--strict` or `--keep-empty`, if that is the next whole word.
    fn flag(&self) -> Option<&'static str> {
        let rest = self.rest();
        let end = rest.find(|c: char| c != '-' && c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
        ["--strict", "--keep-empty"].into_iter().find(|f| *f == &rest[..end])
    }

    /// `[…]`
    fn range(&mut self) -> Result<(TokenKind, bool), Problem> {
        let start = self.at;
        let problem = |message: String| Problem { at: start, line_lost: true, message };
        let rest = &self.rest()[1..];
        let end = rest.find(']').ok_or_else(|| problem("missing closing ']' in duration".to_owned()))?;
        let nanos = duration::parse_prometheus(&rest[..end]).map_err(problem)?;
        self.at += end + 2;
        Ok((TokenKind::Range(Duration::from_nanos(nanos.unsigned_abs())), true))
    }

    /// Reads a number, with its unit if it is a duration or a size.
    fn number(&mut self) -> Result<(TokenKind, bool), Problem> {
        let start = self.at;
        self.digits_of_number().map_err(|message| Problem { at: start, line_lost: false, message })?;
        let number_end = self.at;
        if let Some(nanos) = self.duration(start) {
            return Ok((TokenKind::Duration(nanos), true));
        }
        self.at = number_end;
        let unit = |c: char| c.is_numeric() || "BikKMGTP.".contains(c);
        let rest = self.rest();
        let end = rest.find(|c| !unit(c)).unwrap_or(rest.len());
        if end > 0
            && let Some(bytes) = size::parse(&self.text[start..number_end + end])
        {
            self.at += end;
            return Ok((TokenKind::Bytes(bytes), true));
        }
        Ok((TokenKind::Number(self.text[start..number_end].to_owned()), false))
    }

    /// Reads the duration whose text starts at `start`; its number may have been read already. Advances only if there
    /// is a duration.
    fn duration(&mut self, start: usize) -> Option<i64> {
        let from = self.at.max(start);
        let part = |c: char| c.is_numeric() || "nu\u{b5}mshdwy.".contains(c);
        let rest = &self.text[from..];
        let end = from + rest.find(|c| !part(c)).unwrap_or(rest.len());
        let text = &self.text[start..end];
        if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return None;
        }
        // A number with an exponent or a prefix does not start a duration. Both parsers reject it.
        let nanos = duration::parse_prometheus(text).or_else(|_| duration::parse_go(text)).ok()?;
        if end == from {
            return None;
        }
        self.at = end;
        Some(nanos)
    }

    /// Reads a number as Go's scanner does, with the same error texts.
    fn digits_of_number(&mut self) -> Result<(), String> {
        let start = self.at;
        let (mut base, mut name) = (10, "decimal literal");
        let mut prefixed = false;
        if self.byte() == b'0' {
            let (b, n, skip) = match self.text.as_bytes().get(self.at + 1).map_or(0, u8::to_ascii_lowercase) {
                b'x' => (16, "hexadecimal literal", 2),
                b'o' => (8, "octal literal", 2),
                b'b' => (2, "binary literal", 2),
                _ => (8, "octal literal", 0),
            };
            (base, name, prefixed) = (b, n, skip > 0);
            self.at += skip;
        }
        let whole_start = self.at;
        self.digit_run(base);
        let mut digits = self.at > whole_start;
        let mut float = false;
        if self.byte() == b'.' {
            float = true;
            if prefixed && base != 16 {
                return Err(format!("invalid radix point in {name}"));
            }
            self.at += 1;
            let fraction_start = self.at;
            self.digit_run(base);
            digits |= self.at > fraction_start;
        }
        if !digits {
            return Err(format!("{name} has no digits"));
        }
        let exponent = self.byte().to_ascii_lowercase();
        if exponent == b'e' && base != 16 || exponent == b'p' {
            let is_hex = prefixed && base == 16;
            if exponent == b'e' && prefixed {
                return Err(format!("'{}' exponent requires decimal mantissa", char::from(self.byte())));
            }
            if exponent == b'p' && !is_hex {
                return Err(format!("'{}' exponent requires hexadecimal mantissa", char::from(self.byte())));
            }
            self.at += 1;
            if matches!(self.byte(), b'+' | b'-') {
                self.at += 1;
            }
            let exponent_start = self.at;
            self.digit_run(10);
            if self.at == exponent_start {
                return Err("exponent has no digits".to_owned());
            }
            float = true;
        } else if float && prefixed && base == 16 {
            return Err("hexadecimal mantissa requires a 'p' exponent".to_owned());
        }
        let text = &self.text[start..self.at];
        if !float && base < 10 {
            let limit = b'0' + base;
            if let Some(bad) =
                self.text.as_bytes()[whole_start..self.at].iter().find(|b| b.is_ascii_digit() && **b >= limit)
            {
                return Err(format!("invalid digit '{}' in {name}", char::from(*bad)));
            }
        }
        let misplaced = text.contains("__") || text.ends_with('_') || text.contains("_.") || text.contains("._");
        if misplaced {
            return Err("'_' must separate successive digits".to_owned());
        }
        Ok(())
    }

    fn digit_run(&mut self, base: u8) {
        let rest = self.rest().as_bytes();
        let belongs = |b: &u8| *b == b'_' || if base == 16 { b.is_ascii_hexdigit() } else { b.is_ascii_digit() };
        self.at += rest.iter().position(|b| !belongs(b)).unwrap_or(rest.len());
    }

    /// Reads `"…"` with the escapes of Go.
    fn string(&mut self) -> Result<String, &'static str> {
        let mut out = Vec::new();
        self.at += 1;
        loop {
            let rest = self.rest();
            let end = rest.find(['"', '\\', '\n']).ok_or("literal not terminated")?;
            out.extend_from_slice(&rest.as_bytes()[..end]);
            self.at += end + 1;
            match rest.as_bytes()[end] {
                b'"' => break,
                b'\n' => return Err("literal not terminated"),
                _ => self.escape(&mut out)?,
            }
        }
        String::from_utf8(out).map_err(|_| "invalid UTF-8 encoding")
    }

    /// Reads the escape after a backslash.
    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        self.at += read_go_escape(self.rest(), out).map_err(|error| match error {
            EscapeError::End => "literal not terminated",
            EscapeError::Unknown | EscapeError::Digits => "invalid char escape",
            EscapeError::Value => "invalid syntax",
        })?;
        Ok(())
    }

    /// Returns the error of Go's scanner for a single quote. LogQL has no single-quoted literals.
    fn single_quoted(&self) -> &'static str {
        let rest = &self.rest()[1..];
        let end = rest.find(['\'', '\n']).filter(|&i| rest.as_bytes()[i] == b'\'');
        match end {
            None => "literal not terminated",
            Some(end) if rest[..end].chars().count() == 1 => "syntax error: single quotes do not delimit strings",
            Some(_) => "invalid char literal",
        }
    }
}

/// Whether the text after a function's name makes it a call: `(`, or a grouping and then `(`.
fn is_call(rest: &str) -> bool {
    let rest = rest.trim_start();
    if rest.starts_with('(') {
        return true;
    }
    let word_end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
    let word = &rest[..word_end];
    let grouping = word.eq_ignore_ascii_case("by") || word.eq_ignore_ascii_case("without");
    grouping && rest[word_end..].trim_start().starts_with('(')
}
