//! Membership in the group: only to learn which partitions this process should own (docs/adr/0007-membership.md).
//!
//! The member reads nothing: its partitions are assigned at their end and paused. It leaves by unsubscribing, which
//! also a named (static) member does at once; closing alone would keep a named member's partitions until its
//! session ends, which is what a restart wants.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::PartitionId;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::{Context, blocking, unavailable};
use super::config::{GroupProtocol, KafkaConfig};
use crate::{Assignment, LogError};

/// How long leaving may take until it is taken for done.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// Receives what the group decides.
pub(super) struct MemberContext {
    shared: Context,
    topic: String,
    news: mpsc::UnboundedSender<News>,
    /// What was told to be owned.
    owned: Mutex<BTreeSet<PartitionId>>,
}

enum News {
    Assignment(Assignment),
    /// The member was shut out.
    Fatal(String),
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

    /// The group shut this member out. librdkafka gave its partitions up without a word.
    fn shut_out(&self, reason: String) {
        let lost: Vec<PartitionId> = self.owned.lock().iter().copied().collect();
        self.tell(Assignment::Revoked(lost));
        let _ = self.news.send(News::Fatal(reason));
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
    consumer: Mutex<Option<Arc<StreamConsumer<MemberContext>>>>,
    news: tokio::sync::Mutex<mpsc::UnboundedReceiver<News>>,
    ended: CancellationToken,
    serving: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    group: String,
    client_id: String,
    /// Leaves the group only when told to.
    is_named: bool,
}

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
        let consumer: StreamConsumer<MemberContext> =
            client.create_with_context(context).map_err(|error| unavailable("joining the group", &error))?;
        consumer.subscribe(&[&config.topic]).map_err(|error| unavailable("joining the group", &error))?;
        let consumer = Arc::new(consumer);
        let ended = CancellationToken::new();
        let serving = tokio::spawn(serve(consumer.clone(), ended.clone()));
        Ok(Self {
            consumer: Mutex::new(Some(consumer)),
            news: tokio::sync::Mutex::new(receiver),
            ended,
            serving: tokio::sync::Mutex::new(Some(serving)),
            group: config.group.clone(),
            client_id,
            is_named: !config.instance_id.is_empty() && config.group_protocol == GroupProtocol::Classic,
        })
    }

    /// The next change. Cancel-safe.
    pub(super) async fn next(&self) -> Result<Assignment, LogError> {
        match self.news.lock().await.recv().await {
            Some(News::Assignment(assignment)) => Ok(assignment),
            Some(News::Fatal(reason)) => Err(LogError::Stopped(reason)),
            // The group was left: there is no more news.
            None => std::future::pending().await,
        }
    }

    /// The client, for commits; none when the group was left.
    pub(super) fn consumer(&self) -> Option<Arc<StreamConsumer<MemberContext>>> {
        self.consumer.lock().clone()
    }

    /// Leaves the group; others get its partitions at once.
    pub(super) async fn leave(&self) {
        let began = Instant::now();
        let Some(consumer) = self.consumer.lock().take() else { return };
        if self.is_named {
            // Unsubscribing leaves, closing does not. The request goes out when the partitions were given back, which
            // the serving task does meanwhile.
            consumer.unsubscribe();
            while began.elapsed() < LEAVE_MAX && !self.is_gone(&consumer).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        drop(consumer);
        self.ended.cancel();
        // A member without a name leaves when it is closed, and closing waits until that is done.
        if let Some(serving) = self.serving.lock().await.take() {
            let left = LEAVE_MAX.saturating_sub(began.elapsed()).max(Duration::from_millis(100));
            if tokio::time::timeout(left, serving).await.is_err() {
                tracing::warn!(
                    "the group does not answer; it will notice that this process left when its session ends"
                );
            }
        }
        tracing::info!(seconds = began.elapsed().as_secs_f64(), "left the group");
    }

    /// True when the group does not list this member.
    async fn is_gone(&self, consumer: &Arc<StreamConsumer<MemberContext>>) -> bool {
        let (consumer, group, client_id) = (consumer.clone(), self.group.clone(), self.client_id.clone());
        let listed = blocking(move || {
            if consumer.assignment().is_ok_and(|list| list.count() > 0) {
                return Ok(true);
            }
            let groups = consumer.fetch_group_list(Some(&group), Duration::from_millis(1000));
            let groups = groups.map_err(|error| unavailable("the group", &error))?;
            Ok(groups.groups().iter().any(|g| g.members().iter().any(|member| member.client_id() == client_id)))
        });
        matches!(listed.await, Ok(false))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // First, so that the serving task is the one that closes the client: that blocks.
        drop(self.consumer.lock().take());
        self.ended.cancel();
    }
}

/// Polls the member, which takes part in the group by that.
async fn serve(consumer: Arc<StreamConsumer<MemberContext>>, ended: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = ended.cancelled() => break,
            event = consumer.recv() => match event {
                // A record that came before its partition was paused. It is read elsewhere.
                Ok(_) => {}
                Err(KafkaError::MessageConsumptionFatal(code)) => {
                    let reason = format!("this process is shut out of its group: {code}; is kafka.instance_id given twice?");
                    tracing::error!("{reason}");
                    let context: &Arc<MemberContext> = consumer.context();
                    context.shut_out(reason);
                    ended.cancelled().await;
                    break;
                }
                Err(error) => tracing::debug!(%error, "member"),
            },
        }
    }
    // Closing a member waits for answers of the group.
    let _ = tokio::task::spawn_blocking(move || drop(consumer)).await;
}
