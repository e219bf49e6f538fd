//! Tests of the local log beyond the contract: failing disks, damaged files, retention, the queue.

use std::fs::{self, File};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use model::ManualClock;
use parking_lot::{Condvar, Mutex};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::time::timeout;

use super::frame::FrameHeader;
use super::*;
use crate::LogRecord;

const P: PartitionId = PartitionId::new(0);
const LIMITS: FetchLimits = FetchLimits { bytes_max: 64 << 20, wait_max: Duration::ZERO };

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

struct Place {
    folder: TempDir,
    config: LocalLogConfig,
    clock: Arc<ManualClock>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = LocalLogConfig::new(folder.path());
        config.partitions = 2;
        Self { folder, config, clock: Arc::new(ManualClock::new(TimestampNs::from_secs(1000))) }
    }

    fn open(&self) -> Result<LocalLog, LogError> {
        self.open_on(MachineDisk)
    }

    fn open_on(&self, disk: impl Disk + 'static) -> Result<LocalLog, LogError> {
        let random = Arc::new(SystemRandom);
        LocalLog::open_on(self.config.clone(), self.clock.clone(), random, Box::new(disk))
    }

    fn segment(&self, sequence: u64) -> PathBuf {
        segment::segment_path(self.folder.path(), sequence)
    }
}

async fn append(log: &LocalLog, payload: impl Into<Bytes>) -> Offset {
    log.append(P, &tenant(), payload.into()).await.unwrap()
}

async fn read_all(log: &LocalLog) -> Result<Vec<LogRecord>, LogError> {
    let held = log.watermarks(P).await?;
    let mut next = held.first;
    let mut all = Vec::new();
    while next < held.end {
        let fetched = log.fetch(P, next, LIMITS).await?;
        next = fetched.next;
        all.extend(fetched.records);
    }
    Ok(all)
}

async fn payloads(log: &LocalLog) -> Result<Vec<String>, LogError> {
    let records = read_all(log).await?;
    Ok(records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned()).collect())
}

/// The faults of a [`TestDisk`].
#[derive(Default)]
struct DiskFaults {
    syncs_until_failure: Option<u64>,
    writes_until_failure: Option<u64>,
    blocked: bool,
}

/// A disk that fails or blocks on demand.
#[derive(Clone, Default)]
struct TestDisk(Arc<(Mutex<DiskFaults>, Condvar)>);

impl TestDisk {
    fn set(&self, change: impl FnOnce(&mut DiskFaults)) {
        change(&mut self.0.0.lock());
        self.0.1.notify_all();
    }
}

fn count_down(left: &mut Option<u64>) -> std::io::Result<()> {
    match left {
        Some(0) => Err(std::io::Error::other("the disk is gone")),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

impl Disk for TestDisk {
    fn write(&mut self, file: &File, slices: &mut [IoSlice<'_>]) -> std::io::Result<()> {
        let mut faults = self.0.0.lock();
        while faults.blocked {
            self.0.1.wait(&mut faults);
        }
        count_down(&mut faults.writes_until_failure)?;
        MachineDisk.write(file, slices)
    }

    fn sync(&mut self, file: &File) -> std::io::Result<()> {
        count_down(&mut self.0.0.lock().syncs_until_failure)?;
        MachineDisk.sync(file)
    }
}

async fn check_failure(change: impl FnOnce(&mut DiskFaults)) {
    let place = Place::new();
    let disk = TestDisk::default();
    disk.set(change);
    let log = place.open_on(disk.clone()).unwrap();
    let log = Arc::new(log);
    append(&log, "a").await;
    let end = append(&log, "b").await.next();
    let reader = Arc::clone(&log);
    let wait = FetchLimits { bytes_max: 1, wait_max: Duration::from_secs(60) };
    let waiting = tokio::spawn(async move { reader.fetch(P, end, wait).await });
    tokio::task::yield_now().await;
    let failed = log.append(P, &tenant(), "c".into()).await;
    assert!(matches!(failed, Err(LogError::Stopped(ref reason)) if reason.contains("the disk is gone")), "{failed:?}");
    // The disk works again, but the log does not use it any more.
    disk.set(|faults| *faults = DiskFaults::default());
    assert!(matches!(log.append(P, &tenant(), "d".into()).await, Err(LogError::Stopped(_))));
    assert!(matches!(waiting.await.unwrap(), Err(LogError::Stopped(_))));
    assert!(matches!(log.enforce_retention().await, Err(LogError::Stopped(_))));
    assert_eq!(payloads(&log).await.unwrap(), ["a", "b"]);
    assert!(place.open().is_err(), "the folder stays locked until the log is dropped");
    drop(log);
    let again = payloads(&place.open().unwrap()).await.unwrap();
    assert_eq!(again[..2], ["a", "b"]);
    assert!(again.len() <= 3, "only the record whose sync failed may have survived: {again:?}");
}

#[tokio::test]
async fn a_failed_sync_stops_the_log_for_good() {
    check_failure(|faults| faults.syncs_until_failure = Some(2)).await;
}

#[tokio::test]
async fn a_failed_write_stops_the_log_for_good() {
    check_failure(|faults| faults.writes_until_failure = Some(2)).await;
}

#[tokio::test]
async fn appends_are_grouped_and_the_queue_is_bounded() {
    let mut place = Place::new();
    place.config.queue_bytes_max = 4 << 20;
    let disk = TestDisk::default();
    disk.set(|plan| plan.blocked = true);
    let log = place.open_on(disk.clone()).unwrap();
    let log = Arc::new(log);
    let appends: Vec<_> = (0..10)
        .map(|_| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { append(&log, vec![1; 1 << 20]).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(log.stats().queue_bytes, 4 << 20, "four megabytes fit into the queue; the other appends wait");
    assert_eq!(log.watermarks(P).await.unwrap().end, Offset::ZERO, "nothing is visible before it is durable");
    disk.set(|plan| plan.blocked = false);
    for append in appends {
        append.await.unwrap();
    }
    let stats = log.stats();
    assert_eq!((stats.appended_records, stats.queue_bytes), (10, 0));
    assert!(stats.syncs < 10, "one batch held several appends: {} syncs", stats.syncs);
}

#[tokio::test]
async fn a_cancelled_wait_does_not_undo_the_append() {
    let place = Place::new();
    let disk = TestDisk::default();
    disk.set(|plan| plan.blocked = true);
    let log = place.open_on(disk.clone()).unwrap();
    assert!(timeout(Duration::from_millis(20), log.append(P, &tenant(), "a".into())).await.is_err());
    disk.set(|plan| plan.blocked = false);
    append(&log, "b").await;
    assert_eq!(payloads(&log).await.unwrap(), ["a", "b"]);
}

#[tokio::test]
async fn close_completes_queued_appends() {
    let place = Place::new();
    let log = Arc::new(place.open().unwrap());
    let appends: Vec<_> = (0..50)
        .map(|i| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.append(P, &tenant(), i.to_string().into()).await.map(|_| i.to_string()) })
        })
        .collect();
    tokio::task::yield_now().await;
    log.close().await;
    let mut acknowledged = Vec::new();
    for append in appends {
        match append.await.unwrap() {
            Ok(payload) => acknowledged.push(payload),
            Err(error) => assert!(matches!(error, LogError::Stopped(_)), "{error}"),
        }
    }
    assert!(!acknowledged.is_empty());
    assert!(matches!(log.append(P, &tenant(), "x".into()).await, Err(LogError::Stopped(_))));
    assert!(matches!(log.commit(P, Offset::ZERO).await, Err(LogError::Stopped(_))));
    assert_eq!(payloads(&log).await.unwrap(), acknowledged, "a closed log can still be read");
    let end = log.watermarks(P).await.unwrap().end;
    assert!(matches!(log.fetch(P, end, LIMITS).await, Err(LogError::Stopped(_))));
    log.close().await;
    assert_eq!(payloads(&place.open().unwrap()).await.unwrap(), acknowledged);
}

#[tokio::test]
async fn records_share_the_buffers_that_were_appended() {
    let log = Place::new().open().unwrap();
    let payload = Bytes::from(vec![1; 10_000]);
    log.append(P, &tenant(), payload.clone()).await.unwrap();
    assert_eq!(read_all(&log).await.unwrap()[0].payload.as_ptr(), payload.as_ptr());
}

#[tokio::test]
async fn append_times_do_not_go_back() {
    let place = Place::new();
    let log = place.open().unwrap();
    append(&log, "a").await;
    place.clock.set(TimestampNs::from_secs(900));
    append(&log, "b").await;
    drop(log);
    let log = place.open().unwrap();
    append(&log, "c").await;
    place.clock.set(TimestampNs::from_secs(1001));
    append(&log, "d").await;
    let times: Vec<_> = read_all(&log).await.unwrap().iter().map(|record| record.append_time.millis() / 1000).collect();
    assert_eq!(times, [1000, 1000, 1000, 1001]);
}

#[tokio::test]
async fn folders_that_cannot_be_opened() {
    let reason = |place: &Place| match place.open() {
        Err(LogError::Open { reason, .. }) => reason,
        Err(other) => other.to_string(),
        Ok(_) => "it opened".to_owned(),
    };
    let place = Place::new();
    let log = place.open().unwrap();
    assert!(reason(&place).contains("another process is using it"), "{}", reason(&place));
    append(&log, "a").await;
    drop(log);

    let fewer = Place { config: LocalLogConfig { partitions: 1, ..place.config.clone() }, ..place };
    assert!(reason(&fewer).contains("partitions can be added, not removed"), "{}", reason(&fewer));
    let zero = Place { config: LocalLogConfig { partitions: 0, ..fewer.config.clone() }, ..fewer };
    assert!(reason(&zero).contains("partitions must be"), "{}", reason(&zero));
    let place = Place { config: LocalLogConfig { partitions: 2, ..zero.config.clone() }, ..zero };

    let identity = place.folder.path().join("log");
    let text = fs::read_to_string(&identity).unwrap();
    fs::remove_file(&identity).unwrap();
    assert!(reason(&place).contains("no file 'log'"), "{}", reason(&place));
    fs::write(&identity, "nonsense").unwrap();
    assert!(reason(&place).contains("the file 'log' is damaged"), "{}", reason(&place));
    fs::write(&identity, text.replace("id ", "id 0")).unwrap();
    assert!(reason(&place).contains("belongs to another log"), "{}", reason(&place));
    fs::write(&identity, text).unwrap();
    let hidden = place.folder.path().join("hidden");
    fs::rename(place.segment(1), &hidden).unwrap();
    assert!(reason(&place).contains("all its segments are gone"), "{}", reason(&place));
    fs::rename(hidden, place.segment(1)).unwrap();
    assert_eq!(payloads(&place.open().unwrap()).await.unwrap(), ["a"]);
}

#[tokio::test]
async fn a_start_after_an_interrupted_first_start_works() {
    let place = Place::new();
    drop(place.open().unwrap());
    fs::remove_file(place.folder.path().join("log")).unwrap();
    fs::write(place.folder.path().join("log.new"), "half").unwrap();
    let log = place.open().unwrap();
    append(&log, "a").await;
    assert_eq!(payloads(&log).await.unwrap(), ["a"]);
    assert!(!place.folder.path().join("log.new").exists());
}

#[tokio::test]
async fn partitions_are_added() {
    let mut place = Place::new();
    place.config.segment_bytes = 4096;
    let log = place.open().unwrap();
    for _ in 0..10 {
        append(&log, vec![1; 1000]).await;
    }
    let id = log.log_id().clone();
    drop(log);
    place.config.partitions = 5;
    let new = PartitionId::new(4);
    for round in 0..3 {
        let log = place.open().unwrap();
        assert_eq!((log.partition_count(), log.log_id()), (5, &id));
        let before = if round == 0 { Offset::ZERO } else { Offset::new(10 * round) };
        assert_eq!(log.watermarks(new).await.unwrap(), Watermarks { first: Offset::ZERO, end: before });
        for _ in 0..10 {
            log.append(new, &tenant(), vec![2; 1000].into()).await.unwrap();
        }
        assert_eq!(log.fetch(new, Offset::ZERO, LIMITS).await.unwrap().records[0].payload[..], [2; 1000]);
        assert_eq!(read_all(&log).await.unwrap().len(), 10);
    }
}

/// A log with several full segments of ten records each and some records in the active segment.
async fn several_segments() -> Place {
    let mut place = Place::new();
    place.config.segment_bytes = 11_000;
    let log = place.open().unwrap();
    for i in 0..45_u8 {
        place.clock.advance(Duration::from_secs(1));
        append(&log, vec![i; 1000]).await;
    }
    assert_eq!(log.stats().segments, 5);
    place
}

#[tokio::test]
async fn damage_of_durable_data_is_an_error() {
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    // In a full segment. A start notices it only if it reads the segment; otherwise a reader notices it.
    let place = several_segments().await;
    flip(&place.segment(2), 5000);
    let log = place.open().unwrap();
    let error = read_all(&log).await.unwrap_err();
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("Restore the log's folder from a copy"), "{error}");
    drop(log);
    fs::remove_file(place.segment(2).with_extension("idx")).unwrap();
    assert!(matches!(place.open(), Err(LogError::Damaged { .. })));
    flip(&place.segment(2), 5000);
    assert_eq!(read_all(&place.open().unwrap()).await.unwrap().len(), 45);

    // In the active segment, in a batch that is followed by another.
    flip(&place.segment(5), 2000);
    assert!(matches!(place.open(), Err(LogError::Damaged { .. })));
    flip(&place.segment(5), 2000);

    // In a header.
    flip(&place.segment(3), 30);
    assert!(matches!(place.open(), Err(LogError::Damaged { position: 0, .. })));
    flip(&place.segment(3), 30);

    // A full segment that lost records at its end, and one that is missing.
    let whole = fs::read(place.segment(3)).unwrap();
    fs::write(place.segment(3), &whole[..whole.len() - 1]).unwrap();
    assert!(matches!(place.open(), Err(LogError::Damaged { .. })));
    let frame = frame::HEADER_BYTES + 1 + 1000;
    fs::write(place.segment(3), &whole[..whole.len() - frame]).unwrap();
    let error = place.open().err().unwrap().to_string();
    assert!(error.contains("a file is missing or was changed"), "{error}");
    fs::remove_file(place.segment(3)).unwrap();
    let error = place.open().err().unwrap().to_string();
    assert!(error.contains("a file is missing or was changed"), "{error}");
    fs::write(place.segment(3), &whole).unwrap();
    assert_eq!(read_all(&place.open().unwrap()).await.unwrap().len(), 45);
}

#[tokio::test]
async fn a_torn_end_is_cut_off() {
    let place = Place::new();
    let log = place.open().unwrap();
    append(&log, "first").await;
    let synced = log.synced();
    append(&log, vec![b'x'; 300]).await;
    let end = log.synced();
    drop(log);
    assert_eq!(synced.segment, 1);
    let path = place.segment(1);
    let whole = fs::read(&path).unwrap();
    let (synced, end) = (synced.bytes as usize, end.bytes as usize);
    assert_eq!(whole.len(), end);
    let mut tails: Vec<Vec<u8>> = (synced..end).map(|cut| whole[synced..cut].to_vec()).collect();
    tails.push(vec![0; 5000]);
    tails.push(vec![0xff; 700_000]);
    let mut garbled = whole[synced..].to_vec();
    garbled[200] ^= 4;
    tails.push(garbled.clone());
    garbled.extend_from_slice(&whole[synced..]);
    tails.push(garbled);
    // Frames of another file, which a disk may leave behind.
    tails.push([b"123".as_slice(), &whole[synced - 60..synced]].concat());
    for tail in tails {
        fs::write(&path, [&whole[..synced], &tail].concat()).unwrap();
        let log = place.open().unwrap();
        assert_eq!(payloads(&log).await.unwrap(), ["first"]);
        append(&log, "next").await;
        drop(log);
        assert_eq!(payloads(&place.open().unwrap()).await.unwrap(), ["first", "next"]);
    }
}

#[tokio::test]
async fn a_payload_cannot_be_mistaken_for_a_frame() {
    let place = Place::new();
    let log = place.open().unwrap();
    let forged = FrameHeader {
        key_bytes: 0,
        payload_bytes: 0,
        body_crc: 0,
        partition: 0,
        offset: Offset::new(7),
        append_time: TimestampNs::from_secs(1),
        batch_start: 1 << 40,
    };
    append(&log, "first").await;
    let synced = log.synced().bytes;
    append(&log, [vec![1; 100], forged.encode(0).to_vec(), vec![1; 100]].concat()).await;
    drop(log);
    let file = File::options().write(true).open(place.segment(1)).unwrap();
    file.set_len(file.metadata().unwrap().len() - 10).unwrap();
    let log = place.open().unwrap();
    assert_eq!(payloads(&log).await.unwrap(), ["first"]);
    assert_eq!(log.synced().bytes, synced);
}

#[tokio::test]
async fn retention_by_age_and_size() {
    let first = async |log: &LocalLog| log.watermarks(P).await.unwrap().first.value();
    let mut place = several_segments().await;
    place.config.retention_age = Duration::from_secs(3600);
    let log = place.open().unwrap();
    assert_eq!(log.enforce_retention().await.unwrap(), 0, "no segment is old");
    place.clock.advance(Duration::from_secs(3585));
    assert_eq!(log.enforce_retention().await.unwrap(), 0, "the old segments are not committed");
    log.commit(P, Offset::new(19)).await.unwrap();
    assert_eq!(log.enforce_retention().await.unwrap(), 1, "the second segment ends at 20");
    assert_eq!(first(&log).await, 10);
    log.commit(P, Offset::new(45)).await.unwrap();
    assert_eq!(log.enforce_retention().await.unwrap(), 1, "the third segment is not old");
    place.clock.advance(Duration::from_secs(100_000));
    assert_eq!(log.enforce_retention().await.unwrap(), 2, "the active segment is kept");
    assert_eq!(first(&log).await, 40);
    drop(log);
    let log = place.open().unwrap();
    assert_eq!(log.watermarks(P).await.unwrap(), Watermarks { first: Offset::new(40), end: Offset::new(45) });
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 4, "lock, log, committed, one segment");
    drop(log);

    let mut place = several_segments().await;
    place.config.retention_bytes = 30_000;
    place.config.retain_uncommitted = false;
    let log = place.open().unwrap();
    assert_eq!(log.enforce_retention().await.unwrap(), 2);
    assert_eq!(first(&log).await, 20);
    let kept = read_all(&log).await.unwrap();
    assert_eq!(kept.first().map(|record| record.payload[0]), Some(20));
    let oldest = log.offset_at(P, TimestampNs::from_secs(0)).await.unwrap();
    assert_eq!(oldest, Some(Offset::new(20)));
}

#[tokio::test]
async fn reopening_keeps_offsets_when_all_records_were_removed() {
    let mut place = several_segments().await;
    place.config.retention_bytes = 0;
    place.config.retain_uncommitted = false;
    let other = PartitionId::new(1);
    let log = place.open().unwrap();
    log.append(other, &tenant(), "x".into()).await.unwrap();
    for _ in 0..50 {
        append(&log, vec![0; 1000]).await;
    }
    log.enforce_retention().await.unwrap();
    let held = log.watermarks(other).await.unwrap();
    assert_eq!((held.first.value(), held.end.value()), (1, 1), "the record is gone; its offset is not assigned again");
    drop(log);
    let log = place.open().unwrap();
    assert_eq!(log.watermarks(other).await.unwrap(), held);
    assert_eq!(log.append(other, &tenant(), "y".into()).await.unwrap(), Offset::new(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_are_visible_at_once() {
    let log = Arc::new(Place::new().open().unwrap());
    let began = Instant::now();
    let seen = Arc::new(AtomicU64::new(0));
    let (reader, last_seen) = (Arc::clone(&log), Arc::clone(&seen));
    let reading = tokio::spawn(async move {
        let mut next = Offset::ZERO;
        while next < Offset::new(200) {
            let wait = FetchLimits { bytes_max: 1 << 20, wait_max: Duration::from_secs(10) };
            next = reader.fetch(P, next, wait).await.unwrap().next;
            last_seen.store(next.value() as u64, Ordering::SeqCst);
        }
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let offset = append(&log, vec![0; 500]).await;
        let acknowledged = Instant::now();
        while seen.load(Ordering::SeqCst) <= offset.value() as u64 {
            tokio::task::yield_now().await;
        }
        slowest = slowest.max(acknowledged.elapsed());
    }
    reading.await.unwrap();
    eprintln!("200 appends in {:?}; at most {slowest:?} from acknowledged to visible", began.elapsed());
    assert!(slowest < Duration::from_secs(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever the bytes of the last segment are, the log opens with a prefix of its records or reports an error.
    #[test]
    fn any_bytes_of_a_segment(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        more in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let place = Place::new();
            let log = place.open().unwrap();
            let mut expected = Vec::new();
            for i in 0..8 {
                expected.push("x".repeat(i * 13));
                append(&log, expected[i].clone()).await;
            }
            drop(log);
            let path = place.segment(1);
            let mut bytes = fs::read(&path).unwrap();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes.extend_from_slice(&more);
            fs::write(&path, bytes).unwrap();
            if let Ok(log) = place.open() {
                let found = payloads(&log).await.unwrap();
                assert_eq!(found, expected[..found.len()]);
            }
        });
    }
}
