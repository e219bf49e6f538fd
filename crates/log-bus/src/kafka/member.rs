//! Membership in the consumer group. Its only purpose is to learn which partitions this process should own
//! (docs/adr/0007-membership.md).
//!
//! The member reads no records: its partitions are assigned at their end and paused. It leaves by unsubscribing, which
//! takes effect at once even for a named (static) member. If a named member only closes its client, the group keeps its
//! partitions for it until the session ends, which is what a restart needs.
//!
//! librdkafka's main thread can stop for good after the group's coordinator was killed. From then on every call that
//! needs that thread blocks, and the group gives the partitions to others without telling this process. Therefore the
//! member has a thread of its own, every wait for it has a limit, and a client that is silent for too long is replaced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::{PartitionId, Random};
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::client::{Context, blocking, unavailable};
use super::config::{GroupProtocol, KafkaConfig};
use crate::{Assignment, LogError};

/// The longest wait for the group when this process leaves.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// How long the member's thread waits for an event before it checks whether it should end.
const POLL: Duration = Duration::from_millis(100);

/// A client that emits no statistics for this many sessions has stopped working.
const SILENT_SESSIONS: u32 = 3;

/// Receives the group's decisions.
pub(super) struct MemberContext {
    shared: Context,
    topic: String,
    news: mpsc::UnboundedSender<News>,
    /// The partitions of this member, as far as they were reported through `news`.
    owned: Mutex<BTreeSet<PartitionId>>,
}

/// An event in the life of a member.
pub(super) enum News {
    /// The member's partitions changed.
    Assignment(Assignment),
    /// The group shut the member out, for this reason.
    ShutOut(String),
    /// The member's client has stopped working.
    Silent,
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.shared.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.shared.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.shared.error(error, reason);
    }
}

impl MemberContext {
    fn partitions(&self, list: &TopicPartitionList) -> Vec<PartitionId> {
        let ours = list.elements().into_iter().filter(|element| element.topic() == self.topic);
        let mut partitions: Vec<PartitionId> =
            ours.filter_map(|element| u32::try_from(element.partition()).ok()).map(PartitionId::new).collect();
        partitions.sort_unstable();
        partitions
    }

    fn tell(&self, assignment: Assignment) {
        let mut owned = self.owned.lock();
        match &assignment {
            Assignment::Assigned(more) => owned.extend(more),
            Assignment::Revoked(less) => owned.retain(|partition| !less.contains(partition)),
        }
        if let Some(metrics) = &self.shared.metrics {
            metrics.rebalances.inc();
            metrics.assigned.set(owned.len() as i64);
        }
        // The receiver is gone when the log is being closed.
        let _ = self.news.send(News::Assignment(assignment));
    }

    /// Reports that this member is lost. Its partitions belong to others now, although the group did not revoke them.
    fn end(&self, news: News) {
        let lost: Vec<PartitionId> = self.owned.lock().iter().copied().collect();
        self.tell(Assignment::Revoked(lost));
        let _ = self.news.send(news);
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let cooperative = !matches!(consumer.rebalance_protocol(), RebalanceProtocol::Eager);
        let partitions = self.partitions(list);
        let done = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // Assigned at the end, so that librdkafka does not look up committed offsets: the member reads nothing.
            let assigned = list
                .set_all_offsets(KafkaOffset::End)
                .and_then(|()| if cooperative { consumer.incremental_assign(list) } else { consumer.assign(list) });
            self.tell(Assignment::Assigned(partitions));
            assigned.and_then(|()| consumer.pause(list))
        } else {
            if !partitions.is_empty() {
                if consumer.assignment_lost() {
                    tracing::warn!(?partitions, "this process lost its partitions: the group did not hear from it");
                }
                self.tell(Assignment::Revoked(partitions));
            }
            if cooperative { consumer.incremental_unassign(list) } else { consumer.unassign() }
        };
        if let Err(error) = done {
            tracing::warn!(%error, "cannot apply a change of the group's assignment");
        }
    }
}

/// This process as a member of the group.
pub(super) struct Member {
    /// `None` once the member has left.
    consumer: Mutex<Option<Arc<MemberConsumer>>>,
    news: tokio::sync::Mutex<mpsc::UnboundedReceiver<News>>,
    ended: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// True when the member's thread has closed the client.
    is_closed: watch::Receiver<bool>,
    group: String,
    client_id: String,
    /// True for a static member, which stays in the group until it unsubscribes.
    is_named: bool,
    /// Dropped after `consumer`. It ends the member's thread, which therefore drops the client last: closing a client
    /// blocks.
    _end: DropGuard,
}

type MemberConsumer = BaseConsumer<MemberContext>;

impl Member {
    /// Joins the group. [`Member::next`] returns the partitions it gets.
    pub(super) fn join(config: &KafkaConfig, context: Context, random: &dyn Random) -> Result<Self, LogError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // A unique id, by which `unsubscribe` finds this member in the group's list.
        let client_id = format!("millrace-member-{}", random.unique_name());
        let mut client = config.member();
        client.set("client.id", &client_id);
        let context =
            MemberContext { shared: context, topic: config.topic.clone(), news: sender, owned: Mutex::default() };
        let consumer: MemberConsumer =
            client.create_with_context(context).map_err(|error| unavailable("joining the group", &error))?;
        consumer.subscribe(&[&config.topic]).map_err(|error| unavailable("joining the group", &error))?;
        let consumer = Arc::new(consumer);
        let ended = CancellationToken::new();
        let (closed, is_closed) = watch::channel(false);
        let (polled, polled_until) = (consumer.clone(), ended.clone());
        let thread = std::thread::Builder::new()
            .name("kafka member".to_owned())
            .spawn(move || {
                poll(&polled, &polled_until);
                drop(polled);
                closed.send_replace(true);
            })
            .map_err(|error| LogError::Unavailable(format!("joining the group: no thread: {error}")))?;
        let (context, listen_until) = (consumer.context().clone(), ended.clone());
        let silence_max = config.session_timeout.get() * SILENT_SESSIONS;
        consumer.context().shared.tasks.spawn("member pulse", async move {
            let silent = context.shared.pulse().silent(&client, silence_max);
            if listen_until.run_until_cancelled(silent).await.is_some() {
                if let Some(metrics) = &context.shared.metrics {
                    metrics.members_replaced.inc();
                }
                tracing::error!(?silence_max, "the Kafka client of the group has stopped working; replacing it");
                context.end(News::Silent);
            }
        });
        Ok(Self {
            consumer: Mutex::new(Some(consumer)),
            news: tokio::sync::Mutex::new(receiver),
            ended: ended.clone(),
            thread: Mutex::new(Some(thread)),
            is_closed,
            group: config.group.clone(),
            client_id,
            is_named: !config.instance_id.is_empty() && config.group_protocol == GroupProtocol::Classic,
            _end: ended.drop_guard(),
        })
    }

    /// The next event. Cancel-safe.
    pub(super) async fn next(&self) -> News {
        match self.news.lock().await.recv().await {
            Some(news) => news,
            // The member has left the group, so nothing more will happen.
            None => std::future::pending().await,
        }
    }

    /// The client, for commits. `None` once the member has left.
    pub(super) fn consumer(&self) -> Option<Arc<MemberConsumer>> {
        self.consumer.lock().clone()
    }

    /// Leaves the group, which gives its partitions to others at once.
    pub(super) async fn leave(&self) {
        let began = Instant::now();
        let Some(consumer) = self.consumer.lock().take() else { return };
        let left = async {
            if self.is_named {
                self.unsubscribe(&consumer).await;
            }
            self.close_client(consumer).await;
        };
        if tokio::time::timeout(LEAVE_MAX, left).await.is_err() {
            tracing::warn!("the group does not answer; it will notice that this process left when the session ends");
            self.ended.cancel();
        }
        tracing::info!(seconds = began.elapsed().as_secs_f64(), "left the group");
    }

    /// Closes the client without unsubscribing: a named member keeps its partitions until its session ends.
    pub(super) async fn close(&self) {
        let Some(consumer) = self.consumer.lock().take() else { return };
        if tokio::time::timeout(LEAVE_MAX, self.close_client(consumer)).await.is_err() {
            tracing::warn!("the Kafka client of the group does not close");
            self.ended.cancel();
        }
    }

    /// Ends the member's thread, which closes the client. An unnamed member leaves its group by this, and closing waits
    /// until it has left.
    async fn close_client(&self, consumer: Arc<MemberConsumer>) {
        let _ = blocking(move || {
            drop(consumer);
            Ok(())
        })
        .await;
        self.ended.cancel();
        let _ = self.is_closed.clone().wait_for(|closed| *closed).await;
        if let Some(thread) = self.thread.lock().take() {
            // The thread has nothing left to do.
            let _ = thread.join();
        }
    }

    /// Leaves the group as a named member, which closing alone does not do. librdkafka sends the request after the
    /// member's thread has given the partitions back. Waits until the group no longer lists this member.
    async fn unsubscribe(&self, consumer: &Arc<MemberConsumer>) {
        let asked = consumer.clone();
        let _ = blocking(move || {
            asked.unsubscribe();
            Ok(())
        })
        .await;
        loop {
            let (consumer, group, client_id) = (consumer.clone(), self.group.clone(), self.client_id.clone());
            let listed = blocking(move || {
                if consumer.assignment().is_ok_and(|list| list.count() > 0) {
                    return Ok(true);
                }
                let groups = consumer.fetch_group_list(Some(&group), Duration::from_millis(1000));
                let groups = groups.map_err(|error| unavailable("the group", &error))?;
                Ok(groups.groups().iter().any(|g| g.members().iter().any(|member| member.client_id() == client_id)))
            });
            if matches!(listed.await, Ok(false)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Serves the member's client until `ended`. A member that was shut out is only kept until then.
fn poll(consumer: &MemberConsumer, ended: &CancellationToken) {
    let mut is_shut_out = false;
    while !ended.is_cancelled() {
        if is_shut_out {
            std::thread::sleep(POLL);
            continue;
        }
        match consumer.poll(POLL) {
            // A record may arrive before its partition is paused. Readers fetch it themselves.
            None | Some(Ok(_)) => {}
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                let reason = format!(
                    "the consumer group shut this process out: {code}; check that no other process has the same \
                     kafka.instance_id"
                );
                tracing::error!("{reason}");
                consumer.context().end(News::ShutOut(reason));
                is_shut_out = true;
            }
            Some(Err(error)) => tracing::debug!(%error, "the Kafka client of the group reported an error"),
        }
    }
}
