//! The router: all partitions of the log behind one [`Owner`].

use std::sync::Arc;

use async_trait::async_trait;
use control::{Control, PartitionRole, View};
use futures_util::future::join_all;
use log_bus::LogBus;
use model::{Offset, OffsetRange, PartitionId};
use owner::{
    LogTail, Owner, OwnerError, ScanReply, ScanRequest, StreamsReply, StreamsRequest, TailRequest, TailStream,
    tail_channel,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ask::{Asking, Candidates, Holder, Question, ask, label};
use crate::client::Clients;
use crate::metrics::Metrics;
use crate::tail::Tail;
use crate::{Config, Error};

/// What a fleet works with.
pub struct Components {
    /// Who is there.
    pub control: Arc<Control>,
    /// The owner of this process, if it has one. It is asked directly for what the view says that this process holds.
    pub local: Option<Arc<dyn Owner>>,
    /// Told for its ends.
    pub log: Arc<dyn LogBus>,
    /// Reads what no holder answers for.
    pub tail: Arc<LogTail>,
    /// Takes the metrics.
    pub metrics: prometheus::Registry,
}

/// The owners of all partitions, wherever they are.
pub struct Fleet {
    shared: Arc<Shared>,
    tails: TaskTracker,
    stop: CancellationToken,
}

/// What tails work with, too.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) control: Arc<Control>,
    pub(crate) local: Option<Arc<dyn Owner>>,
    pub(crate) clients: Clients,
    pub(crate) metrics: Metrics,
    log: Arc<dyn LogBus>,
    log_tail: Arc<LogTail>,
}

impl Fleet {
    /// A fleet that asks whoever the control topic says is there.
    ///
    /// # Errors
    /// When a setting cannot work, or the metrics are registered already.
    pub fn new(config: Config, components: Components) -> Result<Arc<Self>, Error> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(Error::Config(problems.join("; ")));
        }
        let Components { control, local, log, tail, metrics } = components;
        let shared = Shared {
            clients: Clients::new(config.clone()),
            metrics: Metrics::register(&metrics)?,
            config,
            control,
            local,
            log,
            log_tail: tail,
        };
        Ok(Arc::new(Self { shared: Arc::new(shared), tails: TaskTracker::new(), stop: CancellationToken::new() }))
    }

    /// Ends all live tails and waits for them. Questions are answered as before.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tails.close();
        self.tails.wait().await;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    async fn ask<Q: Question>(&self, question: Q) -> Result<Q::Reply, OwnerError> {
        let candidates = self.candidates(question.at().partition, question.at().from);
        let asking = Asking { config: &self.config, metrics: &self.metrics, log: &self.log_tail };
        ask(asking, candidates, question).await
    }

    /// Who may answer for rows from `from` on, best first. Held ranges in the view are up to a beat old, and their starts
    /// only rise: who did not have the offset then does not have it now.
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
                // The lowest start says most about how new a head must be.
                let is_lower = candidates.newer.is_none_or(|known| holder.held.start < known.start);
                candidates.newer = if is_lower { Some(holder.held) } else { candidates.newer };
                continue;
            }
            if let Some(found) = self.holder(&holder.id, &holder.rpc, &view) {
                candidates.holders.push(found);
            }
        }
        // This process may serve what its state does not tell yet.
        if let Some(local) = self.local.as_ref().filter(|local| !is_local_listed && local.held(partition).is_some()) {
            candidates.holders.push(Holder::Here(local.clone()));
        }
        candidates
    }

    /// A process of the view; `None` when it cannot be asked.
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

    /// Asks everyone who leads something, and requires that everything is led.
    async fn flush(&self) -> Result<(), OwnerError> {
        let unavailable = |text: String| OwnerError::Unavailable(text);
        let count = self.log.ends().await.map_err(|error| unavailable(error.to_string()))?.len() as u32;
        let view = self.control.view();
        let mut leaders = Vec::new();
        for partition in (0..count).map(PartitionId::new) {
            let leader = view.leader(partition);
            let Some(leader) = leader else {
                return Err(unavailable(format!("partition {partition} is not led by anybody now; try again")));
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

#[async_trait]
impl Owner for Fleet {
    fn partition_count(&self) -> u32 {
        self.shared.log.partition_count().max(self.shared.control.view().partition_count())
    }

    async fn ends(&self) -> Result<Vec<Offset>, OwnerError> {
        self.shared.log.ends().await.map_err(|error| OwnerError::Unavailable(error.to_string()))
    }

    /// All partitions: what nobody holds is read from the log.
    fn partitions(&self) -> Vec<PartitionId> {
        (0..self.partition_count()).map(PartitionId::new).collect()
    }

    /// What the best holder holds; of other processes, when they last told.
    fn held(&self, partition: PartitionId) -> Option<OffsetRange> {
        let view = self.shared.control.view();
        let holders = view.holders(partition);
        let best = holders.iter().find(|holder| holder.role != PartitionRole::Warming);
        let local = || self.shared.local.as_ref().and_then(|local| local.held(partition));
        match best {
            Some(best) if best.id == self.shared.control.id() => local().or(Some(best.held)),
            Some(best) => Some(best.held),
            None => local(),
        }
    }

    async fn scan(&self, request: ScanRequest) -> Result<ScanReply, OwnerError> {
        self.shared.ask(request).await
    }

    async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError> {
        self.shared.ask(request).await
    }

    fn tail(&self, request: TailRequest) -> TailStream {
        let (sender, stream) = tail_channel(request.capacity);
        sender.set_opened(false);
        let tail = Tail::new(self.shared.clone(), request, sender);
        let stop = self.stop.clone();
        self.tails.spawn(async move { stop.run_until_cancelled(tail.run()).await });
        stream
    }

    async fn flush(&self) -> Result<(), OwnerError> {
        self.shared.flush().await
    }
}
