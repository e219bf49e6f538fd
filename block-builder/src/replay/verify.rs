//! Compares the log with the blocks, one block at a time.

use std::sync::Arc;

use catalogue::{BlockEntry, Head};
use log_bus::LogRecord;
use model::{Offset, OffsetRange, PartitionId};

use super::{
    Amount, Difference, Error, NotCompared, PartitionState, Position, Progress, Selection, Tenants,
    blocks::{BlockContents, BlockReadError},
    contents::{Comparison, Contents},
    context::ReplayContext,
    plan::overlap,
};

/// How many heads are read, at most, to find a block that still exists.
const PLANS_MAX: u32 = 5;

/// How the head covers a part of the window.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// A block holds the records.
    Block(BlockEntry),
    /// There are no records.
    Empty,
    /// Retention removed the records before their owner read them.
    Lost,
    /// Compacted blocks hold the records.
    Compacted,
    /// No block holds the records yet.
    Unflushed,
}

/// The result of comparing one piece.
#[derive(Default)]
struct PieceReport {
    read: Amount,
    undecodable: u64,
    not_in_blocks: Amount,
    blocks: u64,
    differences: Vec<Difference>,
    not_compared: Option<String>,
}

pub(crate) async fn partition(context: &ReplayContext, place: usize, state: PartitionState) -> Result<(), Error> {
    let (partition, end) = (state.partition, state.range.end);
    let mut at = state.at.offset();
    let mut head = context.head(partition).await?;
    while at < end {
        let (piece, range) = piece_at(&head, OffsetRange::new(at, end))?;
        let mut plans = 1;
        let found = loop {
            match compare(context, partition, &piece, range).await {
                Err(BlockReadError::Gone) if plans < PLANS_MAX => {
                    // The block was compacted or rebuilt meanwhile. A newer head says where its rows are.
                    plans += 1;
                    head = context.head(partition).await?;
                    if piece_at(&head, OffsetRange::new(at, end))?.0 != piece {
                        break None;
                    }
                }
                Err(BlockReadError::Failed(error)) => return Err(error),
                Err(error) => {
                    break Some(PieceReport {
                        differences: vec![unreadable(partition, &piece, range, &error)],
                        ..PieceReport::default()
                    });
                }
                Ok(found) => break Some(found),
            }
        };
        let Some(found) = found else { continue };
        at = range.end;
        Progress::add(&context.components.progress.differences, found.differences.len() as u64);
        Progress::add(&context.components.progress.steps, found.blocks);
        context
            .note(place, |state| {
                state.at = Position::at(range.end);
                state.read += found.read;
                state.undecodable += found.undecodable;
                state.not_in_blocks += found.not_in_blocks;
                state.steps += found.blocks;
                state.add_differences(found.differences);
                state.not_compared.extend(found.not_compared.map(|why| NotCompared { range, why }));
            })
            .await?;
    }
    Ok(())
}

fn unreadable(partition: PartitionId, piece: &Piece, range: OffsetRange, error: &BlockReadError) -> Difference {
    let block = if let Piece::Block(entry) = piece { Some(entry.key.clone()) } else { None };
    Difference {
        partition,
        range,
        block,
        tenant: None,
        stream: None,
        what: format!("the block cannot be read: {error}"),
    }
}

/// The piece at the start of `rest`, and its range.
fn piece_at(head: &Head, rest: OffsetRange) -> Result<(Piece, OffsetRange), Error> {
    let at = rest.start;
    let up_to = |end: Offset| OffsetRange::new(at, end.min(rest.end));
    if at >= head.flushed_to {
        return Ok((Piece::Unflushed, rest));
    }
    if at < head.trimmed_to {
        return Ok((Piece::Compacted, up_to(head.trimmed_to)));
    }
    if let Some(block) = head.blocks.iter().find(|block| block.range.contains(at)) {
        return Ok((Piece::Block(block.clone()), up_to(block.range.end)));
    }
    if let Some(lost) = head.lost.iter().find(|lost| lost.range.contains(at)) {
        return Ok((Piece::Lost, up_to(lost.range.end)));
    }
    match head.empty.iter().find(|empty| empty.contains(at)) {
        Some(empty) => Ok((Piece::Empty, up_to(empty.end))),
        None => Err(Error::Job(format!("the head of partition {} does not say where offset {at} is", head.partition))),
    }
}

async fn compare(
    context: &ReplayContext,
    partition: PartitionId,
    piece: &Piece,
    range: OffsetRange,
) -> Result<PieceReport, BlockReadError> {
    let why = match piece {
        Piece::Lost => {
            "retention removed these records before their owner read them: no block holds them, and the head records them as lost"
        }
        Piece::Compacted => "these records are in compacted blocks, which this command does not read",
        Piece::Block(_) | Piece::Empty | Piece::Unflushed => {
            return compare_with_log(context, partition, piece, range).await;
        }
    };
    Ok(PieceReport { not_compared: Some(why.to_owned()), ..PieceReport::default() })
}

async fn compare_with_log(
    context: &ReplayContext,
    partition: PartitionId,
    piece: &Piece,
    range: OffsetRange,
) -> Result<PieceReport, BlockReadError> {
    let log = read_log(context, partition, range).await?;
    let undecodable = log.undecodable.len() as u64;
    let mut found = PieceReport { read: log.amount, undecodable, ..PieceReport::default() };
    match piece {
        Piece::Unflushed => found.not_in_blocks = log.amount,
        Piece::Block(entry) => {
            // Only the key says which tenant an undecodable record belongs to, and blocks do not keep keys.
            let all = context.selection.tenants == Tenants::All;
            let with_quarantine = undecodable > 0 || (all && entry.quarantined > 0);
            let block = context.blocks().read(entry, &context.selection, range, with_quarantine).await?;
            let (log_and_block, wanted, entry) = ((log, block), context.selection.clone(), entry.clone());
            found.differences = context
                .compute(move || {
                    let (log, block) = log_and_block;
                    differences(partition, &wanted, &entry, range, &log, &block)
                })
                .await?;
            found.blocks = 1;
        }
        Piece::Empty | Piece::Lost | Piece::Compacted => {
            let place = Comparison { partition, block: None, expected: "the log", found: "blocks" };
            found.differences = log.differences(&Contents::default(), &place);
        }
    }
    Ok(found)
}

fn differences(
    partition: PartitionId,
    wanted: &Selection,
    entry: &BlockEntry,
    range: OffsetRange,
    log: &Contents,
    block: &BlockContents,
) -> Vec<Difference> {
    let place = Comparison { partition, block: Some(&entry.key), expected: "the log", found: "the block" };
    let mut differences = log.differences(&block.contents, &place);
    let of_block = |range: OffsetRange, what: String| Difference {
        partition,
        range,
        block: Some(entry.key.clone()),
        tenant: None,
        stream: None,
        what,
    };
    for offset in log.undecodable.difference(&block.contents.undecodable) {
        let what = "a record cannot be decoded, and the block has not set it aside".to_owned();
        differences.push(of_block(OffsetRange::new(*offset, offset.next()), what));
    }
    if wanted.tenants == Tenants::All {
        for offset in block.contents.undecodable.difference(&log.undecodable) {
            let what = "the block has set a record aside that the log does not hold, or that can be decoded".to_owned();
            differences.push(of_block(OffsetRange::new(*offset, offset.next()), what));
        }
    }
    // Queries rely on the head's list, so it must agree with the block.
    let listed: Vec<_> = entry.tenants.iter().filter(|t| wanted.tenants.wants(&t.tenant)).collect();
    if !listed.iter().copied().eq(&block.tenants) {
        differences.push(of_block(
            overlap(entry.range, range),
            "the head lists other tenants or counts than the block holds".to_owned(),
        ));
    }
    differences
}

/// Reads the selected entries of a range of the log.
async fn read_log(context: &ReplayContext, partition: PartitionId, range: OffsetRange) -> Result<Contents, Error> {
    let mut contents = Contents::default();
    let wanted = Arc::new(context.selection.clone());
    let mut records = context.records(partition, range);
    while let Some(mut found) = records.next().await? {
        found.retain(|record| wanted.tenants.wants_key(&record.key));
        let before = contents.amount.entries;
        contents = digest(context, contents, found, wanted.clone()).await?;
        Progress::add(&context.components.progress.entries, contents.amount.entries - before);
    }
    Ok(contents)
}

async fn digest(
    context: &ReplayContext,
    mut contents: Contents,
    records: Vec<LogRecord>,
    wanted: Arc<Selection>,
) -> Result<Contents, Error> {
    context
        .compute(move || {
            for record in &records {
                // The contents note records that cannot be decoded.
                let _ = contents.add_record(record, &wanted);
            }
            contents
        })
        .await
}
