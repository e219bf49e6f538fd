//! Live rows for those who follow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::{Offset, PartitionId};
use owner::{TailBatch, TailRequest, TailSender, TailStream, tail_channel};
use parking_lot::RwLock;
use schemas::record::{MetadataWanted, Record};

/// Who follows what. Nearly always nobody: that costs one look at a counter for each record.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    tails: RwLock<Vec<Tail>>,
    count: AtomicUsize,
}

#[derive(Debug)]
struct Tail {
    request: TailRequest,
    sender: TailSender,
}

impl Tails {
    /// Begins a tail.
    pub(crate) fn open(&self, request: TailRequest) -> TailStream {
        let (sender, stream) = tail_channel(request.capacity);
        let mut tails = self.tails.write();
        tails.push(Tail { request, sender });
        self.count.store(tails.len(), Ordering::Relaxed);
        stream
    }

    /// Hands the rows of a record to those who want them. Never waits.
    pub(crate) fn offer(&self, partition: PartitionId, offset: Offset, record: &Record) {
        if self.len() == 0 {
            return;
        }
        let tails = self.tails.read();
        let of_tenant = || tails.iter().filter(|tail| tail.request.tenant == *record.tenant());
        if of_tenant().next().is_none() {
            return;
        }
        for rows in record.streams() {
            let mut batch = None;
            for tail in of_tenant().filter(|tail| tail.request.matchers.iter().all(|m| m.matches(rows.labels()))) {
                let batch = batch.get_or_insert_with(|| Arc::new(rows.batch(offset, true, &MetadataWanted::All)));
                tail.sender.send(TailBatch { partition, offset, batch: batch.clone() });
            }
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Forgets those that nobody reads any more.
    pub(crate) fn prune(&self) {
        if self.len() > 0 {
            self.retain(|tail| !tail.sender.is_closed());
        }
    }

    /// Ends all.
    pub(crate) fn clear(&self) {
        self.retain(|_| false);
    }

    fn retain(&self, keep: impl FnMut(&Tail) -> bool) {
        let mut tails = self.tails.write();
        tails.retain(keep);
        self.count.store(tails.len(), Ordering::Relaxed);
    }
}
