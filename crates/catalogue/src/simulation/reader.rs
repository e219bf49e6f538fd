//! A reader: the real driver of the exact read, and the check of what it found.

use std::sync::Arc;

use model::{Offset, OffsetRange};
use object_store::StoreError;

use super::{
    store::step,
    world::{PARTITION, Root, World},
};
use crate::{
    CatalogueError, Head, Heads,
    read::{Exact, MemoryAnswer, ReadError, Sources, exact},
};

/// More plans than this for one read, and something is wrong.
const PLANS_MAX: usize = 100;

pub(super) async fn run(world: Arc<World>, heads: Heads) {
    loop {
        step().await;
        let healed = world.is_healed();
        match read(&world, &heads).await {
            Ok(Some(complete_to)) => {
                world.count(|tally| tally.reads += 1);
                if healed {
                    world.completed(complete_to);
                }
            }
            Ok(None) => world.count(|tally| tally.unanswered += 1),
            Err(reason) => world.wrong(reason),
        }
    }
}

/// What one read went through.
struct Reading<'a> {
    world: &'a World,
    heads: &'a Heads,
    root: Root,
    /// A block was gone: the cached root will not do.
    fresh: bool,
    plans: u64,
}

impl Sources for Reading<'_> {
    type Memory = Vec<u32>;
    type Error = CatalogueError;

    async fn head(&mut self) -> Result<Arc<Head>, CatalogueError> {
        self.plans += 1;
        let found = self.heads.read_shared(PARTITION).await?;
        Ok(found.map_or_else(|| Arc::new(Head::unled(self.heads.log_id(), PARTITION)), |(head, _)| head))
    }

    async fn compacted_to(&mut self, at_least: Offset) -> Result<Offset, CatalogueError> {
        step().await;
        let cached = self.world.cached_root.lock().clone();
        let use_cached = !self.fresh && cached.compacted_to >= at_least && self.world.chance(70);
        self.root = if use_cached { cached } else { self.world.root().await?.0 };
        if !use_cached {
            // Also when another query service cached a newer one: that must not matter.
            *self.world.cached_root.lock() = self.root.clone();
        }
        Ok(self.root.compacted_to)
    }

    async fn memory(&mut self, from: Offset) -> Result<MemoryAnswer<Vec<u32>>, CatalogueError> {
        step().await;
        let owner = self.world.below(self.world.owners.len());
        for i in 0..self.world.owners.len() {
            let memory = self.world.owners[(owner + i) % self.world.owners.len()].lock();
            if let Some(held) = memory.held {
                let rows = memory.rows_in(OffsetRange::new(from, held.end));
                return Ok(MemoryAnswer::Held { held, rows });
            }
        }
        Ok(MemoryAnswer::Nobody)
    }
}

/// Up to where the answer was complete; `None` when there was none; an error when it was wrong.
async fn read(world: &World, heads: &Heads) -> Result<Option<Offset>, String> {
    let mut reading = Reading { world, heads, root: Root::NONE, fresh: false, plans: 0 };
    for _ in 0..PLANS_MAX {
        let plan = match exact(&mut reading, PLANS_MAX).await {
            Ok(plan) => plan,
            Err(ReadError::Source(error)) if error.is_unavailable() => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        world.count(|tally| tally.replans += reading.plans - 1);
        reading.plans = 1;
        let (mut rows, complete_to) = match tail(world, &plan) {
            Some(tail) => tail,
            None => return Ok(None),
        };
        match blocks(world, &reading.root, &plan).await {
            Ok(found) => rows.extend(found),
            Err(StoreError::NotFound(_)) => {
                reading.fresh = true;
                continue;
            }
            Err(_) => return Ok(None),
        }
        check(world, &plan, rows, complete_to)?;
        return Ok(Some(complete_to));
    }
    Err("blocks were gone in one plan after the other".to_owned())
}

/// Rows that are in no block, from memory or from the log itself. `None` when the log no longer has them.
fn tail(world: &World, plan: &Exact<Vec<u32>>) -> Option<(Vec<u32>, Offset)> {
    if let Some((_, rows)) = &plan.memory {
        return Some((rows.clone(), plan.complete_to));
    }
    let log = world.log.lock();
    let range = OffsetRange::new(plan.memory_from, log.end());
    (log.first() <= plan.memory_from).then(|| (log.rows(range).collect(), log.end()))
}

async fn blocks(world: &World, root: &Root, plan: &Exact<Vec<u32>>) -> Result<Vec<u32>, StoreError> {
    let mut rows = Vec::new();
    for key in &root.blocks {
        rows.extend(world.rows_of(key).await?);
    }
    for block in plan.blocks() {
        rows.extend(world.rows_of(&block.key).await?);
    }
    Ok(rows)
}

fn check(world: &World, plan: &Exact<Vec<u32>>, mut rows: Vec<u32>, complete_to: Offset) -> Result<(), String> {
    rows.sort_unstable();
    let log = world.log.lock();
    let is_lost = |row: &u32| {
        let offset = Offset::new(i64::from(*row));
        plan.head.lost.iter().any(|lost| lost.range.contains(offset))
    };
    if let Some(lost) = plan.head.lost.iter().find(|lost| lost.range.end > log.first()) {
        return Err(format!("{} is reported as lost, but the log begins at {}", lost.range, log.first()));
    }
    let expected: Vec<u32> =
        log.rows(OffsetRange::new(Offset::ZERO, complete_to)).filter(|row| !is_lost(row)).collect();
    if rows == expected {
        return Ok(());
    }
    let missing: Vec<_> = expected.iter().filter(|row| rows.binary_search(row).is_err()).collect();
    let twice: Vec<_> = rows.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect();
    let strange: Vec<_> = rows.iter().filter(|row| expected.binary_search(row).is_err()).collect();
    let head = &plan.head;
    Err(format!(
        "a read up to {complete_to} is wrong: missing {missing:?}, twice {twice:?}, unexpected {strange:?} \
         (F {}, T {}, C {}, epoch {}, memory {:?})",
        head.flushed_to,
        head.trimmed_to,
        plan.compacted_to,
        head.epoch,
        plan.memory.as_ref().map(|(held, _)| held.to_string()),
    ))
}
