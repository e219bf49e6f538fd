//! Owns partitions: reads the log, answers for recent rows, and has blocks made.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::Router;
use block_builder::Builder;
use fleet::OwnerServer;
use partition_consumer::Consumer;
use telemetry::ServiceState;

use super::part::{Part, Phase};
use crate::components::Components;

const READY_CHECK_PERIOD: Duration = Duration::from_millis(2);

pub(super) fn make(components: &Components, blocks: Arc<Builder>) -> anyhow::Result<Arc<Consumer>> {
    let parts = partition_consumer::Components {
        log: components.log.bus(),
        blocks,
        clock: components.clock.clone(),
        random: components.random.clone(),
        processors: components.processors.clone(),
        metrics: components.registry.clone(),
        control: components.control.clone(),
    };
    Ok(Consumer::new(components.settings.consumer.clone(), parts)?)
}

pub(super) fn part(components: &Components, consumer: &Arc<Consumer>) -> Part {
    let router = match components.control {
        Some(_) => OwnerServer::new(consumer.clone(), &components.processors).into_router(),
        None => Router::new(),
    };
    let readiness = components.readiness.service("consumer");
    readiness.set(ServiceState::Starting("reading the log".into()));
    let (running, watched, ready) = (consumer.clone(), consumer.clone(), readiness);
    Part::new("consumer", router)
        .with_task("consumer", Phase::Consuming, async move |token| {
            running.run(token).await.context("the consumer failed")
        })
        .with_task("readiness", Phase::Serving, async move |token| {
            if token.run_until_cancelled(until_ready(&watched)).await.is_some() {
                ready.set(ServiceState::Running);
                token.cancelled().await;
            }
            Ok(())
        })
}

/// Waits until every partition is served.
pub(super) async fn until_ready(consumer: &Consumer) {
    while !consumer.is_ready() {
        tokio::time::sleep(READY_CHECK_PERIOD).await;
    }
}
