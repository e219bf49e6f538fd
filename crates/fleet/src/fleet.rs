//! Offers all partitions of the log behind one [`Owner`].

use std::sync::Arc;

use async_trait::async_trait;
use control::{Control, PartitionRole};
use log_bus::LogBus;
use model::{Offset, OffsetRange, PartitionId};
use owner::{
    LogTail, Owner, OwnerError, ScanReply, ScanRequest, StreamsReply, StreamsRequest, TailRequest, TailStream,
    tail_channel,
};
use runtime::{Processors, Tasks};
use tokio_util::sync::CancellationToken;

use crate::client::Clients;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::tail::Tail;
use crate::{Config, Error};

/// The components of a [`Fleet`].
pub struct Components {
    /// Tells which processes exist and what they hold.
    pub control: Arc<Control>,
    /// The owner of this process, if it has one. It is asked directly.
    pub local: Option<Arc<dyn Owner>>,
    /// Tells its ends.
    pub log: Arc<dyn LogBus>,
    /// Reads the log when no holder answers.
    pub tail: Arc<LogTail>,
    /// Decodes large answers of other processes.
    pub processors: Processors,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
}

/// The owners of all partitions, in whichever process they are.
pub struct Fleet {
    members: Arc<Members>,
    tails: Tasks,
    stop: CancellationToken,
}

impl Fleet {
    /// A fleet that asks the processes on the control topic.
    ///
    /// # Errors
    /// When a setting cannot work, or the metrics are registered already.
    pub fn new(config: Config, components: Components) -> Result<Arc<Self>, Error> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(Error::Config(problems.join("; ")));
        }
        let Components { control, local, log, tail, processors, metrics } = components;
        let members = Members {
            clients: Clients::new(config.clone(), processors.share("rpc_decode", 0)),
            metrics: Metrics::register(&metrics)?,
            config,
            control,
            local,
            log,
            log_tail: tail,
        };
        Ok(Arc::new(Self { members: Arc::new(members), tails: Tasks::new("fleet"), stop: CancellationToken::new() }))
    }

    /// Ends all live tails and waits for them. Other requests are answered as before.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tails.finish().await;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Owner for Fleet {
    fn partition_count(&self) -> u32 {
        self.members.log.partition_count().max(self.members.control.view().partition_count())
    }

    async fn ends(&self) -> Result<Vec<Offset>, OwnerError> {
        self.members.log.ends().await.map_err(|error| OwnerError::Unavailable(error.to_string()))
    }

    /// All partitions, since the log is read for those that nobody holds.
    fn partitions(&self) -> Vec<PartitionId> {
        (0..self.partition_count()).map(PartitionId::new).collect()
    }

    /// The range that the best holder holds. For another process this is the last report.
    fn held(&self, partition: PartitionId) -> Option<OffsetRange> {
        let view = self.members.control.view();
        let holders = view.holders(partition);
        let best = holders.iter().find(|holder| holder.role != PartitionRole::Warming);
        let local = || self.members.local.as_ref().and_then(|local| local.held(partition));
        match best {
            Some(best) if best.id == self.members.control.id() => local().or(Some(best.held)),
            Some(best) => Some(best.held),
            None => local(),
        }
    }

    async fn scan(&self, request: ScanRequest) -> Result<ScanReply, OwnerError> {
        self.members.ask(request).await
    }

    async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError> {
        self.members.ask(request).await
    }

    fn tail(&self, request: TailRequest) -> TailStream {
        let (sender, stream) = tail_channel(request.capacity);
        sender.set_opened(false);
        let tail = Tail::new(self.members.clone(), request, sender);
        let stop = self.stop.clone();
        self.tails.spawn("tail", async move { stop.run_until_cancelled(tail.run()).await });
        stream
    }

    async fn flush(&self) -> Result<(), OwnerError> {
        self.members.flush().await
    }
}
