//! `| logfmt`: extracts labels from `key=value` pairs.
//!
//! Every byte up to 0x20 is a blank and separates pairs. A broken pair is skipped up to the next blank; with
//! `--strict`, parsing of the line stops there. A quoted value ends at its quote, so `a="x"b=2` is two pairs.

use std::borrow::Cow;

use memchr::memchr2;

use super::{
    labels::{RowError, RowLabels},
    want::{Finder, Want, push_name, to_text},
};

/// The flags of a `logfmt` stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) strict: bool,
    pub(crate) keep_empty: bool,
}

/// Sets every needed pair as a label.
pub(crate) fn fields(line: &[u8], options: Options, want: &Want, labels: &mut RowLabels<'_>) {
    let mut finder = Finder::new(labels, want);
    let mut pairs = Pairs { line, at: 0 };
    let mut name = String::new();
    while !finder.is_done() {
        match pairs.next() {
            None => return,
            Some(Ok((_, value))) if value.is_empty() && !options.keep_empty => {}
            Some(Ok((key, value))) => {
                name.clear();
                match std::str::from_utf8(key) {
                    Ok(key) => push_name(&mut name, key),
                    Err(_) => push_name(&mut name, &String::from_utf8_lossy(key)),
                }
                finder.found(&name, || value.text());
            }
            Some(Err(error)) if options.strict => return labels.set_error(RowError::Logfmt, Some(&error.to_string())),
            Some(Err(_)) => pairs.skip(),
        }
    }
}

/// Sets the labels of `logfmt a="b", …`. If a key occurs twice, its last value counts.
pub(crate) fn expressions(
    line: &[u8],
    expressions: &[(String, String)],
    options: Options,
    want: &Want,
    labels: &mut RowLabels<'_>,
) {
    let mut found: Vec<Option<Value<'_>>> = vec![None; expressions.len()];
    let mut pairs = Pairs { line, at: 0 };
    let mut error = None;
    while let Some(pair) = pairs.next() {
        match pair {
            Ok((key, value)) => {
                for ((_, source), slot) in expressions.iter().zip(&mut found) {
                    if source.as_bytes() == key {
                        *slot = Some(value.clone());
                    }
                }
            }
            Err(e) if options.strict => {
                error = Some(e.to_string());
                break;
            }
            Err(_) => pairs.skip(),
        }
    }
    let mut finder = Finder::new(labels, want);
    for ((target, _), value) in expressions.iter().zip(found) {
        match value {
            Some(value) => finder.found(target, || value.text()),
            None => finder.absent(target),
        }
    }
    if let Some(error) = error {
        labels.set_error(RowError::Logfmt, Some(&error));
    }
}

/// A value: its raw bytes in the line, or its text with escapes resolved.
#[derive(Clone, Debug)]
struct Value<'l>(Cow<'l, [u8]>);

impl<'l> Value<'l> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn text(self) -> Cow<'l, str> {
        match self.0 {
            Cow::Borrowed(bytes) => to_text(bytes),
            Cow::Owned(bytes) => to_text(&bytes).into_owned().into(),
        }
    }
}

/// Why a pair is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SyntaxError {
    position: usize,
    kind: ErrorKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorKind {
    Unexpected(u8),
    Key,
    OpenQuote,
    Quoted,
}

impl std::fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "logfmt syntax error at pos {} : ", self.position)?;
        match self.kind {
            ErrorKind::Unexpected(byte) => write!(f, "unexpected '{}'", byte as char),
            ErrorKind::Key => f.write_str("invalid key"),
            ErrorKind::OpenQuote => f.write_str("unterminated quoted value"),
            ErrorKind::Quoted => f.write_str("invalid quoted value"),
        }
    }
}

struct Pairs<'l> {
    line: &'l [u8],
    at: usize,
}

impl<'l> Pairs<'l> {
    /// Skips to the next blank.
    fn skip(&mut self) {
        let rest = &self.line[self.at.min(self.line.len())..];
        self.at += rest.iter().position(|b| *b <= b' ').unwrap_or(rest.len());
    }

    fn error<T>(&self, kind: ErrorKind) -> Option<Result<T, SyntaxError>> {
        Some(Err(SyntaxError { position: self.at + 1, kind }))
    }

    fn next(&mut self) -> Option<Result<(&'l [u8], Value<'l>), SyntaxError>> {
        let line = self.line;
        self.at += line.get(self.at..)?.iter().position(|b| *b > b' ')?;
        let start = self.at;
        let end_of = |from: usize| {
            let found = line[from..].iter().position(|b| *b <= b' ' || *b == b'=' || *b == b'"');
            found.map_or(line.len(), |length| from + length)
        };
        self.at = end_of(start);
        let key = &line[start..self.at];
        match line.get(self.at) {
            Some(b'"') => return self.error(ErrorKind::Unexpected(b'"')),
            Some(b'=') if key.is_empty() => return self.error(ErrorKind::Unexpected(b'=')),
            _ => {}
        }
        if !key.is_ascii() && !std::str::from_utf8(key).is_ok_and(|k| !k.contains('\u{fffd}')) {
            return self.error(ErrorKind::Key);
        }
        if line.get(self.at) != Some(&b'=') {
            return Some(Ok((key, Value(Cow::Borrowed(b"")))));
        }
        self.at += 1;
        if line.get(self.at) == Some(&b'"') {
            return self.quoted(key);
        }
        let start = self.at;
        self.at = end_of(start);
        match line.get(self.at) {
            Some(byte @ (b'=' | b'"')) => self.error(ErrorKind::Unexpected(*byte)),
            _ => Some(Ok((key, Value(Cow::Borrowed(&line[start..self.at]))))),
        }
    }

    /// Reads a quoted value.
    fn quoted(&mut self, key: &'l [u8]) -> Option<Result<(&'l [u8], Value<'l>), SyntaxError>> {
        let start = self.at + 1;
        let mut from = start;
        let mut escaped = false;
        let end = loop {
            let rest = self.line.get(from..).unwrap_or_default();
            let Some(found) = memchr2(b'"', b'\\', rest) else {
                self.at = self.line.len();
                return self.error(ErrorKind::OpenQuote);
            };
            if rest[found] == b'"' {
                break from + found;
            }
            escaped = true;
            from += found + 2;
        };
        let raw = &self.line[start..end];
        self.at = end + 1;
        if !escaped {
            return Some(Ok((key, Value(Cow::Borrowed(raw)))));
        }
        match unquote(raw) {
            Some(text) => Some(Ok((key, Value(Cow::Owned(text.into_bytes()))))),
            None => self.error(ErrorKind::Quoted),
        }
    }
}

/// Resolves escapes as in JSON, with three differences: `\'` is an escape too, control characters are invalid, and half
/// of a surrogate pair becomes a replacement character.
fn unquote(raw: &[u8]) -> Option<String> {
    if raw.iter().any(|b| *b < b' ') {
        return None;
    }
    let mut out = String::new();
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.push_str(&String::from_utf8_lossy(&rest[..at]));
        let tail = &rest[at..];
        let length = if tail.get(1) == Some(&b'u') { 6 } else { 2 };
        if tail.get(1) == Some(&b'\'') {
            out.push('\'');
            rest = &tail[2..];
            continue;
        }
        if let Some(pair) =
            tail.get(..12).filter(|_| length == 6).and_then(super::json::unescape).filter(|t| t.chars().count() == 1)
        {
            out.push_str(&pair);
            rest = &tail[12..];
            continue;
        }
        let escape = tail.get(..length)?;
        match super::json::unescape(escape) {
            Some(text) => out.push_str(&text),
            None if length == 6 && escape[2..].iter().all(u8::is_ascii_hexdigit) => out.push('\u{fffd}'),
            None => return None,
        }
        rest = &tail[length..];
    }
    out.push_str(&String::from_utf8_lossy(rest));
    Some(out)
}

#[cfg(test)]
mod tests {
    use model::Labels;

    use super::*;

    const LAX: Options = Options { strict: false, keep_empty: false };
    const STRICT: Options = Options { strict: true, keep_empty: false };
    const KEEP: Options = Options { strict: false, keep_empty: true };

    fn run(action: impl FnOnce(&mut RowLabels<'_>)) -> String {
        let stream = Labels::from_pairs([("zz", "s")]);
        let mut labels = RowLabels::new(&stream, &[]);
        labels.begin(0);
        action(&mut labels);
        labels.to_labels().to_string()
    }

    #[test]
    fn plain() {
        let check = |options: Options, line: &[u8], expected: &str| {
            let found = run(|labels| fields(line, options, &Want::All, labels));
            let sep = if expected.is_empty() { "" } else { ", " };
            assert_eq!(found, format!("{{{expected}{sep}zz=\"s\"}}"), "{}", line.escape_ascii());
        };
        check(LAX, b"a=1 b=\"x y\" c", r#"a="1", b="x y""#);
        check(LAX, b"a=1 a=2", r#"a="1""#);
        check(LAX, b"a=b=c d=1", r#"d="1""#);
        check(LAX, b"a=1,b=2", "");
        check(LAX, b"a = 1", "");
        check(LAX, b"a=1 b=\"x c=2", r#"a="1""#);
        check(LAX, b"a=\"x\"b=2", r#"a="x", b="2""#);
        check(LAX, b"a=1\tb=2\x01c=3", r#"a="1", b="2", c="3""#);
        check(LAX, "a=1\u{a0}b".as_bytes(), "a=\"1\u{a0}b\"");
        check(LAX, b"a= b=\"\" c", "");
        check(KEEP, b"a= b=\"\" c", r#"a="", b="", c="""#);
        check(LAX, b"a=\"x\\n\\u00e9\\ud83d\\ude00\\\"\" 1b.c=2", r#"_1b_c="2", a="x\né😀\"""#);
        check(LAX, b"a=\xffb", r#"a=" b""#);
        check(LAX, b"\xff=1 b=2", r#"b="2""#);
        check(
            STRICT,
            b"a=1 b c=x\"y d=2",
            r#"__error__="LogfmtParserErr", __error_details__="logfmt syntax error at pos 10 : unexpected '\"'", a="1""#,
        );
        check(
            STRICT,
            b"a=1 =2",
            r#"__error__="LogfmtParserErr", __error_details__="logfmt syntax error at pos 5 : unexpected '='", a="1""#,
        );
    }

    #[test]
    fn with_expressions() {
        let check = |options: Options, line: &str, list: &[(&str, &str)], expected: &str| {
            let list: Vec<_> = list.iter().map(|(t, s)| ((*t).to_owned(), (*s).to_owned())).collect();
            assert_eq!(
                run(|labels| expressions(line.as_bytes(), &list, options, &Want::All, labels)),
                expected,
                "{line}"
            );
        };
        check(
            LAX,
            "a=1 a=2 b=3",
            &[("a", "a"), ("x", "b"), ("y", "b"), ("n", "none")],
            r#"{a="2", n="", x="3", y="3", zz="s"}"#,
        );
        check(LAX, "a=1", &[("zz", "a")], r#"{zz="s", zz_extracted="1"}"#);
        check(LAX, "a=1", &[("zz", "none")], r#"{zz="s"}"#);
        check(
            STRICT,
            "a=1 =",
            &[("a", "a")],
            r#"{__error__="LogfmtParserErr", __error_details__="logfmt syntax error at pos 5 : unexpected '='", a="1", zz="s"}"#,
        );
    }
}
