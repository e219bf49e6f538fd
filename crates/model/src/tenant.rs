//! The tenant, which owns streams.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A tenant's name, checked once at the edge (rules: `spec/http-api.md` 1.1). Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Arc<str>);

/// Why a text is not a valid tenant name. The error texts are Loki's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TenantError {
    /// The header is absent or empty.
    #[error("no org id")]
    Missing,
    /// More than 150 bytes.
    #[error("tenant ID is too long: max 150 characters")]
    TooLong,
    /// A character outside `a-z A-Z 0-9 ! - _ . * ' ( )`.
    #[error("tenant ID '{tenant}' contains unsupported character '{character}'")]
    Character {
        /// The whole text.
        tenant: String,
        /// Its first character that is not allowed.
        character: char,
    },
    /// `.` or `..`, which are not safe as folder names.
    #[error("tenant ID is '.' or '..'")]
    Dots,
}

impl TenantId {
    /// Maximum length of a name in bytes.
    pub const BYTES_MAX: usize = 150;

    /// Creates a tenant id from `text` after checking it. A suffix after `:` is metadata and is removed.
    ///
    /// # Errors
    /// If the text violates one of the rules.
    pub fn new(text: &str) -> Result<Self, TenantError> {
        let name = text.split(':').next().unwrap_or_default();
        if name.is_empty() {
            return Err(TenantError::Missing);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "!-_.*'()".contains(c);
        if let Some(character) = name.chars().find(|c| !allowed(*c)) {
            return Err(TenantError::Character { tenant: name.to_owned(), character });
        }
        if name.len() > Self::BYTES_MAX {
            return Err(TenantError::TooLong);
        }
        if name == "." || name == ".." {
            return Err(TenantError::Dots);
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for TenantId {
    type Error = TenantError;

    fn try_from(text: String) -> Result<Self, TenantError> {
        Self::new(&text)
    }
}

impl From<TenantId> for String {
    fn from(tenant: TenantId) -> Self {
        tenant.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let found = TenantId::new(text).map_err(|e| e.to_string());
            assert_eq!(found.as_ref().map(TenantId::as_str).map_err(String::as_str), expected, "{text:?}");
        };
        check("team-a", Ok("team-a"));
        check("a!-_.*'()9Z", Ok("a!-_.*'()9Z"));
        check("team:k=v", Ok("team"));
        check("", Err("no org id"));
        check("a/b", Err("tenant ID 'a/b' contains unsupported character '/'"));
        check("a|b", Err("tenant ID 'a|b' contains unsupported character '|'"));
        check("..", Err("tenant ID is '.' or '..'"));
        check(&"x".repeat(151), Err("tenant ID is too long: max 150 characters"));
        assert!(TenantId::new(&"x".repeat(150)).is_ok());
    }
}
