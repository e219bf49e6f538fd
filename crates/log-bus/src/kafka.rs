//! The log on Apache Kafka.
//!
//! ```text
//! append ─▶ flights ─▶ idempotent producer, acks=all (appends.rs) ─▶ topic ─▶ cursors, in assign mode ─▶ fetch (readers.rs)
//! assignment ◀─ member of the group, reads nothing (member.rs)     watermarks, ends, times ◀─ offsets.rs
//! ```
//!
//! * *Durable*: an append is answered when as many brokers have it as the topic's `min.insync.replicas` says. Retries
//!   of librdkafka write nothing twice. An append that fails may be in the log all the same.
//! * *The same log*: its id holds the topic's own id. A topic that was deleted and made anew is another log; a watcher
//!   compares the ids, and so does a read that is out of range before it says so. Then everything
//!   stops ([`LogError::Stopped`]); a process that starts again sees the new log.
//! * *Membership* only says what to own. Reading does not depend on it.
//! * *Bounded*: what waits to be appended, what is fetched ahead of each partition, and how many places of a partition
//!   are read at once are settings.

mod appends;
mod client;
mod config;
mod control;
mod member;
mod metrics;
mod offsets;
mod readers;
mod topic;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use kafka_topic_id::TopicId;
use model::{Offset, PartitionId, TenantId, TimestampNs};
use parking_lot::Mutex;
use prometheus::Registry;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use config::{Compression, GroupProtocol, KafkaConfig};
pub use control::KafkaControl;

use crate::{Assignment, FetchLimits, Fetched, LogBus, LogError, LogId, Watermarks};
use appends::Appends;
use client::{Context, pause, unavailable};
use member::{Member, News};
use metrics::Metrics;
use readers::Readers;
use topic::{Admin, Wanted};

/// The log on Kafka. Dropping it closes its clients; what was appended and not answered may get lost then.
pub struct KafkaLog {
    id: LogId,
    shared: Arc<Shared>,
    appends: Appends,
    membership: Mutex<Membership>,
    /// When members were shut out lately.
    shut_outs: Mutex<Vec<Instant>>,
    watcher: JoinHandle<()>,
}

/// What the watcher needs, too.
struct Shared {
    config: KafkaConfig,
    topic_id: TopicId,
    admin: Arc<Admin>,
    readers: Readers,
    metrics: Arc<Metrics>,
    context: Context,
    partitions: AtomicU32,
    /// Why everything stopped.
    reason: OnceLock<String>,
    stopped: CancellationToken,
}

enum Membership {
    NotYet,
    /// It was shut out, and joins again when the moment is there.
    NotBefore(Instant),
    Joined(Arc<Member>),
    Left,
}

/// How to go on as a member.
enum Joining {
    Member(Arc<Member>),
    NotBefore(Instant),
    Never,
}

/// A member that is shut out more often than this within [`SHUT_OUT_SESSIONS`] sessions has a double.
const SHUT_OUTS_MAX: usize = 2;
const SHUT_OUT_SESSIONS: u32 = 10;

/// The settings, if they can work.
fn checked(config: &KafkaConfig) -> Result<KafkaConfig, LogError> {
    let mut problems = config.problems();
    if !config.is_set() {
        problems.push("brokers: must not be empty".to_owned());
    }
    if problems.is_empty() {
        return Ok(config.clone());
    }
    let reason = problems.iter().map(|problem| format!("kafka.{problem}")).collect::<Vec<_>>().join("; ");
    Err(LogError::Open { folder: format!("Kafka at {:?}", config.brokers), reason })
}

/// What a record that was not delivered means.
fn delivery_error(error: &KafkaError, bytes: usize, bytes_max: usize) -> LogError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
            LogError::TooLarge { bytes, bytes_max }
        }
        Some(RDKafkaErrorCode::QueueFull) => {
            LogError::Unavailable("too many appends wait for Kafka (kafka.queue_bytes_max)".to_owned())
        }
        _ => unavailable("append", error),
    }
}

impl KafkaLog {
    /// Whether the topic exists. Makes nothing.
    ///
    /// # Errors
    /// As [`KafkaLog::connect`].
    pub async fn exists(config: &KafkaConfig) -> Result<bool, LogError> {
        let config = checked(config)?;
        Ok(Admin::new(&config)?.find(&config.topic).await?.is_some())
    }

    /// Connects to Kafka, makes or checks the topic, and reads its id. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`LogError::Open`] when settings or the topic cannot be used, with everything that is wrong;
    /// [`LogError::Unavailable`] when Kafka does not answer.
    pub async fn connect(config: KafkaConfig, metrics: Option<&Registry>) -> Result<Arc<Self>, LogError> {
        let config = checked(&config)?;
        let admin = Admin::new(&config)?;
        let found = admin.ensure(&Wanted::log(&config)).await?;
        let metrics = Metrics::new(metrics).map_err(|error| LogError::Open {
            folder: format!("Kafka at {}", config.brokers),
            reason: format!("metrics: {error}"),
        })?;
        let metrics = Arc::new(metrics);
        metrics.partitions.set(i64::from(found.partitions));
        let context = Context::new("reader", Some(metrics.clone()));
        let readers = Readers::new(&config, context.clone(), metrics.clone())?;
        let appends = Appends::new(&config, &context)?;
        let shared = Arc::new(Shared {
            topic_id: found.id,
            admin,
            readers,
            metrics,
            context,
            partitions: AtomicU32::new(found.partitions),
            reason: OnceLock::new(),
            stopped: CancellationToken::new(),
            config,
        });
        let log = Self {
            id: LogId(format!("kafka-{}-{}", shared.config.topic, found.id)),
            appends,
            membership: Mutex::new(Membership::NotYet),
            shut_outs: Mutex::default(),
            watcher: tokio::spawn(watch(shared.clone())),
            shared,
        };
        tracing::info!(log = log.id.0, partitions = found.partitions, "the log is on Kafka");
        Ok(Arc::new(log))
    }

    fn check(&self, partition: PartitionId) -> Result<(), LogError> {
        self.shared.check_running()?;
        let count = self.partition_count();
        if partition.index() < count { Ok(()) } else { Err(LogError::NoPartition { partition, count }) }
    }

    fn member(&self) -> Result<Joining, LogError> {
        let mut membership = self.membership.lock();
        Ok(match &*membership {
            Membership::Left => Joining::Never,
            Membership::Joined(member) => Joining::Member(member.clone()),
            Membership::NotBefore(moment) if *moment > Instant::now() => Joining::NotBefore(*moment),
            Membership::NotYet | Membership::NotBefore(_) => {
                let context = self.shared.context.of("member");
                let member = Arc::new(Member::join(&self.shared.config, context)?);
                *membership = Membership::Joined(member.clone());
                Joining::Member(member)
            }
        })
    }

    /// A member was shut out: by another process of its name, or, when it slept through its session, by a late word of its
    /// own. So it joins anew after a session, unless that happened too often.
    fn shut_out(&self, member: &Arc<Member>, reason: String) -> Result<(), LogError> {
        let session = self.shared.config.session_timeout.get();
        let mut shut_outs = self.shut_outs.lock();
        shut_outs.retain(|at| at.elapsed() < session * SHUT_OUT_SESSIONS);
        shut_outs.push(Instant::now());
        if shut_outs.len() > SHUT_OUTS_MAX {
            return Err(LogError::Stopped(reason));
        }
        tracing::warn!(reason, "joining the group anew after a session");
        self.join_anew(member, Instant::now() + session);
        Ok(())
    }

    fn join_anew(&self, member: &Arc<Member>, not_before: Instant) {
        let mut membership = self.membership.lock();
        if matches!(&*membership, Membership::Joined(known) if Arc::ptr_eq(known, member)) {
            *membership = Membership::NotBefore(not_before);
        }
    }

    fn count_error(&self, reason: &str) {
        self.shared.metrics.produce_errors.with_label_values(&[reason]).inc();
    }
}

impl Shared {
    fn check_running(&self) -> Result<(), LogError> {
        self.reason.get().map_or(Ok(()), |reason| Err(LogError::Stopped(reason.clone())))
    }

    fn stop(&self, reason: String) {
        tracing::error!("{reason}");
        // The first reason stays.
        let _ = self.reason.set(reason);
        self.stopped.cancel();
    }

    /// Ends early when the log stops meanwhile.
    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T, LogError>> + Send) -> Result<T, LogError> {
        let done = tokio::select! {
            biased;
            () = self.stopped.cancelled() => None,
            done = work => Some(done),
        };
        match done {
            Some(done) => done,
            None => {
                self.check_running()?;
                Err(LogError::Stopped("it was closed".to_owned()))
            }
        }
    }

    /// Makes sure that the topic is still the one that was connected to. False when there is none now.
    async fn check_topic(&self) -> Result<bool, LogError> {
        self.check_running()?;
        let topic = &self.config.topic;
        let Some(found) = self.admin.find(topic).await? else { return Ok(false) };
        if found.id == self.topic_id {
            self.saw_partitions(found.partitions);
        } else {
            let (ours, id) = (self.topic_id, found.id);
            self.stop(format!(
                "topic {topic} was deleted and made anew: its id was {ours} and is {id}; start the process again to use the new one"
            ));
        }
        self.check_running()?;
        Ok(true)
    }

    fn saw_partitions(&self, count: u32) {
        let before = self.partitions.fetch_max(count, Ordering::Relaxed);
        if before < count {
            tracing::info!(before, count, "the log has more partitions");
            self.metrics.partitions.set(i64::from(count));
        }
    }
}

/// So many looks in a row that find no topic say that there is none. One alone may be a broker that has just come up.
const MISSING_MAX: u32 = 3;

/// Looks at the topic from time to time, and when a client met something odd.
async fn watch(shared: Arc<Shared>) {
    let refresh = shared.config.metadata_refresh.get();
    let mut missing = 0;
    let mut failures = 0;
    loop {
        let wait = if failures > 0 { pause(failures).min(refresh) } else { refresh };
        tokio::select! {
            biased;
            () = shared.stopped.cancelled() => return,
            () = shared.context.silent.cancelled() => {
                shared.stop("a Kafka client of this process does nothing any more; start the process again".to_owned());
                return;
            }
            () = shared.context.doubt.notified() => tokio::time::sleep(Duration::from_millis(100)).await,
            () = tokio::time::sleep(wait) => {}
        }
        shared.readers.give_up_idle(readers::IDLE_MAX);
        match shared.check_topic().await {
            Ok(true) => (missing, failures) = (0, 0),
            Ok(false) => {
                missing += 1;
                failures = 1;
                if missing >= MISSING_MAX {
                    let topic = &shared.config.topic;
                    shared.stop(format!("topic {topic} was deleted; start the process again to make a new one"));
                    return;
                }
            }
            Err(LogError::Stopped(_)) => return,
            Err(error) => {
                failures += 1;
                tracing::debug!(%error, "looking at the topic");
            }
        }
    }
}

#[async_trait]
impl LogBus for KafkaLog {
    fn log_id(&self) -> &LogId {
        &self.id
    }

    fn partition_count(&self) -> u32 {
        self.shared.partitions.load(Ordering::Relaxed)
    }

    async fn append(&self, partition: PartitionId, key: &TenantId, payload: Bytes) -> Result<Offset, LogError> {
        self.check(partition)?;
        let bytes_max = self.shared.config.record_bytes_max.as_usize();
        let bytes = payload.len();
        if bytes > bytes_max {
            self.count_error("too_large");
            return Err(LogError::TooLarge { bytes, bytes_max });
        }
        let began = Instant::now();
        match self.appends.append(partition, key, payload).await {
            Ok(offset) => {
                let metrics = &self.shared.metrics;
                metrics.produce_seconds.observe(began.elapsed().as_secs_f64());
                metrics.produced.inc();
                metrics.produced_bytes.inc_by(bytes as u64);
                Ok(Offset::new(offset))
            }
            Err(error) => {
                let code = error.rdkafka_error_code();
                self.count_error(match code {
                    Some(RDKafkaErrorCode::MessageSizeTooLarge) => "too_large",
                    Some(RDKafkaErrorCode::QueueFull) => "queue_full",
                    Some(RDKafkaErrorCode::MessageTimedOut) => "timeout",
                    _ => "refused",
                });
                if code.is_some_and(client::is_doubtful) {
                    self.shared.context.doubt.notify_one();
                }
                self.appends.renew_after(&error);
                self.shared.check_running()?;
                Err(delivery_error(&error, bytes, bytes_max))
            }
        }
    }

    async fn fetch(&self, partition: PartitionId, from: Offset, limits: FetchLimits) -> Result<Fetched, LogError> {
        self.check(partition)?;
        let fetched = self.shared.unless_stopped(self.shared.readers.fetch(partition, from, limits)).await;
        if let Err(LogError::OutOfRange { .. }) = fetched {
            // Said only of the same topic: readers take it for records that retention removed.
            if !self.shared.check_topic().await? {
                return Err(LogError::Unavailable(format!("topic {} does not exist now", self.shared.config.topic)));
            }
        }
        fetched
    }

    async fn watermarks(&self, partition: PartitionId) -> Result<Watermarks, LogError> {
        self.check(partition)?;
        self.shared.readers.offsets().watermarks(partition).await
    }

    async fn ends(&self) -> Result<Vec<Offset>, LogError> {
        self.shared.check_running()?;
        let known = self.partition_count();
        let offsets = self.shared.readers.offsets();
        let (count, ends) =
            tokio::join!(self.shared.admin.partitions(&self.shared.config.topic), offsets.ends(0..known));
        let count = count?.ok_or_else(|| LogError::Unavailable("the topic does not exist now".to_owned()))?;
        let mut ends = ends?;
        self.shared.saw_partitions(count);
        if count > known {
            ends.extend(offsets.ends(known..count).await?);
        }
        Ok(ends)
    }

    async fn offset_at(&self, partition: PartitionId, time: TimestampNs) -> Result<Option<Offset>, LogError> {
        self.check(partition)?;
        self.shared.readers.offsets().at(partition, time).await
    }

    async fn assignment(&self) -> Result<Assignment, LogError> {
        self.shared.check_running()?;
        self.shared
            .unless_stopped(async {
                loop {
                    let member = match self.member()? {
                        Joining::Member(member) => member,
                        Joining::NotBefore(moment) => {
                            tokio::time::sleep_until(moment.into()).await;
                            continue;
                        }
                        Joining::Never => std::future::pending().await,
                    };
                    match member.next().await {
                        News::Assignment(assignment) => {
                            // The group may have seen new partitions before this process did.
                            if let Assignment::Assigned(partitions) = &assignment
                                && let Some(last) = partitions.iter().max()
                            {
                                self.shared.saw_partitions(last.index() + 1);
                            }
                            return Ok(assignment);
                        }
                        News::ShutOut(reason) => self.shut_out(&member, reason)?,
                        News::Silent => self.join_anew(&member, Instant::now()),
                    }
                }
            })
            .await
    }

    async fn failed(&self) -> LogError {
        self.shared.stopped.cancelled().await;
        match self.shared.check_running() {
            Err(error) => error,
            // It was closed.
            Ok(()) => std::future::pending().await,
        }
    }

    async fn leave(&self) -> Result<(), LogError> {
        let before = std::mem::replace(&mut *self.membership.lock(), Membership::Left);
        if let Membership::Joined(member) = before {
            member.leave().await;
            self.shared.metrics.assigned.set(0);
        }
        Ok(())
    }

    async fn commit(&self, partition: PartitionId, offset: Offset) -> Result<(), LogError> {
        self.check(partition)?;
        let offsets = self.shared.readers.offsets();
        let member = match &*self.membership.lock() {
            Membership::Joined(member) => member.consumer(),
            Membership::NotYet | Membership::NotBefore(_) | Membership::Left => None,
        };
        let committed = async {
            match member {
                Some(consumer) => offsets.commit(consumer, partition, offset).await,
                None => offsets.commit(offsets.consumer.clone(), partition, offset).await,
            }
        };
        let late = |_| LogError::Unavailable("commit: no answer in time".to_owned());
        tokio::time::timeout(self.shared.config.request_timeout.get(), committed).await.map_err(late)?
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        self.check(partition)?;
        self.shared.readers.offsets().committed(partition).await
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
        self.watcher.abort();
    }
}
