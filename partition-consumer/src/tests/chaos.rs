//! Seeded chaos in a fleet: pushes, strong and weak reads, hand-overs, processes that join, leave, die and pause, and
//! faults of log and store. Every answer is right, and at the end blocks have each acknowledged row once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use log_bus::Assignment;
use model::{Clock, PartitionId};
use object_store::{Effect, Fault, Operation};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fleet::{Fleet, quick};
use super::world::Read;
use crate::{Config, Mode};

const PARTITIONS: u32 = 2;
const MEMBERS_MAX: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fleet_answers_right_at_every_moment() {
    let seed =
        std::env::var("MILLRACE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let rounds: u64 = std::env::var("MILLRACE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    for round in 0..rounds {
        let seed = seed.wrapping_add(round);
        println!("MILLRACE_SEED={seed} MILLRACE_ROUNDS=1");
        run(seed, 250).await;
    }
}

/// The settings of a member. Each member has slightly different ones.
fn config(rng: &mut fastrand::Rng) -> Config {
    let millis = |millis| Duration::from_millis(millis).into();
    Config {
        cut_bytes: limits::ByteSize::from_kb(rng.u64(16..64)),
        cut_age: millis(rng.u64(50..500)),
        warm_max: millis(rng.u64(20..1_000)),
        drain_grace: millis(rng.u64(0..200)),
        handoff_max: millis(rng.u64(100..2_000)),
        handoff_max_at_shutdown: millis(rng.u64(0..500)),
        head_poll: millis(rng.u64(5..200)),
        fenced_pause: millis(rng.u64(10..300)),
        published_grace: millis(rng.u64(0..50)),
        ..quick()
    }
}

async fn run(seed: u64, steps: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let fleet = Fleet::new(PARTITIONS, seed);
    let world = fleet.world.clone();
    world.log.inject(|faults| faults.gap_every = Some(7));
    let mut names = 0;
    let mut start = |rng: &mut fastrand::Rng, mode: Mode| {
        names += 1;
        let follows = mode == Mode::Follow;
        let name = format!("{}{names}", if follows { "f" } else { "p" });
        let member = fleet.start(&name, Config { mode, ..config(rng) });
        if follows {
            member
                .process()
                .assignments
                .send(Assignment::Assigned((0..PARTITIONS).map(PartitionId::new).collect()))
                .unwrap();
        }
        member
    };
    let mut members = vec![start(&mut rng, Mode::Lead)];
    let mut follower = start(&mut rng, Mode::Follow);
    fleet.group.balance(PARTITIONS);
    let done = CancellationToken::new();
    let readers: Vec<_> = (0..PARTITIONS)
        .flat_map(|partition| [true, false].map(|strong| (PartitionId::new(partition), strong)))
        .map(|(partition, strong)| tokio::spawn(read_on(fleet.clone(), partition, strong, done.clone())))
        .collect();
    let mut leaving = JoinSet::new();
    for _ in 0..steps {
        let partition = PartitionId::new(rng.u32(..PARTITIONS));
        match rng.u8(..100) {
            0..=49 => {
                let rows = rng.usize(1..40);
                world.push(&mut rng, partition, rows, 300).await;
            }
            50..=52 => world.push_garbage(&mut rng, partition),
            53..=54 => world.log.skip(partition, rng.u32(1..4)),
            55 => {
                let jump = Duration::from_secs(rng.u64(..200_000));
                let now = world.clock.now();
                world.clock.set(if rng.bool() { now.plus(jump) } else { now.minus(jump) });
            }
            56..=58 => {
                world.store.clear();
                for effect in [Effect::ErrorBefore, Effect::ErrorAfter, Effect::Delay(Duration::from_millis(3))] {
                    if rng.bool() {
                        let operations = vec![Operation::Put, Operation::Get];
                        world.store.add(Fault { operations, probability: rng.f64() * 0.7, ..Fault::always(effect) });
                    }
                }
            }
            59..=63 => world.store.clear(),
            64 => world.log.inject(|faults| faults.fail_fetches += 3),
            65 => world.log.inject(|faults| faults.fail_appends_after += 1),
            66..=72 => {
                let to = &members[rng.usize(..members.len())].name;
                fleet.group.give(partition, Some(to));
            }
            73..=75 if members.len() < MEMBERS_MAX => {
                members.push(start(&mut rng, Mode::Lead));
                fleet.group.balance(PARTITIONS);
            }
            76..=77 if members.len() > 1 => {
                let member = members.swap_remove(rng.usize(..members.len()));
                member.process().gate.set_open(true);
                let fleet = fleet.clone();
                leaving.spawn(async move { fleet.stop(member).await });
            }
            78..=79 => {
                if members.len() == 1 {
                    members.push(start(&mut rng, Mode::Lead));
                }
                fleet.kill(&members.swap_remove(rng.usize(..members.len())));
                fleet.group.balance(PARTITIONS);
            }
            80 => {
                fleet.kill(&follower);
                follower = start(&mut rng, Mode::Follow);
            }
            81..=84 => {
                let sleeper = &members[rng.usize(..members.len())];
                sleeper.process().gate.set_open(false);
                if rng.bool() {
                    for partition in (0..PARTITIONS).map(PartitionId::new) {
                        let to = &members[rng.usize(..members.len())].name;
                        fleet.group.give(partition, Some(to));
                    }
                }
            }
            85..=89 => members.iter().for_each(|member| member.process().gate.set_open(true)),
            _ => tokio::time::sleep(Duration::from_millis(rng.u64(..30))).await,
        }
    }
    world.store.clear();
    world.log.inject(|faults| *faults = Default::default());
    members.iter().for_each(|member| member.process().gate.set_open(true));
    while let Some(left) = leaving.join_next().await {
        left.expect("leaving does not panic").unwrap();
    }
    fleet.group.balance(PARTITIONS);
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        fleet.check_all_in_blocks(partition).await;
    }
    done.cancel();
    let mut reads = 0;
    for reader in readers {
        reads += reader.await.expect("a read was wrong");
    }
    assert!(reads > 0, "somebody read");
    for member in members.into_iter().chain([follower]) {
        fleet.stop(member).await.unwrap();
    }
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        world.check_all_in_blocks(partition).await;
    }
}

/// Reads a partition repeatedly. Each answer must be right. Returns the number of answers.
async fn read_on(fleet: Arc<Fleet>, partition: PartitionId, strong: bool, done: CancellationToken) -> usize {
    let mut reads = 0;
    while !done.is_cancelled() {
        if strong {
            fleet.read_strongly(partition, false).await;
            reads += 1;
        } else {
            let acknowledged: Vec<_> = {
                let ledger = fleet.world.ledger(partition).lock();
                ledger.acknowledged.iter().map(|(row, offset)| (row.clone(), *offset)).collect()
            };
            if let Read::Rows(rows, complete_to) = fleet.read(partition, None).await {
                reads += 1;
                let found: BTreeSet<_> = rows.iter().cloned().collect();
                assert_eq!(found.len(), rows.len(), "rows came twice");
                for (row, offset) in acknowledged {
                    assert!(
                        offset >= complete_to || found.contains(&row),
                        "{row:?} at {offset} is missing below {complete_to}"
                    );
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reads
}
