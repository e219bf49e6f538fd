//! The settings, and what follows from them.

use std::{net::SocketAddr, path::PathBuf};

use limits::Limits;
use serde::{Deserialize, Serialize};

use crate::{
    error::SettingsError,
    sections::{
        ClusterSettings, CommonSettings, LocalLogSettings, OverridesSettings, ServerSettings, StoreSettings,
        TracingSettings,
    },
    tree,
};

/// All settings of a process.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Take the tenant from `X-Scope-OrgID` and refuse requests without it. When false, everything belongs to tenant
    /// `fake`.
    pub auth_enabled: bool,
    /// Settings that several roles share.
    pub common: CommonSettings,
    /// How the process listens, logs and stops.
    pub server: ServerSettings,
    /// The local log: the journal under `log/`. Not used with Kafka.
    pub log: LocalLogSettings,
    /// Apache Kafka in place of the local log.
    pub kafka: log_bus::KafkaConfig,
    /// Where blocks and heads are kept, when not in the folder `store/`.
    pub store: StoreSettings,
    /// How this process finds the others of its installation. Only used with Kafka.
    pub cluster: ClusterSettings,
    /// The gateway, which takes pushes.
    pub gateway: ingest_gateway::Config,
    /// The consumer, which owns partitions.
    pub consumer: partition_consumer::Config,
    /// The builder, which makes blocks.
    pub builder: block_builder::Config,
    /// The query service.
    pub querier: query_service::Config,
    /// Limits of tenants that have none of their own (Loki's names).
    pub limits_config: Limits,
    /// Limits of single tenants.
    pub runtime_config: OverridesSettings,
    /// Where spans go.
    pub tracing: TracingSettings,
}

impl Settings {
    /// Every value that cannot work, with its section in front.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut add =
            |section: &str, found: Vec<String>| problems.extend(found.into_iter().map(|p| format!("{section}: {p}")));
        if self.kafka.is_set() {
            add("kafka", self.kafka.problems());
            add("cluster.control", self.cluster.control.problems());
            add("cluster.fleet", self.cluster.fleet.problems());
        } else {
            add("log", self.local_log().problems());
        }
        if self.uses_s3() {
            add("store.s3", self.store.s3.problems());
        }
        add("gateway", self.gateway.problems());
        add("consumer", self.consumer.problems());
        add("builder", self.builder.problems());
        add("querier", self.querier.validate().err().map(|e| e.to_string()).into_iter().collect());
        add("limits_config", self.limits_config.validate().err().unwrap_or_default());
        problems
    }

    /// The address to listen on.
    pub fn http(&self) -> SocketAddr {
        SocketAddr::new(self.server.http_listen_address, self.server.http_listen_port)
    }

    /// True when blocks are kept in S3, not in a folder.
    pub fn uses_s3(&self) -> bool {
        !self.store.s3.bucket.is_empty()
    }

    /// True when the consumer follows partitions and never leads one.
    pub fn follows(&self) -> bool {
        self.consumer.mode == partition_consumer::Mode::Follow
    }

    /// Kafka's settings for this process. Followers share partitions in a group of their own, one for each zone.
    pub fn kafka_config(&self) -> log_bus::KafkaConfig {
        let mut kafka = self.kafka.clone();
        if self.follows() {
            kafka.group = match self.cluster.zone.as_str() {
                "" => format!("{}-followers", kafka.group),
                zone => format!("{}-followers-{zone}", kafka.group),
            };
        }
        kafka
    }

    /// The local log's settings for this process.
    pub fn local_log(&self) -> log_bus::LocalLogConfig {
        log_bus::LocalLogConfig {
            partitions: self.log.partitions,
            segment_bytes: self.log.segment_size.bytes(),
            retention_age: self.log.retention_period.get(),
            retention_bytes: self.log.retention_size.bytes(),
            cache_bytes: self.log.cache_size.as_usize(),
            ..log_bus::LocalLogConfig::new(self.log_folder())
        }
    }

    /// How the process logs, and where its spans go.
    pub fn tracing_config(&self) -> telemetry::TracingConfig {
        let endpoint = &self.tracing.otlp_endpoint;
        telemetry::TracingConfig {
            level: self.server.log_level.clone(),
            format: self.server.log_format,
            otlp_endpoint: (!endpoint.is_empty()).then(|| endpoint.clone()),
        }
    }

    /// The folder of the local log.
    pub fn log_folder(&self) -> PathBuf {
        self.common.path_prefix.join("log")
    }

    /// The folder of the object store, when there is no bucket.
    pub fn store_folder(&self) -> PathBuf {
        self.common.path_prefix.join("store")
    }

    /// Where data is kept, for a person to read.
    pub fn places(&self) -> String {
        let folder = &self.common.path_prefix;
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let store = match self.uses_s3() {
            true => format!("bucket {}", self.store.s3.bucket),
            false => self.store_folder().display().to_string(),
        };
        match (self.kafka.is_set(), self.uses_s3()) {
            (false, false) => folder.display().to_string(),
            (false, true) => format!("{} and {store}", self.log_folder().display()),
            (true, _) => format!("topic {} of Kafka and {store}", self.kafka.topic),
        }
    }

    /// As YAML, with every value.
    ///
    /// # Errors
    /// When a value cannot be written as YAML.
    pub fn to_yaml(&self) -> Result<String, SettingsError> {
        tree::to_yaml(self)
    }

    /// As YAML, with the values that differ from the defaults.
    ///
    /// # Errors
    /// When a value cannot be written as YAML.
    pub fn diff_yaml(&self) -> Result<String, SettingsError> {
        tree::difference_yaml(self, &Self::default())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_yaml_ng::Value;

    use super::*;

    #[test]
    fn the_documented_file_shows_the_defaults() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/millrace.yaml");
        let text = std::fs::read_to_string(file).expect("docs/millrace.yaml");
        let documented: Settings = serde_yaml_ng::from_str(&text).expect("the documented file is good");
        assert_eq!(documented, Settings::default());
        // It names every key, so that a reader finds all of them there.
        let (documented, all): (Value, Value) = (
            serde_yaml_ng::from_str(&text).expect("yaml"),
            serde_yaml_ng::to_value(Settings::default()).expect("yaml"),
        );
        assert_eq!(tree::difference(&all, &documented), None);
    }

    #[test]
    fn prints_what_differs() {
        let mut settings = Settings::default();
        settings.server.http_listen_port = 8080;
        assert_eq!(settings.diff_yaml().expect("yaml"), "server:\n  http_listen_port: 8080\n");
    }

    #[test]
    fn lists_every_problem() {
        let mut settings = Settings::default();
        settings.log.partitions = 0;
        settings.gateway.gateway_count = 0;
        let problems = settings.problems();
        let has = |section: &str| problems.iter().any(|problem| problem.starts_with(section));
        assert!(has("log: ") && has("gateway: "), "{problems:?}");
    }
}
