//! The one configuration of all roles.
//!
//! ```text
//! defaults ◀─ file (--config) ◀─ environment (MILLRACE_…) ◀─ flags        later ones win
//!                                                    │
//!                                 Settings::load ────┴──▶ Settings, or every problem at once
//! ```
//!
//! Keys are Loki's where Loki has the same setting (`auth_enabled`, `common.path_prefix`, `server.http_listen_port`,
//! `limits_config`, `runtime_config`), so that an operator can copy them. An unknown key is an error that names the
//! nearest known one. `docs/millrace.yaml` lists every key with its default; a test compares it with the program.
//!
//! Each crate owns its part of the configuration: `gateway`, `consumer`, `builder`, `querier` and others are the
//! `Config` types of those crates, nested here. So this crate depends on the services; only programs depend on it. It
//! opens nothing: it says where the log and the store are, and the binary opens them.
//!
//! To add a setting, add a field to the `Config` of its crate and a line to `docs/millrace.yaml`. To add a section, also
//! add a field to [`Settings`] and its problems to [`Settings::problems`], both in `settings.rs`.

#![forbid(unsafe_code)]

mod error;
mod flags;
mod load;
mod sections;
mod settings;
mod tree;

pub use error::SettingsError;
pub use flags::Flags;
pub use sections::{
    ClusterSettings, CommonSettings, LocalLogSettings, OverridesSettings, ServerSettings, StoreSettings,
    TracingSettings,
};
pub use settings::Settings;
