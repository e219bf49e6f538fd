//! `tail`: sends new entries over a WebSocket as they are consumed.
//!
//! ```text
//! Owner::tail ─batches─▶ query ─entries─▶ waiting (delay_for) ─▶ frames ─10 at most─▶ socket
//! history (one query) ───────────────────▲                                 └─▶ dropped_entries
//! ```
//!
//! The live part begins before the history is read, so no entry is missed between them. Entries in both are sent once. If
//! a client is too slow, entries are dropped, and the client learns which.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code, rejection::WebSocketUpgradeRejection},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use logql::{
    Answer, Direction, Params as QueryParams, Query, ResultEntry,
    ast::{Expr, LineFilter, LineOp, LineOperand, Stage},
};
use model::{Batch, Labels, Matcher, RegexMode, StreamHash, TenantId, TimestampNs, compile_regex};
use owner::{CatchUp, TailBatch, TailRequest, TailStream};
use reading::Goal;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    check,
    encode::{self, EncodingFlags},
    error::{Error, text_response},
    params::Bounds,
    request::Request,
    service::{QueryRequest, QueryService, QuerySpan},
};

/// Largest number of entries in one frame.
const FRAME_ENTRIES_MAX: usize = 100;
/// Largest number of frames that wait for a slow client.
const FRAMES_WAITING_MAX: usize = 10;
/// Largest number of dropped entries that the client learns of.
const DROPPED_MAX: usize = 1000;
/// Largest number of batches that wait between the owner and a tail.
const BATCHES_WAITING_MAX: usize = 1024;
/// Largest number of entries that wait for their delay. More are dropped.
const DELAYED_MAX: usize = 100_000;
/// Time between pings to the client.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// `/loki/api/v1/tail`
pub(crate) async fn open(
    State(service): State<Arc<QueryService>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request,
) -> Response {
    // The request is checked first, so that the client gets its errors even if it cannot upgrade.
    let tail = match Tail::read(&service, &request) {
        Ok(tail) => tail,
        Err(error) => return text_response(error.status(), format!("{}\n", error.to_string().trim_end())),
    };
    match upgrade {
        Ok(upgrade) => upgrade.on_upgrade(move |socket| async move {
            let running = service.tail_tasks.clone().spawn("tail", tail.run(service, socket));
            // The set logs a panic.
            let _ = running.await;
        }),
        Err(rejection) => rejection.into_response(),
    }
}

/// One tail, as the client asked for it.
struct Tail {
    tenant: TenantId,
    /// As the client wrote it.
    text: String,
    expr: Expr,
    /// Evaluates live batches.
    live: Query,
    matchers: Arc<[Matcher]>,
    delay: Duration,
    limit: u32,
    start: TimestampNs,
    flags: EncodingFlags,
    is_drilldown: bool,
    /// What the history must contain.
    goal: Arc<Goal>,
}

/// One entry on its way to the client.
#[derive(Clone, Debug)]
struct TailEntry {
    /// All labels.
    labels: Labels,
    /// The labels of the stream.
    stream: Labels,
    entry: ResultEntry,
}

/// An entry that was dropped.
struct DroppedEntry {
    labels: Labels,
    ts: TimestampNs,
}

/// Why a tail ends.
enum TailEnd {
    /// The client left, or the service stops.
    Silent,
    /// The client learns the reason.
    WithReason(String),
}

impl Tail {
    fn read(service: &QueryService, request: &Request) -> Result<Self, Error> {
        let tenant = request.tenant()?.clone();
        let params = &request.params;
        let text = params.get("query").to_owned();
        let mut log = logql::parse_log(&text)?;
        // Old clients send one more line filter as a parameter.
        let regexp = params.get("regexp");
        if !regexp.is_empty() {
            compile_regex(regexp, RegexMode::Search).map_err(|e| Error::bad(format!("parse error : {e}")))?;
            let operands = vec![LineOperand::Text(regexp.to_owned())];
            log.stages.push(Stage::LineFilter(LineFilter { op: LineOp::Regex, operands }));
        }
        let matchers: Arc<[Matcher]> = log.matchers.clone().into();
        let expr = Expr::Log(log);
        let limits = service.limits(&tenant);
        check::check_query(&text, &expr, &limits, request.is_drilldown())?;
        let delay = match params.get("delay_for") {
            "" => 0,
            number => number
                .parse::<u64>()
                .map_err(|_| Error::bad(format!("strconv.Atoi: parsing {number:?}: invalid syntax")))?,
        };
        if delay > 5 {
            return Err(Error::bad("delay_for can't be greater than 5"));
        }
        let limit = params.limit()?;
        check::check_entries(limit, &limits)?;
        let hour_ago = service.clock.now().minus(Duration::from_secs(3600));
        let start = params.time("start", hour_ago)?;
        // A query that cannot be evaluated is refused before the upgrade, too.
        let live = Query::of(expr.clone(), live_params())?;
        Ok(Self {
            tenant,
            text,
            expr,
            live,
            matchers,
            delay: Duration::from_secs(delay),
            limit,
            start,
            flags: request.flags.clone(),
            is_drilldown: request.is_drilldown(),
            // Live entries come from the owners that are furthest ahead. A history that lags behind them would leave a gap.
            goal: Arc::new(request.goal.strong_by_default()),
        })
    }

    async fn run(self, service: Arc<QueryService>, socket: WebSocket) {
        let (sink, mut client) = socket.split();
        let (frames, waiting) = mpsc::channel(FRAMES_WAITING_MAX);
        let gone = CancellationToken::new();
        let writer = write_frames(sink, waiting, service.clone(), gone.clone());
        let tail = async {
            let end = tokio::select! {
                biased;
                () = service.stopping.cancelled() => TailEnd::Silent,
                () = gone.cancelled() => TailEnd::Silent,
                () = until_closed(&mut client) => TailEnd::Silent,
                () = tokio::time::sleep(service.config().tail_max_duration.get()) => {
                    TailEnd::WithReason("reached tail max duration limit".to_owned())
                }
                end = self.follow(&service, &frames) => end,
            };
            let (code, text) = match end {
                TailEnd::Silent => (close_code::AWAY, String::new()),
                TailEnd::WithReason(text) => (close_code::ERROR, text),
            };
            // A close frame has room for 123 bytes of text.
            let text: String = text.chars().take(120).collect();
            let closing = Message::Close(Some(CloseFrame { code, reason: text.into() }));
            // Do not wait long for a client that does not read.
            let _ = tokio::time::timeout(Duration::from_secs(1), frames.send(closing)).await;
            drop(frames);
        };
        tokio::join!(writer, tail);
    }

    /// Sends history and live entries until the tail ends.
    async fn follow(&self, service: &QueryService, frames: &mpsc::Sender<Message>) -> TailEnd {
        let tails_max = check::count(service.limits(&self.tenant).max_concurrent_tail_requests);
        let Some(_slot) = TailSlot::take(service, &self.tenant, tails_max) else {
            let count = tails_max + 1;
            return TailEnd::WithReason(format!(
                "max concurrent tail requests limit exceeded, count > limit ({count} > {tails_max})"
            ));
        };
        let request = TailRequest {
            tenant: self.tenant.clone(),
            matchers: self.matchers.clone(),
            capacity: BATCHES_WAITING_MAX,
            catch_up: CatchUp::Never,
        };
        let mut live = service.owner.tail(request);
        // Rows consumed before this are in the history. Rows consumed from now on come live.
        live.opened().await;
        let history = match self.history(service).await {
            Ok(history) => history,
            Err(error) => return TailEnd::WithReason(error.to_string()),
        };
        let mut sent = AlreadySent::new(&history);
        let mut out = Outgoing::new(self, service, frames.clone());
        out.push(history);
        let mut streams = StreamCount::new(service);
        loop {
            let due = out.due();
            let batch = tokio::select! {
                batch = live.recv() => batch,
                () = tokio::time::sleep_until(due.unwrap_or_else(far_away)), if due.is_some() => {
                    out.flush();
                    continue;
                }
            };
            let Some(batch) = batch else {
                out.flush();
                return TailEnd::WithReason("all ingesters closed the connection".to_owned());
            };
            if let Err(error) = self.take(&mut live, batch, &mut sent, &mut streams, &mut out) {
                return TailEnd::WithReason(error.to_string());
            }
            out.note_lost(live.dropped());
            out.flush();
        }
    }

    /// Takes a batch and the batches that wait behind it.
    fn take(
        &self,
        live: &mut TailStream,
        first: TailBatch,
        sent: &mut AlreadySent,
        streams: &mut StreamCount<'_>,
        out: &mut Outgoing<'_>,
    ) -> Result<(), Error> {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(TailBatch { batch, .. }) = next {
            taken += batch.len();
            streams.see(&batch.labels);
            let mut entries = evaluate(&self.live, &batch)?;
            entries.retain(|entry| !sent.take(entry));
            out.push(entries);
            // A steady stream of batches must not delay frames forever.
            next = if taken < FRAME_ENTRIES_MAX { live.try_recv() } else { None };
        }
        Ok(())
    }

    /// The last entries since the start, oldest first.
    async fn history(&self, service: &QueryService) -> Result<Vec<TailEntry>, Error> {
        let now = service.clock.now();
        if now <= self.start {
            return Ok(Vec::new());
        }
        let bounds = Bounds { start: self.start, end: now };
        let request = QueryRequest {
            text: self.text.clone(),
            expr: self.expr.clone(),
            span: QuerySpan::Range { bounds, step: Duration::from_secs(1), interval: Duration::ZERO },
            limit: self.limit,
            direction: Direction::Backward,
            is_drilldown: self.is_drilldown,
            goal: self.goal.clone(),
        };
        let found = service.query(&self.tenant, &request).await?;
        Ok(entries_of(found.answer))
    }
}

/// The parameters for live batches: all entries that pass the pipeline.
fn live_params() -> QueryParams {
    QueryParams {
        start: TimestampNs::MIN,
        end: TimestampNs::MAX,
        step: Duration::ZERO,
        interval: Duration::ZERO,
        direction: Direction::Forward,
        limit: u32::MAX,
        series_max: 0,
    }
}

/// The entries of one batch that pass the query, oldest first.
fn evaluate(query: &Query, batch: &Batch) -> Result<Vec<TailEntry>, Error> {
    let Some(scan) = query.scans().first() else { return Ok(Vec::new()) };
    let mut partial = scan.partial();
    scan.accept(batch, &mut partial)?;
    Ok(entries_of(query.finish(vec![partial])?))
}

/// All entries of an answer, oldest first.
fn entries_of(answer: Answer) -> Vec<TailEntry> {
    let Answer::Streams(streams) = answer else { return Vec::new() };
    let mut entries: Vec<TailEntry> = Vec::new();
    for found in streams {
        let (labels, stream) = (found.labels, found.stream);
        let of_stream = found.entries.into_iter();
        entries.extend(of_stream.map(|entry| TailEntry { labels: labels.clone(), stream: stream.clone(), entry }));
    }
    entries.sort_by_key(|e| e.entry.ts);
    entries
}

/// Entries of the history. Each may come again in the live part.
struct AlreadySent {
    hasher: RandomState,
    counts: HashMap<u64, u32>,
}

impl AlreadySent {
    fn new(history: &[TailEntry]) -> Self {
        let mut sent = Self { hasher: RandomState::new(), counts: HashMap::new() };
        for entry in history {
            let key = sent.key(entry);
            *sent.counts.entry(key).or_default() += 1;
        }
        sent
    }

    fn key(&self, entry: &TailEntry) -> u64 {
        self.hasher.hash_one((entry.labels.stream_hash(), entry.entry.ts.nanos(), &entry.entry.line))
    }

    /// True if the entry was sent with the history. Each entry of the history counts once.
    fn take(&mut self, entry: &TailEntry) -> bool {
        if self.counts.is_empty() {
            return false;
        }
        let key = self.key(entry);
        let Some(count) = self.counts.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&key);
        }
        true
    }
}

/// The way to the client: entries that wait for their delay, frames, and dropped entries.
struct Outgoing<'a> {
    delay: Duration,
    flags: &'a EncodingFlags,
    service: &'a QueryService,
    frames: mpsc::Sender<Message>,
    waiting: VecDeque<(Instant, TailEntry)>,
    dropped: VecDeque<DroppedEntry>,
    /// Number of rows that the owner dropped and the client learned of.
    lost: u64,
}

impl<'a> Outgoing<'a> {
    fn new(tail: &'a Tail, service: &'a QueryService, frames: mpsc::Sender<Message>) -> Self {
        let (waiting, dropped) = (VecDeque::new(), VecDeque::new());
        Self { delay: tail.delay, flags: &tail.flags, service, frames, waiting, dropped, lost: 0 }
    }

    fn push(&mut self, entries: Vec<TailEntry>) {
        let due = Instant::now() + self.delay;
        for entry in entries {
            if self.waiting.len() < DELAYED_MAX {
                self.waiting.push_back((due, entry));
            } else {
                self.drop_entry(entry.labels, entry.entry.ts);
            }
        }
    }

    /// When the next entry may be sent.
    fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(due, _)| *due)
    }

    /// Notes rows that the owner dropped. Their labels are unknown, so each is a dropped entry without labels.
    fn note_lost(&mut self, lost: u64) {
        let news = lost.saturating_sub(self.lost).min(DROPPED_MAX as u64);
        self.lost = lost;
        let now = self.service.clock.now();
        for _ in 0..news {
            self.drop_entry(Labels::empty(), now);
        }
    }

    fn drop_entry(&mut self, labels: Labels, ts: TimestampNs) {
        self.service.metrics.tail_dropped.inc();
        if self.dropped.len() == DROPPED_MAX {
            self.dropped.pop_front();
        }
        self.dropped.push_back(DroppedEntry { labels, ts });
    }

    /// Sends the entries that are due, in frames. Drops those for which no frame is free.
    fn flush(&mut self) {
        let now = Instant::now();
        let due = self.waiting.iter().take_while(|(due, _)| *due <= now).count();
        let mut ready: Vec<TailEntry> = self.waiting.drain(..due).map(|(_, entry)| entry).collect();
        // Entries of one flush are in the order of time.
        ready.sort_by_key(|e| e.entry.ts);
        for entries in ready.chunks(FRAME_ENTRIES_MAX) {
            if let Ok(place) = self.frames.try_reserve() {
                let frame = frame(entries, self.dropped.make_contiguous(), self.flags);
                self.dropped.clear();
                place.send(Message::Text(frame.into()));
                continue;
            }
            for entry in entries {
                self.drop_entry(entry.labels.clone(), entry.entry.ts);
            }
        }
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

/// Encodes one frame: each entry is a stream of its own, in order.
fn frame(entries: &[TailEntry], dropped: &[DroppedEntry], flags: &EncodingFlags) -> String {
    let categorised = flags.categorize_labels();
    let mut out = b"{\"streams\":".to_vec();
    encode::list(&mut out, entries, |out, e| {
        out.extend_from_slice(b"{\"stream\":");
        encode::labels(out, if categorised { &e.stream } else { &e.labels });
        out.extend_from_slice(b",\"values\":[");
        let categories = categorised.then_some((e.entry.metadata.as_slice(), e.entry.parsed.as_slice()));
        encode::entry(out, e.entry.ts, &e.entry.line, categories);
        out.extend_from_slice(b"]}");
    });
    if !dropped.is_empty() {
        out.extend_from_slice(b",\"dropped_entries\":");
        encode::list(&mut out, dropped, |out, d| {
            out.extend_from_slice(b"{\"labels\":");
            encode::labels(out, &d.labels);
            out.extend_from_slice(format!(",\"timestamp\":\"{}\"}}", d.ts).as_bytes());
        });
    }
    flags.write_after(&mut out);
    out.push(b'}');
    String::from_utf8(out).expect("JSON written from text is text")
}

/// Writes frames and pings to the socket until there are no more frames or the client is gone.
async fn write_frames(
    mut sink: SplitSink<WebSocket, Message>,
    mut frames: mpsc::Receiver<Message>,
    service: Arc<QueryService>,
    gone: CancellationToken,
) {
    let _tell_when_dropped = gone.drop_guard();
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            frame = frames.recv() => frame,
            _ = pings.tick() => Some(Message::Ping(Bytes::new())),
        };
        let Some(message) = message else { break };
        if let Message::Text(text) = &message {
            service.metrics.tail_bytes.inc_by(text.len() as u64);
        }
        let is_last = matches!(message, Message::Close(_));
        if sink.send(message).await.is_err() || is_last {
            break;
        }
    }
}

/// Waits until the client closes the connection. Ignores other messages.
async fn until_closed(client: &mut (impl StreamExt<Item = Result<Message, axum::Error>> + Unpin)) {
    while let Some(Ok(message)) = client.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
    }
}

/// Counts one open tail of a tenant until it is dropped.
struct TailSlot<'a> {
    service: &'a QueryService,
    tenant: TenantId,
}

impl<'a> TailSlot<'a> {
    fn take(service: &'a QueryService, tenant: &TenantId, tails_max: usize) -> Option<Self> {
        let mut tails = service.tails.lock();
        let count = tails.entry(tenant.clone()).or_default();
        if tails_max > 0 && *count >= tails_max {
            return None;
        }
        *count += 1;
        service.metrics.tail_active.inc();
        Some(Self { service, tenant: tenant.clone() })
    }
}

impl Drop for TailSlot<'_> {
    fn drop(&mut self) {
        self.service.metrics.tail_active.dec();
        let mut tails = self.service.tails.lock();
        if let Some(count) = tails.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                tails.remove(&self.tenant);
            }
        }
    }
}

/// Counts the streams with entries in a tail, for a metric.
struct StreamCount<'a> {
    service: &'a QueryService,
    seen: HashSet<StreamHash>,
}

impl<'a> StreamCount<'a> {
    fn new(service: &'a QueryService) -> Self {
        Self { service, seen: HashSet::new() }
    }

    fn see(&mut self, labels: &Labels) {
        if self.seen.insert(labels.stream_hash()) {
            self.service.metrics.tail_active_streams.inc();
        }
    }
}

impl Drop for StreamCount<'_> {
    fn drop(&mut self) {
        self.service.metrics.tail_active_streams.sub(i64::try_from(self.seen.len()).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ts: i64, line: &str) -> TailEntry {
        let entry = ResultEntry {
            ts: TimestampNs::from_nanos(ts),
            line: line.as_bytes().to_vec(),
            metadata: vec![("t".to_owned(), "1".to_owned())],
            parsed: Vec::new(),
        };
        let stream = Labels::from_pairs([("app", "web")]);
        TailEntry { labels: Labels::from_pairs([("app", "web"), ("t", "1")]), stream, entry }
    }

    #[test]
    fn frames() {
        let check = |dropped: &[DroppedEntry], flags: &str, expected: &str| {
            assert_eq!(frame(&[entry(5, "x")], dropped, &EncodingFlags::parse(flags)), expected);
        };
        check(&[], "", r#"{"streams":[{"stream":{"app":"web","t":"1"},"values":[["5","x"]]}]}"#);
        check(
            &[DroppedEntry { labels: Labels::from_pairs([("app", "web")]), ts: TimestampNs::from_nanos(7) }],
            "categorize-labels",
            r#"{"streams":[{"stream":{"app":"web"},"values":[["5","x",{"structuredMetadata":{"t":"1"}}]]}],"dropped_entries":[{"labels":{"app":"web"},"timestamp":"7"}],"encodingFlags":["categorize-labels"]}"#,
        );
    }

    #[test]
    fn entries_of_the_history_are_sent_once() {
        let mut sent = AlreadySent::new(&[entry(1, "a"), entry(1, "a"), entry(2, "b")]);
        assert!(sent.take(&entry(1, "a")));
        assert!(sent.take(&entry(1, "a")));
        assert!(!sent.take(&entry(1, "a")), "the third one is new");
        assert!(!sent.take(&entry(1, "b")));
        assert!(sent.take(&entry(2, "b")));
    }
}
