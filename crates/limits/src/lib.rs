//! Per-tenant limits under Loki's names, the overrides file and its reload.
//!
//! ```text
//! limits_config (the global values) ──┐
//! overrides files, merged in order ───┴─▶ Overrides ── for_tenant ──▶ Arc<Limits>
//!            ▲ every 10 s                 (the old values stay when a file is wrong)
//! ```
//!
//! Names, types and defaults of the keys are Loki's, so that an operator copies them over. A key that does not exist
//! is an error that names the nearest one that does. Enforcing a limit is the business of the service that
//! meets it; here they are only known.

#![forbid(unsafe_code)]

mod nested;
mod overrides;
mod table;
mod units;

pub use nested::{
    AttributeAction, AttributeRule, BlockedQuery, DeletionMode, OtlpConfig, PolicyStream, RateStrategy,
    ResourceAttributes, ShardStreams, StreamRetention,
};
pub use overrides::{LimitsError, Overrides, RELOAD_PERIOD};
pub use table::Limits;
pub use units::{ByteSize, PromDuration, UnitError, Until};

/// The known key that `unknown` was probably meant to be.
pub fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |key: &&'a str| (strsim::damerau_levenshtein(unknown, key), *key);
    let (distance, key) = known.iter().map(distance).min()?;
    // More than half of it wrong is no slip of the finger, but a part left out may be.
    let is_part = unknown.len() >= 4 && (key.contains(unknown) || unknown.contains(key));
    (distance <= 2.max(unknown.len() / 3) || is_part).then_some(key)
}

#[cfg(test)]
mod tests;
