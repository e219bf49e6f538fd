//! The keys of objects.

use std::fmt;

use crate::StoreError;

/// An object's key: parts joined by `/`, with the characters `A-Z a-z 0-9 ! - _ . * ' ( ) =`. No part is empty, `.` or
/// `..`.
///
/// A key has at most [`ObjectKey::BYTES_MAX`] bytes, and a part at most [`ObjectKey::PART_BYTES_MAX`]. So every key is
/// valid in S3 and as a path in a file system, and no key leads out of the store's folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The longest key, in bytes: S3's limit.
    pub const BYTES_MAX: usize = 1024;
    /// The longest part of a key, in bytes: the limit of file systems for names.
    pub const PART_BYTES_MAX: usize = 255;

    /// Makes a key of `text`.
    ///
    /// # Errors
    /// [`StoreError::Key`] if the text breaks one of the rules.
    pub fn new(text: &str) -> Result<Self, StoreError> {
        let right = text.len() <= Self::BYTES_MAX && text.split('/').all(is_part);
        if right { Ok(Self(text.to_owned())) } else { Err(StoreError::Key(text.to_owned())) }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_part(part: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!-_.*'()=".contains(&b);
    !part.is_empty()
        && part.len() <= ObjectKey::PART_BYTES_MAX
        && part != "."
        && part != ".."
        && part.bytes().all(allowed)
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsRef<str> for ObjectKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let check = |text: &str, right: bool| assert_eq!(ObjectKey::new(text).is_ok(), right, "{text:?}");
        check("a", true);
        check("meta/log-1/p/0/head", true);
        check("data/x=1/a!-_.*'()Z9.parquet", true);
        check("...", true);
        check("", false);
        check("/a", false);
        check("a/", false);
        check("a//b", false);
        check("a/./b", false);
        check("..", false);
        check("a/../../etc/passwd", false);
        check("a\\b", false);
        check("a b", false);
        check("a#b", false);
        check("a~", false);
        check("a\0b", false);
        check("ä", false);
        check(&"x".repeat(255), true);
        check(&"x".repeat(256), false);
        check(&["x".repeat(255), "x".repeat(255), "x".repeat(255), "x".repeat(256)].join("/"), false);
        check(&vec!["x"; 512].join("/"), true);
        check(&vec!["x"; 513].join("/"), false);
    }
}
