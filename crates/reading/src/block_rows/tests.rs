use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use block::{BlockOptions, BlockWriter, EncodedBlock, Provenance, Row};
use model::{Labels, Offset, OffsetRange, PartitionId, SeededRandom, TenantId, TimestampNs};
use object_store::{Effect, Fault, Faults, MemoryStore, PutCondition};
use runtime::Processors;

use super::*;

const ROWS: i64 = 500;

/// A block of two streams with rows of offsets 0 to 499, and one record that could not be decoded.
fn block() -> EncodedBlock {
    let range = OffsetRange::new(Offset::ZERO, Offset::new(ROWS + 1));
    let (partition, created) = (PartitionId::new(0), TimestampNs::from_secs(1));
    let provenance = Provenance { log_id: "log".to_owned(), partition, range, created };
    let options = BlockOptions { row_group_rows_max: 64, line_page_bytes: 256, ..BlockOptions::default() };
    let mut writer = BlockWriter::new(options, provenance, &[]).expect("a writer");
    writer.begin_tenant(&TenantId::new("a").expect("a name")).expect("the first tenant");
    for app in ["db", "web"] {
        writer.begin_stream(&Labels::from_pairs([("app", app)])).expect("ascending");
        for offset in 0..ROWS {
            let (ts, line) = (TimestampNs::from_secs(offset), format!("{app} {offset}"));
            let row = Row { ts, offset: Offset::new(offset), line: line.as_bytes(), metadata: &[] };
            writer.append(row).expect("in order");
        }
    }
    writer.quarantine(Offset::new(ROWS), b"raw", "damaged");
    writer.finish().expect("a block")
}

/// Lines in the order in which they come.
#[derive(Default)]
struct Lines(Vec<(u32, String)>);

impl RowVisitor for Lines {
    fn visit(&mut self, stream: u32, rows: &Batch) {
        let line = |i: usize| (stream, String::from_utf8_lossy(rows.lines.get(i)).into_owned());
        self.0.extend((0..rows.len()).map(line));
    }
}

fn expected(streams: &[u32]) -> Vec<(u32, String)> {
    let of_stream = |stream: u32| {
        let app = ["db", "web"][stream as usize];
        (0..ROWS).map(move |offset| (stream, format!("{app} {offset}")))
    };
    streams.iter().flat_map(|stream| of_stream(*stream)).collect()
}

struct World {
    store: Arc<MemoryStore>,
    faults: Faults,
    processors: Share,
    retries: AtomicU32,
    address: BlockAddress,
}

impl World {
    async fn new() -> Self {
        let EncodedBlock { bytes: file, summary } = block();
        let address = BlockAddress { key: "a/block".to_owned(), bytes: summary.bytes, tail_bytes: summary.tail_bytes };
        let store = Arc::new(MemoryStore::new());
        let key = ObjectKey::new(&address.key).expect("a key");
        store.put(&key, file, PutCondition::IfAbsent).await.expect("stored");
        let faults = Faults::new(store.clone(), 1);
        let processors = Processors::new(NonZeroUsize::MIN).share("test", 0);
        Self { store, faults, processors, retries: AtomicU32::new(0), address }
    }

    async fn read(&self, streams: Vec<u32>) -> Result<(Lines, Vec<QuarantinedRecord>), Error> {
        let random = SeededRandom::new(1);
        let count = || {
            self.retries.fetch_add(1, Ordering::Relaxed);
        };
        let backoff = Backoff { attempts: 3, first: Duration::from_millis(1), max: Duration::from_millis(2) };
        let blocks = WholeBlocks {
            store: &self.faults,
            processors: &self.processors,
            backoff,
            random: &random,
            on_retry: &count,
        };
        let index = blocks.open(&self.address).await?;
        let rows = blocks.rows(&self.address, &index, streams, Needs::everything(), Lines::default()).await?;
        Ok((rows, blocks.quarantined(&self.address, &index).await?))
    }
}

#[tokio::test]
async fn all_rows_of_chosen_streams_come_in_order() {
    let world = World::new().await;
    for streams in [vec![], vec![1], vec![0, 1]] {
        let (lines, quarantined) = world.read(streams.clone()).await.expect("read");
        assert_eq!(lines.0, expected(&streams));
        assert_eq!(quarantined.iter().map(|record| record.offset).collect::<Vec<_>>(), [Offset::new(ROWS)]);
    }
    assert_eq!(world.retries.load(Ordering::Relaxed), 0);
}

#[test]
fn blocks_in_memory_have_the_same_rows() {
    let file = block().bytes;
    let index = BlockIndex::open(file.len() as u64, file.clone()).expect("a block");
    let lines = rows_in_memory(&file, &index, vec![0, 1], Needs::everything(), Lines::default()).expect("read");
    assert_eq!(lines.0, expected(&[0, 1]));
}

#[tokio::test]
async fn an_unavailable_store_is_tried_again() {
    let world = World::new().await;
    world.faults.add(Fault { times: Some(2), ..Fault::always(Effect::ErrorBefore) });
    let (lines, _) = world.read(vec![0]).await.expect("read");
    assert_eq!(lines.0, expected(&[0]));
    assert_eq!(world.retries.load(Ordering::Relaxed), 2);

    world.faults.add(Fault::always(Effect::ErrorBefore));
    let error = world.read(vec![0]).await.err().expect("the store does not come back");
    assert!(matches!(error, Error::Fetch { source: StoreError::Unavailable { .. }, .. }), "{error}");
    assert_eq!(world.retries.load(Ordering::Relaxed), 4, "three tries");
}

#[tokio::test]
async fn blocks_that_are_gone_or_damaged_are_told_apart() {
    let mut world = World::new().await;
    let good = world.address.clone();
    world.address.bytes -= 1;
    let error = world.read(vec![0]).await.err().expect("a wrong length");
    assert!(error.is_block_damaged() && !error.is_block_gone(), "{error}");
    world.address = good;
    let key = ObjectKey::new(&world.address.key).expect("a key");
    world.store.delete(&key).await.expect("deleted");
    let error = world.read(vec![0]).await.err().expect("it is gone");
    assert!(error.is_block_gone() && !error.is_block_damaged(), "{error}");
}
