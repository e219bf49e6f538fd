//! The log on Apache Kafka.
//!
//! ```text
//! append ─▶ batches ─▶ idempotent producer, acks=all (appends.rs) ─▶ topic ─▶ cursors, in assign mode ─▶ fetch (readers.rs)
//! assignment ◀─ member of the group, reads nothing (member.rs)     watermarks, ends, times ◀─ offsets.rs
//! ```
//!
//! * *Durable*: an append is acknowledged when as many brokers have the record as the topic's `min.insync.replicas`
//!   demands. Retries of librdkafka write nothing twice. A record whose append failed may still be in the log.
//! * *The same log*: the log's id contains the topic's id. A topic that was deleted and recreated is another log. A
//!   watcher compares the ids, and so does every read that is out of range before it returns that error. If the ids
//!   differ, everything stops ([`LogError::Stopped`]); a restarted process uses the new log.
//! * *Membership* only says which partitions to own. Reads do not depend on it.
//! * *Bounded*: settings limit the appends that wait, the bytes fetched ahead per partition, and the number of cursors
//!   per partition.
//! * *Tasks*: [`KafkaLog::close`] ends the background tasks and waits for them. Only the tasks that serve reader clients
//!   run until the log is dropped.

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
use model::{Offset, PartitionId, Random, SystemRandom, TenantId, TimestampNs};
use parking_lot::Mutex;
use prometheus::Registry;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use runtime::Task;
use tokio_util::sync::CancellationToken;

pub use config::{Compression, GroupProtocol, KafkaConfig};
pub use control::KafkaControl;

use crate::{Assignment, FetchLimits, Fetched, LogBus, LogError, LogId, Watermarks};
use appends::Appends;
use client::{Context, pause, unavailable};
use member::{Member, News};
use metrics::Metrics;
use readers::Readers;
use topic::{Admin, TopicSpec};

/// The log on Kafka. Dropping it closes its clients; records whose append is still pending may get lost then.
pub struct KafkaLog {
    id: LogId,
    connection: Arc<TopicConnection>,
    appends: Appends,
    membership: Mutex<Membership>,
    random: Arc<dyn Random>,
    /// The recent times at which members were shut out.
    shut_outs: Mutex<Vec<Instant>>,
    watcher: Task<()>,
}

/// The part of the log that its watcher uses too.
struct TopicConnection {
    config: KafkaConfig,
    topic_id: TopicId,
    admin: Arc<Admin>,
    readers: Readers,
    metrics: Arc<Metrics>,
    context: Context,
    partitions: AtomicU32,
    /// Why the log stopped for good.
    reason: OnceLock<String>,
    /// Cancelled when the log stopped for good or is closed.
    stopped: CancellationToken,
}

enum Membership {
    NotYet,
    /// The group shut this process out. It joins again at this time.
    NotBefore(Instant),
    Joined(Arc<Member>),
    Left,
}

/// The next step of a process that waits for news of its group.
enum Joining {
    Member(Arc<Member>),
    NotBefore(Instant),
    Never,
}

/// If members are shut out more often than this within [`SHUT_OUT_SESSIONS`] sessions, another process has the same
/// name.
const SHUT_OUTS_MAX: usize = 2;
const SHUT_OUT_SESSIONS: u32 = 10;

/// The longest wait for background tasks when the log is closed.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Returns the settings if they are valid.
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

/// The error to report for a record that was not delivered.
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
    /// Returns whether the topic exists, without creating it.
    ///
    /// # Errors
    /// As [`KafkaLog::connect`].
    pub async fn exists(config: &KafkaConfig) -> Result<bool, LogError> {
        let config = checked(config)?;
        Ok(Admin::new(&config)?.find(&config.topic).await?.is_some())
    }

    /// Connects to Kafka, creates or checks the topic, and reads its id. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`LogError::Open`] with every problem if the settings or the topic cannot be used; [`LogError::Unavailable`] if
    /// Kafka does not answer.
    pub async fn connect(config: KafkaConfig, metrics: Option<&Registry>) -> Result<Arc<Self>, LogError> {
        Self::connect_with(config, metrics, Arc::new(SystemRandom)).await
    }

    /// Like [`KafkaLog::connect`], with the caller's randomness, which names the members of the group.
    ///
    /// # Errors
    /// As [`KafkaLog::connect`].
    pub async fn connect_with(
        config: KafkaConfig,
        metrics: Option<&Registry>,
        random: Arc<dyn Random>,
    ) -> Result<Arc<Self>, LogError> {
        let config = checked(&config)?;
        let admin = Admin::new(&config)?;
        let found = admin.ensure(&TopicSpec::log(&config)).await?;
        let metrics = Metrics::new(metrics).map_err(|error| LogError::Open {
            folder: format!("Kafka at {}", config.brokers),
            reason: format!("metrics: {error}"),
        })?;
        let metrics = Arc::new(metrics);
        metrics.partitions.set(i64::from(found.partitions));
        let context = Context::new("reader", Some(metrics.clone()));
        let readers = Readers::new(&config, context.clone(), metrics.clone())?;
        let appends = Appends::new(&config, &context)?;
        let connection = Arc::new(TopicConnection {
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
            id: LogId(format!("kafka-{}-{}", connection.config.topic, found.id)),
            appends,
            membership: Mutex::new(Membership::NotYet),
            random,
            shut_outs: Mutex::default(),
            watcher: connection.context.tasks.spawn("topic watcher", watch(connection.clone())),
            connection,
        };
        tracing::info!(log = log.id.0, partitions = found.partitions, "the log is on Kafka");
        Ok(Arc::new(log))
    }

    /// Stops the log in this process and waits for its background tasks, but for those that serve reader clients until
    /// the log is dropped. Appends that are still pending fail. A member that has not [left](LogBus::leave) closes its
    /// client: without a name it leaves its group by this, with a name it keeps its partitions until its session ends.
    pub async fn close(&self) {
        self.connection.stopped.cancel();
        self.watcher.abort();
        let context = &self.connection.context;
        context.closed.cancel();
        let before = std::mem::replace(&mut *self.membership.lock(), Membership::Left);
        if let Membership::Joined(member) = before {
            member.close().await;
        }
        if tokio::time::timeout(CLOSE_MAX, context.tasks.finish()).await.is_err() {
            tracing::warn!(tasks = context.tasks.len(), "background tasks of the log on Kafka do not end");
        }
    }

    fn check(&self, partition: PartitionId) -> Result<(), LogError> {
        self.connection.check_running()?;
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
                let context = self.connection.context.of("member");
                let member = Arc::new(Member::join(&self.connection.config, context, self.random.as_ref())?);
                *membership = Membership::Joined(member.clone());
                Joining::Member(member)
            }
        })
    }

    /// Handles a member that the group shut out. Either another process has the same name, or this process was paused
    /// for longer than its session and sent a late request. Since it may be the latter, the process joins again after a
    /// session, unless this has happened too often.
    fn shut_out(&self, member: &Arc<Member>, reason: String) -> Result<(), LogError> {
        let session = self.connection.config.session_timeout.get();
        let mut shut_outs = self.shut_outs.lock();
        shut_outs.retain(|at| at.elapsed() < session * SHUT_OUT_SESSIONS);
        shut_outs.push(Instant::now());
        if shut_outs.len() > SHUT_OUTS_MAX {
            return Err(LogError::Stopped(reason));
        }
        tracing::warn!(reason, "joining the group again after a session");
        self.join_again(member, Instant::now() + session);
        Ok(())
    }

    fn join_again(&self, member: &Arc<Member>, not_before: Instant) {
        let mut membership = self.membership.lock();
        if matches!(&*membership, Membership::Joined(current) if Arc::ptr_eq(current, member)) {
            *membership = Membership::NotBefore(not_before);
        }
    }

    fn count_error(&self, reason: &str) {
        self.connection.metrics.produce_errors.with_label_values(&[reason]).inc();
    }
}

impl TopicConnection {
    fn check_running(&self) -> Result<(), LogError> {
        self.reason.get().map_or(Ok(()), |reason| Err(LogError::Stopped(reason.clone())))
    }

    fn stop(&self, reason: String) {
        tracing::error!("{reason}");
        // If there is a reason already, the first one is kept.
        let _ = self.reason.set(reason);
        self.stopped.cancel();
    }

    /// Runs `work`, but returns early if the log stops meanwhile.
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

    /// Checks that the topic is still the one that this log connected to, and stops the log if it is not. Returns false
    /// if the topic does not exist now.
    async fn check_topic(&self) -> Result<bool, LogError> {
        self.check_running()?;
        let topic = &self.config.topic;
        let Some(found) = self.admin.find(topic).await? else { return Ok(false) };
        if found.id == self.topic_id {
            self.saw_partitions(found.partitions);
        } else {
            let (ours, id) = (self.topic_id, found.id);
            self.stop(format!(
                "topic {topic} was deleted and recreated: its id was {ours} and is now {id}; restart the process to use the new topic"
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

/// Number of checks in a row that must find no topic before it counts as deleted. A single check may have asked a broker
/// that has just started.
const MISSING_MAX: u32 = 3;

/// Checks the topic at an interval, and whenever a client reports an error that may mean a recreated topic.
async fn watch(connection: Arc<TopicConnection>) {
    let refresh = connection.config.metadata_refresh.get();
    let mut missing = 0;
    let mut failures = 0;
    loop {
        let wait = if failures > 0 { pause(failures).min(refresh) } else { refresh };
        tokio::select! {
            biased;
            () = connection.stopped.cancelled() => return,
            () = connection.context.silent.cancelled() => {
                connection.stop("a Kafka client of this process has stopped working; restart the process".to_owned());
                return;
            }
            () = connection.context.doubt.notified() => tokio::time::sleep(Duration::from_millis(100)).await,
            () = tokio::time::sleep(wait) => {}
        }
        connection.readers.drop_idle(readers::IDLE_MAX);
        match connection.check_topic().await {
            Ok(true) => (missing, failures) = (0, 0),
            Ok(false) => {
                missing += 1;
                failures = 1;
                if missing >= MISSING_MAX {
                    let topic = &connection.config.topic;
                    connection.stop(format!("topic {topic} was deleted; restart the process to create a new one"));
                    return;
                }
            }
            Err(LogError::Stopped(_)) => return,
            Err(error) => {
                failures += 1;
                tracing::debug!(%error, "cannot check the topic");
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
        self.connection.partitions.load(Ordering::Relaxed)
    }

    async fn append(&self, partition: PartitionId, key: &TenantId, payload: Bytes) -> Result<Offset, LogError> {
        self.check(partition)?;
        let bytes_max = self.connection.config.record_bytes_max.as_usize();
        let bytes = payload.len();
        if bytes > bytes_max {
            self.count_error("too_large");
            return Err(LogError::TooLarge { bytes, bytes_max });
        }
        let began = Instant::now();
        match self.appends.append(partition, key, payload).await {
            Ok(offset) => {
                let metrics = &self.connection.metrics;
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
                    self.connection.context.doubt.notify_one();
                }
                self.appends.renew_after(&error);
                self.connection.check_running()?;
                Err(delivery_error(&error, bytes, bytes_max))
            }
        }
    }

    async fn fetch(&self, partition: PartitionId, from: Offset, limits: FetchLimits) -> Result<Fetched, LogError> {
        self.check(partition)?;
        let fetched = self.connection.unless_stopped(self.connection.readers.fetch(partition, from, limits)).await;
        if let Err(LogError::OutOfRange { .. }) = fetched {
            // Readers take this error as records removed by retention, so it must be about the same topic.
            if !self.connection.check_topic().await? {
                return Err(LogError::Unavailable(format!(
                    "topic {} does not exist now",
                    self.connection.config.topic
                )));
            }
        }
        fetched
    }

    async fn watermarks(&self, partition: PartitionId) -> Result<Watermarks, LogError> {
        self.check(partition)?;
        self.connection.readers.offsets().watermarks(partition).await
    }

    async fn ends(&self) -> Result<Vec<Offset>, LogError> {
        self.connection.check_running()?;
        let known = self.partition_count();
        let offsets = self.connection.readers.offsets();
        let (count, ends) =
            tokio::join!(self.connection.admin.partitions(&self.connection.config.topic), offsets.ends(0..known));
        let count = count?.ok_or_else(|| LogError::Unavailable("the topic does not exist now".to_owned()))?;
        let mut ends = ends?;
        self.connection.saw_partitions(count);
        if count > known {
            ends.extend(offsets.ends(known..count).await?);
        }
        Ok(ends)
    }

    async fn offset_at(&self, partition: PartitionId, time: TimestampNs) -> Result<Option<Offset>, LogError> {
        self.check(partition)?;
        self.connection.readers.offsets().at(partition, time).await
    }

    async fn assignment(&self) -> Result<Assignment, LogError> {
        self.connection.check_running()?;
        self.connection
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
                                self.connection.saw_partitions(last.index() + 1);
                            }
                            return Ok(assignment);
                        }
                        News::ShutOut(reason) => self.shut_out(&member, reason)?,
                        News::Silent => self.join_again(&member, Instant::now()),
                    }
                }
            })
            .await
    }

    async fn failed(&self) -> LogError {
        self.connection.stopped.cancelled().await;
        match self.connection.check_running() {
            Err(error) => error,
            // The log was closed, which is not a failure.
            Ok(()) => std::future::pending().await,
        }
    }

    async fn leave(&self) -> Result<(), LogError> {
        let before = std::mem::replace(&mut *self.membership.lock(), Membership::Left);
        if let Membership::Joined(member) = before {
            member.leave().await;
            self.connection.metrics.assigned.set(0);
        }
        Ok(())
    }

    async fn commit(&self, partition: PartitionId, offset: Offset) -> Result<(), LogError> {
        self.check(partition)?;
        let offsets = self.connection.readers.offsets();
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
        tokio::time::timeout(self.connection.config.request_timeout.get(), committed).await.map_err(late)?
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        self.check(partition)?;
        self.connection.readers.offsets().committed(partition).await
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.connection.stopped.cancel();
        self.watcher.abort();
    }
}
