//! What an operator turns.

use std::net::SocketAddr;

use limits::PromDuration;
use owner::LogTailConfig;
use serde::{Deserialize, Serialize};

use crate::{error::Error, goal::Consistency};

/// Settings of the query service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where [`crate::run`] listens. A process that serves several roles on one port uses
    /// [`crate::QueryService::router`] and never reads this.
    #[serde(skip)]
    pub listen: SocketAddr,
    /// Whether requests must name their tenant. Off: all belong to [`Config::no_auth_tenant`]. The binary sets it from its
    /// own `auth_enabled`.
    #[serde(skip)]
    pub auth_enabled: bool,
    /// The tenant of all requests while authentication is off. Loki's name by default.
    pub no_auth_tenant: String,
    /// Whether one request may name several tenants (`a|b`).
    pub multi_tenant_queries_enabled: bool,
    /// How many pieces of work run on processors at one time; 0: as many as there are processors. More than that
    /// only makes queries take turns more often.
    pub cpu_permits: usize,
    /// How many queries run at one time; others wait. Each holds pages of a few blocks in memory.
    pub queries_concurrent_max: usize,
    /// How many queries of one tenant may run or wait; above it they are answered 429.
    pub max_outstanding_per_tenant: usize,
    /// How many blocks one query reads at one time; 0: two for each processor permit, so that some wait for the store
    /// while others compute. Raising it costs memory and hides a slow store.
    pub blocks_parallel: usize,
    /// Bytes of block indexes kept in memory. An index that is not there costs one read of a block's tail.
    pub index_cache_bytes: u64,
    /// How old a head may be that a plan is made from. An old one is never wrong (memory then serves more, or says that
    /// it no longer can, and the plan is made again); a young one costs a read of the object store.
    pub head_age_max: PromDuration,
    /// How long the store may take to answer before plans are made from the last heads that were seen, so that recent
    /// reads go on while it is away.
    pub head_wait_max: PromDuration,
    /// What queries answer with that do not say it (`X-Millrace-Consistency` or `consistency=`): `eventual`, what owners
    /// have consumed, or `strong`, all that was acknowledged before, for which every query asks the log for its ends. On the
    /// local log, where that costs nothing, queries are strong anyway.
    pub consistency: Consistency,
    /// How long a query waits for owners to answer and to consume what it asks for, before it fails.
    pub strong_wait_max: PromDuration,
    /// Reading from the log what no consumer serves.
    pub log_tail: LogTailConfig,
    /// How long a tail may last.
    pub tail_max_duration: PromDuration,
    /// The largest form body taken.
    pub body_bytes_max: usize,
    /// Answers from this size on are packed with gzip where the client takes that. Smaller ones gain nothing.
    pub gzip_bytes_min: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 3100)),
            auth_enabled: false,
            no_auth_tenant: "fake".to_owned(),
            multi_tenant_queries_enabled: false,
            cpu_permits: 0,
            queries_concurrent_max: 32,
            max_outstanding_per_tenant: 2048,
            blocks_parallel: 0,
            index_cache_bytes: 256 << 20,
            head_age_max: PromDuration::from_secs(1),
            head_wait_max: PromDuration::from_secs(2),
            consistency: Consistency::Eventual,
            strong_wait_max: PromDuration::from_secs(10),
            log_tail: LogTailConfig::default(),
            tail_max_duration: PromDuration::from_hours(1),
            body_bytes_max: 10 << 20,
            gzip_bytes_min: 1400,
        }
    }
}

impl Config {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names every problem at once.
    pub fn validate(&self) -> Result<(), Error> {
        let mut problems = Vec::new();
        if let Err(error) = model::TenantId::new(&self.no_auth_tenant) {
            problems.push(format!("no_auth_tenant: {error}"));
        }
        let positive = [
            ("queries_concurrent_max", self.queries_concurrent_max),
            ("max_outstanding_per_tenant", self.max_outstanding_per_tenant),
            ("body_bytes_max", self.body_bytes_max),
        ];
        problems.extend(positive.iter().filter(|(_, n)| *n == 0).map(|(name, _)| format!("{name} must not be 0")));
        let lasting = [("head_wait_max", self.head_wait_max), ("strong_wait_max", self.strong_wait_max)];
        problems.extend(lasting.iter().filter(|(_, d)| d.is_zero()).map(|(name, _)| format!("{name} must not be 0")));
        problems.extend(self.log_tail.problems());
        if problems.is_empty() { Ok(()) } else { Err(Error::Start(problems.join("; "))) }
    }

    /// Processor permits with the default worked out.
    pub(crate) fn cpu_permits(&self) -> usize {
        match self.cpu_permits {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            set => set,
        }
    }

    /// Parallel blocks with the default worked out.
    pub(crate) fn blocks_parallel(&self) -> usize {
        match self.blocks_parallel {
            0 => self.cpu_permits() * 2,
            set => set,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        let text = serde_yaml_ng::to_string(&Config::default()).expect("settings can be written");
        assert!(text.contains("tail_max_duration: 1h"), "{text}");
        let read: Config = serde_yaml_ng::from_str(&text).expect("what was written can be read");
        assert_eq!(read, Config::default());
        assert!(serde_yaml_ng::from_str::<Config>("listens: x").is_err());
        assert!(Config::default().validate().is_ok());
        let wrong = Config {
            no_auth_tenant: "a/b".to_owned(),
            queries_concurrent_max: 0,
            strong_wait_max: PromDuration::from_secs(0),
            ..Config::default()
        };
        let problems = wrong.validate().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(
            problems.contains("no_auth_tenant")
                && problems.contains("queries_concurrent_max")
                && problems.contains("strong_wait_max"),
            "{problems}"
        );
    }
}
