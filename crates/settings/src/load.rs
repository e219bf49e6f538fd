//! Reads settings from all their sources.

use std::path::Path;

use serde_yaml_ng::Value;

use crate::{
    error::SettingsError,
    flags::{FLAG_VARIABLES, Flags},
    settings::Settings,
    tree,
};

/// What every variable of ours begins with.
const PREFIX: &str = "MILLRACE_";

/// Prefix, without [`PREFIX`], of variables that tests read.
const TEST_VARIABLES: &str = "TEST_";

impl Settings {
    /// Reads defaults, the file, the environment and the flags, in this order.
    ///
    /// # Errors
    /// When one of them cannot be understood, or the values cannot work; then every problem is listed.
    pub fn load(flags: &Flags) -> Result<Self, SettingsError> {
        load(flags, std::env::vars())
    }
}

fn load(flags: &Flags, environment: impl Iterator<Item = (String, String)>) -> Result<Settings, SettingsError> {
    let mut values = match &flags.config {
        Some(file) => read_file(file)?,
        None => tree::empty(),
    };
    for (name, value) in environment {
        if let Some(path) = name.strip_prefix(PREFIX).filter(|path| is_setting(path)) {
            tree::set(&mut values, &path.to_lowercase(), &value);
        }
    }
    let mut settings: Settings = serde_yaml_ng::from_value(values).map_err(|error| {
        let file = flags.config.as_ref().map_or_else(|| "the settings".to_owned(), |file| file.display().to_string());
        SettingsError::Environment { file, reason: explain(&error.to_string()) }
    })?;
    apply(&mut settings, flags);
    let problems = settings.problems();
    if problems.is_empty() { Ok(settings) } else { Err(SettingsError::Problems(problems)) }
}

fn apply(settings: &mut Settings, flags: &Flags) {
    if let Some(folder) = &flags.data_dir {
        settings.common.path_prefix = folder.clone();
    }
    if let Some(address) = flags.http {
        settings.server.http_listen_address = address.ip();
        settings.server.http_listen_port = address.port();
    }
    if let Some(enabled) = flags.auth_enabled {
        settings.auth_enabled = enabled;
    }
    // One switch for all services; none has its own.
    settings.gateway.auth_enabled = settings.auth_enabled;
    settings.querier.auth_enabled = settings.auth_enabled;
}

/// True when a variable of ours, named without its prefix, is a path of settings.
fn is_setting(name: &str) -> bool {
    !FLAG_VARIABLES.contains(&name) && !name.starts_with(TEST_VARIABLES) && !is_service_link(name)
}

/// True for a variable that Kubernetes sets in every pod for each service of the namespace, named without our prefix: a
/// service `millrace-gateway` gives `GATEWAY_SERVICE_HOST`, `GATEWAY_SERVICE_PORT_HTTP`, `GATEWAY_PORT`,
/// `GATEWAY_PORT_3100_TCP_ADDR` and so on (kubernetes.io, "Accessing the Service", "Environment variables"). A service's
/// name has single dashes, so two underscores mean a setting.
fn is_service_link(name: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let has_port = |words: &[&str]| {
        words[0] == "PORT" && words[1].parse::<u16>().is_ok() && ["TCP", "UDP", "SCTP"].contains(&words[2])
    };
    !name.contains("__")
        && (words.ends_with(&["SERVICE", "HOST"])
            || words.windows(2).any(|pair| pair == ["SERVICE", "PORT"])
            || words.ends_with(&["PORT"])
            || words.windows(3).any(has_port))
}

/// Reads a file and checks it before anything overrides its values, so that errors name its lines.
fn read_file(path: &Path) -> Result<Value, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::File { path: path.to_owned(), source })?;
    // YAML without any value is null, not a mapping.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(tree::empty());
    }
    let wrong = |error: serde_yaml_ng::Error| SettingsError::FileContent {
        path: path.to_owned(),
        reason: explain(&error.to_string()),
    };
    serde_yaml_ng::from_str::<Settings>(&text).map_err(wrong)?;
    serde_yaml_ng::from_str(&text).map_err(wrong)
}

/// Shortens serde's message about an unknown field, and names the nearest known field. serde has no other way to tell
/// which field it was; a message of another form passes unchanged.
fn explain(message: &str) -> String {
    let split = || {
        let (head, tail) = message.split_once("unknown field `")?;
        let (unknown, rest) = tail.split_once('`')?;
        Some((head, unknown, rest))
    };
    let Some((head, unknown, rest)) = split() else { return message.to_owned() };
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

    fn load_yaml(yaml: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, yaml).expect("written");
        let flags = Flags { config: Some(file), ..Flags::default() };
        let environment = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        load(&flags, environment).map_err(|error| error.to_string())
    }

    #[test]
    fn later_sources_win() {
        let yaml = "auth_enabled: false\nserver: {http_listen_port: 1}\nlimits_config: {ingestion_rate_mb: 5}\n";
        let settings = load_yaml(
            yaml,
            &[
                ("MILLRACE_LIMITS_CONFIG__INGESTION_RATE_MB", "7"),
                ("MILLRACE_HTTP", "a flag"),
                ("PATH", "x"),
                ("MILLRACE_PORT_3100_TCP", "x"),
                ("MILLRACE_TEST_X", "x"),
            ],
        );
        let settings = settings.expect("good");
        assert_eq!((settings.limits_config.ingestion_rate_mb, settings.server.http_listen_port), (7.0, 1));
        let defaults = load(&Flags::default(), std::iter::empty()).expect("defaults");
        assert_eq!(load_yaml("# nothing\n", &[]), Ok(defaults));
    }

    #[test]
    fn service_links_are_not_settings() {
        for name in [
            "PORT",
            "SERVICE_HOST",
            "PORT_3100_TCP",
            "GATEWAY_SERVICE_HOST",
            "GATEWAY_SERVICE_PORT",
            "GATEWAY_SERVICE_PORT_HTTP",
            "MY_LOGS_PORT",
            "GATEWAY_PORT_3100_TCP",
            "GATEWAY_PORT_3100_TCP_PROTO",
            "GATEWAY_PORT_3100_UDP_ADDR",
        ] {
            assert_eq!(load_yaml("", &[(&format!("MILLRACE_{name}"), "x")]), load_yaml("", &[]), "{name}");
        }
        for name in ["SERVER__HTTP_LISTEN_PORT", "GATEWAY__SERVICE_PORT", "PORTS", "GATEWAY_PORT_X_TCP"] {
            assert!(load_yaml("", &[(&format!("MILLRACE_{name}"), "x")]).is_err(), "{name}");
        }
    }

    #[test]
    fn flags_win_over_all() {
        let flags = Flags {
            http: Some("127.0.0.1:7".parse().expect("an address")),
            auth_enabled: Some(true),
            ..Flags::default()
        };
        let port = ("MILLRACE_SERVER__HTTP_LISTEN_PORT".to_owned(), "8".to_owned());
        let settings = load(&flags, std::iter::once(port)).expect("good");
        assert_eq!(settings.http().port(), 7);
        assert!(settings.gateway.auth_enabled && settings.querier.auth_enabled, "services follow the one switch");
    }

    #[test]
    fn errors_help() {
        let check = |yaml: &str, environment: &[(&str, &str)], expected: &str| {
            let error = load_yaml(yaml, environment).expect_err("bad");
            assert!(error.contains(expected), "{yaml}: {error}");
        };
        check("limits_config: {ingestion_rate_mbs: 5}", &[], "did you mean `ingestion_rate_mb`");
        check("auth_enable: true", &[], "unknown key `auth_enable`; did you mean `auth_enabled`?");
        check("log: {partitions: 0}", &[], "partitions must be");
        check("server: {log_format: xml}", &[], "logfmt");
        check("", &[("MILLRACE_SERVER__HTTP_LISTEN_PORTS", "1")], "did you mean `http_listen_port`");
    }
}
