//! Patterns of literals and `<name>` gaps: the `pattern` stage ([`CapturePattern`]) and the line filters `|>` and `!>`
//! ([`LinePattern`]).

use std::{collections::HashSet, fmt};

use memchr::memmem;

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// A gap; `None` for `<_>`.
    Gap(Option<String>),
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PatternError {
    /// The pattern has no named gap.
    NoCapture,
    /// Two gaps side by side, as written.
    Consecutive(String),
    /// A name is used twice.
    Duplicate(String),
    /// A line filter has a named gap.
    Named(String),
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCapture => f.write_str("at least one capture is required"),
            Self::Consecutive(pair) => write!(f, "found consecutive capture '{pair}': invalid expression"),
            Self::Duplicate(name) => write!(f, "duplicate capture name ({name}): invalid expression"),
            Self::Named(name) => write!(f, "named captures are not allowed: found '<{name}>'"),
        }
    }
}

/// Splits a pattern into its parts. A `<` that does not start a placeholder is text.
fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        literal.push_str(&rest[..at]);
        rest = &rest[at..];
        match placeholder(&rest[1..]) {
            Some(name) => {
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Gap((name != "_").then(|| name.to_owned())));
                rest = &rest[name.len() + 2..];
            }
            None => {
                literal.push('<');
                rest = &rest[1..];
            }
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    parts
}

/// Returns the name at the start of `text` if a `>` follows it.
fn placeholder(text: &str) -> Option<&str> {
    let (name, _) = text.split_once('>')?;
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|b| b == b'_' || b.is_ascii_alphabetic());
    (begins && bytes.all(|b| b == b'_' || b.is_ascii_alphanumeric())).then_some(name)
}

fn reject_consecutive(parts: &[Part]) -> Result<(), PatternError> {
    let pair = parts.windows(2).find_map(|w| match w {
        [Part::Gap(a), Part::Gap(b)] => Some((a, b)),
        _ => None,
    });
    let Some((a, b)) = pair else { return Ok(()) };
    let name = |n: &Option<String>| n.clone().unwrap_or_else(|| "_".to_owned());
    Err(PatternError::Consecutive(format!("<{}><{}>", name(a), name(b))))
}

/// The pattern of a `pattern` stage: it has at least one named capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CapturePattern {
    /// The text that the line must start with; may be empty.
    prefix: String,
    /// Each capture, `None` if unnamed, and the literal after it. Only the last literal may be empty.
    captures: Vec<(Option<String>, String)>,
}

impl CapturePattern {
    /// Reads a pattern.
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        let parts = parts(text);
        if !parts.iter().any(|p| matches!(p, Part::Gap(_))) {
            return Err(PatternError::NoCapture);
        }
        reject_consecutive(&parts)?;
        let mut pattern = Self { prefix: String::new(), captures: Vec::new() };
        let mut used = HashSet::new();
        for part in parts {
            match part {
                Part::Gap(name) => {
                    if let Some(name) = name.as_ref().filter(|n| !used.insert((*n).clone())) {
                        return Err(PatternError::Duplicate(name.clone()));
                    }
                    pattern.captures.push((name, String::new()));
                }
                Part::Literal(text) => match pattern.captures.last_mut() {
                    Some((_, behind)) => *behind = text,
                    None => pattern.prefix = text,
                },
            }
        }
        if pattern.names().next().is_none() {
            return Err(PatternError::NoCapture);
        }
        Ok(pattern)
    }

    /// Returns the names of the captures in order, each once.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.captures.iter().filter_map(|(name, _)| name.as_deref())
    }

    /// Passes each named capture found in `line` to `found`, in order. A capture extends to the first occurrence of the
    /// literal after it. If that is missing, the capture takes the rest of the line and matching ends. A line that does
    /// not start with the leading literal has no captures.
    pub(crate) fn captures<'p, 'l>(&'p self, line: &'l [u8], mut found: impl FnMut(&'p str, &'l [u8])) {
        let Some(mut rest) = line.strip_prefix(self.prefix.as_bytes()) else { return };
        for (name, behind) in &self.captures {
            let at = if behind.is_empty() { None } else { memmem::find(rest, behind.as_bytes()) };
            if let Some(name) = name {
                found(name, &rest[..at.unwrap_or(rest.len())]);
            }
            let Some(at) = at else { return };
            rest = &rest[at + behind.len()..];
        }
    }
}

/// The pattern of `|>` and `!>`: literals and unnamed gaps.
#[derive(Clone, Debug)]
pub(crate) struct LinePattern {
    starts_with_gap: bool,
    ends_with_gap: bool,
    literals: Vec<memmem::Finder<'static>>,
}

impl LinePattern {
    /// Reads a pattern.
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        let parts = parts(text);
        if let Some(name) = parts.iter().find_map(|p| if let Part::Gap(Some(name)) = p { Some(name) } else { None }) {
            return Err(PatternError::Named(name.clone()));
        }
        reject_consecutive(&parts)?;
        let is_gap = |p: Option<&Part>| matches!(p, Some(Part::Gap(_)));
        let literal = |p: &Part| match p {
            Part::Literal(text) => Some(memmem::Finder::new(text).into_owned()),
            Part::Gap(_) => None,
        };
        Ok(Self {
            starts_with_gap: is_gap(parts.first()),
            ends_with_gap: is_gap(parts.last()),
            literals: parts.iter().filter_map(literal).collect(),
        })
    }

    /// Returns the literals in order. A matching line contains all of them.
    pub(crate) fn literals(&self) -> impl Iterator<Item = &[u8]> {
        self.literals.iter().map(memmem::Finder::needle)
    }

    /// Whether the line matches. Each literal matches at its first occurrence after the previous one, without
    /// backtracking. A gap is never empty. A leading literal is not anchored, a trailing one is.
    pub(crate) fn matches(&self, line: &[u8]) -> bool {
        if self.literals.is_empty() {
            // Either `<_>`, which matches every line except the empty one, or the empty pattern, which matches only
            // that.
            return line.is_empty() != self.starts_with_gap;
        }
        let mut rest = line;
        for (i, literal) in self.literals.iter().enumerate() {
            let Some(at) = literal.find(rest) else { return false };
            let behind_gap = i > 0 || self.starts_with_gap;
            if behind_gap && at == 0 {
                return false;
            }
            rest = &rest[at + literal.needle().len()..];
        }
        rest.is_empty() != self.ends_with_gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures() {
        let check = |pattern: &str, line: &str, expected: &str| {
            let found = match CapturePattern::parse(pattern) {
                Ok(p) => {
                    let mut out = Vec::new();
                    p.captures(line.as_bytes(), |n, v| out.push(format!("{n}={}", String::from_utf8_lossy(v))));
                    out.join(" ")
                }
                Err(e) => e.to_string(),
            };
            assert_eq!(found, expected, "{pattern} on {line}");
        };
        check("<ip> - <_> [<ts>] \"<m>\"", "1.2 - u [now] \"GET\" x", "ip=1.2 ts=now m=GET");
        check("<a> <b>", "x y z", "a=x b=y z");
        check("<a> <b>|<c>", "x yz", "a=x b=yz");
        check("<a> x", "abc", "a=abc");
        check("pre <a>", "no pre x", "");
        check("pre <a>", "pre ", "a=");
        check("<a>,<b>", ",", "a= b=");
        check("a < b <c>", "a < b 1", "c=1");
        check("<1> <a> <a b>", "<1> x <a b>", "a=x");
        check("<<a>>", "<x>", "a=x");
        check("plain", "plain", "at least one capture is required");
        check("", "", "at least one capture is required");
        check("<_>", "x", "at least one capture is required");
        check("<a><b>", "x", "found consecutive capture '<a><b>': invalid expression");
        check("x<_><b>", "x", "found consecutive capture '<_><b>': invalid expression");
        check("<a> <a>", "x", "duplicate capture name (a): invalid expression");
    }

    #[test]
    fn line_patterns() {
        let check = |pattern: &str, line: &str, expected: bool| {
            let found = LinePattern::parse(pattern).map(|p| p.matches(line.as_bytes()));
            assert_eq!(found.ok(), Some(expected), "{pattern} on {line}");
        };
        check("", "", true);
        check("", "x", false);
        check("x", "", false);
        check("<_>", "", false);
        check("<_>", "x", true);
        check("foo <_>", "xx foo bar", true);
        check("foo <_>", "foo ", false);
        check("<_>foo", "foo", false);
        check("<_>foo", "xfoo", true);
        check("<_>foo", "xfoox", false);
        check("a<_>b", "aXb", true);
        check("a<_>b", "ab", false);
        check("a<_>b", "aXbYb", false);
        check("a<_>b", "abXb", false);
        check("<_>a<_>", "xay", true);
        check("<_>a<_>", "ay", false);
        check("foo", "foo", true);
        check("foo", "xfoo", true);
        check("foo", "foox", false);
        let failed = |pattern: &str, expected: &str| {
            let found = LinePattern::parse(pattern).map(|_| ()).map_err(|e| e.to_string());
            assert_eq!(found, Err(expected.to_owned()), "{pattern}");
        };
        failed("a <name> b", "named captures are not allowed: found '<name>'");
        failed("<_><_>", "found consecutive capture '<_><_>': invalid expression");
    }
}
