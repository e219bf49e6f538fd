//! Requests about offsets: bounds, ends, look-ups by time, commits.
//!
//! librdkafka's functions for them block, so they run on blocking threads. Each try has a short time-out: a request to a
//! broker that just died hangs until it times out, although the partition may have a new leader already.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Offset, PartitionId, TimestampNs};
use rdkafka::consumer::{CommitMode, Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use super::client::{Context, blocking, unavailable};
use crate::{LogError, Watermarks};

/// The longest time of one try.
const TRY_MAX: Duration = Duration::from_millis(1500);

/// Makes requests about one topic.
#[derive(Clone)]
pub(super) struct Offsets {
    pub(super) consumer: Arc<StreamConsumer<Context>>,
    pub(super) topic: Arc<str>,
    pub(super) patience: Duration,
}

/// True for errors that may pass if the request is repeated.
fn is_passing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        AllBrokersDown, BrokerTransportFailure, CoordinatorLoadInProgress, CoordinatorNotAvailable, FencedLeaderEpoch,
        InProgress, LeaderNotAvailable, NetworkException, NotCoordinator, NotLeaderForPartition, OffsetNotAvailable,
        OperationTimedOut, ReplicaNotAvailable, RequestTimedOut, Retry, TimedOutQueue, UnknownLeaderEpoch, WaitCache,
        WaitingForCoordinator,
    };
    matches!(
        code,
        AllBrokersDown
            | BrokerTransportFailure
            | CoordinatorLoadInProgress
            | CoordinatorNotAvailable
            | FencedLeaderEpoch
            | InProgress
            | LeaderNotAvailable
            | NetworkException
            | NotCoordinator
            | NotLeaderForPartition
            | OffsetNotAvailable
            | OperationTimedOut
            | ReplicaNotAvailable
            | RequestTimedOut
            | Retry
            | TimedOutQueue
            | UnknownLeaderEpoch
            | WaitCache
            | WaitingForCoordinator
    )
}

/// True for errors by which the group refuses a commit from this process.
fn is_no_member(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        FencedInstanceId, FencedMemberEpoch, IllegalGeneration, RebalanceInProgress, StaleMemberEpoch, UnknownMemberId,
    };
    matches!(
        code,
        FencedInstanceId
            | FencedMemberEpoch
            | IllegalGeneration
            | RebalanceInProgress
            | StaleMemberEpoch
            | UnknownMemberId
    )
}

fn number(partition: PartitionId) -> i32 {
    i32::try_from(partition.index()).unwrap_or(i32::MAX)
}

/// In a look-up by time, this time means the end.
const LATEST: i64 = -1;

impl Offsets {
    /// Repeats a request until it succeeds, fails with a lasting error, or `patience` is used up.
    async fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        request: impl Fn(&Self, Duration) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, LogError> {
        let this = self.clone();
        blocking(move || {
            let began = Instant::now();
            loop {
                let left = this.patience.saturating_sub(began.elapsed());
                match request(&this, left.clamp(Duration::from_millis(50), TRY_MAX)) {
                    Ok(answer) => return Ok(answer),
                    Err(error) => {
                        let passing = error.rdkafka_error_code().is_some_and(is_passing);
                        if !passing || began.elapsed() >= this.patience {
                            return Err(unavailable(what, &error));
                        }
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            }
        })
        .await
    }

    fn list(
        &self,
        partitions: impl Iterator<Item = PartitionId>,
        offset: KafkaOffset,
    ) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(&self.topic, number(partition), offset)?;
        }
        Ok(list)
    }

    /// The bounds of a partition.
    pub(super) async fn watermarks(&self, partition: PartitionId) -> Result<Watermarks, LogError> {
        let (first, end) = self
            .ask("watermarks", move |this, patience| {
                this.consumer.fetch_watermarks(&this.topic, number(partition), patience)
            })
            .await?;
        if first < 0 || end < first {
            return Err(LogError::Unavailable(format!("watermarks of partition {partition} are [{first}, {end})")));
        }
        Ok(Watermarks { first: Offset::new(first), end: Offset::new(end) })
    }

    /// The ends of these partitions, in their order, with one request to each broker.
    pub(super) async fn ends(&self, partitions: std::ops::Range<u32>) -> Result<Vec<Offset>, LogError> {
        let range = partitions.clone();
        let answer = self.ask("ends", move |this, patience| this.at_times(range.clone(), LATEST, patience)).await?;
        let ends: Option<Vec<Offset>> = answer.into_iter().map(|offset| Some(Offset::new(offset?))).collect();
        ends.filter(|ends| ends.len() == partitions.len())
            .ok_or_else(|| LogError::Unavailable("ends: Kafka's answer is incomplete".to_owned()))
    }

    /// The first offset whose append time is `time` or later.
    pub(super) async fn at(&self, partition: PartitionId, time: TimestampNs) -> Result<Option<Offset>, LogError> {
        // Rounded up to Kafka's whole milliseconds. Kafka gives negative times a special meaning, so they become 0.
        let millis = time.nanos().max(0).div_euclid(1_000_000);
        let millis = if time.nanos() > millis * 1_000_000 { millis + 1 } else { millis };
        let range = partition.index()..partition.index() + 1;
        let answer = self.ask("time", move |this, patience| this.at_times(range.clone(), millis, patience)).await?;
        Ok(answer.into_iter().next().flatten().map(Offset::new))
    }

    fn at_times(
        &self,
        partitions: std::ops::Range<u32>,
        millis: i64,
        patience: Duration,
    ) -> KafkaResult<Vec<Option<i64>>> {
        let list = self.list(partitions.map(PartitionId::new), KafkaOffset::from_raw(millis))?;
        if list.count() == 0 {
            return Ok(Vec::new());
        }
        let answer = self.consumer.offsets_for_times(list, patience)?;
        let mut found = Vec::new();
        for element in answer.elements() {
            element.error()?;
            let offset = match element.offset() {
                KafkaOffset::Offset(offset) if offset >= 0 => Some(offset),
                _ => None,
            };
            found.push((element.partition(), offset));
        }
        found.sort_unstable_by_key(|(partition, _)| *partition);
        Ok(found.into_iter().map(|(_, offset)| offset).collect())
    }

    /// Commits through `through`: a member of the group, or a client that is not a member.
    pub(super) async fn commit<C: ConsumerContext + 'static>(
        &self,
        through: Arc<impl Consumer<C> + Send + Sync + 'static>,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<(), LogError> {
        let this = self.clone();
        blocking(move || {
            let list = this.list(std::iter::once(partition), KafkaOffset::Offset(offset.value()));
            match list.and_then(|list| through.commit(&list, CommitMode::Sync)) {
                Ok(()) => Ok(()),
                // A group that has members takes commits from no one else, and none during a rebalance. A commit is
                // only a hint (the head decides), so a refused one is not an error.
                Err(error) if error.rdkafka_error_code().is_some_and(is_no_member) => {
                    tracing::debug!(%partition, %offset, %error, "the group refused a commit");
                    Ok(())
                }
                Err(error) => Err(unavailable("commit", &error)),
            }
        })
        .await
    }

    /// The offset that was committed last.
    pub(super) async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        self.ask("committed", move |this, patience| {
            let list = this.list(std::iter::once(partition), KafkaOffset::Invalid)?;
            let answer = this.consumer.committed_offsets(list, patience)?;
            let elements = answer.elements();
            let Some(element) = elements.first() else { return Ok(None) };
            element.error()?;
            Ok(match element.offset() {
                KafkaOffset::Offset(offset) => Some(Offset::new(offset)),
                _ => None,
            })
        })
        .await
    }
}
