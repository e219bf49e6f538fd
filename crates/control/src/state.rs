//! The state that a process publishes about itself.

use std::collections::BTreeMap;

use model::{OffsetRange, PartitionId, TenantId};
use serde::{Deserialize, Deserializer, Serialize};

/// A role of a process. A process may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Takes pushes.
    Gateway,
    /// Leads partitions.
    Consumer,
    /// Follows partitions that others lead, in order to answer reads.
    Follower,
    /// Builds blocks for consumers.
    Builder,
    /// Answers queries.
    QueryService,
}

/// The role of a process for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionRole {
    /// It is loading the rows that are not in blocks yet. It does not answer reads.
    Warming,
    /// It has taken the head. It answers reads, and its rows become blocks.
    Leading,
    /// It follows the log and answers reads. Its rows never become blocks.
    Following,
    /// It is giving the partition away, or has done so. It still answers reads. Its rows become blocks until another
    /// process has taken the head.
    Draining,
}

/// The state of one partition in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// The partition.
    pub partition: PartitionId,
    /// The process's role for it.
    pub role: PartitionRole,
    /// The epoch of the head with which the process leads or led. If it only reads, the epoch of the head that it knows.
    pub epoch: u64,
    /// The offsets whose rows are in the process's memory. Other processes see a range that is up to one beat old.
    pub held: OffsetRange,
}

/// The state of a process. When a message is read, missing fields get their defaults and unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// The process's id. It changes with every start; see [`crate::fresh_id`].
    pub id: String,
    /// The process's roles. Unknown roles of later versions are left out when a message is read.
    #[serde(default, deserialize_with = "known_roles")]
    pub roles: Vec<Role>,
    /// The address of its RPC, as `host:port`; RPC and HTTP share a port. `None` if it serves no RPC.
    #[serde(default)]
    pub rpc: Option<String>,
    /// The zone in which it runs. Empty if unknown.
    #[serde(default)]
    pub zone: String,
    /// True if the process is about to end. It still answers for the partitions it lists.
    #[serde(default)]
    pub leaving: bool,
    /// The number of partitions of the log, as far as the process knows. 0 if it does not know.
    #[serde(default)]
    pub partition_count: u32,
    /// The partitions that the process holds, each once, in any order.
    #[serde(default)]
    pub partitions: Vec<PartitionState>,
    /// For gateways: the recent rate of each tenant, in bytes per second.
    #[serde(default)]
    pub rates: BTreeMap<TenantId, u64>,
}

impl ProcessState {
    /// The state of a partition in this process.
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionState> {
        self.partitions.iter().find(|state| state.partition == partition)
    }

    /// True if others should learn at once about the change from `before` to this state. Changes of held ranges and
    /// rates can wait for the next beat.
    pub(crate) fn is_news_after(&self, before: &Self) -> bool {
        let same_place = |(a, b): (&PartitionState, &PartitionState)| {
            (a.partition, a.role, a.epoch) == (b.partition, b.role, b.epoch)
        };
        let same_partitions = self.partitions.len() == before.partitions.len()
            && self.partitions.iter().zip(&before.partitions).all(same_place);
        let others = |s: &Self| (s.leaving, s.partition_count);
        !same_partitions
            || others(self) != others(before)
            || self.roles != before.roles
            || self.rpc != before.rpc
            || self.zone != before.zone
    }
}

/// Reads roles and skips those that this version does not know, so that the rest of the message can still be used.
fn known_roles<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Role>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Named {
        Known(Role),
        #[expect(dead_code, reason = "read only to be skipped")]
        Other(String),
    }
    let named = Vec::<Named>::deserialize(deserializer)?;
    Ok(named.into_iter().filter_map(|role| if let Named::Known(role) = role { Some(role) } else { None }).collect())
}
