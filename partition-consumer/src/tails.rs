//! Live rows for readers that follow the log.
//!
//! A record becomes visible in memory first and is offered to tails then. A tail that starts gets the rows in memory, and
//! after that only rows above them, so it gets every row once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::{Batch, Labels, Lines, Needs, Offset, OffsetRange, PartitionId};
use owner::{CatchUp, TailBatch, TailRequest, TailSender, TailStream, tail_channel};
use parking_lot::RwLock;
use schemas::record::Record;

use crate::memory::PartitionMemory;
use crate::scan::rows;

/// All live tails. Mostly there are none; then a record costs one look at a counter.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    tails: RwLock<Vec<Tail>>,
    count: AtomicUsize,
}

#[derive(Debug)]
struct Tail {
    request: TailRequest,
    sender: TailSender,
    /// By partition: rows below this offset were offered before, or are not wanted.
    from: HashMap<PartitionId, Offset>,
}

impl Tails {
    /// Opens a tail. `serving` lists the memory of the partitions that are served now.
    pub(crate) fn open(&self, request: TailRequest, serving: impl FnOnce() -> Vec<Arc<PartitionMemory>>) -> TailStream {
        let (sender, stream) = tail_channel(request.capacity);
        let mut tail = Tail { request, sender, from: HashMap::new() };
        // The lock keeps records from being offered, and partitions from being served, without this tail. The count
        // rises before memory is read, so that records consumed after that wait for the lock.
        let mut tails = self.tails.write();
        self.count.store(tails.len() + 1, Ordering::Relaxed);
        let (serving, replays) = (serving(), tail.request.catch_up == CatchUp::FromBefore);
        for (i, memory) in serving.iter().enumerate() {
            tail.catch_up(memory, if replays { tail.sender.room() / 2 / (serving.len() - i) } else { 0 });
        }
        tails.push(tail);
        stream
    }

    /// Gives the rows of a record to the tails that want them. Waits only for the lock.
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

    /// Gives the rows that memory holds of a newly served partition to the open tails.
    pub(crate) fn serve(&self, memory: &PartitionMemory) {
        self.tails.write().iter_mut().for_each(|tail| tail.catch_up(memory, tail.sender.room() / 2));
    }

    /// Notes that a partition is no longer served: everything below `consumed` was offered.
    pub(crate) fn end(&self, partition: PartitionId, consumed: Offset) {
        for tail in self.tails.write().iter_mut() {
            tail.from.insert(partition, consumed);
        }
    }

    /// Number of tails.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Removes tails without a reader.
    pub(crate) fn prune(&self) {
        if self.len() > 0 {
            self.retain(|tail| !tail.sender.is_closed());
        }
    }

    /// Ends all tails.
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
    /// Sends the latest rows of a partition that were not offered yet, in at most `batches_max` batches, and then the
    /// offset up to which it is consumed.
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
            // Rows that were evicted meanwhile are left out.
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
