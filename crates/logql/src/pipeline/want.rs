//! The labels that later stages or the caller still need.

use super::labels::{ERROR, ERROR_DETAILS, RowLabels};

/// The needed labels: all of them, or the named ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// All labels.
    All,
    /// Only these labels; sorted, without duplicates.
    Names(Vec<String>),
}

impl Want {
    /// Adds one more label.
    pub(crate) fn add(&mut self, name: &str) {
        let Self::Names(names) = self else { return };
        if let Err(at) = names.binary_search_by(|n| n.as_str().cmp(name)) {
            names.insert(at, name.to_owned());
        }
    }

    /// Whether `name` is needed.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.iter().any(|n| n == name),
        }
    }

    /// Whether no label is needed.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Self::Names(names) if names.is_empty())
    }

    /// Whether a label whose name starts with `prefix` and `_` may be needed.
    pub(crate) fn has_below(&self, prefix: &str) -> bool {
        let below = |n: &String| n.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('_'));
        match self {
            Self::All => true,
            Self::Names(names) => prefix.is_empty() || names.iter().any(below),
        }
    }

    /// Number of needed labels that a parser may still find on a row. The parser can stop once it has found them. If
    /// errors are needed, it never can, because only reading on finds them.
    pub(crate) fn missing(&self, labels: &RowLabels<'_>) -> usize {
        match self {
            Self::All => usize::MAX,
            Self::Names(names) => {
                let found = |n: &str| n != ERROR && n != ERROR_DETAILS && (labels.is_parsed(n) || labels.is_taken(n));
                names.iter().filter(|n| !found(n)).count()
            }
        }
    }
}

/// Sets labels for a parser and tracks whether all needed ones are set.
pub(crate) struct Finder<'p, 'b> {
    labels: &'p mut RowLabels<'b>,
    want: &'p Want,
    missing: usize,
    renamed: String,
}

impl<'p, 'b> Finder<'p, 'b> {
    pub(crate) fn new(labels: &'p mut RowLabels<'b>, want: &'p Want) -> Self {
        let missing = want.missing(labels);
        Self { labels, want, missing, renamed: String::new() }
    }

    /// True if no needed label is missing.
    pub(crate) fn is_done(&self) -> bool {
        self.missing == 0
    }

    /// Whether a label below this name may be needed.
    pub(crate) fn wants_below(&self, prefix: &str) -> bool {
        self.want.has_below(prefix)
    }

    /// Returns the final label name for a found `name`, if that label is needed and not set yet.
    fn target<'n>(&'n mut self, name: &'n str) -> Option<&'n str> {
        let target = if self.labels.is_taken(name) {
            self.renamed.clear();
            self.renamed.push_str(name);
            self.renamed.push_str("_extracted");
            self.renamed.as_str()
        } else {
            name
        };
        (self.want.has(target) && !self.labels.is_parsed(target)).then_some(target)
    }

    /// Sets a found value. `value` is called only if the label is needed.
    pub(crate) fn found<'v>(&mut self, name: &str, value: impl FnOnce() -> std::borrow::Cow<'v, str>) {
        if name.is_empty() || self.target(name).is_none() {
            return;
        }
        let value = value();
        let Self { labels, renamed, missing, .. } = self;
        let target = if labels.is_taken(name) { renamed.as_str() } else { name };
        if labels.extract(target, &value) && *missing != usize::MAX {
            *missing -= 1;
        }
    }

    /// Like [`Finder::found`], for the target of an expression whose value is missing. The label becomes empty unless
    /// the name is already in use.
    pub(crate) fn absent(&mut self, name: &str) {
        if self.labels.get(name).is_none() {
            self.found(name, || "".into());
        }
    }
}

/// Appends a key to a label name. Surrounding blanks are removed, and each character outside `[A-Za-z0-9_]` becomes
/// `_`. In the first part of a name, `_` is put before a leading digit. Later parts are joined with `_`.
pub(crate) fn push_name(name: &mut String, key: &str) {
    let key = key.trim();
    let Some(first) = key.chars().next() else { return };
    if !name.is_empty() || first.is_ascii_digit() {
        name.push('_');
    }
    if key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        name.push_str(key);
    } else {
        name.extend(key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }));
    }
}

/// Converts bytes of a line to text. Invalid UTF-8 and the replacement character become blanks.
pub(crate) fn to_text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\u{fffd}') => text.into(),
        Ok(text) => text.replace('\u{fffd}', " ").into(),
        Err(_) => String::from_utf8_lossy(bytes).replace('\u{fffd}', " ").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |parts: &[&str], expected: &str| {
            let mut name = String::new();
            parts.iter().for_each(|p| push_name(&mut name, p));
            assert_eq!(name, expected, "{parts:?}");
        };
        check(&["a"], "a");
        check(&[" a.b-c "], "a_b_c");
        check(&["1a", "2b"], "_1a_2b");
        check(&["a", " ", "b"], "a_b");
        check(&["é"], "_");
        check(&[""], "");
    }
}
