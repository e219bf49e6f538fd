//! A reader: the shipped driver of the exact read, and a check of each answer.

use std::{sync::Arc, time::Duration};

use model::{Offset, OffsetRange, PartitionId};
use object_store::StoreError;

use super::{
    store::step,
    world::{PARTITION, Root, World},
};
use crate::{
    CatalogueError, Head, Heads,
    driver::{Freshness, HeadView, Obstacle, PartitionPlan, ReadDriver, ReadError, ReadPlan, Replanned, Sources},
};

/// More plans than this for one read, and something is wrong.
const PLANS_MAX: u32 = 100;

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

/// What one read goes through.
struct Reading<'a> {
    world: &'a World,
    heads: &'a Heads,
    root: Root,
}

/// Rows of one plan, and the offset that they are complete to.
struct Rows {
    rows: Vec<u32>,
    complete_to: Offset,
}

impl Sources for Reading<'_> {
    type Answer = Rows;
    type Error = CatalogueError;

    async fn heads(&mut self, _: Freshness) -> Result<Vec<HeadView>, CatalogueError> {
        let found = self.heads.read_shared(PARTITION).await?;
        let unled = || Arc::new(Head::unled(self.heads.log_id(), PARTITION));
        Ok(vec![HeadView { head: found.map_or_else(unled, |(head, _)| head), is_stale: false }])
    }

    async fn compacted_to(
        &mut self,
        at_least: &[(PartitionId, Offset)],
        freshness: Freshness,
    ) -> Result<Vec<Offset>, CatalogueError> {
        step().await;
        let cached = self.world.cached_root.lock().clone();
        let is_new_enough = cached.compacted_to >= at_least[0].1;
        let use_cached = freshness == Freshness::Cached && is_new_enough && self.world.chance(70);
        self.root = if use_cached { cached } else { self.world.root().await?.0 };
        if !use_cached {
            // This may replace a newer root that another query service cached. That must not matter.
            *self.world.cached_root.lock() = self.root.clone();
        }
        Ok(vec![self.root.compacted_to])
    }

    async fn read(&mut self, plan: &ReadPlan) -> Result<Rows, Obstacle<CatalogueError>> {
        step().await;
        let partition = &plan.partitions[0];
        let (mut rows, complete_to) = memory(self.world, partition)?;
        let level_0 = partition.blocks().iter().map(|block| &block.key);
        for key in self.root.blocks.iter().chain(level_0) {
            match self.world.rows_of(key).await {
                Ok(found) => rows.extend(found),
                Err(StoreError::NotFound(key)) => return Err(Obstacle::BlockGone { key }),
                Err(error) => return Err(Obstacle::Failed(error.into())),
            }
        }
        Ok(Rows { rows, complete_to })
    }

    fn replanned(&mut self, _: Replanned) {
        self.world.count(|tally| tally.replans += 1);
    }
}

/// Asks any owner that serves; the log itself when none does.
fn memory(world: &World, plan: &PartitionPlan) -> Result<(Vec<u32>, Offset), Obstacle<CatalogueError>> {
    let (from, first) = (plan.memory_from, world.below(world.owners.len()));
    for i in 0..world.owners.len() {
        let memory = world.owners[(first + i) % world.owners.len()].lock();
        if let Some(held) = memory.held {
            let complete_to = plan.check(held)?;
            return Ok((memory.rows_in(OffsetRange::new(from, held.end)), complete_to));
        }
    }
    let log = world.log.lock();
    if log.first() > from {
        let range = OffsetRange::new(from, log.first());
        return Err(Obstacle::Removed { partition: PARTITION, range });
    }
    Ok((log.rows(OffsetRange::new(from, log.end())).collect(), log.end()))
}

/// Returns the offset that the answer is complete to, `None` when there is no answer, and an error when it is wrong.
async fn read(world: &World, heads: &Heads) -> Result<Option<Offset>, String> {
    // Some reads give up when nothing answers at once; some have all the time in the world.
    let wait_max = if world.chance(50) { Duration::ZERO } else { Duration::from_secs(86_400) };
    let driver = ReadDriver::without_pauses(wait_max, PLANS_MAX);
    match driver.run(&mut Reading { world, heads, root: Root::NONE }).await {
        Ok(read) => {
            check(world, &read.plan.partitions[0], read.answer.rows, read.answer.complete_to)?;
            Ok(Some(read.answer.complete_to))
        }
        Err(ReadError::Failed(error)) if error.is_unavailable() => Ok(None),
        Err(ReadError::Removed { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn check(world: &World, plan: &PartitionPlan, mut rows: Vec<u32>, complete_to: Offset) -> Result<(), String> {
    rows.sort_unstable();
    let log = world.log.lock();
    let head = &plan.head;
    let reported: Vec<OffsetRange> = plan.lost().iter().map(|lost| lost.range).chain(plan.removed).collect();
    if let Some(range) = reported.iter().find(|range| range.end > log.first()) {
        return Err(format!("{range} is reported as lost, but the log begins at {}", log.first()));
    }
    let is_reported = |row: &u32| reported.iter().any(|range| range.contains(Offset::new(i64::from(*row))));
    let expected: Vec<u32> =
        log.rows(OffsetRange::new(Offset::ZERO, complete_to)).filter(|row| !is_reported(row)).collect();
    if rows == expected {
        return Ok(());
    }
    let missing: Vec<_> = expected.iter().filter(|row| rows.binary_search(row).is_err()).collect();
    let twice: Vec<_> = rows.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect();
    let strange: Vec<_> = rows.iter().filter(|row| expected.binary_search(row).is_err()).collect();
    Err(format!(
        "a read up to {complete_to} is wrong: missing {missing:?}, twice {twice:?}, unexpected {strange:?} \
         (F {}, T {}, C {}, epoch {}, memory from {})",
        head.flushed_to, head.trimmed_to, plan.compacted_to, head.epoch, plan.memory_from,
    ))
}
