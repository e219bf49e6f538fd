//! Sends one request about one partition: to which processes, in which order, and which answer counts.
//!
//! ```text
//! holder 1 ──fails──▶ holder 2 ──fails──▶ … ──▶ the log
//!     └─ silent for hedge_after ─▶ holder 2 as well ─▶ … ─▶ if none is alive: the log as well
//! ```
//!
//! The first good answer counts, and cancels the other requests. A holder that is alive gets all the time it needs: scans may
//! take long, and reading the log would take longer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use model::OffsetRange;
use owner::{LogTail, Owner, OwnerError, ScanReply, ScanRequest, StreamsReply, StreamsRequest, Where};
use tokio::time::{Instant, sleep_until};

use crate::Config;
use crate::client::Peer;
use crate::metrics::Metrics;

/// A request that any holder of a partition can answer.
#[async_trait]
pub(crate) trait PartitionRequest: Clone + Send + Sync + 'static {
    type Reply: Send + 'static;
    /// Its name in metrics.
    const NAME: &'static str;

    fn at(&self) -> &Where;
    fn at_mut(&mut self) -> &mut Where;
    fn held(reply: &Self::Reply) -> OffsetRange;
    async fn ask_owner(self, owner: &dyn Owner) -> Result<Self::Reply, OwnerError>;
    async fn ask_peer(self, peer: &Peer) -> Result<Self::Reply, OwnerError>;
    async fn ask_log(self, log: &LogTail) -> Result<Self::Reply, OwnerError>;
}

/// A process that may answer.
#[derive(Clone)]
pub(crate) enum Holder {
    /// This process.
    Here(Arc<dyn Owner>),
    /// Another process.
    There(Arc<Peer>),
}

impl Holder {
    fn is_suspect(&self) -> bool {
        matches!(self, Self::There(peer) if peer.is_suspect())
    }
}

/// The processes that may answer, according to the view.
#[derive(Default)]
pub(crate) struct Candidates {
    /// Best first.
    pub(crate) holders: Vec<Holder>,
    /// The range of a process that no longer holds the first offset wanted.
    pub(crate) newer: Option<OffsetRange>,
}

/// The settings and parts that sending a request needs.
#[derive(Clone, Copy)]
pub(crate) struct AskContext<'a> {
    pub(crate) config: &'a Config,
    pub(crate) metrics: &'a Metrics,
    pub(crate) log: &'a LogTail,
}

/// Asks the candidates, and the log if none of them answers.
pub(crate) async fn ask<Q: PartitionRequest>(
    context: AskContext<'_>,
    candidates: Candidates,
    request: Q,
) -> Result<Q::Reply, OwnerError> {
    let began = Instant::now();
    let outcome = Race::new(context, candidates, request).run().await;
    context.metrics.seconds.with_label_values(&[Q::NAME]).observe(began.elapsed().as_secs_f64());
    outcome
}

/// Resolves to the number of a source and its answer.
type PendingAnswer<'a, R> = BoxFuture<'a, (usize, Result<R, OwnerError>)>;

struct Race<'a, Q: PartitionRequest> {
    context: AskContext<'a>,
    request: Q,
    /// Holders that were not asked yet.
    left: VecDeque<Holder>,
    newer: Option<OffsetRange>,
    /// The deadline of holders. It leaves time to read the log.
    holders_deadline: Instant,
    /// Sources that were asked and have not answered, with their numbers.
    waiting: Vec<(usize, Source)>,
    asked: usize,
    log_asked: bool,
    running: FuturesUnordered<PendingAnswer<'a, Q::Reply>>,
}

#[derive(Clone)]
enum Source {
    Holder(Holder),
    Log,
}

/// What follows from an answer.
enum NextStep<R> {
    /// Return the answer.
    Answer(R),
    /// Return the error.
    End(OwnerError),
    /// Ask the next source.
    Next(OwnerError),
}

impl<'a, Q: PartitionRequest> Race<'a, Q> {
    fn new(context: AskContext<'a>, candidates: Candidates, request: Q) -> Self {
        let Candidates { mut holders, newer } = candidates;
        holders.sort_by_key(Holder::is_suspect);
        let deadline = request.at().deadline;
        // Without a goal to wait for, holders answer immediately and may have all the time.
        let left = deadline.saturating_duration_since(Instant::now());
        let holders_deadline = if request.at().at_least.is_some() { deadline - left / 3 } else { deadline };
        Self {
            context,
            request,
            left: holders.into(),
            newer,
            holders_deadline,
            waiting: Vec::new(),
            asked: 0,
            log_asked: false,
            running: FuturesUnordered::new(),
        }
    }

    async fn run(mut self) -> Result<Q::Reply, OwnerError> {
        let mut last = None;
        let mut probe: Option<BoxFuture<'a, bool>> = None;
        let mut impatient_at = Instant::now();
        loop {
            if self.running.is_empty() {
                if !self.ask_holder() {
                    self.is_newer_head_needed()?;
                    if !self.ask_log() {
                        let partition = self.request.at().partition;
                        return Err(last.unwrap_or(OwnerError::NotLeading { partition }));
                    }
                }
                impatient_at = Instant::now() + self.patience();
            }
            tokio::select! {
                biased;
                Some((number, outcome)) = self.running.next() => {
                    let from_log = self.waiting.iter().any(|(n, source)| *n == number && matches!(source, Source::Log));
                    self.waiting.retain(|(n, _)| *n != number);
                    match self.judge(outcome, from_log) {
                        NextStep::Answer(reply) => return Ok(reply),
                        NextStep::End(error) => return Err(error),
                        NextStep::Next(error) => {
                            tracing::debug!(partition = %self.request.at().partition, %error, from_log, "no answer; asking the next one");
                            last = Some(error);
                            if self.ask_holder() {
                                impatient_at = Instant::now() + self.patience();
                            }
                        }
                    }
                }
                is_anyone_alive = async { probe.as_mut().expect("guarded").await }, if probe.is_some() => {
                    probe = None;
                    if !is_anyone_alive && self.left.is_empty() {
                        self.is_newer_head_needed()?;
                        self.ask_log();
                    }
                }
                () = sleep_until(impatient_at) => {
                    if self.ask_holder() {
                        self.context.metrics.hedges.inc();
                    }
                    if probe.is_none() {
                        probe = Some(self.probe());
                    }
                    impatient_at = Instant::now() + self.patience();
                }
            }
        }
    }

    /// How long to wait for the sources asked so far before asking another one.
    fn patience(&self) -> Duration {
        let is_suspect = |(_, source): &(usize, Source)| matches!(source, Source::Holder(h) if h.is_suspect());
        let hedge_after = self.context.config.hedge_after.get();
        if self.waiting.iter().all(is_suspect) { hedge_after / 10 } else { hedge_after }
    }

    /// Asks the next holder, if there is one.
    fn ask_holder(&mut self) -> bool {
        let Some(holder) = self.left.pop_front() else { return false };
        let mut request = self.request.clone();
        request.at_mut().deadline = self.holders_deadline;
        let source = holder.clone();
        let number = self.begin(Source::Holder(holder));
        self.running.push(Box::pin(async move {
            let outcome = match &source {
                Holder::Here(owner) => request.ask_owner(&**owner).await,
                Holder::There(peer) => request.ask_peer(peer).await,
            };
            (number, outcome)
        }));
        true
    }

    /// Fails with [`OwnerError::NotHeld`] if a process has evicted the rows: then a newer head lists them, and the log need
    /// not be read.
    fn is_newer_head_needed(&self) -> Result<(), OwnerError> {
        let partition = self.request.at().partition;
        self.newer.map_or(Ok(()), |held| Err(OwnerError::NotHeld { partition, held }))
    }

    /// Asks the log. Returns false if it was asked before.
    fn ask_log(&mut self) -> bool {
        if self.log_asked {
            return false;
        }
        self.log_asked = true;
        self.context.metrics.fallbacks.inc();
        tracing::debug!(partition = %self.request.at().partition, from = %self.request.at().from,
            "no holder answers; reading the log");
        let (request, log) = (self.request.clone(), self.context.log);
        let number = self.begin(Source::Log);
        self.running.push(Box::pin(async move { (number, request.ask_log(log).await) }));
        true
    }

    fn begin(&mut self, source: Source) -> usize {
        self.asked += 1;
        self.waiting.push((self.asked, source));
        self.asked
    }

    /// Asks whether any source that has not answered is alive. This process and the log always are.
    fn probe(&self) -> BoxFuture<'a, bool> {
        let mut peers = Vec::new();
        let mut is_here = false;
        for (_, source) in &self.waiting {
            match source {
                Source::Holder(Holder::There(peer)) => peers.push(peer.clone()),
                Source::Holder(Holder::Here(_)) | Source::Log => is_here = true,
            }
        }
        let metrics = self.context.metrics;
        Box::pin(async move {
            let alive = join_all(peers.iter().map(|peer| peer.is_alive())).await;
            metrics.probes_failed.inc_by(alive.iter().filter(|alive| !**alive).count() as u64);
            is_here || alive.contains(&true)
        })
    }

    fn judge(&self, outcome: Result<Q::Reply, OwnerError>, from_log: bool) -> NextStep<Q::Reply> {
        let wanted = self.request.at().at_least;
        let (label, step) = match outcome {
            Ok(reply) => match wanted {
                Some(wanted) if Q::held(&reply).end < wanted => {
                    let (partition, consumed) = (self.request.at().partition, Q::held(&reply).end);
                    ("short", NextStep::Next(OwnerError::Deadline { partition, consumed, wanted }))
                }
                _ => ("answered", NextStep::Answer(reply)),
            },
            Err(error) => {
                let label = label(&error);
                let is_last_word = match &error {
                    // If rows were evicted, a newer head lists them.
                    OwnerError::NotHeld { held, .. } => held.start > self.request.at().from,
                    OwnerError::Query(_) | OwnerError::Removed { .. } => true,
                    OwnerError::NotLeading { .. }
                    | OwnerError::Deadline { .. }
                    | OwnerError::Unavailable(_)
                    | OwnerError::Stopped(_) => false,
                };
                (label, if is_last_word { NextStep::End(error) } else { NextStep::Next(error) })
            }
        };
        if !from_log {
            self.context.metrics.requests.with_label_values(&[Q::NAME, label]).inc();
        }
        step
    }
}

/// The label of an error in metrics.
pub(crate) const fn label(error: &OwnerError) -> &'static str {
    match error {
        OwnerError::NotHeld { .. } => "not_held",
        OwnerError::NotLeading { .. } => "not_leading",
        OwnerError::Query(_) => "query",
        OwnerError::Deadline { .. } => "deadline",
        OwnerError::Unavailable(_) => "unavailable",
        OwnerError::Stopped(_) => "stopped",
        OwnerError::Removed { .. } => "removed",
    }
}

#[async_trait]
impl PartitionRequest for ScanRequest {
    type Reply = ScanReply;
    const NAME: &'static str = "scan";

    fn at(&self) -> &Where {
        &self.at
    }

    fn at_mut(&mut self) -> &mut Where {
        &mut self.at
    }

    fn held(reply: &ScanReply) -> OffsetRange {
        reply.held
    }

    async fn ask_owner(self, owner: &dyn Owner) -> Result<ScanReply, OwnerError> {
        owner.scan(self).await
    }

    async fn ask_peer(self, peer: &Peer) -> Result<ScanReply, OwnerError> {
        peer.scan(self).await
    }

    async fn ask_log(self, log: &LogTail) -> Result<ScanReply, OwnerError> {
        log.scan(self).await
    }
}

#[async_trait]
impl PartitionRequest for StreamsRequest {
    type Reply = StreamsReply;
    const NAME: &'static str = "streams";

    fn at(&self) -> &Where {
        &self.at
    }

    fn at_mut(&mut self) -> &mut Where {
        &mut self.at
    }

    fn held(reply: &StreamsReply) -> OffsetRange {
        reply.held
    }

    async fn ask_owner(self, owner: &dyn Owner) -> Result<StreamsReply, OwnerError> {
        owner.streams(self).await
    }

    async fn ask_peer(self, peer: &Peer) -> Result<StreamsReply, OwnerError> {
        peer.streams(self).await
    }

    async fn ask_log(self, log: &LogTail) -> Result<StreamsReply, OwnerError> {
        log.streams(self).await
    }
}
