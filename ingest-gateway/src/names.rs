//! Names and values of structured metadata, made fit for labels.

use std::borrow::Cow;

/// A name as a label's name: every run of other characters than `[a-zA-Z0-9]` becomes one `_`, a leading digit gets
/// the prefix `key_`, names of the form `__x__` are kept. `None` when nothing but `_` is left.
pub(crate) fn label_name(name: &str) -> Option<Cow<'_, str>> {
    let bytes = name.as_bytes();
    let is_plain = |b: u8| b.is_ascii_alphanumeric();
    let is_clean = bytes.first().is_some_and(|b| !b.is_ascii_digit())
        && bytes.iter().any(|b| is_plain(*b))
        && bytes.iter().enumerate().all(|(i, b)| is_plain(*b) || (*b == b'_' && (i == 0 || bytes[i - 1] != b'_')));
    if is_clean || is_reserved(bytes) {
        return Some(Cow::Borrowed(name));
    }
    let mut out = String::with_capacity(name.len() + 4);
    if bytes.first().is_some_and(u8::is_ascii_digit) {
        out.push_str("key_");
    }
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c);
        } else if !out.ends_with('_') {
            out.push('_');
        }
    }
    out.bytes().any(is_plain).then_some(Cow::Owned(out))
}

/// `__x__`
fn is_reserved(bytes: &[u8]) -> bool {
    let is_part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    bytes.len() > 4
        && bytes.starts_with(b"__")
        && bytes.ends_with(b"__")
        && bytes.iter().all(is_part)
        && bytes.iter().any(u8::is_ascii_alphanumeric)
}

/// Bytes as text: each invalid sequence becomes a blank.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            out.push(' ');
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name: &str, expected: Option<&str>| assert_eq!(label_name(name).as_deref(), expected, "{name:?}");
        check("trace_id", Some("trace_id"));
        check("traceID", Some("traceID"));
        check("_x", Some("_x"));
        check("a1", Some("a1"));
        check("service.name", Some("service_name"));
        check("a..b--c", Some("a_b_c"));
        check("a__b", Some("a_b"));
        check("1a", Some("key_1a"));
        check("été", Some("_t_"));
        check("__error__", Some("__error__"));
        check("__a__b__", Some("__a__b__"));
        check("__a", Some("_a"));
        check("", None);
        check("_", None);
        check("____", None);
        check("_____", None);
        check("..", None);
        check("é", None);
    }

    #[test]
    fn texts() {
        assert_eq!(text(b"plain \xc3\xa9"), "plain é");
        assert_eq!(text(b"a\xffb\xfe"), "a b ");
        assert_eq!(text(b"\xe2\x82x"), " x");
    }
}
