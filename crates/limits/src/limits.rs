//! The limits themselves. Names, defaults and meanings are Loki's (spec/limits); 0 mostly means "no limit".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_yaml_ng::Value;

use crate::{ByteSize, OtlpConfig, PromDuration};

/// How the ingestion rate is shared by several gateways.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RateStrategy {
    /// The limit is for all gateways together.
    #[default]
    Global,
    /// The limit is for each gateway.
    Local,
}

/// What deletion requests do.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeletionMode {
    /// None are taken.
    Disabled,
    /// Lines are hidden, not removed.
    FilterOnly,
    /// Lines are hidden at once and removed later.
    #[default]
    FilterAndDelete,
}

/// Retention of the streams that a selector matches.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionStream {
    /// Matchers only.
    pub selector: String,
    /// The highest one wins; the shortest period on ties.
    pub priority: i64,
    /// At least 24h.
    pub period: PromDuration,
}

/// Spreading of streams that are too hot. Accepted as Loki writes it; Millrace spreads by batch without a label.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShardStreams {
    /// Spread at all.
    pub enabled: bool,
    /// Log each decision.
    pub logging_enabled: bool,
    /// Split by time as well.
    pub time_sharding_enabled: bool,
    /// Leave recent entries out of that.
    pub time_sharding_ignore_recent: PromDuration,
    /// The rate that a stream is spread above.
    pub desired_rate: ByteSize,
}

impl Default for ShardStreams {
    fn default() -> Self {
        Self {
            enabled: true,
            logging_enabled: false,
            time_sharding_enabled: false,
            time_sharding_ignore_recent: PromDuration::from_secs(40 * 60),
            desired_rate: ByteSize::kib(1536),
        }
    }
}

/// A kind of query that is refused.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlockedQuery {
    /// The whole text, or a regex over it.
    pub pattern: String,
    /// `pattern` is a regex.
    pub regex: bool,
    /// The FNV-1a hash of the text instead of a pattern.
    pub hash: u32,
    /// `metric`, `filter`, `limited`; none: all.
    pub types: Vec<String>,
    /// Only requests with these tags.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query_tags: BTreeMap<String, String>,
}

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $default:expr,)*) => {
        /// The limits of one tenant. Fields are the YAML keys.
        #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Limits { $($(#[$doc])* pub $name: $kind,)* }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }
    };
}

fn texts(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

limits! {
    /// Whether the rate is for all gateways together or for each.
    ingestion_rate_strategy: RateStrategy = RateStrategy::Global,
    /// Bytes of entries a second, in 2^20 bytes.
    ingestion_rate_mb: f64 = 4.0,
    /// What may come at once, in 2^20 bytes.
    ingestion_burst_size_mb: f64 = 6.0,
    /// Longest line.
    max_line_size: ByteSize = ByteSize::kib(256),
    /// Cut longer lines instead of refusing them.
    max_line_size_truncate: bool = false,
    /// Appended to a line that was cut.
    max_line_size_truncate_identifier: String = String::new(),
    /// Labels of a stream, `service_name` not counted.
    max_label_names_per_series: usize = 15,
    /// Longest label name, in bytes.
    max_label_name_length: usize = 1024,
    /// Longest label value, in bytes.
    max_label_value_length: usize = 2048,
    /// Refuse entries older than `reject_old_samples_max_age`.
    reject_old_samples: bool = true,
    /// How old an entry may be.
    reject_old_samples_max_age: PromDuration = PromDuration::from_hours(168),
    /// How far in the future an entry may be.
    creation_grace_period: PromDuration = PromDuration::from_secs(600),
    /// Active streams at one gateway.
    max_streams_per_user: usize = 0,
    /// Active streams at all gateways together.
    max_global_streams_per_user: usize = 5000,
    /// Bytes of one stream a second.
    per_stream_rate_limit: ByteSize = ByteSize::mib(3),
    /// What may come of one stream at once.
    per_stream_rate_limit_burst: ByteSize = ByteSize::mib(15),
    /// Accepted; entries may always be out of order.
    unordered_writes: bool = true,
    /// Take structured metadata.
    allow_structured_metadata: bool = true,
    /// Bytes of an entry's structured metadata.
    max_structured_metadata_size: ByteSize = ByteSize::kib(64),
    /// Pairs of an entry's structured metadata.
    max_structured_metadata_entries_count: usize = 128,
    /// Labels that every stream must have.
    enforced_labels: Vec<String> = Vec::new(),
    /// Refuse all pushes until this time (RFC 3339). Empty: do not.
    block_ingestion_until: String = String::new(),
    /// The status of such a refusal; 200 drops silently.
    block_ingestion_status_code: u16 = 260,
    /// The same by policy.
    block_ingestion_policy_until: BTreeMap<String, String> = BTreeMap::new(),
    /// Labels that `service_name` is made from; none: it is not made.
    discover_service_name: Vec<String> = texts(
        "service app application app_name name app_kubernetes_io_name container container_name \
         k8s_container_name component workload job k8s_job_name"),
    /// Add `detected_level`.
    discover_log_levels: bool = true,
    /// Where a level is looked for.
    log_level_fields: Vec<String> = texts(
        "level LEVEL Level log.level severity SEVERITY Severity SeverityText lvl LVL Lvl \
         severity_text Severity_Text SEVERITY_TEXT"),
    /// How deep in JSON lines; 0: any depth.
    log_level_from_json_max_depth: usize = 2,
    /// Move equal timestamps with different lines apart by 1 ns.
    increment_duplicate_timestamp: bool = false,
    /// Spreading of hot streams.
    shard_streams: ShardStreams = ShardStreams::default(),
    /// What becomes of OTLP attributes.
    otlp_config: OtlpConfig = OtlpConfig::default(),
    /// Partitions of the log that a tenant uses; 0: all.
    ingestion_partitions_tenant_shard_size: u32 = 0,
    /// Accepted; policies are not implemented.
    policy_stream_mapping: BTreeMap<String, Value> = BTreeMap::new(),
    /// Accepted; policies are not implemented.
    policy_override_limits: BTreeMap<String, Value> = BTreeMap::new(),
    /// Accepted; internal streams are not written.
    metric_aggregation_enabled: bool = false,
    /// Accepted; internal streams are not written.
    pattern_persistence_enabled: bool = false,
    /// Accepted and ignored: a test aid of Loki's.
    simulated_push_latency: PromDuration = PromDuration::ZERO,

    /// Entries of one answer.
    max_entries_limit_per_query: usize = 5000,
    /// Series of one answer.
    max_query_series: usize = 500,
    /// Longest range of a query.
    max_query_length: PromDuration = PromDuration::from_hours(721),
    /// How far back a query may look.
    max_query_lookback: PromDuration = PromDuration::ZERO,
    /// Longest `[range]` of a metric query.
    max_query_range: PromDuration = PromDuration::ZERO,
    /// How long a query may take.
    query_timeout: PromDuration = PromDuration::from_secs(60),
    /// Bytes that a query may read.
    max_query_bytes_read: ByteSize = ByteSize(0),
    /// Bytes that a query may read in one process.
    max_querier_bytes_read: ByteSize = ByteSize::gib(150),
    /// Below 1: querying is off.
    max_query_parallelism: usize = 32,
    /// Below 1: querying is off.
    tsdb_max_query_parallelism: usize = 128,
    /// Matchers of one selector.
    max_streams_matchers_per_query: usize = 1000,
    /// Tails at one time.
    max_concurrent_tail_requests: usize = 10,
    /// Labels that every selector must match on.
    required_labels: Vec<String> = Vec::new(),
    /// How many labels a selector must match on.
    minimum_labels_number: usize = 0,
    /// Queries that are refused.
    blocked_queries: Vec<BlockedQuery> = Vec::new(),
    /// Accepted; a limit of Loki's index.
    cardinality_limit: usize = 100_000,
    /// Accepted; a limit of Loki's store.
    max_chunks_per_query: usize = 2_000_000,
    /// Answer volume queries.
    volume_enabled: bool = true,
    /// Groups of a volume answer.
    volume_max_series: usize = 1000,
    /// Accepted; a matter of Loki's scheduler.
    max_queriers_per_tenant: usize = 0,
    /// Accepted; a matter of Loki's scheduler.
    max_query_capacity: f64 = 0.0,
    /// Above 0: range metric queries are aligned to their step.
    split_queries_by_interval: PromDuration = PromDuration::from_hours(1),
    /// Accepted; queries are not split by time.
    split_metadata_queries_by_interval: PromDuration = PromDuration::from_hours(24),
    /// Accepted; queries are not split by time.
    split_instant_metric_queries_by_interval: PromDuration = PromDuration::from_hours(1),
    /// Accepted; blocks never change, so that nothing cached can be stale.
    max_cache_freshness_per_query: PromDuration = PromDuration::from_secs(600),
    /// Accepted; there is no index to make ready.
    query_ready_index_num_days: usize = 0,
    /// Accepted; blocks never change.
    max_metadata_cache_freshness: PromDuration = PromDuration::from_hours(24),

    /// How long entries are kept; 0s: for ever.
    retention_period: PromDuration = PromDuration::ZERO,
    /// The same for some streams.
    retention_stream: Vec<RetentionStream> = Vec::new(),
    /// What deletion requests do.
    deletion_mode: DeletionMode = DeletionMode::FilterAndDelete,

    /// Rules of a group.
    ruler_max_rules_per_rule_group: usize = 0,
    /// Rule groups.
    ruler_max_rule_groups_per_tenant: usize = 0,
    /// How late rules are evaluated.
    ruler_evaluation_delay_duration: PromDuration = PromDuration::ZERO,
}

impl Limits {
    /// Every problem of these values, each naming its key.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.otlp_config.problems();
        for (key, rate) in
            [("ingestion_rate_mb", self.ingestion_rate_mb), ("ingestion_burst_size_mb", self.ingestion_burst_size_mb)]
        {
            if !rate.is_finite() || rate < 0.0 {
                problems.push(format!("{key}: {rate} is no rate"));
            }
        }
        let day = PromDuration::from_hours(24);
        if !self.retention_period.is_zero() && self.retention_period < day {
            problems.push(format!("retention_period: {} is less than 24h", self.retention_period));
        }
        for (i, stream) in self.retention_stream.iter().enumerate() {
            if stream.period < day {
                problems.push(format!("retention_stream[{i}].period: {} is less than 24h", stream.period));
            }
        }
        if !self.block_ingestion_until.is_empty() && self.blocked_until().is_none() {
            problems.push(format!("block_ingestion_until: {:?} is no time of RFC 3339", self.block_ingestion_until));
        }
        problems
    }

    /// `block_ingestion_until` as nanoseconds since the epoch, if it is set and a time.
    pub fn blocked_until(&self) -> Option<model::TimestampNs> {
        let time: jiff::Timestamp = self.block_ingestion_until.parse().ok()?;
        Some(model::TimestampNs::from_nanos(i64::try_from(time.as_nanosecond()).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_round_trip() {
        let text = serde_yaml_ng::to_string(&Limits::default()).expect("yaml");
        assert!(text.contains("max_line_size: 256KB\n") && text.contains("max_query_length: 30d1h\n"), "{text}");
        assert_eq!(serde_yaml_ng::from_str::<Limits>(&text).expect("limits"), Limits::default());
    }

    #[test]
    fn problems_are_all_named() {
        let limits = Limits {
            ingestion_rate_mb: -1.0,
            retention_period: PromDuration::from_hours(1),
            block_ingestion_until: "tomorrow".into(),
            ..Limits::default()
        };
        let found = limits.problems();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(Limits::default().problems().is_empty());
    }
}
