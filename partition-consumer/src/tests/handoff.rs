//! Hand-over of partitions between processes, one situation per test.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use control::PartitionRole;
use log_bus::LogBus;
use model::{Offset, OffsetRange, PartitionId, TenantId};
use object_store::{Effect, Fault, Operation};
use owner::{CatchUp, Owner, TailBatch, TailRequest, TailStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fleet::{Fleet, Member, quick};
use super::world::{Read, until};
use crate::{Config, Mode};

const ONE: PartitionId = PartitionId::new(0);
const TWO: PartitionId = PartitionId::new(1);

/// Timers so long that only the events of the test matter.
fn patient() -> Config {
    let hour = || Duration::from_secs(3600).into();
    Config { cut_age: hour(), head_poll: hour(), fenced_pause: hour(), ..quick() }
}

fn offset(offset: i64) -> Offset {
    Offset::new(offset)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_one_to_another_and_back_without_a_gap() {
    let fleet = Fleet::new(1, 30);
    let a = fleet.start("a", quick());
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    a.process().ready().await;
    let done = CancellationToken::new();
    until("the topic to say so", || !fleet.holders(ONE).is_empty()).await;
    let (pusher, readers) = (fleet.pusher(30, &done), fleet.readers(true, &done));
    let b = fleet.start("b", quick());
    for (round, (from, to)) in [(&a, &b), (&b, &a), (&a, &b), (&b, &a)].into_iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fleet.group.give(ONE, Some(&to.name));
        fleet.led_by(ONE, &to.name).await;
        until("the old owner to drop the partition", || from.process().consumer.held(ONE).is_none()).await;
        assert_eq!(to.role(ONE), Some(PartitionRole::Leading));
        assert_eq!(fleet.leader(ONE).await.1, round as u64 + 2, "each hand-off is one change of the lead");
        assert_eq!(from.process().metric("millrace_consumer_fenced_total", ""), (round / 2 + 1) as f64);
    }
    done.cancel();
    pusher.await.unwrap();
    for reader in readers {
        assert!(reader.await.expect("a read was wrong") > 10);
    }
    fleet.check_all_in_blocks(ONE).await;
    fleet.stop(a).await.unwrap();
    fleet.stop(b).await.unwrap();
}

#[tokio::test]
async fn a_new_owner_reads_a_partition_before_taking_it() {
    let mut rng = fastrand::Rng::with_seed(31);
    let fleet = Fleet::new(1, 31);
    let (a, b) = (fleet.start("a", patient()), fleet.start("b", patient()));
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    for _ in 0..10 {
        fleet.world.push(&mut rng, ONE, 3, 10).await;
    }
    b.process().fetch_to.send_replace(4);
    until("b to know of a", || b.control.view().leader(ONE).is_some()).await;
    fleet.group.give(ONE, Some("b"));
    until("b to read", || b.process().consumer.warming() == [(ONE, offset(4))]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // The new owner has not caught up, so the old one still leads and answers, also for new rows.
    assert_eq!(
        (fleet.leader(ONE).await.0.as_str(), a.role(ONE), b.role(ONE)),
        ("a", Some(PartitionRole::Draining), Some(PartitionRole::Warming))
    );
    fleet.world.push(&mut rng, ONE, 3, 10).await;
    assert_eq!(fleet.read_strongly(ONE, true).await, 33);
    a.process().consumer.flush().await.unwrap();
    fleet.world.push(&mut rng, ONE, 3, 10).await;
    b.process().fetch_to.send_replace(i64::MAX);
    fleet.led_by(ONE, "b").await;
    assert_eq!(fleet.read_strongly(ONE, true).await, 36);
    until("a to drop the partition", || a.process().consumer.held(ONE).is_none()).await;
    assert_eq!(fleet.read_strongly(ONE, true).await, 36);
    fleet.check_all_in_blocks(ONE).await;
}

/// B reads `[0, warmed)`, A puts `[0, flushed)` into blocks, then B reads up to `read` and takes the lead.
async fn check_takeover(seed: u64, config: Config, (warmed, flushed, read): (i64, i64, i64), first_range: (i64, i64)) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let fleet = Fleet::new(1, seed);
    let (a, b) = (fleet.start("a", patient()), fleet.start("b", config));
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    let mut push = async |to: i64| {
        while fleet.world.log.watermarks(ONE).await.unwrap().end < offset(to) {
            fleet.world.push(&mut rng, ONE, 5, 300).await;
        }
    };
    push(flushed).await;
    b.process().fetch_to.send_replace(warmed);
    until("b to know of a", || b.control.view().leader(ONE).is_some()).await;
    fleet.group.give(ONE, Some("b"));
    until("b to read", || b.process().consumer.warming() == [(ONE, offset(warmed))]).await;
    a.process().consumer.flush().await.unwrap();
    push(read).await;
    b.process().fetch_to.send_replace(i64::MAX);
    fleet.led_by(ONE, "b").await;
    until("b to read all", || b.process().consumer.held(ONE).is_some_and(|held| held.end == offset(read))).await;
    assert!(fleet.read_strongly(ONE, true).await > 0);
    fleet.check_all_in_blocks(ONE).await;
    let (head, _) = fleet.world.heads().read(ONE).await.unwrap().unwrap();
    let ranges: Vec<OffsetRange> = head.blocks.iter().map(|block| block.range).collect();
    let first = OffsetRange::new(offset(first_range.0), offset(first_range.1));
    assert!(ranges.contains(&first), "no block of {first} among {ranges:?}");
    fleet.read_strongly(ONE, true).await;
}

#[tokio::test]
async fn the_head_lies_within_the_segment_that_fills() {
    check_takeover(32, patient(), (3, 5, 9), (5, 9)).await;
}

#[tokio::test]
async fn the_head_lies_at_the_end_of_what_was_read() {
    check_takeover(33, patient(), (3, 5, 5), (0, 5)).await;
}

#[tokio::test]
async fn the_head_lies_within_a_segment_that_has_ended() {
    // 16 records of about 1.5 kB fill a quarter of a cut's size several times.
    let config =
        Config { cut_bytes: limits::ByteSize::from_kb(32), fetch_bytes: limits::ByteSize::from_kb(6), ..patient() };
    let mut rng = fastrand::Rng::with_seed(34);
    let fleet = Fleet::new(1, 34);
    let (a, b) = (fleet.start("a", patient()), fleet.start("b", config));
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    for _ in 0..7 {
        fleet.world.push(&mut rng, ONE, 5, 300).await;
    }
    b.process().fetch_to.send_replace(3);
    until("b to know of a", || b.control.view().leader(ONE).is_some()).await;
    fleet.group.give(ONE, Some("b"));
    until("b to read", || !b.process().consumer.warming().is_empty()).await;
    a.process().consumer.flush().await.unwrap();
    for _ in 0..33 {
        fleet.world.push(&mut rng, ONE, 5, 300).await;
    }
    b.process().fetch_to.send_replace(i64::MAX);
    fleet.led_by(ONE, "b").await;
    fleet.check_all_in_blocks(ONE).await;
    let (head, _) = fleet.world.heads().read(ONE).await.unwrap().unwrap();
    assert_eq!(head.blocks[0].range, OffsetRange::new(offset(0), offset(7)));
    assert!(head.blocks.len() > 3, "each segment became a block");
    fleet.read_strongly(ONE, true).await;
}

#[tokio::test]
async fn the_head_lies_above_what_was_read() {
    // B has not caught up when its time to warm is over.
    let config = Config { warm_max: Duration::from_millis(100).into(), ..patient() };
    let mut rng = fastrand::Rng::with_seed(35);
    let fleet = Fleet::new(1, 35);
    let (a, b) = (fleet.start("a", patient()), fleet.start("b", config));
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    for _ in 0..6 {
        fleet.world.push(&mut rng, ONE, 3, 10).await;
    }
    b.process().fetch_to.send_replace(2);
    until("b to know of a", || b.control.view().leader(ONE).is_some()).await;
    fleet.group.give(ONE, Some("b"));
    until("b to read", || !b.process().consumer.warming().is_empty()).await;
    a.process().consumer.flush().await.unwrap();
    fleet.led_by(ONE, "b").await;
    b.process().fetch_to.send_replace(i64::MAX);
    until("b to go on behind the head", || {
        b.process().consumer.held(ONE) == Some(OffsetRange::new(offset(6), offset(6)))
    })
    .await;
    fleet.world.push(&mut rng, ONE, 3, 10).await;
    assert_eq!(fleet.read_strongly(ONE, true).await, 21);
    fleet.check_all_in_blocks(ONE).await;
}

#[tokio::test]
async fn a_partition_that_comes_back_in_time_is_kept() {
    let fleet = Fleet::new(1, 36);
    let (a, b) = (fleet.start("a", patient()), fleet.start("b", patient()));
    let mut rng = fastrand::Rng::with_seed(36);
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    fleet.world.push(&mut rng, ONE, 3, 10).await;
    b.process().fetch_to.send_replace(0);
    until("b to know of a", || b.control.view().leader(ONE).is_some()).await;
    fleet.group.give(ONE, Some("b"));
    until("b to read", || b.role(ONE) == Some(PartitionRole::Warming)).await;
    until("a to drain", || a.role(ONE) == Some(PartitionRole::Draining)).await;
    fleet.group.give(ONE, Some("a"));
    until("a to go on", || a.role(ONE) == Some(PartitionRole::Leading)).await;
    until("b to drop the partition", || b.role(ONE).is_none()).await;
    assert_eq!(fleet.leader(ONE).await, ("a".to_owned(), 1));
    assert_eq!(fleet.read_strongly(ONE, true).await, 3);
    // Rows that are still in memory are not read again, even after another process has led.
    b.process().fetch_to.send_replace(i64::MAX);
    a.process().consumer.flush().await.unwrap();
    fleet.world.push(&mut rng, ONE, 3, 10).await;
    let started = a.process().consumer.held(ONE).unwrap().start;
    fleet.group.give(ONE, Some("b"));
    fleet.led_by(ONE, "b").await;
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    assert!(a.process().consumer.held(ONE).unwrap().start <= started.max(offset(1)));
    assert_eq!(fleet.read_strongly(ONE, true).await, 6);
    fleet.check_all_in_blocks(ONE).await;
}

#[tokio::test]
async fn a_process_that_dies_is_replaced_in_each_phase() {
    for (seed, phase) in
        ["old, while the new one reads", "new, while it reads", "new, after it took the lead", "old, while it drains"]
            .into_iter()
            .enumerate()
    {
        println!("{phase}");
        let mut rng = fastrand::Rng::with_seed(40 + seed as u64);
        let fleet = Fleet::new(1, 40 + seed as u64);
        let draining = Config { drain_grace: Duration::from_secs(3600).into(), ..quick() };
        let (a, b) = (fleet.start("a", draining.clone()), fleet.start("b", draining));
        fleet.group.give(ONE, Some("a"));
        fleet.led_by(ONE, "a").await;
        for _ in 0..20 {
            fleet.world.push(&mut rng, ONE, 3, 10).await;
        }
        if phase.contains("reads") {
            b.process().fetch_to.send_replace(7);
        }
        until("b to know of a", || b.control.view().leader(ONE).is_some()).await;
        fleet.group.give(ONE, Some("b"));
        if phase.contains("reads") {
            until("b to read", || b.process().consumer.warming() == [(ONE, offset(7))]).await;
        } else {
            fleet.led_by(ONE, "b").await;
            until("a to know", || a.process().metric("millrace_consumer_fenced_total", "") == 1.0).await;
        }
        let dies_old = phase.starts_with("old");
        let (dies, lives) = if dies_old { (a, b) } else { (b, a) };
        fleet.kill(&dies);
        lives.process().fetch_to.send_replace(i64::MAX);
        fleet.group.give(ONE, Some(&lives.name));
        fleet.led_by(ONE, &lives.name).await;
        fleet.world.push(&mut rng, ONE, 3, 10).await;
        assert_eq!(fleet.read_strongly(ONE, false).await, 63, "{phase}");
        assert_eq!(fleet.read_strongly(ONE, true).await, 63, "{phase}");
        fleet.check_all_in_blocks(ONE).await;
        fleet.stop(lives).await.unwrap();
    }
}

#[tokio::test]
async fn a_paused_process_notices_its_fencing_and_drains() {
    let mut rng = fastrand::Rng::with_seed(50);
    let fleet = Fleet::new(1, 50);
    let config = Config { fenced_pause: Duration::from_millis(300).into(), ..quick() };
    let (a, b) = (fleet.start("a", config.clone()), fleet.start("b", config));
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    fleet.world.push(&mut rng, ONE, 3, 10).await;
    until("a to read", || a.process().consumer.held(ONE).is_some_and(|held| held.end == offset(1))).await;
    a.process().gate.set_open(false);
    // A does not learn that its partition is assigned to B.
    fleet.group.leave("a");
    fleet.group.give(ONE, Some("b"));
    fleet.led_by(ONE, "b").await;
    fleet.world.push(&mut rng, ONE, 3, 10).await;
    b.process().ready().await;
    b.process().consumer.flush().await.unwrap();
    // The memory of A is right as far as it reaches, but has no new rows.
    assert_eq!(fleet.read_strongly(ONE, true).await, 6);
    a.process().gate.set_open(true);
    until("a to notice", || a.process().metric("millrace_consumer_fenced_total", "") == 1.0).await;
    // A was never revoked. It waits while B leads, and takes over when B dies.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!((fleet.leader(ONE).await.0.as_str(), a.role(ONE)), ("b", Some(PartitionRole::Draining)));
    fleet.world.push(&mut rng, ONE, 3, 10).await;
    assert_eq!(fleet.read_strongly(ONE, true).await, 9);
    fleet.kill(&b);
    fleet.led_by(ONE, "a").await;
    assert_eq!(fleet.read_strongly(ONE, false).await, 9);
    fleet.check_all_in_blocks(ONE).await;
    fleet.stop(a).await.unwrap();
}

#[tokio::test]
async fn a_paused_process_drops_a_revoked_partition() {
    let mut rng = fastrand::Rng::with_seed(51);
    let fleet = Fleet::new(1, 51);
    let (a, b) = (fleet.start("a", quick()), fleet.start("b", quick()));
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    fleet.world.push(&mut rng, ONE, 3, 10).await;
    a.process().gate.set_open(false);
    fleet.group.give(ONE, Some("b"));
    fleet.led_by(ONE, "b").await;
    fleet.world.push(&mut rng, ONE, 3, 10).await;
    a.process().gate.set_open(true);
    until("a to drop the partition", || a.process().consumer.held(ONE).is_none()).await;
    assert_eq!(fleet.read_strongly(ONE, true).await, 6);
    fleet.check_all_in_blocks(ONE).await;
    assert_eq!(fleet.leader(ONE).await, ("b".to_owned(), 2));
    drop(b);
}

#[tokio::test]
async fn shutdown_hands_over_to_another_process() {
    let mut rng = fastrand::Rng::with_seed(52);
    let fleet = Fleet::new(2, 52);
    let patience = Duration::from_secs(60);
    let patient = Config { handoff_max_at_shutdown: patience.into(), shutdown_grace: (patience * 2).into(), ..quick() };
    let (a, b) = (fleet.start("a", patient.clone()), fleet.start("b", patient));
    for partition in [ONE, TWO] {
        fleet.group.give(partition, Some("a"));
        fleet.led_by(partition, "a").await;
        fleet.world.push(&mut rng, partition, 10, 10).await;
    }
    until("a to see b", || a.control.view().process("b").is_some()).await;
    until("b to see a", || b.control.view().leader(TWO).is_some()).await;
    b.process().fetch_to.send_replace(0);
    let (done, metrics) = (CancellationToken::new(), a.process().metrics.clone());
    let readers = fleet.readers(true, &done);
    let stopping = fleet.clone();
    let stopped = tokio::spawn(async move { stopping.stop(a).await });
    until("b to be given all", || b.control.view().process("a").is_some_and(|a| a.leaving)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!stopped.is_finished(), "b is not ready");
    fleet.world.push(&mut rng, ONE, 10, 10).await;
    b.process().fetch_to.send_replace(i64::MAX);
    let started = Instant::now();
    stopped.await.unwrap().unwrap();
    assert!(started.elapsed() < patience / 2, "it does not wait longer than it takes");
    done.cancel();
    for reader in readers {
        reader.await.expect("a read was wrong");
    }
    // No block was made for it.
    let families = metrics.gather();
    let cut = families.iter().find(|f| f.name() == "loki_ingester_chunks_flushed_total").unwrap();
    assert_eq!(cut.get_metric().iter().map(|m| m.get_counter().get_value()).sum::<f64>(), 0.0);
    for partition in [ONE, TWO] {
        assert_eq!(fleet.leader(partition).await, ("b".to_owned(), 2));
        fleet.check_all_in_blocks(partition).await;
    }
    // A is alone now, so it cuts at once.
    fleet.world.push(&mut rng, ONE, 10, 10).await;
    until("b to read", || b.process().consumer.held(ONE).is_some_and(|held| held.end == offset(3))).await;
    until("b to know that a is gone", || b.control.view().process("a").is_none_or(|a| a.leaving)).await;
    let started = Instant::now();
    fleet.stop(b).await.unwrap();
    assert!(started.elapsed() < patience / 2, "it waits for no other process");
    fleet.world.check_all_in_blocks(ONE).await;
}

#[tokio::test]
async fn shutdown_publishes_partitions_that_nobody_takes_in_time() {
    let mut rng = fastrand::Rng::with_seed(53);
    let fleet = Fleet::new(1, 53);
    let config = Config { handoff_max_at_shutdown: Duration::from_millis(300).into(), ..quick() };
    let (a, b) = (fleet.start("a", config), fleet.start("b", quick()));
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    fleet.world.push(&mut rng, ONE, 10, 10).await;
    until("a to read", || a.process().consumer.held(ONE).is_some_and(|held| held.end == offset(1))).await;
    until("a to see b", || a.control.view().process("b").is_some()).await;
    // B is alive but makes no progress.
    b.process().gate.set_open(false);
    let started = Instant::now();
    fleet.stop(a).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(300));
    fleet.world.check_all_in_blocks(ONE).await;
    b.process().gate.set_open(true);
    fleet.led_by(ONE, "b").await;
    assert_eq!(fleet.read_strongly(ONE, false).await, 10);
}

#[tokio::test]
async fn followers_answer_and_never_lead() {
    let mut rng = fastrand::Rng::with_seed(54);
    let fleet = Fleet::new(1, 54);
    let a = fleet.start("a", Config { published_grace: Duration::ZERO.into(), ..quick() });
    let follower = fleet.start("f", Config { mode: Mode::Follow, published_grace: Duration::ZERO.into(), ..quick() });
    // Before anybody led the partition.
    follower.process().assignments.send(log_bus::Assignment::Assigned(vec![ONE])).unwrap();
    until("f to follow", || follower.role(ONE) == Some(PartitionRole::Following)).await;
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    for round in 1..=5 {
        fleet.world.push(&mut rng, ONE, 10, 10).await;
        let consumer = &follower.process().consumer;
        let end = fleet.world.log.watermarks(ONE).await.unwrap().end;
        let Read::Rows(rows, complete_to) = fleet.world.read_from(&[consumer], ONE, Some(end)).await else {
            panic!("a follower answers")
        };
        assert_eq!((rows.len(), complete_to), (10 * round, end));
        a.process().consumer.flush().await.unwrap();
        consumer.flush().await.unwrap();
        // Rows in blocks are evicted as soon as the follower has read the head.
        until("f to evict rows", || consumer.held(ONE).is_some_and(|held| held.start >= end)).await;
    }
    assert_eq!(fleet.leader(ONE).await, ("a".to_owned(), 1));
    // Without a leader it still answers, and does not take the lead.
    fleet.world.push(&mut rng, ONE, 10, 10).await;
    fleet.kill(&a);
    assert_eq!(fleet.read_strongly(ONE, true).await, 60);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fleet.leader(ONE).await.1, 1);
    fleet.stop(follower).await.unwrap();
}

#[tokio::test]
async fn a_follower_that_retention_overtakes_goes_on_after_the_gap() {
    let mut rng = fastrand::Rng::with_seed(55);
    let fleet = Fleet::new(1, 55);
    let a = fleet.start("a", quick());
    let follower = fleet.start("f", Config { mode: Mode::Follow, ..quick() });
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    follower.process().fetch_to.send_replace(2);
    follower.process().assignments.send(log_bus::Assignment::Assigned(vec![ONE])).unwrap();
    for _ in 0..6 {
        fleet.world.push(&mut rng, ONE, 10, 10).await;
    }
    a.process().consumer.flush().await.unwrap();
    fleet.world.log.trim(ONE, offset(5));
    follower.process().fetch_to.send_replace(i64::MAX);
    until("f to go on", || follower.process().consumer.held(ONE).is_some_and(|held| held.end == offset(6))).await;
    fleet.world.push(&mut rng, ONE, 10, 10).await;
    let end = Some(offset(7));
    let Read::Rows(rows, _) = fleet.world.read_from(&[&follower.process().consumer], ONE, end).await else {
        panic!("a follower answers")
    };
    assert_eq!(rows.len(), 70);
}

#[tokio::test]
async fn rows_in_memory_are_not_lost_when_retention_removes_them() {
    let mut rng = fastrand::Rng::with_seed(59);
    let fleet = Fleet::new(1, 59);
    let (a, b) = (fleet.start("a", patient()), fleet.start("b", patient()));
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    for _ in 0..8 {
        fleet.world.push(&mut rng, ONE, 5, 50).await;
    }
    b.process().fetch_to.send_replace(5);
    until("b to know of a", || b.control.view().leader(ONE).is_some()).await;
    fleet.group.give(ONE, Some("b"));
    until("b to read", || b.process().consumer.warming() == [(ONE, offset(5))]).await;
    // The leader dies with its memory, and only the end of the log is left.
    fleet.kill(&a);
    fleet.world.log.trim(ONE, offset(7));
    fleet.group.give(ONE, Some("b"));
    b.process().fetch_to.send_replace(i64::MAX);
    until("b to go on", || b.process().consumer.held(ONE).is_some_and(|held| held.end == offset(8))).await;
    fleet.check_all_in_blocks(ONE).await;
    let (head, _) = fleet.world.heads().read(ONE).await.unwrap().unwrap();
    let lost: Vec<OffsetRange> = head.lost.iter().map(|lost| lost.range).collect();
    assert_eq!(lost, [OffsetRange::new(offset(5), offset(7))]);
    assert_eq!(b.process().metric("millrace_lost_offsets_total", "0"), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_along_never_stops_partitions_that_are_led() {
    let mut rng = fastrand::Rng::with_seed(56);
    let fleet = Fleet::new(2, 56);
    // A does not cut the first partition, so B cannot evict its rows.
    let (a, b) = (
        fleet.start(
            "a",
            Config {
                memory_bytes: limits::ByteSize::from_mb(10),
                cut_bytes: limits::ByteSize::from_mb(9),
                ..patient()
            },
        ),
        fleet.start(
            "b",
            Config {
                head_poll: Duration::from_millis(300).into(),
                cut_bytes: limits::ByteSize::from_kb(200),
                ..quick()
            },
        ),
    );
    fleet.group.give(ONE, Some("a"));
    fleet.group.give(TWO, Some("b"));
    fleet.led_by(ONE, "a").await;
    fleet.led_by(TWO, "b").await;
    until("b to know of a", || b.control.view().leader(ONE).is_some()).await;
    for _ in 0..400 {
        fleet.world.push(&mut rng, ONE, 20, 200).await;
    }
    let end = fleet.world.log.watermarks(ONE).await.unwrap().end;
    fleet.group.give(ONE, Some("b"));
    until("b to stop at its cap", || b.process().metric("millrace_consumer_memory_full_total", "") > 0.0).await;
    // The partition that B leads goes on, since its cuts free memory.
    for _ in 0..200 {
        fleet.world.push(&mut rng, TWO, 20, 200).await;
    }
    fleet.read_strongly(TWO, true).await;
    // B takes the lead of the first one, since only cuts free memory, and reads it to its end.
    fleet.led_by(ONE, "b").await;
    b.process().consumer.wait_consumed(ONE, end, Instant::now() + Duration::from_secs(10)).await.unwrap();
    assert!(b.process().consumer.memory_bytes() < small_cap());
    for partition in [ONE, TWO] {
        fleet.check_all_in_blocks(partition).await;
    }
    drop(a);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_process_answers_until_the_new_owner_does_and_leaves_room_for_its_own_partitions() {
    let mut rng = fastrand::Rng::with_seed(60);
    let fleet = Fleet::new(2, 60);
    let a = fleet.start("a", quick());
    let b = fleet.start("b", Config { warm_max: Duration::from_millis(50).into(), ..patient() });
    for partition in [ONE, TWO] {
        fleet.group.give(partition, Some("a"));
        fleet.led_by(partition, "a").await;
    }
    for _ in 0..5 {
        fleet.world.push(&mut rng, ONE, 20, 200).await;
    }
    // B takes the lead when its time to warm is over, and makes no further progress.
    b.process().fetch_to.send_replace(3);
    until("b to know of a", || b.control.view().leader(ONE).is_some()).await;
    fleet.group.give(ONE, Some("b"));
    fleet.led_by(ONE, "b").await;
    assert_eq!(fleet.read_strongly(ONE, true).await, 100);
    // A reads along a partition that nobody cuts, until memory is short.
    let stops = || a.process().metric("millrace_consumer_memory_full_total", "") > 0.0;
    for _ in 0..300 {
        fleet.world.push(&mut rng, ONE, 20, 200).await;
    }
    until("a to stop reading along", stops).await;
    for _ in 0..10 {
        for _ in 0..30 {
            fleet.world.push(&mut rng, TWO, 20, 200).await;
        }
        fleet.read_strongly(TWO, true).await;
    }
    assert_eq!((b.role(ONE), a.role(ONE)), (Some(PartitionRole::Leading), Some(PartitionRole::Draining)));
    b.process().fetch_to.send_replace(i64::MAX);
    until("a to drop the partition", || a.process().consumer.held(ONE).is_none()).await;
    fleet.read_strongly(ONE, true).await;
    for partition in [ONE, TWO] {
        fleet.check_all_in_blocks(partition).await;
    }
}

fn small_cap() -> usize {
    quick().memory_bytes.as_usize() + 2 * 64_000
}

#[tokio::test]
async fn a_follower_at_its_cap_waits_for_the_head() {
    let mut rng = fastrand::Rng::with_seed(57);
    let fleet = Fleet::new(1, 57);
    let a = fleet.start("a", Config { memory_bytes: limits::ByteSize::from_mb(10), ..patient() });
    let follower = fleet.start("f", Config { mode: Mode::Follow, ..quick() });
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    fleet.world.store.add(Fault { operations: vec![Operation::Put], ..Fault::always(Effect::ErrorBefore) });
    follower.process().assignments.send(log_bus::Assignment::Assigned(vec![ONE])).unwrap();
    for _ in 0..300 {
        fleet.world.push(&mut rng, ONE, 20, 200).await;
    }
    until("f to stop at its cap", || follower.process().metric("millrace_consumer_memory_full_total", "") > 0.0).await;
    assert!(follower.process().consumer.memory_bytes() < small_cap());
    fleet.world.store.clear();
    a.process().consumer.flush().await.unwrap();
    let end = fleet.world.log.watermarks(ONE).await.unwrap().end;
    until("f to go on", || follower.process().consumer.held(ONE).is_some_and(|held| held.end == end)).await;
    fleet.check_all_in_blocks(ONE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_two_four_two_and_more_partitions() {
    let fleet = Fleet::new(8, 58);
    let done = CancellationToken::new();
    let mut members = vec![fleet.start("p0", quick())];
    // The group has four partitions at first. The others come later.
    fleet.group.balance(4);
    for partition in (0..4).map(PartitionId::new) {
        fleet.led_by(partition, "p0").await;
    }
    members[0].process().ready().await;
    let pusher = fleet.pusher(58, &done);
    fleet.group.balance(8);
    for partition in (0..8).map(PartitionId::new) {
        fleet.led_by(partition, "p0").await;
    }
    members[0].process().ready().await;
    until("the topic to say so", || (0..8).all(|p| !fleet.holders(PartitionId::new(p)).is_empty())).await;
    let readers = fleet.readers(true, &done);
    let settle = async |members: &[super::fleet::Member]| {
        for member in members {
            member.process().ready().await;
        }
        for partition in (0..8).map(PartitionId::new) {
            until("one to lead", || {
                members.iter().filter(|m| m.role(partition) == Some(PartitionRole::Leading)).count() == 1
            })
            .await;
            until("nobody to drain", || !fleet.holders(partition).iter().any(|h| h.1 == PartitionRole::Draining)).await;
        }
    };
    for processes in [2, 4] {
        while members.len() < processes {
            members.push(fleet.start(&format!("p{}", members.len()), quick()));
        }
        until("all to see all", || {
            members.iter().all(|m| m.control.view().with_role(control::Role::Consumer).count() == processes)
        })
        .await;
        fleet.group.balance(8);
        settle(&members).await;
    }
    while members.len() > 2 {
        let member = members.remove(1);
        fleet.stop(member).await.unwrap();
    }
    settle(&members).await;
    done.cancel();
    pusher.await.unwrap();
    for reader in readers {
        assert!(reader.await.expect("a read was wrong") > 0);
    }
    for partition in (0..8).map(PartitionId::new) {
        fleet.check_all_in_blocks(partition).await;
    }
    let cuts = |reason: &str| -> f64 {
        members.iter().map(|m| m.process().metric("loki_ingester_chunks_flushed_total", reason)).sum()
    };
    assert_eq!(cuts("not_owned"), 0.0, "no block is made because of a hand-off");
    for member in members {
        fleet.stop(member).await.unwrap();
    }
}

/// The output of a tail: row numbers in order, and the consumed offset that it reports.
fn taken(tail: &mut TailStream) -> (Vec<u64>, Vec<i64>) {
    let (mut rows, mut marks, mut last) = (Vec::new(), Vec::new(), -1);
    while let Some(TailBatch { offset, batch, is_replayed, .. }) = tail.try_recv() {
        assert!(offset.value() >= last, "offsets never fall within a tail");
        last = offset.value();
        if batch.is_empty() {
            assert!(is_replayed);
            marks.push(offset.value());
        }
        let line = |i| String::from_utf8_lossy(batch.lines.get(i)).split_once(' ').unwrap().0.parse::<u64>().unwrap();
        rows.extend((0..batch.len()).map(line));
    }
    assert_eq!(tail.dropped(), 0);
    (rows, marks)
}

#[tokio::test]
async fn a_new_owner_replays_rows_that_nobody_sent() {
    let mut rng = fastrand::Rng::with_seed(61);
    let fleet = Fleet::new(1, 60);
    let (a, b) = (fleet.start("a", patient()), fleet.start("b", patient()));
    let follow = |member: &Member, catch_up, capacity| {
        let tenant = TenantId::new("acme").unwrap();
        member.process().consumer.tail(TailRequest { tenant, matchers: Arc::from([]), capacity, catch_up })
    };
    let pushed_from = |from: Offset| -> BTreeSet<u64> {
        let ledger = fleet.world.ledger(ONE).lock();
        let rows = ledger.acknowledged.iter().filter(|(row, offset)| row.tenant == "acme" && **offset >= from);
        rows.map(|(row, _)| row.id).collect()
    };
    // Segments are cut by size meanwhile. Rows in blocks are evicted and not replayed.
    let held_by = |member: &Member| pushed_from(member.process().consumer.held(ONE).unwrap().start);
    let consumed = |member: &Member, to: i64| {
        let consumer = member.process().consumer.clone();
        async move { until("the rows", || consumer.held(ONE).is_some_and(|held| held.end == offset(to))).await }
    };
    fleet.group.give(ONE, Some("a"));
    fleet.led_by(ONE, "a").await;
    a.process().ready().await;
    let (mut of_a, mut of_b) = (follow(&a, CatchUp::FromNow, 1000), follow(&b, CatchUp::FromNow, 1000));
    let mut plain = follow(&b, CatchUp::Never, 1000);
    assert_eq!(taken(&mut of_a), (vec![], vec![-1]), "nothing was consumed before");
    for _ in 0..30 {
        fleet.world.push(&mut rng, ONE, 5, 10).await;
    }
    consumed(&a, 30).await;
    let (sent, _) = taken(&mut of_a);
    assert!(sent.len() > 20);
    assert_eq!(BTreeSet::from_iter(sent), pushed_from(Offset::ZERO));

    // Rows that no tail sends, since there is no owner.
    fleet.kill(&a);
    for _ in 0..30 {
        fleet.world.push(&mut rng, ONE, 5, 10).await;
    }
    fleet.group.give(ONE, Some("b"));
    fleet.led_by(ONE, "b").await;
    b.process().ready().await;
    fleet.world.push(&mut rng, ONE, 5, 10).await;
    consumed(&b, 61).await;
    let (mut all, marks) = taken(&mut of_b);
    assert_eq!(marks, [59]);
    let found = BTreeSet::from_iter(all.iter().copied());
    assert!(found.is_superset(&pushed_from(offset(30))) && found.is_superset(&held_by(&b)));
    let (live, _) = taken(&mut plain);
    assert!(live.len() <= 5, "a tail without catch-up gets no earlier rows");
    let (again, marks) = taken(&mut follow(&b, CatchUp::FromBefore, 1000));
    assert!(BTreeSet::from_iter(again.iter().copied()).is_superset(&held_by(&b)));
    assert_eq!(marks, [60]);
    let (latest, _) = taken(&mut follow(&b, CatchUp::FromBefore, 8));
    assert!(
        !latest.is_empty() && latest.len() < again.len() && again.ends_with(&latest),
        "the latest, in half the room"
    );
    let mut few = follow(&b, CatchUp::FromNow, 1000);
    assert_eq!(taken(&mut few), (vec![], vec![60]));

    // The partition moves away and back. The same tail does not replay rows it has sent.
    let c = fleet.start("c", patient());
    fleet.group.give(ONE, Some("c"));
    fleet.led_by(ONE, "c").await;
    until("b to drop the partition", || b.process().consumer.held(ONE).is_none()).await;
    for _ in 0..5 {
        fleet.world.push(&mut rng, ONE, 5, 10).await;
    }
    fleet.group.give(ONE, Some("b"));
    fleet.led_by(ONE, "b").await;
    b.process().ready().await;
    fleet.world.push(&mut rng, ONE, 5, 10).await;
    consumed(&b, 67).await;
    all.extend(taken(&mut of_b).0);
    let found = BTreeSet::from_iter(all.iter().copied());
    assert_eq!(all.len(), found.len(), "each once");
    assert!(found.is_superset(&held_by(&b)));
    fleet.stop(c).await.unwrap();
    fleet.stop(b).await.unwrap();
}
