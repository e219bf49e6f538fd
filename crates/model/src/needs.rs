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
    /// Whether the values of this key are needed.
    pub fn includes(&self, key: &str) -> bool {
        match self {
            Self::None => false,
            Self::Names(names) => names.iter().any(|name| name == key),
            Self::All => true,
        }
    }
}
