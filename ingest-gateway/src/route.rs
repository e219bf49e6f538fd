//! Which partition a stream goes to.

use std::cmp::Reverse;
use std::hash::Hasher;

use model::{PartitionId, StreamHash, TenantId};

/// The partitions of one tenant. Any set would be right: readers ask all partitions; a small one keeps a tenant's
/// rows together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    partitions: Vec<PartitionId>,
}

impl Route {
    /// `shard_size` of the log's partitions (0: all), chosen by rendezvous hash: when the log grows, a tenant keeps
    /// those it has but for the ones that newcomers win.
    pub(crate) fn new(tenant: &TenantId, partition_count: u32, shard_size: u32) -> Self {
        let mut partitions: Vec<_> = (0..partition_count.max(1)).map(PartitionId::new).collect();
        if shard_size > 0 && shard_size < partition_count {
            partitions.sort_by_cached_key(|partition| Reverse(weight(tenant, *partition)));
            partitions.truncate(shard_size as usize);
            partitions.sort();
        }
        Self { partitions }
    }

    /// Where a stream goes, as an index into [`Route::partitions`].
    pub(crate) fn index_of(&self, stream: StreamHash) -> usize {
        // The high bits: the low ones choose buckets of hash maps.
        ((u128::from(stream.0) * self.partitions.len() as u128) >> 64) as usize
    }

    pub(crate) fn partitions(&self) -> &[PartitionId] {
        &self.partitions
    }
}

fn weight(tenant: &TenantId, partition: PartitionId) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.write(tenant.as_str().as_bytes());
    hasher.write(&[0xff]);
    hasher.write(&partition.index().to_le_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use model::Labels;

    use super::*;

    #[test]
    fn shards_are_stable_and_spread() {
        let tenant = |i: u32| TenantId::new(&format!("tenant-{i}")).unwrap();
        let mut used = HashSet::new();
        for i in 0..50 {
            let small = Route::new(&tenant(i), 16, 3);
            assert_eq!(small, Route::new(&tenant(i), 16, 3));
            used.extend(small.partitions.iter().copied());
            let grown = Route::new(&tenant(i), 17, 3);
            let kept = grown.partitions.iter().filter(|p| small.partitions.contains(p)).count();
            assert!(kept >= 2, "a new partition moves at most one");
        }
        assert_eq!(used.len(), 16);
        for (count, size, expected) in [(4, 0, 4), (4, 9, 4), (1, 1, 1), (4, 2, 2)] {
            assert_eq!(Route::new(&tenant(1), count, size).partitions.len(), expected);
        }
    }

    #[test]
    fn streams_are_spread() {
        let route = Route::new(&TenantId::new("t").unwrap(), 4, 0);
        let mut counts = [0; 4];
        for i in 0..4000 {
            counts[route.index_of(Labels::from_pairs([("i", i.to_string())]).stream_hash())] += 1;
        }
        assert!(counts.iter().all(|c| (800..1200).contains(c)), "{counts:?}");
    }
}
