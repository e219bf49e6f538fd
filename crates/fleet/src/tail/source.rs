//! The live rows of one process.

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

/// The other side shows every 5 s that it is there.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long a process that serves nothing any more is listened to.
const LINGER: Duration = Duration::from_secs(2);

/// What a source tells.
pub(super) enum Event {
    /// It is open, or out of reach for now.
    Settled(u64),
    /// Rows of an opening.
    Batch(u64, TailBatch),
    /// So many rows were dropped on the other side.
    Lost(u64),
    /// Nothing more comes of an opening.
    Gone(u64),
}

/// One process to follow.
pub(super) struct Source {
    pub(super) number: u64,
    /// Counts the openings of all sources: each has its own number, since one repeats what another had.
    pub(super) openings: Arc<AtomicU64>,
    /// As for the first opening.
    pub(super) request: TailRequest,
    pub(super) config: Config,
    pub(super) events: mpsc::Sender<Event>,
    /// Its process serves nothing any more.
    pub(super) gone: CancellationToken,
}

/// Why rows end.
enum End {
    /// Nobody listens.
    Unread,
    /// The other side.
    Broken,
}

impl Source {
    /// Follows until the process is gone, or nobody listens.
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
        let _ = self.events.send(Event::Gone(opening.into_inner())).await;
    }

    /// Opens the tail again and again, and notes which opening it is.
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
            // What came while nobody listened is asked for.
            request.catch_up = CatchUp::FromBefore;
            let told = [Event::Settled(self.number), Event::Gone(number)];
            if matches!(end, End::Unread) || self.gone.is_cancelled() {
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

    async fn follow_owner(&self, owner: &dyn Owner, request: &TailRequest, opening: u64) -> End {
        let mut tail = owner.tail(request.clone());
        let mut lost = Lost::default();
        tail.opened().await;
        if self.events.send(Event::Settled(self.number)).await.is_err() {
            return End::Unread;
        }
        while let Some(batch) = tail.recv().await {
            if self.pass_on(opening, batch, lost.more(tail.dropped())).await.is_err() {
                return End::Unread;
            }
        }
        End::Broken
    }

    async fn follow_peer(&self, peer: &Peer, request: &TailRequest, opening: u64) -> (bool, End) {
        let patience = self.config.connect_timeout.get() + self.config.probe_timeout.get();
        let mut replies = match timeout(patience, peer.tail(request)).await {
            Ok(Ok(replies)) => replies,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a live tail cannot be opened");
                return (false, End::Broken);
            }
            Err(_) => return (false, End::Broken),
        };
        if self.events.send(Event::Settled(self.number)).await.is_err() {
            return (true, End::Unread);
        }
        let mut lost = Lost::default();
        while let Ok(Ok(Some(reply))) = timeout(SILENCE_MAX, replies.message()).await {
            let mut dropped = lost.more(reply.dropped);
            for batch in &reply.batches {
                match wire::read_tail_batch(batch) {
                    Ok(batch) => {
                        if self.pass_on(opening, batch, std::mem::take(&mut dropped)).await.is_err() {
                            return (true, End::Unread);
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "live rows cannot be read");
                        return (true, End::Broken);
                    }
                }
            }
            if dropped > 0 && self.events.send(Event::Lost(dropped)).await.is_err() {
                return (true, End::Unread);
            }
        }
        (true, End::Broken)
    }

    async fn pass_on(&self, opening: u64, batch: TailBatch, lost: u64) -> Result<(), mpsc::error::SendError<Event>> {
        if lost > 0 {
            self.events.send(Event::Lost(lost)).await?;
        }
        self.events.send(Event::Batch(opening, batch)).await
    }
}

/// Turns a count since the beginning into what came since the last look.
#[derive(Default)]
struct Lost(u64);

impl Lost {
    fn more(&mut self, total: u64) -> u64 {
        let more = total.saturating_sub(self.0);
        self.0 = self.0.max(total);
        more
    }
}
