//! Limits by tenant, from overrides files that are read again while the process runs.

use std::{collections::HashMap, fs, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use model::TenantId;
use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};
use tokio_util::sync::CancellationToken;

use crate::{Limits, LimitsError, explain_unknown};

/// Which files to read, and how often. Later files win over earlier ones, key by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeFiles {
    /// None: no tenant has limits of its own.
    pub files: Vec<PathBuf>,
    /// How often they are looked at.
    pub period: Duration,
}

/// How a reload went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// Nothing had changed.
    Unchanged,
    /// New values are in force.
    Changed,
    /// The files could not be used; the old values stay in force. It was logged.
    Failed,
}

/// The limits of every tenant. Cheap to ask; shared by all services of a process.
#[derive(Debug)]
pub struct Overrides {
    defaults: Arc<Limits>,
    files: RuntimeFiles,
    tenants: ArcSwap<Tenants>,
}

#[derive(Debug, Default, PartialEq)]
struct Tenants {
    limits: HashMap<String, Arc<Limits>>,
}

/// The form of an overrides file (spec/limits 7). `configs` and `multi_kv_config` are accepted and ignored.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct OverridesFile {
    overrides: Option<HashMap<String, Option<Mapping>>>,
    #[serde(rename = "configs")]
    _configs: Option<Value>,
    #[serde(rename = "multi_kv_config")]
    _multi_kv_config: Option<Value>,
}

impl Overrides {
    /// The same limits for every tenant.
    pub fn new(defaults: Limits) -> Self {
        Self { defaults: Arc::new(defaults), files: RuntimeFiles::default(), tenants: ArcSwap::default() }
    }

    /// Limits by tenant as the files say.
    ///
    /// # Errors
    /// When a file cannot be read or holds something else than overrides.
    pub fn load(defaults: Limits, files: RuntimeFiles) -> Result<Self, LimitsError> {
        let tenants = read(&defaults, &files)?;
        Ok(Self { defaults: Arc::new(defaults), files, tenants: ArcSwap::from_pointee(tenants) })
    }

    /// The limits of tenants without a section of their own.
    pub fn defaults(&self) -> Arc<Limits> {
        self.defaults.clone()
    }

    /// The limits of a tenant now.
    pub fn for_tenant(&self, tenant: &TenantId) -> Arc<Limits> {
        self.tenants.load().limits.get(tenant.as_str()).unwrap_or(&self.defaults).clone()
    }

    /// Reads the files again. On any problem the old values stay.
    pub fn reload(&self) -> ReloadOutcome {
        match read(&self.defaults, &self.files) {
            Ok(tenants) if tenants == **self.tenants.load() => ReloadOutcome::Unchanged,
            Ok(tenants) => {
                tracing::info!(tenants = tenants.limits.len(), "limits reloaded");
                self.tenants.store(Arc::new(tenants));
                ReloadOutcome::Changed
            }
            Err(error) => {
                tracing::error!(%error, "limits could not be reloaded; the old ones stay in force");
                ReloadOutcome::Failed
            }
        }
    }

    /// Reads the files again every period until `shutdown`, telling `report` how each time went (for the metric
    /// `loki_runtime_config_last_reload_successful`). Returns at once when there are no files.
    pub async fn watch(self: Arc<Self>, shutdown: CancellationToken, report: impl Fn(ReloadOutcome) + Send) {
        if self.files.files.is_empty() || self.files.period.is_zero() {
            return;
        }
        while shutdown.run_until_cancelled(tokio::time::sleep(self.files.period)).await.is_some() {
            // A small file, read rarely: not worth a thread of its own.
            report(self.reload());
        }
    }
}

fn read(defaults: &Limits, files: &RuntimeFiles) -> Result<Tenants, LimitsError> {
    let mut merged: HashMap<String, Mapping> = HashMap::new();
    for path in &files.files {
        let file = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|source| LimitsError::Read { file: file.clone(), source })?;
        if text.trim().is_empty() {
            continue;
        }
        let content = |reason: String| LimitsError::Content { file: file.clone(), reason };
        let parsed: OverridesFile =
            serde_yaml_ng::from_str(&text).map_err(|e| content(explain_unknown(&e.to_string())))?;
        for (tenant, section) in parsed.overrides.unwrap_or_default() {
            let section = section.unwrap_or_default();
            // Checked by itself, so that the complaint names the file.
            limits_of(defaults, &section).map_err(|reason| content(format!("overrides.{tenant}: {reason}")))?;
            merged.entry(tenant).or_default().extend(section);
        }
    }
    let mut limits = HashMap::new();
    for (tenant, section) in merged {
        let reason = |reason| LimitsError::Content { file: "merged overrides".into(), reason };
        let of_tenant = limits_of(defaults, &section).map_err(|e| reason(format!("overrides.{tenant}: {e}")))?;
        limits.insert(tenant, Arc::new(of_tenant));
    }
    Ok(Tenants { limits })
}

/// The defaults with a section's keys put over them.
fn limits_of(defaults: &Limits, section: &Mapping) -> Result<Limits, String> {
    let Value::Mapping(mut all) = serde_yaml_ng::to_value(defaults).map_err(|e| e.to_string())? else {
        return Err("limits are no mapping".into());
    };
    all.extend(section.clone());
    let limits: Limits =
        serde_yaml_ng::from_value(Value::Mapping(all)).map_err(|e| explain_unknown(&e.to_string()))?;
    let problems = limits.problems();
    if problems.is_empty() { Ok(limits) } else { Err(problems.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ByteSize;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("a name")
    }

    fn files(folder: &tempfile::TempDir, texts: &[&str]) -> RuntimeFiles {
        let write = |(i, text): (usize, &&str)| {
            let path = folder.path().join(format!("{i}.yaml"));
            fs::write(&path, text).expect("written");
            path
        };
        RuntimeFiles { files: texts.iter().enumerate().map(write).collect(), period: Duration::from_secs(10) }
    }

    #[test]
    fn inherits_from_the_configured_defaults() {
        let folder = tempfile::tempdir().expect("a folder");
        let defaults = Limits { ingestion_rate_mb: 7.0, ..Limits::default() };
        let first = "overrides:\n  a: {max_line_size: 1KB, max_query_series: 1}\n  b:\nconfigs: {a: {log_push_request: true}}\nmulti_kv_config: {}\n";
        let second = "overrides:\n  a:\n    max_query_series: 2\n";
        let overrides = Overrides::load(defaults, files(&folder, &[first, second, ""])).expect("good files");
        let a = overrides.for_tenant(&tenant("a"));
        assert_eq!((a.max_line_size, a.max_query_series, a.ingestion_rate_mb), (ByteSize::kib(1), 2, 7.0));
        assert_eq!(overrides.for_tenant(&tenant("b")), overrides.defaults());
        assert_eq!(overrides.for_tenant(&tenant("c")), overrides.defaults());
    }

    #[test]
    fn complaints() {
        let check = |text: &str, expected: &str| {
            let folder = tempfile::tempdir().expect("a folder");
            let found = Overrides::load(Limits::default(), files(&folder, &[text])).expect_err("bad").to_string();
            assert!(found.contains(expected), "{text}: {found}");
        };
        check("overrides: {a: {max_line_sizes: 1KB}}", "did you mean `max_line_size`?");
        check("overide: {}", "unknown key `overide`");
        check("overrides: {a: {max_line_size: lots}}", "is no size");
        check("overrides: {a: {retention_period: 1h}}", "less than 24h");
        check("overrides: {a: 5}", "overrides");
    }

    #[test]
    fn a_bad_reload_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let from = files(&folder, &["overrides: {a: {max_query_series: 1}}"]);
        let overrides = Overrides::load(Limits::default(), from.clone()).expect("good");
        let series = || overrides.for_tenant(&tenant("a")).max_query_series;
        assert_eq!((overrides.reload(), series()), (ReloadOutcome::Unchanged, 1));
        fs::write(&from.files[0], "overrides: {a: {max_query_seriess: 2}}").expect("written");
        assert_eq!((overrides.reload(), series()), (ReloadOutcome::Failed, 1));
        fs::write(&from.files[0], "overrides: {a: {max_query_series: 3}}").expect("written");
        assert_eq!((overrides.reload(), series()), (ReloadOutcome::Changed, 3));
    }
}
