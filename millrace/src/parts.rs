//! The parts of a process: each service as its routes and its background tasks.
//!
//! [`make`] makes the parts of a role in the order in which data flows. What one part needs of another goes through
//! [`Made`]: the consumer needs a builder, the query service asks a consumer in the same process directly.
//!
//! A new part is a file here, a [`PartKind`] and a line in [`make`].

mod builder;
mod consumer;
mod flush_and_end;
mod gateway;
mod limits;
mod membership;
mod part;
mod query_service;

use std::sync::Arc;

use block_builder::Builder;
use partition_consumer::Consumer;

pub(crate) use part::{BackgroundTask, Part, PartKind, Phase};

use crate::components::Components;

/// Services that other parts of the same process use.
#[derive(Default)]
struct Made {
    builder: Option<Arc<Builder>>,
    consumer: Option<Arc<Consumer>>,
}

/// Makes the parts of these kinds, and those that every process has.
pub(crate) async fn make(kinds: &[PartKind], components: &Components) -> anyhow::Result<Vec<Part>> {
    let has = |kind| kinds.contains(&kind);
    let mut made = Made::default();
    let mut parts = vec![limits::part(components)?];
    parts.extend(components.control.clone().map(membership::part));
    if has(PartKind::Builder) || has(PartKind::Consumer) {
        made.builder = Some(builder::make(components, has(PartKind::Builder))?);
    }
    if let Some(builder) = made.builder.as_ref().filter(|_| has(PartKind::Builder)) {
        parts.push(builder::part(builder));
    }
    if let Some(builder) = made.builder.as_ref().filter(|_| has(PartKind::Consumer)) {
        let consumer = consumer::make(components, builder.clone())?;
        parts.push(consumer::part(components, &consumer));
        made.consumer = Some(consumer);
    }
    if has(PartKind::Gateway) {
        parts.push(gateway::part(components)?);
    }
    if has(PartKind::QueryService) {
        parts.push(query_service::part(components, made.consumer.clone()).await?);
    }
    if let Some(consumer) = made.consumer.filter(|_| has(PartKind::FlushAndEnd)) {
        parts.push(flush_and_end::part(consumer));
    }
    Ok(parts)
}
