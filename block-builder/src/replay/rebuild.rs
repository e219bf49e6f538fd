//! Rebuilds the blocks of the window from the log and lists them in place of the old ones.

use std::{collections::BTreeSet, sync::Arc};

use block::EncodedBlock;
use bytes::Bytes;
use catalogue::{BlockEntry, CatalogueError, block_key};
use cut::{Cut, CutReason, SegmentWriter};
use log_bus::Watermarks;
use model::{OffsetRange, PartitionId};
use object_store::{ObjectKey, PutCondition, StoreError};
use schemas::record::Record;

use super::{
    Amount, Error, Job, OldBlock, PartitionState, Position, Progress, Rebuilt, Selection, SkippedBlock,
    blocks::{BlockContents, BlockReadError, read_bytes},
    contents::{Comparison, Contents},
    context::ReplayContext,
    plan::{blocks_of, is_held, overlap},
};
use crate::{encode, upload::block_entry};

/// At most this many differences of an old block are kept.
const DIFFERENCES_MAX: usize = 20;

pub(crate) async fn partition(context: &ReplayContext, place: usize, mut state: PartitionState) -> Result<(), Error> {
    let partition = state.partition;
    let (job, _) = context.job().await;
    forget_what_is_gone(context, place, &mut state).await?;
    let head = context.head(partition).await?;
    let listed: BTreeSet<&str> = blocks_of(&head, state.range, &job).map(|block| block.key.as_str()).collect();
    for old in head.blocks.iter().filter(|block| !overlap(block.range, state.range).is_empty()) {
        let is_made = |made: &Rebuilt| made.old == old.key || made.new.key == old.key;
        if state.rebuilt.iter().any(is_made) || state.left.iter().any(|left| left.key == old.key) {
            continue;
        }
        if context.stop.is_cancelled() {
            return Err(Error::Stopped);
        }
        let held = watermarks(context, partition).await?;
        if !listed.contains(old.key.as_str()) {
            // The block has no entries of the tenant. The log tells whether it should have some.
            let is_missed = is_held(held, old.range) && log_holds_some(context, &job, partition, old.range).await?;
            if !is_missed {
                continue;
            }
        }
        let outcome = match is_held(held, old.range) {
            true => Ok(rebuild(context, partition, old).await?),
            false => Err(SkippedBlock { key: old.key.clone(), range: old.range, why: not_held(held) }),
        };
        Progress::add(&context.components.progress.steps, u64::from(outcome.is_ok()));
        match outcome {
            Ok((made, read)) => {
                state.rebuilt.push(made);
                state.read += read;
            }
            Err(left) => state.left.push(left),
        }
        state.steps = state.rebuilt.len() as u64;
        state.at = Position::at(old.range.end.min(state.range.end));
        let now = state.clone();
        context.note(place, |state| *state = now).await?;
    }
    swap(context, &mut state).await?;
    (state.swapped, state.at) = (true, Position::at(state.range.end));
    context.note(place, |kept| *kept = state).await
}

/// True when the log has entries of the job's tenants and time in the range.
async fn log_holds_some(
    context: &ReplayContext,
    job: &Job,
    partition: PartitionId,
    range: OffsetRange,
) -> Result<bool, Error> {
    let mut records = context.records(partition, range);
    while let Some(mut found) = records.next().await? {
        found.retain(|record| job.tenants.wants_key(&record.key));
        let job = job.clone();
        let is_found = context.compute(move || {
            found.into_iter().any(|record| {
                let decoded = Record::decode(record.payload);
                decoded.is_ok_and(|record| {
                    let time = record.time_range();
                    let is_of_time = job.window.entry_time().is_none_or(|wanted| wanted.overlaps(&time));
                    record.entry_count() > 0 && job.tenants.wants(record.tenant()) && is_of_time
                })
            })
        });
        if is_found.await? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn not_held(held: Watermarks) -> String {
    let held = OffsetRange::new(held.first, held.end);
    format!("the log no longer holds all of its range, only {held}")
}

async fn watermarks(context: &ReplayContext, partition: PartitionId) -> Result<Watermarks, Error> {
    let asked = context.components.log.watermarks(partition).await;
    asked.map_err(|source| Error::Log { partition, at: model::Offset::ZERO, source })
}

/// Forgets rebuilt blocks that no longer exist: no head lists them yet, so garbage collection may have removed them while
/// the replay was stopped.
async fn forget_what_is_gone(context: &ReplayContext, place: usize, state: &mut PartitionState) -> Result<(), Error> {
    let mut there = Vec::new();
    let before = state.rebuilt.len();
    for made in std::mem::take(&mut state.rebuilt) {
        let key = object_key(&made.new.key)?;
        match context.components.store.head(&key).await {
            Ok(_) => there.push(made),
            Err(StoreError::NotFound(_)) => {}
            Err(source) => return Err(Error::Store { key: made.new.key, source }),
        }
    }
    state.rebuilt = there;
    if state.rebuilt.len() == before {
        return Ok(());
    }
    let now = state.clone();
    context.note(place, |state| *state = now).await
}

fn object_key(key: &str) -> Result<ObjectKey, Error> {
    ObjectKey::new(key).map_err(|source| Error::Store { key: key.to_owned(), source })
}

/// Rebuilds one block: reads its range of the log, encodes it, compares the result with the log and with the old block,
/// and uploads it.
async fn rebuild(
    context: &ReplayContext,
    partition: PartitionId,
    old: &BlockEntry,
) -> Result<(Rebuilt, Amount), Error> {
    let (writer, log) = read_range(context, partition, old.range).await?;
    let cut = Cut {
        partition,
        range: old.range,
        segment: writer.freeze(),
        reason: CutReason::Forced,
        opened: context.components.clock.now(),
    };
    let (log_id, created) = (context.components.heads.log_id().to_owned(), context.components.clock.now());
    let options = context.options.block.clone();
    let range = old.range;
    let made = context.compute(move || {
        let block = encode(&cut, &log_id, created, &options)?;
        drop(cut);
        let contents = read_bytes(&block.bytes, range)?;
        Ok((block, contents))
    });
    let (block, contents) = made.await?.map_err(|source| Error::Encode { partition, source })?;
    check(partition, &log, &contents)?;
    let old_block = compare_with_old(context, partition, old, contents).await?;
    let new = upload(context, partition, old.range, block).await?;
    Ok((Rebuilt { old: old.key.clone(), new, old_block }, log.amount))
}

/// Checks that the new block holds what the log holds. A difference is a defect of this program, and such a block must not
/// be listed.
fn check(partition: PartitionId, log: &Contents, made: &BlockContents) -> Result<(), Error> {
    let place = Comparison { partition, block: None, expected: "the log", found: "the new block" };
    if let Some(difference) = log.differences(&made.contents, &place).first() {
        return Err(Error::Defect(difference.to_string()));
    }
    if log.undecodable != made.contents.undecodable {
        return Err(Error::Defect(format!("partition {partition}: other records are set aside")));
    }
    Ok(())
}

/// Reads all records of a range, as rows for a block and as contents to compare with.
async fn read_range(
    context: &ReplayContext,
    partition: PartitionId,
    range: OffsetRange,
) -> Result<(SegmentWriter, Contents), Error> {
    let everything = Arc::new(Selection::everything());
    let (mut writer, mut contents) = (SegmentWriter::new(), Contents::default());
    let mut records = context.records(partition, range);
    while let Some(found) = records.next().await? {
        let wanted = everything.clone();
        let before = contents.amount.entries;
        (writer, contents) = context
            .compute(move || {
                for record in found {
                    match contents.add_record(&record, &wanted) {
                        Ok(decoded) => writer.append(record.offset, &decoded),
                        Err(error) => writer.quarantine(record.offset, record.payload, error.to_string()),
                    };
                }
                (writer, contents)
            })
            .await?;
        Progress::add(&context.components.progress.entries, contents.amount.entries - before);
    }
    Ok((writer, contents))
}

async fn compare_with_old(
    context: &ReplayContext,
    partition: PartitionId,
    old: &BlockEntry,
    new: BlockContents,
) -> Result<OldBlock, Error> {
    let found = context.blocks().read(old, &Selection::everything(), old.range, old.quarantined > 0).await;
    let found = match found {
        Ok(found) => found,
        Err(BlockReadError::Failed(error)) => return Err(error),
        Err(error) => return Ok(OldBlock::Unreadable(error.to_string())),
    };
    let key = old.key.clone();
    let mut differences = context
        .compute(move || {
            let place = Comparison { partition, block: Some(&key), expected: "the log", found: "the old block" };
            new.contents.differences(&found.contents, &place)
        })
        .await?;
    if differences.is_empty() {
        return Ok(OldBlock::Same);
    }
    let count = differences.len() as u64;
    differences.truncate(DIFFERENCES_MAX);
    Ok(OldBlock::Different(count, differences))
}

/// Uploads the block under a key that was never used. No head lists it yet.
async fn upload(
    context: &ReplayContext,
    partition: PartitionId,
    range: OffsetRange,
    block: EncodedBlock,
) -> Result<BlockEntry, Error> {
    let key = block_key(context.components.heads.log_id(), partition, range)?;
    let bytes: Bytes = block.bytes.clone();
    let mut failures = 0;
    loop {
        match context.components.store.put(&key, bytes.clone(), PutCondition::IfAbsent).await {
            Ok(_) => return Ok(block_entry(&key, block)),
            // Nobody else uses the key: an earlier try succeeded, and its reply was lost.
            Err(StoreError::Precondition(_)) if failures > 0 => return Ok(block_entry(&key, block)),
            Err(StoreError::Unavailable { .. }) if context.retries.allows_another(failures + 1) => {
                failures += 1;
                Progress::add(&context.components.progress.retries, 1);
                context.retries.pause(failures).await?;
            }
            Err(source) => return Err(Error::Store { key: key.to_string(), source }),
        }
    }
}

/// Lists the new blocks with one compare-and-swap of the head. Skips blocks that the head no longer lists.
async fn swap(context: &ReplayContext, state: &mut PartitionState) -> Result<(), Error> {
    let partition = state.partition;
    let mut swaps: Vec<_> = state.rebuilt.iter().map(|made| (made.old.clone(), made.new.clone())).collect();
    while !swaps.is_empty() {
        let gone = match context.components.heads.swap_blocks(partition, &swaps).await {
            Ok(()) => return Ok(()),
            Err(CatalogueError::Unlisted { keys, .. }) => keys,
            Err(error) => return Err(error.into()),
        };
        for (key, new) in swaps.extract_if(.., |(old, _)| gone.contains(old)) {
            let why = "it was compacted, trimmed or replaced meanwhile".to_owned();
            state.rebuilt.retain(|made| made.old != key);
            state.left.push(SkippedBlock { key, range: new.range, why });
        }
    }
    Ok(())
}
