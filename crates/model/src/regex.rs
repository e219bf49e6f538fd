//! Regular expressions in Loki's syntax (RE2), compiled with Rust's `regex`. Both run in linear time.

use thiserror::Error;

/// How a pattern is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegexMode {
    /// Matches anywhere; `.` does not match a newline. Used by line filters.
    Search,
    /// Matches the whole text; `.` matches a newline. Used by matchers of selectors.
    WholeDotAll,
    /// Matches the whole text; `.` does not match a newline. Used by label filters.
    Whole,
}

/// A pattern that cannot be compiled. The message is RE2's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("error parsing regexp: {0}")]
pub struct RegexError(pub String);

/// Rewrites syntax that RE2 accepts and Rust does not, such as `\Q…\E`, `\z`, `\C` and octal escapes. Both accept
/// `(?P<n>` and `(?<n>`.
pub fn go_to_rust_regex(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(quoted) = tail.strip_prefix('Q') {
            let (literal, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
            out.push_str(&regex::escape(literal));
            rest = after;
            continue;
        }
        let mut chars = tail.chars();
        match chars.next() {
            // RE2 allows any punctuation to be escaped; Rust rejects some of these escapes.
            Some(c) if c.is_ascii_punctuation() && !regex_syntax::is_meta_character(c) => out.push(c),
            Some('C') => out.push_str("(?s:.)"),
            Some(c) => {
                out.push('\\');
                out.push(c);
            }
            None => out.push('\\'),
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out
}

fn prepare(pattern: &str, mode: RegexMode) -> String {
    let inner = go_to_rust_regex(pattern);
    match mode {
        RegexMode::Search => inner,
        RegexMode::Whole => format!("^(?:{inner})$"),
        RegexMode::WholeDotAll => format!("(?s)^(?:{inner})$"),
    }
}

/// Returns RE2's message for the error if there is an equivalent one, else Rust's.
fn explain(pattern: &str, error: &regex::Error) -> RegexError {
    use regex_syntax::ast::ErrorKind as K;
    let inner = go_to_rust_regex(pattern);
    let Err(regex_syntax::Error::Parse(parse)) = regex_syntax::parse(&inner) else {
        let text = match error {
            regex::Error::CompiledTooBig(_) => "expression too large".to_owned(),
            other => other.to_string(),
        };
        return RegexError(text);
    };
    let span = parse.span();
    // The span of a bare operator is empty: it points at the operator.
    let part = inner.get(span.start.offset..span.end.offset).filter(|part| !part.is_empty());
    let part = part.or_else(|| inner.get(span.start.offset..).and_then(|s| s.split_inclusive(|_| true).next()));
    let part = part.unwrap_or(&inner);
    RegexError(match parse.kind() {
        K::GroupUnclosed => format!("missing closing ): `{pattern}`"),
        K::GroupUnopened => format!("unexpected ): `{pattern}`"),
        K::ClassUnclosed => {
            format!("missing closing ]: `{}`", inner.get(span.start.offset..).unwrap_or(&inner))
        }
        K::RepetitionMissing => format!("missing argument to repetition operator: `{part}`"),
        K::ClassRangeInvalid => format!("invalid character class range: `{part}`"),
        K::EscapeUnexpectedEof => "trailing backslash at end of expression: ``".to_owned(),
        K::EscapeUnrecognized => format!("invalid escape sequence: `{part}`"),
        K::RepetitionCountInvalid => format!("invalid repeat count: `{part}`"),
        K::UnsupportedLookAround => format!("invalid or unsupported Perl syntax: `{part}`"),
        other => format!("{other}: `{part}`"),
    })
}

/// Compiles `pattern` for text.
///
/// # Errors
/// If the pattern is not a valid regular expression, or is too large.
pub fn compile_regex(pattern: &str, mode: RegexMode) -> Result<regex::Regex, RegexError> {
    regex::Regex::new(&prepare(pattern, mode)).map_err(|e| explain(pattern, &e))
}

/// Compiles `pattern` for bytes that may not be UTF-8, such as lines.
///
/// # Errors
/// As [`compile_regex`].
pub fn compile_regex_bytes(pattern: &str, mode: RegexMode) -> Result<regex::bytes::Regex, RegexError> {
    regex::bytes::Regex::new(&prepare(pattern, mode)).map_err(|e| explain(pattern, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let matches = |p: &str, mode, text: &str| compile_regex(p, mode).map(|r| r.is_match(text)).unwrap_or(false);
        assert!(matches("a.c", RegexMode::Search, "xabcx"));
        assert!(!matches("a.c", RegexMode::Search, "a\nc"));
        assert!(matches("a.c|x", RegexMode::WholeDotAll, "a\nc"));
        assert!(!matches("a|bc", RegexMode::Whole, "abc"));
        assert!(matches(r"\Qa.b\E.", RegexMode::Whole, "a.bc"));
        assert!(matches(r"a\/b\_c", RegexMode::Whole, "a/b_c"));
    }

    #[test]
    fn reasons() {
        let check = |pattern: &str, expected: &str| {
            let found = compile_regex(pattern, RegexMode::WholeDotAll).err().map(|e| e.to_string());
            assert_eq!(found.as_deref(), Some(expected), "{pattern}");
        };
        check("a(b", "error parsing regexp: missing closing ): `a(b`");
        check("a)b", "error parsing regexp: unexpected ): `a)b`");
        check("[a", "error parsing regexp: missing closing ]: `[a`");
        check("*a", "error parsing regexp: missing argument to repetition operator: `*`");
    }
}
