//! OTLP logs: which attribute becomes a stream label, which structured metadata, and what is the line.
//!
//! Resource and scope attributes are the same for many records: they become the common metadata of a slice and are
//! stored once. A record's own pair counts before one of its resource, and that before one of its scope.

use std::borrow::Cow;

use limits::{AttributeAction, AttributeRule, Limits, OtlpConfig};
use model::{Labels, RegexMode, TimestampNs, compile_regex};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};

use crate::intake::{Intake, PushedLabels, Refusal};
use crate::names::label_name;

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

const SEVERITY_TEXT: &str = "severity_text";

/// `otlp_config` of a tenant, its regexes compiled.
#[derive(Debug)]
pub(crate) struct OtlpRules {
    resource: Vec<Rule>,
    scope: Vec<Rule>,
    log: Vec<Rule>,
    is_severity_label: bool,
}

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
            resource,
            scope: rules(scope_attributes),
            log: rules(log_attributes),
            is_severity_label: *severity_text_as_label,
        }
    }
}

fn rules(configured: &[AttributeRule]) -> Vec<Rule> {
    let rule = |rule: &AttributeRule| Rule {
        action: rule.action,
        names: rule.attributes.clone(),
        // Limits were validated when they were read: a regex that does not compile never gets here.
        regex: (!rule.regex.is_empty()).then(|| compile_regex(&rule.regex, RegexMode::Whole).ok()).flatten(),
    };
    configured.iter().map(rule).collect()
}

fn action(rules: &[Rule], name: &str) -> AttributeAction {
    let applies = |rule: &&Rule| {
        rule.names.iter().any(|n| n == name) || rule.regex.as_ref().is_some_and(|regex| regex.is_match(name))
    };
    rules.iter().find(applies).map_or(AttributeAction::StructuredMetadata, |rule| rule.action)
}

type Pairs = Vec<(String, String)>;

/// Takes a request into `intake`.
pub(crate) fn convert(request: &ExportLogsServiceRequest, intake: &mut Intake) -> Result<(), Refusal> {
    let rules = intake.rules().clone();
    for resource in &request.resource_logs {
        if resource.scope_logs.iter().any(|scope| !scope.log_records.is_empty()) {
            take_resource(resource, &rules.otlp, intake)?;
        }
    }
    Ok(())
}

fn take_resource(resource: &ResourceLogs, rules: &OtlpRules, intake: &mut Intake) -> Result<(), Refusal> {
    let (mut labels, mut common) = (Pairs::new(), Pairs::new());
    for attribute in resource.resource.iter().flat_map(|r| &r.attributes) {
        sort_attribute(attribute, &rules.resource, &mut labels, &mut common)?;
    }
    for scope in resource.scope_logs.iter().filter(|scope| !scope.log_records.is_empty()) {
        let mut common = common.clone();
        add_scope(scope, rules, &mut common)?;
        // Of pairs with one name the first one counts: the resource's before the scope's.
        let mut seen = std::collections::HashSet::new();
        common.retain(|(name, value)| !value.is_empty() && seen.insert(name.clone()));
        take_records(scope, rules, &labels, &common, intake)?;
    }
    Ok(())
}

fn add_scope(logs: &ScopeLogs, rules: &OtlpRules, common: &mut Pairs) -> Result<(), Refusal> {
    let Some(scope) = &logs.scope else { return Ok(()) };
    // Scope attributes cannot become labels: the configuration refuses such a rule.
    let mut no_labels = Pairs::new();
    for attribute in &scope.attributes {
        sort_attribute(attribute, &rules.scope, &mut no_labels, common)?;
    }
    common.push(("scope_name".to_owned(), scope.name.clone()));
    common.push(("scope_version".to_owned(), scope.version.clone()));
    if scope.dropped_attributes_count != 0 {
        common.push(("scope_dropped_attributes_count".to_owned(), scope.dropped_attributes_count.to_string()));
    }
    Ok(())
}

fn take_records(
    scope: &ScopeLogs,
    rules: &OtlpRules,
    resource_labels: &Pairs,
    common: &Pairs,
    intake: &mut Intake,
) -> Result<(), Refusal> {
    let mut own_labels: Option<Pairs> = None;
    let mut text = String::new();
    for record in &scope.log_records {
        let (mut labels, mut metadata) = (Pairs::new(), Pairs::new());
        for attribute in &record.attributes {
            sort_attribute(attribute, &rules.log, &mut labels, &mut metadata)?;
        }
        if rules.is_severity_label && !record.severity_text.is_empty() {
            labels.push((SEVERITY_TEXT.to_owned(), record.severity_text.clone()));
        }
        if own_labels.as_ref() != Some(&labels) {
            if own_labels.is_some() {
                intake.end();
            }
            let all = labels_of(resource_labels.iter().chain(&labels), intake.limits());
            intake.begin(PushedLabels::Read(all), common.clone());
            own_labels = Some(labels);
        }
        // An empty value is dropped; of pairs with one name the later one counts, so the fields come last.
        metadata.iter().filter(|(_, value)| !value.is_empty()).for_each(|(n, v)| intake.metadata.push_fit(n, v));
        add_fields(record, rules, intake);
        let time = [record.time_unix_nano, record.observed_time_unix_nano].into_iter().find(|time| *time != 0);
        let time = time.map_or(intake.now(), |t| TimestampNs::from_nanos(i64::try_from(t).unwrap_or(i64::MAX)));
        text.clear();
        let line = match record.body.as_ref().and_then(|body| body.value.as_ref()) {
            Some(Value::StringValue(line)) => line.as_str(),
            Some(value) => {
                write_text(value, &mut text);
                text.as_str()
            }
            None => "",
        };
        intake.entry(time, line.as_bytes());
    }
    intake.end();
    Ok(())
}

fn add_fields(record: &LogRecord, rules: &OtlpRules, intake: &mut Intake) {
    let pairs = &mut intake.metadata;
    let mut push = |name, value: &str| {
        if !value.is_empty() {
            pairs.push_fit(name, value);
        }
    };
    if record.observed_time_unix_nano != 0 && record.time_unix_nano != 0 {
        push("observed_timestamp", &record.observed_time_unix_nano.to_string());
    }
    if record.severity_number != 0 {
        push("severity_number", &record.severity_number.to_string());
    }
    if !rules.is_severity_label {
        push(SEVERITY_TEXT, &record.severity_text);
    }
    if record.dropped_attributes_count != 0 {
        push("dropped_attributes_count", &record.dropped_attributes_count.to_string());
    }
    if record.flags != 0 {
        push("flags", &record.flags.to_string());
    }
    push("trace_id", &hex(&record.trace_id));
    push("span_id", &hex(&record.span_id));
    push("event_name", &record.event_name);
}

fn labels_of<'a>(pairs: impl Iterator<Item = &'a (String, String)>, limits: &Limits) -> Labels {
    let labels = Labels::from_pairs(pairs.map(|(n, v)| (n.as_str(), v.as_str())));
    // Discovery looks at labels; without one there is nothing to look at, and still a stream needs a name.
    if labels.is_empty() && !limits.discover_service_name.is_empty() {
        return Labels::from_pairs([("service_name", "unknown_service")]);
    }
    labels
}

/// Puts an attribute where its rule says.
fn sort_attribute(
    attribute: &KeyValue,
    rules: &[Rule],
    labels: &mut Pairs,
    metadata: &mut Pairs,
) -> Result<(), Refusal> {
    let to = match action(rules, &attribute.key) {
        AttributeAction::Drop => return Ok(()),
        AttributeAction::IndexLabel => labels,
        AttributeAction::StructuredMetadata => metadata,
    };
    flatten(Cow::Borrowed(&attribute.key), attribute.value.as_ref(), to)
}

/// Adds a value; of a map each member under `name_member`.
fn flatten(name: Cow<'_, str>, value: Option<&AnyValue>, to: &mut Pairs) -> Result<(), Refusal> {
    let Some(value) = value.and_then(|value| value.value.as_ref()) else { return Ok(()) };
    if let Value::KvlistValue(members) = value {
        for member in &members.values {
            flatten(Cow::Owned(format!("{name}_{}", member.key)), member.value.as_ref(), to)?;
        }
        return Ok(());
    }
    let empty =
        || Refusal::new(400, format!("attribute name {name:?} has no character that may be kept (a-z, A-Z, 0-9)"));
    let fit = label_name(&name).ok_or_else(empty)?.into_owned();
    let mut text = String::new();
    write_text(value, &mut text);
    to.push((fit, text));
    Ok(())
}

/// A value as text: strings as they are, maps and arrays as JSON.
fn write_text(value: &Value, out: &mut String) {
    match value {
        Value::StringValue(text) => out.push_str(text),
        Value::BytesValue(bytes) => base64(bytes, out),
        _ => write_json(value, out),
    }
}

fn write_json(value: &Value, out: &mut String) {
    match value {
        Value::StringValue(text) => write_json_text(text, out),
        Value::BoolValue(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::IntValue(value) => out.push_str(&value.to_string()),
        Value::DoubleValue(value) => out.push_str(&value.to_string()),
        Value::BytesValue(bytes) => {
            out.push('"');
            base64(bytes, out);
            out.push('"');
        }
        Value::ArrayValue(array) => {
            out.push('[');
            for (i, item) in array.values.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                write_json_or_null(item.value.as_ref(), out);
            }
            out.push(']');
        }
        Value::KvlistValue(members) => {
            let mut sorted: Vec<&KeyValue> = members.values.iter().collect();
            sorted.sort_by(|a, b| a.key.cmp(&b.key));
            out.push('{');
            for (i, member) in sorted.into_iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                write_json_text(&member.key, out);
                out.push(':');
                write_json_or_null(member.value.as_ref().and_then(|v| v.value.as_ref()), out);
            }
            out.push('}');
        }
        // References into a dictionary exist in profiles only.
        _ => out.push_str("null"),
    }
}

fn write_json_or_null(value: Option<&Value>, out: &mut String) {
    match value {
        Some(value) => write_json(value, out),
        None => out.push_str("null"),
    }
}

fn write_json_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Standard alphabet, padded.
fn base64(bytes: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let is_padding = i > chunk.len();
            let digit = ALPHABET[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if is_padding { '=' } else { char::from(digit) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_texts() {
        let check = |bytes: &[u8], expected: &str| {
            let mut out = String::new();
            base64(bytes, &mut out);
            assert_eq!(out, expected);
        };
        check(b"", "");
        check(b"f", "Zg==");
        check(b"fo", "Zm8=");
        check(b"foo", "Zm9v");
        check(b"foobar", "Zm9vYmFy");
        check(&[0xff, 0xfe], "//4=");
    }
}
