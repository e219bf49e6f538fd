//! Answers queries, from memory of owners and from blocks.

use std::sync::Arc;

use anyhow::Context as _;
use catalogue::{Head, Heads};
use control::Control;
use fleet::Fleet;
use log_bus::LogId;
use object_store::ObjectStore;
use owner::{LogTail, Owner};
use partition_consumer::Consumer;
use query_service::{Consistency, QueryService};

use super::part::{Part, Phase};
use crate::components::Components;

/// `consumer` is the one of this process, if it has one.
pub(super) async fn part(components: &Components, consumer: Option<Arc<Consumer>>) -> anyhow::Result<Part> {
    let local = consumer.map(|consumer| consumer as Arc<dyn Owner>);
    let fleet = match &components.control {
        Some(control) => Some(fleet(components, control, local.clone())?),
        None => None,
    };
    let owner = match &fleet {
        Some(fleet) => fleet.clone() as Arc<dyn Owner>,
        None => local.context("on the local log, the query service needs a consumer in its process")?,
    };
    let parts = query_service::Components {
        owner,
        older_heads: older_heads(&components.store, components.log.bus().log_id()).await?,
        heads: components.heads.clone(),
        store: components.store.clone(),
        processors: components.processors.clone(),
        // The local log knows its ends without asking anybody, so strong reads cost nothing.
        consistency_default: components.control.is_none().then_some(Consistency::Strong),
        overrides: components.overrides.clone(),
        clock: components.clock.clone(),
        metrics: components.registry.clone(),
    };
    let query = QueryService::new(components.settings.querier.clone(), parts)?;
    let router = query.router();
    let mut part = Part::new("query service", router).with_task("query service", Phase::Serving, async move |token| {
        token.cancelled().await;
        query.stop().await;
        if let Some(fleet) = fleet {
            fleet.stop().await;
        }
        Ok(())
    });
    part.greeting = Some(|url| format!("  query    {url}               (a Grafana data source of type Loki)\n"));
    Ok(part)
}

/// Owners in this process and in others.
fn fleet(components: &Components, control: &Arc<Control>, local: Option<Arc<dyn Owner>>) -> anyhow::Result<Arc<Fleet>> {
    let log = components.log.bus();
    let tail = LogTail::new(components.settings.querier.log_tail.clone(), log.clone(), &components.processors);
    tail.register(&components.registry)?;
    let parts = fleet::Components {
        control: control.clone(),
        local,
        log,
        tail,
        processors: components.processors.clone(),
        metrics: components.registry.clone(),
    };
    Ok(Fleet::new(components.settings.cluster.fleet.clone(), parts)?)
}

/// The heads of all logs in the store except the current one. There are some when the log was lost or moved away.
async fn older_heads(store: &Arc<dyn ObjectStore>, current: &LogId) -> anyhow::Result<Vec<Arc<Head>>> {
    let mut older = Vec::new();
    for log_id in catalogue::log_ids(store.as_ref()).await?.into_iter().filter(|id| *id != current.0) {
        older.extend(Heads::new(store.clone(), &log_id)?.all().await?);
        tracing::warn!(
            log_id,
            "the store holds blocks of another log; queries read them too. Records of that log that were not in blocks \
             are missing: if its folder was moved away by mistake, stop and move it back"
        );
    }
    Ok(older)
}
