//! The processes of the fleet, as this one sees them.

use std::sync::Arc;

use control::{Control, PartitionRole, View};
use futures_util::future::join_all;
use log_bus::LogBus;
use model::{Offset, PartitionId};
use owner::{LogTail, Owner, OwnerError};

use crate::Config;
use crate::ask::{AskContext, Candidates, Holder, PartitionRequest, ask, label};
use crate::client::Clients;
use crate::metrics::Metrics;

/// The owners of other processes and of this one.
pub(crate) struct Members {
    pub(crate) config: Config,
    pub(crate) control: Arc<Control>,
    pub(crate) local: Option<Arc<dyn Owner>>,
    pub(crate) clients: Clients,
    pub(crate) metrics: Metrics,
    pub(crate) log: Arc<dyn LogBus>,
    pub(crate) log_tail: Arc<LogTail>,
}

impl Members {
    pub(crate) async fn ask<Q: PartitionRequest>(&self, request: Q) -> Result<Q::Reply, OwnerError> {
        let candidates = self.candidates(request.at().partition, request.at().from);
        let context = AskContext { config: &self.config, metrics: &self.metrics, log: &self.log_tail };
        ask(context, candidates, request).await
    }

    /// The holders that may answer for rows from `from` on, best first. The view is a little old, but starts of held ranges
    /// only rise: a process that did not hold the offset then does not hold it now.
    fn candidates(&self, partition: PartitionId, from: Offset) -> Candidates {
        let view = self.control.view();
        let mut candidates = Candidates::default();
        let mut is_local_listed = false;
        for holder in view.holders(partition) {
            let is_own = holder.id == self.control.id();
            is_local_listed |= is_own;
            if holder.role == PartitionRole::Warming {
                continue;
            }
            if holder.held.start > from {
                // The lowest start tells best how new a head must be.
                let is_lower = candidates.newer.is_none_or(|known| holder.held.start < known.start);
                candidates.newer = if is_lower { Some(holder.held) } else { candidates.newer };
                continue;
            }
            if let Some(candidate) = self.holder(&holder.id, &holder.rpc, &view) {
                candidates.holders.push(candidate);
            }
        }
        // This process may serve a partition before the view shows it.
        if let Some(local) = self.local.as_ref().filter(|local| !is_local_listed && local.held(partition).is_some()) {
            candidates.holders.push(Holder::Here(local.clone()));
        }
        candidates
    }

    /// A process of the view, or `None` if it cannot be asked.
    pub(crate) fn holder(&self, id: &str, rpc: &str, view: &View) -> Option<Holder> {
        if id == self.control.id() {
            return self.local.clone().map(Holder::Here);
        }
        match self.clients.get(rpc, view) {
            Ok(peer) => Some(Holder::There(peer)),
            Err(error) => {
                tracing::debug!(process = id, %error, "a process cannot be asked");
                None
            }
        }
    }

    /// Asks every leader to flush. Fails if a partition has no leader.
    pub(crate) async fn flush(&self) -> Result<(), OwnerError> {
        let unavailable = |text: String| OwnerError::Unavailable(text);
        let count = self.log.ends().await.map_err(|error| unavailable(error.to_string()))?.len() as u32;
        let view = self.control.view();
        let mut leaders = Vec::new();
        for partition in (0..count).map(PartitionId::new) {
            let leader = view.leader(partition);
            let Some(leader) = leader else {
                return Err(unavailable(format!("no process leads partition {partition} now; try again")));
            };
            if !leaders.contains(&leader.id) {
                leaders.push(leader.id);
            }
        }
        let flushes = leaders.iter().map(async |id| {
            let rpc = view.process(id).and_then(|process| process.rpc.as_deref()).unwrap_or_default();
            let outcome = match self.holder(id, rpc, &view) {
                Some(Holder::Here(owner)) => owner.flush().await,
                Some(Holder::There(peer)) => peer.flush().await,
                None => Err(unavailable(format!("process {id} cannot be asked"))),
            };
            let outcome_label = outcome.as_ref().err().map_or("answered", label);
            self.metrics.requests.with_label_values(&["flush", outcome_label]).inc();
            outcome
        });
        join_all(flushes).await.into_iter().collect()
    }
}
