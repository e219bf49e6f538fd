//! A rebuilder: level-0 blocks are made anew under fresh keys and swapped in, beside owners and compactors.

use std::sync::Arc;

use object_store::ObjectStore;

use super::{
    store::step,
    world::{PARTITION, World, entry, object},
};
use crate::{
    CatalogueError, Heads, block_key,
    rules::{Rule, holds},
};

pub(super) async fn run(world: Arc<World>, heads: Heads) {
    loop {
        step().await;
        if world.chance(80) || world.is_healed() {
            continue;
        }
        // Other errors may be: the store is down, or somebody else trimmed or deleted what was to be rebuilt.
        if let Err(CatalogueError::Invalid { reason, .. }) = rebuild(&world, &heads).await {
            world.wrong(reason);
        }
    }
}

async fn rebuild(world: &World, heads: &Heads) -> Result<(), CatalogueError> {
    let Some((head, _)) = heads.read(PARTITION).await? else { return Ok(()) };
    let (mut swaps, mut late) = (Vec::new(), Vec::new());
    for old in head.blocks.iter().filter(|_| world.chance(50)) {
        let rows = world.rows_of(&old.key).await?;
        let key = block_key(heads.log_id(), PARTITION, old.range)?.to_string();
        swaps.push((old.key.clone(), entry(&key, old.range, rows.len())));
        if holds(Rule::BlockBeforeHead) {
            world.put_rows(&key, &rows).await?;
        } else {
            late.push((key, rows));
        }
    }
    if swaps.is_empty() {
        return Ok(());
    }
    heads.swap_blocks(PARTITION, &swaps).await?;
    world.count(|tally| tally.swaps += swaps.len() as u64);
    for (key, rows) in late {
        world.put_rows(&key, &rows).await?;
    }
    // Sooner than garbage collection would: readers with older plans notice and plan again.
    if world.chance(70) {
        for (old, _) in swaps {
            world.store.delete(&object(&old)).await?;
        }
    }
    Ok(())
}
