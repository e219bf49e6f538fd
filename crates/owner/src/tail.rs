//! The channel that live rows come through: bounded, and honest about what did not fit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::Batch;
use tokio::sync::mpsc;

/// Where live rows come out. Dropping it ends the tail.
#[derive(Debug)]
pub struct TailStream {
    batches: mpsc::Receiver<Arc<Batch>>,
    dropped: Arc<AtomicU64>,
}

/// Where live rows go in.
#[derive(Clone, Debug)]
pub struct TailSender {
    batches: mpsc::Sender<Arc<Batch>>,
    dropped: Arc<AtomicU64>,
}

/// A channel in which `capacity` batches (at least one) may wait.
pub fn tail_channel(capacity: usize) -> (TailSender, TailStream) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    let dropped = Arc::new(AtomicU64::new(0));
    (TailSender { batches: sender, dropped: dropped.clone() }, TailStream { batches: receiver, dropped })
}

impl TailStream {
    /// The next batch; `None` when the owner has stopped. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Arc<Batch>> {
        self.batches.recv().await
    }

    /// The next batch when one waits.
    pub fn try_recv(&mut self) -> Option<Arc<Batch>> {
        self.batches.try_recv().ok()
    }

    /// How many rows did not fit since the tail began.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl TailSender {
    /// Hands a batch over, or counts its rows as dropped when there is no room. Never waits.
    pub fn send(&self, batch: Arc<Batch>) {
        if let Err(mpsc::error::TrySendError::Full(batch)) = self.batches.try_send(batch) {
            self.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
    }

    /// True when nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.batches.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use model::{ByteColumn, Labels};

    use super::*;

    fn batch(rows: usize) -> Arc<Batch> {
        let columns = Batch {
            labels: Labels::empty(),
            timestamps: vec![0; rows],
            lines: ByteColumn::default(),
            metadata: Vec::new(),
            offsets: Vec::new(),
        };
        Arc::new(columns)
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let (sender, mut stream) = tail_channel(2);
        for rows in [1, 2, 3, 4] {
            sender.send(batch(rows));
        }
        assert_eq!(stream.dropped(), 7);
        let found: Vec<usize> = std::iter::from_fn(|| stream.try_recv()).map(|b| b.len()).collect();
        assert_eq!(found, [1, 2]);
        assert!(!sender.is_closed());
        drop(stream);
        assert!(sender.is_closed());
    }
}
