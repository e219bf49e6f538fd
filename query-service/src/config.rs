//! Settings of the query service.

use limits::PromDuration;
use owner::LogTailConfig;
use reading::Consistency;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Settings of the query service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether requests must name their tenant. If not, all requests belong to [`Config::no_auth_tenant`]. The binary
    /// sets this from its own `auth_enabled`.
    #[serde(skip)]
    pub auth_enabled: bool,
    /// The tenant of all requests while authentication is off. The default is Loki's.
    pub no_auth_tenant: String,
    /// Whether one request may name several tenants (`a|b`).
    pub multi_tenant_queries_enabled: bool,
    /// Number of pieces of work of all queries that may run on processors at a time; 0 means one for each processor.
    /// More only makes queries take turns more often.
    pub cpu_permits: usize,
    /// Number of queries that may run at a time. Others wait. Each holds pages of a few blocks in memory.
    pub queries_concurrent_max: usize,
    /// Number of queries of one tenant that may run or wait. More are answered with status 429.
    pub max_outstanding_per_tenant: usize,
    /// Number of blocks that one query reads at a time; 0 means two for each processor permit, so that some wait for
    /// the store while others compute. A larger number takes more memory and hides a slow store.
    pub blocks_parallel: usize,
    /// Bytes of block indexes kept in memory. Opening a block whose index is not cached costs one read of its tail.
    pub index_cache_bytes: u64,
    /// Largest age of a head that a plan is made from. An old head is never wrong: memory serves more, or answers that
    /// it cannot, and the query plans again. A smaller age costs more reads of the object store.
    pub head_age_max: PromDuration,
    /// How long the store may take to answer before plans use the last heads that were read. This way recent rows can
    /// be read during an outage of the store.
    pub head_wait_max: PromDuration,
    /// The consistency of queries that name none (with `X-Millrace-Consistency` or `consistency=`). `eventual`: the
    /// rows that owners have consumed. `strong`: all rows that were acknowledged before; every query asks the log for
    /// its ends. On the local log this costs nothing, so queries are always strong.
    pub consistency: Consistency,
    /// How long a query waits for owners to answer and to consume what it asks for. Then it fails.
    pub strong_wait_max: PromDuration,
    /// Settings for reading partitions that no consumer serves from the log.
    pub log_tail: LogTailConfig,
    /// How long a tail may last.
    pub tail_max_duration: PromDuration,
    /// Size of the largest form body that is accepted.
    pub body_bytes_max: usize,
    /// Answers of this size or more are compressed with gzip if the client accepts it. Compressing smaller ones gains
    /// nothing.
    pub gzip_bytes_min: usize,
}

impl Default for Config {
    fn default() -> Self {
        let reading = reading::Config::default();
        Self {
            auth_enabled: false,
            no_auth_tenant: "fake".to_owned(),
            multi_tenant_queries_enabled: false,
            cpu_permits: reading.cpu_permits,
            queries_concurrent_max: 32,
            max_outstanding_per_tenant: 2048,
            blocks_parallel: reading.blocks_parallel,
            index_cache_bytes: reading.index_cache_bytes,
            head_age_max: PromDuration::from(reading.head_age_max),
            head_wait_max: PromDuration::from(reading.head_wait_max),
            consistency: Consistency::Eventual,
            strong_wait_max: PromDuration::from(reading.strong_wait_max),
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
    /// When settings are wrong; the text names every one of them.
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
        problems.extend(self.reading().problems());
        problems.extend(self.log_tail.problems());
        if problems.is_empty() { Ok(()) } else { Err(Error::Start(problems.join("; "))) }
    }

    /// The settings of reading among these. In the settings file they are not in a section of their own, so that their
    /// names stay what they were.
    pub(crate) fn reading(&self) -> reading::Config {
        reading::Config {
            cpu_permits: self.cpu_permits,
            blocks_parallel: self.blocks_parallel,
            index_cache_bytes: self.index_cache_bytes,
            head_age_max: self.head_age_max.get(),
            head_wait_max: self.head_wait_max.get(),
            strong_wait_max: self.strong_wait_max.get(),
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
