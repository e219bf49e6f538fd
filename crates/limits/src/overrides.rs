//! Limits of single tenants, from files that are read again while the process runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use model::TenantId;
use serde_yaml_ng::{Mapping, Value};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{Limits, nearest};

/// How often the files are read again, unless configured otherwise.
pub const RELOAD_PERIOD: Duration = Duration::from_secs(10);

/// What a runtime configuration may hold.
const SECTIONS: [&str; 3] = ["overrides", "configs", "multi_kv_config"];

/// Why the overrides are not in force.
#[derive(Debug, Error)]
pub enum LimitsError {
    /// A file cannot be read.
    #[error("cannot read the runtime configuration {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no YAML.
    #[error("the runtime configuration {path} is no YAML: {source}")]
    Yaml {
        /// The file.
        path: String,
        /// Why.
        source: serde_yaml_ng::Error,
    },
    /// The content is wrong: all problems, one a line.
    #[error("the runtime configuration is wrong:\n  {}", .0.join("\n  "))]
    Wrong(Vec<String>),
}

type Tenants = BTreeMap<TenantId, Arc<Limits>>;
type Hook = Box<dyn Fn(bool) + Send + Sync>;

/// The limits of every tenant.
pub struct Overrides {
    defaults: Arc<Limits>,
    files: Vec<PathBuf>,
    tenants: ArcSwap<Tenants>,
    is_last_good: AtomicBool,
    hook: OnceLock<Hook>,
}

impl std::fmt::Debug for Overrides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tenants = self.tenants.load();
        f.debug_struct("Overrides").field("files", &self.files).field("tenants", &tenants.len()).finish()
    }
}

impl Overrides {
    /// The same limits for everybody.
    pub fn new(defaults: Limits) -> Self {
        Self {
            defaults: Arc::new(defaults),
            files: Vec::new(),
            tenants: ArcSwap::default(),
            is_last_good: AtomicBool::new(true),
            hook: OnceLock::new(),
        }
    }

    /// Reads the files, later ones over earlier ones. What a tenant is not given there, it has from `defaults`.
    ///
    /// # Errors
    /// When a file cannot be read, or anything in it is wrong.
    pub fn load(defaults: Limits, files: Vec<PathBuf>) -> Result<Self, LimitsError> {
        let mut overrides = Self::new(defaults);
        overrides.files = files;
        overrides.reload()?;
        Ok(overrides)
    }

    /// The limits of a tenant.
    pub fn for_tenant(&self, tenant: &TenantId) -> Arc<Limits> {
        self.tenants.load().get(tenant).unwrap_or(&self.defaults).clone()
    }

    /// The limits of tenants without limits of their own.
    pub fn defaults(&self) -> &Arc<Limits> {
        &self.defaults
    }

    /// Tenants with limits of their own, in order.
    pub fn tenants(&self) -> Vec<(TenantId, Arc<Limits>)> {
        self.tenants.load().iter().map(|(tenant, limits)| (tenant.clone(), limits.clone())).collect()
    }

    /// Whether the last reload worked: the metric `loki_runtime_config_last_reload_successful`.
    pub fn is_last_reload_successful(&self) -> bool {
        self.is_last_good.load(Ordering::Relaxed)
    }

    /// Calls `hook` now, and after each reload, with whether the last one worked. There is one hook; later calls do
    /// nothing.
    pub fn on_reload(&self, hook: impl Fn(bool) + Send + Sync + 'static) {
        hook(self.is_last_reload_successful());
        // A second hook would have nobody who asked for it.
        let _ = self.hook.set(Box::new(hook));
    }

    /// Reads the files again. The old limits stay in force when anything is wrong.
    ///
    /// # Errors
    /// When a file cannot be read, or anything in it is wrong.
    pub fn reload(&self) -> Result<(), LimitsError> {
        let read = self.read();
        self.is_last_good.store(read.is_ok(), Ordering::Relaxed);
        if let Some(hook) = self.hook.get() {
            hook(read.is_ok());
        }
        let tenants = read?;
        if *self.tenants.load_full() != tenants {
            self.tenants.store(Arc::new(tenants));
        }
        Ok(())
    }

    /// Reads the files again each `period` until `shutdown`.
    #[expect(clippy::disallowed_methods, reason = "a small file every ten seconds needs no turn at the processors")]
    pub async fn watch(self: Arc<Self>, period: Duration, shutdown: CancellationToken) {
        if self.files.is_empty() || period.is_zero() {
            return;
        }
        let mut last_problem = None;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(period) => {}
            }
            let this = self.clone();
            let problem = match tokio::task::spawn_blocking(move || this.reload()).await {
                Ok(Ok(())) => None,
                Ok(Err(e)) => Some(e.to_string()),
                Err(e) => Some(e.to_string()),
            };
            // The same problem is told once, not every ten seconds.
            if let Some(error) = problem.as_ref().filter(|p| last_problem.as_ref() != Some(*p)) {
                tracing::error!(error, "limits stay as they were");
            } else if problem.is_none() && last_problem.is_some() {
                tracing::info!("the runtime configuration is right again");
            }
            last_problem = problem;
        }
    }

    fn read(&self) -> Result<Tenants, LimitsError> {
        let mut whole = Mapping::new();
        for path in &self.files {
            if let Value::Mapping(file) = read_file(path)? {
                merge(&mut whole, file);
            }
        }
        tenants_of(&whole, &self.defaults).map_err(LimitsError::Wrong)
    }
}

fn read_file(path: &Path) -> Result<Value, LimitsError> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| LimitsError::Read { path: name(), source })?;
    let value = serde_yaml_ng::from_str(&text).map_err(|source| LimitsError::Yaml { path: name(), source })?;
    match value {
        Value::Mapping(_) | Value::Null => Ok(value),
        _ => Err(LimitsError::Wrong(vec![format!("{}: expected a mapping with the key overrides", name())])),
    }
}

/// Puts `new` over `old`, mapping by mapping.
fn merge(old: &mut Mapping, new: Mapping) {
    for (key, value) in new {
        match (old.get_mut(&key), value) {
            (Some(Value::Mapping(old)), Value::Mapping(new)) => merge(old, new),
            (_, value) => {
                old.insert(key, value);
            }
        }
    }
}

fn tenants_of(whole: &Mapping, defaults: &Limits) -> Result<Tenants, Vec<String>> {
    let mut problems = Vec::new();
    for key in whole.keys() {
        let name = key.as_str().unwrap_or_default();
        if !SECTIONS.contains(&name) {
            let hint = nearest(name, &SECTIONS).map(|known| format!("; did you mean {known:?}?")).unwrap_or_default();
            problems.push(format!("there is no section {name:?}{hint}"));
        }
    }
    let mut tenants = Tenants::new();
    let empty = Mapping::new();
    let overrides = match whole.get("overrides") {
        None | Some(Value::Null) => &empty,
        Some(Value::Mapping(overrides)) => overrides,
        Some(_) => {
            problems.push("overrides: expected a mapping from tenants to limits".to_owned());
            &empty
        }
    };
    for (key, value) in overrides {
        // YAML reads a tenant such as `29` as a number.
        let name = match key {
            Value::String(name) => name.clone(),
            other => serde_yaml_ng::to_string(other).unwrap_or_default().trim().to_owned(),
        };
        let changes = match value {
            Value::Mapping(changes) => changes,
            Value::Null => &empty,
            _ => {
                problems.push(format!("overrides: {name}: expected a mapping of limits"));
                continue;
            }
        };
        match (TenantId::new(&name), defaults.changed(changes)) {
            (Ok(tenant), Ok(limits)) => {
                tenants.insert(tenant, Arc::new(limits));
            }
            (tenant, limits) => {
                problems.extend(tenant.err().map(|e| format!("overrides: {e}")));
                let texts = limits.err().unwrap_or_default();
                problems.extend(texts.into_iter().map(|text| format!("overrides: {name}: {text}")));
            }
        }
    }
    if problems.is_empty() { Ok(tenants) } else { Err(problems) }
}
