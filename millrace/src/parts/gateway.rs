//! Takes pushes and appends them to the log.

use ingest_gateway::Gateway;

use super::part::{Part, Phase};
use crate::components::Components;

pub(super) fn part(components: &Components) -> anyhow::Result<Part> {
    let parts = ingest_gateway::Components {
        log: components.log.bus(),
        overrides: components.overrides.clone(),
        clock: components.clock.clone(),
        processors: components.processors.clone(),
        metrics: components.registry.clone(),
        control: components.control.clone(),
    };
    let gateway = Gateway::new(components.settings.gateway.clone(), parts)?;
    let router = gateway.router();
    let mut part = Part::new("gateway", router).with_task("gateway", Phase::Serving, async move |token| {
        gateway.run(token).await;
        Ok(())
    });
    part.greeting = Some(greeting);
    Ok(part)
}

fn greeting(url: &str) -> String {
    format!(
        "\n  push     {url}/loki/api/v1/push   (Promtail, Alloy, Fluent Bit, Vector)\n           \
         {url}/otlp               (OpenTelemetry over HTTP; over gRPC: {})\n",
        url.trim_start_matches("http://")
    )
}
