//! The channel that live rows come through: bounded, and honest about what did not fit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{Batch, Offset, PartitionId};
use tokio::sync::{mpsc, watch};

/// Rows of one stream of one record.
#[derive(Clone, Debug)]
pub struct TailBatch {
    /// Where they come from.
    pub partition: PartitionId,
    /// Which record they came in. Offsets of one partition never fall within one tail; several batches may share one.
    pub offset: Offset,
    /// The rows.
    pub batch: Arc<Batch>,
    /// From before the tail began, or before its owner served the partition ([`CatchUp`](crate::CatchUp)). Without rows it
    /// says that everything up to its offset was consumed before.
    pub is_replayed: bool,
}

/// Where live rows come out. Dropping it ends the tail.
#[derive(Debug)]
pub struct TailStream {
    batches: mpsc::Receiver<TailBatch>,
    dropped: Arc<AtomicU64>,
    opened: watch::Receiver<bool>,
}

/// Where live rows go in.
#[derive(Clone, Debug)]
pub struct TailSender {
    batches: mpsc::Sender<TailBatch>,
    dropped: Arc<AtomicU64>,
    opened: Arc<watch::Sender<bool>>,
}

/// A channel in which `capacity` batches (at least one) may wait. It is [opened](TailStream::opened).
pub fn tail_channel(capacity: usize) -> (TailSender, TailStream) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    let dropped = Arc::new(AtomicU64::new(0));
    let (opened, is_opened) = watch::channel(true);
    let sender = TailSender { batches: sender, dropped: dropped.clone(), opened: Arc::new(opened) };
    (sender, TailStream { batches: receiver, dropped, opened: is_opened })
}

impl TailStream {
    /// The next batch; `None` when the owner has stopped. Cancel-safe.
    pub async fn recv(&mut self) -> Option<TailBatch> {
        self.batches.recv().await
    }

    /// The next batch when one waits.
    pub fn try_recv(&mut self) -> Option<TailBatch> {
        self.batches.try_recv().ok()
    }

    /// Waits until the tail follows every owner that was known when it began: rows that are consumed from then on come
    /// out here. At once where the owner is in this process. An owner that cannot be reached delays it by a bounded time.
    /// Cancel-safe.
    pub async fn opened(&mut self) {
        // An error says that the sender is gone, and nothing will come.
        let _ = self.opened.wait_for(|opened| *opened).await;
    }

    /// How many rows did not fit since the tail began.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl TailSender {
    /// Hands a batch over, or counts its rows as dropped when there is no room. Never waits.
    pub fn send(&self, batch: TailBatch) {
        if let Err(mpsc::error::TrySendError::Full(batch)) = self.batches.try_send(batch) {
            self.dropped.fetch_add(batch.batch.len() as u64, Ordering::Relaxed);
        }
    }

    /// How many batches there is room for.
    pub fn room(&self) -> usize {
        self.batches.capacity()
    }

    /// Counts rows that got lost on the way to here.
    pub fn count_dropped(&self, rows: u64) {
        self.dropped.fetch_add(rows, Ordering::Relaxed);
    }

    /// Says whether the tail is [opened](TailStream::opened).
    pub fn set_opened(&self, opened: bool) {
        self.opened.send_replace(opened);
    }

    /// Waits until nobody reads any more. Cancel-safe.
    pub async fn closed(&self) {
        self.batches.closed().await;
    }

    /// True when nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.batches.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use model::{Labels, Lines};

    use super::*;

    fn batch(rows: usize) -> TailBatch {
        let columns = Batch {
            labels: Labels::empty(),
            timestamps: vec![0; rows],
            lines: Lines::Absent,
            metadata: Vec::new(),
            offsets: Vec::new(),
        };
        TailBatch { partition: PartitionId::new(0), offset: Offset::ZERO, batch: Arc::new(columns), is_replayed: false }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let (sender, mut stream) = tail_channel(2);
        for rows in [1, 2, 3, 4] {
            sender.send(batch(rows));
        }
        assert_eq!(stream.dropped(), 7);
        let found: Vec<usize> = std::iter::from_fn(|| stream.try_recv()).map(|b| b.batch.len()).collect();
        assert_eq!(found, [1, 2]);
        sender.count_dropped(5);
        assert_eq!(stream.dropped(), 12);
        assert!(!sender.is_closed());
        drop(stream);
        assert!(sender.is_closed());
    }

    #[tokio::test]
    async fn a_tail_is_opened_at_once_or_later() {
        let (sender, mut stream) = tail_channel(1);
        stream.opened().await;
        sender.set_opened(false);
        let waiting = tokio::spawn(async move {
            stream.opened().await;
            stream
        });
        sender.set_opened(true);
        let mut stream = waiting.await.unwrap();
        sender.set_opened(false);
        drop(sender);
        stream.opened().await;
    }
}
