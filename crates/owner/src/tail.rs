//! The channel for live rows: bounded, and counts the rows that did not fit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{Batch, Offset, PartitionId};
use tokio::sync::{mpsc, watch};

/// Rows of one stream of one record.
#[derive(Clone, Debug)]
pub struct TailBatch {
    /// The partition of the rows.
    pub partition: PartitionId,
    /// The offset of their record. Within one tail, offsets of a partition never fall. Several batches may share one.
    pub offset: Offset,
    /// The rows.
    pub batch: Arc<Batch>,
    /// True for rows from before the tail began, or before its owner served the partition ([`CatchUp`](crate::CatchUp)). A
    /// replayed batch without rows says that everything up to its offset was consumed before.
    pub is_replayed: bool,
}

/// The receiving end of a tail. Dropping it ends the tail.
#[derive(Debug)]
pub struct TailStream {
    batches: mpsc::Receiver<TailBatch>,
    dropped: Arc<AtomicU64>,
    opened: watch::Receiver<bool>,
}

/// The sending end of a tail.
#[derive(Clone, Debug)]
pub struct TailSender {
    batches: mpsc::Sender<TailBatch>,
    dropped: Arc<AtomicU64>,
    opened: Arc<watch::Sender<bool>>,
}

/// A channel in which `capacity` batches (at least one) may wait. It starts [opened](TailStream::opened).
pub fn tail_channel(capacity: usize) -> (TailSender, TailStream) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    let dropped = Arc::new(AtomicU64::new(0));
    let (opened, is_opened) = watch::channel(true);
    let sender = TailSender { batches: sender, dropped: dropped.clone(), opened: Arc::new(opened) };
    (sender, TailStream { batches: receiver, dropped, opened: is_opened })
}

impl TailStream {
    /// Waits for the next batch. `None` when the owner has stopped. Cancel-safe.
    pub async fn recv(&mut self) -> Option<TailBatch> {
        self.batches.recv().await
    }

    /// The next batch, if one waits.
    pub fn try_recv(&mut self) -> Option<TailBatch> {
        self.batches.try_recv().ok()
    }

    /// Waits until the tail follows every owner that was known when it began; it receives all rows that are consumed after
    /// that. A tail of an owner in this process is opened immediately. An unreachable owner delays it by a bounded time.
    /// Cancel-safe.
    pub async fn opened(&mut self) {
        // An error means that the sender is gone, so no row will come.
        let _ = self.opened.wait_for(|opened| *opened).await;
    }

    /// Number of rows that did not fit since the tail began.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl TailSender {
    /// Sends a batch, or counts its rows as dropped if there is no room. Never waits.
    pub fn send(&self, batch: TailBatch) {
        if let Err(mpsc::error::TrySendError::Full(batch)) = self.batches.try_send(batch) {
            self.dropped.fetch_add(batch.batch.len() as u64, Ordering::Relaxed);
        }
    }

    /// Number of batches for which there is room.
    pub fn room(&self) -> usize {
        self.batches.capacity()
    }

    /// Counts rows that were lost before they came here.
    pub fn count_dropped(&self, rows: u64) {
        self.dropped.fetch_add(rows, Ordering::Relaxed);
    }

    /// Sets whether the tail is [opened](TailStream::opened).
    pub fn set_opened(&self, opened: bool) {
        self.opened.send_replace(opened);
    }

    /// Waits until the reader is gone. Cancel-safe.
    pub async fn closed(&self) {
        self.batches.closed().await;
    }

    /// True when the reader is gone.
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
    fn rows_that_do_not_fit_are_counted() {
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
