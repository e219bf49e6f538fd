//! Sends batches to a push API, as snappy-compressed protobuf with structured metadata.

use std::time::Duration;

use async_trait::async_trait;
use block_builder::replay::{Batch, SendError, Target};
use model::TenantId;

use crate::client::push::{put_bytes, put_varint};

/// A server that takes pushes.
pub(super) struct HttpTarget {
    agent: ureq::Agent,
    url: String,
    tenant: String,
}

impl HttpTarget {
    /// `base` is the server's address, with or without the path of the push API.
    pub(super) fn new(base: &str, tenant: &TenantId) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_global(Some(Duration::from_secs(120)))
            .user_agent(concat!("millrace-replay/", env!("CARGO_PKG_VERSION")));
        let base = base.trim_end_matches('/');
        let url = if base.ends_with("/push") { base.to_owned() } else { format!("{base}/loki/api/v1/push") };
        Self { agent: config.build().into(), url, tenant: tenant.to_string() }
    }
}

#[async_trait]
impl Target for HttpTarget {
    async fn send(&self, batch: &Batch) -> Result<(), SendError> {
        let (agent, url, tenant, id) = (self.agent.clone(), self.url.clone(), self.tenant.clone(), batch.id.clone());
        let body = encode(batch);
        #[expect(clippy::disallowed_methods, reason = "the HTTP client blocks")]
        let sent = tokio::task::spawn_blocking(move || push(&agent, &url, &tenant, &id, &body?)).await;
        sent.unwrap_or_else(|error| Err(SendError::Refused(format!("the push was lost: {error}"))))
    }
}

fn push(agent: &ureq::Agent, url: &str, tenant: &str, id: &str, body: &[u8]) -> Result<(), SendError> {
    let request = agent
        .post(url)
        .header("Content-Type", "application/x-protobuf")
        .header("X-Scope-OrgID", tenant)
        .header("X-Millrace-Batch-Id", id);
    let mut response = match request.send(body) {
        Ok(response) => response,
        Err(error) => {
            let reason = format!("cannot reach {url}: {error}");
            return Err(SendError::Again { reason, after: Duration::ZERO });
        }
    };
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let after = response.headers().get("Retry-After").and_then(|v| v.to_str().ok()?.parse().ok());
    let text = response.body_mut().read_to_string().unwrap_or_default();
    let reason = format!("{url} answered {status}: {}", text.trim());
    if status.as_u16() == 429 || status.is_server_error() {
        let after = Duration::from_secs(after.unwrap_or(0)).min(Duration::from_secs(60));
        return Err(SendError::Again { reason, after });
    }
    let hint = if ["too old", "too far behind", "timestamp"].iter().any(|word| text.contains(word)) {
        "; raise reject_old_samples_max_age (or set reject_old_samples: false) for that tenant there, then go on"
    } else {
        ""
    };
    Err(SendError::Refused(format!("{reason}{hint}")))
}

/// `logproto.PushRequest` (spec/http-api 2.3), the entries of each stream in their order.
fn encode(batch: &Batch) -> Result<Vec<u8>, SendError> {
    let mut streams: Vec<Vec<u8>> = Vec::with_capacity(batch.streams.len());
    for stream in &batch.streams {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, stream.labels.to_string().as_bytes());
        streams.push(message);
    }
    for entry in &batch.entries {
        let nanos = entry.ts.nanos();
        let mut timestamp = Vec::with_capacity(16);
        timestamp.push(0x08); // seconds
        put_varint(&mut timestamp, nanos.div_euclid(1_000_000_000) as u64);
        timestamp.push(0x10); // nanos
        put_varint(&mut timestamp, nanos.rem_euclid(1_000_000_000) as u64);
        let mut message = Vec::with_capacity(entry.line.len() + 32);
        put_bytes(&mut message, 1, &timestamp);
        put_bytes(&mut message, 2, &entry.line);
        for (name, value) in &entry.metadata {
            let mut pair = Vec::with_capacity(name.len() + value.len() + 8);
            put_bytes(&mut pair, 1, name.as_bytes());
            put_bytes(&mut pair, 2, value.as_bytes());
            put_bytes(&mut message, 3, &pair);
        }
        put_bytes(&mut streams[entry.stream], 2, &message);
    }
    let mut request = Vec::with_capacity(batch.bytes + 1024);
    for stream in streams {
        put_bytes(&mut request, 1, &stream);
    }
    let packed = snap::raw::Encoder::new().compress_vec(&request);
    packed.map_err(|error| SendError::Refused(format!("a batch cannot be compressed: {error}")))
}

#[cfg(test)]
mod tests {
    use block_builder::replay::{BatchStream, Entry};
    use bytes::Bytes;
    use model::{Labels, Offset, PartitionId, TimestampNs};

    use super::*;

    #[test]
    fn a_batch_is_a_push_request() {
        let tenant = TenantId::new("t").expect("a name");
        let stream = |value: &str| BatchStream { tenant: tenant.clone(), labels: Labels::from_pairs([("a", value)]) };
        let entry = |stream, line: &'static [u8], metadata: &[(&str, &str)]| Entry {
            stream,
            ts: TimestampNs::from_nanos(1_000_000_002),
            line: Bytes::from_static(line),
            metadata: metadata.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            offset: Offset::ZERO,
        };
        let batch = Batch {
            id: "x".to_owned(),
            partition: PartitionId::new(0),
            streams: vec![stream("b"), stream("c")],
            entries: vec![entry(0, b"hi\xff", &[("k", "v")]), entry(1, b"", &[]), entry(0, b"x", &[])],
            bytes: 0,
        };
        let plain = snap::raw::Decoder::new().decompress_vec(&encode(&batch).expect("small")).expect("snappy");
        let time = b"\x0a\x04\x08\x01\x10\x02";
        let mut expected = b"\x0a\x29\x0a\x07{a=\"b\"}\x12\x13".to_vec();
        expected.extend_from_slice(time);
        expected.extend_from_slice(b"\x12\x03hi\xff\x1a\x06\x0a\x01k\x12\x01v\x12\x09");
        expected.extend_from_slice(time);
        expected.extend_from_slice(b"\x12\x01x\x0a\x13\x0a\x07{a=\"c\"}\x12\x08");
        expected.extend_from_slice(time);
        expected.extend_from_slice(b"\x12\x00");
        assert_eq!(plain, expected);
    }

    #[test]
    fn addresses() {
        let tenant = TenantId::new("t").expect("a name");
        let check = |base: &str, expected: &str| assert_eq!(HttpTarget::new(base, &tenant).url, expected);
        check("http://h:1", "http://h:1/loki/api/v1/push");
        check("http://h:1/", "http://h:1/loki/api/v1/push");
        check("https://h/x/push", "https://h/x/push");
    }
}
