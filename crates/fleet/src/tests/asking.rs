//! Which processes are asked, in which order, and which answer counts.

use std::sync::atomic::Ordering;
use std::time::Duration;

use control::PartitionRole::{Draining, Following, Leading, Warming};
use model::{Offset, PartitionId};
use owner::{Owner, OwnerError};
use tokio::time::Instant;

use super::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_best_holder_answers() {
    let world = World::new();
    for line in ["a", "b", "c"] {
        world.append(line);
    }
    let follower = world.start("follower", Following, 3).await;
    let warming = world.start("warming", Warming, 3).await;
    let leader = world.start("leader", Leading, 3).await;
    let drained = world.start("drained", Draining, 2).await;
    let reader = world.reader(4).await;
    let asked = || [&leader, &drained, &follower, &warming].map(|p| p.owner.asked());

    assert_eq!(reader.lines(0, None).await.unwrap(), ("a b c".to_owned(), 3));
    assert_eq!(reader.lines(1, Some(3)).await.unwrap(), ("b c".to_owned(), 3));
    assert_eq!(asked(), [2, 0, 0, 0]);
    for mode in
        [Mode::NotLeading, Mode::Unavailable, Mode::Stopped, Mode::Deadline, Mode::NotHeld(0, 0), Mode::Short(2)]
    {
        leader.owner.set(mode.clone());
        assert_eq!(reader.lines(0, Some(3)).await.unwrap(), ("a b c".to_owned(), 3), "{mode:?}");
        assert_eq!(asked(), [1, 1, 0, 0], "{mode:?}");
    }
    // An answer that ends early is fine for a reader that does not ask for more.
    assert_eq!(reader.lines(0, None).await.unwrap().1, 2);
    leader.owner.set(Mode::NotLeading);
    drained.owner.set(Mode::Stopped);
    assert_eq!(reader.lines(0, Some(3)).await.unwrap().1, 3);
    assert_eq!(asked(), [2, 1, 1, 0]);
    assert_eq!((reader.count("millrace_fleet_fallbacks_total"), reader.count("millrace_fleet_hedges_total")), (0, 0));
    let streams = reader.fleet.streams(streams_request(1)).await.unwrap();
    assert_eq!((streams.streams.len(), streams.held.end), (2, Offset::new(3)));

    // If nobody answers, the log does.
    follower.owner.set(Mode::NotLeading);
    asked();
    assert_eq!(reader.lines(1, Some(3)).await.unwrap(), ("b c".to_owned(), 3));
    assert_eq!((asked(), reader.count("millrace_fleet_fallbacks_total")), ([1, 1, 1, 0], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_another_try_cannot_cure_ends_the_request() {
    let world = World::new();
    world.append("a");
    let leader = world.start("leader", Leading, 3).await;
    let follower = world.start("follower", Following, 3).await;
    let reader = world.reader(2).await;

    leader.owner.set(Mode::Query);
    let error = reader.lines(0, None).await.unwrap_err();
    assert!(matches!(error, OwnerError::Query(logql::QueryError::SeriesLimit(3))), "{error}");
    // The head of the reader is too old.
    leader.owner.set(Mode::NotHeld(5, 9));
    let error = reader.lines(0, None).await.unwrap_err();
    assert!(matches!(error, OwnerError::NotHeld { held, .. } if held.start == Offset::new(5)), "{error}");
    assert_eq!((leader.owner.asked(), follower.owner.asked()), (2, 0));
    assert_eq!(reader.count("millrace_fleet_fallbacks_total"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_no_longer_has_it_is_not_asked() {
    let world = World::new();
    for line in ["a", "b", "c"] {
        world.append(line);
    }
    let leader = world.start("leader", Leading, 3).await;
    leader.control.update(|state| state.partitions = vec![holding(Leading, 4, 2)]);
    let reader = world.reader(1).await;
    let knows = |start: i64| {
        let mut views = reader.control.watch();
        async move {
            let found = views.wait_for(|v| v.holders(P).iter().any(|h| h.held.start.value() == start)).await;
            drop(found.expect("control lives"));
        }
    };
    knows(2).await;
    // Only a newer head can help.
    let error = reader.lines(1, None).await.unwrap_err();
    assert!(matches!(error, OwnerError::NotHeld { held, .. } if held.start == Offset::new(2)), "{error}");
    assert_eq!((leader.owner.asked(), reader.count("millrace_fleet_fallbacks_total")), (0, 0));
    assert_eq!(reader.lines(2, None).await.unwrap(), ("c".to_owned(), 3));
    // With a silent holder, the log cannot help either.
    let paused = world.start_as("paused", Draining, 3, Reach::Paused).await;
    knows(0).await;
    assert!(matches!(reader.lines(1, None).await, Err(OwnerError::NotHeld { .. })));
    assert_eq!(reader.count("millrace_fleet_fallbacks_total"), 0);
    paused.control.update(|state| state.partitions.clear());
    drop(reader.control.watch().wait_for(|view| view.holders(P).len() == 1).await.unwrap());
    // Another process still holds the rows.
    let _drained = world.start("drained", Draining, 3).await;
    knows(0).await;
    assert_eq!(reader.lines(1, None).await.unwrap(), ("b c".to_owned(), 3));
    assert_eq!(leader.owner.asked(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_gone_or_paused() {
    let world = World::new();
    world.append("a");
    let gone = world.start_as("gone", Leading, 9, Reach::Gone).await;
    let paused = world.start_as("paused", Leading, 8, Reach::Paused).await;
    let killed = world.start("killed", Leading, 7).await;
    let follower = world.start("follower", Following, 3).await;
    let reader = world.reader(4).await;
    // The first one fails, the second one is silent, so the third one answers.
    let began = Instant::now();
    assert_eq!(reader.lines(0, Some(1)).await.unwrap(), ("a".to_owned(), 1));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!((killed.owner.asked(), follower.owner.asked()), (1, 0));
    assert!(reader.count("millrace_fleet_hedges_total") >= 1);
    // The connections of the killed process break.
    killed.server.as_ref().unwrap().kill();
    let began = Instant::now();
    while reader.lines(0, Some(1)).await.unwrap().1 == 1 && follower.owner.asked() == 0 {}
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(reader.count("millrace_fleet_fallbacks_total"), 0);
    drop((gone, paused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_costs_a_moment_once() {
    let world = World::new();
    world.append("a");
    let paused = world.start_as("paused", Leading, 8, Reach::Paused).await;
    let reader = world.reader(1).await;
    let took = async || {
        let began = Instant::now();
        assert_eq!(reader.lines(0, Some(1)).await.unwrap(), ("a".to_owned(), 1));
        began.elapsed()
    };
    // hedge_after and probe_timeout of this world, 150 ms each.
    let both = Duration::from_millis(290);
    let first = took().await;
    assert!(first >= both && first < Duration::from_secs(2), "{first:?}");
    assert_eq!(reader.count("millrace_fleet_fallbacks_total"), 1);
    assert!(reader.count("millrace_fleet_probes_failed_total") >= 1);
    // The process stays suspect for a while. A slow machine may need several tries to show this.
    let mut tries = 1;
    while took().await >= both {
        tries += 1;
        assert!(tries < 50, "a silent process is given the whole time again and again");
    }
    assert_eq!(reader.count("millrace_fleet_fallbacks_total"), 1 + tries);
    drop(paused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_holder_is_waited_for() {
    let world = World::new();
    world.append("a");
    let leader = world.start("leader", Leading, 8).await;
    leader.owner.set(Mode::Hang);
    let reader = world.reader(1).await;
    // It is alive, so the log is not read.
    let asking = tokio::time::timeout(Duration::from_secs(2), reader.lines(0, None));
    assert!(asking.await.is_err());
    assert_eq!(reader.count("millrace_fleet_fallbacks_total"), 0);
    // Requests of clients that gave up are dropped.
    let began = Instant::now();
    while leader.owner.open.load(Ordering::SeqCst) > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "the question is still open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Another process is asked as well.
    let follower = world.start("follower", Following, 8).await;
    drop(reader.control.watch().wait_for(|view| view.holders(P).len() == 2).await.unwrap());
    assert_eq!(reader.lines(0, None).await.unwrap().1, 1);
    assert_eq!((follower.owner.asked(), reader.count("millrace_fleet_fallbacks_total")), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_process_is_asked_directly() {
    let world = World::new();
    world.append("a");
    let own = world.start("own", Following, 8).await;
    own.server.as_ref().unwrap().kill();
    let leader = world.start("leader", Leading, 8).await;
    let reader = world.reader_with(1, config(), Some(&own)).await;
    assert_eq!(reader.lines(0, None).await.unwrap().1, 1);
    assert_eq!((own.owner.asked(), leader.owner.asked()), (0, 1));
    leader.owner.set(Mode::Stopped);
    assert_eq!(reader.lines(0, None).await.unwrap().1, 1);
    assert_eq!((own.owner.asked(), leader.owner.asked()), (1, 1));
    // A partition that is not in the published state yet.
    own.control.update(|state| state.partitions.clear());
    assert_eq!(reader.lines(0, None).await.unwrap().1, 1);
    assert_eq!((own.owner.asked(), reader.count("millrace_fleet_fallbacks_total")), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_process() {
    let world = World::new();
    world.append("a");
    let reader = world.reader(0).await;
    assert_eq!(reader.lines(0, Some(1)).await.unwrap(), ("a".to_owned(), 1));
    assert_eq!(reader.fleet.streams(streams_request(0)).await.unwrap().streams.len(), 1);
    assert_eq!(reader.count("millrace_fleet_fallbacks_total"), 2);
    assert_eq!(reader.fleet.ends().await.unwrap(), [Offset::new(1)]);
    assert_eq!((reader.fleet.partitions(), reader.fleet.held(P)), (vec![P], None));
    // If the log cannot supply all rows, the result is an error, not an incomplete answer.
    let mut request = scan_request(0, Some(2));
    request.at.deadline = Instant::now() + Duration::from_millis(100);
    assert!(matches!(reader.fleet.scan(request).await, Err(OwnerError::Deadline { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_asks_every_leader() {
    let world = World::new();
    let leader = world.start("leader", Leading, 8).await;
    let follower = world.start("follower", Following, 8).await;
    let reader = world.reader(2).await;
    let flushed = || [&leader, &follower].map(|p| p.owner.flushed.load(Ordering::SeqCst));
    reader.fleet.flush().await.unwrap();
    assert_eq!(flushed(), [1, 0]);
    leader.owner.set(Mode::Unavailable);
    assert!(matches!(reader.fleet.flush().await, Err(OwnerError::Unavailable(text)) if text == "on purpose"));
    leader.control.update(|state| state.partitions.clear());
    drop(reader.control.watch().wait_for(|view| view.leader(P).is_none()).await.unwrap());
    let error = reader.fleet.flush().await.unwrap_err().to_string();
    assert_eq!(error, "owner is unavailable: no process leads partition 0 now; try again");
    assert_eq!(flushed(), [2, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_the_same_through_the_rpc() {
    let world = World::new();
    for i in 0..300 {
        world.append(&format!("{i} n={} NaN", i % 7));
    }
    let leader = world.start("leader", Leading, 8).await;
    let reader = world.reader(1).await;
    for text in [
        r#"{app="web"} |= "7""#,
        r#"sum by (line) (count_over_time({app="web"}[20s]))"#,
        r#"bytes_rate({app="web"}[20s])"#,
        r#"quantile_over_time(0.5, {app="web"} | logfmt | unwrap n [20s]) by (app)"#,
    ] {
        let direct = leader.owner.scan(scan_of(text, 100, Some(300))).await.unwrap();
        let request = scan_of(text, 100, Some(300));
        let query = request.query.clone();
        let remote = reader.fleet.scan(request).await.unwrap();
        let stats = |partials: &[logql::Partial]| partials.iter().map(|partial| partial.stats()).collect::<Vec<_>>();
        assert_eq!((remote.held, stats(&remote.partials)), (direct.held, stats(&direct.partials)), "{text}");
        let answer = |partials| query.finish(partials).unwrap();
        assert_eq!(answer(remote.partials), answer(direct.partials), "{text}");
    }
    let (direct, remote) =
        (leader.owner.streams(streams_request(100)).await, reader.fleet.streams(streams_request(100)).await);
    let (direct, remote) = (direct.unwrap(), remote.unwrap());
    assert_eq!((remote.streams, remote.held), (direct.streams, direct.held));
    assert_eq!(leader.owner.asked(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_comes_from_the_view() {
    let world = World::new();
    let leader = world.start("leader", Leading, 8).await;
    let warming = world.start("warming", Warming, 8).await;
    let reader = world.reader(2).await;
    assert_eq!(reader.fleet.held(P), Some(holding(Leading, 8, 0).held));
    assert_eq!(reader.fleet.held(PartitionId::new(9)), None);
    warming.control.update(|state| state.partition_count = 5);
    drop(reader.control.watch().wait_for(|view| view.partition_count() == 5).await.unwrap());
    assert_eq!((reader.fleet.partition_count(), reader.fleet.partitions().len()), (5, 5));
    drop(leader);
}
