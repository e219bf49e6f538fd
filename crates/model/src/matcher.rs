//! Matchers of a selector: `{app="web", env=~"prod|stage"}`.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Labels, Quoted, RegexError, RegexMode, compile_regex};

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

impl MatchOp {
    /// Returns the operator's text in a query.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

/// One condition on one label. An absent label equals the empty text.
#[derive(Clone, Debug)]
pub struct Matcher {
    name: Arc<str>,
    op: MatchOp,
    value: Arc<str>,
    regex: Option<regex::Regex>,
}

impl Matcher {
    /// A matcher for selectors: regexes are anchored and `.` matches a newline.
    ///
    /// # Errors
    /// If `op` takes a regex and `value` is not a valid one.
    pub fn new(name: &str, op: MatchOp, value: &str) -> Result<Self, RegexError> {
        Self::with_mode(name, op, value, RegexMode::WholeDotAll)
    }

    /// A matcher whose regex is compiled in the given mode. Label filters use [`RegexMode::Whole`].
    ///
    /// # Errors
    /// As [`Matcher::new`].
    pub fn with_mode(name: &str, op: MatchOp, value: &str, mode: RegexMode) -> Result<Self, RegexError> {
        let regex = match op {
            MatchOp::Regex | MatchOp::NotRegex => Some(compile_regex(value, mode)?),
            MatchOp::Equal | MatchOp::NotEqual => None,
        };
        Ok(Self { name: name.into(), op, value: value.into(), regex })
    }

    /// The label's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it compares.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// The text or pattern compared with.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether a label with this value passes. An absent label has the value `""`.
    pub fn matches_value(&self, value: &str) -> bool {
        let regex = || self.regex.as_ref().is_some_and(|r| r.is_match(value));
        match self.op {
            MatchOp::Equal => value == &*self.value,
            MatchOp::NotEqual => value != &*self.value,
            MatchOp::Regex => regex(),
            MatchOp::NotRegex => !regex(),
        }
    }

    /// Whether a label set passes.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matches_value(labels.get(&self.name).unwrap_or(""))
    }

    /// Whether a set without the label passes.
    pub fn matches_empty(&self) -> bool {
        self.matches_value("")
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.op, &self.value) == (&other.name, other.op, &other.value)
    }
}

impl Eq for Matcher {}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.name, self.op.as_str(), Quoted(&self.value))
    }
}
