//! Makes blocks, for the consumer of the same process or for owners in others.

use std::sync::Arc;

use block_builder::Builder;

use super::part::Part;
use crate::components::Components;

/// A builder. One that serves other processes never asks another process to build.
pub(super) fn make(components: &Components, serves_others: bool) -> anyhow::Result<Arc<Builder>> {
    let owner = match &components.control {
        Some(control) => control.id().to_owned(),
        None => format!("millrace pid {}", std::process::id()),
    };
    let parts = block_builder::Components {
        log: components.log.bus(),
        store: components.store.clone(),
        heads: components.heads.as_ref().clone(),
        clock: components.clock.clone(),
        random: components.random.clone(),
        processors: components.processors.clone(),
        metrics: components.registry.clone(),
        owner,
        control: components.control.clone().filter(|_| !serves_others),
    };
    Ok(Builder::new(components.settings.builder.clone(), parts)?)
}

/// The RPC that owners in other processes call.
pub(super) fn part(builder: &Arc<Builder>) -> Part {
    Part::new("builder", builder.router())
}
