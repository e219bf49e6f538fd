//! Kills an appending process at random moments, thousands of times. Every acknowledged record must be in the log
//! exactly once, complete and in order.
//!
//! This program starts itself as a child. The child opens the log, appends from several tasks, and reports each
//! acknowledged offset through a pipe. The parent kills it with SIGKILL, sometimes before the log is open. After about
//! half of the kills, the parent also simulates a power loss: it cuts bytes off that were not synced, overwrites them, or
//! appends others. Then it opens the log and compares. A folder is used for many kills, so recovery must also handle the
//! results of earlier recoveries.
//!
//! `MILLRACE_CRASH_KILLS` sets the number of kills, and `MILLRACE_CRASH_SEED` the seed.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]
#![allow(clippy::disallowed_methods, reason = "tests own what they start")]
#![allow(clippy::print_stdout, reason = "the test prints its seed and its statistics")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::env;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use millrace_log_bus::{FetchLimits, LocalLog, LocalLogConfig, LogBus, LogRecord};
use model::{Offset, PartitionId, TenantId};

const PARTITIONS: u32 = 3;
const WRITERS: u32 = 4;
const KILLS_PER_FOLDER: u32 = 40;

fn main() {
    // Test runners list the tests first.
    if env::args().any(|argument| argument == "--list") {
        println!("survives_kills: test");
        return;
    }
    if let Ok(folder) = env::var("MILLRACE_CRASH_CHILD") {
        child(Path::new(&folder));
        return;
    }
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = number("MILLRACE_CRASH_KILLS").unwrap_or(2000);
    let seed = number("MILLRACE_CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("MILLRACE_CRASH_SEED={seed} MILLRACE_CRASH_KILLS={kills}");
    let began = Instant::now();
    let lanes: Vec<_> =
        (0..2).map(|lane| std::thread::spawn(move || Lane::new(seed ^ lane).run(kills.div_ceil(2) as u32))).collect();
    let mut total = Figures::default();
    let mut failed = false;
    for lane in lanes {
        match lane.join() {
            Ok(figures) => total.add(&figures),
            Err(_) => failed = true,
        }
    }
    println!("{total:?} in {:?}, seed {seed}", began.elapsed());
    if failed {
        std::process::exit(1);
    }
    assert!(u64::from(total.kills) >= kills && total.acknowledged > u64::from(total.kills), "it tested something");
}

fn config(folder: &Path) -> LocalLogConfig {
    let mut config = LocalLogConfig::new(folder);
    config.partitions = PARTITIONS;
    config.segment_bytes = 64 << 10;
    config.cache_bytes = 16 << 10;
    config.gap_every = Some(5);
    config
}

// ---- the child ----

/// Where a record comes from. A payload begins with it, and all other bytes are derived from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Origin {
    child: u64,
    writer: u32,
    number: u32,
}

impl Origin {
    fn payload(self) -> Vec<u8> {
        let mut rng = Rng::with_seed(self.child ^ (u64::from(self.writer) << 32) ^ u64::from(self.number));
        let length = if rng.u8(..) < 10 { rng.usize(..20_000) } else { rng.usize(..1500) };
        let mut payload = Vec::with_capacity(16 + length);
        payload.extend_from_slice(&self.child.to_le_bytes());
        payload.extend_from_slice(&self.writer.to_le_bytes());
        payload.extend_from_slice(&self.number.to_le_bytes());
        payload.resize(16 + length, 0);
        rng.fill(&mut payload[16..]);
        payload
    }

    fn of(payload: &[u8]) -> Self {
        Self {
            child: u64::from_le_bytes(payload[..8].try_into().unwrap()),
            writer: u32::from_le_bytes(payload[8..12].try_into().unwrap()),
            number: u32::from_le_bytes(payload[12..16].try_into().unwrap()),
        }
    }
}

const MESSAGE_BYTES: usize = 40;

/// A message of the child: an acknowledged record and the synced position. The first message says that the log is open.
struct Message {
    partition: u32,
    offset: i64,
    writer: u32,
    number: u32,
    segment: u64,
    synced: u64,
}

/// The partition number of a message which says that the log is open.
const OPEN: u32 = u32::MAX;

impl Message {
    fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let mut out = [0; MESSAGE_BYTES];
        out[..4].copy_from_slice(&self.partition.to_le_bytes());
        out[4..8].copy_from_slice(&self.writer.to_le_bytes());
        out[8..12].copy_from_slice(&self.number.to_le_bytes());
        out[16..24].copy_from_slice(&self.offset.to_le_bytes());
        out[24..32].copy_from_slice(&self.segment.to_le_bytes());
        out[32..40].copy_from_slice(&self.synced.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        Self {
            partition: u32_at(0),
            writer: u32_at(4),
            number: u32_at(8),
            offset: u64_at(16) as i64,
            segment: u64_at(24),
            synced: u64_at(32),
        }
    }
}

fn child(folder: &Path) {
    let child: u64 = env::var("MILLRACE_CRASH_ID").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = Arc::new(LocalLog::open(config(folder)).unwrap());
        tell(&log, OPEN, 0, 0, 0);
        let writers = (0..WRITERS).map(|writer| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let tenant = TenantId::new("t").unwrap();
                for number in 0.. {
                    let payload = Bytes::from(Origin { child, writer, number }.payload());
                    let partition = (writer + number) % PARTITIONS;
                    let offset = log.append(PartitionId::new(partition), &tenant, payload).await.unwrap();
                    tell(&log, partition, offset.value(), writer, number);
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}

/// Reports to the parent in one write, so that the parent gets all of it or nothing.
fn tell(log: &LocalLog, partition: u32, offset: i64, writer: u32, number: u32) {
    let synced = log.synced();
    let message = Message { partition, offset, writer, number, segment: synced.segment, synced: synced.bytes };
    std::io::stdout().lock().write_all(&message.encode()).unwrap();
    std::io::stdout().lock().flush().unwrap();
}

// ---- the parent ----

#[derive(Debug, Default)]
struct Figures {
    kills: u32,
    /// Number of children that were killed before their log was open.
    kills_while_opening: u32,
    acknowledged: u64,
    /// Number of records that are in the log without an acknowledgement, since the kill came in between.
    unacknowledged: u64,
    power_losses: u32,
    /// Number of times that recovery cut off a torn end.
    torn: u32,
    records_compared: u64,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.kills_while_opening += other.kills_while_opening;
        self.acknowledged += other.acknowledged;
        self.unacknowledged += other.unacknowledged;
        self.power_losses += other.power_losses;
        self.torn += other.torn;
        self.records_compared += other.records_compared;
    }
}

struct Lane {
    rng: Rng,
    figures: Figures,
    runtime: tokio::runtime::Runtime,
}

/// What the log in one folder must hold.
#[derive(Default)]
struct ExpectedLog {
    acknowledged: BTreeMap<(u32, i64), Origin>,
    /// All records at the last comparison. None of them may disappear or change.
    seen: HashMap<(u32, i64), Origin>,
    /// The furthest position that is known to be synced.
    synced: (u64, u64),
}

impl Lane {
    fn new(seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { rng: Rng::with_seed(seed), figures: Figures::default(), runtime }
    }

    fn run(mut self, kills: u32) -> Figures {
        while self.figures.kills < kills {
            // A kill does not affect the system's memory, so the test needs no real disk. Memory is faster.
            let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            let folder = folder.path().join("log");
            let mut known = ExpectedLog::default();
            for _ in 0..KILLS_PER_FOLDER.min(kills - self.figures.kills) {
                let child = self.rng.u64(..);
                self.kill_one(&folder, child, &mut known);
                if folder.join("log").exists() && self.rng.bool() {
                    self.lose_power(&folder, &known);
                }
                self.compare(&folder, &mut known);
            }
            self.figures.acknowledged += known.acknowledged.len() as u64;
            self.figures.unacknowledged += (known.seen.len() - known.acknowledged.len()) as u64;
        }
        self.figures
    }

    /// Starts a child, kills it, and notes what it reported until then.
    fn kill_one(&mut self, folder: &Path, id: u64, known: &mut ExpectedLog) {
        let mut child = Command::new(env::current_exe().unwrap())
            .env("MILLRACE_CRASH_CHILD", folder)
            .env("MILLRACE_CRASH_ID", id.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdout.take().unwrap();
        let mut told = Vec::new();
        if self.rng.u8(..) >= 50 {
            // Wait until the log is open, so that the child appends a little.
            let mut first = [0; MESSAGE_BYTES];
            pipe.read_exact(&mut first).expect("the child opens the log");
            told.extend_from_slice(&first);
        }
        std::thread::sleep(Duration::from_micros(self.rng.u64(..6000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), None, "the child failed before it was killed");
        pipe.read_to_end(&mut told).unwrap();

        self.figures.kills += 1;
        if told.len() < MESSAGE_BYTES {
            self.figures.kills_while_opening += 1;
        }
        for message in told.chunks_exact(MESSAGE_BYTES).map(Message::decode) {
            known.synced = known.synced.max((message.segment, message.synced));
            if message.partition != OPEN {
                let origin = Origin { child: id, writer: message.writer, number: message.number };
                let before = known.acknowledged.insert((message.partition, message.offset), origin);
                assert_eq!(before, None, "an offset is assigned once");
            }
        }
    }

    /// Changes bytes of the last segment that were not synced, like a power loss.
    fn lose_power(&mut self, folder: &Path, known: &ExpectedLog) {
        let (sequence, path) = last_segment(folder);
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        let (header_bytes, last_batch) = last_batch(&path);
        // A batch is written only after the previous one was synced, so at most the last batch can be affected.
        let told = if known.synced.0 == sequence { known.synced.1 } else { 0 };
        let safe = header_bytes.max(last_batch).max(told);
        assert!(safe <= length, "the file is shorter than its synced part");
        self.figures.power_losses += 1;
        let danger = length - safe;
        match self.rng.u8(..4) {
            // The end of the batch did not reach the disk.
            0 => file.set_len(safe + self.rng.u64(..=danger)).unwrap(),
            // The length reached the disk, but some of the bytes did not.
            1 | 2 if danger > 0 => {
                for _ in 0..self.rng.u32(1..4) {
                    let at = safe + self.rng.u64(..danger);
                    let mut garbage = vec![0; self.rng.u64(1..=(length - at).min(5000)) as usize];
                    if self.rng.bool() {
                        self.rng.fill(&mut garbage);
                    }
                    file.write_all_at(&garbage, at).unwrap();
                }
            }
            // The file grew, and the new part has bytes of another file.
            _ => {
                let mut garbage = vec![0; self.rng.usize(1..9000)];
                if self.rng.bool() {
                    self.rng.fill(&mut garbage);
                }
                file.write_all_at(&garbage, length).unwrap();
            }
        }
    }

    /// Opens the log and compares it with what it must hold.
    fn compare(&mut self, folder: &Path, known: &mut ExpectedLog) {
        let length_before =
            folder.join("log").exists().then(|| std::fs::metadata(last_segment(folder).1).unwrap().len());
        let (found, synced) = self.runtime.block_on(async {
            let log = LocalLog::open(config(folder)).expect("a crash does not damage the log");
            let mut found = Vec::new();
            for partition in 0..PARTITIONS {
                found.extend(read_all(&log, partition).await.into_iter().map(|record| (partition, record)));
            }
            log.close().await;
            (found, log.synced())
        });
        if length_before.is_some_and(|before| before > synced.bytes) {
            self.figures.torn += 1;
        }
        known.synced = known.synced.max((synced.segment, synced.bytes));
        let mut origins = HashSet::new();
        let mut places = HashMap::new();
        let mut last_numbers: HashMap<(u64, u32, u32), u32> = HashMap::new();
        for (partition, record) in found {
            let origin = Origin::of(&record.payload);
            assert!(record.payload == origin.payload(), "the record at {partition}/{} was changed", record.offset);
            assert!(origins.insert(origin), "{origin:?} is in the log twice");
            let last = last_numbers.insert((origin.child, origin.writer, partition), origin.number);
            assert!(last.is_none_or(|last| last < origin.number), "a writer's order is kept");
            places.insert((partition, record.offset.value()), origin);
            self.figures.records_compared += 1;
        }
        for (place, origin) in &known.acknowledged {
            assert_eq!(places.get(place), Some(origin), "the acknowledged record at {place:?} is missing");
        }
        for (place, origin) in &known.seen {
            assert_eq!(places.get(place), Some(origin), "a record that was read at {place:?} has disappeared");
        }
        known.seen = places;
    }
}

fn last_segment(folder: &Path) -> (u64, PathBuf) {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let last = paths.filter(|path| path.extension().is_some_and(|end| end == "seg")).max().unwrap();
    (last.file_stem().unwrap().to_str().unwrap().parse().unwrap(), last)
}

/// The length of the segment's header and the position of the last commit batch, parsed by the documented format.
fn last_batch(path: &Path) -> (u64, u64) {
    let bytes = std::fs::read(path).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let header_bytes = u32_at(12);
    let (mut at, mut last) = (header_bytes, 0);
    while at + 48 <= bytes.len() && &bytes[at + 4..at + 6] == b"ML" {
        last = last.max(u64::from_le_bytes(bytes[at + 40..at + 48].try_into().unwrap()));
        at += 48 + usize::from(u16::from_le_bytes([bytes[at + 6], bytes[at + 7]])) + u32_at(at + 8);
    }
    (header_bytes as u64, last)
}

async fn read_all(log: &LocalLog, partition: u32) -> Vec<LogRecord> {
    let partition = PartitionId::new(partition);
    let held = log.watermarks(partition).await.unwrap();
    assert_eq!(held.first, Offset::ZERO, "nothing was removed");
    let limits = FetchLimits { bytes_max: 4 << 20, wait_max: Duration::ZERO };
    let (mut next, mut all) = (held.first, Vec::<LogRecord>::new());
    while next < held.end {
        let fetched = log.fetch(partition, next, limits).await.unwrap();
        for record in fetched.records {
            assert!(all.last().is_none_or(|last| last.offset < record.offset), "offsets increase");
            all.push(record);
        }
        next = fetched.next;
    }
    all
}
