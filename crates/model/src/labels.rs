//! Label sets and the hash that identifies a stream.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

use crate::{EscapeError, read_go_escape};

/// XXH3-64 of a canonical label set: names and values in name order, each followed by the byte 0xff
/// (which occurs in no UTF-8 text).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamHash(pub u64);

/// A canonical label set: sorted by name, names unique, no empty values unless made by
/// [`Labels::with_empty_values`]. Cheap to clone; its hash is computed once.
#[derive(Clone)]
pub struct Labels(Arc<Inner>);

struct Inner {
    pairs: Box<[(Box<str>, Box<str>)]>,
    hash: StreamHash,
}

/// Why a text is not a label set.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LabelsError {
    /// The text does not have the form `{name="value", …}`.
    #[error("{reason} at byte {position}")]
    Syntax {
        /// What was wrong.
        reason: &'static str,
        /// Where, counted in bytes from 0.
        position: usize,
    },
    /// One name occurs twice.
    #[error("duplicate label name: '{0}'")]
    Duplicate(String),
}

impl Labels {
    /// The empty set.
    pub fn empty() -> Self {
        Self::build(Vec::new())
    }

    /// Creates a set of these pairs. Pairs with empty values are dropped. If a name occurs twice, the last pair wins.
    pub fn from_pairs<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<Box<str>>,
        V: Into<Box<str>>,
    {
        let pairs = pairs.into_iter().map(|(n, v)| (n.into(), v.into()));
        Self::build(pairs.filter(|(_, v): &(Box<str>, Box<str>)| !v.is_empty()).collect())
    }

    /// Like [`Labels::from_pairs`], but keeps empty values, because the result of a query may contain `age=""`.
    pub fn with_empty_values<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<Box<str>>,
        V: Into<Box<str>>,
    {
        Self::build(pairs.into_iter().map(|(n, v)| (n.into(), v.into())).collect())
    }

    fn build(mut pairs: Vec<(Box<str>, Box<str>)>) -> Self {
        if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            // `dedup_by` keeps the first of a run; the later pair is the one that counts.
            pairs.dedup_by(|later, kept| {
                let same = later.0 == kept.0;
                if same {
                    std::mem::swap(later, kept);
                }
                same
            });
        }
        let mut hasher = Xxh3::new();
        for (name, value) in &pairs {
            for text in [name, value] {
                hasher.update(text.as_bytes());
                hasher.update(&[0xff]);
            }
        }
        Self(Arc::new(Inner { pairs: pairs.into(), hash: StreamHash(hasher.digest()) }))
    }

    /// The value of a label.
    pub fn get(&self, name: &str) -> Option<&str> {
        let pairs = &self.0.pairs;
        pairs.binary_search_by(|(n, _)| (**n).cmp(name)).ok().map(|i| &*pairs[i].1)
    }

    /// The pairs in name order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.0.pairs.iter().map(|(n, v)| (&**n, &**v))
    }

    /// Returns the number of labels.
    pub fn len(&self) -> usize {
        self.0.pairs.len()
    }

    /// Returns true if there are no labels.
    pub fn is_empty(&self) -> bool {
        self.0.pairs.is_empty()
    }

    /// The hash of the set.
    pub fn stream_hash(&self) -> StreamHash {
        self.0.hash
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.hash == other.0.hash && self.0.pairs == other.0.pairs)
    }
}

impl Eq for Labels {}

impl std::hash::Hash for Labels {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash.0);
    }
}

/// Compares pair by pair, by name and then by value. A set that is a prefix of another comes first.
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.pairs.cmp(&other.0.pairs)
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Loki's text form: `{app="web", env="prod"}`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (name, value)) in self.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            write!(f, "{name}={}", Quoted(value))?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Serialized as a map.
impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = std::collections::BTreeMap::<String, String>::deserialize(deserializer)?;
        Ok(Self::with_empty_values(pairs))
    }
}

/// Prints a text in double quotes with the escapes of a Go string literal, as in queries and label sets.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\u{7}' => f.write_str("\\a")?,
                '\u{8}' => f.write_str("\\b")?,
                '\u{b}' => f.write_str("\\v")?,
                '\u{c}' => f.write_str("\\f")?,
                c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => write!(f, "\\x{:02x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// Parses the text form of a pushed label set: `{app="web", env="prod"}`. Only `=` is allowed. Labels may be in any
/// order, with blanks between tokens. Values have the escapes of a Go string literal, or are between backticks. Labels
/// with empty values are dropped.
///
/// # Errors
/// If the text does not have this form, or a name occurs twice.
pub fn parse_labels(text: &str) -> Result<Labels, LabelsError> {
    let mut reader = Reader { text, at: 0 };
    let mut pairs: Vec<(Box<str>, Box<str>)> = Vec::new();
    reader.blanks();
    reader.expect('{', "expected '{'")?;
    reader.blanks();
    while !reader.eat('}') {
        let name = reader.name()?;
        reader.blanks();
        reader.expect('=', "expected '='")?;
        reader.blanks();
        let value = reader.quoted()?;
        if pairs.iter().any(|(n, _)| **n == *name) {
            return Err(LabelsError::Duplicate(name.to_owned()));
        }
        pairs.push((name.into(), value.into()));
        reader.blanks();
        if !reader.eat(',') {
            reader.expect('}', "expected ',' or '}'")?;
            break;
        }
        reader.blanks();
    }
    reader.blanks();
    if reader.at < text.len() {
        return Err(reader.error("unexpected text after '}'"));
    }
    Ok(Labels::from_pairs(pairs))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, reason: &'static str) -> LabelsError {
        LabelsError::Syntax { reason, position: self.at }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.rest().starts_with(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn expect(&mut self, c: char, reason: &'static str) -> Result<(), LabelsError> {
        if self.eat(c) { Ok(()) } else { Err(self.error(reason)) }
    }

    fn name(&mut self) -> Result<&'a str, LabelsError> {
        let rest = self.rest();
        let is_part =
            |(i, c): (usize, char)| c == '_' || c == ':' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit());
        let end = rest.char_indices().find(|&x| !is_part(x)).map_or(rest.len(), |(i, _)| i);
        if end == 0 {
            return Err(self.error("expected a label name"));
        }
        self.at += end;
        Ok(&rest[..end])
    }

    fn quoted(&mut self) -> Result<String, LabelsError> {
        if self.eat('`') {
            let rest = self.rest();
            let end = rest.find('`').ok_or_else(|| self.error("raw string is not closed"))?;
            self.at += end + 1;
            return Ok(rest[..end].to_owned());
        }
        self.expect('"', "expected a quoted value")?;
        let mut bytes = Vec::new();
        loop {
            let rest = self.rest();
            let end = rest.find(['"', '\\', '\n']).ok_or_else(|| self.error("string is not closed"))?;
            bytes.extend_from_slice(&rest.as_bytes()[..end]);
            self.at += end;
            if self.eat('"') {
                break;
            }
            if !self.eat('\\') {
                return Err(self.error("newline in a string"));
            }
            self.escape(&mut bytes)?;
        }
        String::from_utf8(bytes).map_err(|_| self.error("string is not UTF-8"))
    }

    /// Reads the escape after a backslash. Accepts `\'` too: Go does not, but agents send it.
    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), LabelsError> {
        if self.eat('\'') {
            out.push(b'\'');
            return Ok(());
        }
        let taken = read_go_escape(self.rest(), out).map_err(|error| {
            self.error(match error {
                EscapeError::End => "string is not closed",
                EscapeError::Unknown => "unknown escape in a string",
                EscapeError::Digits | EscapeError::Value => "bad escape in a string",
            })
        })?;
        self.at += taken;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let found = parse_labels(text).map(|l| l.to_string()).map_err(|e| e.to_string());
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{text}");
        };
        check(r#"{b="2", a="1"}"#, Ok(r#"{a="1", b="2"}"#));
        check(r#" { a = "x\"\\\n\u00e9\x41" , } "#, Ok(r#"{a="x\"\\\néA"}"#));
        check("{a=`raw\\n`, e=\"\"}", Ok(r#"{a="raw\\n"}"#));
        check("{}", Ok("{}"));
        check(r#"{a="1", a="2"}"#, Err("duplicate label name: 'a'"));
        check(r#"{a="1"#, Err("string is not closed at byte 4"));
        check(r#"{a=~"1"}"#, Err("expected a quoted value at byte 3"));
        check(r#"{a="1"} x"#, Err("unexpected text after '}' at byte 8"));
        check("", Err("expected '{' at byte 0"));
        check(r#"{a="\q"}"#, Err("unknown escape in a string at byte 5"));
    }

    #[test]
    fn canonical() {
        let one = Labels::from_pairs([("b", "2"), ("a", "1"), ("c", "")]);
        let two = Labels::from_pairs([("a", "0"), ("a", "1"), ("b", "2")]);
        assert_eq!(one, two);
        assert_eq!(one.stream_hash(), two.stream_hash());
        assert_eq!(one.get("b"), Some("2"));
        assert_eq!(one.get("c"), None);
        assert!(Labels::from_pairs([("a", "1")]) < one);
        assert_eq!(Labels::with_empty_values([("c", "")]).to_string(), r#"{c=""}"#);
    }
}
