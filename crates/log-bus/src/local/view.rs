//! A read-only view of a journal that another process may be using.
//!
//! A view takes no lock and changes no file. It holds the records that were durable when it was opened. An incomplete
//! frame counts as the end, and complete frames are synced before they become visible. The view does not contain later
//! appends. Segments that retention removes meanwhile stay readable, since their files are open.

use std::collections::VecDeque;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Offset, PartitionId, TenantId, TimestampNs};

use super::folder::{self, LogIdentity, blocking, unusable};
use super::opening::check_follows;
use super::segment::Segment;
use super::state::{DurableState, FileRead, RecordSource};
use crate::{Assignment, FetchLimits, Fetched, LogBus, LogError, LogId, Watermarks};

/// Number of times to list the folder if retention removes segments while they are being opened.
const LISTINGS_MAX: u32 = 20;

/// The records that a local log held at one moment. It can only be read; appends and commits fail.
pub struct LocalLogView {
    id: LogId,
    state: DurableState,
    partitions: u32,
}

impl LocalLogView {
    /// Opens a view of the log in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self, LogError> {
        let identity = LogIdentity::read(folder)?.ok_or_else(|| unusable(folder, "there is no local log in it"))?;
        let io = |error: std::io::Error| unusable(folder, error.to_string());
        for _ in 0..LISTINGS_MAX {
            let sequences = folder::list_segments(folder).map_err(io)?;
            if sequences.is_empty() {
                return Err(unusable(folder, "all its segments are gone; restore the folder from a copy"));
            }
            let Some(segments) = view_segments(folder, &identity, &sequences)? else { continue };
            let committed = folder::read_committed(folder, identity.partitions);
            let state = DurableState::new(segments, committed, 0);
            return Ok(Self { id: LogId(identity.log_id), state, partitions: identity.partitions });
        }
        Err(unusable(folder, "its segments are removed faster than they can be opened; try again"))
    }
}

/// Opens the segments. Returns `None` if retention removed one of them meanwhile.
fn view_segments(
    folder: &Path,
    identity: &LogIdentity,
    sequences: &[u64],
) -> Result<Option<VecDeque<Segment>>, LogError> {
    let mut segments: VecDeque<Segment> = VecDeque::new();
    for sequence in sequences {
        let is_last = Some(sequence) == sequences.last();
        let Some(segment) = Segment::view(folder, *sequence, identity.partitions, is_last)? else { return Ok(None) };
        check_follows(folder, identity, segments.back(), &segment)?;
        segments.push_back(segment);
    }
    Ok(Some(segments))
}

fn refused() -> LogError {
    LogError::Unavailable("the log was opened as a read-only view".to_owned())
}

#[async_trait]
impl LogBus for LocalLogView {
    fn log_id(&self) -> &LogId {
        &self.id
    }

    fn partition_count(&self) -> u32 {
        self.partitions
    }

    async fn append(&self, _: PartitionId, _: &TenantId, _: Bytes) -> Result<Offset, LogError> {
        Err(refused())
    }

    /// Never waits, since no record can arrive in a view.
    async fn fetch(&self, partition: PartitionId, from: Offset, limits: FetchLimits) -> Result<Fetched, LogError> {
        match self.state.find(partition, from, limits)? {
            RecordSource::File(read) => blocking(move || read.fetch(from, limits)).await,
            RecordSource::Cache(fetched) => Ok(fetched),
            RecordSource::Nothing => Ok(Fetched { records: Vec::new(), next: from }),
        }
    }

    async fn watermarks(&self, partition: PartitionId) -> Result<Watermarks, LogError> {
        self.state.held(partition)
    }

    async fn offset_at(&self, partition: PartitionId, time: TimestampNs) -> Result<Option<Offset>, LogError> {
        self.state.held(partition)?;
        let reads = self.state.find_time(partition, time);
        blocking(move || FileRead::first_offset_at(&reads, time)).await
    }

    async fn assignment(&self) -> Result<Assignment, LogError> {
        Err(refused())
    }

    async fn commit(&self, _: PartitionId, _: Offset) -> Result<(), LogError> {
        Err(refused())
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        self.state.held(partition)?;
        Ok(self.state.committed[partition.index() as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::{LocalLog, LocalLogConfig};

    const P: PartitionId = PartitionId::new(1);

    fn config(folder: &Path) -> LocalLogConfig {
        LocalLogConfig { partitions: 2, segment_bytes: 8 << 10, cache_bytes: 0, ..LocalLogConfig::new(folder) }
    }

    async fn append(log: &LocalLog, numbers: std::ops::Range<u32>) {
        let tenant = TenantId::new("t").unwrap();
        for number in numbers {
            let payload = format!("{number} {}", "x".repeat(100));
            log.append(P, &tenant, Bytes::from(payload)).await.unwrap();
        }
    }

    /// The numbers of all records.
    async fn numbers(log: &dyn LogBus) -> Vec<u32> {
        let mut at = log.watermarks(P).await.unwrap().first;
        let mut numbers = Vec::new();
        loop {
            let limits = FetchLimits { bytes_max: 1000, wait_max: Duration::ZERO };
            let fetched = log.fetch(P, at, limits).await.unwrap();
            if fetched.records.is_empty() {
                return numbers;
            }
            let number = |payload: &[u8]| {
                std::str::from_utf8(payload).unwrap().split(' ').next().unwrap().parse::<u32>().unwrap()
            };
            numbers.extend(fetched.records.iter().map(|record| number(&record.payload)));
            at = fetched.next;
        }
    }

    /// Every file and its bytes.
    fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
    }

    #[tokio::test]
    async fn a_view_shows_durable_records_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let log = LocalLog::open(config(folder.path())).unwrap();
        append(&log, 0..200).await;
        log.commit(P, Offset::new(7)).await.unwrap();
        // The remains of an unfinished write of another file, and a missing index.
        std::fs::write(folder.path().join("committed.new"), "x").unwrap();
        let index = folder.path().join("00000000000000000001.idx");
        std::fs::remove_file(&index).unwrap();
        let before = files(folder.path());

        let view = LocalLog::open_view(folder.path()).unwrap();
        assert_eq!(numbers(&view).await, (0..200).collect::<Vec<_>>());
        assert_eq!((view.log_id(), view.partition_count()), (log.log_id(), 2));
        assert_eq!(view.ends().await.unwrap(), log.ends().await.unwrap());
        assert_eq!(view.committed(P).await.unwrap(), Some(Offset::new(7)));
        for probe in [0, 1, 100, 199] {
            let at = Offset::new(probe);
            let limits = FetchLimits { bytes_max: 1, wait_max: Duration::ZERO };
            let time = view.fetch(P, at, limits).await.unwrap().records[0].append_time;
            assert_eq!(view.offset_at(P, time).await.unwrap(), log.offset_at(P, time).await.unwrap());
        }
        assert_eq!(view.offset_at(P, TimestampNs::MAX).await.unwrap(), None);
        let tenant = TenantId::new("t").unwrap();
        assert!(view.append(P, &tenant, Bytes::new()).await.is_err());
        assert!(view.commit(P, Offset::ZERO).await.is_err());
        assert_eq!(files(folder.path()), before);

        // Later appends do not change the view.
        append(&log, 200..210).await;
        assert_eq!(numbers(&view).await.len(), 200);
        assert_eq!(numbers(&LocalLog::open_view(folder.path()).unwrap()).await.len(), 210);
    }

    #[tokio::test]
    async fn a_torn_end_is_not_cut_off_and_damage_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let log = LocalLog::open(LocalLogConfig { segment_bytes: 1 << 20, ..config(folder.path()) }).unwrap();
        append(&log, 0..20).await;
        log.close().await;
        let segment = folder.path().join("00000000000000000001.seg");
        let whole = std::fs::read(&segment).unwrap();
        std::fs::write(&segment, &whole[..whole.len() - 10]).unwrap();
        let view = LocalLog::open_view(folder.path()).unwrap();
        assert_eq!(numbers(&view).await, (0..19).collect::<Vec<_>>());
        assert_eq!(std::fs::read(&segment).unwrap().len(), whole.len() - 10);

        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        std::fs::write(&segment, damaged).unwrap();
        assert!(matches!(LocalLog::open_view(folder.path()), Err(LogError::Damaged { .. })));

        let nothing = folder.path().join("nothing");
        assert!(matches!(LocalLog::open_view(&nothing), Err(LogError::Open { .. })));
        assert!(!nothing.exists());
    }

    /// Opens views while another thread appends and retention removes segments. Each view must hold records without gaps.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn views_have_no_gaps_while_the_log_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let config = LocalLogConfig {
            retention_bytes: 40 << 10,
            retain_uncommitted: false,
            retention_interval: Duration::from_millis(1),
            ..config(folder.path())
        };
        let log = LocalLog::open(config).unwrap();
        let (done, mut is_done) = tokio::sync::oneshot::channel();
        let writing = tokio::spawn(async move {
            append(&log, 0..1500).await;
            let _ = done.send(());
            log
        });
        let (mut views, mut seen) = (0, 0);
        loop {
            let last = is_done.try_recv().is_ok();
            let view = LocalLog::open_view(folder.path()).unwrap();
            let held = view.watermarks(P).await.unwrap();
            let found = numbers(&view).await;
            let expected: Vec<u32> = (held.first.value() as u32..held.end.value() as u32).collect();
            assert_eq!(found, expected);
            assert!(held.end.value() >= seen, "durable records were lost");
            (views, seen) = (views + 1, held.end.value());
            if last {
                break;
            }
        }
        assert!(views > 1);
        assert_eq!(seen, 1500);
        writing.await.unwrap().close().await;
    }
}
