//! The parts of rows that a scan needs. Memory and blocks decode only these.

use std::sync::Arc;

/// What a scan needs of a row besides its timestamp and its stream's labels.
///
/// A [`Batch`](crate::Batch) may hold more than this, never less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// What is needed of the line.
    pub lines: LineNeed,
    /// What is needed of structured metadata.
    pub metadata: MetadataNeed,
    /// Whether [`Batch::offsets`](crate::Batch::offsets) are needed.
    pub offsets: bool,
    /// Conditions that every matching line meets. Rows whose lines fail one may be left out of the batches.
    pub text: Arc<[TextNeed]>,
}

impl Needs {
    /// All stored parts of all rows.
    pub fn everything() -> Self {
        Self { lines: LineNeed::Content, metadata: MetadataNeed::All, offsets: true, text: Arc::default() }
    }

    /// Returns the combined needs of two scans. A batch that meets them serves both.
    ///
    /// Only conditions that both scans have are kept, because a line that one scan rejects may match in the other.
    #[must_use]
    pub fn union(self, other: &Self) -> Self {
        Self {
            lines: self.lines.max(other.lines),
            metadata: self.metadata.union(&other.metadata),
            offsets: self.offsets || other.offsets,
            text: if self.text == other.text { self.text } else { Arc::default() },
        }
    }
}

/// A condition on the stored line. Indexes and templates use it to skip lines that fail it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextNeed {
    /// The line contains at least one of these literals.
    AnyOf(Vec<Literal>),
    /// The line contains a run of at least `length` bytes of a class.
    Run {
        /// The allowed bytes.
        class: ByteClass,
        /// Minimum length of the run, in bytes.
        length: usize,
    },
}

impl TextNeed {
    /// Whether a line meets the condition.
    pub fn allows(&self, line: &[u8]) -> bool {
        match self {
            Self::AnyOf(literals) => literals.iter().any(|literal| literal.is_in(line)),
            Self::Run { class, length } => line.split(|byte| !class.contains(*byte)).any(|run| run.len() >= *length),
        }
    }
}

/// Bytes to search for in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Literal {
    /// The bytes; never empty.
    pub bytes: Vec<u8>,
    /// Whether ASCII letters match in either case. Other bytes match only themselves.
    pub ignores_case: bool,
}

impl Literal {
    /// Whether a line contains the bytes.
    pub fn is_in(&self, line: &[u8]) -> bool {
        line.windows(self.bytes.len().max(1))
            .any(|part| if self.ignores_case { part.eq_ignore_ascii_case(&self.bytes) } else { part == self.bytes })
    }
}

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteClass([u64; 4]);

impl ByteClass {
    /// Adds the bytes from `first` to `last`, both included.
    pub fn add(&mut self, first: u8, last: u8) {
        for byte in first..=last {
            self.0[usize::from(byte / 64)] |= 1 << (byte % 64);
        }
    }

    /// Whether a byte is in the set.
    pub fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] & (1 << (byte % 64)) != 0
    }

    /// Whether every byte is in the set.
    pub fn is_full(&self) -> bool {
        self.0 == [u64::MAX; 4]
    }
}

/// What is needed of lines. Variants are ordered: each includes the ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LineNeed {
    /// Nothing: [`Batch::lines`](crate::Batch::lines) may be absent.
    #[default]
    None,
    /// Their lengths, not their bytes.
    Lengths,
    /// Their bytes.
    Content,
}

/// What is needed of structured metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MetadataNeed {
    /// Nothing.
    #[default]
    None,
    /// The values of these keys, as they are stored.
    Names(Vec<String>),
    /// The values of all keys.
    All,
}

impl MetadataNeed {
    fn union(self, other: &Self) -> Self {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (this, Self::None) => this,
            (Self::None, other) => other.clone(),
            (Self::Names(mut names), Self::Names(others)) => {
                for name in others {
                    if !names.contains(name) {
                        names.push(name.clone());
                    }
                }
                Self::Names(names)
            }
        }
    }

    /// Whether the values of this key are needed.
    pub fn includes(&self, key: &str) -> bool {
        match self {
            Self::None => false,
            Self::Names(names) => names.iter().any(|name| name == key),
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_serves_both() {
        let names = |names: &[&str]| MetadataNeed::Names(names.iter().map(|name| (*name).to_owned()).collect());
        let check = |one: MetadataNeed, other: MetadataNeed, expected: MetadataNeed| {
            let needs = |metadata| Needs { metadata, ..Needs::default() };
            assert_eq!(needs(one.clone()).union(&needs(other.clone())).metadata, expected, "{one:?} and {other:?}");
        };
        check(MetadataNeed::None, MetadataNeed::None, MetadataNeed::None);
        check(MetadataNeed::None, names(&["a"]), names(&["a"]));
        check(names(&["a", "b"]), names(&["b", "c"]), names(&["a", "b", "c"]));
        check(names(&["a"]), MetadataNeed::All, MetadataNeed::All);
        check(MetadataNeed::All, MetadataNeed::None, MetadataNeed::All);
        let lengths = Needs { lines: LineNeed::Lengths, ..Needs::default() };
        assert_eq!(Needs::everything().union(&lengths), Needs::everything());
        assert_eq!(lengths.clone().union(&Needs::default()), lengths);
    }
}
