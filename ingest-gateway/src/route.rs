//! Which partitions are a tenant's, and which of them a stream goes to.
//!
//! Both are rendezvous hashes: of all candidates those with the largest weight win, and every weight hangs on one
//! candidate only. A candidate that comes or goes therefore moves nothing but what it wins or had. Nothing depends on
//! the choice being the same everywhere or for ever: readers ask all partitions. It only keeps a tenant's rows together.

use std::cmp::Reverse;
use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{PartitionId, StreamHash, TenantId};

/// The partitions of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    partitions: Vec<PartitionId>,
    /// Tells this route from others, for [`Placement`].
    fingerprint: u32,
}

/// Where a stream went last under a route, so that the weights are not computed for each push.
#[derive(Debug, Default)]
pub(crate) struct Placement(AtomicU64);

impl Route {
    /// `shards` (0: all) of the candidates, partition 0 when there are none.
    pub(crate) fn new(tenant: &TenantId, candidates: impl Iterator<Item = PartitionId>, shards: u32) -> Self {
        let mut partitions: Vec<_> = candidates.collect();
        if partitions.is_empty() {
            partitions.push(PartitionId::new(0));
        }
        if shards > 0 && (shards as usize) < partitions.len() {
            partitions.sort_by_cached_key(|partition| Reverse(tenant_weight(tenant, *partition)));
            partitions.truncate(shards as usize);
            partitions.sort();
        }
        let indexes: Vec<u8> = partitions.iter().flat_map(|partition| partition.index().to_le_bytes()).collect();
        // Never that of a placement nobody made yet.
        let fingerprint = xxhash_rust::xxh3::xxh3_64(&indexes) as u32 | 1;
        Self { partitions, fingerprint }
    }

    /// One partition, whatever the tenant.
    pub(crate) fn only(tenant: &TenantId, partition: PartitionId) -> Self {
        Self::new(tenant, std::iter::once(partition), 1)
    }

    /// Where a stream goes, as an index into [`Route::partitions`].
    pub(crate) fn index_of(&self, stream: StreamHash) -> usize {
        let weight = |partition: &PartitionId| mixed(stream.0 ^ mixed(u64::from(partition.index()) + 1));
        let best = self.partitions.iter().enumerate().max_by_key(|(_, partition)| weight(partition));
        best.map_or(0, |(index, _)| index)
    }

    /// As [`Route::index_of`], from memory when the stream was placed under this route before.
    pub(crate) fn place(&self, stream: StreamHash, known: &Placement) -> usize {
        let last = known.0.load(Ordering::Relaxed);
        let index = last as u32 as usize;
        // Two routes of one fingerprint would only leave a stream where it was.
        if last >> 32 == u64::from(self.fingerprint) && index < self.partitions.len() {
            return index;
        }
        let index = self.index_of(stream);
        known.0.store(u64::from(self.fingerprint) << 32 | index as u64, Ordering::Relaxed);
        index
    }

    pub(crate) fn partitions(&self) -> &[PartitionId] {
        &self.partitions
    }
}

fn tenant_weight(tenant: &TenantId, partition: PartitionId) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.write(tenant.as_str().as_bytes());
    hasher.write(&[0xff]);
    hasher.write(&partition.index().to_le_bytes());
    hasher.finish()
}

/// Every bit of the result hangs on every bit of `x` (the finish of MurmurHash3).
fn mixed(mut x: u64) -> u64 {
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use model::Labels;

    use super::*;

    fn tenant(i: u32) -> TenantId {
        TenantId::new(&format!("tenant-{i}")).unwrap()
    }

    fn route(i: u32, count: u32, shards: u32) -> Route {
        Route::new(&tenant(i), (0..count).map(PartitionId::new), shards)
    }

    fn stream(i: u32) -> StreamHash {
        Labels::from_pairs([("i", i.to_string())]).stream_hash()
    }

    #[test]
    fn shards_are_stable_and_spread() {
        let mut used = HashSet::new();
        for i in 0..50 {
            let small = route(i, 16, 3);
            assert_eq!(small, route(i, 16, 3));
            used.extend(small.partitions.iter().copied());
            let kept = |other: Route| small.partitions.iter().filter(|p| other.partitions.contains(p)).count();
            assert!(kept(route(i, 17, 3)) >= 2, "a new partition moves at most one");
            assert_eq!(kept(route(i, 16, 4)), 3, "more shards keep those that were");
            let lost = small.partitions[1];
            let without = (0..16).map(PartitionId::new).filter(|p| *p != lost);
            assert_eq!(kept(Route::new(&tenant(i), without, 3)), 2, "only the lost one is replaced");
        }
        assert_eq!(used.len(), 16);
        for (count, shards, expected) in [(4, 0, 4), (4, 9, 4), (1, 1, 1), (4, 2, 2), (0, 0, 1)] {
            assert_eq!(route(1, count, shards).partitions.len(), expected);
        }
    }

    #[test]
    fn streams_are_spread_and_stay() {
        let (four, five) = (route(0, 4, 0), route(0, 5, 0));
        let (mut counts, mut moved) = ([0; 5], 0);
        for i in 0..4000 {
            let (before, after) = (four.index_of(stream(i)), five.index_of(stream(i)));
            counts[before] += 1;
            moved += u32::from(before != after);
            assert!(before == after || after == 4, "streams move only to the new partition");
        }
        assert!(counts[..4].iter().all(|c| (800..1200).contains(c)), "{counts:?}");
        assert!((600..1000).contains(&moved), "{moved}");
    }

    #[test]
    fn placements_are_those_of_their_route() {
        let routes = [route(0, 4, 0), route(0, 9, 0), route(0, 9, 2), route(0, 1, 0)];
        for i in 0..100 {
            let known = Placement::default();
            for route in routes.iter().chain(&routes) {
                for _ in 0..2 {
                    assert_eq!(route.place(stream(i), &known), route.index_of(stream(i)));
                }
            }
        }
    }
}
