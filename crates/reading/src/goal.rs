//! What an answer must contain: the consistency and the read tokens of a request.
//!
//! *Eventual*: the rows that owners have consumed. *Strong*: all rows that were acknowledged before the read began. For
//! this the log is asked for its ends once for each request, and every answer of memory must reach them. A *read token*
//! is part of the reply to a push, and asks for the rows of that push, whatever the consistency.

use std::{str::FromStr, time::Duration};

use model::{Offset, PartitionId, ReadToken};
use owner::{Owner, OwnerError};
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout_at},
};

use crate::error::Error;

/// The pause before an unavailable log is asked again.
const ENDS_PAUSE: Duration = Duration::from_millis(50);

/// Which rows an answer must contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// All rows that were acknowledged before the read.
    Strong,
    /// The rows that have been consumed: on a healthy system all but those of the last tenths of a second.
    Eventual,
}

impl Consistency {
    /// The word in settings, requests and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Eventual => "eventual",
        }
    }
}

/// A word that names no consistency.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[error("consistency must be 'strong' or 'eventual', not {0:?}")]
pub struct UnknownConsistency(String);

impl FromStr for Consistency {
    type Err = UnknownConsistency;

    fn from_str(text: &str) -> Result<Self, UnknownConsistency> {
        match text {
            "strong" => Ok(Self::Strong),
            "eventual" => Ok(Self::Eventual),
            // The text comes from outside and goes into an answer.
            _ => Err(UnknownConsistency(text.chars().take(40).collect())),
        }
    }
}

/// What the answer to one request must contain. All reads of a request share its goal, so that the log is asked for
/// its ends only once.
#[derive(Debug)]
pub struct Goal {
    consistency: Consistency,
    /// The request names the consistency.
    is_chosen: bool,
    token: Option<ReadToken>,
    targets: OnceCell<Targets>,
}

/// A goal as offsets, one for each partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Targets(Vec<Option<Offset>>);

impl Targets {
    /// Number of partitions that a read must cover.
    pub(crate) fn partitions(&self) -> usize {
        self.0.len()
    }

    /// An answer about this partition must contain every row below this offset.
    pub(crate) fn at_least(&self, partition: PartitionId) -> Option<Offset> {
        self.0.get(partition.index() as usize).copied().flatten()
    }
}

impl Goal {
    /// The goal of a request that names this consistency and these read tokens; `fallback` is the consistency of
    /// requests that name none. `log_id` names the log that is read.
    ///
    /// # Errors
    /// When a token belongs to another log, or the tokens cannot be joined.
    pub fn new(
        chosen: Option<Consistency>,
        fallback: Consistency,
        tokens: impl IntoIterator<Item = ReadToken>,
        log_id: &str,
    ) -> Result<Self, Error> {
        let mut joined: Option<ReadToken> = None;
        for token in tokens {
            if !token.is_of(log_id) {
                return Err(Error::TokenOfOtherLog);
            }
            match &mut joined {
                Some(joined) => joined.join(&token)?,
                None => joined = Some(token),
            }
        }
        let consistency = chosen.unwrap_or(fallback);
        Ok(Self { consistency, is_chosen: chosen.is_some(), token: joined, targets: OnceCell::new() })
    }

    /// The goal of the same request where strong is the consistency unless the request names one.
    pub fn strong_by_default(&self) -> Self {
        let consistency = if self.is_chosen { self.consistency } else { Consistency::Strong };
        Self { consistency, is_chosen: self.is_chosen, token: self.token.clone(), targets: OnceCell::new() }
    }

    /// The consistency that reads have.
    pub fn consistency(&self) -> Consistency {
        self.consistency
    }

    /// The read tokens of the request as one.
    pub fn token(&self) -> Option<&ReadToken> {
        self.token.as_ref()
    }

    /// True if owners may have to wait before they can answer.
    pub(crate) fn asks_for_offsets(&self) -> bool {
        self.consistency == Consistency::Strong || self.token.is_some()
    }

    /// The goal as offsets, worked out by the first call, which calls `first`.
    pub(crate) async fn targets(
        &self,
        owner: &dyn Owner,
        deadline: Instant,
        first: impl FnOnce(),
    ) -> Result<&Targets, Error> {
        let work_out = async || {
            first();
            let known = owner.partition_count();
            let named = self.token.as_ref().map_or(0, ReadToken::partitions);
            let mut targets = match self.consistency {
                Consistency::Strong => ends(owner, deadline).await?.into_iter().map(Some).collect(),
                Consistency::Eventual if named > known => vec![None; ends(owner, deadline).await?.len()],
                Consistency::Eventual => vec![None; known as usize],
            };
            if targets.len() < named as usize {
                return Err(Error::TokenBeyondLog { partition: named - 1, partitions: targets.len() });
            }
            if let Some(token) = &self.token {
                for (target, partition) in targets.iter_mut().zip((0..).map(PartitionId::new)) {
                    // `None` is less than every offset.
                    *target = (*target).max(token.end_of(partition));
                }
            }
            Ok(Targets(targets))
        };
        self.targets.get_or_try_init(work_out).await
    }
}

/// The ends of the log. Asks again while the log is unavailable.
async fn ends(owner: &dyn Owner, deadline: Instant) -> Result<Vec<Offset>, Error> {
    loop {
        let error = match timeout_at(deadline, owner.ends()).await {
            Ok(Ok(ends)) => return Ok(ends),
            Ok(Err(error)) => error,
            Err(_) => OwnerError::Unavailable("it does not answer in time".to_owned()),
        };
        if !matches!(error, OwnerError::Unavailable(_)) || Instant::now() + ENDS_PAUSE >= deadline {
            return Err(Error::LogEnds(error));
        }
        sleep(ENDS_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "log-a";

    fn token(log: &str, parts: &[(u32, i64)]) -> ReadToken {
        let mut token = ReadToken::new(log);
        parts.iter().for_each(|(p, end)| token.add(PartitionId::new(*p), Offset::new(*end)));
        token
    }

    #[test]
    fn words_for_consistency() {
        assert_eq!("strong".parse(), Ok(Consistency::Strong));
        assert_eq!("eventual".parse(), Ok(Consistency::Eventual));
        let error = "STRONG".parse::<Consistency>().expect_err("no such word");
        assert_eq!(error.to_string(), "consistency must be 'strong' or 'eventual', not \"STRONG\"");
        let error = "x".repeat(1000).parse::<Consistency>().expect_err("no such word");
        assert!(error.to_string().len() < 100, "{error}");
    }

    #[test]
    fn a_chosen_consistency_comes_before_defaults() {
        use Consistency::{Eventual, Strong};
        let check = |chosen: Option<Consistency>, fallback: Consistency, expected: (Consistency, Consistency)| {
            let goal = Goal::new(chosen, fallback, [], LOG).expect("a goal");
            assert_eq!((goal.consistency(), goal.strong_by_default().consistency()), expected);
        };
        check(None, Eventual, (Eventual, Strong));
        check(None, Strong, (Strong, Strong));
        check(Some(Eventual), Strong, (Eventual, Eventual));
        check(Some(Strong), Eventual, (Strong, Strong));
    }

    #[test]
    fn tokens_are_joined() {
        let check = |tokens: &[ReadToken], expected: Result<Option<ReadToken>, &str>| {
            let goal = Goal::new(None, Consistency::Eventual, tokens.iter().cloned(), LOG);
            let found = goal.map(|goal| goal.token).map_err(|e| e.to_string());
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected), "{tokens:?}"),
                Err(text) => assert!(found.as_ref().is_err_and(|e| e.contains(text)), "{found:?}"),
            }
        };
        let (a, b) = (token(LOG, &[(0, 5), (1, 9)]), token(LOG, &[(1, 3), (2, 4)]));
        check(&[], Ok(None));
        check(std::slice::from_ref(&a), Ok(Some(a.clone())));
        check(&[a, b], Ok(Some(token(LOG, &[(0, 5), (1, 9), (2, 4)]))));
        check(&[token("log-b", &[(0, 1)])], Err("of another log"));
    }
}
