//! `| json`: extracts labels from a line that is a JSON object.
//!
//! Loki's JSON parser is lenient, and clients can observe it: text after the closing brace is ignored, `01` and `1x`
//! are numbers, raw control characters are accepted, a bad escape makes the value empty, and a broken line yields the
//! pairs before the break. No JSON library is that lenient, so this module has its own scanner. It builds no tree,
//! skips unneeded values by looking only for quotes and brackets, and stops once it has found every needed label.

use std::borrow::Cow;

use memchr::{memchr2, memchr3};

use super::{
    labels::{RowError, RowLabels},
    want::{Finder, Want, push_name, to_text},
};
use crate::jsonpath::{JsonPath, PathStep};

const OBJECT: &str = "Value looks like object, but can't find closing '}' symbol";
const ARRAY: &str = "Value is array, but can't find closing ']' symbol";
const STRING: &str = "Value is string, but can't find closing '\"' symbol";
const MALFORMED: &str = "Malformed JSON error";
const UNKNOWN: &str = "Unknown value type";
const ESCAPE: &str = "Encountered an invalid escape sequence in a string";

/// The raw text of a value in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'l> {
    /// A string, without its quotes.
    String(&'l [u8]),
    /// A number, `true` or `false`.
    Plain(&'l [u8]),
    Null,
    Object(&'l [u8]),
    Array(&'l [u8]),
}

/// Returns the members of the object `line` whose values are strings, in order.
pub(crate) fn string_members(line: &[u8]) -> Result<Vec<(String, String)>, &'static str> {
    let mut members = Members::new(line)?;
    let mut found = Vec::new();
    while let Some((key, value)) = members.next()? {
        if let Value::String(raw) = value {
            found.push((String::from_utf8_lossy(&key).into_owned(), text_of(raw).into_owned()));
        }
    }
    Ok(found)
}

/// Maximum nesting depth. Objects nested deeper are ignored.
const DEPTH_MAX: usize = 128;

/// Sets every needed field of the line as a label.
pub(crate) fn fields(line: &[u8], want: &Want, labels: &mut RowLabels<'_>) {
    let mut finder = Finder::new(labels, want);
    if finder.is_done() {
        return;
    }
    let mut name = String::new();
    if let Err(details) = object_fields(line, &mut name, &mut finder, 0) {
        labels.set_error(RowError::Json, Some(details));
    }
}

fn object_fields(
    data: &[u8],
    name: &mut String,
    finder: &mut Finder<'_, '_>,
    depth: usize,
) -> Result<(), &'static str> {
    let mut members = Members::new(data)?;
    while !finder.is_done() {
        let Some((key, value)) = members.next()? else { return Ok(()) };
        let length = name.len();
        match std::str::from_utf8(&key) {
            Ok(key) => push_name(name, key),
            Err(_) => push_name(name, &String::from_utf8_lossy(&key)),
        }
        match value {
            Value::Object(inner) if depth < DEPTH_MAX && finder.wants_below(name) => {
                object_fields(inner, name, finder, depth + 1)?;
            }
            Value::Object(_) | Value::Array(_) | Value::Null => {}
            Value::String(raw) => finder.found(name, || text_of(raw)),
            Value::Plain(raw) => finder.found(name, || to_text(raw)),
        }
        name.truncate(length);
    }
    Ok(())
}

/// Sets the labels of `json a="x.y", …`.
pub(crate) fn paths(line: &[u8], paths: &[(String, JsonPath)], want: &Want, labels: &mut RowLabels<'_>) {
    match line.first() {
        None => return,
        Some(b'{' | b'[' | b'"') => {}
        Some(_) => return labels.set_error(RowError::Json, None),
    }
    let mut finder = Finder::new(labels, want);
    for (target, path) in paths {
        match find(line, path.steps()) {
            Some(Value::String(raw)) => finder.found(target, || text_of(raw)),
            Some(Value::Plain(raw) | Value::Object(raw) | Value::Array(raw)) => finder.found(target, || to_text(raw)),
            Some(Value::Null) | None => finder.absent(target),
        }
    }
}

/// Returns the value at a path, or `None` if the path does not exist or the line is broken before it.
fn find<'l>(data: &'l [u8], steps: &[PathStep]) -> Option<Value<'l>> {
    let mut data = data;
    for (i, step) in steps.iter().enumerate() {
        let value = match step {
            PathStep::Field(wanted) => {
                let mut members = Members::new(data).ok()?;
                loop {
                    // A value truncated by the end of the line is still accepted if the path ends there.
                    let (key, value) = members.next().ok()??;
                    if *key == *wanted.as_bytes() {
                        break value;
                    }
                }
            }
            PathStep::Index(wanted) => element(data, *wanted)?,
        };
        if i + 1 == steps.len() {
            return Some(value);
        }
        data = match value {
            Value::Object(inner) | Value::Array(inner) => inner,
            _ => return None,
        };
    }
    None
}

/// Returns element `wanted` of an array.
fn element(data: &[u8], wanted: usize) -> Option<Value<'_>> {
    let mut at = skip_blanks(data, 0);
    if data.get(at) != Some(&b'[') {
        return None;
    }
    at += 1;
    for index in 0.. {
        if data.get(skip_blanks(data, at)) == Some(&b']') {
            return None;
        }
        let (value, end) = value(data, at).ok()?;
        if index == wanted {
            return Some(value);
        }
        at = skip_blanks(data, end);
        if data.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
    None
}

/// A key without its escapes, and its value.
type Member<'l> = (Cow<'l, [u8]>, Value<'l>);

/// Iterates over the members of an object.
struct Members<'l> {
    data: &'l [u8],
    at: usize,
    first: bool,
}

impl<'l> Members<'l> {
    fn new(data: &'l [u8]) -> Result<Self, &'static str> {
        let at = skip_blanks(data, 0);
        if data.get(at) != Some(&b'{') {
            return Err(OBJECT);
        }
        Ok(Self { data, at: at + 1, first: true })
    }

    /// Returns the next member's key and value, or `None` after the last one.
    fn next(&mut self) -> Result<Option<Member<'l>>, &'static str> {
        let data = self.data;
        let mut at = skip_blanks(data, self.at);
        if !self.first {
            match data.get(at) {
                Some(b',') => at = skip_blanks(data, at + 1),
                Some(b'}') => return Ok(None),
                Some(_) => return Err(OBJECT),
                None => return Err(ARRAY),
            }
        }
        match data.get(at) {
            Some(b'"') => at += 1,
            Some(b'}') => return Ok(None),
            Some(_) => return Err(OBJECT),
            None => return Err(if self.first { MALFORMED } else { ARRAY }),
        }
        self.first = false;
        let (end, escaped) = string_end(data, at).ok_or(MALFORMED)?;
        let raw = &data[at..end];
        let key =
            if escaped { unescape(raw).map(|t| Cow::Owned(t.into_bytes())).ok_or(ESCAPE)? } else { Cow::Borrowed(raw) };
        at = skip_blanks(data, end + 1);
        if data.get(at) != Some(&b':') {
            return Err(MALFORMED);
        }
        let (value, end) = value(data, at + 1)?;
        self.at = end;
        Ok(Some((key, value)))
    }
}

/// Reads the value at `at`, after any blanks. Returns it and the position after it.
fn value(data: &[u8], at: usize) -> Result<(Value<'_>, usize), &'static str> {
    let at = skip_blanks(data, at);
    match data.get(at) {
        None => Err(MALFORMED),
        Some(b'"') => {
            let (end, _) = string_end(data, at + 1).ok_or(STRING)?;
            Ok((Value::String(&data[at + 1..end]), end + 1))
        }
        Some(b'{') => block_end(data, at, b'{', b'}').map(|end| (Value::Object(&data[at..end]), end)).ok_or(OBJECT),
        Some(b'[') => block_end(data, at, b'[', b']').map(|end| (Value::Array(&data[at..end]), end)).ok_or(ARRAY),
        Some(first) => {
            let is_end = |b: &u8| matches!(b, b' ' | b'\n' | b'\r' | b'\t' | b',' | b'}' | b']');
            let end = data[at..].iter().position(is_end).map_or(data.len(), |length| at + length);
            let raw = &data[at..end];
            let value = match (first, raw) {
                (_, b"true" | b"false") => Value::Plain(raw),
                (_, b"null") => Value::Null,
                (b'0'..=b'9' | b'-', _) => Value::Plain(raw),
                _ => return Err(UNKNOWN),
            };
            Ok((value, end))
        }
    }
}

fn skip_blanks(data: &[u8], mut at: usize) -> usize {
    while matches!(data.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// Returns the position of the closing quote of the string whose text starts at `at`, and whether it has escapes.
fn string_end(data: &[u8], at: usize) -> Option<(usize, bool)> {
    let mut from = at;
    let mut escaped = false;
    loop {
        let found = from + memchr2(b'"', b'\\', data.get(from..)?)?;
        if data[found] == b'"' {
            return Some((found, escaped));
        }
        escaped = true;
        from = found + 2;
    }
}

/// Returns the position after the bracket that closes the one at `at`. Ignores other kinds of brackets.
fn block_end(data: &[u8], at: usize, open: u8, close: u8) -> Option<usize> {
    let mut level = 0usize;
    let mut from = at;
    loop {
        let found = from + memchr3(b'"', open, close, data.get(from..)?)?;
        from = found + 1;
        if data[found] == b'"' {
            from = string_end(data, from)?.0 + 1;
        } else if data[found] == open {
            level += 1;
        } else {
            level -= 1;
            if level == 0 {
                return Some(from);
            }
        }
    }
}

/// Returns the text of a string, or the empty text if it has an invalid escape.
fn text_of(raw: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', raw).is_none() {
        return to_text(raw);
    }
    match unescape(raw) {
        Some(text) if text.contains('\u{fffd}') => text.replace('\u{fffd}', " ").into(),
        Some(text) => text.into(),
        None => "".into(),
    }
}

/// Resolves the escapes of a string. Returns `None` if one is invalid or is half of a surrogate pair.
pub(crate) fn unescape(raw: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let simple = match rest.get(at + 1)? {
            b'"' => b'"',
            b'\\' => b'\\',
            b'/' => b'/',
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (c, used) = code_point(&rest[at..])?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[at + used..];
                continue;
            }
            _ => return None,
        };
        out.push(simple);
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    Some(match String::from_utf8(out) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// Reads `\uXXXX`, or a surrogate pair of two. Returns the character and the number of bytes read.
fn code_point(text: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| -> Option<u32> {
        let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |code, d| Some(code * 16 + (*d as char).to_digit(16)?))
    };
    let high = unit(0)?;
    if !(0xd800..0xdc00).contains(&high) {
        return char::from_u32(high).map(|c| (c, 6));
    }
    let low = unit(6).filter(|low| (0xdc00..0xe000).contains(low))?;
    char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)).map(|c| (c, 12))
}

#[cfg(test)]
mod tests {
    use model::Labels;

    use super::*;

    fn run(line: &[u8], want: &Want) -> String {
        let stream = Labels::from_pairs([("app", "a")]);
        let mut labels = RowLabels::new(&stream, &[]);
        labels.begin(0);
        fields(line, want, &mut labels);
        labels.to_labels().to_string()
    }

    #[test]
    fn all_fields() {
        let check = |line: &str, expected: &str| assert_eq!(run(line.as_bytes(), &Want::All), expected, "{line}");
        let ok = |line: &str, labels: &str| {
            check(line, &format!("{{app=\"a\"{}{labels}}}", if labels.is_empty() { "" } else { ", " }));
        };
        ok(
            r#"{"x":"1","n":{"y":2,"z":{"q":true}},"l":[1,{"a":2}],"u":null,"e":""}"#,
            r#"e="", n_y="2", n_z_q="true", x="1""#,
        );
        ok(r#"  {"x":1} x"#, r#"x="1""#);
        ok(r#"{"x":1}{"y":1}"#, r#"x="1""#);
        ok(r#"{"x":01,"y":1x}"#, r#"x="01", y="1x""#);
        ok(r#"{"x":"\q","y":"\ud800","z":"\ud83d\ude00\u00e9\n"}"#, r#"x="", y="", z="😀é\n""#);
        ok(r#"{"x":1,"x":2}"#, r#"x="1""#);
        ok(r#"{" p.q ":1,"":2,"xé":3,"s":{"":{"t":1}}}"#, r#"p_q="1", s_t="1", x_="3""#);
        check(r#"{"1a":1,"b":{"1":2}}"#, r#"{_1a="1", app="a", b_1="2"}"#);
        ok(r#"{"app":"x"}"#, r#"app_extracted="x""#);
        ok("{\"x\":\"a\u{1}b\"}", r#"x="a\x01b""#);
        ok("{}", "");
        ok(r#"{"x":{"y":"}"}}"#, r#"x_y="}""#);
        let bad = |line: &str, details: &str, labels: &str| {
            let details = details.replace('"', "\\\"");
            check(line, &format!(r#"{{__error__="JSONParserErr", __error_details__="{details}", app="a"{labels}}}"#));
        };
        bad("", OBJECT, "");
        bad("text", OBJECT, "");
        bad("[1]", OBJECT, "");
        bad(r#"{"x":1,"y":"#, MALFORMED, r#", x="1""#);
        bad(r#"{"x":1,"y":"z"#, STRING, r#", x="1""#);
        bad(r#"{"x":1,"y":{"z":1"#, OBJECT, r#", x="1""#);
        bad(r#"{"x":1,"y":[1"#, ARRAY, r#", x="1""#);
        bad(r#"{"x":1 2}"#, OBJECT, r#", x="1""#);
        bad(r#"{"x":oops}"#, UNKNOWN, "");
    }

    #[test]
    fn only_what_is_needed() {
        let want = |names: &[&str]| Want::Names(names.iter().map(|n| (*n).to_owned()).collect());
        let line = br#"{"level":"info","n":{"y":1},"app":"b","y":"#;
        assert_eq!(run(line, &want(&["level"])), r#"{app="a", level="info"}"#);
        assert_eq!(run(line, &want(&["n_y"])), r#"{app="a", n_y="1"}"#);
        assert_eq!(run(line, &want(&["app_extracted", "n_y"])), r#"{app="a", app_extracted="b", n_y="1"}"#);
        assert_eq!(run(line, &want(&["app"])), r#"{app="a"}"#);
        assert!(run(line, &want(&["y"])).contains("JSONParserErr"));
        assert!(run(line, &want(&["__error__", "level"])).contains("JSONParserErr"));
    }

    #[test]
    fn expressions() {
        let check = |line: &str, expressions: &[(&str, &str)], expected: &str| {
            let stream = Labels::from_pairs([("app", "a")]);
            let mut labels = RowLabels::new(&stream, &[]);
            labels.begin(0);
            let path = |(t, p): &(&str, &str)| ((*t).to_owned(), JsonPath::parse(p).expect("a path"));
            paths(line.as_bytes(), &expressions.iter().map(path).collect::<Vec<_>>(), &Want::All, &mut labels);
            assert_eq!(labels.to_labels().to_string(), expected, "{line}");
        };
        let line = r#"{"x":{"y":"1\n"},"l":[{"q":2},"b"],"k-1":true,"u":null}"#;
        check(
            line,
            &[("a", "x.y"), ("b", "l[0]"), ("c", r#"["k-1"]"#)],
            r#"{a="1\n", app="a", b="{\"q\":2}", c="true"}"#,
        );
        check(
            line,
            &[("a", "l[0].q"), ("b", "l[1]"), ("c", "l[2]"), ("d", "u")],
            r#"{a="2", app="a", b="b", c="", d=""}"#,
        );
        check(line, &[("app", "l[1]")], r#"{app="a", app_extracted="b"}"#);
        check(line, &[("app", "none")], r#"{app="a"}"#);
        check(r#"{"a":1"#, &[("x", "a")], r#"{app="a", x="1"}"#);
        check("", &[("x", "a")], r#"{app="a"}"#);
        check(r#" {"a":1}"#, &[("x", "a")], r#"{__error__="JSONParserErr", app="a"}"#);
        check(r#""a""#, &[("x", "a")], r#"{app="a", x=""}"#);
    }
}
