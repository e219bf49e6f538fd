//! Processes on one topic in memory. They use tokio's paused time, which advances when all tasks wait.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use log_bus::{LogError, MemoryControl};
use model::{Clock, Offset, OffsetRange, PartitionId, TimestampNs};
use prometheus::Registry;
use tokio::task::JoinHandle;

use super::*;
use crate::{PartitionRole, PartitionState, Role};

/// The clock of the paused runtime.
struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> TimestampNs {
        TimestampNs::from_secs(1_000_000).plus(self.0.elapsed())
    }
}

fn topic() -> MemoryControl {
    MemoryControl::new(Arc::new(TestClock(Instant::now())))
}

/// A topic that can be broken on demand and counts the published messages.
struct Breakable {
    inner: Arc<dyn ControlBus>,
    broken: AtomicBool,
    published: AtomicUsize,
}

impl Breakable {
    fn join(topic: &MemoryControl) -> Arc<Self> {
        Arc::new(Self { inner: topic.join(), broken: AtomicBool::new(false), published: AtomicUsize::new(0) })
    }

    fn check(&self) -> Result<(), LogError> {
        if self.broken.load(Ordering::SeqCst) { Err(LogError::Unavailable("broken".to_owned())) } else { Ok(()) }
    }
}

#[async_trait]
impl ControlBus for Breakable {
    async fn publish(&self, key: &str, payload: Bytes) -> Result<(), LogError> {
        self.check()?;
        self.published.fetch_add(1, Ordering::SeqCst);
        self.inner.publish(key, payload).await
    }

    async fn next(&self) -> Result<ControlRecord, LogError> {
        loop {
            self.check()?;
            if let Ok(record) = tokio::time::timeout(Duration::from_secs(1), self.inner.next()).await {
                self.check()?;
                return record;
            }
        }
    }
}

struct Process {
    control: Arc<Control>,
    bus: Arc<Breakable>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Process {
    fn start(topic: &MemoryControl, id: &str) -> Self {
        let state = ProcessState {
            id: id.to_owned(),
            roles: vec![Role::Consumer],
            rpc: Some(format!("{id}:1")),
            ..ProcessState::default()
        };
        let bus = Breakable::join(topic);
        let control = Control::new(Config::default(), state, bus.clone(), &Registry::new()).unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn({
            let (control, shutdown) = (control.clone(), shutdown.clone());
            async move { control.run(shutdown).await }
        });
        Self { control, bus, shutdown, task }
    }

    fn ids(&self) -> String {
        let view = self.control.view();
        view.processes().map(|p| p.id.as_str()).collect::<Vec<_>>().join("")
    }

    async fn until(&self, what: impl Fn(&View) -> bool) {
        let mut views = self.control.watch();
        let waiting = views.wait_for(|view| what(view));
        let view = tokio::time::timeout(Duration::from_secs(100), waiting).await.expect("the view changes in time");
        view.expect("the process still runs");
    }

    fn lead(&self, epoch: u64, end: i64) {
        let held = OffsetRange::new(Offset::ZERO, Offset::new(end));
        let state = PartitionState { partition: PartitionId::new(0), role: PartitionRole::Leading, epoch, held };
        self.control.update(|own| own.partitions = vec![state]);
    }

    fn leader(&self) -> Option<String> {
        self.control.view().leader(PartitionId::new(0)).map(|leader| leader.id)
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn processes_learn_about_one_another() {
    let topic = topic();
    let (a, b) = (Process::start(&topic, "a"), Process::start(&topic, "b"));
    assert_eq!((a.ids(), b.ids()), ("a".to_owned(), "b".to_owned()));
    seconds(1).await;
    let c = Process::start(&topic, "c");
    seconds(1).await;
    assert_eq!([a.ids(), b.ids(), c.ids()], ["abc", "abc", "abc"]);

    a.lead(3, 10);
    assert_eq!(a.leader().as_deref(), Some("a"), "the own view changes at once");
    let began = Instant::now();
    c.until(|view| view.leader(PartitionId::new(0)).is_some()).await;
    assert!(began.elapsed() < Duration::from_millis(100), "news must not wait for the beat: {:?}", began.elapsed());

    // A killed process is dropped after the expiry.
    b.task.abort();
    seconds(8).await;
    assert_eq!(a.ids(), "abc");
    seconds(6).await;
    assert_eq!([a.ids(), c.ids()], ["ac", "ac"]);
    assert_eq!(c.control.metrics.processes.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_leaving_process_announces_it() {
    let topic = topic();
    let (a, b) = (Process::start(&topic, "a"), Process::start(&topic, "b"));
    a.lead(3, 10);
    b.until(|view| view.leader(PartitionId::new(0)).is_some()).await;
    a.shutdown.cancel();
    a.task.await.unwrap();
    b.until(|view| view.process("a").is_some_and(|p| p.leaving)).await;
    assert_eq!((b.leader(), b.control.view().holders(PartitionId::new(0)).len()), (None, 0));
    assert_eq!(b.ids(), "ba", "a leaving process comes last");
    seconds(20).await;
    assert_eq!(b.ids(), "b");
}

#[tokio::test(start_paused = true)]
async fn changes_in_quick_succession_share_a_message() {
    let topic = topic();
    let (a, b) = (Process::start(&topic, "a"), Process::start(&topic, "b"));
    seconds(1).await;
    let published = || a.bus.published.load(Ordering::SeqCst);
    assert_eq!(published(), 1);
    for epoch in 1..=40 {
        a.lead(epoch, 0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    b.until(|view| view.leader(PartitionId::new(0)).is_some_and(|l| l.epoch == 40)).await;
    assert!((4..=7).contains(&published()), "40 changes in 200 ms: {} messages", published());

    // Held ranges wait for the beat.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = published();
    let mut views = a.control.watch();
    views.mark_unchanged();
    a.lead(40, 77);
    assert!(views.has_changed().unwrap(), "the own view changes at once");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(published(), before);
    seconds(2).await;
    assert_eq!(b.control.view().holders(PartitionId::new(0))[0].held.end, Offset::new(77));
}

#[tokio::test(start_paused = true)]
async fn an_outage_drops_no_process() {
    let topic = topic();
    let processes = [Process::start(&topic, "a"), Process::start(&topic, "b"), Process::start(&topic, "c")];
    seconds(1).await;
    let set = |broken| processes.iter().for_each(|p| p.bus.broken.store(broken, Ordering::SeqCst));
    set(true);
    for _ in 0..600 {
        seconds(1).await;
        assert!(processes.iter().all(|p| p.ids() == "abc"));
    }
    let errors = |p: &Process, kind: &str| p.control.metrics.errors.with_label_values(&[kind]).get();
    assert!(processes.iter().all(|p| errors(p, "publish") > 100 && errors(p, "read") > 0));
    set(false);
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(processes.iter().all(|p| p.ids() == "abc"));
    }
    // If only one process is cut off, it keeps its last view, and the others drop it.
    processes[0].bus.broken.store(true, Ordering::SeqCst);
    seconds(30).await;
    assert_eq!([processes[0].ids(), processes[1].ids(), processes[2].ids()], ["abc", "bc", "bc"]);
    processes[0].bus.broken.store(false, Ordering::SeqCst);
    seconds(3).await;
    assert!(processes.iter().all(|p| p.ids() == "abc"));
}

#[tokio::test(start_paused = true)]
async fn unusable_messages_are_counted() {
    let topic = topic();
    let a = Process::start(&topic, "a");
    let stranger = topic.join();
    for payload in [r#"{"v":99,"id":"z"}"#, "nonsense", r#"{"v":1,"id":"z"}"#] {
        stranger.publish("z", Bytes::from_static(payload.as_bytes())).await.unwrap();
    }
    a.until(|view| view.process("z").is_some()).await;
    let errors = |kind: &str| a.control.metrics.errors.with_label_values(&[kind]).get();
    assert_eq!((errors("newer_version"), errors("unreadable"), errors("read")), (1, 1, 0));
    assert!(a.control.metrics.read.get() >= 3);
    // A process ignores messages of others under its own id.
    stranger.publish("a", Bytes::from_static(br#"{"v":1,"id":"a","zone":"moon"}"#)).await.unwrap();
    seconds(1).await;
    assert_eq!(a.control.view().process("a").unwrap().zone, "");
}

#[tokio::test(start_paused = true)]
async fn settings_and_ids_are_checked() {
    let new = |id: &str, config: Config| {
        let state = ProcessState { id: id.to_owned(), ..ProcessState::default() };
        Control::new(config, state, topic().join(), &Registry::new()).map(|c| c.id().to_owned())
    };
    assert_eq!(new("a", Config::default()).unwrap(), "a");
    let wrong = Config { publish_timeout: limits::PromDuration::default(), ..Config::default() };
    let error = new("", wrong).unwrap_err();
    assert_eq!(error.to_string(), "control: publish_timeout must not be 0; the process has no id");
    let (one, two) = (fresh_id("consumer-1"), fresh_id("consumer-1"));
    assert!(one != two && one.starts_with("consumer-1-") && one.len() == "consumer-1-".len() + 8, "{one} {two}");
}
