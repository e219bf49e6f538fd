//! Membership in the group: only to learn which partitions this process should own (docs/adr/0007-membership.md).
//!
//! The member reads nothing: its partitions are assigned at their end and paused. It leaves by unsubscribing, which
//! also a named (static) member does at once; closing alone would keep a named member's partitions until its
//! session ends, which is what a restart wants.
//!
//! librdkafka's own thread has been seen to stop for good after its coordinator was killed; every call that asks it
//! something blocks from then on, and the group gives the partitions to others without a word here. So the member has a
//! thread of its own, nobody waits for it without a limit, and a client that is silent for long is replaced by a new one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::PartitionId;
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

/// How long leaving may take until it is taken for done.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// How long the member's thread may wait for an event before it looks whether it should end.
const POLL: Duration = Duration::from_millis(100);

/// A client that gives no statistics for so many sessions does nothing any more.
const SILENT_SESSIONS: u32 = 3;

/// Receives what the group decides.
pub(super) struct MemberContext {
    shared: Context,
    topic: String,
    news: mpsc::UnboundedSender<News>,
    /// What was told to be owned.
    owned: Mutex<BTreeSet<PartitionId>>,
}

/// What a member learns.
pub(super) enum News {
    /// It should own other partitions.
    Assignment(Assignment),
    /// The group shut it out.
    ShutOut(String),
    /// Its client does nothing any more.
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
        // Nobody listens any more when the log is being closed.
        let _ = self.news.send(News::Assignment(assignment));
    }

    /// This member is of no use any more, and was not told that its partitions are others' now.
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
            // At the end: nobody asks for what was committed, since nothing is read here.
            let assigned = list
                .set_all_offsets(KafkaOffset::End)
                .and_then(|()| if cooperative { consumer.incremental_assign(list) } else { consumer.assign(list) });
            self.tell(Assignment::Assigned(partitions));
            assigned.and_then(|()| consumer.pause(list))
        } else {
            if !partitions.is_empty() {
                if consumer.assignment_lost() {
                    tracing::warn!(?partitions, "the group gave partitions to others: this process was not heard of");
                }
                self.tell(Assignment::Revoked(partitions));
            }
            if cooperative { consumer.incremental_unassign(list) } else { consumer.unassign() }
        };
        if let Err(error) = done {
            tracing::warn!(%error, "taking part in the group");
        }
    }
}

/// This process in the group.
pub(super) struct Member {
    /// None once the group was left.
    consumer: Mutex<Option<Arc<MemberConsumer>>>,
    news: tokio::sync::Mutex<mpsc::UnboundedReceiver<News>>,
    ended: CancellationToken,
    /// True when the member's thread has closed the client.
    is_closed: watch::Receiver<bool>,
    group: String,
    client_id: String,
    /// Leaves the group only when told to.
    is_named: bool,
    _end: DropGuard,
}

type MemberConsumer = BaseConsumer<MemberContext>;

impl Member {
    /// Joins the group. What it gets is told by [`Member::next`].
    pub(super) fn join(config: &KafkaConfig, context: Context) -> Result<Self, LogError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // Named for this member alone, so that it can be found among the group's members.
        let client_id = format!("millrace-member-{}", uuid::Uuid::new_v4().simple());
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
        std::thread::Builder::new()
            .name("kafka member".to_owned())
            .spawn(move || {
                poll(&polled, &polled_until);
                drop(polled);
                closed.send_replace(true);
            })
            .map_err(|error| LogError::Unavailable(format!("joining the group: no thread: {error}")))?;
        let (context, listen_until) = (consumer.context().clone(), ended.clone());
        let silence_max = config.session_timeout.get() * SILENT_SESSIONS;
        tokio::spawn(async move {
            let silent = context.shared.pulse().silent(&client, silence_max);
            if listen_until.run_until_cancelled(silent).await.is_some() {
                if let Some(metrics) = &context.shared.metrics {
                    metrics.members_replaced.inc();
                }
                tracing::error!(
                    ?silence_max,
                    "the client that takes part in the group does nothing any more; making a new one"
                );
                context.end(News::Silent);
            }
        });
        Ok(Self {
            consumer: Mutex::new(Some(consumer)),
            news: tokio::sync::Mutex::new(receiver),
            ended: ended.clone(),
            is_closed,
            group: config.group.clone(),
            client_id,
            is_named: !config.instance_id.is_empty() && config.group_protocol == GroupProtocol::Classic,
            _end: ended.drop_guard(),
        })
    }

    /// The next change. Cancel-safe.
    pub(super) async fn next(&self) -> News {
        match self.news.lock().await.recv().await {
            Some(news) => news,
            // The group was left: there is no more news.
            None => std::future::pending().await,
        }
    }

    /// The client, for commits; none when the group was left.
    pub(super) fn consumer(&self) -> Option<Arc<MemberConsumer>> {
        self.consumer.lock().clone()
    }

    /// Leaves the group; others get its partitions at once.
    pub(super) async fn leave(&self) {
        let began = Instant::now();
        let Some(consumer) = self.consumer.lock().take() else { return };
        let left = async {
            if self.is_named {
                self.unsubscribe(&consumer).await;
            }
            let _ = blocking(move || {
                drop(consumer);
                Ok(())
            })
            .await;
            self.ended.cancel();
            // A member without a name leaves when it is closed, and closing waits until that is done.
            let _ = self.is_closed.clone().wait_for(|closed| *closed).await;
        };
        if tokio::time::timeout(LEAVE_MAX, left).await.is_err() {
            tracing::warn!("the group does not answer; it will notice that this process left when its session ends");
            self.ended.cancel();
        }
        tracing::info!(seconds = began.elapsed().as_secs_f64(), "left the group");
    }

    /// Unsubscribing leaves, closing does not. The request goes out when the partitions were given back, which the
    /// member's thread does meanwhile. Waits until the group does not list this member.
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

impl Drop for Member {
    fn drop(&mut self) {
        // Whoever drops the client last closes it, and that blocks.
        if let Some(consumer) = self.consumer.lock().take() {
            std::thread::spawn(move || drop(consumer));
        }
    }
}

/// Takes part in the group, until told to end.
fn poll(consumer: &MemberConsumer, ended: &CancellationToken) {
    while !ended.is_cancelled() {
        match consumer.poll(POLL) {
            // A record came before its partition was paused. It is read elsewhere.
            None | Some(Ok(_)) => {}
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                let reason =
                    format!("this process is shut out of its group: {code}; is kafka.instance_id given twice?");
                tracing::error!("{reason}");
                consumer.context().end(News::ShutOut(reason));
                return;
            }
            Some(Err(error)) => tracing::debug!(%error, "member"),
        }
    }
}
