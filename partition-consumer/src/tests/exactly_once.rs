//! Seeded chaos: pushes, reads, cuts, crashes, take-overs and faults of the store. At every moment a read returns each row
//! below its bound exactly once. At the end blocks have each acknowledged row exactly once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use log_bus::LogBus;
use model::{Clock, Offset, PartitionId};
use object_store::{Effect, Fault, Operation};
use owner::Owner;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::world::{Process, World, all_partitions, small};
use crate::{Config, Consumer};

const PARTITIONS: u32 = 2;

/// The process to ask, and the number of take-overs so far. After a take-over an answer may reach less far than before.
type Current = Mutex<(Arc<Consumer>, u64)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_row_once_at_every_moment() {
    let seed =
        std::env::var("MILLRACE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let rounds: u64 = std::env::var("MILLRACE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    for round in 0..rounds {
        let seed = seed.wrapping_add(round);
        println!("MILLRACE_SEED={seed} MILLRACE_ROUNDS=1");
        run(seed, 250).await;
    }
}

async fn run(seed: u64, steps: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let world = World::new(PARTITIONS, seed);
    world.log.inject(|faults| faults.gap_every = Some(5));
    let small = || Config { cut_age: Duration::from_millis(200).into(), ..small() };
    let mut process = world.start("first", small(), all_partitions(PARTITIONS));
    let mut old: Option<Process> = None;
    let current = Arc::new(Mutex::new((process.consumer.clone(), 0)));
    let done = CancellationToken::new();
    let readers: Vec<_> = all_partitions(PARTITIONS)
        .into_iter()
        .map(|partition| tokio::spawn(read_on(world.clone(), current.clone(), partition, done.clone())))
        .collect();
    for step in 0..steps {
        let partition = PartitionId::new(rng.u32(..PARTITIONS));
        match rng.u8(..100) {
            0..=59 => {
                let rows = rng.usize(1..40);
                world.push(&mut rng, partition, rows, 300).await;
            }
            60..=63 => world.push_garbage(&mut rng, partition),
            64..=66 => world.log.skip(partition, rng.u32(1..4)),
            // Cuts must not depend on the time of day, even if it jumps.
            67..=69 => {
                let jump = Duration::from_secs(rng.u64(..200_000));
                let now = world.clock.now();
                world.clock.set(if rng.bool() { now.plus(jump) } else { now.minus(jump) });
            }
            70..=73 => {
                let consumer = process.consumer.clone();
                let flush = async move { consumer.flush().await };
                let _ = tokio::time::timeout(Duration::from_millis(rng.u64(..100)), flush).await;
            }
            74..=78 => {
                world.store.clear();
                let effects = [Effect::ErrorBefore, Effect::ErrorAfter, Effect::Delay(Duration::from_millis(3))];
                for effect in effects {
                    if rng.bool() {
                        let operations = vec![Operation::Put, Operation::Get];
                        world.store.add(Fault { operations, probability: rng.f64() * 0.7, ..Fault::always(effect) });
                    }
                }
            }
            79..=82 => world.store.clear(),
            83..=84 => world.log.inject(|faults| faults.fail_fetches += 3),
            85..=86 => world.log.inject(|faults| faults.fail_appends_after += 1),
            87..=91 => {
                process.kill();
                if let Some(old) = old.take() {
                    old.kill();
                }
                process = world.start(&format!("{step}"), small(), all_partitions(PARTITIONS));
                current.lock().0 = process.consumer.clone();
            }
            92..=93 => {
                // Another process takes over while this one still runs without knowing it.
                if let Some(old) = old.take() {
                    old.kill();
                }
                let next = world.start(&format!("{step}"), small(), all_partitions(PARTITIONS));
                take_over(&current, &next);
                old = Some(std::mem::replace(&mut process, next));
            }
            94 => {
                let next = world.start(&format!("{step}"), small(), all_partitions(PARTITIONS));
                let stopping = std::mem::replace(&mut process, next);
                take_over(&current, &process);
                stopping.stop().await.unwrap();
            }
            _ => tokio::time::sleep(Duration::from_millis(rng.u64(..15))).await,
        }
    }
    world.store.clear();
    world.log.inject(|faults| *faults = Default::default());
    if let Some(old) = old.take() {
        // From now on it takes no partition back.
        old.kill();
    }
    process.ready().await;
    for partition in all_partitions(PARTITIONS) {
        // An old process may have taken a partition back at the last moment. Then this one takes it again.
        let mut flushed = process.consumer.flush().await;
        for _ in 0..50 {
            let end = world.log.watermarks(partition).await.unwrap().end;
            let head = world.heads().read(partition).await.unwrap();
            if flushed.is_ok() && head.is_some_and(|(head, _)| head.flushed_to == end) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            flushed = process.consumer.flush().await;
        }
        world.check_all_in_blocks(partition).await;
    }
    done.cancel();
    let mut reads = 0;
    for reader in readers {
        reads += reader.await.expect("a read was wrong");
    }
    assert!(reads > 0, "somebody read");
    process.stop().await.unwrap();
}

fn take_over(current: &Current, next: &Process) {
    let mut current = current.lock();
    *current = (next.consumer.clone(), current.1 + 1);
}

/// Reads a partition repeatedly. Each answer must be right. Returns the number of answers.
async fn read_on(world: Arc<World>, current: Arc<Current>, partition: PartitionId, done: CancellationToken) -> usize {
    let mut reads = 0;
    let (mut reached, mut takeovers) = (Offset::ZERO, 0);
    while !done.is_cancelled() {
        let (consumer, takeovers_now) = current.lock().clone();
        let acknowledged: Vec<_> =
            world.ledger(partition).lock().acknowledged.iter().map(|(row, offset)| (row.clone(), *offset)).collect();
        if let Some((rows, complete_to)) = world.read(&consumer, partition).await {
            reads += 1;
            if takeovers_now == takeovers && current.lock().1 == takeovers {
                assert!(reached <= complete_to, "an answer reached {reached}, a later one {complete_to}");
            }
            (reached, takeovers) = (complete_to, takeovers_now);
            let found: BTreeSet<_> = rows.iter().cloned().collect();
            assert_eq!(found.len(), rows.len(), "rows came twice");
            for (row, offset) in acknowledged {
                assert!(
                    offset >= complete_to || found.contains(&row),
                    "{row:?} at {offset} is missing below {complete_to}"
                );
            }
            let ledger = world.ledger(partition).lock();
            assert!(found.iter().all(|row| ledger.tried.contains(row)), "a row that nobody pushed");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reads
}
