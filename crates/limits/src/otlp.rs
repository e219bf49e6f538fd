//! `otlp_config`: what becomes of OTLP attributes (spec/http-api 3.5).

use serde::{Deserialize, Serialize};

/// What to do with attributes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OtlpAction {
    /// A label of the stream.
    IndexLabel,
    /// Structured metadata of the entry.
    #[default]
    StructuredMetadata,
    /// Neither.
    Drop,
}

/// One rule; the first that names an attribute applies.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpAttributesConfig {
    /// What to do.
    pub action: OtlpAction,
    /// Attributes by name. Not together with `regex`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
    /// Attributes whose whole name matches. Empty: not given.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub regex: String,
}

/// Rules for resource attributes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpResourceConfig {
    /// True: only `attributes_config` counts, not the list of spec/http-api 3.2.
    pub ignore_defaults: bool,
    /// In order.
    pub attributes_config: Vec<OtlpAttributesConfig>,
}

/// All rules of a tenant.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpConfig {
    /// For resource attributes.
    pub resource_attributes: OtlpResourceConfig,
    /// For scope attributes.
    pub scope_attributes: Vec<OtlpAttributesConfig>,
    /// For attributes of records.
    pub log_attributes: Vec<OtlpAttributesConfig>,
    /// `severity_text` becomes a label of the stream.
    pub severity_text_as_label: bool,
}

impl OtlpConfig {
    /// Every problem, each naming its place.
    pub(crate) fn problems(&self) -> Vec<String> {
        let places = [
            ("resource_attributes", &self.resource_attributes.attributes_config),
            ("scope_attributes", &self.scope_attributes),
            ("log_attributes", &self.log_attributes),
        ];
        let mut problems = Vec::new();
        for (place, rules) in places {
            for (i, rule) in rules.iter().enumerate() {
                if rule.attributes.is_empty() == rule.regex.is_empty() {
                    problems.push(format!("otlp_config.{place}[{i}]: give either `attributes` or `regex`"));
                }
                if let Err(error) = model::compile_regex(&rule.regex, model::RegexMode::Whole) {
                    problems.push(format!("otlp_config.{place}[{i}].regex: {error}"));
                }
            }
        }
        problems
    }
}
