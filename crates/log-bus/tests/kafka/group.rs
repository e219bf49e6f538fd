//! The consumer group: sharing partitions, leaving, crashes, named members, both protocols, added partitions.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use limits::PromDuration;
use millrace_log_bus::{Assignment, GroupProtocol, KafkaConfig, KafkaLog, LogBus, LogError};
use model::PartitionId;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::{append, broker, config, connect, until};

/// A member that records its assignments.
struct Watched {
    log: Arc<KafkaLog>,
    told: Arc<Mutex<Vec<Assignment>>>,
    owns: Arc<Mutex<BTreeSet<u32>>>,
    ended: Arc<Mutex<Option<LogError>>>,
    task: JoinHandle<()>,
}

impl Watched {
    async fn join(config: &KafkaConfig) -> Self {
        let log = connect(config).await;
        let (told, owns, ended) = <(Arc<Mutex<Vec<_>>>, Arc<Mutex<BTreeSet<u32>>>, Arc<Mutex<Option<_>>>)>::default();
        let task = tokio::spawn({
            let (log, told, owns, ended) = (log.clone(), told.clone(), owns.clone(), ended.clone());
            async move {
                loop {
                    match log.assignment().await {
                        Ok(assignment) => {
                            match &assignment {
                                Assignment::Assigned(more) => owns.lock().extend(more.iter().map(|p| p.index())),
                                Assignment::Revoked(less) => {
                                    owns.lock().retain(|p| !less.contains(&PartitionId::new(*p)))
                                }
                            }
                            told.lock().push(assignment);
                        }
                        Err(error) => {
                            *ended.lock() = Some(error);
                            return;
                        }
                    }
                }
            }
        });
        Self { log, told, owns, ended, task }
    }

    fn owns(&self) -> BTreeSet<u32> {
        self.owns.lock().clone()
    }

    fn revoked(&self) -> BTreeSet<u32> {
        let told = self.told.lock();
        let revoked = told.iter().filter_map(|t| if let Assignment::Revoked(less) = t { Some(less) } else { None });
        revoked.flatten().map(|p| p.index()).collect()
    }

    fn forget(&self) {
        self.told.lock().clear();
    }

    /// Ends like a process that is stopped without leaving the group.
    async fn close(self) {
        self.task.abort();
        let _ = self.task.await;
        self.log.close().await;
    }
}

/// A session long enough for a test that must finish within it even on a slow machine.
const LONG_SESSION: PromDuration = PromDuration::from_secs(40);

async fn until_shared(members: &[&Watched], count: u32) {
    until("each partition has one owner, and the owners have equal shares", || async {
        let owned: Vec<BTreeSet<u32>> = members.iter().map(|member| member.owns()).collect();
        let all: Vec<u32> = owned.iter().flatten().copied().collect();
        let distinct: BTreeSet<u32> = all.iter().copied().collect();
        let (least, most) = (owned.iter().map(BTreeSet::len).min(), owned.iter().map(BTreeSet::len).max());
        all.len() == count as usize && distinct.len() == all.len() && most.unwrap() - least.unwrap() <= 1
    })
    .await;
}

async fn share_and_leave(change: impl Fn(&mut KafkaConfig, &str)) {
    let broker = broker();
    let base = KafkaConfig { session_timeout: LONG_SESSION, ..config(&broker.bootstrap(), 4) };
    let named = |name: &str| {
        let mut config = base.clone();
        change(&mut config, name);
        config
    };
    let one = Watched::join(&named("one")).await;
    until_shared(&[&one], 4).await;
    one.forget();

    let two = Watched::join(&named("two")).await;
    until_shared(&[&one, &two], 4).await;
    // Rebalances are cooperative, so the first member only loses what the second gets.
    assert_eq!(one.revoked(), two.owns(), "only the partitions that moved were revoked");
    let kept = one.owns();
    one.forget();

    // A member commits for a partition that it owns.
    let partition = PartitionId::new(*kept.first().unwrap());
    let next = append(&one.log, partition, "x").await.next();
    one.log.commit(partition, next).await.unwrap();
    assert_eq!(two.log.committed(partition).await.unwrap(), Some(next));

    let began = Instant::now();
    two.log.leave().await.unwrap();
    let left = began.elapsed();
    until_shared(&[&one], 4).await;
    eprintln!("left after {left:?}; the other member had all partitions after {:?}", began.elapsed());
    assert!(one.revoked().is_empty(), "partitions that did not move were revoked");
    // Far less than a session, which passes if a member disappears without leaving.
    assert!(began.elapsed() < base.session_timeout.get() / 2, "{:?}", began.elapsed());
    assert_eq!(two.log.partition_count(), 4);
    append(&two.log, partition, "a process may append after it left").await;
    two.log.commit(partition, next).await.unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(100), two.log.assignment()).await;
    assert!(silent.is_err(), "a process that left got another assignment");
    one.log.leave().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_without_names() {
    share_and_leave(|_, _| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_with_names() {
    share_and_leave(|config, name| config.instance_id = name.to_owned()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_the_consumer_protocol() {
    share_and_leave(|config, _| config.group_protocol = GroupProtocol::Consumer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_member_comes_back_to_what_it_had() {
    let broker = broker();
    let base = KafkaConfig { session_timeout: LONG_SESSION, ..config(&broker.bootstrap(), 4) };
    let named = |name: &str| KafkaConfig { instance_id: name.to_owned(), ..base.clone() };
    let one = Watched::join(&named("one")).await;
    let two = Watched::join(&named("two")).await;
    until_shared(&[&one, &two], 4).await;
    let had = two.owns();
    one.forget();
    two.close().await;
    let two = Watched::join(&named("two")).await;
    until_shared(&[&one, &two], 4).await;
    assert_eq!(two.owns(), had);
    assert_eq!(*one.told.lock(), [], "the assignment of the other member changed");
    one.log.leave().await.unwrap();
    two.log.leave().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_members_with_one_name_the_older_is_shut_out() {
    let broker = broker();
    let base = KafkaConfig { instance_id: "same".to_owned(), ..config(&broker.bootstrap(), 2) };
    let one = Watched::join(&base).await;
    until_shared(&[&one], 2).await;
    let two = Watched::join(&base).await;
    until_shared(&[&two], 2).await;
    until("the older member loses all partitions", || async { one.owns().is_empty() }).await;
    // It would join again after a session, since it might only have been paused. Leaving prevents that.
    one.log.leave().await.unwrap();
    assert!(one.ended.lock().is_none(), "a process that was shut out once must not stop");
    until_shared(&[&two], 2).await;
    two.log.leave().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn added_partitions_are_shared() {
    let broker = broker();
    for group_protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let base = KafkaConfig { group_protocol, ..config(&broker.bootstrap(), 4) };
        let (one, two) = (Watched::join(&base).await, Watched::join(&base).await);
        until_shared(&[&one, &two], 4).await;
        assert_eq!(one.log.ends().await.unwrap().len(), 4);
        broker.admin().unwrap().grow_topic(&base.topic, 16).await.unwrap();
        until("asking for the ends shows new partitions", || async {
            one.log.ends().await.is_ok_and(|ends| ends.len() == 16)
        })
        .await;
        assert_eq!(one.log.partition_count(), 16);
        until("the other member sees them too", || async { two.log.partition_count() == 16 }).await;
        let last = PartitionId::new(15);
        let offset = append(&two.log, last, "x").await;
        assert_eq!(one.log.ends().await.unwrap()[15], offset.next());
        until_shared(&[&one, &two], 16).await;
        one.log.leave().await.unwrap();
        two.log.leave().await.unwrap();
    }
}

/// A member in a separate process, which can be killed.
struct MemberProcess(Child);

impl MemberProcess {
    fn start(config: &KafkaConfig, count: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "group::member_process", "--nocapture"])
            .env("MILLRACE_TEST_MEMBER", format!("{} {} {}", config.brokers, config.topic, config.group))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let owned = format!("owns {count}");
        while lines.next().unwrap().unwrap() != owned {}
        Self(child)
    }
}

impl Drop for MemberProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test: [`MemberProcess`] runs this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_process() {
    let Ok(words) = std::env::var("MILLRACE_TEST_MEMBER") else { return };
    let words: Vec<&str> = words.split(' ').collect();
    let mut config = config(words[0], 4);
    (config.topic, config.group) = (words[1].to_owned(), words[2].to_owned());
    let member = Watched::join(&config).await;
    let mut last = 0;
    loop {
        let now = member.owns().len();
        if now != last {
            println!("owns {now}");
            last = now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_members_get_the_partitions_of_a_killed_one() {
    let broker = broker();
    let config = config(&broker.bootstrap(), 4);
    let one = Watched::join(&config).await;
    until_shared(&[&one], 4).await;
    let other = tokio::task::spawn_blocking({
        let config = config.clone();
        move || MemberProcess::start(&config, 2)
    });
    let other = other.await.unwrap();
    until("the first member has lost half of the partitions", || async { one.owns().len() == 2 }).await;
    one.forget();
    let began = Instant::now();
    drop(other);
    until_shared(&[&one], 4).await;
    assert!(one.revoked().is_empty(), "partitions that did not move were revoked");
    eprintln!("taken over after {:?}; a session lasts {:?}", began.elapsed(), config.session_timeout.get());
    one.log.leave().await.unwrap();
}

/// A librdkafka client that stopped for good emits no more statistics. The test imitates this with a very long interval.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_is_replaced() {
    let broker = broker();
    for instance_id in ["", "silent"] {
        let mut config = config(&broker.bootstrap(), 4);
        config.instance_id = instance_id.to_owned();
        config.session_timeout = PromDuration::from_secs(2);
        config.properties.insert("statistics.interval.ms".to_owned(), "86400000".to_owned());
        let member = Watched::join(&config).await;
        until_shared(&[&member], 4).await;
        member.forget();
        until("the client counts as dead", || async { member.revoked().len() == 4 }).await;
        until_shared(&[&member], 4).await;
        assert!(member.ended.lock().is_none(), "{:?}", member.ended.lock());
        let next = append(&member.log, PartitionId::new(0), "x").await.next();
        member.log.commit(PartitionId::new(0), next).await.unwrap();
        member.log.leave().await.unwrap();
    }
}
