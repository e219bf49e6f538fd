//! OTLP logs: which attribute becomes a stream label, which structured metadata, and what is the line.
//!
//! Resource and scope attributes are the same for many records: they become the common metadata of a slice and are
//! stored once. A record's own pair counts before one of its resource, and that before one of its scope.

mod text;

use std::borrow::Cow;

use bytes::Bytes;
use limits::{AttributeAction, Limits};
use model::{Labels, TimestampNs};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message;

use super::media_types::{JSON, PROTOBUF};
use crate::intake::{Intake, PushedLabels};
use crate::names::label_name;
use crate::otlp_rules::{AttributeRules, OtlpRules};
use crate::protocol::{Answer, BodyFormat, Decode, Decoding, Protocol};
use crate::refusal::Refusal;
use crate::unpack::Packing;
use text::write_text;

const SEVERITY_TEXT: &str = "severity_text";

type Pairs = Vec<(String, String)>;

/// OTLP logs, over HTTP; `grpc.rs` takes them over gRPC.
pub(crate) struct Otlp;

impl Otlp {
    /// A protobuf message as gRPC carries it.
    pub(crate) const GRPC: BodyFormat = BodyFormat {
        content_type: "application/grpc",
        content_encoding: "",
        packing: Packing::Plain,
        decode: decode_protobuf,
    };
}

impl Protocol for Otlp {
    fn format(&self) -> &'static str {
        "otlp"
    }

    fn path(&self) -> &'static str {
        "/otlp/v1/logs"
    }

    fn body_format(&self, media_type: &str, content_encoding: &str) -> Result<BodyFormat, Refusal> {
        let (content_type, decode) = match media_type {
            PROTOBUF => (PROTOBUF, decode_protobuf as Decode),
            JSON => (JSON, decode_json as Decode),
            other => return Err(Refusal::malformed(format_args!("content type: {other} is not supported"))),
        };
        let (packing, content_encoding) = match content_encoding {
            "" => (Packing::Plain, ""),
            "gzip" => (Packing::Gzip, "gzip"),
            "zstd" => (Packing::Zstd, "zstd"),
            "lz4" => (Packing::Lz4, "lz4"),
            other => {
                let text = format_args!("unsupported content encoding {other}: only gzip, lz4 and zstd are supported");
                return Err(Refusal::malformed(text));
            }
        };
        Ok(BodyFormat { content_type, content_encoding, packing, decode })
    }

    fn refusal(&self, refusal: &Refusal) -> Answer {
        let body = RpcStatus { message: refusal.text.clone() }.encode_to_vec().into();
        // Exporters give up on 500 and repeat on 503.
        let status = if refusal.status == 500 { 503 } else { refusal.status };
        Answer { status, content_type: Some("application/octet-stream"), body }
    }
}

/// `google.rpc.Status`, of which OTLP clients show the message.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
}

fn decode_protobuf(body: Bytes, decoding: &mut Decoding<'_>) -> Result<(), Refusal> {
    // The message, and the records made from it.
    decoding.reserve(body.len().saturating_mul(2))?;
    let message = ExportLogsServiceRequest::decode(body).map_err(Refusal::malformed)?;
    convert(&message, decoding.intake)
}

fn decode_json(body: Bytes, decoding: &mut Decoding<'_>) -> Result<(), Refusal> {
    decoding.admit_text(&body)?;
    let message: ExportLogsServiceRequest = serde_json::from_slice(&body).map_err(Refusal::malformed)?;
    convert(&message, decoding.intake)
}

fn convert(request: &ExportLogsServiceRequest, intake: &mut Intake) -> Result<(), Refusal> {
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
    rules: &AttributeRules,
    labels: &mut Pairs,
    metadata: &mut Pairs,
) -> Result<(), Refusal> {
    let to = match rules.action(&attribute.key) {
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
