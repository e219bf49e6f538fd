//! The table of limits.

use std::collections::BTreeMap;

use model::{RegexMode, compile_regex};
use serde::{Deserialize, Serialize};
use serde_yaml_ng::{Mapping, Value};

use crate::{
    BlockedQuery, ByteSize, DeletionMode, OtlpConfig, PolicyStream, PromDuration, RateStrategy, ShardStreams,
    StreamRetention, Until, nearest,
};

macro_rules! limits {
    ($($(#[$attribute:meta])* $name:ident: $type:ty = $default:expr;)*) => {
        /// Every limit of one tenant, under Loki's name. 0 means "no limit" unless said otherwise.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Limits {
            $($(#[$attribute])* pub $name: $type,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Limits {
            /// The names of all limits.
            pub const KEYS: &[&str] = &[$(stringify!($name)),*];
        }
    };
}

limits! {
    /// Whether `ingestion_rate_mb` is of all gateways together or of each.
    ingestion_rate_strategy: RateStrategy = RateStrategy::Global;
    /// Bytes of lines and metadata a second, in units of 2^20. Requests above it get 429.
    ingestion_rate_mb: f64 = 4.0;
    /// How much may come at once, in units of 2^20; at least the largest request.
    ingestion_burst_size_mb: f64 = 6.0;
    /// The longest entry: line and metadata.
    max_line_size: ByteSize = ByteSize::from_kb(256);
    /// Cut longer lines instead of refusing them.
    max_line_size_truncate: bool = false;
    /// Written behind a line that was cut.
    max_line_size_truncate_identifier: String = String::new();
    /// Labels of a stream; `service_name` is not counted.
    max_label_names_per_series: u32 = 15;
    /// Bytes of a label's name.
    max_label_name_length: u32 = 1024;
    /// Bytes of a label's value.
    max_label_value_length: u32 = 2048;
    /// Refuse entries older than `reject_old_samples_max_age`.
    reject_old_samples: bool = true;
    /// See `reject_old_samples`.
    reject_old_samples_max_age: PromDuration = PromDuration::from_hours(7 * 24);
    /// How far in the future an entry may lie.
    creation_grace_period: PromDuration = PromDuration::from_mins(10);
    /// Active streams on one gateway.
    max_streams_per_user: u32 = 0;
    /// Active streams on all gateways together.
    max_global_streams_per_user: u32 = 5000;
    /// Bytes a second of one stream.
    per_stream_rate_limit: ByteSize = ByteSize::from_mb(3);
    /// Bytes of one stream at once.
    per_stream_rate_limit_burst: ByteSize = ByteSize::from_mb(15);
    /// Old setting of Loki. Entries are taken in any order here.
    unordered_writes: bool = true;
    /// Take structured metadata.
    allow_structured_metadata: bool = true;
    /// Bytes of one entry's metadata.
    max_structured_metadata_size: ByteSize = ByteSize::from_kb(64);
    /// Pairs of one entry's metadata.
    max_structured_metadata_entries_count: u32 = 128;
    /// Labels every stream must have.
    #[serde(deserialize_with = "crate::nested::names")]
    enforced_labels: Vec<String> = Vec::new();
    /// Refuse all pushes until then.
    block_ingestion_until: Option<Until> = None;
    /// The status of such a refusal; with 200 the data is silently dropped.
    block_ingestion_status_code: u16 = 260;
    /// As `block_ingestion_until`, for streams of a policy.
    block_ingestion_policy_until: BTreeMap<String, Until> = BTreeMap::new();

    /// Labels looked at for `service_name`, first one wins; an empty list switches it off.
    #[serde(deserialize_with = "crate::nested::names")]
    discover_service_name: Vec<String> = texts(&[
        "service", "app", "application", "app_name", "name", "app_kubernetes_io_name", "container", "container_name",
        "k8s_container_name", "component", "workload", "job", "k8s_job_name",
    ]);
    /// Add `detected_level` to the metadata.
    discover_log_levels: bool = true;
    /// Fields looked at for the level.
    #[serde(deserialize_with = "crate::nested::names")]
    log_level_fields: Vec<String> = texts(&[
        "level", "LEVEL", "Level", "log.level", "severity", "SEVERITY", "Severity", "SeverityText", "lvl", "LVL",
        "Lvl", "severity_text", "Severity_Text", "SEVERITY_TEXT",
    ]);
    /// How deep the level is looked for in JSON lines.
    log_level_from_json_max_depth: u32 = 2;
    /// Add 1 ns to an entry whose time is that of the one before, but whose line differs.
    increment_duplicate_timestamp: bool = false;
    /// Read and not needed: see [`ShardStreams`].
    shard_streams: ShardStreams = ShardStreams::default();
    /// What becomes of OTLP attributes.
    otlp_config: OtlpConfig = OtlpConfig::default();
    /// How many partitions a tenant's streams are spread over; 0 means all.
    ingestion_partitions_tenant_shard_size: u32 = 0;
    /// Streams of named policies. Read, not enforced yet.
    policy_stream_mapping: BTreeMap<String, Vec<PolicyStream>> = BTreeMap::new();
    /// Limits of named policies. Read, not enforced yet.
    policy_override_limits: BTreeMap<String, Value> = BTreeMap::new();
    /// Read, not enforced: there are no internal streams here.
    metric_aggregation_enabled: bool = false;
    /// Read, not enforced: there are no internal streams here.
    pattern_persistence_enabled: bool = false;
    /// A test aid of Loki; read and ignored.
    simulated_push_latency: PromDuration = PromDuration::ZERO;

    /// The largest `limit` of a log query.
    max_entries_limit_per_query: u32 = 5000;
    /// Series of one metric query.
    max_query_series: u32 = 500;
    /// The longest time range of a query.
    max_query_length: PromDuration = PromDuration::from_hours(721);
    /// How far back queries may look; the start is moved forward.
    max_query_lookback: PromDuration = PromDuration::ZERO;
    /// The longest `[5m]` of a metric query.
    max_query_range: PromDuration = PromDuration::ZERO;
    /// A query that takes longer gets 504.
    query_timeout: PromDuration = PromDuration::from_mins(1);
    /// Bytes one query may read.
    max_query_bytes_read: ByteSize = ByteSize::from_bytes(0);
    /// Bytes one query may read on one process.
    max_querier_bytes_read: ByteSize = ByteSize::from_mb(150 * 1024);
    /// Parts of one query that run at once; 0 switches querying off.
    max_query_parallelism: u32 = 32;
    /// As `max_query_parallelism`, for Loki's TSDB index.
    tsdb_max_query_parallelism: u32 = 128;
    /// Matchers of one query.
    max_streams_matchers_per_query: u32 = 1000;
    /// Tails at once.
    max_concurrent_tail_requests: u32 = 10;
    /// Labels every selector must name.
    #[serde(deserialize_with = "crate::nested::names")]
    required_labels: Vec<String> = Vec::new();
    /// Matchers every selector must have at least.
    minimum_labels_number: u32 = 0;
    /// Queries that are refused.
    blocked_queries: Vec<BlockedQuery> = Vec::new();
    /// Internal to Loki's store; read and not needed.
    cardinality_limit: u32 = 100_000;
    /// Internal to Loki's store; read and not needed.
    max_chunks_per_query: u32 = 2_000_000;
    /// Whether the volume endpoints answer.
    volume_enabled: bool = true;
    /// Series of a volume answer.
    volume_max_series: u32 = 1000;
    /// Query processes one tenant may use.
    max_queriers_per_tenant: u32 = 0;
    /// Share of the query processes one tenant may use.
    max_query_capacity: f64 = 0.0;
    /// Range metric queries are step-aligned when this is above 0.
    split_queries_by_interval: PromDuration = PromDuration::from_hours(1);
    /// Planning of metadata queries.
    split_metadata_queries_by_interval: PromDuration = PromDuration::from_hours(24);
    /// Planning of instant metric queries.
    split_instant_metric_queries_by_interval: PromDuration = PromDuration::from_hours(1);
    /// Answers that reach closer to now than this are not cached.
    max_cache_freshness_per_query: PromDuration = PromDuration::from_mins(10);
    /// Internal to Loki's store; read and not needed.
    query_ready_index_num_days: u32 = 0;
    /// As `max_cache_freshness_per_query`, for metadata.
    max_metadata_cache_freshness: PromDuration = PromDuration::from_hours(24);

    /// How long entries are kept; 0 means for ever; at least 24h.
    retention_period: PromDuration = PromDuration::ZERO;
    /// Retention of their own for streams that match.
    retention_stream: Vec<StreamRetention> = Vec::new();
    /// What a delete request may do.
    deletion_mode: DeletionMode = DeletionMode::FilterAndDelete;

    /// Rules of one group.
    ruler_max_rules_per_rule_group: u32 = 0;
    /// Rule groups of the tenant.
    ruler_max_rule_groups_per_tenant: u32 = 0;
    /// Rules are evaluated this long after their time.
    ruler_evaluation_delay_duration: PromDuration = PromDuration::ZERO;
    /// Alertmanagers of the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_alertmanager_config: Option<Value> = None;
    /// Whether remote write is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_disabled: Option<Value> = None;
    /// Remote write: where to.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_url: Option<Value> = None;
    /// Remote write: how long to wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_timeout: Option<Value> = None;
    /// Remote write: headers to send.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_headers: Option<Value> = None;
    /// Remote write: relabelling.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_relabel_configs: Option<Value> = None;
    /// Remote write: queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_queue_capacity: Option<Value> = None;
    /// Remote write: queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_queue_min_shards: Option<Value> = None;
    /// Remote write: queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_queue_max_shards: Option<Value> = None;
    /// Remote write: queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_queue_max_samples_per_send: Option<Value> = None;
    /// Remote write: queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_queue_batch_send_deadline: Option<Value> = None;
    /// Remote write: queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_queue_min_backoff: Option<Value> = None;
    /// Remote write: queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_queue_max_backoff: Option<Value> = None;
    /// Remote write: queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_queue_retry_on_ratelimit: Option<Value> = None;
    /// Remote write: signing.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_sigv4_config: Option<Value> = None;
    /// Remote write: everything by client name.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruler_remote_write_config: Option<Value> = None;
}

fn texts(of: &[&str]) -> Vec<String> {
    of.iter().map(|text| (*text).to_owned()).collect()
}

impl Limits {
    /// These limits with the keys of `changes` changed: what is not given stays.
    ///
    /// # Errors
    /// One text for each key that does not exist (naming the nearest one that does) or has no fitting value,
    /// and for each rule of [`Limits::validate`] that is broken.
    pub fn changed(&self, changes: &Mapping) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let base = match serde_yaml_ng::to_value(self) {
            Ok(Value::Mapping(base)) => base,
            Ok(_) | Err(_) => return Err(vec!["limits cannot be written as a mapping".to_owned()]),
        };
        let mut merged = base.clone();
        for (key, value) in changes {
            let Some(name) = key.as_str().filter(|name| Self::KEYS.contains(name)) else {
                problems.push(unknown_key(key));
                continue;
            };
            if value.is_null() {
                continue;
            }
            let mut one = base.clone();
            merge_key(&mut one, key, value);
            merge_key(&mut merged, key, value);
            if let Err(e) = serde_yaml_ng::from_value::<Self>(Value::Mapping(one)) {
                problems.push(format!("{name}: {e}"));
            }
        }
        if problems.is_empty() {
            match serde_yaml_ng::from_value::<Self>(Value::Mapping(merged)) {
                Ok(limits) => return limits.validate().map(|()| limits),
                Err(e) => problems.push(e.to_string()),
            }
        }
        Err(problems)
    }

    /// Checks what a type cannot say.
    ///
    /// # Errors
    /// One text for each problem.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        let mut check = |is_right: bool, text: String| {
            if !is_right {
                problems.push(text);
            }
        };
        for (key, value) in
            [("ingestion_rate_mb", self.ingestion_rate_mb), ("ingestion_burst_size_mb", self.ingestion_burst_size_mb)]
        {
            check(value.is_finite() && value >= 0.0, format!("{key}: must be a number that is not negative"));
        }
        let is_period = |p: PromDuration| p.is_zero() || p >= PromDuration::from_hours(24);
        check(
            is_period(self.retention_period),
            "retention_period: must be at least 24h, or 0s to keep for ever".into(),
        );
        for rule in &self.retention_stream {
            let is_long = rule.period >= PromDuration::from_hours(24);
            check(is_long, format!("retention_stream: the period of {} must be at least 24h", rule.selector));
        }
        let otlp = &self.otlp_config;
        let rules = otlp.resource_attributes.attributes_config.iter();
        for rule in rules.chain(&otlp.scope_attributes).chain(&otlp.log_attributes) {
            let has_one = rule.attributes.is_empty() != rule.regex.is_empty();
            check(has_one, "otlp_config: a rule needs either attributes or a regex".into());
            if let Err(e) = compile_regex(&rule.regex, RegexMode::Whole) {
                check(false, format!("otlp_config: regex {:?}: {e}", rule.regex));
            }
        }
        for rule in &otlp.scope_attributes {
            let is_label = rule.action == crate::AttributeAction::IndexLabel;
            check(!is_label, "otlp_config: scope_attributes cannot become index labels".into());
        }
        let status = self.block_ingestion_status_code;
        check((200..600).contains(&status), format!("block_ingestion_status_code: {status} is no HTTP status"));
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// Values of `shard_streams` are changed one by one; all other limits are replaced as a whole.
fn merge_key(base: &mut Mapping, key: &Value, value: &Value) {
    match (base.get_mut(key), value) {
        (Some(Value::Mapping(old)), Value::Mapping(new)) if key.as_str() == Some("shard_streams") => {
            old.extend(new.clone());
        }
        _ => {
            base.insert(key.clone(), value.clone());
        }
    }
}

fn unknown_key(key: &Value) -> String {
    let name = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
    match nearest(&name, Limits::KEYS) {
        Some(known) => format!("there is no limit {name:?}; did you mean {known:?}?"),
        None => format!("there is no limit {name:?}"),
    }
}
