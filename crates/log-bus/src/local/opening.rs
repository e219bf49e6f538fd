//! Opening the log's folder: a new log is created, an existing one is read and checked.

use std::collections::VecDeque;
use std::path::Path;

use model::{Offset, Random, TimestampNs};

use super::config::LocalLogConfig;
use super::folder::{self, LogIdentity, unusable};
use super::segment::{self, Segment, SegmentHeader};
use crate::LogError;

/// Opens the log in the configured folder, or creates one.
pub(super) fn open(
    config: &LocalLogConfig,
    now: TimestampNs,
    random: &dyn Random,
) -> Result<(LogIdentity, VecDeque<Segment>), LogError> {
    match LogIdentity::read(&config.folder)? {
        Some(identity) => reopen(config, identity),
        None => create(config, now, random),
    }
}

/// Creates a log: first its first segment, then the file `log`. The log exists once that file exists.
fn create(
    config: &LocalLogConfig,
    now: TimestampNs,
    random: &dyn Random,
) -> Result<(LogIdentity, VecDeque<Segment>), LogError> {
    let folder = &config.folder;
    let io = |error: std::io::Error| unusable(folder, error.to_string());
    for sequence in folder::segments(folder).map_err(io)? {
        // An interrupted start leaves an empty first segment behind. Anything else is somebody's data.
        let path = segment::segment_path(folder, sequence);
        let leftover =
            sequence == 1 && Segment::load(folder, 1, config.partitions, false).is_ok_and(|l| l.segment.is_empty());
        if !leftover {
            return Err(unusable(folder, format!("it holds {} but no file 'log'; restore that file", path.display())));
        }
        segment::remove(folder, &path).map_err(io)?;
    }
    let identity = LogIdentity { log_id: random.unique_name(), partitions: config.partitions };
    let header = SegmentHeader {
        log_id: identity.log_id.clone(),
        sequence: 1,
        salt: segment::random_salt(random),
        base: vec![Offset::ZERO; config.partitions as usize],
        start_time: now,
    };
    let segment = Segment::create(folder, header, config.partitions).map_err(io)?;
    identity.write(folder).map_err(io)?;
    tracing::info!(
        folder = %folder.display(), log_id = identity.log_id, partitions = identity.partitions,
        "created a local log"
    );
    Ok((identity, VecDeque::from([segment])))
}

/// Reads an existing log.
fn reopen(config: &LocalLogConfig, mut identity: LogIdentity) -> Result<(LogIdentity, VecDeque<Segment>), LogError> {
    let folder = &config.folder;
    let io = |error: std::io::Error| unusable(folder, error.to_string());
    if config.partitions < identity.partitions {
        let reason = format!(
            "it has {} partitions and {} are configured; partitions can be added, not removed",
            identity.partitions, config.partitions
        );
        return Err(unusable(folder, reason));
    }
    if config.partitions > identity.partitions {
        identity.partitions = config.partitions;
        identity.write(folder).map_err(io)?;
    }
    let sequences = folder::segments(folder).map_err(io)?;
    let Some(last) = sequences.last().copied() else {
        return Err(unusable(
            folder,
            "all its segments are gone; restore the folder from a copy, or remove it to begin a new log",
        ));
    };
    let mut segments: VecDeque<Segment> = VecDeque::new();
    let mut torn_bytes = 0;
    for sequence in sequences {
        let loaded = Segment::load(folder, sequence, identity.partitions, sequence == last)?;
        torn_bytes += loaded.torn_bytes;
        check_follows(folder, &identity, segments.back(), &loaded.segment)?;
        segments.push_back(loaded.segment);
    }
    // The writer continues at the end of the last segment.
    if let Some(active) = segments.back() {
        active.seek_to_end().map_err(io)?;
    }
    let bytes: u64 = segments.iter().map(|segment| segment.index.bytes).sum();
    tracing::info!(
        folder = %folder.display(), log_id = identity.log_id, segments = segments.len(), bytes, torn_bytes,
        "opened the local log"
    );
    Ok((identity, segments))
}

/// Checks that `next` continues where `before` ends.
pub(super) fn check_follows(
    folder: &Path,
    identity: &LogIdentity,
    before: Option<&Segment>,
    next: &Segment,
) -> Result<(), LogError> {
    let path = next.path.display();
    if next.header.log_id != identity.log_id {
        return Err(unusable(
            folder,
            format!("{path} belongs to another log; remove the files of the other log from this folder"),
        ));
    }
    let Some(before) = before else { return Ok(()) };
    let in_sequence = before.header.sequence + 1 == next.header.sequence;
    let mut ends = before.index.partitions.iter().map(|partition| partition.next).enumerate();
    if in_sequence && ends.all(|(p, end)| end == next.header.base(p)) {
        return Ok(());
    }
    let reason = format!(
        "{path} does not continue where {} ends: a file is missing or was changed. Restore the folder from a copy, or \
         move it aside to begin a new log (records that are not in blocks yet are lost then)",
        before.path.display()
    );
    Err(unusable(folder, reason))
}
