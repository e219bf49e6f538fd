//! The layout of a cluster: the number of processes, the folders of its data, and the settings of all roles.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::role::Role;

/// Bucket of blocks and heads.
pub(super) const BUCKET: &str = "millrace";
/// Topic of the log.
pub(crate) const TOPIC: &str = "millrace";
/// Number of processes of each role, of brokers, and of partitions.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Counts {
    /// Number of Kafka brokers: 1, or 3 with replication
    #[arg(long, default_value_t = 3)]
    pub(crate) brokers: u16,
    /// Number of processes that take pushes
    #[arg(long, default_value_t = 2)]
    pub(crate) gateways: usize,
    /// Number of processes that share the partitions
    #[arg(long, default_value_t = 3)]
    pub(crate) consumers: usize,
    /// Number of processes that follow all partitions in a consumer group of their own, as warm readers
    #[arg(long, default_value_t = 0)]
    pub(crate) followers: usize,
    /// Number of processes that turn cuts into blocks
    #[arg(long, default_value_t = 1)]
    pub(crate) builders: usize,
    /// Number of processes that answer queries
    #[arg(long, default_value_t = 2)]
    pub(crate) query_services: usize,
    /// Number of partitions of the log
    #[arg(long, default_value_t = 4)]
    pub(crate) partitions: u32,
}

impl Default for Counts {
    fn default() -> Self {
        Self { brokers: 3, gateways: 2, consumers: 3, followers: 0, builders: 1, query_services: 2, partitions: 4 }
    }
}

impl Counts {
    pub(super) fn of(&self, role: Role) -> usize {
        match role {
            Role::Gateway => self.gateways,
            Role::Consumer => self.consumers,
            Role::Follower => self.followers,
            Role::Builder => self.builders,
            Role::QueryService => self.query_services,
        }
    }
}

/// The layout of a cluster, before it runs.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) folder: PathBuf,
    pub(crate) binary: PathBuf,
    pub(crate) counts: Counts,
    /// Settings of all roles, as a tree.
    settings: Value,
    /// Environment of all roles.
    pub(crate) environment: Vec<(String, String)>,
}

impl Layout {
    /// Returns a layout with the settings that all clusters of this tool share.
    pub(crate) fn new(folder: &Path, binary: PathBuf, counts: Counts) -> Self {
        let (replicas, in_sync) = if counts.brokers == 1 { (1, 1) } else { (3, 2) };
        let settings = json!({
            "kafka": {
                "topic": TOPIC,
                "partitions": counts.partitions,
                "replication_factor": replicas,
                "min_insync_replicas": in_sync,
                "session_timeout": "6s",
            },
            "store": {"s3": {
                "bucket": BUCKET,
                "path_style": true,
                "region": "us-east-1",
            }},
        });
        Self { folder: folder.to_owned(), binary, counts, settings, environment: Vec::new() }
    }

    /// Sets a setting of all roles, by its path with dots.
    pub(crate) fn set(&mut self, path: &str, value: impl Into<Value>) {
        let mut at = &mut self.settings;
        for key in path.split('.') {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[key];
        }
        *at = value.into();
    }

    /// Sets a setting of all roles, named as in `MILLRACE_…` variables: `CONSUMER__CUT_BYTES`. A number stays a number.
    pub(crate) fn set_by_variable(&mut self, variable: &str, value: &str) {
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        self.set(&variable.to_lowercase().replace("__", "."), value);
    }

    /// Sets an environment variable of all roles.
    pub(crate) fn set_environment(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.join("millrace.yaml")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    pub(super) fn kafka_folder(&self) -> PathBuf {
        self.folder.join("kafka")
    }

    pub(super) fn store_folder(&self) -> PathBuf {
        self.folder.join("s3")
    }

    /// Writes the configuration of all roles. It is JSON, which is also YAML.
    pub(super) fn write_config(&self) -> anyhow::Result<()> {
        fs::write(self.config_file(), serde_json::to_string_pretty(&self.settings)?)?;
        Ok(())
    }

    /// Removes the files of an earlier cluster from a folder, and nothing else.
    pub(super) fn clear(folder: &Path) -> anyhow::Result<()> {
        for part in ["kafka", "s3", "logs", "clocks", "pids", "millrace.yaml", "cluster.json", "supervisor.log"] {
            let path = folder.join(part);
            if path.is_dir() {
                fs::remove_dir_all(path)?;
            } else if path.exists() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_a_tree() {
        let mut layout = Layout::new(Path::new("x"), "millrace".into(), Counts::default());
        layout.set("kafka.brokers", "127.0.0.1:1");
        layout.set_by_variable("CONSUMER__CUT_AGE", "1s");
        assert_eq!(layout.settings["kafka"]["brokers"], "127.0.0.1:1");
        assert_eq!(layout.settings["kafka"]["topic"], TOPIC);
        layout.set_by_variable("LIMITS_CONFIG__INGESTION_RATE_MB", "10000");
        assert_eq!(layout.settings["consumer"]["cut_age"], "1s");
        assert_eq!(layout.settings["limits_config"]["ingestion_rate_mb"], 10000);
    }
}
