//! What an answer must hold at least: the consistency that a request asks for.
//!
//! *Eventual*: what owners have consumed. *Strong*: everything that was acknowledged before the query; the log's ends
//! are asked once for a request, and every answer must reach them. A *read token*, which a push was answered with, asks
//! for what that push wrote, whatever the consistency.

use std::{str::FromStr, time::Duration};

use http::HeaderMap;
use model::{Offset, PartitionId, ReadToken};
use owner::{Owner, OwnerError};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout_at},
};

use crate::{error::Error, params::Params};

/// The header that chooses the consistency.
const CONSISTENCY: &str = "x-millrace-consistency";
/// The parameter that does the same; the header goes before it.
const CONSISTENCY_PARAM: &str = "consistency";
/// The header with read tokens, joined by commas.
const READ_TOKEN: &str = "x-millrace-read-token";

/// The pause before a log that cannot be asked is asked again.
const ENDS_PAUSE: Duration = Duration::from_millis(50);

/// What an answer holds at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Everything that was acknowledged before the query.
    Strong,
    /// What has been consumed: on a healthy system all but the last tenths of a second.
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

impl FromStr for Consistency {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "strong" => Ok(Self::Strong),
            "eventual" => Ok(Self::Eventual),
            _ => {
                let shown: String = text.chars().take(40).collect();
                Err(Error::bad(format!("consistency must be 'strong' or 'eventual', not {shown:?}")))
            }
        }
    }
}

/// What one request asks for; all reads that it causes share it.
#[derive(Debug)]
pub(crate) struct Goal {
    consistency: Consistency,
    /// The request names the consistency.
    is_chosen: bool,
    token: Option<ReadToken>,
    targets: OnceCell<Targets>,
}

/// A goal in offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Targets(Vec<Option<Offset>>);

impl Targets {
    /// How many partitions the log has at least.
    pub(crate) fn partitions(&self) -> usize {
        self.0.len()
    }

    /// Answers about a partition must hold everything below this.
    pub(crate) fn at_least(&self, partition: PartitionId) -> Option<Offset> {
        self.0.get(partition.index() as usize).copied().flatten()
    }
}

impl Goal {
    /// What a request asks for; `fallback` where it does not say.
    pub(crate) fn read(
        headers: &HeaderMap,
        params: &Params,
        fallback: Consistency,
        log_id: &str,
    ) -> Result<Self, Error> {
        let consistency = match headers.get(CONSISTENCY) {
            // Bytes outside ASCII make a word that is none of the two.
            Some(value) => String::from_utf8_lossy(value.as_bytes()).trim().to_owned(),
            None => params.get(CONSISTENCY_PARAM).to_owned(),
        };
        let chosen = if consistency.is_empty() { None } else { Some(consistency.parse()?) };
        let mut token: Option<ReadToken> = None;
        for value in headers.get_all(READ_TOKEN) {
            let text = String::from_utf8_lossy(value.as_bytes());
            for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                let part: ReadToken = part.parse().map_err(|error: model::TokenError| Error::bad(error.to_string()))?;
                if !part.is_of(log_id) {
                    return Err(Error::bad(
                        "the read token is of another log: the log was replaced since the push, or the push went to \
                         another installation",
                    ));
                }
                match &mut token {
                    Some(joined) => joined.join(&part).map_err(|error| Error::bad(error.to_string()))?,
                    None => token = Some(part),
                }
            }
        }
        let consistency = chosen.unwrap_or(fallback);
        Ok(Self { consistency, is_chosen: chosen.is_some(), token, targets: OnceCell::new() })
    }

    /// The goal of the history that a tail begins with: strong, unless the request says otherwise. The live part comes
    /// from those who are furthest ahead; a history from somebody who lags could leave a gap before it.
    pub(crate) fn of_history(&self) -> Self {
        let consistency = if self.is_chosen { self.consistency } else { Consistency::Strong };
        Self { consistency, is_chosen: self.is_chosen, token: self.token.clone(), targets: OnceCell::new() }
    }

    pub(crate) fn consistency(&self) -> Consistency {
        self.consistency
    }

    /// True when somebody may have to wait for it.
    pub(crate) fn asks_for_offsets(&self) -> bool {
        self.consistency == Consistency::Strong || self.token.is_some()
    }

    /// The goal in offsets, worked out when it is first asked for; `first` is called then.
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
                let (last, count) = (named - 1, targets.len());
                return Err(Error::bad(format!(
                    "the read token names partition {last}, but the log has {count} partitions"
                )));
            }
            if let Some(token) = &self.token {
                for (target, partition) in targets.iter_mut().zip((0..).map(PartitionId::new)) {
                    // None is the least.
                    *target = (*target).max(token.end_of(partition));
                }
            }
            Ok(Targets(targets))
        };
        self.targets.get_or_try_init(work_out).await
    }
}

/// The ends of the log; asked again while it is unavailable.
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
    use http::{HeaderName, HeaderValue};

    use super::*;

    const LOG: &str = "log-a";

    fn goal(headers: &[(&str, &str)], query: &str) -> Result<Goal, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header's value");
            map.append(HeaderName::from_bytes(name.as_bytes()).expect("a header's name"), value);
        }
        let params = Params::decode(b"", query).expect("good parameters");
        Goal::read(&map, &params, Consistency::Eventual, LOG).map_err(|e| e.to_string())
    }

    fn token(log: &str, parts: &[(u32, i64)]) -> String {
        let mut token = ReadToken::new(log);
        parts.iter().for_each(|(p, end)| token.add(PartitionId::new(*p), Offset::new(*end)));
        token.to_string()
    }

    #[test]
    fn consistency_of_requests() {
        let check = |headers: &[(&str, &str)], query: &str, expected: Result<Consistency, &str>| {
            let found = goal(headers, query).map(|goal| goal.consistency());
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected), "{headers:?} {query}"),
                Err(text) => assert!(found.as_ref().is_err_and(|e| e.contains(text)), "{found:?}"),
            }
        };
        check(&[], "", Ok(Consistency::Eventual));
        check(&[], "consistency=strong", Ok(Consistency::Strong));
        check(&[("X-Millrace-Consistency", "strong")], "", Ok(Consistency::Strong));
        check(&[("X-Millrace-Consistency", " eventual ")], "consistency=strong", Ok(Consistency::Eventual));
        check(&[("X-Millrace-Consistency", "STRONG")], "", Err("must be 'strong' or 'eventual', not \"STRONG\""));
        check(&[("X-Millrace-Consistency", "\u{e9}")], "", Err("must be 'strong' or 'eventual'"));
        check(&[], "consistency=weak", Err("not \"weak\""));
    }

    #[test]
    fn histories_are_strong_unless_told() {
        let check = |query: &str, expected: Consistency| {
            assert_eq!(goal(&[], query).expect("a goal").of_history().consistency(), expected);
        };
        check("", Consistency::Strong);
        check("consistency=eventual", Consistency::Eventual);
    }

    #[test]
    fn tokens_of_requests() {
        let check = |values: &[&str], expected: Result<Option<&[(u32, i64)]>, &str>| {
            let headers: Vec<_> = values.iter().map(|value| ("X-Millrace-Read-Token", *value)).collect();
            let found = goal(&headers, "").map(|goal| goal.token.map(|token| token.to_string()));
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected.map(|parts| token(LOG, parts))), "{values:?}"),
                Err(text) => assert!(found.as_ref().is_err_and(|e| e.contains(text)), "{found:?}"),
            }
        };
        let (a, b) = (token(LOG, &[(0, 5), (1, 9)]), token(LOG, &[(1, 3), (2, 4)]));
        check(&[], Ok(None));
        check(&[""], Ok(None));
        check(&[&a], Ok(Some(&[(0, 5), (1, 9)])));
        check(&[&format!("{a}, {b},")], Ok(Some(&[(0, 5), (1, 9), (2, 4)])));
        check(&[&a, &b], Ok(Some(&[(0, 5), (1, 9), (2, 4)])));
        check(&["1.zz"], Err("no read token"));
        check(&[&token("log-b", &[(0, 1)])], Err("of another log"));
    }
}
