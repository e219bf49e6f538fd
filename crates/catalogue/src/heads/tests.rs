use model::{ManualClock, OffsetRange, TimestampNs};
use object_store::{Effect, Fault, Faults, FolderStore, MemoryStore, Operation};

use super::*;
use crate::{BlockEntry, block_key};

const PARTITION: PartitionId = PartitionId::new(2);

fn offset(value: i64) -> Offset {
    Offset::new(value)
}

fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange::new(offset(start), offset(end))
}

fn block(range: OffsetRange) -> BlockEntry {
    BlockEntry {
        key: block_key("log", PARTITION, range).unwrap().to_string(),
        bytes: 100,
        tail_bytes: 10,
        range,
        rows: 3,
        line_bytes: 30,
        time: None,
        tenants: Vec::new(),
        quarantined: 0,
    }
}

fn over(store: Arc<dyn ObjectStore>) -> Heads {
    let clock = Arc::new(ManualClock::new(TimestampNs::from_secs(7)));
    Heads::with(store, "log", BACKOFF, clock, Arc::new(SystemRandom)).unwrap()
}

fn faulty() -> (Arc<Faults>, Heads) {
    let faults = Arc::new(Faults::new(Arc::new(MemoryStore::new()), 1));
    (faults.clone(), over(faults))
}

#[tokio::test]
async fn a_partition_is_led_cut_and_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let heads = over(Arc::new(FolderStore::open(folder.path()).unwrap()));
    assert!(heads.read(PARTITION).await.unwrap().is_none());

    let mut one = heads.acquire(PARTITION, "one", Offset::ZERO).await.unwrap();
    assert_eq!((one.epoch(), one.flushed_to()), (1, Offset::ZERO));
    let first = block(range(0, 10));
    one.publish(range(0, 10), Some(first.clone())).await.unwrap();
    one.publish(range(10, 12), None).await.unwrap();
    one.publish(range(12, 15), None).await.unwrap();

    // Another instance, as in another process.
    let others = over(Arc::new(FolderStore::open(folder.path()).unwrap()));
    let (head, _) = others.read(PARTITION).await.unwrap().unwrap();
    assert_eq!((head.flushed_to, &head.owner[..], &head.blocks[..]), (offset(15), "one", &[first.clone()][..]));
    assert_eq!(head.empty, [range(10, 15)]);

    let mut two = others.acquire(PARTITION, "two", Offset::ZERO).await.unwrap();
    assert_eq!((two.epoch(), two.flushed_to()), (2, offset(15)));
    let text = one.publish(range(15, 20), Some(block(range(15, 20)))).await.unwrap_err().to_string();
    assert_eq!(text, r#"epoch 1 of partition 2 is over: "two" leads it with epoch 2"#);
    two.publish(range(15, 18), Some(block(range(15, 18)))).await.unwrap();
    assert_eq!(heads.read(PARTITION).await.unwrap().unwrap().0.flushed_to, offset(18));
    assert_eq!(heads.partitions().await.unwrap(), [PARTITION]);
    assert_eq!(log_ids(&**heads.store()).await.unwrap(), ["log"]);
}

#[tokio::test]
async fn cuts_that_do_not_fit_are_refused() {
    let heads = over(Arc::new(MemoryStore::new()));
    let mut lead = heads.acquire(PARTITION, "one", Offset::ZERO).await.unwrap();
    lead.publish(range(0, 10), None).await.unwrap();
    let mut check = async |cut: OffsetRange, block: Option<BlockEntry>, expected: &str| {
        let text = lead.publish(cut, block).await.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    };
    check(range(5, 12), None, "must start at 10").await;
    check(range(11, 12), None, "must start at 10").await;
    check(range(10, 10), None, "backwards or empty").await;
    check(range(10, 9), None, "backwards or empty").await;
    check(range(10, 12), Some(block(range(10, 11))), "not the cut [10, 12)").await;
    assert_eq!(lead.flushed_to(), offset(10));
}

#[tokio::test(start_paused = true)]
async fn lost_replies_are_resolved() {
    // The n-th put and the n-th get after it meet these faults.
    let check = async |effects: &[(Operation, Effect)]| {
        let (faults, heads) = faulty();
        let strike = || effects.iter().for_each(|(operation, effect)| faults.add(Fault::once(*operation, *effect)));
        strike();
        let mut lead = heads.acquire(PARTITION, "one", Offset::ZERO).await.unwrap();
        assert_eq!(lead.epoch(), 1, "{effects:?}");
        strike();
        let first = block(range(0, 10));
        lead.publish(range(0, 10), Some(first.clone())).await.unwrap();
        strike();
        lead.publish(range(10, 20), None).await.unwrap();
        let (head, _) = heads.read(PARTITION).await.unwrap().unwrap();
        assert_eq!((head.flushed_to, head.blocks), (offset(20), vec![first]), "{effects:?}");
    };
    use Effect::{ErrorAfter, ErrorBefore};
    use Operation::{Get, Put};
    check(&[]).await;
    check(&[(Put, ErrorBefore)]).await;
    check(&[(Put, ErrorAfter)]).await;
    check(&[(Put, ErrorAfter), (Get, ErrorBefore)]).await;
    check(&[(Put, ErrorBefore), (Get, ErrorBefore)]).await;
    check(&[(Get, ErrorAfter), (Get, ErrorAfter)]).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_in_an_error_and_the_same_cut_may_be_made_again() {
    for effect in [Effect::ErrorBefore, Effect::ErrorAfter] {
        let (faults, heads) = faulty();
        let mut lead = heads.acquire(PARTITION, "one", Offset::ZERO).await.unwrap();
        faults.add(Fault { operations: vec![Operation::Put], times: Some(1), ..Fault::always(effect) });
        faults.add(Fault { operations: vec![Operation::Get], ..Fault::always(Effect::ErrorBefore) });
        faults.add(Fault { operations: vec![Operation::Put], ..Fault::always(Effect::ErrorBefore) });
        let error = lead.publish(range(0, 10), Some(block(range(0, 10)))).await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        faults.clear();
        // Another block for the same range: the one that counts is the one that was listed.
        lead.publish(range(0, 10), Some(block(range(0, 10)))).await.unwrap();
        lead.publish(range(10, 11), None).await.unwrap();
        assert_eq!(lead.head().blocks.len(), 1, "{effect:?}");
        assert_eq!(heads.read(PARTITION).await.unwrap().unwrap().0, *lead.head());
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_another_cut_learns_where_the_head_is() {
    let (faults, heads) = faulty();
    let mut lead = heads.acquire(PARTITION, "one", Offset::ZERO).await.unwrap();
    faults.add(Fault::once(Operation::Put, Effect::ErrorAfter));
    faults.add(Fault::always(Effect::ErrorBefore));
    // The first rule strikes once, but the second one stops the effect: nothing happens.
    assert!(lead.publish(range(0, 10), None).await.unwrap_err().is_unavailable());
    faults.clear();
    lead.publish(range(0, 12), None).await.unwrap();

    faults.add(Fault::once(Operation::Put, Effect::ErrorAfter));
    faults.add(Fault { operations: vec![Operation::Get], ..Fault::always(Effect::ErrorBefore) });
    assert!(lead.publish(range(12, 15), None).await.unwrap_err().is_unavailable());
    faults.clear();
    let error = lead.publish(range(12, 20), None).await.unwrap_err();
    assert!(matches!(error, CatalogueError::NotFlushedTo { flushed_to, .. } if flushed_to == offset(15)), "{error}");
    lead.publish(range(15, 20), None).await.unwrap();
}

#[tokio::test]
async fn what_retention_took_is_recorded() {
    let heads = over(Arc::new(MemoryStore::new()));
    let mut lead = heads.acquire(PARTITION, "one", offset(5)).await.unwrap();
    assert_eq!(lead.flushed_to(), offset(5));
    lead.publish(range(5, 8), Some(block(range(5, 8)))).await.unwrap();
    lead.record_lost(range(8, 9)).await.unwrap();
    assert!(lead.record_lost(range(8, 12)).await.is_err());
    let bounds = LogBounds { first: offset(20), end: Some(offset(30)) };
    let lead = heads.acquire(PARTITION, "two", bounds).await.unwrap();
    let lost: Vec<_> = lead.head().lost.iter().map(|lost| (lost.range, lost.recorded_at)).collect();
    let now = TimestampNs::from_secs(7);
    assert_eq!(lost, [(range(0, 5), now), (range(8, 9), now), (range(9, 20), now)]);
    assert_eq!(lead.head().check(), Ok(()));
}

#[tokio::test]
async fn a_log_that_ends_below_the_head_is_refused() {
    let heads = over(Arc::new(MemoryStore::new()));
    let mut lead = heads.acquire(PARTITION, "one", Offset::ZERO).await.unwrap();
    lead.publish(range(0, 10), None).await.unwrap();
    let bounds = |end| LogBounds { first: Offset::ZERO, end: Some(offset(end)) };
    assert!(heads.acquire(PARTITION, "one", bounds(10)).await.is_ok());
    let error = heads.acquire(PARTITION, "one", bounds(9)).await.err().unwrap();
    assert!(matches!(error, CatalogueError::LogBehindHead { .. }));
    assert!(error.to_string().contains("truncated or made anew"), "{error}");
}

#[tokio::test]
async fn trimming_leaves_the_lead_alone() {
    let heads = over(Arc::new(MemoryStore::new()));
    let mut lead = heads.acquire(PARTITION, "one", Offset::ZERO).await.unwrap();
    for start in [0, 10, 20] {
        lead.publish(range(start, start + 10), Some(block(range(start, start + 10)))).await.unwrap();
    }
    assert!(matches!(heads.trim(PARTITION, offset(15)).await, Err(CatalogueError::Invalid { .. })));
    assert!(matches!(heads.trim(PARTITION, offset(31)).await, Err(CatalogueError::Invalid { .. })));
    heads.trim(PARTITION, offset(20)).await.unwrap();
    heads.trim(PARTITION, offset(10)).await.unwrap();
    lead.publish(range(30, 40), None).await.unwrap();
    let (head, _) = heads.read(PARTITION).await.unwrap().unwrap();
    assert_eq!((head.trimmed_to, head.flushed_to, head.blocks.len(), head.epoch), (offset(20), offset(40), 1, 1));
    heads.trim(PARTITION, offset(40)).await.unwrap();
    lead.publish(range(40, 41), None).await.unwrap();
    assert_eq!(lead.head().blocks.len(), 0);
}

#[tokio::test]
async fn orphans_are_what_no_head_lists() {
    let heads = over(Arc::new(MemoryStore::new()));
    let put = async |range: OffsetRange| {
        let block = block(range);
        let key = ObjectKey::new(&block.key).unwrap();
        heads.store().put(&key, Bytes::new(), PutCondition::IfAbsent).await.unwrap();
        block
    };
    assert!(heads.orphans(PARTITION).await.unwrap().is_empty());
    let mut lead = heads.acquire(PARTITION, "one", Offset::ZERO).await.unwrap();
    let (trimmed, loser, listed) = (put(range(0, 10)).await, put(range(10, 15)).await, put(range(10, 20)).await);
    let _next = put(range(20, 30)).await;
    lead.publish(range(0, 10), Some(trimmed)).await.unwrap();
    lead.publish(range(10, 20), Some(listed)).await.unwrap();
    heads.trim(PARTITION, offset(10)).await.unwrap();
    let orphans: Vec<_> = heads.orphans(PARTITION).await.unwrap().into_iter().map(|key| key.to_string()).collect();
    assert_eq!(orphans, [loser.key]);
}

#[tokio::test]
async fn what_is_no_head_of_this_partition_is_named() {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let heads = over(store.clone());
    heads.acquire(PARTITION, "one", Offset::ZERO).await.unwrap();
    let bytes = store.get(&head_key("log", PARTITION).unwrap()).await.unwrap().bytes;
    let check = async |log_id: &str, partition: u32, bytes: Bytes, expected: &str| {
        let partition = PartitionId::new(partition);
        let key = head_key(log_id, partition).unwrap();
        store.put(&key, bytes, PutCondition::Always).await.unwrap();
        let heads = Heads::new(store.clone(), log_id).unwrap();
        let read = heads.read(partition).await.err().unwrap().to_string();
        let acquired = heads.acquire(partition, "x", Offset::ZERO).await.err().unwrap().to_string();
        assert!(read.contains(expected), "{read}");
        assert_eq!(read, acquired);
    };
    check("log", 3, bytes.clone(), r#"the head of partition 3 of log "log", but is the head of partition 2"#).await;
    check("other", 2, bytes.clone(), r#"of log "other", but is the head of partition 2 of log "log""#).await;
    check("log", 4, bytes.slice(..bytes.len() - 1), "no readable head: its checksum does not fit").await;
    check("log", 5, Bytes::from_static(b"millrace-head 2 cbor ?\n"), "format 2").await;
    assert!(matches!(Heads::new(store.clone(), "a/b"), Err(CatalogueError::LogId(_))));
}

/// Twenty contenders take the lead and publish what they can; the chain stays whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contenders_keep_the_chain_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..20 {
        let heads = over(Arc::new(FolderStore::open(folder.path()).unwrap()));
        tasks.spawn(async move {
            let mut published = 0;
            let Ok(mut lead) = heads.acquire(PARTITION, &format!("{i}"), Offset::ZERO).await else { return 0 };
            for _ in 0..10 {
                let start = lead.flushed_to();
                let cut = OffsetRange::new(start, offset(start.value() + 3));
                match lead.publish(cut, Some(block(cut))).await {
                    Ok(()) => published += 1,
                    Err(CatalogueError::Fenced { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            published
        });
    }
    let published: usize = tasks.join_all().await.into_iter().sum();
    let heads = over(Arc::new(FolderStore::open(folder.path()).unwrap()));
    let (head, _) = heads.read(PARTITION).await.unwrap().unwrap();
    assert_eq!(head.blocks.len(), published);
    assert_eq!(head.check(), Ok(()));
}
