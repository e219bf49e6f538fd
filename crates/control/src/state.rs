//! What a process tells about itself.

use std::collections::BTreeMap;

use model::{OffsetRange, PartitionId, TenantId};
use serde::{Deserialize, Deserializer, Serialize};

/// What a process does. One may do several things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Takes pushes.
    Gateway,
    /// Leads partitions.
    Consumer,
    /// Follows partitions that others lead, for reads.
    Follower,
    /// Compacts blocks.
    Builder,
    /// Answers queries.
    QueryService,
}

/// How a process stands to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionRole {
    /// It reads what is not in blocks yet, and answers for nothing.
    Warming,
    /// It has taken the head: it answers, and makes blocks.
    Leading,
    /// It reads along and answers, and never makes blocks.
    Following,
    /// It gave the partition away: it still answers, and makes blocks no more.
    Draining,
}

/// One partition of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Which one.
    pub partition: PartitionId,
    /// How the process stands to it.
    pub role: PartitionRole,
    /// The epoch of the head under which it leads or led; of the head it knows when it only reads.
    pub epoch: u64,
    /// The offsets whose rows are in its memory. Up to a beat old when others read it.
    pub held: OffsetRange,
}

/// All that a process tells about itself. Fields that a message lacks have their default; those it has besides are
/// not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// Which process. One that restarts has another id, see [`crate::fresh_id`].
    pub id: String,
    /// What it does. Roles of later versions are left out when a message is read.
    #[serde(default, deserialize_with = "known_roles")]
    pub roles: Vec<Role>,
    /// Where its RPC is reached, as `host:port`; the port is that of its HTTP. None when it serves no RPC.
    #[serde(default)]
    pub rpc: Option<String>,
    /// Where it runs; empty when that was not told.
    #[serde(default)]
    pub zone: String,
    /// It is about to end. It still answers for the partitions it names.
    #[serde(default)]
    pub leaving: bool,
    /// How many partitions the log has, as far as it knows; 0 when it does not.
    #[serde(default)]
    pub partition_count: u32,
    /// What it holds, in any order, each partition once.
    #[serde(default)]
    pub partitions: Vec<PartitionState>,
    /// Of gateways: bytes per second taken lately, by tenant.
    #[serde(default)]
    pub rates: BTreeMap<TenantId, u64>,
}

impl ProcessState {
    /// What it says of a partition.
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionState> {
        self.partitions.iter().find(|state| state.partition == partition)
    }

    /// Whether others should hear at once of the step from `before` to this: something other than held ranges and
    /// rates changed.
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

/// Roles that this version does not know are no reason to forget the process.
fn known_roles<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Role>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Named {
        Known(Role),
        #[expect(dead_code, reason = "read only to be left out")]
        Other(String),
    }
    let named = Vec::<Named>::deserialize(deserializer)?;
    Ok(named.into_iter().filter_map(|role| if let Named::Known(role) = role { Some(role) } else { None }).collect())
}
