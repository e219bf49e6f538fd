//! What an operator turns.

use limits::{ByteSize, PromDuration};
use serde::{Deserialize, Serialize};

/// Settings of the gateway. What concerns one tenant is a limit, not a setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Take the tenant from `X-Scope-OrgID`. The binary sets it from its own `auth_enabled`.
    #[serde(skip)]
    pub auth_enabled: bool,
    /// The tenant of all requests when authentication is off. Loki calls it `fake`.
    pub no_auth_tenant: String,
    /// The largest body as it comes over the wire; above it 413. Loki's default.
    pub max_recv_msg_size: ByteSize,
    /// The largest body once it is unpacked; above it 413. Lower than Loki's 5000 MB: unpacked bodies and the
    /// records made from them are in memory, so this times two must fit into `inflight_bytes_max`.
    pub max_decompressed_size: ByteSize,
    /// Bytes of all requests in flight: bodies, unpacked bodies and their records. Above it requests get 503 and
    /// `Retry-After`. This bounds the gateway's memory.
    pub inflight_bytes_max: ByteSize,
    /// Bodies above this are decoded away from the threads that serve connections. Smaller ones are done before
    /// the hand-over would pay.
    pub offload_bytes_min: ByteSize,
    /// Records are split above this. Kafka takes about 1 MB by default.
    pub record_bytes_max: ByteSize,
    /// How long the log may take to make a request durable; then 503. Longer than the log's own time limit
    /// (kafka.delivery_timeout): a request that is given up while the log still tries may be there twice when its
    /// client repeats it.
    pub append_timeout: PromDuration,
    /// What `Retry-After` says, rounded up to seconds.
    pub retry_after: PromDuration,
    /// A stream without an entry for this long is not active any more: it does not count against the stream limits.
    pub stream_idle_timeout: PromDuration,
    /// How many gateways share the global limits when they do not know of one another (no control topic); each
    /// enforces an equal part. With a control topic each has the part that it gets of a tenant's traffic.
    pub gateway_count: u32,
    /// A tenant without a limit of its own (ingestion_partitions_tenant_shard_size) is spread over as many partitions
    /// as its rate takes at this many bytes a second each, rejected bytes not counted. Lower spreads the work of
    /// large tenants further; higher keeps their rows together, in fewer and larger blocks.
    pub partition_rate_target: ByteSize,
    /// But over no fewer partitions than these, or all there are. More balances small installations better and makes
    /// more and smaller pieces of small tenants.
    pub shards_min: u32,
    /// A tenant gets fewer partitions when half of them would have done for this long. It gets more at once.
    pub shards_shrink_after: PromDuration,
    /// A stream above this many bytes a second through this gateway is spread over all partitions of its tenant,
    /// record by record; 0: never. A partition of its own would take more than it should.
    pub stream_rate_max: ByteSize,
    /// A new partition of the log is used after it has been known for this long: query services and consumers must
    /// know it first, so this must be longer than they take to look (kafka.metadata_refresh).
    pub new_partition_delay: PromDuration,
    /// After so many failed appends in a row a partition is avoided, and the log counts as unavailable when they
    /// failed on several partitions: requests then get 503 at once.
    pub breaker_failures: u32,
    /// How often a request is let through to find out whether a failing partition or log works again.
    pub breaker_probe: PromDuration,
    /// How many of a stream's rejected entries are named one by one in an answer; 0 means all.
    pub max_returned_stream_errors: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            auth_enabled: false,
            no_auth_tenant: "fake".to_owned(),
            max_recv_msg_size: ByteSize::from_mb(100),
            max_decompressed_size: ByteSize::from_mb(100),
            inflight_bytes_max: ByteSize::from_mb(256),
            offload_bytes_min: ByteSize::from_kb(64),
            record_bytes_max: ByteSize::from_kb(900),
            append_timeout: PromDuration::from_secs(15),
            retry_after: PromDuration::from_secs(1),
            stream_idle_timeout: PromDuration::from_hours(1),
            gateway_count: 1,
            partition_rate_target: ByteSize::from_mb(4),
            shards_min: 4,
            shards_shrink_after: PromDuration::from_mins(10),
            stream_rate_max: ByteSize::from_mb(2),
            new_partition_delay: PromDuration::from_secs(10),
            breaker_failures: 5,
            breaker_probe: PromDuration::from_secs(1),
            max_returned_stream_errors: 10,
        }
    }
}

impl Config {
    /// What is wrong with the settings that a type cannot say; one text for each problem.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |is_right: bool, text: String| {
            if !is_right {
                problems.push(text);
            }
        };
        if let Err(e) = model::TenantId::new(&self.no_auth_tenant) {
            check(false, format!("no_auth_tenant: {e}"));
        }
        check(!self.max_recv_msg_size.is_zero(), "max_recv_msg_size: must not be 0".into());
        check(!self.max_decompressed_size.is_zero(), "max_decompressed_size: must not be 0".into());
        check(
            self.max_decompressed_size <= ByteSize::from_mb(2048),
            "max_decompressed_size: must be at most 2GB".into(),
        );
        let needed = self.max_recv_msg_size.max(self.max_decompressed_size).bytes().saturating_mul(2);
        check(
            self.inflight_bytes_max.bytes() >= needed,
            format!("inflight_bytes_max: must be at least twice the largest body: {}", ByteSize::from_bytes(needed)),
        );
        let record = self.record_bytes_max;
        check(record >= ByteSize::from_kb(16), "record_bytes_max: must be at least 16KB".into());
        check(record <= ByteSize::from_mb(64), "record_bytes_max: must be at most 64MB".into());
        check(!self.append_timeout.is_zero(), "append_timeout: must not be 0".into());
        check(self.gateway_count > 0, "gateway_count: must be at least 1".into());
        check(!self.partition_rate_target.is_zero(), "partition_rate_target: must not be 0".into());
        check(self.shards_min > 0, "shards_min: must be at least 1".into());
        check(self.breaker_failures > 0, "breaker_failures: must be at least 1".into());
        check(!self.breaker_probe.is_zero(), "breaker_probe: must not be 0".into());
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validation() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
        let wrong = Config {
            no_auth_tenant: "a/b".into(),
            inflight_bytes_max: ByteSize::from_mb(10),
            gateway_count: 0,
            partition_rate_target: ByteSize::from_bytes(0),
            shards_min: 0,
            breaker_failures: 0,
            breaker_probe: PromDuration::ZERO,
            ..Config::default()
        };
        let problems = wrong.problems();
        assert_eq!(problems.len(), 7, "{problems:?}");
        assert!(problems[1].contains("at least twice the largest body: 200MB"));
    }
}
