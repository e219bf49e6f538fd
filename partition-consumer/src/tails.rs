//! Live rows for those who follow.
//!
//! A record is advanced over in memory first and offered to tails then. So when a tail is given what memory holds of a
//! partition, and from then on only what lies behind that, it gets every row once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::{Batch, Labels, Lines, Needs, Offset, OffsetRange, PartitionId};
use owner::{CatchUp, TailBatch, TailRequest, TailSender, TailStream, tail_channel};
use parking_lot::RwLock;
use schemas::record::Record;

use crate::memory::PartitionMemory;
use crate::scan::rows;

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
    /// Rows below were offered before, or are not wanted; by partition.
    from: HashMap<PartitionId, Offset>,
}

impl Tails {
    /// Begins a tail. `serving` lists the partitions that are served now.
    pub(crate) fn open(&self, request: TailRequest, serving: impl FnOnce() -> Vec<Arc<PartitionMemory>>) -> TailStream {
        let (sender, stream) = tail_channel(request.capacity);
        let mut tail = Tail { request, sender, from: HashMap::new() };
        // Nothing is offered meanwhile, and no partition begins to be served without this tail. It counts before memory
        // is looked at: what is consumed after that waits to be offered to it.
        let mut tails = self.tails.write();
        self.count.store(tails.len() + 1, Ordering::Relaxed);
        let (serving, replays) = (serving(), tail.request.catch_up == CatchUp::FromBefore);
        for (i, memory) in serving.iter().enumerate() {
            tail.catch_up(memory, if replays { tail.sender.room() / 2 / (serving.len() - i) } else { 0 });
        }
        tails.push(tail);
        stream
    }

    /// Hands the rows of a record to those who want them. Never waits.
    pub(crate) fn offer(&self, partition: PartitionId, offset: Offset, record: &Record) {
        if self.len() == 0 {
            return;
        }
        let tails = self.tails.read();
        let wants = |tail: &&Tail| {
            tail.request.tenant == *record.tenant() && tail.from.get(&partition).is_none_or(|from| *from <= offset)
        };
        if !tails.iter().any(|tail| wants(&tail)) {
            return;
        }
        for stream in record.streams() {
            let matches = |tail: &&Tail| tail.request.matchers.iter().all(|m| m.matches(stream.labels()));
            let mut batch = None;
            for tail in tails.iter().filter(wants).filter(matches) {
                let batch = batch.get_or_insert_with(|| Arc::new(stream.batch(offset, &Needs::everything())));
                tail.sender.send(TailBatch { partition, offset, batch: batch.clone(), is_replayed: false });
            }
        }
    }

    /// A partition is served from now on: what was read before is given to those who follow already.
    pub(crate) fn serve(&self, memory: &PartitionMemory) {
        self.tails.write().iter_mut().for_each(|tail| tail.catch_up(memory, tail.sender.room() / 2));
    }

    /// A partition is not served any more: everything below `consumed` was offered.
    pub(crate) fn end(&self, partition: PartitionId, consumed: Offset) {
        for tail in self.tails.write().iter_mut() {
            tail.from.insert(partition, consumed);
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

impl Tail {
    /// Gives the latest rows of a partition that were not offered yet, in so many batches at most, and says how far it is
    /// consumed.
    fn catch_up(&mut self, memory: &PartitionMemory, batches_max: usize) {
        if self.request.catch_up == CatchUp::Never {
            return;
        }
        let (partition, held) = (memory.partition(), memory.held());
        let start = self.from.get(&partition).map_or(held.start, |from| held.start.max(*from));
        let send = |offset, batch| {
            self.sender.send(TailBatch { partition, offset, batch: Arc::new(batch), is_replayed: true });
        };
        if batches_max > 0 && start < held.end {
            // What was let go meanwhile cannot be given.
            if let Ok(mut snapshot) = memory.snapshot(start) {
                snapshot.range = OffsetRange::new(start, held.end);
                for slice in rows(&snapshot, &self.request.tenant).latest(&self.request.matchers, batches_max) {
                    send(slice.offset, slice.rows.batch(slice.offset, &Needs::everything()));
                }
            }
        }
        send(Offset::new(held.end.value() - 1), no_rows());
        self.from.insert(partition, held.end);
    }
}

fn no_rows() -> Batch {
    Batch {
        labels: Labels::empty(),
        timestamps: Vec::new(),
        lines: Lines::Absent,
        metadata: Vec::new(),
        offsets: Vec::new(),
    }
}
