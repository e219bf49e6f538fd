//! Reads the overrides files again whenever they change. Every process has this part.

use axum::Router;

use super::part::{Part, Phase};
use crate::components::Components;

pub(super) fn part(components: &Components) -> anyhow::Result<Part> {
    let gauge = prometheus::IntGauge::new(
        "loki_runtime_config_last_reload_successful",
        "Whether the last reload of the runtime configuration worked: 1 or 0.",
    )?;
    components.registry.register(Box::new(gauge.clone()))?;
    let overrides = components.overrides.clone();
    overrides.on_reload(move |good| gauge.set(i64::from(good)));
    let period = components.settings.runtime_config.period.get();
    Ok(Part::new("limits", Router::new()).with_task("overrides", Phase::Serving, async move |token| {
        // Returns immediately when there are no files.
        overrides.watch(period, token.clone()).await;
        token.cancelled().await;
        Ok(())
    }))
}
