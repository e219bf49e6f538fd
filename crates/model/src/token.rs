//! Read tokens: a push returns one, and a later read that passes it on sees what the push wrote.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::{Offset, PartitionId};

/// The offsets that an answer must at least include, for read-your-writes.
///
/// The text form is `1.<log>.<partition>-<offset>_<partition>-<offset>…`, with numbers in hexadecimal. `<log>` is a
/// hash of the log's id, so that a token of another log is detected. Offsets are *next* offsets: everything below them
/// was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadToken {
    log: u64,
    ends: BTreeMap<PartitionId, Offset>,
}

/// Why a text or a combination of tokens is invalid.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// The text does not have a token's form.
    #[error("{0:?} is no read token: pass on what a push answered in X-Millrace-Token")]
    Form(String),
    /// The tokens belong to different logs.
    #[error("read tokens of different logs cannot be joined")]
    OtherLog,
}

impl ReadToken {
    /// Creates a token that requires nothing yet.
    pub fn new(log_id: &str) -> Self {
        Self { log: xxh3_64(log_id.as_bytes()), ends: BTreeMap::new() }
    }

    /// Returns true if the token belongs to the log with this id.
    pub fn is_of(&self, log_id: &str) -> bool {
        self.log == xxh3_64(log_id.as_bytes())
    }

    /// Requires everything in `partition` below `end` too.
    pub fn add(&mut self, partition: PartitionId, end: Offset) {
        let known = self.ends.entry(partition).or_insert(end);
        *known = end.max(*known);
    }

    /// Requires everything that `other` requires too.
    ///
    /// # Errors
    /// [`TokenError::OtherLog`] if `other` belongs to another log.
    pub fn join(&mut self, other: &Self) -> Result<(), TokenError> {
        if self.log != other.log {
            return Err(TokenError::OtherLog);
        }
        other.ends.iter().for_each(|(partition, end)| self.add(*partition, *end));
        Ok(())
    }

    /// Returns the required end offset of a partition, or `None` if the token does not name the partition.
    pub fn end_of(&self, partition: PartitionId) -> Option<Offset> {
        self.ends.get(&partition).copied()
    }

    /// Returns one more than the largest partition that the token names, or 0 if it names none.
    pub fn partitions(&self) -> u32 {
        self.ends.keys().next_back().map_or(0, |partition| partition.index().saturating_add(1))
    }
}

impl fmt::Display for ReadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{:x}.", self.log)?;
        for (i, (partition, end)) in self.ends.iter().enumerate() {
            let separator = if i == 0 { "" } else { "_" };
            write!(f, "{separator}{:x}-{:x}", partition.index(), end.value())?;
        }
        Ok(())
    }
}

impl FromStr for ReadToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let read = || {
            let (log, ends) = text.strip_prefix("1.")?.split_once('.')?;
            let mut token = Self { log: u64::from_str_radix(log, 16).ok()?, ends: BTreeMap::new() };
            for part in ends.split('_').filter(|part| !part.is_empty()) {
                let (partition, end) = part.split_once('-')?;
                let partition = u32::from_str_radix(partition, 16).ok()?;
                let end = i64::from_str_radix(end, 16).ok().filter(|end| *end >= 0)?;
                token.add(PartitionId::new(partition), Offset::new(end));
            }
            Some(token)
        };
        read().ok_or_else(|| TokenError::Form(text.chars().take(100).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(parts: &[(u32, i64)]) -> ReadToken {
        let mut token = ReadToken::new("log-a");
        parts.iter().for_each(|(p, end)| token.add(PartitionId::new(*p), Offset::new(*end)));
        token
    }

    #[test]
    fn text_and_back() {
        for parts in [&[][..], &[(0, 1)], &[(3, 17), (300, i64::MAX), (0, 0)]] {
            let token = token(parts);
            assert_eq!(token.to_string().parse(), Ok(token));
        }
        assert!(token(&[(1, 255)]).to_string().ends_with(".1-ff"));
        for text in ["", "1.", "1.x.", "2.1.", "1.1.1", "1.1.1-", "1.1.1-g", "1.1.1--1", "1.1.1-1_x", "1.1.fffffffff-1"]
        {
            assert!(matches!(text.parse::<ReadToken>(), Err(TokenError::Form(_))), "{text}");
        }
    }

    #[test]
    fn the_largest_offset_counts() {
        let mut joined = token(&[(0, 5), (1, 9)]);
        joined.join(&token(&[(1, 3), (2, 4)])).unwrap();
        assert_eq!(joined, token(&[(0, 5), (1, 9), (2, 4)]));
        assert_eq!(
            (joined.end_of(PartitionId::new(2)), joined.end_of(PartitionId::new(7))),
            (Some(Offset::new(4)), None)
        );
        assert_eq!((joined.partitions(), token(&[]).partitions()), (3, 0));
        assert_eq!(joined.join(&ReadToken::new("log-b")), Err(TokenError::OtherLog));
        assert!(joined.is_of("log-a") && !joined.is_of("log-b"));
    }
}
