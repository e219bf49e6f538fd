//! `otlp_config`: which OTLP attribute becomes a stream label, which one structured metadata, and which is dropped.

use limits::{AttributeAction, AttributeRule, Limits, OtlpConfig};
use model::{RegexMode, compile_regex};

/// Resource attributes that become stream labels unless configured otherwise.
const INDEX_LABELS: [&str; 18] = [
    "service.name",
    "service.namespace",
    "service.instance.id",
    "deployment.environment",
    "deployment.environment.name",
    "cloud.region",
    "cloud.availability_zone",
    "k8s.cluster.name",
    "k8s.namespace.name",
    "k8s.pod.name",
    "k8s.container.name",
    "container.name",
    "k8s.replicaset.name",
    "k8s.deployment.name",
    "k8s.statefulset.name",
    "k8s.daemonset.name",
    "k8s.cronjob.name",
    "k8s.job.name",
];

/// `otlp_config` of a tenant, its regexes compiled.
#[derive(Debug)]
pub(crate) struct OtlpRules {
    pub(crate) resource: AttributeRules,
    pub(crate) scope: AttributeRules,
    pub(crate) log: AttributeRules,
    /// The severity's text is a stream label.
    pub(crate) is_severity_label: bool,
}

/// The rules for attributes of one kind. The first one that names an attribute counts.
#[derive(Debug)]
pub(crate) struct AttributeRules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    action: AttributeAction,
    names: Vec<String>,
    regex: Option<regex::Regex>,
}

impl OtlpRules {
    pub(crate) fn new(limits: &Limits) -> Self {
        let OtlpConfig { resource_attributes, scope_attributes, log_attributes, severity_text_as_label } =
            &limits.otlp_config;
        let mut resource = rules(&resource_attributes.attributes_config);
        if !resource_attributes.ignore_defaults {
            let names = INDEX_LABELS.map(str::to_owned).to_vec();
            resource.push(Rule { action: AttributeAction::IndexLabel, names, regex: None });
        }
        Self {
            resource: AttributeRules(resource),
            scope: AttributeRules(rules(scope_attributes)),
            log: AttributeRules(rules(log_attributes)),
            is_severity_label: *severity_text_as_label,
        }
    }
}

fn rules(configured: &[AttributeRule]) -> Vec<Rule> {
    let rule = |rule: &AttributeRule| Rule {
        action: rule.action,
        names: rule.attributes.clone(),
        // Limits are checked when they are read, so every regex compiles here.
        regex: (!rule.regex.is_empty()).then(|| compile_regex(&rule.regex, RegexMode::Whole).ok()).flatten(),
    };
    configured.iter().map(rule).collect()
}

impl AttributeRules {
    /// What becomes of an attribute. Without a rule it is structured metadata.
    pub(crate) fn action(&self, name: &str) -> AttributeAction {
        let applies = |rule: &&Rule| {
            rule.names.iter().any(|n| n == name) || rule.regex.as_ref().is_some_and(|regex| regex.is_match(name))
        };
        self.0.iter().find(applies).map_or(AttributeAction::StructuredMetadata, |rule| rule.action)
    }
}
