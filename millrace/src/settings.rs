//! Every setting of every role, read from defaults, a YAML file, the environment and flags, later ones winning.
//!
//! Keys are Loki's where Loki has the same setting (`auth_enabled`, `common.path_prefix`, `server.http_listen_port`,
//! `limits_config`, `runtime_config`), so that an operator can copy them over. An unknown key is an error that
//! names the nearest known one.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use limits::{ByteSize, Limits, PromDuration};
use serde::{Deserialize, Serialize};
use serde_yaml_ng::{Mapping, Value};

use crate::cli::ServerArgs;

/// All settings.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Take the tenant from `X-Scope-OrgID` and refuse requests without it. When false, all is of tenant `fake`.
    pub(crate) auth_enabled: bool,
    pub(crate) common: Common,
    pub(crate) server: Server,
    /// The local log: the journal under `log/`. Not used when there is Kafka.
    pub(crate) log: Log,
    /// Apache Kafka in place of the local log.
    pub(crate) kafka: log_bus::KafkaConfig,
    /// Where blocks and heads lie when not in the folder `store/`.
    pub(crate) store: Store,
    /// This process among others. Only used with Kafka.
    pub(crate) cluster: Cluster,
    pub(crate) gateway: ingest_gateway::Config,
    pub(crate) consumer: partition_consumer::Config,
    pub(crate) builder: block_builder::Config,
    pub(crate) querier: query_service::Config,
    /// Limits of tenants without limits of their own (Loki's names).
    pub(crate) limits_config: Limits,
    pub(crate) runtime_config: RuntimeConfig,
    pub(crate) tracing: Tracing,
}

/// What several roles share.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Common {
    /// The folder that holds `log/` and `store/`.
    pub(crate) path_prefix: PathBuf,
}

impl Default for Common {
    fn default() -> Self {
        Self { path_prefix: "./millrace-data".into() }
    }
}

/// Where blocks and heads lie.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Store {
    /// A bucket of S3, or of a server that speaks its language. Without a bucket's name the folder is used.
    pub(crate) s3: object_store::S3Config,
}

/// How processes of one installation know one another.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cluster {
    /// What this process is called in logs, heads and the control topic; each start adds some characters of its own.
    /// Empty: the host's name.
    pub(crate) name: String,
    /// Where this process runs, such as an availability zone. Told to others, and part of a follower's group.
    pub(crate) zone: String,
    /// Where others reach this process, as host:port. Empty: the address it listens on, or the host's name when it
    /// listens on all.
    pub(crate) advertise_address: String,
    /// The control topic.
    pub(crate) control: control::Config,
    /// Asking owners in other processes.
    pub(crate) fleet: fleet::Config,
}

/// How to listen, log and stop.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Server {
    /// Only this machine by default: there is no authentication of its own.
    pub(crate) http_listen_address: IpAddr,
    /// HTTP/1, HTTP/2 and OTLP over gRPC share one port.
    pub(crate) http_listen_port: u16,
    /// After SIGTERM: how long draining and the last cut may take.
    pub(crate) graceful_shutdown_timeout: PromDuration,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub(crate) log_level: String,
    /// `logfmt` (for people) or `json`.
    pub(crate) log_format: String,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            http_listen_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            http_listen_port: 3100,
            graceful_shutdown_timeout: PromDuration::from_secs(30),
            log_level: "info".into(),
            log_format: "logfmt".into(),
        }
    }
}

/// The local log. One machine needs few partitions: they share one journal and one sync.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// How many partitions there are: the consumer works on each by itself. May be raised later, never lowered.
    pub(crate) partitions: u32,
    /// Journal files are closed at this size; retention removes whole files.
    pub(crate) segment_size: ByteSize,
    /// Records that are in blocks are kept this long, so that they can be replayed.
    pub(crate) retention_period: PromDuration,
    /// And no more of them than this.
    pub(crate) retention_size: ByteSize,
    /// Newest records kept in memory, so that the consumer need not read files.
    pub(crate) cache_size: ByteSize,
}

impl Default for Log {
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

/// Where limits of single tenants are.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RuntimeConfig {
    /// Overrides files, separated by commas, later ones winning. Empty: none.
    pub(crate) file: String,
    /// How often they are read again.
    pub(crate) period: PromDuration,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self { file: String::new(), period: PromDuration::from_secs(10) }
    }
}

impl RuntimeConfig {
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.file.split(',').map(str::trim).filter(|f| !f.is_empty()).map(PathBuf::from).collect()
    }
}

/// Where spans go.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tracing {
    /// Base address of an OTLP/HTTP receiver, such as `http://127.0.0.1:4318`. Empty: spans are not exported.
    pub(crate) otlp_endpoint: String,
}

impl Settings {
    /// Defaults, the file, the environment and the flags, in this order.
    ///
    /// # Errors
    /// When one of them cannot be understood, or the values do not go together; every problem is named.
    pub(crate) fn load(args: &ServerArgs) -> anyhow::Result<Self> {
        Self::load_with(args, std::env::vars())
    }

    fn load_with(args: &ServerArgs, environment: impl Iterator<Item = (String, String)>) -> anyhow::Result<Self> {
        let mut tree = match &args.config {
            Some(file) => read_file(file)?,
            None => Value::Mapping(Mapping::new()),
        };
        for (name, value) in environment {
            let Some(path) = name.strip_prefix("MILLRACE_").filter(|p| is_setting(p)) else { continue };
            set(&mut tree, &path.to_lowercase(), &value).with_context(|| format!("environment variable {name}"))?;
        }
        let mut settings: Self = serde_yaml_ng::from_value(tree)
            .map_err(|e| anyhow!("the environment or {}: {}", file_name(args), explain(&e.to_string())))?;
        settings.apply(args);
        let problems = settings.problems();
        if !problems.is_empty() {
            bail!("the settings cannot work:\n  {}", problems.join("\n  "));
        }
        Ok(settings)
    }

    fn apply(&mut self, args: &ServerArgs) {
        if let Some(folder) = &args.data_dir {
            self.common.path_prefix = folder.clone();
        }
        if let Some(address) = args.http {
            self.server.http_listen_address = address.ip();
            self.server.http_listen_port = address.port();
        }
        if let Some(enabled) = args.auth_enabled {
            self.auth_enabled = enabled;
        }
        // One switch for all: a service has no authentication of its own.
        self.gateway.auth_enabled = self.auth_enabled;
        self.querier.auth_enabled = self.auth_enabled;
    }

    /// Everything that cannot work, in words.
    fn problems(&self) -> Vec<String> {
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

    pub(crate) fn http(&self) -> SocketAddr {
        SocketAddr::new(self.server.http_listen_address, self.server.http_listen_port)
    }

    /// Whether blocks lie in S3, not in a folder.
    pub(crate) fn uses_s3(&self) -> bool {
        !self.store.s3.bucket.is_empty()
    }

    /// Whether partitions are only followed here, never led.
    pub(crate) fn follows(&self) -> bool {
        self.consumer.mode == partition_consumer::Mode::Follow
    }

    /// Kafka's settings for this process. Followers share partitions in a group of their own, one in each zone.
    pub(crate) fn kafka_config(&self) -> log_bus::KafkaConfig {
        let mut kafka = self.kafka.clone();
        if self.follows() {
            kafka.group = match self.cluster.zone.as_str() {
                "" => format!("{}-followers", kafka.group),
                zone => format!("{}-followers-{zone}", kafka.group),
            };
        }
        kafka
    }

    /// Where data is kept, for a person.
    pub(crate) fn places(&self) -> String {
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

    pub(crate) fn log_folder(&self) -> PathBuf {
        self.common.path_prefix.join("log")
    }

    pub(crate) fn store_folder(&self) -> PathBuf {
        self.common.path_prefix.join("store")
    }

    pub(crate) fn local_log(&self) -> log_bus::LocalLogConfig {
        log_bus::LocalLogConfig {
            partitions: self.log.partitions,
            segment_bytes: self.log.segment_size.bytes(),
            retention_age: self.log.retention_period.get(),
            retention_bytes: self.log.retention_size.bytes(),
            cache_bytes: self.log.cache_size.as_usize(),
            ..log_bus::LocalLogConfig::new(self.log_folder())
        }
    }

    /// As YAML, with every value.
    pub(crate) fn to_yaml(&self) -> anyhow::Result<String> {
        serde_yaml_ng::to_string(self).context("the settings cannot be written as YAML")
    }

    /// As YAML, only what differs from the defaults.
    pub(crate) fn diff_yaml(&self) -> anyhow::Result<String> {
        let (ours, defaults) = (serde_yaml_ng::to_value(self)?, serde_yaml_ng::to_value(Self::default())?);
        Ok(serde_yaml_ng::to_string(&difference(&ours, &defaults).unwrap_or(Value::Mapping(Mapping::new())))?)
    }
}

/// Variables that are flags of the command line, not paths of settings.
const FLAG_VARIABLES: [&str; 6] = ["CONFIG", "DATA_DIR", "HTTP", "AUTH_ENABLED", "ADDR", "TENANT"];

/// Whether a variable of ours is a path of settings, by its name without the prefix. Flags are not; neither is what the
/// tests use, nor what Kubernetes sets in every pod beside a service named `millrace` (`MILLRACE_PORT_3100_TCP`, …).
fn is_setting(name: &str) -> bool {
    let of_others = ["TEST_", "SERVICE_HOST", "SERVICE_PORT", "PORT_"];
    name != "PORT" && !FLAG_VARIABLES.contains(&name) && !of_others.iter().any(|prefix| name.starts_with(prefix))
}

fn file_name(args: &ServerArgs) -> String {
    args.config.as_ref().map_or_else(|| "the settings".to_owned(), |f| f.display().to_string())
}

/// A settings file, checked by itself first, so that complaints name its lines.
fn read_file(file: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Value::Mapping(Mapping::new()));
    }
    let complain = |e: serde_yaml_ng::Error| anyhow!("{}: {}", file.display(), explain(&e.to_string()));
    serde_yaml_ng::from_str::<Settings>(&text).map_err(complain)?;
    serde_yaml_ng::from_str(&text).map_err(complain)
}

/// Puts `value` at a path of keys joined by `__`.
fn set(tree: &mut Value, path: &str, value: &str) -> anyhow::Result<()> {
    let mut at = tree;
    for key in path.split("__") {
        if !at.is_mapping() {
            *at = Value::Mapping(Mapping::new());
        }
        let Value::Mapping(mapping) = at else { bail!("{path} leads through a value") };
        at = mapping.entry(Value::String(key.to_owned())).or_insert(Value::Null);
    }
    *at = serde_yaml_ng::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok(())
}

/// What of `ours` is not in `defaults`.
fn difference(ours: &Value, defaults: &Value) -> Option<Value> {
    match (ours, defaults) {
        (Value::Mapping(ours), Value::Mapping(defaults)) => {
            let changed = ours.iter().filter_map(|(key, value)| {
                let different = difference(value, defaults.get(key).unwrap_or(&Value::Null))?;
                Some((key.clone(), different))
            });
            let changed: Mapping = changed.collect();
            (!changed.is_empty()).then_some(Value::Mapping(changed))
        }
        _ => (ours != defaults).then(|| ours.clone()),
    }
}

/// Shortens serde's complaint about an unknown field, and names the known one that is nearest.
fn explain(complaint: &str) -> String {
    let split = || {
        let (head, tail) = complaint.split_once("unknown field `")?;
        let (unknown, rest) = tail.split_once('`')?;
        Some((head, unknown, rest))
    };
    let Some((head, unknown, rest)) = split() else { return complaint.to_owned() };
    let (list, place) =
        rest.split_once(" at line ").map_or((rest, String::new()), |(l, p)| (l, format!(" at line {p}")));
    let known: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    let hint = match limits::nearest(unknown, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", known.join(", ")),
    };
    format!("{head}unknown key `{unknown}`{place}; {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, yaml).expect("written");
        let args = ServerArgs { config: Some(file), ..ServerArgs::default() };
        let environment = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Settings::load_with(&args, environment).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn later_sources_win() {
        let yaml = "auth_enabled: false\nserver: {http_listen_port: 1}\nlimits_config: {ingestion_rate_mb: 5}\n";
        let found = load(
            yaml,
            &[
                ("MILLRACE_LIMITS_CONFIG__INGESTION_RATE_MB", "7"),
                ("MILLRACE_HTTP", "a flag"),
                ("PATH", "x"),
                ("MILLRACE_PORT_3100_TCP", "x"),
                ("MILLRACE_TEST_X", "x"),
            ],
        );
        let found = found.expect("good");
        assert_eq!((found.limits_config.ingestion_rate_mb, found.server.http_listen_port), (7.0, 1));
        assert_eq!(
            load("# nothing\n", &[]),
            Ok(Settings::load_with(&ServerArgs::default(), std::iter::empty()).expect("defaults"))
        );
    }

    #[test]
    fn complaints_help() {
        let check = |yaml: &str, environment: &[(&str, &str)], expected: &str| {
            let found = load(yaml, environment).expect_err("bad");
            assert!(found.contains(expected), "{yaml}: {found}");
        };
        check("limits_config: {ingestion_rate_mbs: 5}", &[], "did you mean `ingestion_rate_mb`");
        check("auth_enable: true", &[], "unknown key `auth_enable`; did you mean `auth_enabled`?");
        check("log: {partitions: 0}", &[], "partitions must be");
        check("", &[("MILLRACE_SERVER__HTTP_LISTEN_PORTS", "1")], "did you mean `http_listen_port`");
    }

    #[test]
    fn the_documented_file_shows_the_defaults() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/millrace.yaml");
        let text = std::fs::read_to_string(file).expect("docs/millrace.yaml");
        let documented: Settings = serde_yaml_ng::from_str(&text).expect("the documented file is good");
        assert_eq!(documented, Settings::default());
        // And it names every key, so that a reader finds all of them there.
        let (documented, all): (Value, Value) = (
            serde_yaml_ng::from_str(&text).expect("yaml"),
            serde_yaml_ng::to_value(Settings::default()).expect("yaml"),
        );
        assert_eq!(difference(&all, &documented), None);
    }

    #[test]
    fn prints_what_differs() {
        let mut settings = Settings::default();
        settings.server.http_listen_port = 8080;
        assert_eq!(settings.diff_yaml().expect("yaml"), "server:\n  http_listen_port: 8080\n");
    }
}
