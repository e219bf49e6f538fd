//! An owner: warms up, takes the lead, consumes, cuts, evicts, is fenced, drains.

use std::sync::Arc;

use model::{Offset, OffsetRange};
use object_store::StoreError;

use super::{
    store::step,
    world::{PARTITION, World, entry},
};
use crate::{
    CatalogueError, Heads, Leadership, block_key,
    rules::{Rule, holds},
};

pub(super) async fn run(world: Arc<World>, heads: Heads, id: usize) {
    let mut owner = Owner { world, heads, id };
    loop {
        owner.memory().forget();
        step().await;
        // Assignments change seldom; without this, owners would do nothing but take over from one another.
        while owner.world.chance(95) && owner.is_led() {
            step().await;
        }
        if owner.world.chance(50) && owner.warm().await.is_err() {
            continue;
        }
        let Ok(lead) = owner.take_lead().await else { continue };
        owner.lead(lead).await;
        owner.drain().await;
    }
}

/// What the consumer itself believes of its cuts.
struct Progress {
    /// Where the next one starts. It may lag behind the head, never lead it.
    cut_to: Offset,
    /// The last one may or may not have gone through.
    unresolved: bool,
}

/// Stop leading; memory goes on serving for a while.
struct Over;

struct Owner {
    world: Arc<World>,
    heads: Heads,
    id: usize,
}

/// What consuming found.
enum Consumed {
    Some,
    /// Retention was faster: the log begins here.
    Hole(Offset),
}

impl Owner {
    fn memory(&self) -> parking_lot::MutexGuard<'_, super::world::Memory> {
        self.world.owners[self.id].lock()
    }

    /// Whether another owner serves at this moment.
    fn is_led(&self) -> bool {
        self.world.owners.iter().any(|owner| owner.lock().held.is_some())
    }

    fn held(&self) -> OffsetRange {
        self.memory().held.expect("it serves")
    }

    /// Takes a few records.
    fn consume(&self) -> Consumed {
        let (log, mut memory) = (self.world.log.lock(), self.memory());
        let held = memory.held.as_mut().expect("it serves");
        if log.first() > held.end {
            return Consumed::Hole(log.first());
        }
        if held.end < log.end() {
            let to = self.world.above(OffsetRange::new(held.end, log.end().min(Offset::new(held.end.value() + 5))));
            let new = OffsetRange::new(held.end, to);
            held.end = to;
            memory.rows.extend(log.rows(new));
        }
        Consumed::Some
    }

    /// Consumes from the head on, without leading yet.
    async fn warm(&self) -> Result<(), CatalogueError> {
        let head = self.heads.read(PARTITION).await?;
        self.memory().begin(head.map_or(Offset::ZERO, |(head, _)| head.flushed_to));
        for _ in 0..self.world.below(6) {
            step().await;
            if matches!(self.consume(), Consumed::Hole(_)) {
                self.memory().forget();
                break;
            }
        }
        Ok(())
    }

    async fn take_lead(&self) -> Result<Leadership, CatalogueError> {
        // What is in memory already can still be read, whatever retention did.
        let first = {
            let (first, memory) = (self.world.log.lock().first(), self.memory());
            memory.held.filter(|held| held.end >= first).map_or(first, |held| held.start.min(first))
        };
        step().await;
        let lead = self.heads.acquire(PARTITION, &format!("owner-{}", self.id), first).await?;
        {
            let mut epoch = self.world.epoch.lock();
            *epoch = lead.epoch().max(*epoch);
        }
        self.world.count(|tally| {
            tally.takeovers += 1;
        });
        let flushed_to = lead.flushed_to();
        let mut memory = self.memory();
        let reaches = memory.held.is_some_and(|held| held.start <= flushed_to && flushed_to <= held.end);
        if !reaches {
            memory.begin(flushed_to);
        }
        drop(memory);
        Ok(lead)
    }

    async fn lead(&mut self, mut lead: Leadership) {
        let mut cut = Progress { cut_to: lead.flushed_to(), unresolved: false };
        loop {
            step().await;
            let done = match self.world.below(20) {
                0..11 => match self.consume() {
                    Consumed::Some => Ok(()),
                    Consumed::Hole(first) => self.pass_hole(&mut lead, &mut cut, first).await,
                },
                11..17 => self.cut(&mut lead, &mut cut).await,
                17 | 18 => {
                    let bound = if holds(Rule::EvictBelowHead) { lead.flushed_to() } else { self.held().end };
                    let held = OffsetRange::new(self.held().start, bound);
                    if !held.is_empty() && !self.world.is_healed() {
                        let to = self.world.above(held);
                        self.memory().evict(to);
                    }
                    Ok(())
                }
                // Another asks for the partition.
                _ if self.world.chance(3) && !self.world.is_healed() => Err(Over),
                _ => Ok(()),
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Cuts some of what is consumed and not cut.
    async fn cut(&self, lead: &mut Leadership, cut: &mut Progress) -> Result<(), Over> {
        let rest = OffsetRange::new(cut.cut_to, self.held().end);
        if rest.is_empty() {
            return Ok(());
        }
        let end = self.world.above(rest);
        self.publish(lead, cut, OffsetRange::new(cut.cut_to, end)).await
    }

    async fn publish(&self, lead: &mut Leadership, cut: &mut Progress, range: OffsetRange) -> Result<(), Over> {
        let Progress { cut_to, unresolved } = cut;
        let rows = self.memory().rows_in(range);
        let key = block_key(self.heads.log_id(), PARTITION, range).unwrap().to_string();
        let block = (!rows.is_empty()).then(|| entry(&key, range, rows.len()));
        let block_first = holds(Rule::BlockBeforeHead);
        if block.is_some() && block_first {
            match self.world.put_rows(&key, &rows).await {
                Ok(()) => {}
                // The reply of a put may get lost; a block under a fresh key is put again under another.
                Err(StoreError::Unavailable { .. }) => return Ok(()),
                Err(error) => panic!("{error}"),
            }
        }
        let (fresh, epoch) = (lead.flushed_to() == range.start && !*unresolved, *self.world.epoch.lock());
        let outcome = lead.publish(range, block.clone()).await;
        *unresolved = outcome.as_ref().is_err_and(CatalogueError::is_unavailable);
        match outcome {
            Ok(()) => {
                if epoch > lead.epoch() {
                    self.world.wrong(format!("epoch {} published while {epoch} led", lead.epoch()));
                }
                self.world.count(|tally| tally.cuts += 1);
                *cut_to = range.end;
                if block.is_some() && !block_first {
                    let _ = self.world.put_rows(&key, &rows).await;
                }
                Ok(())
            }
            Err(CatalogueError::NotFlushedTo { flushed_to, .. }) => {
                if fresh {
                    self.world.wrong(format!("a cut {range} was refused that began at F, now {flushed_to}"));
                }
                // An earlier try went through after all; its end is where the head is.
                *cut_to = flushed_to;
                if self.held().end < flushed_to { Err(Over) } else { Ok(()) }
            }
            // Cut again later, perhaps to another end.
            Err(error) if error.is_unavailable() => Ok(()),
            Err(CatalogueError::Fenced { .. } | CatalogueError::Store(StoreError::Precondition(_))) => Err(Over),
            Err(error) => {
                self.world.wrong(error.to_string());
                Err(Over)
            }
        }
    }

    /// Retention removed what comes next: everything before is published, the hole recorded, and memory begins anew.
    async fn pass_hole(&self, lead: &mut Leadership, cut: &mut Progress, first: Offset) -> Result<(), Over> {
        if !holds(Rule::HoleRestartsMemory) {
            self.memory().held.as_mut().expect("it serves").end = first;
            return Ok(());
        }
        let end = self.held().end;
        if cut.cut_to < end {
            return self.publish(lead, cut, OffsetRange::new(cut.cut_to, end)).await;
        }
        if self.world.chance(50) {
            // The other way: acquire again, which records it.
            return Err(Over);
        }
        let outcome = lead.record_lost(OffsetRange::new(end, first)).await;
        cut.unresolved = outcome.as_ref().is_err_and(CatalogueError::is_unavailable);
        match outcome {
            Ok(()) => {
                self.world.count(|tally| tally.lost += 1);
                cut.cut_to = first;
                self.memory().begin(first);
                Ok(())
            }
            Err(error) if error.is_unavailable() => Ok(()),
            Err(CatalogueError::NotFlushedTo { flushed_to, .. }) => {
                cut.cut_to = flushed_to;
                self.memory().begin(flushed_to);
                Ok(())
            }
            Err(_) => Err(Over),
        }
    }

    /// Keeps serving and tailing for a while.
    async fn drain(&self) {
        for _ in 0..self.world.below(12) {
            step().await;
            if matches!(self.consume(), Consumed::Hole(_)) {
                return;
            }
        }
    }
}
