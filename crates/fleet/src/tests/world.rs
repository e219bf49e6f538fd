//! Processes with owners whose behaviour the tests choose.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use control::{Control, PartitionRole, PartitionState, ProcessState, Role};
use limits::PromDuration;
use log_bus::{MemoryControl, MemoryLog};
use logql::{Answer, Direction, Params, Query, QueryError};
use model::{Labels, Matcher, Offset, OffsetRange, PartitionId, SystemClock, TenantId, TimeRange, TimestampNs};
use owner::{
    CatchUp, LogTail, LogTailConfig, Owner, OwnerError, ScanReply, ScanRequest, StreamsReply, StreamsRequest,
    TailBatch, TailRequest, TailSender, TailStream, Where, tail_channel,
};
use parking_lot::Mutex;
use prometheus::Registry;
use runtime::Processors;
use schemas::record::RecordBuilder;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Components, Config, Fleet, OwnerServer};

pub(super) const P: PartitionId = PartitionId::new(0);

/// The behaviour of an owner.
#[derive(Clone, Debug)]
pub(super) enum Mode {
    /// Answers with the rows of the log.
    Serve,
    /// Answers with a range that ends at this offset.
    Short(i64),
    NotLeading,
    NotHeld(i64, i64),
    Deadline,
    Unavailable,
    Stopped,
    Query,
    /// Never answers.
    Hang,
}

/// An owner that reads the log, or fails as the test chooses.
pub(super) struct TestOwner {
    log: Arc<LogTail>,
    pub(super) mode: Mutex<Mode>,
    pub(super) asked: AtomicUsize,
    /// Number of requests that run now.
    pub(super) open: AtomicUsize,
    pub(super) flushed: AtomicUsize,
    pub(super) tails: Mutex<Vec<TailSender>>,
    /// The catch-up of each opened tail, in order.
    pub(super) catch_ups: Mutex<Vec<CatchUp>>,
    partitions: Vec<PartitionId>,
}

struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TestOwner {
    pub(super) fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    /// Number of requests since the last call.
    pub(super) fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst)
    }

    /// The error to return, if any, and the end to report.
    async fn mood(&self, partition: PartitionId) -> Result<Option<i64>, OwnerError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let _open = Open::new(&self.open);
        let mode = self.mode.lock().clone();
        Err(match mode {
            Mode::Serve => return Ok(None),
            Mode::Short(end) => return Ok(Some(end)),
            Mode::NotLeading => OwnerError::NotLeading { partition },
            Mode::NotHeld(start, end) => {
                OwnerError::NotHeld { partition, held: OffsetRange::new(Offset::new(start), Offset::new(end)) }
            }
            Mode::Deadline => OwnerError::Deadline { partition, consumed: Offset::ZERO, wanted: Offset::new(1) },
            Mode::Unavailable => OwnerError::Unavailable("on purpose".to_owned()),
            Mode::Stopped => OwnerError::Stopped("on purpose".to_owned()),
            Mode::Query => OwnerError::Query(QueryError::SeriesLimit(3)),
            Mode::Hang => std::future::pending().await,
        })
    }
}

fn shown(held: OffsetRange, end: Option<i64>) -> OffsetRange {
    OffsetRange { end: end.map_or(held.end, Offset::new), ..held }
}

#[async_trait]
impl Owner for TestOwner {
    fn partition_count(&self) -> u32 {
        1
    }

    async fn ends(&self) -> Result<Vec<Offset>, OwnerError> {
        Err(OwnerError::Unavailable("nobody asks an owner of a fleet".to_owned()))
    }

    fn partitions(&self) -> Vec<PartitionId> {
        self.partitions.clone()
    }

    fn held(&self, partition: PartitionId) -> Option<OffsetRange> {
        self.partitions.contains(&partition).then_some(OffsetRange::new(Offset::ZERO, Offset::new(1)))
    }

    async fn scan(&self, request: ScanRequest) -> Result<ScanReply, OwnerError> {
        let end = self.mood(request.at.partition).await?;
        let reply = self.log.scan(request).await?;
        Ok(ScanReply { held: shown(reply.held, end), ..reply })
    }

    async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError> {
        let end = self.mood(request.at.partition).await?;
        let reply = self.log.streams(request).await?;
        Ok(StreamsReply { held: shown(reply.held, end), ..reply })
    }

    fn tail(&self, request: TailRequest) -> TailStream {
        let (sender, stream) = tail_channel(request.capacity);
        self.catch_ups.lock().push(request.catch_up);
        self.tails.lock().push(sender);
        stream
    }

    async fn flush(&self) -> Result<(), OwnerError> {
        self.flushed.fetch_add(1, Ordering::SeqCst);
        self.mood(P).await.map(|_| ())
    }
}

/// The parts that all processes share.
pub(super) struct World {
    pub(super) log: Arc<MemoryLog>,
    topic: MemoryControl,
}

/// One process.
pub(super) struct Process {
    pub(super) owner: Arc<TestOwner>,
    pub(super) control: Arc<Control>,
    pub(super) server: Option<Server>,
    _running: DropGuard,
}

/// A server that can be killed.
pub(super) struct Server {
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(super) fn kill(&self) {
        self.task.abort();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How a process answers connections.
pub(super) enum Reach {
    Served,
    /// Accepts connections and never answers.
    Paused,
    /// Refuses connections.
    Gone,
}

impl World {
    pub(super) fn new() -> Self {
        Self { log: Arc::new(MemoryLog::new(1)), topic: MemoryControl::new(Arc::new(SystemClock)) }
    }

    /// Appends a record with one line.
    pub(super) fn append(&self, line: &str) -> Offset {
        let mut builder = RecordBuilder::new(&tenant(), TimestampNs::from_secs(1));
        builder.stream(&Labels::from_pairs([("app", "web"), ("line", line)]), &[]);
        builder.entry(TimestampNs::from_secs(2), line.as_bytes(), std::iter::empty());
        self.log.append_raw(P, Bytes::new(), builder.finish(None)).expect("the log takes it")
    }

    pub(super) fn log_tail(&self) -> Arc<LogTail> {
        LogTail::new(LogTailConfig::default(), self.log.clone(), &Processors::default())
    }

    pub(super) async fn start(&self, id: &str, role: PartitionRole, epoch: u64) -> Process {
        self.start_as(id, role, epoch, Reach::Served).await
    }

    pub(super) async fn start_as(&self, id: &str, role: PartitionRole, epoch: u64, reach: Reach) -> Process {
        let owner = Arc::new(TestOwner {
            log: self.log_tail(),
            mode: Mutex::new(Mode::Serve),
            asked: AtomicUsize::default(),
            open: AtomicUsize::default(),
            flushed: AtomicUsize::default(),
            tails: Mutex::default(),
            catch_ups: Mutex::default(),
            partitions: vec![P],
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let server = match reach {
            Reach::Gone => None,
            Reach::Paused => Some(tokio::spawn(async move {
                let mut open = Vec::new();
                while let Ok((stream, _)) = listener.accept().await {
                    open.push(stream);
                }
            })),
            Reach::Served => {
                let router = OwnerServer::new(owner.clone(), &Processors::default()).into_router();
                Some(tokio::spawn(async move {
                    let (config, registry) = (telemetry::ServeConfig::default(), Registry::new());
                    // Dropping the task must cut connections, as a kill does.
                    let shutdown = CancellationToken::new();
                    drop(telemetry::serve(listener, router, &registry, config, shutdown).await);
                }))
            }
        };
        let state = ProcessState {
            id: id.to_owned(),
            roles: vec![Role::Consumer],
            rpc: Some(address.clone()),
            partitions: vec![holding(role, epoch, 0)],
            partition_count: 1,
            ..ProcessState::default()
        };
        let (control, running) = self.join(state);
        let server = server.map(|task| Server { task });
        Process { owner, control, server, _running: running }
    }

    fn join(&self, state: ProcessState) -> (Arc<Control>, DropGuard) {
        let control =
            Control::new(control::Config::default(), state, self.topic.join(), &Registry::new()).expect("good");
        let stop = CancellationToken::new();
        let (running, token) = (control.clone(), stop.clone());
        tokio::spawn(async move { running.run(token).await });
        (control, stop.drop_guard())
    }

    /// A reader that knows `processes` other processes.
    pub(super) async fn reader(&self, processes: usize) -> Reader {
        self.reader_with(processes, config(), None).await
    }

    pub(super) async fn reader_with(&self, processes: usize, config: Config, local: Option<&Process>) -> Reader {
        let (control, running) = match local {
            Some(process) => (process.control.clone(), None),
            None => {
                let state = ProcessState { id: "reader".to_owned(), ..ProcessState::default() };
                let (control, running) = self.join(state);
                (control, Some(running))
            }
        };
        let known = |view: &Arc<control::View>| view.processes().count() == processes + 1;
        drop(control.watch().wait_for(known).await.expect("control lives"));
        let components = Components {
            control: control.clone(),
            local: local.map(|process| process.owner.clone() as Arc<dyn Owner>),
            log: self.log.clone(),
            tail: self.log_tail(),
            processors: Processors::default(),
            metrics: Registry::new(),
        };
        let registry = components.metrics.clone();
        let fleet = Fleet::new(config, components).expect("good settings");
        Reader { fleet, control, registry, _running: running }
    }
}

/// Short timeouts, so that tests are fast.
pub(super) fn config() -> Config {
    let ms = PromDuration::from_millis;
    Config { hedge_after: ms(150), probe_timeout: ms(150), tail_retry: ms(20), tail_hold: ms(200), ..Config::default() }
}

pub(super) fn holding(role: PartitionRole, epoch: u64, start: i64) -> PartitionState {
    PartitionState { partition: P, role, epoch, held: OffsetRange::new(Offset::new(start), Offset::new(start + 1)) }
}

/// The process that asks.
pub(super) struct Reader {
    pub(super) fleet: Arc<Fleet>,
    pub(super) control: Arc<Control>,
    registry: Registry,
    _running: Option<DropGuard>,
}

impl Reader {
    /// The lines from `from` on, and the end of the answer.
    pub(super) async fn lines(&self, from: i64, at_least: Option<i64>) -> Result<(String, i64), OwnerError> {
        let request = scan_request(from, at_least);
        let query = request.query.clone();
        let reply = self.fleet.scan(request).await?;
        Ok((lines(&query, reply.partials), reply.held.end.value()))
    }

    /// The sum of a counter.
    pub(super) fn count(&self, name: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        family.map_or(0, |f| f.get_metric().iter().map(|m| m.get_counter().get_value() as u64).sum())
    }
}

pub(super) fn lines(query: &Query, partials: Vec<logql::Partial>) -> String {
    let Answer::Streams(streams) = query.finish(partials).expect("an answer") else { panic!("not of a log query") };
    let mut lines: Vec<String> = streams
        .iter()
        .flat_map(|stream| &stream.entries)
        .map(|entry| String::from_utf8_lossy(&entry.line).into_owned())
        .collect();
    lines.sort();
    lines.join(" ")
}

pub(super) fn tenant() -> TenantId {
    TenantId::new("acme").expect("a name")
}

pub(super) fn scan_request(from: i64, at_least: Option<i64>) -> ScanRequest {
    scan_of(r#"{app="web"}"#, from, at_least)
}

pub(super) fn scan_of(text: &str, from: i64, at_least: Option<i64>) -> ScanRequest {
    let params = Params {
        start: TimestampNs::from_secs(0),
        end: TimestampNs::from_secs(60),
        step: Duration::from_secs(10),
        interval: Duration::ZERO,
        direction: Direction::Forward,
        limit: 1000,
        series_max: 0,
    };
    ScanRequest {
        at: Where {
            partition: P,
            tenant: tenant(),
            from: Offset::new(from),
            at_least: at_least.map(Offset::new),
            deadline: Instant::now() + Duration::from_secs(6),
        },
        query: Arc::new(Query::prepare(text, params).expect("a good query")),
    }
}

pub(super) fn streams_request(from: i64) -> StreamsRequest {
    let at = scan_request(from, None).at;
    let matchers: Arc<[Matcher]> = logql::parse_matchers(r#"{app="web"}"#).expect("a selector").into();
    StreamsRequest { at, matchers, time: TimeRange::ALL }
}

/// Live rows: one line at an offset.
pub(super) fn tail_batch(offset: i64) -> TailBatch {
    let line = offset.to_string();
    let batch = model::Batch {
        labels: Labels::from_pairs([("app", "web")]),
        timestamps: vec![offset],
        lines: model::ByteColumn::new(vec![0, line.len() as u32], line.into_bytes().into()).into(),
        metadata: Vec::new(),
        offsets: vec![offset],
    };
    TailBatch { partition: P, offset: Offset::new(offset), batch: Arc::new(batch), is_replayed: false }
}
