//! Live rows through changes of the fleet.

use std::sync::Arc;
use std::time::Duration;

use control::PartitionRole::{Draining, Following, Leading};
use owner::{CatchUp, Owner, TailBatch, TailRequest, TailStream};
use tokio::time::{Instant, sleep, timeout};

use super::world::*;

fn request() -> TailRequest {
    let matchers = logql::parse_matchers(r#"{app="web"}"#).unwrap();
    TailRequest { tenant: tenant(), matchers: matchers.into(), capacity: 100, catch_up: CatchUp::Never }
}

async fn next(tail: &mut TailStream, count: usize) -> Vec<i64> {
    let mut offsets = Vec::new();
    while offsets.len() < count {
        let batch = timeout(Duration::from_secs(10), tail.recv()).await.expect("rows come").expect("the fleet runs");
        assert_eq!(batch.batch.lines.get(0), batch.offset.to_string().as_bytes());
        offsets.push(batch.offset.value());
    }
    offsets
}

/// Waits until the process has this number of readers.
async fn readers(process: &Process, count: usize) {
    let began = Instant::now();
    loop {
        let open = process.owner.tails.lock().iter().filter(|tail| !tail.is_closed()).count();
        if open == count {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{open} readers, not {count}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn send(process: &Process, offsets: impl IntoIterator<Item = i64>) {
    send_batches(process, offsets.into_iter().map(tail_batch));
}

fn send_replayed(process: &Process, offsets: impl IntoIterator<Item = i64>) {
    send_batches(process, offsets.into_iter().map(|offset| TailBatch { is_replayed: true, ..tail_batch(offset) }));
}

fn send_batches(process: &Process, batches: impl Iterator<Item = TailBatch>) {
    let mut tails = process.owner.tails.lock();
    tails.retain(|tail| !tail.is_closed());
    for batch in batches {
        tails.iter().for_each(|tail| tail.send(batch.clone()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_off_has_no_gap_and_no_repetition() {
    let world = World::new();
    let old = world.start("old", Leading, 1).await;
    let reader = world.reader(1).await;
    let mut tail = reader.fleet.tail(request());
    tail.opened().await;
    readers(&old, 1).await;
    send(&old, [1, 2, 2]);
    assert_eq!(next(&mut tail, 3).await, [1, 2, 2]);

    // The new owner serves, and the old one still does.
    let new = world.start("new", Leading, 2).await;
    readers(&new, 1).await;
    old.control.update(|state| state.partitions = vec![holding(Draining, 1, 0)]);
    send(&new, [4, 5]);
    send(&old, [3, 4]);
    assert_eq!(next(&mut tail, 3).await, [3, 4, 5]);
    send(&new, [6]);
    old.control.update(|state| state.partitions.clear());
    // Rows that the old owner sent before it stopped still come.
    send(&old, [5]);
    assert_eq!(next(&mut tail, 1).await, [6]);
    // The old owner serves nothing any more, so the reader leaves it after a short time.
    readers(&old, 0).await;
    send(&new, [7, 8]);
    assert_eq!(next(&mut tail, 2).await, [7, 8]);
    assert_eq!(tail.dropped(), 0);
    assert!(tail.try_recv().is_none());

    // The owners notice that nobody reads any more.
    drop(tail);
    readers(&new, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_and_the_own_process_count_too() {
    let world = World::new();
    let own = world.start("own", Following, 1).await;
    let leader = world.start("leader", Leading, 1).await;
    let reader = world.reader_with(1, config(), Some(&own)).await;
    let mut tail = reader.fleet.tail(request());
    tail.opened().await;
    readers(&own, 1).await;
    readers(&leader, 1).await;
    send(&leader, [1]);
    assert_eq!(next(&mut tail, 1).await, [1]);
    send(&own, [1, 2, 3]);
    send(&leader, [2, 3]);
    assert_eq!(next(&mut tail, 2).await, [2, 3]);
    // The leader dies. The follower has all rows.
    send(&own, [4]);
    leader.server.as_ref().unwrap().kill();
    assert_eq!(next(&mut tail, 1).await, [4]);
    reader.fleet.stop().await;
    assert!(tail.recv().await.is_none());
    readers(&own, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_is_made_anew() {
    let world = World::new();
    let leader = world.start("leader", Leading, 1).await;
    let reader = world.reader(1).await;
    let mut tail = reader.fleet.tail(request());
    readers(&leader, 1).await;
    send(&leader, [1]);
    assert_eq!(next(&mut tail, 1).await, [1]);
    // Ends the stream from the server's side.
    leader.owner.tails.lock().clear();
    readers(&leader, 1).await;
    // Rows that came meanwhile are replayed.
    send_replayed(&leader, [1, 2]);
    send(&leader, [3]);
    assert_eq!(next(&mut tail, 2).await, [2, 3]);
    // A process that starts later replays rows as well.
    let later = world.start("later", Following, 1).await;
    readers(&later, 1).await;
    assert_eq!(*leader.owner.catch_ups.lock(), [CatchUp::FromNow, CatchUp::FromBefore]);
    assert_eq!(*later.owner.catch_ups.lock(), [CatchUp::FromBefore]);
    // Dropping the fleet ends its tails.
    drop(reader);
    assert!(timeout(Duration::from_secs(10), tail.recv()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_lost_on_the_other_side_are_counted() {
    let world = World::new();
    let leader = world.start("leader", Leading, 1).await;
    let reader = world.reader(1).await;
    let mut tail = reader.fleet.tail(request());
    readers(&leader, 1).await;
    leader.owner.tails.lock()[0].count_dropped(5);
    send(&leader, [1]);
    assert_eq!(next(&mut tail, 1).await, [1]);
    assert_eq!(tail.dropped(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_opens_although_somebody_is_out_of_reach() {
    let world = World::new();
    let _paused = world.start_as("paused", Leading, 1, Reach::Paused).await;
    let _gone = world.start_as("gone", Following, 1, Reach::Gone).await;
    let reader = world.reader(2).await;
    let mut tail = reader.fleet.tail(request());
    timeout(Duration::from_secs(10), tail.opened()).await.expect("in bounded time");
    // There is no process at all.
    let empty = World::new().reader(0).await;
    let mut tail = empty.fleet.tail(request());
    timeout(Duration::from_secs(10), tail.opened()).await.expect("at once");
    drop(Arc::clone(&empty.fleet));
}
