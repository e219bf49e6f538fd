//! A buffer for the structured metadata of one entry after the other.

use std::ops::Range;

use thiserror::Error;

use crate::names;

/// Name/value pairs end to end in one text, used again for each entry.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    text: String,
    ranges: Vec<(Range<usize>, Range<usize>)>,
}

/// A name without any character that a label's name may have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("structured metadata name {0:?} has no character that may be kept (a-z, A-Z, 0-9)")]
pub(crate) struct EmptyName(String);

impl Pairs {
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.ranges.clear();
    }

    /// Adds a pair, its name and value made fit. Pairs without a value are dropped.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), EmptyName> {
        let name = names::text(name);
        let fit = names::label_name(&name).ok_or_else(|| EmptyName(name.clone().into_owned()))?;
        let value = names::text(value);
        if !value.is_empty() {
            self.push_fit(&fit, &value);
        }
        Ok(())
    }

    /// Adds a pair as it is.
    pub(crate) fn push_fit(&mut self, name: &str, value: &str) {
        let start = self.text.len();
        self.text.push_str(name);
        let middle = self.text.len();
        self.text.push_str(value);
        self.ranges.push((start..middle, middle..self.text.len()));
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.ranges.iter().map(|(name, value)| (&self.text[name.clone()], &self.text[value.clone()]))
    }

    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Bytes of all names and values.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}
