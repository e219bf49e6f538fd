//! Per-tenant limits under Loki's names, the overrides file and its reload.
//!
//! ```text
//! limits_config ─▶ Limits (defaults for all) ─┐
//! overrides file ─▶ tenant → changed keys ────┴─▶ Overrides::for_tenant ─▶ Arc<Limits>
//! ```
//!
//! What a tenant's section does not name it inherits from `limits_config`, not from the built-in default. An unknown
//! key fails the load and is named with its nearest known one; on a reload the old values then stay in force.

#![forbid(unsafe_code)]

mod error;
mod limits;
mod otlp;
mod overrides;
mod units;

pub use error::{LimitsError, explain_unknown, nearest};
pub use limits::{BlockedQuery, DeletionMode, Limits, RateStrategy, RetentionStream, ShardStreams};
pub use otlp::{OtlpAction, OtlpAttributesConfig, OtlpConfig, OtlpResourceConfig};
pub use overrides::{Overrides, ReloadOutcome, RuntimeFiles};
pub use units::{ByteSize, PromDuration, UnitError};
