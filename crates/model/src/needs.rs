//! What the reader of rows wants from them, so that memory and blocks decode no more than that.

/// What a scan needs of a row besides its timestamp and its stream's labels.
///
/// Whoever supplies a [`Batch`](crate::Batch) may supply more than this, never less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// What is needed of the line.
    pub lines: LineNeed,
    /// What is needed of structured metadata.
    pub metadata: MetadataNeed,
    /// Whether [`Batch::offsets`](crate::Batch::offsets) are needed.
    pub offsets: bool,
}

impl Needs {
    /// Everything that is stored.
    pub fn everything() -> Self {
        Self { lines: LineNeed::Content, metadata: MetadataNeed::All, offsets: true }
    }

    /// What two scans need together: a batch that has this serves both.
    #[must_use]
    pub fn union(self, other: &Self) -> Self {
        Self {
            lines: self.lines.max(other.lines),
            metadata: self.metadata.union(&other.metadata),
            offsets: self.offsets || other.offsets,
        }
    }
}

/// What is needed of lines. Variants are ordered: each includes the ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LineNeed {
    /// Nothing: [`Batch::lines`](crate::Batch::lines) may be empty.
    #[default]
    None,
    /// Their lengths: the offsets of [`Batch::lines`](crate::Batch::lines) are right, the bytes may be any.
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
