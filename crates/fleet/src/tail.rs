//! Live rows of the whole fleet: one source for each process that serves partitions, merged.
//!
//! ```text
//! view ─▶ sources come and go ─▶ rows ─▶ Merge (each row once, in the order of its partition) ─▶ reader
//! ```
//!
//! A source that breaks is opened again while its process is in the view. If its process stops serving partitions, the
//! source is read a little longer, since its last rows are in transit. Rows that were consumed between two openings are
//! replayed by the next opening or the next owner, unless they were evicted.

mod merge;
mod source;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use control::{PartitionRole, View};
use owner::{CatchUp, TailRequest, TailSender};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::members::Members;
use merge::{Merge, MergeOutput};
use source::{Source, SourceEvent};

/// Most events of sources that may wait. If the reader is slower than that, owners drop rows and report how many.
const EVENTS_MAX: usize = 256;

/// One live tail.
pub(crate) struct Tail {
    members: Arc<Members>,
    request: TailRequest,
    sender: TailSender,
}

/// The sources of a tail.
struct Sources {
    members: Arc<Members>,
    request: TailRequest,
    events: mpsc::Sender<SourceEvent>,
    tasks: JoinSet<()>,
    /// By process: cancelled to tell a source that its process no longer serves partitions.
    open: HashMap<String, CancellationToken>,
    count: u64,
    openings: Arc<AtomicU64>,
    /// Sources of the first view that are neither open nor known to be unreachable.
    unsettled: HashSet<u64>,
}

impl Tail {
    pub(crate) fn new(members: Arc<Members>, request: TailRequest, sender: TailSender) -> Self {
        Self { members, request, sender }
    }

    /// Runs until nobody reads the tail any more.
    pub(crate) async fn run(self) {
        let Self { members, request, sender } = self;
        let _open = OpenTail::new(&members);
        let mut views = members.control.watch();
        let (events, mut incoming) = mpsc::channel(EVENTS_MAX);
        let mut sources = Sources {
            members: members.clone(),
            request: TailRequest { catch_up: CatchUp::FromNow, ..request },
            events,
            tasks: JoinSet::new(),
            open: HashMap::new(),
            count: 0,
            openings: Arc::default(),
            unsettled: HashSet::new(),
        };
        let first = views.borrow_and_update().clone();
        sources.follow(&first);
        // A later source may have consumed rows before this process saw it.
        sources.request.catch_up = CatchUp::FromBefore;
        sources.unsettled = (1..=sources.count).collect();
        sender.set_opened(sources.unsettled.is_empty());
        let mut merge = Merge::new(members.config.tail_hold.get());
        let mut ready = MergeOutput::default();
        loop {
            let due = merge.due();
            tokio::select! {
                biased;
                () = sender.closed() => return,
                Ok(()) = views.changed() => {
                    let view = views.borrow_and_update().clone();
                    sources.follow(&view);
                }
                Some(_) = sources.tasks.join_next() => {}
                Some(event) = incoming.recv() => match event {
                    SourceEvent::Settled(source) => {
                        sources.unsettled.remove(&source);
                        sender.set_opened(sources.unsettled.is_empty());
                    }
                    SourceEvent::Batch(source, batch) => merge.take(source, batch, Instant::now(), &mut ready),
                    SourceEvent::Lost(rows) => sender.count_dropped(rows),
                    SourceEvent::Gone(source) => merge.gone(source),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    merge.expire(Instant::now(), &mut ready);
                }
            }
            members.metrics.tail_repeated.inc_by(std::mem::take(&mut ready.repeated_rows));
            ready.batches.drain(..).for_each(|batch| sender.send(batch));
        }
    }
}

impl Sources {
    /// Opens sources for processes that serve partitions in this view, and ends the sources of all others.
    fn follow(&mut self, view: &View) {
        let serves = |role| role != PartitionRole::Warming;
        let own = self.members.control.id();
        let mut wanted: HashMap<&str, &str> = HashMap::new();
        for process in view.processes() {
            let is_own = process.id == own && self.members.local.is_some();
            if is_own || process.partitions.iter().any(|state| serves(state.role)) {
                wanted.insert(&process.id, process.rpc.as_deref().unwrap_or_default());
            }
        }
        self.open.retain(|id, gone| {
            let stays = wanted.contains_key(id.as_str());
            if !stays {
                gone.cancel();
            }
            stays
        });
        for (id, rpc) in wanted {
            if self.open.contains_key(id) {
                continue;
            }
            let Some(holder) = self.members.holder(id, rpc, view) else { continue };
            self.count += 1;
            let gone = CancellationToken::new();
            let source = Source {
                number: self.count,
                openings: self.openings.clone(),
                request: self.request.clone(),
                config: self.members.config.clone(),
                events: self.events.clone(),
                gone: gone.clone(),
            };
            self.open.insert(id.to_owned(), gone);
            self.tasks.spawn(source.run(holder));
        }
    }
}

/// Counts a tail while it is open.
struct OpenTail(prometheus::IntGauge);

impl OpenTail {
    fn new(members: &Members) -> Self {
        members.metrics.tails.inc();
        Self(members.metrics.tails.clone())
    }
}

impl Drop for OpenTail {
    fn drop(&mut self) {
        self.0.dec();
    }
}
