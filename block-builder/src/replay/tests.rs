//! Replay over a log and a store in memory, in every mode: stopped and resumed at every step, while a leader works.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use block::BlockOptions;
use bytes::Bytes;
use catalogue::{BlockEntry, Heads, Leadership, block_key};
use cut::{Cut, CutReason, SegmentWriter};
use log_bus::{FetchLimits, LogBus, MemoryLog};
use model::{
    Clock, Labels, ManualClock, MatchOp, Matcher, Offset, OffsetRange, PartitionId, SeededRandom, TenantId, TimeRange,
    TimestampNs,
};
use object_store::{Effect, Fault, Faults, MemoryStore, ObjectKey, ObjectStore, Operation, PutCondition};
use parking_lot::Mutex;
use runtime::{Backoff, Processors};
use schemas::record::{Record, RecordBuilder};
use tokio_util::sync::CancellationToken;

use super::{blocks::read_bytes, *};
use crate::{encode, upload::block_entry};

const P0: PartitionId = PartitionId::new(0);
const P1: PartitionId = PartitionId::new(1);

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn secs(secs: i64) -> TimestampNs {
    TimestampNs::from_secs(secs)
}

fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange::new(Offset::new(start), Offset::new(end))
}

/// A log, a store, and leaders that cut on command.
struct World {
    clock: Arc<ManualClock>,
    log: Arc<MemoryLog>,
    faults: Arc<Faults>,
    heads: Heads,
    leaders: tokio::sync::Mutex<BTreeMap<PartitionId, Leadership>>,
}

impl World {
    fn new() -> Self {
        Self::with_seed(1)
    }

    fn with_seed(seed: u64) -> Self {
        let clock = Arc::new(ManualClock::new(secs(10_000)));
        let log = Arc::new(MemoryLog::with_clock(2, clock.clone()));
        log.inject(|faults| faults.gap_every = Some(3));
        let faults = Arc::new(Faults::new(Arc::new(MemoryStore::new()), seed));
        let backoff = Backoff { attempts: 30, first: Duration::ZERO, max: Duration::ZERO };
        let heads =
            Heads::with(faults.clone(), &log.log_id().0, backoff, clock.clone(), Arc::new(SeededRandom::new(seed)))
                .unwrap();
        Self { clock, log, faults, heads, leaders: tokio::sync::Mutex::default() }
    }

    /// Appends one record; an entry's time is now, or the one given, in seconds.
    fn push(&self, partition: PartitionId, of: &str, app: &str, lines: &[&str], at: Option<i64>) -> Offset {
        self.clock.set(self.clock.now().plus(Duration::from_secs(1)));
        let mut builder = RecordBuilder::new(&tenant(of), self.clock.now());
        for (i, line) in lines.iter().enumerate() {
            let common = [("level", "info")];
            builder.stream(&Labels::from_pairs([("app", app), ("n", ["even", "odd"][i % 2])]), &common[..i % 3 / 2]);
            let own = [("trace", *line)];
            let ts = at.map_or(self.clock.now(), secs).plus(Duration::from_nanos(7 - i as u64 % 5));
            builder.entry(ts, line.as_bytes(), own[..i % 2].iter().copied());
        }
        let key = Bytes::copy_from_slice(of.as_bytes());
        self.log.append_raw(partition, key, builder.finish(None)).unwrap()
    }

    /// Two tenants, two partitions, `rounds` records of each.
    fn push_many(&self, rounds: usize) {
        for round in 0..rounds {
            for partition in [P0, P1] {
                let lines: Vec<String> = (0..7).map(|i| format!("{partition} round {round} line {i}")).collect();
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                self.push(partition, "one", "web", &lines, None);
                self.push(partition, "two", "db", &lines[..2], None);
            }
        }
    }

    /// The records of a range, except those that `keep` excludes.
    async fn segment(
        &self,
        partition: PartitionId,
        range: OffsetRange,
        keep: impl Fn(Offset) -> bool,
    ) -> SegmentWriter {
        let mut writer = SegmentWriter::new();
        let limits = FetchLimits { bytes_max: 64 << 20, wait_max: Duration::ZERO };
        let fetched = self.log.fetch(partition, range.start, limits).await.unwrap();
        for record in fetched.records.into_iter().filter(|r| range.contains(r.offset) && keep(r.offset)) {
            match Record::decode(record.payload.clone()) {
                Ok(decoded) => writer.append(record.offset, &decoded),
                Err(error) => writer.quarantine(record.offset, record.payload, error.to_string()),
            };
        }
        writer
    }

    async fn put(&self, partition: PartitionId, range: OffsetRange, writer: SegmentWriter) -> BlockEntry {
        let segment = writer.freeze();
        let cut = Cut { partition, range, segment, reason: CutReason::Full, opened: secs(1) };
        let block = encode(&cut, self.heads.log_id(), self.clock.now(), &BlockOptions::default()).unwrap();
        let key = block_key(self.heads.log_id(), partition, range).unwrap();
        while self.faults.put(&key, block.bytes.clone(), PutCondition::Always).await.is_err() {}
        block_entry(&key, block)
    }

    /// Cuts everything up to `end`, or to the end of the log.
    async fn cut(&self, partition: PartitionId, end: Option<Offset>) {
        let mut leaders = self.leaders.lock().await;
        let lead = match leaders.entry(partition) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(self.heads.acquire(partition, "test", Offset::ZERO).await.unwrap()),
        };
        let end = end.unwrap_or(self.log.watermarks(partition).await.unwrap().end);
        let range = OffsetRange::new(lead.flushed_to(), end);
        if range.is_empty() {
            return;
        }
        let writer = self.segment(partition, range, |_| true).await;
        let block = if writer.is_empty() { None } else { Some(self.put(partition, range, writer).await) };
        while let Err(error) = lead.publish(range, block.clone()).await {
            assert!(error.is_unavailable(), "{error}");
        }
    }

    async fn blocks(&self, partition: PartitionId) -> Vec<BlockEntry> {
        self.heads.read(partition).await.unwrap().map(|(head, _)| head.blocks).unwrap_or_default()
    }

    /// Lists another block in place of one, as a defect might.
    async fn replace(&self, partition: PartitionId, old: &BlockEntry, keep: impl Fn(Offset) -> bool) -> BlockEntry {
        let writer = self.segment(partition, old.range, keep).await;
        let new = self.put(partition, old.range, writer).await;
        self.heads.swap_blocks(partition, &[(old.key.clone(), new.clone())]).await.unwrap();
        new
    }

    fn job(&self, mode: Mode) -> Job {
        let window = Window {
            from: secs(0),
            to: secs(1_000_000),
            by: By::AppendTime,
            age_max: None,
            grace: Duration::from_secs(600),
        };
        let tenants = Tenants::These(BTreeSet::from([tenant("one")]));
        Job { mode, tenants, selector: String::new(), window, partitions: Vec::new() }
    }

    async fn state(&self, job: Job) -> State {
        let plans = plan(&*self.log, &self.heads, &job).await.unwrap();
        State::new("r", self.heads.log_id(), job, &plans)
    }

    fn components(&self, keep: Arc<dyn Keep>, target: Option<Arc<dyn Target>>) -> Components {
        Components {
            log: self.log.clone(),
            heads: self.heads.clone(),
            store: self.faults.clone(),
            clock: self.clock.clone(),
            random: Arc::new(SeededRandom::new(1)),
            processors: Processors::default(),
            target,
            keep,
            progress: Arc::default(),
        }
    }

    async fn run(&self, job: Job) -> State {
        let state = self.state(job).await;
        let components = self.components(Arc::new(Book::default()), None);
        run(components, options(), state, Vec::new(), CancellationToken::new()).await.unwrap().state
    }
}

fn options() -> Options {
    let retry = Backoff { attempts: 40, first: Duration::ZERO, max: Duration::ZERO };
    Options { retry, batch_bytes_max: 600, ..Options::default() }
}

fn send() -> Mode {
    Mode::Send { target: "somewhere".to_owned(), as_tenant: tenant("three") }
}

/// Keeps the state in memory. Stops the replay, or fails, at the n-th save.
#[derive(Default)]
struct Book {
    kept: Mutex<Option<State>>,
    times: AtomicUsize,
    stop_at: Option<(usize, CancellationToken)>,
    fail_at: Option<usize>,
}

#[async_trait]
impl Keep for Book {
    async fn keep(&self, state: &State) -> Result<(), Error> {
        let times = self.times.fetch_add(1, Relaxed) + 1;
        if self.fail_at.is_some_and(|at| times >= at) {
            return Err(Error::State { file: "memory".to_owned(), reason: "crashed".to_owned() });
        }
        // The saved state must survive a round trip through a file.
        let text = serde_json::to_string(state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), *state);
        *self.kept.lock() = Some(state.clone());
        if let Some((_, token)) = self.stop_at.as_ref().filter(|(at, _)| times >= *at) {
            token.cancel();
        }
        Ok(())
    }
}

/// A target that sometimes fails.
#[derive(Default)]
struct Taker {
    batches: Mutex<Vec<Batch>>,
    calls: AtomicUsize,
    fail_every: Option<usize>,
    /// Reports a failure although the batch was accepted.
    fail_after: bool,
    refuse: bool,
}

#[async_trait]
impl Target for Taker {
    async fn send(&self, batch: &Batch) -> Result<(), SendError> {
        if self.refuse {
            return Err(SendError::Refused("no".to_owned()));
        }
        let call = self.calls.fetch_add(1, Relaxed) + 1;
        let fails = self.fail_every.is_some_and(|every| call.is_multiple_of(every));
        if !fails || self.fail_after {
            self.batches.lock().push(batch.clone());
        }
        if fails { Err(SendError::Again { reason: "busy".to_owned(), after: Duration::ZERO }) } else { Ok(()) }
    }
}

/// partition, stream, time, line, metadata, offset
type Row = (u32, String, i64, String, Vec<(String, String)>, i64);

/// The entries of batches without repeated batches. A repeat must have the same content.
fn rows(batches: &[Batch]) -> Vec<Row> {
    let mut seen: BTreeMap<String, Batch> = BTreeMap::new();
    let mut rows = Vec::new();
    for batch in batches {
        if let Some(before) = seen.insert(batch.id.clone(), batch.clone()) {
            assert_eq!(before, *batch, "a repeat differs");
            continue;
        }
        rows.extend(batch.entries.iter().map(|entry| {
            let stream = &batch.streams[entry.stream];
            assert_eq!(stream.tenant, tenant("one"));
            let line = String::from_utf8(entry.line.to_vec()).unwrap();
            let nanos = entry.ts.nanos();
            (
                batch.partition.index(),
                stream.labels.to_string(),
                nanos,
                line,
                entry.metadata.clone(),
                entry.offset.value(),
            )
        }));
    }
    rows
}

/// The entries by partition and stream, in the order in which they came.
fn by_stream(rows: &[Row]) -> BTreeMap<(u32, String), Vec<Row>> {
    let mut streams: BTreeMap<_, Vec<Row>> = BTreeMap::new();
    for row in rows {
        streams.entry((row.0, row.1.clone())).or_default().push(row.clone());
    }
    streams
}

/// The entries of tenant one in the log, by stream, in log order.
async fn expected(world: &World) -> BTreeMap<(u32, String), Vec<Row>> {
    let mut rows = Vec::new();
    for partition in [P0, P1] {
        let held = world.log.watermarks(partition).await.unwrap();
        let limits = FetchLimits { bytes_max: 64 << 20, wait_max: Duration::ZERO };
        for record in world.log.fetch(partition, held.first, limits).await.unwrap().records {
            let Ok(decoded) = Record::decode(record.payload) else { continue };
            if *decoded.tenant() != tenant("one") {
                continue;
            }
            for slice in decoded.streams() {
                for row in slice.rows() {
                    let mut metadata: BTreeMap<String, String> =
                        slice.common_metadata().iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
                    metadata.extend(row.metadata().map(|(n, v)| (n.to_owned(), v.to_owned())));
                    let line = String::from_utf8(row.line.to_vec()).unwrap();
                    let labels = slice.labels().to_string();
                    let metadata = metadata.into_iter().collect();
                    rows.push((partition.index(), labels, row.ts.nanos(), line, metadata, record.offset.value()));
                }
            }
        }
    }
    by_stream(&rows)
}

#[tokio::test]
async fn blocks_that_hold_what_the_log_holds_are_the_same() {
    let world = World::new();
    world.push_many(6);
    world.log.append_raw(P0, Bytes::from_static(b"one"), Bytes::from_static(b"no record")).unwrap();
    for partition in [P0, P1] {
        world.cut(partition, Some(Offset::new(5))).await;
        world.cut(partition, None).await;
    }
    world.push_many(2);
    for tenants in [world.job(Mode::Verify).tenants, Tenants::All] {
        let all = tenants == Tenants::All;
        let state = world.run(Job { tenants, ..world.job(Mode::Verify) }).await;
        assert!(state.finished);
        assert_eq!(state.partitions.iter().flat_map(|p| &p.differences).collect::<Vec<_>>(), Vec::<&Difference>::new());
        let records = if all { 2 } else { 1 };
        let entries = if all { 9 } else { 7 };
        let (read, waiting) = (state.read(), state.not_in_blocks());
        assert_eq!((read.records, read.entries), (8 * 2 * records, 8 * 2 * entries));
        assert_eq!((waiting.records, waiting.entries), (2 * 2 * records, 2 * 2 * entries));
        assert_eq!(state.partitions.iter().map(|p| (p.steps, p.undecodable)).collect::<Vec<_>>(), [(2, 1), (2, 0)]);
    }
}

#[tokio::test]
async fn differences_name_partition_offsets_and_stream() {
    let world = World::new();
    world.push_many(6);
    world.cut(P0, Some(Offset::new(5))).await;
    world.cut(P0, None).await;
    world.cut(P1, None).await;
    let good = world.blocks(P0).await;
    let check = async |tenants: Tenants, expected: &[&str]| {
        let state = world.run(Job { tenants, ..world.job(Mode::Verify) }).await;
        let found: Vec<String> =
            state.partitions.iter().flat_map(|p| &p.differences).map(|difference| difference.to_string()).collect();
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            let begins = expected.split('…').all(|part| found.contains(part));
            assert!(begins, "{found} should tell {expected}");
        }
        assert_eq!(state.differences(), expected.len() as u64);
    };
    let one = || world.job(Mode::Verify).tenants;
    check(one(), &[]).await;

    // A record of tenant one is missing in the second block.
    let missing = 6;
    let limits = FetchLimits { bytes_max: 1, wait_max: Duration::ZERO };
    let record = world.log.fetch(P0, Offset::new(missing), limits).await.unwrap().records.remove(0);
    assert_eq!((record.offset, &record.key[..]), (Offset::new(missing), &b"one"[..]));
    let bad = world.replace(P0, &good[1], |offset| offset.value() != missing).await;
    let lines = [
        "partition 0, offsets [6, 7), tenant one, {app=\"web\", n=\"even\"}: the log holds 4 entries of …, the block 0 of 0 bytes (data/",
        "partition 0, offsets [6, 7), tenant one, {app=\"web\", n=\"odd\"}: the log holds 3 entries of …, the block 0 of 0 bytes (data/",
    ];
    check(one(), &lines).await;
    check(Tenants::All, &lines).await;
    check(Tenants::These(BTreeSet::from([tenant("two")])), &[]).await;

    // The counts in the head differ from the block.
    let listed = BlockEntry { key: bad.key.clone(), ..good[1].clone() };
    let moved = ObjectKey::new(&format!("{}x", bad.key)).unwrap();
    let bytes = world.faults.get(&ObjectKey::new(&bad.key).unwrap()).await.unwrap().bytes;
    world.faults.put(&moved, bytes, PutCondition::Always).await.unwrap();
    let listed = BlockEntry { key: moved.to_string(), bytes: bad.bytes, tail_bytes: bad.tail_bytes, ..listed };
    world.heads.swap_blocks(P0, &[(bad.key.clone(), listed.clone())]).await.unwrap();
    check(one(), &[lines[0], lines[1], "the head lists other tenants or counts"]).await;
    let again = world.replace(P0, &listed, |_| true).await;
    check(one(), &[]).await;

    // A byte of a page changes; then the object is gone.
    let key = ObjectKey::new(&again.key).unwrap();
    let mut bytes = world.faults.get(&key).await.unwrap().bytes.to_vec();
    bytes[10] ^= 1;
    world.faults.put(&key, bytes.into(), PutCondition::Always).await.unwrap();
    let place = format!("partition 0, offsets [5, {}): the block cannot be read: block is damaged", again.range.end);
    check(Tenants::All, &[&place]).await;
    world.faults.delete(&key).await.unwrap();
    check(one(), &["the block cannot be read: the block is gone"]).await;
}

#[tokio::test]
async fn windows_select_offsets_and_entries() {
    let world = World::new();
    // An old entry comes at 10,001 s, a current one at 10,002 s, and another old one at 10,003 s.
    world.push(P0, "one", "web", &["late a"], Some(9_000));
    world.push(P0, "one", "web", &["now b"], None);
    world.push(P0, "one", "web", &["late c"], Some(9_001));
    world.push(P0, "one", "db", &["late d"], Some(9_002));
    world.cut(P0, None).await;
    world.push(P0, "one", "web", &["late e"], Some(9_003));
    let check = async |window: Window, matchers: Vec<Matcher>, expected: &[&str], not_in_blocks: u64| {
        let job = Job { window: window.clone(), ..world.job(send()) };
        let taker = Arc::new(Taker::default());
        let components = world.components(Arc::new(Book::default()), Some(taker.clone()));
        let state = world.state(job).await;
        run(components, options(), state, matchers.clone(), CancellationToken::new()).await.unwrap();
        let lines: Vec<String> = rows(&taker.batches.lock()).into_iter().map(|row| row.3).collect();
        assert_eq!(lines, expected, "{window:?}");
        let state = world.state(Job { window, ..world.job(Mode::Verify) }).await;
        let components = world.components(Arc::new(Book::default()), None);
        let found = run(components, options(), state, matchers, CancellationToken::new()).await.unwrap().state;
        assert_eq!((found.differences(), found.read().entries), (0, expected.len() as u64));
        assert_eq!(found.not_in_blocks().entries, not_in_blocks);
    };
    let window = |by, from, to, age_max: Option<u64>| Window {
        from: secs(from),
        to: secs(to),
        by,
        age_max: age_max.map(Duration::from_secs),
        grace: Duration::from_secs(600),
    };
    let web = vec![Matcher::new("app", MatchOp::Equal, "web").unwrap()];
    let all = ["late a", "now b", "late c", "late d", "late e"];
    check(window(By::AppendTime, 0, 20_000, None), vec![], &all, 1).await;
    check(window(By::AppendTime, 10_002, 10_004, None), vec![], &all[1..3], 0).await;
    check(window(By::AppendTime, 9_000, 9_100, None), vec![], &[], 0).await;
    check(window(By::EntryTime, 9_000, 9_100, None), vec![], &["late a", "late c", "late d", "late e"], 1).await;
    check(window(By::EntryTime, 9_001, 9_003, Some(1_000)), vec![], &["late c", "late d"], 0).await;
    check(window(By::EntryTime, 9_000, 9_003, Some(1_000)), web, &["late a", "late c"], 0).await;
    // With an age limit that these entries exceed, the search ends before it finds them, as the limit says.
    check(window(By::EntryTime, 9_000, 9_003, Some(1)), vec![], &[], 0).await;
    check(window(By::EntryTime, 10_002, 10_003, Some(1)), vec![], &["now b"], 0).await;
}

#[tokio::test]
async fn rebuilt_blocks_take_the_place_of_the_old_ones() {
    let world = World::new();
    world.push_many(6);
    for partition in [P0, P1] {
        world.cut(partition, Some(Offset::new(5))).await;
        world.cut(partition, Some(Offset::new(9))).await;
        world.cut(partition, None).await;
    }
    let before = world.blocks(P0).await;
    let bad = world.replace(P0, &before[1], |offset| offset.value() != 6).await;
    let damaged = before[2].key.clone();
    world.faults.put(&ObjectKey::new(&damaged).unwrap(), Bytes::from_static(b"x"), PutCondition::Always).await.unwrap();
    // The log no longer holds all of the first block's range.
    world.log.trim(P0, Offset::new(2));

    let job = world.job(Mode::Rebuild);
    let plans = plan(&*world.log, &world.heads, &job).await.unwrap();
    let estimate = plans[0].estimate(&job);
    // The head does not list tenant one for the block that lacks its record. The log shows that it should.
    assert_eq!((estimate.blocks, estimate.blocks_not_in_log, plans[0].cut_off), (2, 1, true));
    assert!(estimate.entries > 0 && estimate.line_bytes > 0 && estimate.unflushed_records_max == 0);

    let state = world.run(job).await;
    assert!(state.finished);
    let p0 = &state.partitions[0];
    let left: Vec<_> = p0.left.iter().map(|left| (&left.key, left.why.contains("no longer holds"))).collect();
    assert_eq!(left, [(&before[0].key, true)]);
    let old: Vec<_> = p0.rebuilt.iter().map(|made| (&made.old, &made.old_block)).collect();
    assert_eq!(old[0].0, &bad.key);
    assert!(matches!(old[0].1, OldBlock::Different(2, found) if found[0].range == range(6, 7)), "{old:?}");
    assert_eq!(old[1].0, &damaged);
    assert!(matches!(old[1].1, OldBlock::Unreadable(_)), "{old:?}");
    assert!(state.partitions[1].rebuilt.iter().all(|made| made.old_block == OldBlock::Same));

    let after = world.blocks(P0).await;
    assert_eq!(after.iter().map(|b| b.range).collect::<Vec<_>>(), before.iter().map(|b| b.range).collect::<Vec<_>>());
    assert_eq!(after[0], before[0]);
    assert_eq!(after[1], p0.rebuilt[0].new);
    assert!(after[2].key != damaged && after[2].rows == before[2].rows);
    // Readers with older plans still find the old blocks.
    assert!(world.faults.get(&ObjectKey::new(&bad.key).unwrap()).await.is_ok());
    let verified = world.run(world.job(Mode::Verify)).await;
    assert_eq!((verified.differences(), verified.partitions[0].cut_off), (0, true));

    // The leader does not know of the swap, and goes on.
    world.push_many(1);
    world.cut(P0, None).await;
    assert_eq!(world.run(world.job(Mode::Verify)).await.differences(), 0);
}

/// Blocks are rebuilt while leaders cut, heads are trimmed, and the store fails sometimes. Afterwards every block holds what
/// the log holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_rebuilt_beside_a_live_leader() {
    for seed in 0..6 {
        let world = Arc::new(World::with_seed(seed));
        world.push_many(2);
        world.cut(P0, None).await;
        let strike = |operations: &[Operation], effect, probability| {
            world.faults.add(Fault { operations: operations.to_vec(), probability, ..Fault::always(effect) });
        };
        strike(&[Operation::Put], Effect::ErrorBefore, 0.1);
        strike(&[Operation::Put], Effect::ErrorAfter, 0.1);
        strike(&[Operation::Get], Effect::ErrorBefore, 0.05);
        let cutting = tokio::spawn({
            let world = world.clone();
            async move {
                for round in 0..30 {
                    world.push_many(1);
                    world.cut(P0, None).await;
                    world.cut(P1, None).await;
                    if round % 10 == 9 {
                        let to = world.blocks(P1).await[round / 10].range.end;
                        world.heads.trim(P1, to).await.unwrap();
                    }
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut rebuilt = 0;
        while !cutting.is_finished() {
            let state = world.run(Job { tenants: Tenants::All, ..world.job(Mode::Rebuild) }).await;
            assert!(state.finished);
            rebuilt += state.partitions.iter().map(|p| p.rebuilt.len()).sum::<usize>();
        }
        cutting.await.unwrap();
        world.faults.clear();
        assert!(rebuilt > 0);
        let state = world.run(Job { tenants: Tenants::All, ..world.job(Mode::Verify) }).await;
        let found: Vec<_> = state.partitions.iter().flat_map(|p| &p.differences).collect();
        assert!(found.is_empty(), "seed {seed}: {found:#?}");
        assert_eq!(state.not_in_blocks().entries, 0);
        assert_eq!(world.heads.read(P0).await.unwrap().unwrap().0.check(), Ok(()));
        assert_eq!(world.heads.read(P1).await.unwrap().unwrap().0.epoch, 1);
    }
}

#[tokio::test]
async fn everything_is_sent_once_in_the_order_of_each_stream() {
    let world = World::new();
    world.push_many(10);
    world.cut(P0, Some(Offset::new(9))).await;
    let expected = expected(&world).await;
    for (fail_every, fail_after) in [(None, false), (Some(3), false), (Some(2), true)] {
        let taker = Arc::new(Taker { fail_every, fail_after, ..Taker::default() });
        let components = world.components(Arc::new(Book::default()), Some(taker.clone()));
        let state = world.state(world.job(send())).await;
        let done = run(components, options(), state, Vec::new(), CancellationToken::new()).await.unwrap().state;
        let batches = taker.batches.lock().clone();
        assert!(batches.iter().all(|batch| batch.bytes <= 600 && !batch.entries.is_empty()));
        assert_eq!(by_stream(&rows(&batches)), expected, "{fail_every:?}");
        assert!(done.finished);
        let entries: u64 = expected.values().map(|rows| rows.len() as u64).sum();
        assert_eq!((done.read().entries, done.read().records), (entries, 20));
        let steps: u64 = done.partitions.iter().map(|p| p.steps).sum();
        assert_eq!(steps, batches.iter().map(|b| &b.id).collect::<BTreeSet<_>>().len() as u64);
    }
    let refusing = Arc::new(Taker { refuse: true, ..Taker::default() });
    let components = world.components(Arc::new(Book::default()), Some(refusing));
    let state = world.state(world.job(send())).await;
    let text = run(components, options(), state, Vec::new(), CancellationToken::new()).await.unwrap_err().to_string();
    assert!(text.contains("batch r-") && text.ends_with(": no"), "{text}");
    let busy = Arc::new(Taker { fail_every: Some(1), ..Taker::default() });
    let components = world.components(Arc::new(Book::default()), Some(busy));
    let state = world.state(world.job(send())).await;
    let text = run(components, options(), state, Vec::new(), CancellationToken::new()).await.unwrap_err().to_string();
    assert!(text.contains("gave up after 40 tries: busy"), "{text}");
}

/// Runs a job to its end, interrupted after every `every` steps: by a stop, or by a crash that loses the last step.
async fn in_pieces(world: &World, job: Job, every: usize, crash: bool, taker: &Arc<Taker>) -> (State, usize) {
    let mut state = world.state(job).await;
    for runs in 1..1000 {
        let stop = CancellationToken::new();
        let book = Arc::new(Book {
            kept: Mutex::new(Some(state.clone())),
            stop_at: (!crash).then(|| (every, stop.clone())),
            fail_at: crash.then_some(every + 1),
            ..Book::default()
        });
        let components = world.components(book.clone(), Some(taker.clone()));
        let options = Options { parallel: 1, ..options() };
        let outcome = run(components, options, state, Vec::new(), stop).await;
        assert_eq!(outcome.is_err(), crash && book.times.load(Relaxed) > every);
        state = book.kept.lock().clone().unwrap();
        if state.finished {
            return (state, runs);
        }
    }
    panic!("it does not come to an end");
}

#[tokio::test]
async fn a_replay_is_stopped_and_resumed_at_every_step() {
    let world = World::new();
    world.push_many(8);
    for partition in [P0, P1] {
        world.cut(partition, Some(Offset::new(5))).await;
        world.cut(partition, Some(Offset::new(11))).await;
        world.cut(partition, None).await;
    }
    let bad = world.blocks(P1).await.remove(1);
    world.replace(P1, &bad, |offset| offset.value() != 6).await;
    let expected = expected(&world).await;
    let whole = world.run(world.job(Mode::Verify)).await;
    assert!(whole.differences() > 0);
    for every in [1, 2, 3, 5, 8] {
        for crash in [false, true] {
            let taker = Arc::new(Taker::default());
            let (state, runs) = in_pieces(&world, world.job(Mode::Verify), every, crash, &taker).await;
            assert_eq!(state, whole, "{every} {crash}");
            assert!(runs > 1 || every == 8);

            let (state, runs) = in_pieces(&world, world.job(send()), every, crash, &taker).await;
            let batches = taker.batches.lock().clone();
            assert_eq!(by_stream(&rows(&batches)), expected, "{every} {crash}");
            let distinct = batches.iter().map(|batch| &batch.id).collect::<BTreeSet<_>>().len();
            let repeats = batches.len() - distinct;
            assert!(repeats <= if crash { runs } else { 0 }, "{repeats} repeats in {runs} runs");
            assert_eq!(state.read().entries, expected.values().map(|rows| rows.len() as u64).sum::<u64>());
        }
    }
    for every in [1, 2, 3, 5] {
        for crash in [false, true] {
            let before = world.blocks(P0).await;
            let taker = Arc::new(Taker::default());
            let (state, _) =
                in_pieces(&world, world.job(Mode::Rebuild), every + usize::from(crash), crash, &taker).await;
            assert!(state.partitions.iter().all(|p| p.rebuilt.len() == 3 && p.left.is_empty()), "{state:#?}");
            let after = world.blocks(P0).await;
            assert!(after.iter().zip(&before).all(|(a, b)| a.key != b.key && a.range == b.range && a.rows == b.rows));
        }
    }
    assert_eq!(world.run(world.job(Mode::Verify)).await.differences(), 0);
}

#[tokio::test]
async fn a_block_that_was_collected_before_it_was_listed_is_made_again() {
    let world = World::new();
    world.push_many(4);
    world.cut(P0, Some(Offset::new(5))).await;
    world.cut(P0, None).await;
    let stop = CancellationToken::new();
    let book = Arc::new(Book { stop_at: Some((1, stop.clone())), ..Book::default() });
    let state = world.state(Job { partitions: vec![P0], ..world.job(Mode::Rebuild) }).await;
    let components = world.components(book, None);
    let stopped = run(components.clone(), options(), state, Vec::new(), stop).await.unwrap().state;
    assert!(!stopped.finished && stopped.partitions[0].rebuilt.len() == 1);
    let gone = ObjectKey::new(&stopped.partitions[0].rebuilt[0].new.key).unwrap();
    world.faults.delete(&gone).await.unwrap();
    let components = world.components(Arc::new(Book::default()), None);
    let done = run(components, options(), stopped, Vec::new(), CancellationToken::new()).await.unwrap().state;
    assert!(done.finished);
    assert!(world.blocks(P0).await.iter().all(|block| block.key != gone.as_str()));
    assert_eq!(world.run(world.job(Mode::Verify)).await.differences(), 0);
}

#[tokio::test]
async fn ranges_that_cannot_be_compared_are_listed() {
    let world = World::new();
    world.log.trim(P0, Offset::ZERO);
    world.push_many(4);
    let lead = world.heads.acquire(P0, "test", Offset::new(3)).await.unwrap();
    world.leaders.lock().await.insert(P0, lead);
    world.cut(P0, Some(Offset::new(7))).await;
    world.cut(P0, None).await;
    let trimmed = world.blocks(P0).await[0].range.end;
    let check = async |expected: &[(OffsetRange, &str)]| {
        let state = world.run(Job { partitions: vec![P0], ..world.job(Mode::Verify) }).await;
        let found = &state.partitions[0].not_compared;
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, (range, why)) in found.iter().zip(expected) {
            assert!(found.range == *range && found.why.contains(why), "{found:?}");
        }
        assert_eq!(state.differences(), 0);
    };
    check(&[(range(0, 3), "the head records them as lost")]).await;
    world.heads.trim(P0, trimmed).await.unwrap();
    check(&[(OffsetRange::new(Offset::ZERO, trimmed), "compacted")]).await;
}

#[tokio::test]
async fn jobs_that_cannot_work_are_refused() {
    let world = World::new();
    world.push_many(1);
    let refused = async |job: Job| plan(&*world.log, &world.heads, &job).await.unwrap_err().to_string();
    let job = world.job(Mode::Verify);
    let text = refused(Job { partitions: vec![PartitionId::new(2)], ..job.clone() }).await;
    assert_eq!(text, "there is no partition 2: the log has 2, counted from 0");
    let window = Window { from: secs(5), to: secs(5), ..job.window.clone() };
    assert_eq!(refused(Job { window, ..job.clone() }).await, "the window ends before it begins");
    let other = State { log_id: "other".to_owned(), ..world.state(job).await };
    let components = world.components(Arc::new(Book::default()), None);
    let text = run(components, options(), other, Vec::new(), CancellationToken::new()).await.unwrap_err().to_string();
    assert!(text.starts_with("the state belongs to the log other"), "{text}");
    let components = world.components(Arc::new(Book::default()), None);
    let state = world.state(world.job(send())).await;
    assert!(run(components, options(), state, Vec::new(), CancellationToken::new()).await.is_err());
}

#[tokio::test]
async fn a_log_that_fails_for_a_while_is_asked_again() {
    let world = World::new();
    world.push_many(3);
    world.cut(P0, None).await;
    world.cut(P1, None).await;
    let state = world.state(world.job(Mode::Verify)).await;
    world.log.inject(|faults| faults.fail_fetches = 5);
    let components = world.components(Arc::new(Book::default()), None);
    let progress = components.progress.clone();
    let done = run(components, options(), state.clone(), Vec::new(), CancellationToken::new()).await.unwrap().state;
    assert_eq!((done.finished, done.differences(), Progress::get(&progress.retries)), (true, 0, 5));
    assert_eq!(Progress::get(&progress.offsets_done), Progress::get(&progress.offsets_total));
    // If retention overtakes the reader, it fails instead of comparing less.
    world.log.trim(P0, Offset::new(4));
    let components = world.components(Arc::new(Book::default()), None);
    let text = run(components, options(), state, Vec::new(), CancellationToken::new()).await.unwrap_err().to_string();
    assert!(text.contains("partition 0") && text.contains("asked for 0"), "{text}");
}

#[tokio::test]
async fn a_state_file_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = StateFile::new(folder.path().join("state.json"));
    let world = World::new();
    world.push_many(2);
    world.cut(P0, None).await;
    let state = world.run(world.job(Mode::Rebuild)).await;
    file.keep(&state).await.unwrap();
    assert_eq!(State::load(file.path()).unwrap(), state);
    std::fs::write(file.path(), serde_json::to_vec(&State { format: 9, ..state }).unwrap()).unwrap();
    assert!(State::load(file.path()).unwrap_err().to_string().contains("format 9"));
    std::fs::write(file.path(), "{").unwrap();
    assert!(State::load(file.path()).unwrap_err().to_string().contains("cannot be read"));
    let nowhere = StateFile::new(folder.path().join("no/such/folder"));
    assert!(nowhere.keep(&world.state(world.job(Mode::Verify)).await).await.is_err());
}

#[tokio::test]
async fn the_last_nanosecond_of_time_is_compared_too() {
    let world = World::new();
    let mut builder = RecordBuilder::new(&tenant("one"), secs(1));
    builder.stream(&Labels::from_pairs([("a", "b")]), &[]);
    builder.entry(TimestampNs::MAX, b"last", std::iter::empty());
    world.log.append_raw(P0, Bytes::from_static(b"one"), builder.finish(None)).unwrap();
    world.cut(P0, None).await;
    let state = world.run(world.job(Mode::Verify)).await;
    assert_eq!((state.differences(), state.read().entries), (0, 1));
    let block = &world.blocks(P0).await[0];
    let bytes = world.faults.get(&ObjectKey::new(&block.key).unwrap()).await.unwrap().bytes;
    assert_eq!(read_bytes(&bytes, block.range).unwrap().contents.amount.entries, 1);
    assert!(!TimeRange::ALL.contains(TimestampNs::MAX));
}
