//! A compactor: level-0 blocks into the catalogue, then heads are trimmed, then what nobody lists is deleted.

use std::sync::Arc;

use model::Offset;
use object_store::{ObjectStore, StoreError};

use super::{
    store::step,
    world::{PARTITION, Root, World, object},
};
use crate::{
    CatalogueError, Heads,
    rules::{Rule, holds},
};

pub(super) async fn run(world: Arc<World>, heads: Heads) {
    loop {
        step().await;
        // Compaction is rare beside cuts.
        if world.chance(90) || world.is_healed() {
            continue;
        }
        let _ = compact(&world, &heads).await;
    }
}

async fn compact(world: &World, heads: &Heads) -> Result<(), CatalogueError> {
    let (root, version) = world.root().await?;
    let Some((head, _)) = heads.read(PARTITION).await? else { return Ok(()) };
    let from = root.compacted_to;
    let waiting: Vec<_> = head.blocks.iter().filter(|block| block.range.start >= from).collect();
    if waiting.is_empty() || head.trimmed_to > from {
        return Ok(());
    }
    let taken = &waiting[..=world.below(waiting.len())];
    let to = taken.last().expect("one at least").range.end;
    let (mut rows, mut blocks, mut replaced) = (Vec::new(), root.blocks.clone(), Vec::new());
    for block in taken {
        rows.extend(world.rows_of(&block.key).await?);
        replaced.push(block.key.clone());
    }
    // Sometimes older compacted blocks are merged in, too.
    if world.chance(50)
        && let Some(older) = blocks.pop()
    {
        rows.extend(world.rows_of(&older).await?);
        replaced.push(older);
    }
    let key = format!("data/compacted/{}", world.number());
    world.put_rows(&key, &rows).await?;
    blocks.push(key);

    if !holds(Rule::TrimAfterRoot) {
        heads.trim(PARTITION, to).await?;
    }
    let next = Root { nonce: world.number(), compacted_to: to, blocks };
    if !replace_root(world, &root, version, next).await? {
        return Ok(());
    }
    world.count(|tally| tally.compactions += 1);
    if world.chance(70) {
        trim(world, heads, to).await?;
        // Only what the head no longer lists, and the root neither, is garbage; readers with older plans notice.
        for key in replaced {
            world.store.delete(&object(&key)).await?;
        }
    }
    Ok(())
}

async fn trim(world: &World, heads: &Heads, to: Offset) -> Result<(), CatalogueError> {
    heads.trim(PARTITION, to).await?;
    world.count(|tally| tally.trims += 1);
    Ok(())
}

/// True when `next` is the root now.
async fn replace_root(
    world: &World,
    root: &Root,
    version: Option<object_store::Version>,
    next: Root,
) -> Result<bool, StoreError> {
    let mut version = version;
    if !holds(Rule::RootInOneStep) {
        let half = Root { blocks: next.blocks.clone(), nonce: world.number(), compacted_to: root.compacted_to };
        version = Some(world.put_root(&half, version).await?);
    }
    match world.put_root(&next, version).await {
        Ok(_) => Ok(true),
        Err(StoreError::Precondition(_)) => Ok(false),
        Err(_) => Ok(world.root().await?.0.nonce == next.nonce),
    }
}
