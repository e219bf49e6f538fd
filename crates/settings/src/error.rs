//! Why there are no settings.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why settings could not be loaded or printed. All of them are for a person to mend; none passes by itself.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not YAML, or a key or value in it is unknown.
    #[error("{}: {reason}", path.display())]
    FileContent {
        /// The file.
        path: PathBuf,
        /// The key or value, its line, and the nearest known key.
        reason: String,
    },
    /// File and environment together hold an unknown key or value. As the file alone is good, a variable is wrong.
    #[error("the environment or {file}: {reason}")]
    Environment {
        /// The file, or `the settings` without one.
        file: String,
        /// The key or value, and the nearest known key.
        reason: String,
    },
    /// Values that cannot work, each as `section: problem`.
    #[error("the settings cannot work:\n  {}", .0.join("\n  "))]
    Problems(Vec<String>),
    /// A value cannot be written as YAML.
    #[error("the settings cannot be written as YAML: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
}
