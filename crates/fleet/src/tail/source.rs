//! Follows the live rows of one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use owner::{CatchUp, Owner, TailBatch, TailRequest};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::ask::Holder;
use crate::client::Peer;
use crate::wire;

/// The other process sends at least an empty message every 5 s.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long a process is still followed after it stopped serving partitions.
const LINGER: Duration = Duration::from_secs(2);

/// An event of a source.
pub(super) enum SourceEvent {
    /// The source is open, or unreachable for now.
    Settled(u64),
    /// Rows of an opening of the tail.
    Batch(u64, TailBatch),
    /// Number of rows that the other process dropped.
    Lost(u64),
    /// An opening of the tail has ended.
    Gone(u64),
}

/// One process to follow.
pub(super) struct Source {
    pub(super) number: u64,
    /// Counts the openings of all sources. Each has its own number, since a new opening repeats rows of an earlier one.
    pub(super) openings: Arc<AtomicU64>,
    /// The request of the first opening.
    pub(super) request: TailRequest,
    pub(super) config: Config,
    pub(super) events: mpsc::Sender<SourceEvent>,
    /// Cancelled when its process no longer serves partitions.
    pub(super) gone: CancellationToken,
}

/// Why an opening of the tail ended.
enum TailEnd {
    /// Nobody reads the tail any more.
    Unread,
    /// The other process or the connection ended it.
    Broken,
}

impl Source {
    /// Follows until the process is gone or nobody reads the tail.
    pub(super) async fn run(self, holder: Holder) {
        let lingering = async {
            self.gone.cancelled().await;
            sleep(LINGER).await;
        };
        let opening = AtomicU64::new(0);
        tokio::select! {
            biased;
            () = self.follow(&holder, &opening) => {}
            () = lingering => {}
        }
        let _ = self.events.send(SourceEvent::Gone(opening.into_inner())).await;
    }

    /// Opens the tail again whenever it ends, and stores the number of the opening.
    async fn follow(&self, holder: &Holder, opening: &AtomicU64) {
        let first = self.config.tail_retry.get();
        let mut pause = first;
        let mut request = self.request.clone();
        loop {
            let number = self.openings.fetch_add(1, Ordering::Relaxed);
            opening.store(number, Ordering::Relaxed);
            let (was_open, end) = match holder {
                Holder::Here(owner) => (true, self.follow_owner(&**owner, &request, number).await),
                Holder::There(peer) => self.follow_peer(peer, &request, number).await,
            };
            // Asks for the rows that came since the last opening ended.
            request.catch_up = CatchUp::FromBefore;
            let told = [SourceEvent::Settled(self.number), SourceEvent::Gone(number)];
            if matches!(end, TailEnd::Unread) || self.gone.is_cancelled() {
                return;
            }
            for event in told {
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
            pause = if was_open { first } else { (pause * 2).min(first * 10) };
            sleep(pause).await;
        }
    }

    async fn follow_owner(&self, owner: &dyn Owner, request: &TailRequest, opening: u64) -> TailEnd {
        let mut tail = owner.tail(request.clone());
        let mut lost = DropCount::default();
        tail.opened().await;
        if self.events.send(SourceEvent::Settled(self.number)).await.is_err() {
            return TailEnd::Unread;
        }
        while let Some(batch) = tail.recv().await {
            if self.pass_on(opening, batch, lost.more(tail.dropped())).await.is_err() {
                return TailEnd::Unread;
            }
        }
        TailEnd::Broken
    }

    async fn follow_peer(&self, peer: &Peer, request: &TailRequest, opening: u64) -> (bool, TailEnd) {
        let patience = self.config.connect_timeout.get() + self.config.probe_timeout.get();
        let mut replies = match timeout(patience, peer.tail(request)).await {
            Ok(Ok(replies)) => replies,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a live tail cannot be opened");
                return (false, TailEnd::Broken);
            }
            Err(_) => return (false, TailEnd::Broken),
        };
        if self.events.send(SourceEvent::Settled(self.number)).await.is_err() {
            return (true, TailEnd::Unread);
        }
        let mut lost = DropCount::default();
        while let Ok(Ok(Some(reply))) = timeout(SILENCE_MAX, replies.message()).await {
            let mut dropped = lost.more(reply.dropped);
            for batch in &reply.batches {
                match wire::read_tail_batch(batch) {
                    Ok(batch) => {
                        if self.pass_on(opening, batch, std::mem::take(&mut dropped)).await.is_err() {
                            return (true, TailEnd::Unread);
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "live rows cannot be read");
                        return (true, TailEnd::Broken);
                    }
                }
            }
            if dropped > 0 && self.events.send(SourceEvent::Lost(dropped)).await.is_err() {
                return (true, TailEnd::Unread);
            }
        }
        (true, TailEnd::Broken)
    }

    async fn pass_on(
        &self,
        opening: u64,
        batch: TailBatch,
        lost: u64,
    ) -> Result<(), mpsc::error::SendError<SourceEvent>> {
        if lost > 0 {
            self.events.send(SourceEvent::Lost(lost)).await?;
        }
        self.events.send(SourceEvent::Batch(opening, batch)).await
    }
}

/// Turns a total into the increase since the last call.
#[derive(Default)]
struct DropCount(u64);

impl DropCount {
    fn more(&mut self, total: u64) -> u64 {
        let more = total.saturating_sub(self.0);
        self.0 = self.0.max(total);
        more
    }
}
