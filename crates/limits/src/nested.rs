//! Limits that are more than one value.

use serde::{Deserialize, Serialize};

use crate::{ByteSize, PromDuration};

/// How `ingestion_rate_mb` is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateStrategy {
    /// Of all gateways together.
    #[default]
    Global,
    /// Of each gateway.
    Local,
}

/// What a delete request may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeletionMode {
    /// Requests are refused.
    Disabled,
    /// Entries are hidden from queries and stay where they are.
    FilterOnly,
    /// Entries are hidden at once and removed later.
    #[default]
    FilterAndDelete,
}

/// How a stream is split that is too fast. Millrace spreads hot streams by batch instead and needs no label for
/// it; the keys are read so that a configuration can be copied over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShardStreams {
    /// Whether streams are split by a label.
    pub enabled: bool,
    /// Whether they are split by time too.
    pub time_sharding_enabled: bool,
    /// Entries younger than this are not split by time.
    pub time_sharding_ignore_recent: PromDuration,
    /// Each part is to have at most this rate a second.
    pub desired_rate: ByteSize,
}

impl Default for ShardStreams {
    fn default() -> Self {
        Self {
            enabled: true,
            time_sharding_enabled: false,
            time_sharding_ignore_recent: PromDuration::from_mins(40),
            desired_rate: ByteSize::from_kb(1536),
        }
    }
}

/// What becomes of OTLP attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpConfig {
    /// Attributes of the resource.
    pub resource_attributes: ResourceAttributes,
    /// Attributes of the instrumentation scope.
    pub scope_attributes: Vec<AttributeRule>,
    /// Attributes of the log record.
    pub log_attributes: Vec<AttributeRule>,
    /// Make the severity text a stream label.
    pub severity_text_as_label: bool,
}

/// Rules for attributes of the resource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceAttributes {
    /// Leave out the default list of attributes that become stream labels.
    pub ignore_defaults: bool,
    /// Rules; the first that matches applies.
    pub attributes_config: Vec<AttributeRule>,
}

/// One rule: these attributes (or those that match the regex) become this.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttributeRule {
    /// What they become.
    pub action: AttributeAction,
    /// The attributes' names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
    /// A regex for the whole name; excludes `attributes`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub regex: String,
}

/// What an attribute becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributeAction {
    /// A stream label.
    IndexLabel,
    /// Structured metadata.
    #[default]
    StructuredMetadata,
    /// Nothing.
    Drop,
}

/// A retention of its own for streams that match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamRetention {
    /// Matchers only: `{env="dev"}`.
    pub selector: String,
    /// The highest one wins; of equal ones the shortest period.
    #[serde(default)]
    pub priority: i64,
    /// At least 24h.
    pub period: PromDuration,
}

/// A query that is refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlockedQuery {
    /// The query's text, or with `regex` a pattern for it.
    pub pattern: String,
    /// Whether `pattern` is a regex.
    pub regex: bool,
    /// FNV-1 hash of the query's text; 0 for any.
    pub hash: u32,
    /// Kinds of query it applies to (`metric`, `filter`, `limited`); all when empty. A list, or text with commas.
    #[serde(deserialize_with = "names")]
    pub types: Vec<String>,
    /// Query tags it applies to.
    pub query_tags: std::collections::BTreeMap<String, String>,
}

/// Streams that belong to a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyStream {
    /// Matchers only.
    pub selector: String,
    /// The highest one wins.
    #[serde(default)]
    pub priority: i64,
}

/// A list of names, or one text with commas between them.
pub(crate) fn names<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Names::deserialize(deserializer)? {
        Names::List(list) => list,
        Names::Text(text) => text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect(),
    })
}
