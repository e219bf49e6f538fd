//! A test world: a log of rows, an owner with the newest of them in memory, and blocks with the others.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its part")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, body::Body};
use block::{BlockOptions, BlockWriter, Provenance};
use bytes::Bytes;
use catalogue::Heads;
use http::{Request, StatusCode, header::HeaderMap};
use limits::{Limits, Overrides};
use millrace_query_service::{Components, Config, Consistency, QueryService, not_found};
use model::{
    Batch, ByteColumn, Labels, ManualClock, MetadataColumn, MetadataValues, Offset, OffsetRange, PartitionId, TenantId,
    TimeRange, TimestampNs,
};
use object_store::{Effect, Fault, Faults, MemoryStore, ObjectKey, ObjectStore, PutCondition};
use owner::{
    Owner, OwnerError, ScanReply, ScanRequest, StreamStat, StreamsReply, StreamsRequest, TailBatch, TailRequest,
    TailSender, TailStream, tail_channel,
};
use parking_lot::Mutex;
use runtime::Processors;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

/// Names the log of all tests.
pub const LOG_ID: &str = "test-log";
/// The time of all tests: 2023-11-14T22:13:20Z.
pub const NOW: TimestampNs = TimestampNs::from_secs(1_700_000_000);

/// One entry of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub tenant: TenantId,
    pub labels: Labels,
    pub ts: TimestampNs,
    pub line: String,
    pub metadata: Vec<(String, String)>,
}

/// A row of tenant `fake`.
pub fn row(labels: &[(&str, &str)], ts: TimestampNs, line: &str) -> Row {
    let labels = Labels::from_pairs(labels.iter().copied());
    Row { tenant: TenantId::new("fake").expect("a name"), labels, ts, line: line.to_owned(), metadata: Vec::new() }
}

/// Rows of one stream as one batch. Each row has an offset of its own.
pub fn batch(labels: &Labels, rows: &[(i64, &Row)]) -> Batch {
    let mut ends = vec![0u32];
    let mut data = Vec::new();
    for (_, row) in rows {
        data.extend_from_slice(row.line.as_bytes());
        ends.push(u32::try_from(data.len()).expect("tests are small"));
    }
    let mut names: Vec<&str> = rows.iter().flat_map(|(_, r)| r.metadata.iter().map(|(n, _)| n.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    let column = |name: &str| {
        let (mut ends, mut data, mut ids) = (vec![0u32], Vec::new(), Vec::new());
        for (_, row) in rows {
            let value = row.metadata.iter().find(|(n, _)| n == name).map(|(_, v)| v);
            ids.push(value.map_or(MetadataValues::ABSENT, |_| u32::try_from(ends.len() - 1).expect("small")));
            if let Some(value) = value {
                data.extend_from_slice(value.as_bytes());
                ends.push(u32::try_from(data.len()).expect("small"));
            }
        }
        let dictionary = ByteColumn::new(ends, Bytes::from(data));
        MetadataColumn { name: name.into(), values: MetadataValues::Dictionary { dictionary, ids } }
    };
    Batch {
        labels: labels.clone(),
        timestamps: rows.iter().map(|(_, r)| r.ts.nanos()).collect(),
        lines: ByteColumn::new(ends, Bytes::from(data)).into(),
        metadata: names.into_iter().map(column).collect(),
        offsets: rows.iter().map(|(offset, _)| *offset).collect(),
    }
}

/// The memory of one partition: rows by offset, from `start` on.
#[derive(Default)]
struct Memory {
    start: i64,
    rows: BTreeMap<i64, Row>,
    end: i64,
    /// Number of the last rows that are in the log but not consumed yet.
    lag: i64,
    /// Retention removed the rows below `start`, and no block has them.
    is_removed: bool,
}

/// How an owner misbehaves. Each field is the number of future answers that do.
#[derive(Default)]
pub struct Misbehaviour {
    /// Answers that no process serves the partition.
    pub not_leading: AtomicU64,
    /// Answers that it is unavailable.
    pub unavailable: AtomicU64,
    /// Answers before it has consumed as far as requested.
    pub short: AtomicU64,
    /// Cannot ask the log for its ends.
    pub no_ends: AtomicU64,
}

/// Counts a misbehaviour down. True if this answer misbehaves.
fn strikes(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// An owner over plain rows.
#[derive(Default)]
pub struct FakeOwner {
    partitions: Mutex<Vec<Memory>>,
    tails: Mutex<Vec<(TailRequest, TailSender)>>,
    /// True if scans never answer.
    pub stuck: AtomicBool,
    /// What goes wrong in future answers.
    pub misbehaves: Misbehaviour,
    /// Number of times the log was asked for its ends.
    pub ends_asked: AtomicU64,
    /// Number of partitions that are known before the log is asked; 0 means all.
    pub known_partitions: AtomicU64,
    /// Number of scan requests.
    pub scans: AtomicU64,
    /// Number of flush requests.
    pub flushes: AtomicU64,
    /// Appended to partition 0 by every scan, before it answers.
    pub scans_append: Mutex<Option<Row>>,
}

impl FakeOwner {
    pub fn new(partitions: u32) -> Self {
        let owner = Self::default();
        owner.partitions.lock().resize_with(partitions as usize, Memory::default);
        owner
    }

    /// Appends rows and passes them to tails. Returns their first offset.
    pub fn append(&self, partition: u32, rows: &[Row]) -> i64 {
        let mut partitions = self.partitions.lock();
        let memory = &mut partitions[partition as usize];
        let first = memory.end;
        for row in rows {
            for (request, sender) in &*self.tails.lock() {
                if request.tenant == row.tenant && request.matchers.iter().all(|m| m.matches(&row.labels)) {
                    let batch = Arc::new(batch(&row.labels, &[(memory.end, row)]));
                    let (partition, offset) = (PartitionId::new(partition), Offset::new(memory.end));
                    sender.send(TailBatch { partition, offset, batch, is_replayed: false });
                }
            }
            memory.rows.insert(memory.end, row.clone());
            memory.end += 1;
        }
        first
    }

    /// Evicts the rows below `to`.
    pub fn evict(&self, partition: u32, to: i64) {
        let memory = &mut self.partitions.lock()[partition as usize];
        memory.start = to;
        memory.rows = memory.rows.split_off(&to);
    }

    /// The end of a partition.
    pub fn end(&self, partition: u32) -> i64 {
        self.partitions.lock()[partition as usize].end
    }

    /// Rows of a range of offsets.
    pub fn rows(&self, partition: u32, from: i64, to: i64) -> Vec<(i64, Row)> {
        self.partitions.lock()[partition as usize].rows.range(from..to).map(|(o, r)| (*o, r.clone())).collect()
    }

    /// Ends all tails, as a stopping owner does.
    pub fn close_tails(&self) {
        self.tails.lock().clear();
    }

    /// Number of open tails.
    pub fn tail_count(&self) -> usize {
        let mut tails = self.tails.lock();
        tails.retain(|(_, sender)| !sender.is_closed());
        tails.len()
    }

    /// Lets the consumer of a partition lag by `rows` rows.
    pub fn lag(&self, partition: u32, rows: i64) {
        self.partitions.lock()[partition as usize].lag = rows;
    }

    /// Retention removes the rows below `to`. No block has them.
    pub fn remove(&self, partition: u32, to: i64) {
        self.evict(partition, to);
        self.partitions.lock()[partition as usize].is_removed = true;
    }

    /// The log gets more partitions.
    pub fn grow(&self, partitions: u32) {
        self.partitions.lock().resize_with(partitions as usize, Memory::default);
    }

    /// The rows in memory from `from` on, once the partition is consumed up to `at_least`.
    async fn held(
        &self,
        partition: PartitionId,
        from: Offset,
        at_least: Option<Offset>,
        deadline: Instant,
    ) -> Result<(OffsetRange, Vec<(i64, Row)>), OwnerError> {
        if strikes(&self.misbehaves.not_leading) {
            return Err(OwnerError::NotLeading { partition });
        }
        if strikes(&self.misbehaves.unavailable) {
            return Err(OwnerError::Unavailable("injected".to_owned()));
        }
        let is_short = strikes(&self.misbehaves.short);
        loop {
            let (consumed, found) = self.held_now(partition, from)?;
            match at_least.filter(|wanted| consumed.end < *wanted && !is_short) {
                None => return Ok((consumed, found)),
                Some(wanted) if Instant::now() >= deadline => {
                    return Err(OwnerError::Deadline { partition, consumed: consumed.end, wanted });
                }
                Some(_) => sleep(Duration::from_millis(2)).await,
            }
        }
    }

    fn held_now(&self, partition: PartitionId, from: Offset) -> Result<(OffsetRange, Vec<(i64, Row)>), OwnerError> {
        let partitions = self.partitions.lock();
        let memory = partitions.get(partition.index() as usize).ok_or(OwnerError::NotLeading { partition })?;
        let end = memory.end - memory.lag;
        let held = OffsetRange::new(Offset::new(memory.start), Offset::new(end));
        if from < held.start && memory.is_removed {
            return Err(OwnerError::Removed { partition, range: OffsetRange::new(from, held.start) });
        }
        if from < held.start {
            return Err(OwnerError::NotHeld { partition, held });
        }
        let rows = memory.rows.range(from.value()..end.max(from.value()));
        Ok((held, rows.map(|(o, r)| (*o, r.clone())).collect()))
    }
}

fn by_stream<'a>(rows: &'a [(i64, Row)], tenant: &TenantId) -> BTreeMap<Labels, Vec<(i64, &'a Row)>> {
    let mut streams: BTreeMap<Labels, Vec<(i64, &Row)>> = BTreeMap::new();
    for (offset, row) in rows.iter().filter(|(_, r)| r.tenant == *tenant) {
        streams.entry(row.labels.clone()).or_default().push((*offset, row));
    }
    streams
}

#[async_trait]
impl Owner for FakeOwner {
    fn partition_count(&self) -> u32 {
        match self.known_partitions.load(Ordering::Relaxed) {
            0 => u32::try_from(self.partitions.lock().len()).expect("few"),
            known => u32::try_from(known).expect("few"),
        }
    }

    async fn ends(&self) -> Result<Vec<Offset>, OwnerError> {
        self.ends_asked.fetch_add(1, Ordering::Relaxed);
        if strikes(&self.misbehaves.no_ends) {
            return Err(OwnerError::Unavailable("no broker answers".to_owned()));
        }
        Ok(self.partitions.lock().iter().map(|memory| Offset::new(memory.end)).collect())
    }

    fn partitions(&self) -> Vec<PartitionId> {
        (0..self.partitions.lock().len()).map(|i| PartitionId::new(u32::try_from(i).expect("few"))).collect()
    }

    fn held(&self, partition: PartitionId) -> Option<OffsetRange> {
        let partitions = self.partitions.lock();
        let memory = partitions.get(partition.index() as usize)?;
        Some(OffsetRange::new(Offset::new(memory.start), Offset::new(memory.end)))
    }

    async fn scan(&self, request: ScanRequest) -> Result<ScanReply, OwnerError> {
        self.scans.fetch_add(1, Ordering::Relaxed);
        if self.stuck.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let appended = self.scans_append.lock().clone();
        if let Some(row) = appended {
            self.append(0, &[row]);
        }
        let ScanRequest { at, query } = request;
        let (held, rows) = FakeOwner::held(self, at.partition, at.from, at.at_least, at.deadline).await?;
        let mut partials = Vec::new();
        for scan in query.scans() {
            let mut partial = scan.partial();
            for (labels, rows) in by_stream(&rows, &at.tenant) {
                if scan.matchers().iter().all(|m| m.matches(&labels)) {
                    scan.accept(&batch(&labels, &rows), &mut partial)?;
                }
            }
            partials.push(partial);
        }
        Ok(ScanReply { partials, held })
    }

    async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError> {
        let at = &request.at;
        let (held, rows) = FakeOwner::held(self, at.partition, at.from, at.at_least, at.deadline).await?;
        let mut streams = Vec::new();
        for (labels, rows) in by_stream(&rows, &at.tenant) {
            let inside: Vec<&Row> = rows.iter().map(|(_, r)| *r).filter(|r| request.time.contains(r.ts)).collect();
            let times = || inside.iter().map(|r| r.ts);
            let (Some(min), Some(max)) = (times().min(), times().max()) else { continue };
            if request.matchers.iter().all(|m| m.matches(&labels)) {
                streams.push(StreamStat {
                    labels,
                    rows: inside.len() as u64,
                    line_bytes: inside.iter().map(|r| r.line.len() as u64).sum(),
                    time: TimeRange::closed(min, max),
                });
            }
        }
        Ok(StreamsReply { streams, held })
    }

    fn tail(&self, request: TailRequest) -> TailStream {
        let (sender, stream) = tail_channel(request.capacity);
        self.tails.lock().push((request, sender));
        stream
    }

    async fn flush(&self) -> Result<(), OwnerError> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A service over a fake owner and a store in memory.
pub struct World {
    pub owner: Arc<FakeOwner>,
    pub store: Arc<MemoryStore>,
    /// The store as the service sees it.
    pub faults: Arc<Faults>,
    pub heads: Arc<Heads>,
    pub clock: Arc<ManualClock>,
    pub registry: prometheus::Registry,
    pub service: Arc<QueryService>,
    pub router: Router,
    partitions: u32,
}

impl World {
    pub fn new(partitions: u32) -> Self {
        Self::with(partitions, Config::default(), Limits::default())
    }

    pub fn with(partitions: u32, config: Config, limits: Limits) -> Self {
        Self::of(partitions, config, limits, Some(Consistency::Strong))
    }

    pub fn of(partitions: u32, config: Config, limits: Limits, consistency_default: Option<Consistency>) -> Self {
        let owner = Arc::new(FakeOwner::new(partitions));
        let store = Arc::new(MemoryStore::new());
        let faults = Arc::new(Faults::new(store.clone(), 1));
        let heads = Arc::new(Heads::new(store.clone(), LOG_ID).expect("a log id"));
        let clock = Arc::new(ManualClock::new(NOW));
        let registry = prometheus::Registry::new();
        let components = Components {
            older_heads: Vec::new(),
            owner: owner.clone(),
            heads: Arc::new(Heads::new(faults.clone(), LOG_ID).expect("a log id")),
            store: faults.clone(),
            processors: Processors::of_machine(),
            consistency_default,
            overrides: Arc::new(Overrides::new(limits)),
            clock: clock.clone(),
            metrics: registry.clone(),
        };
        let service = QueryService::new(config, components).expect("good settings");
        let router = service.router().fallback(not_found);
        Self { owner, store, faults, heads, clock, registry, service, router, partitions }
    }

    /// From now on every request to the store fails.
    pub fn store_goes_away(&self) {
        self.faults.add(Fault::always(Effect::ErrorBefore));
    }

    /// The sum of a metric over all series with the label value `label` (all series if it is empty), or 0.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let of_family = self.registry.gather().into_iter().filter(|family| family.name() == name);
        let value = |metric: &prometheus::proto::Metric| {
            let histogram = metric.get_histogram().get_sample_count() as f64;
            metric.get_counter().get_value() + metric.get_gauge().get_value() + histogram
        };
        let is_meant = |metric: &&prometheus::proto::Metric| {
            label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
        };
        of_family.map(|family| family.get_metric().iter().filter(is_meant).map(value).sum::<f64>()).sum()
    }

    /// Makes a block of the rows `[flushed-to, to)` of a partition, and lists it in the head. Memory keeps the rows.
    pub async fn cut(&self, partition: u32, to: i64) {
        let id = PartitionId::new(partition);
        let from = self.heads.read(id).await.expect("a head").map_or(0, |(head, _)| head.flushed_to.value());
        let range = OffsetRange::new(Offset::new(from), Offset::new(to));
        let rows = self.owner.rows(partition, from, to);
        let entry = self.block(id, range, &rows).await;
        publish(&self.heads, id, range, entry).await;
    }

    async fn block(&self, partition: PartitionId, range: OffsetRange, rows: &[(i64, Row)]) -> catalogue::BlockEntry {
        let provenance = Provenance { log_id: LOG_ID.to_owned(), partition, range, created: NOW };
        // Pages and row groups are small, so that a few rows make many of them.
        let options = BlockOptions { row_group_rows_max: 64, line_page_bytes: 256, ..BlockOptions::default() };
        let mut writer = BlockWriter::new(options, provenance, &["trace".to_owned()]).expect("a writer");
        let mut tenants: Vec<&TenantId> = rows.iter().map(|(_, r)| &r.tenant).collect();
        tenants.sort();
        tenants.dedup();
        for tenant in tenants {
            writer.begin_tenant(tenant).expect("ascending");
            for (labels, mut rows) in by_stream(rows, tenant) {
                writer.begin_stream(&labels).expect("ascending");
                rows.sort_by_key(|(offset, row)| (row.ts, *offset));
                for (offset, row) in rows {
                    let metadata: Vec<(&str, &str)> =
                        row.metadata.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                    let line = row.line.as_bytes();
                    let offset = Offset::new(offset);
                    writer.append(block::Row { ts: row.ts, offset, line, metadata: &metadata }).expect("in order");
                }
            }
        }
        let encoded = writer.finish().expect("a block");
        let key = format!("data/{LOG_ID}/{partition}/{}-{}.parquet", range.start, range.end);
        let object = ObjectKey::new(&key).expect("a key");
        self.store.put(&object, encoded.bytes, PutCondition::IfAbsent).await.expect("stored");
        let summary = encoded.summary;
        let tenant = |t: block::TenantSummary| catalogue::TenantEntry {
            tenant: t.tenant,
            row_groups: t.row_groups,
            rows: t.rows,
            line_bytes: t.line_bytes,
            streams: t.streams,
            time: t.time,
        };
        catalogue::BlockEntry {
            key,
            bytes: summary.bytes,
            tail_bytes: summary.tail_bytes,
            range,
            rows: summary.rows,
            line_bytes: summary.line_bytes,
            time: summary.time,
            tenants: summary.tenants.into_iter().map(tenant).collect(),
            quarantined: summary.quarantined,
        }
    }

    /// Sends a GET without headers.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).expect("a request")).await
    }

    /// Sends a GET with one header.
    pub async fn get_with(&self, path: &str, header: (&str, &str)) -> Reply {
        self.get_with_all(path, &[header]).await
    }

    /// Sends a GET with headers.
    pub async fn get_with_all(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
        self.send(request.body(Body::empty()).expect("a request")).await
    }

    /// Sends a request.
    pub async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.expect("routers do not fail");
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body in memory");
        Reply { status: parts.status, headers: parts.headers, body }
    }

    /// The `data.result` of a query that succeeds.
    pub async fn result(&self, path: &str) -> Value {
        let reply = self.get(path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text());
        reply.json()["data"]["result"].clone()
    }
}

async fn publish(heads: &Heads, partition: PartitionId, range: OffsetRange, entry: catalogue::BlockEntry) {
    let mut lead = heads.acquire(partition, "test", Offset::ZERO).await.expect("leadership");
    lead.publish(range, Some(entry)).await.expect("published");
}

/// The response to a request.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().expect("a plain header"))
    }
}

/// Encodes a value for a URL.
pub fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The path of a range query over the time of all rows.
pub fn range_path(query: &str, more: &str) -> String {
    let (start, end) = (NOW.nanos() - 600_000_000_000, NOW.nanos());
    format!("/loki/api/v1/query_range?query={}&start={start}&end={end}{more}", encode(query))
}
