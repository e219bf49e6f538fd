//! The sections that belong to the process as a whole, not to one crate.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use limits::{ByteSize, PromDuration};
use serde::{Deserialize, Serialize};
use telemetry::LogFormat;

/// Settings that several roles share.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommonSettings {
    /// The folder that holds `log/` and `store/`.
    pub path_prefix: PathBuf,
}

impl Default for CommonSettings {
    fn default() -> Self {
        Self { path_prefix: "./millrace-data".into() }
    }
}

/// Where blocks and heads are kept.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// A bucket of S3, or of another server with the same API. Without the name of a bucket, the folder is used.
    pub s3: object_store::S3Config,
}

/// How processes of one installation find each other.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// The name of this process in logs, heads and the control topic. Each start appends some random characters.
    /// Empty: the host's name.
    pub name: String,
    /// Where this process runs, such as an availability zone. Other processes see it, and it is part of the name of a
    /// follower's consumer group.
    pub zone: String,
    /// Where other processes reach this one, as host:port. Empty: the address it listens on, or the host's name when
    /// it listens on all addresses.
    pub advertise_address: String,
    /// The control topic.
    pub control: control::Config,
    /// Requests to owners in other processes.
    pub fleet: fleet::Config,
}

/// How the process listens, logs and stops.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// By default only this machine is served, because Millrace does not authenticate anybody.
    pub http_listen_address: IpAddr,
    /// HTTP/1, HTTP/2 and OTLP over gRPC share one port.
    pub http_listen_port: u16,
    /// How long draining and the last cut may take after SIGTERM.
    pub graceful_shutdown_timeout: PromDuration,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// `logfmt` (for people) or `json`.
    pub log_format: LogFormat,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            http_listen_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            http_listen_port: 3100,
            graceful_shutdown_timeout: PromDuration::from_secs(30),
            log_level: "info".into(),
            log_format: LogFormat::Logfmt,
        }
    }
}

/// The local log. One machine needs few partitions, because all of them share one journal and its syncs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalLogSettings {
    /// Number of partitions. The consumer works on each one separately. It can be raised later, never lowered.
    pub partitions: u32,
    /// A journal file is closed at this size. Retention removes whole files.
    pub segment_size: ByteSize,
    /// How long records are kept after they are in blocks, so that they can be replayed.
    pub retention_period: PromDuration,
    /// How many bytes of such records are kept at most.
    pub retention_size: ByteSize,
    /// Bytes of the newest records kept in memory, so that the consumer need not read files.
    pub cache_size: ByteSize,
}

impl Default for LocalLogSettings {
    fn default() -> Self {
        Self {
            partitions: 2,
            segment_size: ByteSize::from_mb(64),
            retention_period: PromDuration::from_secs(24 * 3600),
            retention_size: ByteSize::from_mb(4096),
            cache_size: ByteSize::from_mb(32),
        }
    }
}

/// Where the limits of single tenants come from.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OverridesSettings {
    /// Overrides files, separated by commas; later ones win. Empty: no overrides.
    pub file: String,
    /// How often the files are read again.
    pub period: PromDuration,
}

impl Default for OverridesSettings {
    fn default() -> Self {
        Self { file: String::new(), period: PromDuration::from_secs(10) }
    }
}

impl OverridesSettings {
    /// The files, in their order.
    pub fn files(&self) -> Vec<PathBuf> {
        self.file.split(',').map(str::trim).filter(|f| !f.is_empty()).map(PathBuf::from).collect()
    }
}

/// Where spans go.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracingSettings {
    /// Base address of an OTLP/HTTP receiver, such as `http://127.0.0.1:4318`. Empty: spans are not exported.
    pub otlp_endpoint: String,
}
